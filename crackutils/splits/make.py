"""Make the copy-safe, photo-safe or random split: the manifest, and a folder per part."""

import contextlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import splitfolders

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.files import replacing_folder
from crackutils.splits.groups import BUNDLES, group_copies, pack_groups
from crackutils.splits.registration import LINKS_VERSION

PARTS = ("train", "val", "test")
RATIO = (0.7, 0.2, 0.1)


def make_split(ds: Dataset, method: str, seed: int) -> pd.DataFrame:
    """Split the images 70/20/10 with split-folders and return the manifest.

    The files are laid out below `data/splits/` as train/, val/ and test/, each with a folder per class, for any other
    tool; they are hard links where the disk allows, so they cost no space.

    Args:
        ds: the images.
        method: "copy-safe" keeps copies and runs of neighbours on one side, "photo-safe" whole photos, known or
            estimated (`group_copies`); "random" splits each class file by file, as published, and so leaks copies.
        seed: of the shuffling, 1337 in the published project.

    Returns:
        A row per image in index order: file, label, split (train, val or test), group (-1 for random).

    Raises:
        CrackutilsError: unknown method; too few photos for "photo-safe".
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
        splitfolders.ratio(str(flat), str(out), seed=seed, ratio=RATIO, move=True, group=group)
    random.setstate(state)
    split = [""] * len(files)
    for part in PARTS:
        for name in config.CLASSES:
            (work / part / name).mkdir(parents=True)
        for path in [path for path in (out / part).rglob("*") if path.is_file()]:
            k = row[path.name]
            split[k] = part
            os.replace(path, work / part / files[k])
    shutil.rmtree(flat)
    shutil.rmtree(out)
    if lost := split.count(""):
        raise AssertionError(f"split-folders lost {lost} files")
    return split
