"""Entries of users' archives: clean names for all systems and tables, and checks of unsafe entries."""

import os
import re
import shutil
import unicodedata
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

from crackutils.config import CrackutilsError

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # of a damaged ZIP

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_LONGEST, _LONGEST_PATH = 150, 200  # bytes of a name, and of a path below the class folder


def clean_name(name: str) -> str:
    """Return a name without control characters and characters that Windows forbids, of at most 150 bytes.

    Bytes that are not UTF-8, as from old archives, are read as Latin-1.
    """
    name = "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in name)
    # Cc, Cs, Zl, Zp: control characters, halves of a character, separators of lines
    name = "".join("_" if c in '<>:"/\\|?*' or unicodedata.category(c) in "Cc Cs Zl Zp" else c for c in name)
    name = name.rstrip(" .") or "_"
    name = f"_{name}" if _RESERVED.fullmatch(name) else name
    if len(name.encode()) <= _LONGEST:
        return name
    stem, ending = os.path.splitext(name)
    ending = ending if len(ending.encode()) <= 20 else ""
    return stem.encode()[: _LONGEST - len(ending.encode())].decode(errors="ignore").rstrip(" .") + ending


class Names:
    """Gives each file a clean and unique path; upper and lower case count as equal."""

    def __init__(self) -> None:  # noqa: D107
        self._given: Counter[str] = Counter()
        self.renamed: list[str] = []  # original paths of changed ones

    def give(self, path: str) -> str:
        """Return `path` (parts joined by /), or the clean and unique path in its place."""
        parts = [clean_name(part) for part in path.split("/") if part not in ("", ".")] or ["_"]
        while len(parts) > 2 and len("/".join(parts).encode()) > _LONGEST_PATH:
            del parts[1]  # the first is the folder of the class
        stem, ending = os.path.splitext(new := "/".join(parts))
        while self._given[key := unicodedata.normalize("NFC", new).casefold()]:
            self._given[key] += 1
            new = f"{stem}_{self._given[key]}{ending}"
        self._given[key] += 1
        if new != path:
            self.renamed.append(path)
        return new


def leads_outside(name: str) -> bool:
    """Return whether a name leads out of its folder, on this or another system."""
    windows = PureWindowsPath(name)
    return bool(windows.drive or windows.root or ".." in windows.parts or PurePosixPath(name).is_absolute())


def refuse_entry(archive: Path, name: str, link: bool) -> None:
    """Raise CrackutilsError for an entry of an archive that is a link, or whose name leads outside."""
    if link or leads_outside(name):
        what = "is a link" if link else "leads outside the folder"
        raise CrackutilsError(f"{archive.name} is refused: its entry {name!r} {what}. Nothing was unpacked.")


def check_space(what: str, size: int, work: Path) -> None:
    """Raise CrackutilsError if `size` bytes do not fit on the disk of `work`."""
    if size > (free := shutil.disk_usage(work).free):
        has = f"{what} holds {size / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB free"
        raise CrackutilsError(f"{has}. Free disk space, or set CRACKUTILS_DATA_DIR to a folder on another disk.")
