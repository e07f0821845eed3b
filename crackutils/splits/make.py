"""Group the images that must stay together, and make the copy-safe, photo-safe, random or given split."""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import splitfolders
from scipy.cluster.hierarchy import DisjointSet

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.files import replacing_folder
from crackutils.splits.check import leaked_test_images
from crackutils.splits.overlaps import estimate_photos
from crackutils.splits.registration import LINKS_VERSION, SURE_NCC, appearance, equal_pairs, find_copies

PARTS = ("train", "val", "test")
SHARES = (0.7, 0.2, 0.1)
BUNDLES = 10  # 7 + 2 + 1 of them make 70/20/10
_FEW = 5  # groups of a class, below which runs of neighbours are cut: three would leave a third for training
GIVEN = "given_split.csv"  # in the folder of a source that came split: file, split


@dataclass(frozen=True)
class Groups:
    """Groups of images that must stay in one part of a split."""

    ids: np.ndarray  # int (n,), the group of each image
    report: dict[str, Any]  # files, groups, largest group; copy-safe: cap, and links joined and cut by kind


def group_copies(ds: Dataset, method: str = config.SPLITS[0], runs: bool = True) -> Groups:
    """Return the groups of images that must stay together, for "copy-safe" or "photo-safe".

    Copy-safe joins all patches of a known photo, copies, and, if photos are unknown, runs of neighbouring Positive
    numbers, which METU cut along the same crack of one photo. Photos, exact copies and copies of the same crop are
    always joined. Shifted copies and runs follow, the most similar first, unless the group would exceed the cap (an
    eighth of a bundle); without a cap, all of Positive would become one group. Without `runs`, no runs are joined.
    Photo-safe joins the images of one photo, known or else from `estimate_photos`, and photos with copies. Raises
    CrackutilsError for too few photos.
    """
    n = len(ds.index)
    if method == "photo-safe":
        photo, copies = ds.cuts["photo"].to_numpy(), find_copies(ds)
        if (photo < 0).any():  # only the photos of these images are estimated
            photo = np.where(photo < 0, photo.max() + 1 + estimate_photos(ds), photo)
        groups, same = DisjointSet(photo.tolist()), copies.loc[copies["kind"] != "shifted", ["a", "b"]]
        for a, b in photo[same.to_numpy(int)].tolist():
            groups.merge(a, b)
        ids = np.unique([groups[one] for one in photo.tolist()], return_inverse=True)[1]
        report = {"files": n}
        if ids.max() + 1 < min(BUNDLES, n):
            counts = f"these {n} images come from about {ids.max() + 1}. Use SPLIT=copy-safe."
            raise config.CrackutilsError(f"SPLIT=photo-safe needs at least {BUNDLES} photos, {counts}")
    else:
        groups, cap = DisjointSet(range(n)), max(4, n // (8 * BUNDLES))
        report = {"files": n, "cap": cap}
        for kind, pairs in _ranked_links(ds).items():
            limit = (cap if runs or kind == "shifted" else 0) if kind in ("shifted", "run") else n
            joined = cut = 0
            for a, b in pairs.tolist():
                if groups.connected(a, b) or groups.subset_size(a) + groups.subset_size(b) <= limit:
                    joined += groups.merge(a, b)  # False if they are together already
                else:
                    cut += 1
            report |= {f"{kind}_links_joined": joined, f"{kind}_links_cut": cut}
        ids = pd.factorize(np.array([groups[row] for row in range(n)]))[0]
    return Groups(ids, report | {"groups": int(ids.max() + 1), "largest": int(np.bincount(ids).max())})


def _ranked_links(ds: Dataset) -> dict[str, np.ndarray]:
    """Return links between images, int (m, 2), by kind, in the order in which they are joined."""
    photo = ds.cuts["photo"].to_numpy()
    of_photos = equal_pairs(photo)
    of_photos = of_photos[photo[of_photos[:, 0]] >= 0]
    copies = find_copies(ds).sort_values("ncc", ascending=False, kind="stable")
    shifted, ends = copies["kind"] == "shifted", copies[["a", "b"]].to_numpy()
    running = ds.index[(ds.given == 1) & (ds.index["number"] >= 0) & (photo < 0)]
    rows = running.sort_values("number", kind="stable").index.to_numpy()
    x = appearance(ds)[rows]
    nearest_first = np.argsort(np.linalg.norm(x[1:] - x[:-1], axis=1).round(3), kind="stable")
    runs = np.column_stack([rows[:-1], rows[1:]])[nearest_first]
    links = {"photo": of_photos} if len(of_photos) else {}
    return links | {"copy": ends[~shifted], "shifted": ends[shifted], "run": runs}


def pack_groups(labels: np.ndarray, ids: np.ndarray, bundles: int, seed: int) -> np.ndarray:
    """Return the bundle of each file, int (n,): whole groups, with nearly equal counts of each class.

    Labels (0 or 1) and ids, the groups from 0, are int (n,). The seed chooses among equally good packings.
    """
    # by hand: scikit-learn's StratifiedGroupKFold packs large mixed groups last and refuses small datasets
    counts = np.zeros((ids.max() + 1, 2), int)
    np.add.at(counts, (ids, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    load = np.zeros((bundles, 2))
    share = np.maximum(counts.sum(0), 1) / bundles
    bundle = np.empty(len(counts), int)
    for group in order:
        growth = ((load + counts[group]) / share) ** 2 - (load / share) ** 2  # of the squared load, per class
        bundle[group] = growth.sum(1).argmin()
        load[bundle[group]] += counts[group]
    return bundle[ids]


def has_all_classes(labels: np.ndarray, split: np.ndarray) -> bool:
    """Return whether each of `PARTS` holds images of both classes; labels (0 or 1) and split are (n,)."""
    return all(len(np.unique(labels[split == part])) == 2 for part in PARTS)


def fill_parts(labels: np.ndarray, ids: np.ndarray, seed: int, shares: tuple[float, ...] = SHARES) -> np.ndarray:
    """Return the part of each file, str (n,), in whole groups, for sets too small or unbalanced for `pack_groups`.

    Each part first gets a group of either class, if there are enough: test the smallest, train the largest, then val.
    The other groups go where most is missing. Arguments as for `pack_groups`; `shares` belong to the first of
    `PARTS`.
    """
    counts = np.zeros((ids.max() + 1, 2), int)
    np.add.at(counts, (ids, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(counts[order].sum(1), kind="stable")]  # the smallest first
    load, home = np.zeros((len(shares), 2)), np.full(len(counts), -1)

    def put(group: int, part: int) -> None:
        home[group] = part
        load[part] += counts[group]

    rarer_first = np.argsort((counts > 0).sum(0), kind="stable")
    for part, label in product((len(shares) - 1, *range(len(shares) - 1)), rarer_first):
        there = order[(home[order] < 0) & (counts[order, label] > 0)]
        if not load[part, label] and len(there):
            there = there[::-1] if part == 0 else there
            put(there[np.argmin(counts[there, 1 - label] > 0)], part)  # mixed groups only if no other is left
    target = np.outer(shares, np.maximum(counts.sum(0), 1))
    for group in order[::-1]:
        if home[group] < 0:
            put(group, (((load + counts[group]) ** 2 - load**2) / target).sum(1).argmin())
    return np.array(PARTS)[home][ids]


def spread_classes(labels: np.ndarray, ids: np.ndarray, split: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Return a split with both classes in each part, str (n,), and a note on how it was made, empty for `split` itself.

    `fill_parts` makes another split only if a part of `split` lacks a class. If a class has only two groups, val gets
    some images of the group in train: validation images are then like training images, but the test is still clean.
    Raises CrackutilsError for a class in a single group.
    """
    if has_all_classes(labels, split):
        return split, ""
    split, note = fill_parts(labels, ids, seed), "a part would have lacked a class, so groups were dealt out one by one"
    for label, name in enumerate(config.CLASSES):
        groups = len(np.unique(ids[labels == label]))
        if groups < 2:
            why = f"The {(labels == label).sum():,} images of {name} are copies of each other or of one photo"
            remedy = "Add images of other places, or use SPLIT=random, which does not separate copies."
            raise config.CrackutilsError(f"{why}, so no test is clean. {remedy}")
        here = np.flatnonzero((labels == label) & (split == "train"))
        if not ((labels == label) & (split == "val")).any():
            split[here[: min(len(here) - 1, max(1, len(here) // 5))]] = "val"
            like = "those in val are like some in train" if len(here) > 1 else "val has none"
            note += f"; the images of {name} make only 2 groups, so {like}"
    return split, note


def make_split(ds: Dataset, method: str, seed: int) -> pd.DataFrame:
    """Split the images 70/20/10 and return the manifest.

    "copy-safe" keeps copies and runs of neighbours together, "photo-safe" whole photos, known or estimated
    (`group_copies`). "random" splits each class file by file, as published (with seed 1337), and leaks copies. These
    three use split-folders, and `spread_classes` if a part then lacks a class; if that fails because of runs, runs are
    not kept together. "given" takes the split that came with the images, from `GIVEN`; see `read_given`.

    For other tools, `data/splits/` gets folders train/, val/ and test/, each with a folder per class; the files are
    hard links if the disk allows it, which need no space. A row per image in index order: file, label, split (train,
    val or test), group (-1 for random). Raises CrackutilsError for an unknown method, too few photos for "photo-safe",
    no clean test, and a given split that is missing or does not fit the images.
    """
    config.choose("SPLIT", method, config.SPLITS)
    home = _home(ds, method, seed)
    if not (home / "manifest.csv").exists():
        with replacing_folder(home) as work:
            split, ids, report = _choose_parts(ds, method, seed, work)
            _lay_out(ds, split, work)
            manifest = ds.index[["file", "label"]].assign(split=split, group=ids)
            manifest.to_csv(work / "manifest.csv", index=False, lineterminator="\n")
            (work / "report.json").write_text(json.dumps(report, indent=1), "utf-8")
    manifest = pd.read_csv(home / "manifest.csv", lineterminator="\n")  # a name may hold a carriage return
    if note := json.loads((home / "report.json").read_text("utf-8")).get("note"):
        print(f"note: SPLIT={method}: {note}.")
    return manifest.assign(file=ds.index["file"], label=ds.index["label"])  # may be corrected; the folders are as given


def possible_splits(ds: Dataset, seed: int) -> dict[str, pd.DataFrame]:
    """Return the manifests by method, for all methods that these images allow; print the reasons for the others."""
    found = {}
    for method in config.SPLITS if given_table(ds) else config.SPLITS[:-1]:
        try:
            found[method] = make_split(ds, method, seed)
        except config.CrackutilsError as error:
            print(f"left out: {method}. {error}")
    return found


def split_report(ds: Dataset, method: str, seed: int) -> dict[str, Any]:
    """Return the report of `group_copies` for this split (empty for "random"), with split_files.

    An unusual split has a note; a given split has test_copies_in_train.
    """
    manifest = make_split(ds, method, seed)
    return json.loads((_home(ds, method, seed) / "report.json").read_text("utf-8")) | {"split_files": len(manifest)}


def given_table(ds: Dataset) -> Path | None:
    """Return the file of the split that came with the images, None if there is none."""
    return file if (file := ds.folder / GIVEN).is_file() else None


def read_given(ds: Dataset, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the part of each image in the split that came with the images, str (n,), and a report.

    The table has the columns file, as in the index, and split (train, val or test). Without test, its val becomes the
    test; without val, a fifth of train becomes val, by groups if there are several. The report holds
    test_copies_in_train, the number of test images with a copy in train, and a note. Raises CrackutilsError if there is
    no table, or it does not fit.
    """
    if (table := given_table(ds)) is None:
        why = f"SPLIT=given needs a split that came with the images, and {config.display_path(ds.folder)} has none"
        raise config.CrackutilsError(f"{why}. Fetch a folder with train/, val/ and test/, or use SPLIT=copy-safe.")
    try:
        given = pd.read_csv(table, dtype=str, keep_default_na=False, lineterminator="\n").drop_duplicates("file")
        found = ds.index[["file"]].merge(given, how="left", on="file")["split"]
    except (OSError, ValueError, KeyError):
        why = f"{config.display_path(table)} has not the columns file,split, in UTF-8, with commas"
        raise config.CrackutilsError(f"{why}. Fetch the images again, or use SPLIT=copy-safe.") from None
    if (missing := ~found.isin(PARTS)).any():
        names = ", ".join(ds.index["file"][missing].head(3))
        why = f"{config.display_path(table)} gives no part to {missing.sum():,} images ({names})"
        raise config.CrackutilsError(f"{why}. Fetch the images again, or use SPLIT=copy-safe.")
    split, notes = found.to_numpy(str), []
    if "test" not in split:
        split[split == "val"] = "test"
        notes.append("it had no test, so its val is the test")
    if "val" not in split:
        rows = np.flatnonzero(split == "train")
        ids, by = np.unique(group_copies(ds).ids[rows], return_inverse=True)[1], "groups"
        if len(rows) and not ids.any():
            ids, by = np.arange(len(rows)), "images, for they are one group"
        split[rows] = fill_parts(ds.given[rows], ids, seed, (0.8, 0.2)) if len(rows) else split[rows]
        notes.append(f"it had no val, so {(split == 'val').sum():,} images of train are val, by {by}")
    for part in ("train", "test"):
        for label, name in enumerate(config.CLASSES):
            if not ((split == part) & (ds.given == label)).any():
                why = f"{config.display_path(table)} leaves no image of {name} in {part}"
                raise config.CrackutilsError(f"{why}. Use SPLIT=copy-safe.")
    copies = find_copies(ds)
    count = leaked_test_images(split, copies[copies["ncc"] >= SURE_NCC])
    notes.append(f"{count:,} of {(split == 'test').sum():,} test images have a copy in train")
    return split, {"test_copies_in_train": count, "note": "; ".join(notes)}


def _home(ds: Dataset, method: str, seed: int) -> Path:
    name, photo = f"{ds.profile.source}-{ds.sha256[:12]}-{method}-{seed}", ds.cuts["photo"].to_numpy(np.int64)
    if (photo >= 0).any():  # their table may come later than the images, or change
        codes = np.where(photo < 0, -1, pd.factorize(photo)[0])
        name += f"-{hashlib.sha256(codes.tobytes() + b'copies' * (method == 'photo-safe')).hexdigest()[:8]}"
    if method == "given" and (table := given_table(ds)):
        name += f"-{hashlib.sha256(table.read_bytes()).hexdigest()[:8]}"
    return config.data_dir() / "splits" / f"{name}.v{LINKS_VERSION}"


def _choose_parts(
    ds: Dataset, method: str, seed: int, work: Path
) -> tuple[np.ndarray, np.ndarray | int, dict[str, Any]]:
    """Return the part of each image, str (n,), its group, int (n,) or -1, and the report."""
    if method == "given":
        split, report = read_given(ds, seed)
        return split, group_copies(ds).ids, report
    if method == "random":
        split, note = spread_classes(ds.given, np.arange(len(ds.index)), _draw_parts(ds, None, seed, work), seed)
        return split, -1, {"note": note} if note else {}
    groups = group_copies(ds, method)
    drawn = _draw_parts(ds, groups.ids, seed, work)
    few = min(len(np.unique(groups.ids[ds.given == label])) for label in (0, 1)) < _FEW
    cut = method == "copy-safe" and few and not has_all_classes(ds.given, drawn)
    groups = group_copies(ds, method, runs=False) if cut else groups
    split, note = spread_classes(ds.given, groups.ids, drawn, seed)
    note += "; runs of neighbours are not kept together" * cut
    return split, groups.ids, groups.report | ({"note": note} if note else {})


def _draw_parts(ds: Dataset, ids: np.ndarray | None, seed: int, work: Path) -> np.ndarray:
    """Return the part of each image by split-folders, str (n,), in whole groups if `ids` is given."""
    flat, out = work / "flat", work / "out"
    # empty files with short names in the order of the images, whose names may be long and contain folders
    place = {row: k for k, row in enumerate(sorted(range(len(ds.index)), key=list(ds.index["file"]).__getitem__))}
    row = {f"{place[k]:09d}": k for k in range(len(ds.index))}
    for name, k in row.items():
        # groups may hold both classes, so split-folders must see one class to keep them together
        path = flat / (str(ds.given[k]) if ids is None else "all") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def by_bundle(paths: list[Path]) -> list[tuple[Path, ...]]:
        paths = sorted(paths, key=lambda path: row[path.name])
        bundle = pack_groups(ds.given, ids, BUNDLES, seed)
        return [tuple(paths[k] for k in np.flatnonzero(bundle == b)) for b in np.unique(bundle)]

    state = random.getstate()  # split-folders seeds Python's global generator
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        group = None if ids is None else by_bundle
        splitfolders.ratio(str(flat), str(out), seed=seed, ratio=SHARES, move=True, group=group)
    random.setstate(state)
    part = {path.name: path.relative_to(out).parts[0] for path in out.rglob("*") if path.is_file()}
    shutil.rmtree(flat)
    shutil.rmtree(out)
    return np.array([part[name] for name in row])  # KeyError if split-folders lost a file


def _lay_out(ds: Dataset, split: np.ndarray, work: Path) -> None:
    """Link the images into folders of parts and classes below `work`; copy them if the disk has no links."""
    for part, name in product(PARTS, config.CLASSES):
        (work / part / name).mkdir(parents=True)
    for part, file in zip(split, ds.index["file"], strict=True):
        path = work / part / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ds.folder / file, path)
        except OSError:
            shutil.copyfile(ds.folder / file, path)
