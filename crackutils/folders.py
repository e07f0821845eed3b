"""Find the pictures in a folder and its subfolders; all commands leave out other files by the same rules."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import name_some
from crackutils.images import FORMATS, RAW

# files that Windows, macOS and network drives put beside pictures: thumbnails and deleted files
SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information")
SYSTEM += ("lost+found", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "network trash folder")
_OWN = (".inspection", "found.json", "metrics.json")  # files that mark a folder as written by `inspect` or a run
_BY_CONTENT = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "HEIF")  # formats that are recognised under any file name
LeftOut = dict[str, list[str]]  # paths by the reason to leave them out


def find_pictures(folder: Path, own: Path | None = None) -> tuple[list[Path], LeftOut]:
    """Return the pictures in a folder and its subfolders, in a fixed order, and the files left out, by reason.

    A picture has the suffix of one (`FORMATS`, `RAW`) or its content. Links to folders are followed, each folder once.
    Left out are hidden files (names that begin with a dot), system files, reports and runs of this package, and files
    that are not pictures. `own`, a file or folder that the caller writes, is ignored. Raises CrackutilsError for a
    folder that cannot be listed.
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
    """Return one line on the files left out: reasons, counts, up to three names each; empty if there are none."""
    parts = [f"{reason}: {len(names):,} ({name_some(names)})" for reason, names in sorted(left_out.items())]
    return f"left out: {'; '.join(parts)}" if parts else ""


def print_left_out(left_out: LeftOut) -> None:
    """Print `describe_left_out`, if there is anything."""
    if told := describe_left_out(left_out):
        print(told)


Identity = tuple[int, int]  # of a folder: device and number


def identify_folder(folder: Path) -> Identity:
    """Return device and number, which differ if another folder lies at the same path; OSError if it cannot be read."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _walk(folder: Path, own: Path | None, seen: set[Identity]) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder, with the reason for those left out; a folder left out is yielded itself."""
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
            yield path, "system files"
        elif name.startswith("."):
            yield path, "hidden"
        elif _is_folder(entry):
            folders.append(path)
        else:
            yield path, _why_no_picture(entry)
    for path in folders:
        try:
            if (identity := identify_folder(path)) in seen:
                yield path, "links to a folder that is read already"
                continue
        except OSError:
            yield path, "broken links"
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
    """Return the reason to leave a file out; empty for pictures, and for broken links named like one."""
    named = Path(entry.name).suffix.lower() in (*FORMATS, *RAW)
    try:
        if not entry.is_file():
            if entry.is_symlink() and not os.path.exists(entry.path):
                return "" if named else "broken links"
            return "special files"  # a pipe would block
        if named:
            return ""
        with Image.open(entry.path, formats=_BY_CONTENT):
            return ""
    except Exception:  # not readable, or any error of Pillow's parsers
        return "" if named else "not a picture by name or content"
