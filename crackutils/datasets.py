"""The images of a profile as one object, with an index that describes each, and the ways to open them."""

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
from crackutils.files import progress, replacing_folder
from crackutils.images import COLOUR, DECODING, GREY

_COLUMNS = ["file", "label", "number", "bytes", "sha256", "width", "height", "mode", "phash"]  # of an index
_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"  # as cameras and phones name their pictures
_LEAST = 3  # usable images of each class: one for each part of a split


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
        """The labels that the folders give, int (n,), whatever was corrected: splits are made with them."""
        return self.index["file"].str.startswith(f"{config.CLASSES[1]}/").to_numpy().astype(int)

    @cached_property
    def sha256(self) -> str:
        """Hash of all names and contents: equal for equal images wherever they came from."""
        lines = (self.index["file"] + "\t" + self.index["sha256"]).sort_values()
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def cache(self) -> Path:
        """Folder for what is computed from exactly these images."""
        return config.data_dir() / "cache" / f"{self.profile.source}-{self.sha256[:12]}"

    @cached_property
    def cuts(self) -> pd.DataFrame:
        """Where each image was cut, a row per image in index order: photo (its number, -1 where it is not known), and
        for synthetic images x, y (left, top, pixels) and the other columns of `patches.csv`.

        Without that table names like SDNET2018's PHOTO-TILE.jpg tell the photo, where all images have one and name
        several photos. A date is none, and neither is one number that all names begin with.
        """
        try:
            cuts = pd.read_csv(self.folder / "patches.csv").drop_duplicates("file")
            number = pd.to_numeric(cuts["photo"], "coerce")
            named = cuts["photo"].notna() & (number.isna() | (number % 1 != 0) | (number.abs() >= 2**53))
            number = number.mask(cuts["photo"].notna(), pd.factorize(cuts["photo"])[0]) if named.any() else number
            cuts = cuts.assign(photo=number, **{at: pd.to_numeric(cuts[at], "coerce") for at in {"x", "y"} & set(cuts)})
        except (OSError, ValueError, KeyError):  # no such table, or some other one
            found = self.index["file"].str.extract(rf"/(?!{_DATE}-)(\d{{1,18}})-\d{{1,4}}\.[^/]*$", expand=False)
            known = self.profile.source == "sdnet" or (found.notna().all() and len(found.unique()) > 1)
            return self.index[["file"]].assign(photo=found.fillna(-1).astype(int) if known else -1)
        cuts = self.index[["file"]].merge(cuts, how="left", on="file")
        return cuts.assign(photo=cuts["photo"].fillna(-1).astype(int))

    def read(self, row: int, size: int | None = None) -> np.ndarray:
        """Decode the image in a row of the index, as `read_image` does."""
        return images.read_image(self.folder / self.index["file"].iloc[row], size)

    def pixels(self, size: int) -> np.ndarray:
        """Return all images at one size: uint8 (n, size, size, 3), memory-mapped from a cache made on first use."""
        file = self.cache / f"pixels-{size}.v{DECODING}.npy"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            part, n = file.with_suffix(".part"), len(self.index)
            out = np.lib.format.open_memmap(part, "w+", np.uint8, (n, size, size, 3))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                decoded = pool.map(lambda row: self.read(row, size), range(n))
                for row, image in enumerate(progress(decoded, f"decoding at {size} px", n)):
                    out[row] = image
            out.flush()
            del out
            os.replace(part, file)
        return np.load(file, mmap_mode="r")


