"""Detection of drives and network shares that disappear during long work."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from crackutils.config import CrackutilsError
from crackutils.folders import Identity, identify_folder


def identify_folders(files: Iterable[Path]) -> dict[Path, Identity]:
    """Return the identity of each folder with one of the files, for `refuse_lost`."""
    found = {}
    for folder in {file.parent for file in files}:
        with contextlib.suppress(OSError):
            found[folder] = identify_folder(folder)
    return found


def refuse_lost(file: Path, before: dict[Path, Identity]) -> None:
    """Raise CrackutilsError if the folder of an unreadable file has changed its identity: its drive is gone."""
    try:
        lost = file.parent in before and identify_folder(file.parent) != before[file.parent]
    except OSError:
        lost = True
    if lost:
        why = f"{file.parent} is gone; perhaps its drive or network share was removed"
        raise CrackutilsError(f"{why}. Reconnect it and run the same command again; it continues.")
