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

    `origin` is a RAR, a ZIP or a folder that the user has; it is only read. None draws or downloads the images.
    Raises CrackutilsError if there is nothing to download from, an archive is damaged, unsafe or without class folders,
    or no program unpacks it. What was there before then stays in place.
    """
    entry = datasets.sources()[config.choose("SOURCE", source, datasets.sources())]
    target = datasets.raw_folder(source)
    if origin is None:
        if "seed" in entry:
            return _draw(target, entry)
        want = max((p.per_class for p in config.PROFILES.values() if p.source == source), default=0)
        if all(f.is_dir() and sum(1 for _ in f.iterdir()) >= want for f in (target / name for name in CLASSES)):
            print(f"{source}: already in {config.display_path(target)}; remove that folder to fetch it again.")
            return target
        if "addresses" not in entry:
            remedy = f"Use make data SOURCE={source} FROM=folder."
            raise CrackutilsError(f"{source} has no address to download from. {remedy}")
        origin = download(source, entry)
    origin = Path(origin).expanduser()
    if not origin.exists():
        raise CrackutilsError(f"FROM={origin} does not exist. Give a RAR, a ZIP or a folder.")
    with replacing_folder(target) as work:
        (everything := work / "unpacked").mkdir()
        unpack(origin, everything, entry)
        found = find_class_folders(everything, origin)
        for name in CLASSES:
            os.replace(found / name, work / name)
        shutil.rmtree(everything)
    counts = ", ".join(f"{len(list((target / name).iterdir())):,} {name}" for name in CLASSES)
    print(f"{source}: {counts} in {config.display_path(target)}")
    return target


def prepare(profile: config.Profile) -> None:
    """Put the images of a profile in place where that takes no decision of the user.

    Synthetic images are drawn, or drawn again after their generator has changed. Colab starts from an empty disk, so
    there images are downloaded where they can be. `make data`, which `datasets.load` recommends, does everything else.
    """
    entry, there = datasets.sources()[profile.source], datasets.raw_folder(profile.source).is_dir()
    if "seed" in entry or ("addresses" in entry and "google.colab" in sys.modules and not there):
        fetch(profile.source)


def _draw(target: Path, entry: dict[str, Any]) -> Path:
    """Draw synthetic images, unless those there were drawn by the same code, numbers and libraries."""
    stamp = target / "made_from.txt"
    numbers = " ".join(f"{k}={entry[k]}" for k in ("patches", "photos", "each", "seed") if k in entry)
    made = f"{hash_sources(config.PACKAGE / 'synthetic')} {numbers} {library_versions()}\n"
    if not stamp.is_file() or stamp.read_text("utf-8") != made:
        with replacing_folder(target) as work:
            if "photos" in entry:
                write_tiles(work, entry["photos"], entry["seed"])
            else:
                write_patches(work, entry["patches"], entry["seed"], entry["each"])
            (work / stamp.name).write_text(made, "utf-8")
    return target
