"""Splits into train, val and test that keep copies together, and a check that looks for copies by another means.

Grouping: neighbours in colour and texture statistics, registered by normalised cross-correlation.
Check: every crop position on high-passed thumbnails, decided by phase correlation; it shares no step with the grouping
but the thumbnails.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from crackutils import config, datasets
from crackutils.files import replacing_folder
from crackutils.splits.groups import Groups, group_copies, pack_groups
from crackutils.splits.overlaps import BUNDLES
from crackutils.splits.registration import LINKS_VERSION

PARTS = ("train", "val", "test")
RATIO = (0.7, 0.2, 0.1)


def make_split(ds: datasets.Dataset, method: str, seed: int) -> pd.DataFrame:
    """Split the images 70/20/10 with split-folders and return the manifest.

    The files are laid out below `data/splits/` as train/, val/ and test/, each with a folder per class, ready for any
    other tool; they are hard links where the disk allows, so they cost no space.

    Args:
        ds: the images.
        method: "copy-safe" keeps copies and runs of neighbours on one side, "photo-safe" whole photos, as far as they
            are known or can be told (`group`); "random" splits each class file by file, as published, and so leaks
            copies.
        seed: of the shuffling, 1337 in the published project.

    Returns:
        A row per image in index order: file, label, split (train, val or test), group (-1 for random).

    Raises:
        CrackutilsError: unknown method.
    """
    config.choose("SPLIT", method, config.SPLITS)
    home = _home(ds, method, seed)
    file = home / "manifest.csv"
    if not file.exists():
        grouped = group_copies(ds, method) if method != "random" else None
        with replacing_folder(home) as work:
            _split_folders(ds, grouped, seed, work)
            (work / "report.json").write_text(json.dumps(grouped.report if grouped else {}, indent=1), "utf-8")
    return pd.read_csv(file).assign(label=ds.index["label"])  # which may be corrected; the folders are as given


def _home(ds: datasets.Dataset, method: str, seed: int) -> Path:
    return config.data_dir() / "splits" / f"{ds.profile.source}-{ds.sha256[:12]}-{method}-{seed}.v{LINKS_VERSION}"


def split_report(ds: datasets.Dataset, method: str, seed: int) -> dict[str, int]:
    """Return what `group` reported when this split was made; empty for "random"."""
    manifest = make_split(ds, method, seed)
    return json.loads((_home(ds, method, seed) / "report.json").read_text("utf-8")) | {"split_files": len(manifest)}


def _split_folders(ds: datasets.Dataset, grouped: Groups | None, seed: int, work: Path) -> None:
    import random

    import splitfolders

    flat, out = work / "flat", work / "out"
    labels = ds.given
    view = {}
    for row, file in enumerate(ds.index["file"]):
        folder, name = file.split("/")
        # one class for split-folders when whole groups, which may hold both classes, are to be kept together
        path = flat / "all" / f"{folder}__{name}" if grouped else flat / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ds.folder / file, path)
        except OSError:
            shutil.copyfile(ds.folder / file, path)
        view[path.name if grouped else f"{folder}__{name}"] = row
    bundle = pack_groups(labels, grouped.ids, BUNDLES, seed) if grouped else None

    def by_bundle(files: list[Path]) -> list[tuple[Path, ...]]:
        rows = {view[f.name]: f for f in files}
        return [tuple(rows[r] for r in np.flatnonzero(bundle == b)) for b in range(BUNDLES) if (bundle == b).any()]

    state = random.getstate()  # split-folders seeds Python's global generator
    by = by_bundle if grouped else None
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        splitfolders.ratio(str(flat), str(out), seed=seed, ratio=RATIO, move=True, group=by)
    random.setstate(state)
    split = pd.Series(index=ds.index.index, dtype=str)
    for part in PARTS:
        for name in config.CLASSES:
            (work / part / name).mkdir(parents=True)
        for path in (p for p in (out / part).rglob("*") if p.is_file()):
            key = path.name if grouped else f"{path.parent.name}__{path.name}"
            split.iloc[view[key]] = part
            os.replace(path, work / part / key.split("__", 1)[0] / key.split("__", 1)[1])
    shutil.rmtree(flat)
    shutil.rmtree(out)
    if split.isna().any():
        raise AssertionError(f"split-folders lost {split.isna().sum()} files")
    manifest = ds.index[["file", "label"]].assign(split=split, group=grouped.ids if grouped else -1)
    manifest.to_csv(work / "manifest.csv", index=False, lineterminator="\n")


def leaked_test_images(split: np.ndarray, pairs: pd.DataFrame) -> int:
    """Return how many test images have a copy in train, given the part of each image and the pairs of `copies`."""
    a, b = split[pairs["a"]], split[pairs["b"]]
    return len({*pairs["a"][(a == "test") & (b == "train")], *pairs["b"][(b == "test") & (a == "train")]})
