"""Record of the files written to the folder of a source, so that no other files are replaced."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from crackutils.config import CLASSES, CrackutilsError, display_path
from crackutils.files import name_some, sha256

RECORD = ".fetched.json"  # sizes in bytes by name, hashes of tables
_NOT_OURS = (".ds_store", "thumbs.db", "desktop.ini", RECORD)  # operating systems put them into any folder


def write_record(folder: Path) -> None:
    """Record the names and sizes of all files below a folder."""
    (folder / RECORD).write_text(json.dumps({"files": dict(_list_files(folder))}), "utf-8")


def refuse_loss(target: Path, new: Path, force: bool) -> None:
    """Raise CrackutilsError if `target` holds files that were added or changed by hand and are not in `new`.

    Without a record, as from older versions, every file that is not in `new` counts.
    """
    if force or not target.is_dir():
        return
    try:
        known = set(json.loads((target / RECORD).read_text("utf-8"))["files"].items())
        what = "that this command did not write, or that were changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known, what = set(), "that may be yours, as an older version kept no record"
    rest = {name for name, _ in {*_list_files(target)} - known - {*_list_files(new)}}
    if lost := sorted(name for name in rest if (name, (target / name).lstat().st_size) not in known):  # older: sizes
        where = f"{display_path(target)} holds files {what}: {len(lost):,} ({name_some(lost)})"
        raise CrackutilsError(f"{where}. Move them elsewhere, or replace them with FORCE=1.")


def refuse_fewer(target: Path, counts: dict[str, int], force: bool) -> None:
    """Raise CrackutilsError if `target` holds more files of a class of a published set than the new folder."""
    for name in () if force else CLASSES:
        there = sum(1 for _ in (target / name).iterdir()) if (target / name).is_dir() else 0
        if counts[name] < there:
            what = f"{display_path(target)} has {there:,} files in {name}/, and FROM= only {counts[name]:,}"
            raise CrackutilsError(f"{what}. Use SOURCE=own for your own images, or replace the set with FORCE=1.")


def _list_files(folder: Path) -> Iterator[tuple[str, int | str]]:
    """Yield names and sizes of the files and links below a folder, hashes of tables; OSError if one cannot be read."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        for name in (*files, *(n for n in folders if os.path.islink(os.path.join(place, n)))):
            if name.lower() not in _NOT_OURS:
                path = Path(place, name)
                table = path.suffix == ".csv" and path.is_file()  # an edit may keep its size
                yield path.relative_to(folder).as_posix(), sha256(path) if table else path.lstat().st_size
