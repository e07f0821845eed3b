"""Group the images that must stay on one side, and make the copy-safe, photo-safe or random split of them."""

import contextlib
import io
import json
import os
import random
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import splitfolders
from scipy.cluster.hierarchy import DisjointSet

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.files import replacing_folder
from crackutils.splits.overlaps import estimate_photos
from crackutils.splits.registration import LINKS_VERSION, appearance, equal_pairs, find_copies

PARTS = ("train", "val", "test")
BUNDLES = 10  # 7 + 2 + 1 of them make 70/20/10


@dataclass(frozen=True)
class Groups:
    """Which images must stay on one side of a split."""

    ids: np.ndarray  # int (n,), the group of each image
    report: dict[str, int]  # files, groups, largest group; copy-safe: cap, and links joined and cut by kind


def group_copies(ds: Dataset, method: str = config.SPLITS[0]) -> Groups:
    """Return which images must stay together, for "copy-safe" or for "photo-safe".

    Copy-safe joins all patches of a known photo, copies, and, where photos are unknown, runs of neighbouring Positive
    numbers, which METU cut along the same crack of one photo. Photos, exact copies and copies of the same crop are
    always joined; then shifted copies and runs, each from the most similar on, unless the group would exceed the cap
    (an eighth of a bundle): without it the whole of Positive would chain into one group. Photo-safe joins the images
    of one photo, known or from `estimate_photos`; CrackutilsError if these are too few.
    """
    n = len(ds.index)
    if method == "photo-safe":
        known = ds.cuts["photo"].to_numpy()
        ids = np.unique(known if (known >= 0).all() else estimate_photos(ds), return_inverse=True)[1]
        report = {"files": n}
        if ids.max() + 1 < min(BUNDLES, n):
            counts = f"these {n} images come from about {ids.max() + 1}. Use SPLIT=copy-safe."
            raise config.CrackutilsError(f"SPLIT=photo-safe needs at least {BUNDLES} photos, {counts}")
    else:
        groups, cap = DisjointSet(range(n)), max(4, n // (8 * BUNDLES))
        report = {"files": n, "cap": cap}
        for kind, pairs in _ranked_links(ds).items():
            limit = cap if kind in ("shifted", "run") else n
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
    """Return kinds of links between images, int (m, 2) each, in the order in which they are joined."""
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
    """Return the bundle of each file, int (n,): whole groups, with nearly equal numbers of files of each class.

    Labels (0 or 1) and ids, the groups from 0, are int (n,). The seed draws one of the equally good packings.
    """
    # by hand: scikit-learn's StratifiedGroupKFold packs large groups of mixed classes last and refuses small datasets
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


def make_split(ds: Dataset, method: str, seed: int) -> pd.DataFrame:
    """Split the images 70/20/10 with split-folders and return the manifest.

    "copy-safe" keeps copies and runs of neighbours on one side, "photo-safe" whole photos, known or estimated
    (`group_copies`); "random" splits each class file by file, as published (with seed 1337), and so leaks copies. The
    files are laid out below `data/splits/` as train/, val/ and test/, each with a folder per class, for any other tool;
    they are hard links where the disk allows, so they cost no space. A row per image in index order: file, label, split
    (train, val or test), group (-1 for random). CrackutilsError: unknown method; too few photos for "photo-safe".
    """
    config.choose("SPLIT", method, config.SPLITS)
    home = _home(ds, method, seed)
    if not (home / "manifest.csv").exists():
        groups = group_copies(ds, method) if method != "random" else None
        with replacing_folder(home) as work:
            split = _lay_out(ds, groups.ids if groups else None, seed, work)
            manifest = ds.index[["file", "label"]].assign(split=split, group=groups.ids if groups else -1)
            manifest.to_csv(work / "manifest.csv", index=False, lineterminator="\n")
            (work / "report.json").write_text(json.dumps(groups.report if groups else {}, indent=1), "utf-8")
    manifest = pd.read_csv(home / "manifest.csv")
    return manifest.assign(label=ds.index["label"])  # which may be corrected; the folders are as given


def split_report(ds: Dataset, method: str, seed: int) -> dict[str, int]:
    """Return the report of `group_copies` when this split was made (empty for "random"), and split_files."""
    manifest = make_split(ds, method, seed)
    return json.loads((_home(ds, method, seed) / "report.json").read_text("utf-8")) | {"split_files": len(manifest)}


def _home(ds: Dataset, method: str, seed: int) -> Path:
    return config.data_dir() / "splits" / f"{ds.profile.source}-{ds.sha256[:12]}-{method}-{seed}.v{LINKS_VERSION}"


def _lay_out(ds: Dataset, ids: np.ndarray | None, seed: int, work: Path) -> list[str]:
    """Split the files into folders below `work`, whole groups where `ids` gives them, and return the part of each."""
    files, flat, out = list(ds.index["file"]), work / "flat", work / "out"
    row = {file.replace("/", "__", 1): k for k, file in enumerate(files)}
    for name, k in row.items():
        # groups may hold both classes, so split-folders must see one class to keep them together
        path = flat / (files[k].split("/")[0] if ids is None else "all") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ds.folder / files[k], path)
        except OSError:
            shutil.copyfile(ds.folder / files[k], path)

    def by_bundle(paths: list[Path]) -> list[tuple[Path, ...]]:
        paths = sorted(paths, key=lambda path: row[path.name])
        bundle = pack_groups(ds.given, ids, BUNDLES, seed)
        return [tuple(paths[k] for k in np.flatnonzero(bundle == b)) for b in np.unique(bundle)]

    state = random.getstate()  # split-folders seeds Python's global generator
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        group = None if ids is None else by_bundle
        splitfolders.ratio(str(flat), str(out), seed=seed, ratio=(0.7, 0.2, 0.1), move=True, group=group)
    random.setstate(state)
    for part, name in product(PARTS, config.CLASSES):
        (work / part / name).mkdir(parents=True)
    paths = {path.name: path for path in out.rglob("*") if path.is_file()}
    split = [paths[name].relative_to(out).parts[0] for name in row]  # KeyError if split-folders lost a file
    for name, part, file in zip(row, split, files, strict=True):
        os.replace(paths[name], work / part / file)
    shutil.rmtree(flat)
    shutil.rmtree(out)
    return split