def load(profile: config.Profile, labels: str = config.LABELS[0]) -> Dataset:
    """Return the images of a profile; their files are indexed where that is still to be done.

    `labels` is "given", as the folders say, or "corrected" by `label_verdicts`; ambiguous images keep the given label.
    Raises CrackutilsError if the source is not there or holds too few files, or if none of its labels was checked.
    """
    config.choose("LABELS", labels, config.LABELS)
    folder = raw_folder(profile.source)
    how = f"make data{'' if profile.source == 'metu' else f' SOURCE={profile.source}'}"
    if not all((folder / name).is_dir() for name in config.CLASSES):
        entry = sources()[profile.source]
        remedy = f"Run {how} FROM=<archive or folder that you have>"
        if "seed" in entry:
            remedy = f"Run {how}, which draws them"
        elif "addresses" in entry:
            remedy += f", or {how} to download them"
        raise config.CrackutilsError(f"PROFILE={profile.name} needs the images of {entry['name']}. {remedy}.")
    index, left_out, grey, colour = read_index(profile.source, folder)
    keep = np.ones(len(index), bool)
    if profile.numbers:
        keep = index["number"].between(*profile.numbers).to_numpy()
        left_out = left_out[left_out["file"].map(_number).between(*profile.numbers)].reset_index(drop=True)
    there = pd.concat([index.loc[keep, "file"], left_out["file"]]).str.split("/").str[0].value_counts()
    for name in config.CLASSES:
        usable = int((index.loc[keep, "label"] == config.CLASSES.index(name)).sum())
        if there.get(name, 0) < profile.per_class or usable < _LEAST:
            want = f"{profile.per_class:,} images" if profile.per_class else f"at least {_LEAST} usable images"
            unusable = there.get(name, 0) - usable
            has = f"but {config.display_path(folder)} has {usable:,}"
            has += f" and {unusable:,} left out" if unusable else ""
            remedy = f"Choose a smaller PROFILE, or run {how} FROM=<the whole archive>."
            remedy = remedy if profile.per_class else f"Add images, and run {how} FROM=<folder that holds them all>."
            raise config.CrackutilsError(f"PROFILE={profile.name} needs {want} in {name}/, {has}. {remedy}")
    if not keep.all():  # whole, the thumbnails stay on disk
        index, grey, colour = index[keep].reset_index(drop=True), grey[keep], colour[keep]
    ds = Dataset(profile, folder, index, left_out, grey, colour, labels)
    return ds if labels == config.LABELS[0] else _correct_labels(ds)


def _correct_labels(ds: Dataset) -> Dataset:
    if not len(table := label_verdicts(ds)):
        why = f"LABELS={ds.labels}: the labels of PROFILE={ds.profile.name} were not checked"
        raise config.CrackutilsError(f"{why}. Leave LABELS out.")
    sure = table[table["verdict"] != "ambiguous"]
    index = ds.index.assign(label=ds.given)
    index.loc[sure["row"], "label"] = (sure["verdict"] == "crack").astype(int).to_numpy()
    return replace(ds, index=index)


def open_folder(folder: Path) -> Dataset:
    """Return the images of any folder with Negative/ and Positive/, which stay where they are.

    Raises CrackutilsError if a class has no usable image.
    """
    source = f"folder-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    index, left_out, grey, colour = read_index(source, folder)
    if missing := [name for label, name in enumerate(config.CLASSES) if not (index["label"] == label).any()]:
        raise config.CrackutilsError(f"{folder / missing[0]} holds no usable image. It needs at least one.")
    return Dataset(config.Profile(folder.name, str(folder), source), folder, index, left_out, grey, colour)


def label_verdicts(ds: Dataset) -> pd.DataFrame:
    """Return verdicts on labels that are or may be wrong, from pictures that were opened: `data/audit/*_labels.csv`.

    A row per such image holds row (of the index), file, label (the given one), verdict (crack, no crack or ambiguous)
    and reason. Raises CrackutilsError if an image of that name has other bytes than the one that was opened.
    """
    if not (file := config.AUDIT / f"{ds.profile.source}_labels.csv").is_file():
        return pd.DataFrame({name: [] for name in ("row", "file", "label", "verdict", "reason")})
    here = ds.index[["file", "sha256"]].reset_index(names="row")
    table = here.merge(pd.read_csv(file), on="file", suffixes=("", "_seen"))
    if len(other := table[table["sha256"] != table["sha256_seen"]]):
        why = f"{len(other)} images ({other['file'].iloc[0]} first) are not those of {config.display_path(file)}"
        raise config.CrackutilsError(f"{why}. Fetch the published archive with make data.")
    return table[["row", "file", "label", "verdict", "reason"]]


def head(ds: Dataset, count: int) -> Dataset:
    """Return the first `count` images of each class in the order of the index, all where there are fewer."""
    rows = np.sort(ds.index.groupby("label").head(count).index.to_numpy())
    if len(rows) == len(ds.index):
        return ds
    return replace(ds, index=ds.index.iloc[rows].reset_index(drop=True), grey=ds.grey[rows], colour=ds.colour[rows])


def from_files(folder: Path, files: Sequence[str], labels: Sequence[int]) -> Dataset:
    """Return files (absolute paths, or relative to `folder`) as a dataset to compute features of; nothing is written.

    The index holds what `load` puts there, with the labels (0 or 1) given here. `grey` and `colour` are empty, and
    `Dataset.given` means nothing, as the files need not lie in folders of their class.
    """
    index, left_out, grey, colour = _describe_all(folder, files, labels)
    return Dataset(config.profile("own"), folder, index, left_out, grey[:0], colour[:0])


