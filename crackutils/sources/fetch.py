"""Fetch, unpack, decode and index images.

`read_image` is the only decoder of the project: indexing, training and scoring all see the same pixels.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from crackutils import config, datasets
from crackutils.files import hash_sources, replacing_folder
from crackutils.sources.download import download
from crackutils.sources.unpack import class_folders, unpack
from crackutils.synthetic.sample import write_patches, write_tiles
from crackutils.synthetic.store import library_versions


def fetch(source: str, origin: str | Path | None = None) -> Path:
    """Put the images of a source under `data/raw/`, by download or from the user's own copy.

    Args:
        source: an entry of `data/sources.toml`.
        origin: a RAR, a ZIP or a folder that the user has; it is only read. None downloads.

    Returns:
        The folder with `Negative/` and `Positive/`.

    Raises:
        CrackutilsError: nothing to download from, a damaged archive, entries that lead outside, a missing class
            folder, no program that unpacks RAR. What was there before stays in place in all these cases.
    """
    entry = datasets.sources()[config.choose("SOURCE", source, datasets.sources())]
    target = datasets.raw_folder(source)
    if origin is None:
        if "seed" in entry:
            return _draw_sample(source, entry)
        if target.is_dir() and not _short_of(source, target):
            print(f"{source}: already in {config.display_path(target)}; remove that folder to fetch it again.")
            return target
        if "addresses" not in entry:
            raise config.CrackutilsError(
                f"{source} has no address to download from; use make data SOURCE={source} FROM=folder."
            )
        origin = download(source, entry)
    origin = Path(origin).expanduser()
    if not origin.exists():
        raise config.CrackutilsError(f"FROM={origin} does not exist; give a RAR, a ZIP or a folder.")
    with replacing_folder(target) as work:
        unpack(origin, work, entry)
        found = class_folders(work, origin)
        for name in config.CLASSES:
            os.replace(found / name, work / f".{name}")
        for item in work.iterdir():
            if item.name not in {f".{name}" for name in config.CLASSES}:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        for name in config.CLASSES:
            os.replace(work / f".{name}", work / name)
    counts = ", ".join(f"{sum(1 for _ in (target / name).iterdir()):,} {name}" for name in config.CLASSES)
    print(f"{source}: {counts} in {config.display_path(target)}")
    return target


def _short_of(source: str, folder: Path) -> bool:
    """Whether `folder` holds fewer images than the largest profile of this source wants."""
    want = max((p.per_class for p in config.PROFILES.values() if p.source == source), default=0)
    return any(
        not (folder / name).is_dir() or sum(1 for _ in (folder / name).iterdir()) < want for name in config.CLASSES
    )


def _draw_sample(source: str, entry: dict[str, Any]) -> Path:
    target = datasets.raw_folder(source)
    stamp = target / "made_from.txt"
    numbers = " ".join(f"{k}={entry[k]}" for k in ("patches", "photos", "each", "seed") if k in entry)
    made = f"{hash_sources(config.PACKAGE / 'synthetic')} {numbers} {library_versions()}\n"
    if stamp.is_file() and stamp.read_text("utf-8") == made:
        return target
    with replacing_folder(target) as work:
        if "photos" in entry:
            write_tiles(work, entry["photos"], entry["seed"])
        else:
            write_patches(work, entry["patches"], entry["seed"], entry["each"])
        (work / stamp.name).write_text(made, "utf-8")
    return target
