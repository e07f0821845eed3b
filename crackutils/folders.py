"""Which files below a folder are pictures, and why the others are left out: one rule for every command."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import name_some
from crackutils.images import FORMATS, RAW

# what Windows, macOS and network drives put beside pictures: small copies of them, and what was thrown away
SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information")
SYSTEM += ("lost+found", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "network trash folder")
_OWN = (".inspection", "found.json", "metrics.json")  # files of a folder that `inspect` or a run has written
_BY_CONTENT = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "HEIF")  # what a file without a telling name may be
LeftOut = dict[str, list[str]]  # paths by the reason why they are left out


def find_pictures(folder: Path, own: Path | None = None) -> tuple[list[Path], LeftOut]:
    """Return the pictures below a folder in a fixed order, and what is left out, by reason.

    A picture is named like one (`FORMATS`, `RAW`), or holds one under another name. Links to folders are followed, each
    folder once. Left out are hidden files (names with a dot, as macOS's "._" ones), those of the system, reports and
    runs of this package, and what is no picture; not counted is `own`, a file or folder that the caller writes.
    Raises CrackutilsError for a folder that cannot be listed.
    """
    pictures: list[Path] = []
    left_out: LeftOut = {}
    for path, reason in _walk(folder, Path(os.path.abspath(own)) if own else None, {identify_folder(folder)}):
        if reason:
            left_out.setdefault(reason, []).append(os.path.relpath(path, folder))
        else:
            pictures.append(path)
    return pictures, left_out


def describe_left_out(left_out: LeftOut) -> str:
    """Return in one line what was left out: reasons and numbers, with at most three names each; empty for nothing."""
    parts = [f"{reason}: {len(names):,} ({name_some(names)})" for reason, names in sorted(left_out.items())]
    return f"left out: {'; '.join(parts)}" if parts else ""


Identity = tuple[int, int]  # of a folder: device and number


def identify_folder(folder: Path) -> Identity:
    """Return what tells a folder from another at the same place; OSError if it cannot be looked at."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _walk(folder: Path, own: Path | None, seen: set[Identity]) -> Iterator[tuple[Path, str]]:
    """Yield files below a folder, with the reason why one is left out; of a folder that is left out, itself."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise CrackutilsError(f"{folder} cannot be listed ({error.strerror}). Allow it, or leave it out.") from error
    folders = []
    for entry in entries:
        path, name = folder / entry.name, entry.name.lower()
        here = Path(os.path.abspath(path)) if own else path
        if own and (here == own or (here.parent == own.parent and name.startswith(f".{own.name.lower()}."))):
            continue
        if name in SYSTEM:
            yield path, "of the system"
        elif name.startswith("."):
            yield path, "hidden"
        elif _is_folder(entry):
            folders.append(path)
        elif reason := _why_no_picture(entry):
            yield path, reason
        else:
            yield path, ""
    for path in folders:
        try:
            if (identity := identify_folder(path)) in seen:
                yield path, "linked to a folder that is read already"
                continue
        except OSError:
            yield path, "linked to nothing"
            continue
        seen.add(identity)
        if any(os.path.isfile(path / name) for name in _OWN):
            yield path, "written by this package"
        else:
            yield from _walk(path, own, seen)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _why_no_picture(entry: os.DirEntry) -> str:
    """Return why a file is left out, empty for a picture; a picture's broken link is a picture that cannot be read."""
    named = Path(entry.name).suffix.lower() in (*FORMATS, *RAW)
    try:
        if not entry.is_file():
            if entry.is_symlink() and not os.path.exists(entry.path):
                return "" if named else "linked to nothing"
            return "not a file"  # a pipe would block
        if named:
            return ""
        with Image.open(entry.path, formats=_BY_CONTENT):
            return ""
    except Exception:  # not readable, or whatever Pillow's parsers run into
        return "" if named else "no picture by name or content"
