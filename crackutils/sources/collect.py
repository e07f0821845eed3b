"""From a user's folder or archive to a folder with `Negative/` and `Positive/`, and a report of files left out."""

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from crackutils.config import CLASSES, CrackutilsError, display_path
from crackutils.datasets import LEAST
from crackutils.files import name_some, printable, progress
from crackutils.folders import LeftOut, describe_left_out, find_pictures
from crackutils.sources.classes import Found, Placed, has_classes, names_class, place_pictures
from crackutils.sources.record import refuse_fewer, refuse_loss, write_record
from crackutils.sources.unpack import FULL, name_kind, unpack
from crackutils.userfiles.entries import Names, check_space
from crackutils.userfiles.names import match_names
from crackutils.userfiles.read import FILES, read_table

_SPLIT = "given_split.csv"  # the part of each image, for sets with a split
_PHOTOS = "patches.csv"
_TABLES = (_SPLIT, _PHOTOS)  # copied if they lie beside the class folders
_ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".tgz", ".gz", ".tbz2", ".bz2", ".txz", ".xz", ".zst", ".001")  # to open
_INSIDE = "archives"  # reason for archives that are not opened
_DEEP = 3  # archives within archives


def collect(
    origin: Path, work: Path, target: Path, entry: dict[str, Any], classes: str, force: bool, least: int
) -> list[str]:
    """Fill `work`, the later `target`, with the images of a folder or archive; return the messages.

    Inner archives are opened only if there are no two classes without them. `entry` is an entry of `data/sources.toml`;
    `classes` and `force` are as in `fetch`; a message notes fewer than `least` images of a class.
    Raises CrackutilsError as `fetch` does.
    """
    (unpacked := work / "unpacked").mkdir()
    opener = _Opener(unpacked, target, entry)
    pictures, left_out = opener.gather(origin) if origin.is_dir() else opener.open(origin, ())
    usual = entry.get("classes", "")
    try:
        classes = classes or (usual if usual and has_classes(pictures, usual) else "")
        placed, outside, understood = place_pictures(pictures, origin, classes)
    except CrackutilsError as error:
        if not left_out.get(_INSIDE):
            raise CrackutilsError(" ".join(filter(None, (str(error), _sentence(left_out))))) from None
        more, left_out = opener.open_inner(left_out, classes)
        if not more:
            raise CrackutilsError(f"{error} {_sentence(left_out)}") from None
        placed, outside, understood = place_pictures(pictures + more, origin, classes)
    if outside:
        left_out["outside class folders"] = outside
    names = Names()
    put = _put(placed, origin, names, work, unpacked, left_out)
    parts = {put[picture.path]: picture.part for picture in placed if picture.path in put}
    counts = {name: sum(file.startswith(f"{name}/") for file in parts) for name in CLASSES}
    if not all(counts.values()):
        raise CrackutilsError(f"{origin} holds no readable pictures of a class. Check the files. {_sentence(left_out)}")
    if any(parts.values()):
        table = pd.DataFrame(list(parts.items()), columns=["file", "split"])
        table.to_csv(work / _SPLIT, index=False, lineterminator="\n")
    kept = {shown: _keep_table(table, put, work) for shown, table in opener.tables.items()}
    rows = sum(rows for shown, rows in kept.items() if Path(shown).name == _PHOTOS)
    left_out |= (
        {"tables that do not fit the pictures": unused} if (unused := [name for name in kept if not kept[name]]) else {}
    )
    shutil.rmtree(unpacked)
    write_record(work)
    refuse_loss(target, work, force)
    if "sha256" in entry:
        refuse_fewer(target, counts, force)
    renamed = [*opener.renamed, *names.renamed]
    lines = [understood, f"{', '.join(f'{n:,} {name}' for name, n in counts.items())} in {display_path(target)}"]
    lines.append(f"{_PHOTOS} names the photos of {rows:,} of {len(parts):,} pictures" if rows else "")
    lines.append(f"{len(renamed):,} files renamed ({name_some(renamed)})" if renamed else "")
    if (have := min(counts.values())) < LEAST:
        lines.append(f"{have} pictures of a class are too few: the notebooks need at least {LEAST} of each")
    elif have < least:
        lines.append(f"results from fewer than {least:,} pictures of a class are unreliable")
    return [*lines, describe_left_out(left_out)]


def _sentence(left_out: LeftOut) -> str:
    text = describe_left_out(left_out)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


