"""Put the images of a source under `data/raw/`: drawn, downloaded, or from the user's own copy."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from crackutils import config, datasets
from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import hash_sources, replacing_folder
from crackutils.sources.download import download
from crackutils.sources.unpack import find_class_folders, unpack
from crackutils.synthetic.sample import write_patches, write_tiles
from crackutils.synthetic.store import library_versions


def fetch(source: str, origin: str | Path | None = None) -> Path:
    """Put the images of a source under `data/raw/`, and return the folder with `Negative/` and `Positive/`.

    Args:
        source: an entry of `data/sources.toml`.
        origin: a RAR, a ZIP or a folder that the user has; it is only read. None draws or downloads the images.

    Raises:
        CrackutilsError: nothing to download from, a damaged archive, entries that lead outside, a missing class
            folder, no program that unpacks RAR. What was there before stays in place in all these cases.
    """
    entry = datasets.sources()[config.choose("SOURCE", source, datasets.sources())]
    target = datasets.raw_folder(source)
    if origin is None:
        if "seed" in entry:
            return _draw(source, entry)
        if _is_complete(source, target):
            print(f"{source}: already in {config.display_path(target)}; remove that folder to fetch it again.")
            return target
        if "addresses" not in entry:
            raise CrackutilsError(
                f"{source} has no address to download from. Use make data SOURCE={source} FROM=folder."
            )
        origin = download(source, entry)
    origin = Path(origin).expanduser()
    if not origin.exists():
        raise CrackutilsError(f"FROM={origin} does not exist. Give a RAR, a ZIP or a folder.")
    with replacing_folder(target) as work:
        everything = work / "unpacked"
        everything.mkdir()
        unpack(origin, everything, entry)
        found = find_class_folders(everything, origin)
        for name in CLASSES:
            os.replace(found / name, work / name)
        shutil.rmtree(everything)
    counts = ", ".join(f"{sum(1 for _ in (target / name).iterdir()):,} {name}" for name in CLASSES)
    print(f"{source}: {counts} in {config.display_path(target)}")
    return target


def prepare(profile: config.Profile) -> None:
    """Put the images of a profile in place where that takes no decision of the user.

    Synthetic images are drawn, or drawn again after their generator has changed. In Colab, which starts from an empty
    disk, images that can be downloaded are. Everything else is left to `make data`, which `datasets.load` recommends.
    """
    entry = datasets.sources()[profile.source]
    absent = not datasets.raw_folder(profile.source).is_dir()
    if "seed" in entry or ("addresses" in entry and "google.colab" in sys.modules and absent):
        fetch(profile.source)


def _is_complete(source: str, folder: Path) -> bool:
    """Whether `folder` holds as many images as the largest profile of this source needs."""
    want = max((p.per_class for p in config.PROFILES.values() if p.source == source), default=0)
    return all((folder / name).is_dir() and sum(1 for _ in (folder / name).iterdir()) >= want for name in CLASSES)


def _draw(source: str, entry: dict[str, Any]) -> Path:
    """Draw synthetic images, unless those there were drawn by the same code, numbers and libraries."""
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
