"""Folders that may go away during long work, as drives and network shares do."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from crackutils.config import CrackutilsError
from crackutils.folders import Identity, identify_folder


def identify_folders(files: Iterable[Path]) -> dict[Path, Identity]:
    """Return the identity of each folder that holds one of the files, for `refuse_lost`."""
    found = {}
    for folder in {file.parent for file in files}:
        with contextlib.suppress(OSError):
            found[folder] = identify_folder(folder)
    return found


def refuse_lost(file: Path, before: dict[Path, Identity]) -> None:
    """Raise CrackutilsError if the folder of a file that cannot be read is not that of before: its drive is gone."""
    try:
        lost = file.parent in before and identify_folder(file.parent) != before[file.parent]
    except OSError:
        lost = True
    if lost:
        why = f"{file.parent} is gone, as a drive or a network share may be"
        raise CrackutilsError(f"{why}. Bring it back and run the same command again; it continues.")