def find_row(ds: Dataset, file: str) -> int:
    """Return the row of a file such as Positive/00100.jpg; CrackutilsError if it is not in the index."""
    rows = ds.index.index[ds.index["file"] == file]
    if len(rows) != 1:
        why = f"IMAGE={file} is not among the images of {ds.profile.name}"
        raise config.CrackutilsError(f"{why}. Write it like {ds.index['file'].iloc[0]}.")
    return int(rows[0])


def _number(file: str) -> int:
    """Return the number that a file's name begins with, -1 if it begins with none."""
    digits = re.match(r"\d{1,18}(?!\d)", file.rsplit("/", 1)[-1])  # longer ones are no numbers, and fit no int64
    return int(digits[0]) if digits else -1


def read_index(source: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Return index, left_out, grey and colour of a source, as in `Dataset`.

    They are read from disk, and made again first if any file's name, size or time has changed.
    """
    files = [
        f"{name}/{p.name}"
        for name in config.CLASSES
        for p in sorted((folder / name).iterdir(), key=lambda p: (_number(p.name), p.name))
        if not p.name.startswith(".") and p.name.lower() != "thumbs.db"
    ]
    state = hashlib.sha256(DECODING.encode())
    for file in files:
        s = (folder / file).stat()
        state.update(f"{file}\t{s.st_size}\t{s.st_mtime_ns}\n".encode())
    stamp = (home := config.data_dir() / "index" / source) / "state.json"
    if not stamp.is_file() or json.loads(stamp.read_text("utf-8")).get("state") != state.hexdigest():
        labels = [config.CLASSES.index(file.split("/")[0]) for file in files]
        watch = partial(progress, what="indexing", total=len(files))
        index, left_out, grey, colour = _describe_all(folder, files, labels, watch)
        with replacing_folder(home) as work:
            index.to_csv(work / "index.csv", index=False, lineterminator="\n")
            left_out.to_csv(work / "left_out.csv", index=False, lineterminator="\n")
            np.save(work / "grey.npy", grey)
            np.save(work / "colour.npy", colour)
            (work / stamp.name).write_text(json.dumps({"state": state.hexdigest()}), "utf-8")
    text = {"file": str, "sha256": str, "mode": str, "phash": str, "reason": str}
    tables = (pd.read_csv(home / f"{n}.csv", dtype=text, keep_default_na=False) for n in ("index", "left_out"))
    return *tables, *(np.load(home / f"{name}.npy", mmap_mode="r") for name in ("grey", "colour"))


def _describe_all(
    folder: Path, files: Sequence[str], labels: Sequence[int], watch: Callable[[Iterator], Iterator] = iter
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Return index, left_out, grey and colour of files, as in `Dataset`."""
    rows, left_out, grey, colour = [], [], [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        described = watch(pool.map(lambda file: _describe(folder / file), files))
        for file, label, found in zip(files, labels, described, strict=True):
            if isinstance(found, str):
                left_out.append((file, found))
            else:
                rows.append((file, label, _number(file), *found[0]))
                grey.append(found[1])
                colour.append(found[2])
    index, left_out = pd.DataFrame(rows, columns=_COLUMNS), pd.DataFrame(left_out, columns=["file", "reason"])
    grey, colour = np.array(grey, np.uint8), np.array(colour, np.uint8)
    return index, left_out, grey.reshape(-1, GREY, GREY), colour.reshape(-1, COLOUR, COLOUR, 3)


def _describe(path: Path) -> tuple[tuple[Any, ...], np.ndarray, np.ndarray] | str:
    """Return the last columns of a file's row in the index and its thumbnails, or why it is left out."""
    if not path.is_file():
        return "is not a file"
    if not (data := path.read_bytes()):
        return "has zero bytes"
    if path.suffix.lower() not in images.FORMATS:
        return f"is not named like an image ({path.suffix or 'no ending'})"
    try:
        pixels, mode = images.decode_image(data)[:2]
    except images.ImageError as error:
        return str(error)
    height, width = pixels.shape[:2]
    if min(height, width) < images.SMALLEST:
        return f"is too small ({width}x{height}, at least {images.SMALLEST} each way)"
    grey, colour = images.thumbnails(pixels)
    steps = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX)).astype(int)
    phash = np.packbits(np.diff(steps, axis=1) > 0).tobytes().hex()
    return (len(data), hashlib.sha256(data).hexdigest(), width, height, mode, phash), grey, colour