class _Opener:
    """Finds pictures in folders and archives; archives are unpacked into folders below `unpacked`."""

    def __init__(self, unpacked: Path, target: Path, entry: dict[str, Any]) -> None:
        self._unpacked, self._target, self._entry = unpacked, target, entry
        self._archives: dict[str, Path] = {}  # by their names in what is left out
        self.tables: dict[str, Path] = {}
        self.renamed: list[str] = []

    def gather(self, folder: Path, above: tuple[str, ...] = ()) -> tuple[list[Found], LeftOut]:
        """Return the pictures below a folder, and files left out; `above` is its place in the user's folder."""
        pictures, found = find_pictures(folder, self._target)
        left_out: LeftOut = {}
        for reason, names in found.items():
            for name in names:
                closed = name.lower().endswith(_ARCHIVES) and reason not in ("hidden", "system files")
                why = _INSIDE if closed and name_kind(folder / name) else reason
                shown = "/".join((*above, *Path(name).parts))
                if Path(name).name in _TABLES:
                    self.tables[shown] = folder / name
                    continue
                left_out.setdefault(why, []).append(shown)
                self._archives |= {shown: folder / name} if why == _INSIDE else {}
        return [Found(path, (*above, *path.relative_to(folder).parts[:-1])) for path in pictures], left_out

    def open(self, archive: Path, above: tuple[str, ...]) -> tuple[list[Found], LeftOut]:
        """Unpack an archive and gather its pictures."""
        folder = self._unpacked / str(sum(1 for _ in self._unpacked.iterdir()))
        folder.mkdir()
        self.renamed += unpack(archive, folder, self._entry)
        return self.gather(folder, above)

    def open_inner(self, left_out: LeftOut, classes: str, deep: int = 1) -> tuple[list[Found], LeftOut]:
        """Open the archives among the files left out, and archives in them; return their pictures and files left out.

        Of several, only archives named like a class or a part of a split are opened.
        """
        left_out, pictures = dict(left_out), []
        closed = {name: (*name.split("/")[:-1], Path(name).name.split(".")[0]) for name in left_out.pop(_INSIDE, [])}
        for name, above in closed.items():
            if len(closed) > 1 and not names_class(above, classes):
                left_out.setdefault(_INSIDE, []).append(name)
                continue
            found, more = self.open(self._archives[name], above)
            if not found and deep < _DEEP:
                found, more = self.open_inner(more, classes, deep + 1)
            pictures += found
            for reason, names in more.items():
                left_out[reason] = left_out.get(reason, []) + names
        return pictures, left_out


def _put(
    placed: list[Placed], origin: Path, names: Names, work: Path, unpacked: Path, left_out: LeftOut
) -> dict[Path, str]:
    """Copy pictures of the user into `work`, or move unpacked ones; return the new name of each."""
    there, size = [], 0
    for picture in placed:
        own = not picture.path.is_relative_to(unpacked)
        if os.path.exists(picture.path):
            there.append((picture, own))
            size += picture.path.stat().st_size if own else 0
        else:
            left_out.setdefault("broken links", []).append(picture.name)
    check_space(origin.name, size, work)
    put = {}
    for picture, own in progress(there, "copying", unit="file"):
        new = names.give(picture.name)
        (work / new).parent.mkdir(parents=True, exist_ok=True)
        try:
            (shutil.copyfile if own else os.replace)(picture.path, work / new)
        except OSError as error:
            if error.errno in FULL or str(error.filename) != str(picture.path):
                raise
            if isinstance(error, PermissionError):
                left_out.setdefault("may not be read", []).append(picture.name)
                continue
            what = f"{printable(str(picture.path))} cannot be read ({error.strerror})"
            raise CrackutilsError(f"{what}. Run this again when no other program changes the folder.") from error
        put[picture.path] = new
    return put


def _keep_table(file: Path, put: dict[Path, str], work: Path) -> int:
    """Add the rows of a table to that in `work`, with the new names of its pictures; return how many were added."""
    needed, placed = ("split" if file.name == _SPLIT else "photo"), ("x", "y")
    try:
        table = read_table(file, {"file": FILES, **{name: (name,) for name in (needed, *placed)}}, placed)
    except (OSError, CrackutilsError):
        return 0
    near = {os.path.relpath(path, file.parent): new for path, new in put.items()}
    table["file"] = [near.get(name) for name in match_names(table["file"], near)]
    table, kept = table.dropna(subset="file").drop_duplicates("file"), work / file.name
    before = pd.read_csv(kept, dtype=str, keep_default_na=False) if kept.exists() else table.iloc[:0]
    more = table[~table["file"].isin(before["file"])]
    if len(more):
        pd.concat([before, more]).to_csv(kept, index=False, lineterminator="\n")
    return len(more)
