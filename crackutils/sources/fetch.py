"""Put the images of a source into `data/raw/`: drawn, downloaded, or from the user's copy."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crackutils import config, datasets
from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import explain_write_errors, lock_file, printable, replacing_folder
from crackutils.sources.collect import collect
from crackutils.sources.download import download
from crackutils.sources.record import RECORD, refuse_loss, write_record
from crackutils.sources.unpack import FULL
from crackutils.synthetic.sample import write_patches, write_tiles
from crackutils.synthetic.store import describe_generator

_FEW = 8  # least images of a class for useful results


def fetch(source: str, origin: str | Path | None = None, classes: str = "", force: bool = False) -> Path:
    """Put the images of a source into `data/raw/`, and return the folder with `Negative/` and `Positive/`.

    `origin` is the user's archive or folder, which is not changed; None draws or downloads the images. `classes`
    names the folders without and with cracks, as "uncracked:cracked"; empty takes the usual names. `force` also
    replaces files that were not written here, and a published set by a smaller one.
    Raises CrackutilsError if there is no address for a download, a class has no picture, an archive is damaged or
    unsafe, or no program unpacks it. The earlier images then stay in place.
    """
    entry = datasets.sources()[config.choose("SOURCE", source, datasets.sources())]
    target = datasets.raw_folder(source)
    if "seed" in entry:
        if origin is not None:
            raise CrackutilsError(f"SOURCE={source} is synthetic. For your own images use SOURCE=own.")
        return _draw(target, entry, force)
    sizes = [p.per_class for p in config.PROFILES.values() if p.source == source] or [0]
    if origin is None:
        folders = [target / name for name in CLASSES]
        there = all(folder.is_dir() and len(os.listdir(folder)) >= max(sizes) for folder in folders)
        if there and not force:
            print(f"{source}: already in {config.display_path(target)}; FORCE=1 fetches it again.")
            return target
        if "addresses" not in entry:
            remedy = f"Use make data SOURCE={source} FROM=folder."
            raise CrackutilsError(f"{source} has no address to download from. {remedy}")
    else:
        origin = _find_origin(str(origin), target)
    busy = f"Another process is writing {config.display_path(target)}. Wait for it, then run the same command again."
    with _writing_alone(target, busy):
        origin = origin or download(source, entry)
        with replacing_folder(target) as work, _reading(origin):
            said = collect(origin, work, target, entry, classes, force, min(sizes) or _FEW)
    print(*(f"{source}: {line}" for line in said if line), sep="\n")
    return target


def prepare(profile: config.Profile) -> None:
    """Put the images of a profile in place if this needs no decision of the user.

    Synthetic images are drawn, or drawn again if their generator has changed. Colab starts with an empty disk, so
    there published images are downloaded. `make data`, which `datasets.load` recommends, does everything else.
    """
    entry, there = datasets.sources()[profile.source], datasets.raw_folder(profile.source).is_dir()
    if "seed" in entry or ("addresses" in entry and "google.colab" in sys.modules and not there):
        fetch(profile.source)


def _draw(target: Path, entry: dict[str, Any], force: bool) -> Path:
    """Draw synthetic images, unless the existing ones are from the same code, numbers and libraries."""
    stamp = target / "made_from.txt"
    numbers = " ".join(f"{k}={entry[k]}" for k in ("patches", "photos", "each", "seed") if k in entry)
    made = f"{describe_generator()} {numbers}\n"

    def is_drawn() -> bool:
        return stamp.is_file() and stamp.read_text("utf-8") == made

    if is_drawn():
        return target
    with _writing_alone(target):
        if is_drawn():  # by another process, meanwhile
            return target
        with replacing_folder(target) as work:
            if (target / RECORD).is_file() or not stamp.is_file():  # older versions wrote only the stamp
                refuse_loss(target, work, force)
            if "photos" in entry:
                write_tiles(work, entry["photos"], entry["seed"])
            else:
                write_patches(work, entry["patches"], entry["seed"], entry["each"])
            (work / stamp.name).write_text(made, "utf-8")
            write_record(work)
    return target


def _find_origin(text: str, target: Path) -> Path:
    """Return the file or folder of FROM; CrackutilsError if it does not exist, or lies in the folder to replace."""
    candidates = [os.path.expanduser(name) for name in (text, text.strip(" \"'"))]
    if not (there := list(filter(os.path.exists, candidates))):
        raise CrackutilsError(f"FROM={text} does not exist. Give an archive (ZIP, RAR, 7z, tar) or a folder.")
    if not os.path.isdir(origin := Path(there[0])) and not os.path.isfile(origin):
        raise CrackutilsError(f"FROM={text} is neither a file nor a folder. Give an archive or a folder.")
    if origin.resolve().is_relative_to(target.resolve()):
        where = config.display_path(target)
        raise CrackutilsError(f"FROM={text} lies in {where}, which this command replaces. Move it first.")
    return origin


@contextlib.contextmanager
def _writing_alone(target: Path, busy: str = "") -> Iterator[None]:
    """Lock a source during the block: another process gets the error `busy`, or waits if that is empty."""
    if target.is_symlink():
        raise CrackutilsError(f"{config.display_path(target)} is a link and is not replaced. Remove the link.")
    with explain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(target.with_name(f".{target.name}.fetch.lock"), busy):
            yield


@contextlib.contextmanager
def _reading(origin: Path) -> Iterator[None]:
    """Give errors of the user's files a cause and a remedy; pass on errors of other places."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL or not error.filename or not Path(os.fsdecode(error.filename)).is_relative_to(origin):
            raise
        why = f"{error.strerror}: {printable(os.fsdecode(error.filename))}"
        raise CrackutilsError(f"{origin} cannot be read ({why}). Allow it, then run the same command again.") from error
