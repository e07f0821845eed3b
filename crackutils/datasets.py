"""The images of a profile, an index that describes each of them, and functions that load them."""

import contextlib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crackutils import config, images
from crackutils.files import explain_write_errors, lock_file, name_some, printable, progress, replacing_folder
from crackutils.folders import find_pictures
from crackutils.images import COLOUR, DECODING, GREY

_INDEXING = 2  # raise it when the choice of files or the columns of the index change
_UNREADABLE = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")  # characters that a CSV file does not preserve
_INDEX = ("index.csv", "left_out.csv", "notes.csv", "grey.npy", "colour.npy", "state.json")
_COLUMNS = ["file", "label", "number", "bytes", "sha256", "width", "height", "mode", "phash"]  # of an index
_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"  # as cameras and phones name their pictures
PHOTO_TILE = rf"(?!{_DATE}-)(\d{{1,18}})-\d{{1,4}}(?:_\d+)?\.[^/]*"  # a name as in SDNET2018
LEAST = 3  # usable images of each class: one for each part of a split


def sources() -> dict[str, dict[str, Any]]:
    """Return the entries of `data/sources.toml` by name."""
    return tomllib.loads((config.ROOT / "data" / "sources.toml").read_text("utf-8"))


def raw_folder(source: str) -> Path:
    """Folder that holds the images of a source, in `Negative/` and `Positive/`."""
    return config.data_dir() / "raw" / source


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images of a profile, decoded once and described.

    The index has a row per usable image: file, label (0 Negative, 1 Positive), number, bytes, sha256, width, height
    (pixels as seen, after EXIF rotation), mode (Pillow's name), phash (64-bit difference hash, 16 hex digits).
    """

    profile: config.Profile  # the profile it was loaded for
    folder: Path  # folder that the `file` column is relative to
    index: pd.DataFrame
    left_out: pd.DataFrame  # file and reason of every file that is not used
    grey: np.ndarray  # uint8 (n, 128, 128), grey thumbnails in index order
    colour: np.ndarray  # uint8 (n, 16, 16, 3), RGB thumbnails in index order
    labels: str = config.LABELS[0]  # "given", or "corrected" where the index holds the labels of `label_verdicts`

    @cached_property
    def given(self) -> np.ndarray:
        """The labels by folder, int (n,), without corrections; splits are made with them."""
        return self.index["file"].str.startswith(f"{config.CLASSES[1]}/").to_numpy().astype(int)

    @cached_property
    def sha256(self) -> str:
        """Hash of all file names and contents, independent of where the images came from."""
        lines = (self.index["file"] + "\t" + self.index["sha256"]).sort_values()
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def cache(self) -> Path:
        """Folder of the caches that are computed from these images."""
        return config.data_dir() / "cache" / f"{self.profile.source}-{self.sha256[:12]}"

    @cached_property
    def cuts(self) -> pd.DataFrame:
        """The photo and place of each image, a row per image in index order.

        Columns: photo (number, -1 if unknown), and for synthetic images x, y (left, top, pixels) and the other ones of
        `patches.csv`. Without that table, the photo is taken from names like SDNET2018's PHOTO-TILE.jpg, if nine images
        in ten have such names and there are several photos. Dates do not count as photos. Raises CrackutilsError for a
        `patches.csv` that is not such a table.
        """
        table = self.folder / "patches.csv"
        try:
            cuts = pd.read_csv(table).drop_duplicates("file")
            number = pd.to_numeric(cuts["photo"], "coerce")
            named = cuts["photo"].notna() & (number.isna() | (number % 1 != 0) | (number.abs() >= 2**53))
            number = number.mask(cuts["photo"].notna(), pd.factorize(cuts["photo"])[0]) if named.any() else number
            cuts = cuts.assign(photo=number, **{at: pd.to_numeric(cuts[at], "coerce") for at in {"x", "y"} & set(cuts)})
        except (UnicodeError, ValueError, KeyError):
            why = f"{config.display_path(table)} has not the columns file and photo, in UTF-8, with commas"
            raise config.CrackutilsError(f"{why}. Correct it, or give it another name.") from None
        except OSError:  # there is none
            found = self.index["file"].str.extract(f"/{PHOTO_TILE}$", expand=False)
            known = self.profile.source == "sdnet" or (found.notna().mean() >= 0.9 and len(found.dropna().unique()) > 1)
            return self.index[["file"]].assign(photo=found.fillna(-1).astype(int) if known else -1)
        cuts = self.index[["file"]].merge(cuts, how="left", on="file")
        return cuts.assign(photo=cuts["photo"].fillna(-1).astype(int))

    def read(self, row: int, size: int | None = None) -> np.ndarray:
        """Decode the image in a row of the index, as `read_image` does; CrackutilsError if it cannot be read."""
        file = self.folder / self.index["file"].iloc[row]
        try:
            return images.read_image(file, size)
        except images.ImageError as error:
            raise config.CrackutilsError(f"{config.display_path(file)} {error}. Restore or fetch it again.") from error

    def pixels(self, size: int) -> images.Rows:
        """Return all images at one size: uint8 (n, size, size, 3), read from a cache that is made on first use."""
        file = self.cache / f"pixels-{size}.v{DECODING}.npy"
        if not file.exists():
            n, part = len(self.index), file.with_suffix(".part")  # a fixed name: the next call overwrites it
            file.parent.mkdir(parents=True, exist_ok=True)
            # written, not memory-mapped: on a full disk a map would end the process
            with explain_write_errors(file), lock_file(file.with_suffix(".lock")):
                with open(part, "wb") as out, ThreadPoolExecutor(os.cpu_count()) as pool:
                    images.begin_rows(out, n, size, size, 3)
                    decoded = pool.map(lambda row: self.read(row, size), range(n))
                    out.writelines(image.tobytes() for image in progress(decoded, f"decoding at {size} px", n))
                os.replace(part, file)
        return images.Rows(file)


def load(profile: config.Profile, labels: str = config.LABELS[0]) -> Dataset:
    """Return the images of a profile; index their files first if needed.

    `labels` is "given" (by the folders) or "corrected" (by `label_verdicts`; ambiguous images keep the given label).
    Raises CrackutilsError if the source is missing or has too few images, or if corrected labels do not exist for it.
    """
    config.choose("LABELS", labels, config.LABELS)
    folder = raw_folder(profile.source)
    how = f"make data{'' if profile.source == 'metu' else f' SOURCE={profile.source}'}"
    if not all((folder / name).is_dir() for name in config.CLASSES):
        entry = sources()[profile.source]
        remedy = f"Run {how} FROM=<your archive or folder>" + f", or {how} to download them" * ("addresses" in entry)
        remedy = f"Run {how}, which draws them" if "seed" in entry else remedy
        raise config.CrackutilsError(f"PROFILE={profile.name} needs the images of {entry['name']}. {remedy}.")
    index, left_out, grey, colour = read_index(profile.source, folder)
    keep = np.ones(len(index), bool)
    if profile.numbers:
        keep = index["number"].between(*profile.numbers).to_numpy()
        left_out = left_out[left_out["file"].map(_number).between(*profile.numbers)].reset_index(drop=True)
    there = pd.concat([index.loc[keep, "file"], left_out["file"]]).str.split("/").str[0].value_counts()
    for name in config.CLASSES:
        usable = int((index.loc[keep, "label"] == config.CLASSES.index(name)).sum())
        if there.get(name, 0) < profile.per_class or usable < LEAST:
            want = f"{profile.per_class:,} images" if profile.per_class else f"at least {LEAST} usable images"
            unusable = there.get(name, 0) - usable
            has = f"but {config.display_path(folder)} has {usable:,}" + f" and {unusable:,} left out" * bool(unusable)
            remedy = f"Choose a smaller PROFILE, or run {how} FROM=<the whole archive>."
            remedy = remedy if profile.per_class else f"Add images, and run {how} FROM=<folder that holds them all>."
            raise config.CrackutilsError(f"PROFILE={profile.name} needs {want} in {name}/, {has}. {remedy}")
    if not keep.all():  # whole, the thumbnails stay on disk
        index, grey, colour = index[keep].reset_index(drop=True), grey[keep], colour[keep]
    ds = Dataset(profile, folder, index, left_out, grey, colour, labels)
    return ds if labels == config.LABELS[0] else _correct_labels(ds)


def _correct_labels(ds: Dataset) -> Dataset:
    if not len(table := label_verdicts(ds)):
        why = f"LABELS={ds.labels} needs checked labels, which PROFILE={ds.profile.name} does not have"
        raise config.CrackutilsError(f"{why}. Leave LABELS out.")
    sure = table[table["verdict"] != "ambiguous"]
    index = ds.index.assign(label=ds.given)
    index.loc[sure["row"], "label"] = (sure["verdict"] == "crack").astype(int).to_numpy()
    return replace(ds, index=index)


def open_folder(folder: Path) -> Dataset:
    """Return the images of any folder with Negative/ and Positive/; they are not copied.

    Raises CrackutilsError if a class has no usable image.
    """
    source = f"folder-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]}"
    index, left_out, grey, colour = read_index(source, folder)
    if missing := [name for label, name in enumerate(config.CLASSES) if not (index["label"] == label).any()]:
        raise config.CrackutilsError(f"{folder / missing[0]} holds no usable image. Add at least one.")
    return Dataset(config.Profile(folder.name, str(folder), source), folder, index, left_out, grey, colour)


def label_verdicts(ds: Dataset) -> pd.DataFrame:
    """Return the verdicts of the label audit, for labels that are or may be wrong: `data/audit/*_labels.csv`.

    A row per image: row (of the index), file, label (as given), verdict (crack, no crack or ambiguous) and reason.
    Raises CrackutilsError if the content of an image differs from the audited one.
    """
    if not (file := config.AUDIT / f"{ds.profile.source}_labels.csv").is_file():
        return pd.DataFrame({name: [] for name in ("row", "file", "label", "verdict", "reason")})
    here = ds.index[["file", "sha256"]].reset_index(names="row")
    table = here.merge(pd.read_csv(file), on="file", suffixes=("", "_seen"))
    if len(other := table[table["sha256"] != table["sha256_seen"]]):
        why = f"{len(other)} images (first: {other['file'].iloc[0]}) are not those of {config.display_path(file)}"
        raise config.CrackutilsError(f"{why}. Fetch the published archive with make data.")
    return table[["row", "file", "label", "verdict", "reason"]]


def head(ds: Dataset, count: int) -> Dataset:
    """Return the first `count` images of each class in index order, or all if there are fewer."""
    rows = np.sort(ds.index.groupby("label").head(count).index.to_numpy())
    if len(rows) == len(ds.index):
        return ds
    return replace(ds, index=ds.index.iloc[rows].reset_index(drop=True), grey=ds.grey[rows], colour=ds.colour[rows])


def from_files(folder: Path, files: Sequence[str], labels: Sequence[int]) -> Dataset:
    """Return files (absolute, or relative to `folder`) as a dataset for the computation of features; writes nothing.

    The index has the columns of `load`, with these labels (0 or 1). `grey` and `colour` are empty, and `Dataset.given`
    has no meaning, because the files need not lie in class folders.
    """
    index, left_out, _, grey, colour = _describe_all(folder, files, labels)
    return Dataset(config.profile("own"), folder, index, left_out, grey[:0], colour[:0])


def find_row(ds: Dataset, file: str) -> int:
    """Return the row of a file such as Positive/00100.jpg; CrackutilsError if it is not in the index."""
    rows = ds.index.index[ds.index["file"] == file]
    if len(rows) != 1:
        why = f"IMAGE={file} is not among the images of {ds.profile.name}"
        raise config.CrackutilsError(f"{why}. Write it like {ds.index['file'].iloc[0]}.")
    return int(rows[0])


def _number(file: str) -> int:
    """Return the number at the beginning of a file's name, -1 if there is none."""
    digits = re.match(r"\d{1,18}(?!\d)", file.rsplit("/", 1)[-1])  # longer ones are no numbers, and fit no int64
    return int(digits[0]) if digits else -1


def read_index(source: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Return index, left_out, grey and colour of a source, as in `Dataset`; print which files are left out or noted.

    They are read from disk. If the name, size or time of any file has changed, they are first computed again.
    """
    files, passed = _find_files(folder)
    state = hashlib.sha256(f"{DECODING} {_INDEXING} {passed}".encode("utf-8", "backslashreplace"))
    for file in files:
        with contextlib.suppress(OSError):  # a link to nothing
            found = os.stat(folder / file)
            file = f"{file}\t{found.st_size}\t{found.st_mtime_ns}"
        state.update(f"{file}\n".encode())
    stamp = (home := config.data_dir() / "index" / source) / "state.json"
    made = json.dumps({"state": state.hexdigest()})
    if not all((home / name).is_file() for name in _INDEX) or stamp.read_text("utf-8", "replace") != made:
        labels = [config.CLASSES.index(file.split("/")[0]) for file in files]
        watch = partial(progress, what="indexing", total=len(files))
        index, left_out, notes, grey, colour = _describe_all(folder, files, labels, watch)
        left_out = pd.concat([left_out, pd.DataFrame(passed, columns=list(left_out))], ignore_index=True)
        with replacing_folder(home) as work:
            for name, table in (("index", index), ("left_out", left_out), ("notes", notes)):
                table.to_csv(work / f"{name}.csv", index=False, lineterminator="\n")
            np.save(work / "grey.npy", grey)
            np.save(work / "colour.npy", colour)
            (work / stamp.name).write_text(made, "utf-8")
    text = {"file": str, "sha256": str, "mode": str, "phash": str, "reason": str}
    names = ("index", "left_out", "notes")
    index, left_out, notes = (pd.read_csv(home / f"{n}.csv", dtype=text, keep_default_na=False) for n in names)
    for what, table in (("left out", left_out), ("noted", notes)):
        if len(table):
            print(f"{printable(config.display_path(folder))}, {what}: {_count_reasons(table)}")
    return index, left_out, *(np.load(home / f"{name}.npy", mmap_mode="r") for name in ("grey", "colour"))


def _find_files(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the pictures in the class folders, in index order, and the files that are skipped, with reasons."""
    files, passed = [], []
    for name in config.CLASSES:
        pictures, left_out = find_pictures(folder / name)
        for file in sorted((p.relative_to(folder).as_posix() for p in pictures), key=lambda f: (_number(f), f)):
            if _UNREADABLE.search(file):
                passed.append((printable(file), "has a name that some programs cannot read, so rename it"))
            else:
                files.append(file)
        for reason, others in left_out.items():
            there = () if reason in ("hidden", "system files") else others
            passed += [(printable(f"{name}/{Path(other).as_posix()}"), reason) for other in there]
    return files, passed


def _count_reasons(table: pd.DataFrame) -> str:
    """Return reasons with counts and file names, the most frequent first; reasons of one kind are counted together."""
    kinds = table.iloc[:, 1].str.replace(r" \(.*\)|(?<=of its )\d+ |: \d+%.*|, [\d.]+%.*", "", regex=True)
    counts = kinds.value_counts()
    said = [f"{kind}: {n:,} ({name_some(table['file'][kinds == kind])})" for kind, n in counts.head(5).items()]
    return "; ".join(said) + (f"; other reasons: {counts.iloc[5:].sum():,}" if len(counts) > 5 else "")


def _describe_all(
    folder: Path, files: Sequence[str], labels: Sequence[int], watch: Callable[[Iterator], Iterator] = iter
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Return index, left_out, notes (file, note), grey and colour of files, as in `Dataset`."""
    rows, left_out, notes = [], [], []
    grey = np.empty((len(files), GREY, GREY), np.uint8)
    colour = np.empty((len(files), COLOUR, COLOUR, 3), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        described = watch(pool.map(lambda file: _describe(folder / file), files))
        for file, label, found in zip(files, labels, described, strict=True):
            if isinstance(found, str):
                left_out.append((file, found))
                continue
            columns, grey[len(rows)], colour[len(rows)], note = found
            rows.append((file, label, _number(file), *columns))
            notes += [(file, note)] if note else []
    tables = ((rows, _COLUMNS), (left_out, ["file", "reason"]), (notes, ["file", "note"]))
    return *(pd.DataFrame(content, columns=names) for content, names in tables), grey[: len(rows)], colour[: len(rows)]


def _describe(path: Path) -> tuple[tuple[Any, ...], np.ndarray, np.ndarray, str] | str:
    """Return the last columns of a file's row in the index, its thumbnails and a note, or why it is left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not data:
        return "has zero bytes"
    try:
        pixels, mode, note = images.decode_image(path if path.suffix.lower() in images.RAW else data)
    except images.ImageError as error:
        return str(error)
    height, width = pixels.shape[:2]
    grey, colour = images.thumbnails(pixels)
    steps = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX)).astype(int)
    phash = np.packbits(np.diff(steps, axis=1) > 0).tobytes().hex()
    return (len(data), hashlib.sha256(data).hexdigest(), width, height, mode, phash), grey, colour, note
