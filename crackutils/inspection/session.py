"""A session: photos and a user's corrections in one file, which opens on other machines."""

import contextlib
import hashlib
import io
import json
import math
import posixpath
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import explain_write_errors, name_some, printable, replacing_file, save_array, sha256
from crackutils.images import LARGEST
from crackutils.inspection.limit import EXPOSURES
from crackutils.inspection.numbering import read_known
from crackutils.userfiles.entries import ZIP_ERRORS, Names, check_space, leads_outside, refuse_entry

MARKS = ("crack", "joint", "nothing")  # what a user calls a found line
CONTRARY = "contradictory marks"  # instead of one of these: a line is marked as a crack, and as none
LineMark = tuple[float, float, str, list]  # x, y, one of `MARKS` or `CONTRARY`, and all marks of a line
ADDED, ERASED = 1, 2  # values of a brush
SETTINGS = ("threshold", "mm_per_pixel", "limit_mm", "exposure")  # for all photos of a session
_KIND, _SCHEMA = "crackutils session", 1  # raise the number when older versions would misread a new file
_CONTENT = "session.json"
_BLOCK = 1 << 20  # bytes that are copied at once
_RATIO, _SMALL = 100, 1_000_000  # an entry may declare so many times its bytes in the file, plus so many
_LONGEST = 64_000_000  # characters of session.json, all ASCII


@dataclass(frozen=True)
class Edits:
    """A user's corrections of one photo.

    mm_per_pixel: scale of this photo, None for that of the session; marks: (x, y, kind) each, a place in pixels of the
    photo and one of `MARKS`, for the crack whose centre line is nearest, at most 15 pixels away (in `LineMark` for
    several); brush: uint8 (h, w) of the photo's size, 0 unchanged, 1 added to the mask, 2 erased, None without
    changes; numbers: what `number_cracks` returned for this photo the last time, by which cracks keep their numbers.
    """

    mm_per_pixel: float | None = None
    marks: tuple[tuple[float, float, str], ...] = ()
    brush: np.ndarray | None = None
    numbers: str = ""

    @property
    def corrected(self) -> bool:
        """Whether the user has marked or painted anything."""
        return bool(self.marks) or (self.brush is not None and bool(self.brush.any()))

    @classmethod
    def from_row(cls, row: Mapping[str, Any], brush: np.ndarray | None) -> "Edits":
        """Return the edits of a `row`, also of one from an older file, and a brush."""
        return cls(row.get("mm_per_pixel"), tuple(map(tuple, row["marks"])), brush, row.get("numbers", ""))

    @property
    def row(self) -> dict[str, Any]:
        """All but the brush, for JSON."""
        marks = [[float(x), float(y), kind] for x, y, kind in self.marks]
        return {"mm_per_pixel": self.mm_per_pixel, "marks": marks, "numbers": self.numbers}

    @property
    def key(self) -> str:
        """A SHA-256 of the content, for caches."""
        digest = hashlib.sha256(json.dumps([*self.row.values()]).encode())
        if self.brush is not None:
            digest.update(json.dumps(self.brush.shape).encode())
            digest.update(np.ascontiguousarray(self.brush))
        return digest.hexdigest()


def describe_contrary(marks: Mapping[int, LineMark]) -> str:
    """Return which cracks have contradictory marks, by their number, and the remedy; empty for none."""
    cracks = ", ".join(str(crack) for crack, mark in sorted(marks.items()) if mark[2] == CONTRARY)
    why = f"{CONTRARY} on crack {cracks}, where lines join at this threshold; it is kept, but not confirmed"
    return f"{why}: raise the threshold, or erase the link with the brush" if cracks else ""


@dataclass
class Session:
    """Photos by name, in order, with their corrections and the settings for all photos.

    exposure is the class, one of `limit.EXPOSURES`, that sets limit_mm; None if the user set it.
    """

    photos: dict[str, Path] = field(default_factory=dict)
    edits: dict[str, Edits] = field(default_factory=dict)
    threshold: float = 0.5
    mm_per_pixel: float | None = None
    limit_mm: float | None = None
    exposure: str | None = None


def write_session(session: Session, file: str | Path) -> None:
    """Write a session with its photos to one file, a ZIP archive, atomically.

    Photos are stored unchanged, brushes as PNG, and the rest in session.json; edits without a photo are left out.
    Memory does not grow with the number of photos. Raises CrackutilsError for names and values that `read_session`
    refuses, and if a photo cannot be read or the file cannot be written.
    """
    file, names, photos = Path(file), Names(), []
    content = {"kind": _KIND, "schema": _SCHEMA} | {name: getattr(session, name) for name in SETTINGS}
    content["photos"] = photos
    for k, name in enumerate(session.photos, 1):
        edits = session.edits.get(name, Edits())
        photos.append({"name": name} | edits.row)
        photos[-1]["brush"] = None if edits.brush is None else f"brushes/{k:04d}.png"
    try:
        _check_content(content)
    except ValueError as error:
        raise CrackutilsError(f"The session cannot be saved: {error}. Correct this and save it again.") from error
    with replacing_file(file) as part, zipfile.ZipFile(part, "w") as archive:
        for one, (name, path) in zip(photos, session.photos.items(), strict=True):
            one["entry"], digest = f"photos/{names.give(name)}", hashlib.sha256()
            # an entry without a time, so that equal sessions give equal files
            with archive.open(zipfile.ZipInfo(one["entry"]), "w", force_zip64=True) as out:
                for block in _read_blocks(name, path):
                    digest.update(block)
                    out.write(block)
            one["sha256"] = digest.hexdigest()
            if one["brush"]:
                Image.fromarray(np.asarray(session.edits[name].brush, np.uint8)).save(png := io.BytesIO(), "PNG")
                archive.writestr(zipfile.ZipInfo(one["brush"]), png.getvalue())
        text = json.dumps(content, indent=1) + "\n"
        if len(text) > _LONGEST:  # `read_session` refuses it
            raise CrackutilsError("The session has too many cracks for one file. Save fewer photos in one session.")
        archive.writestr(zipfile.ZipInfo(_CONTENT), text)


def _read_blocks(name: str, path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as source:
            while block := source.read(_BLOCK):
                yield block
    except OSError as error:
        why = f"{printable(name)} cannot be read ({error.strerror})"
        raise CrackutilsError(f"The session cannot be saved: {why}. Restore the photo, or remove it.") from error


def _check_content(content: Any) -> None:
    """Raise ValueError with the problem for the content of a session that cannot be used."""
    _require(isinstance(content, dict) and isinstance(content.get("photos"), list), "it has no list of photos")
    _require(0 < _number(content.get("threshold")) < 1, "its threshold is not between 0 and 1")
    for scale in (content, *content["photos"]):
        _require(isinstance(scale, dict), "a photo is described wrongly")
        value = scale.get("mm_per_pixel")
        _require(value is None or 1e-6 <= _number(value) <= 1e6, f"the scale {value} is out of range")
    limit = content.get("limit_mm")
    _require(limit is None or 0 < _number(limit) < math.inf, f"the limit {limit} is out of range")
    exposure = content.get("exposure")  # older files have none
    _require(exposure is None or EXPOSURES.get(str(exposure)) == limit, f"limit {limit} is not that of {exposure!r}")
    seen: set[str] = set()
    for photo in content["photos"]:
        read_known(str(photo.get("numbers", "")))  # older files have none
        name = photo.get("name")
        named = isinstance(name, str) and name.strip("./\\ ") and "\0" not in name
        _require(bool(named), f"a photo is called {name!r}")
        _require(not leads_outside(name), f"the name {name!r} leads outside the folder")
        _require(name.encode(errors="replace").decode() == name, f"the name {name!r} is not valid text")
        _require(posixpath.normpath(name) not in seen, f"two photos are called {name!r}")
        seen.add(posixpath.normpath(name))
        _require(isinstance(photo.get("marks"), list), f"{name!r} has no list of marks")
        for mark in photo["marks"]:
            good = isinstance(mark, list) and len(mark) == 3 and mark[2] in MARKS
            _require(good and all(abs(_number(at)) < 1e6 for at in mark[:2]), f"{name!r} has the mark {mark}")


def _require(good: bool, problem: str) -> None:
    if not good:
        raise ValueError(problem)


def _number(value: Any) -> float:
    """Return a finite number, or NaN, which fails every comparison, for other values."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan


def is_session(file: Path) -> bool:
    """Return whether a file is a ZIP archive, but no spreadsheet: `read_session` says whether it is whole."""
    with contextlib.suppress(OSError, ValueError, *ZIP_ERRORS), zipfile.ZipFile(file) as archive:
        return not {"[Content_Types].xml", "mimetype"} & {*archive.namelist()}
    return False


def read_session(file: str | Path, folder: str | Path, force: bool = True) -> Session:
    """Unpack a session into a folder and return it; its photos lie in `photos/`, under clean names.

    Photos that are already there are not written again. Brushes are read from the disk when they are used; changes to
    them stay in memory. Raises CrackutilsError for a file that is not a session, is damaged, is of a newer version,
    declares far more data than it holds or leads outside the folder, for photos that differ from the saved ones, and,
    unless `force` is set, for other photos in their place.
    """
    file, folder = Path(file), Path(folder)
    try:
        with open(file, "rb") as opened:
            packed = opened.read(2) == b"PK"
        if not packed:
            raise CrackutilsError(f"{file} is not a session: it is not a ZIP archive. Give a saved session.")
        with zipfile.ZipFile(file) as archive:
            return _unpack(archive, file, folder, force)
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror or error}). Give a saved session.") from error
    except (*ZIP_ERRORS, ValueError, LookupError) as error:
        raise CrackutilsError(f"{file} is damaged ({error}). Copy it again, or save the session again.") from error


def _unpack(archive: zipfile.ZipFile, file: Path, folder: Path, force: bool) -> Session:
    entries = archive.infolist()
    for e in entries:
        refuse_entry(file, e.filename, stat.S_ISLNK(e.external_attr >> 16))
    packed = sum(e.compress_size for e in entries)
    large = [e.filename for e in entries if e.file_size > _RATIO * e.compress_size + _SMALL]
    if large or packed > file.stat().st_size:
        why = f"entries declare far more data than it holds ({name_some(large or [e.filename for e in entries])})"
        raise CrackutilsError(f"{file} is refused: {why}. Nothing was unpacked.")
    if _CONTENT not in archive.namelist():
        raise CrackutilsError(f"{file} is not a session: it holds no {_CONTENT}. Give a saved session.")
    _require(archive.getinfo(_CONTENT).file_size <= _LONGEST, f"{_CONTENT} is too large")
    content = json.loads(archive.read(_CONTENT))
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise CrackutilsError(f"{file} is not a session of this program. Give a saved session.")
    schema = content.get("schema")
    if isinstance(schema, int) and schema > _SCHEMA:
        raise CrackutilsError(f"{file} was saved by a newer version of crackutils. Update crackutils to open it.")
    _require(schema == _SCHEMA, f"its schema is {schema!r}")
    _check_content(content)
    names, needed = Names(), 0
    session = Session(**{name: content.get(name) for name in SETTINGS})
    for one in content["photos"]:
        session.photos[one["name"]] = target = folder / "photos" / names.give(one["name"])
        needed += 0 if target.is_file() else archive.getinfo(str(one["entry"])).file_size
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_space(file.name, needed, folder)
    for one in content["photos"]:
        name, entry = one["name"], archive.getinfo(str(one["entry"]))
        with archive.open(entry) as source:
            _write_photo(source, session.photos[name], entry.file_size, str(one.get("sha256")), printable(name), force)
        brush = _read_brush(archive, str(one["brush"]), folder / "brushes") if one.get("brush") else None
        session.edits[name] = Edits.from_row(one, brush)
    return session


def _write_photo(source: IO[bytes], target: Path, size: int, expected: str, name: str, force: bool) -> None:
    """Write a photo if it is not there yet; ValueError if it differs from the saved one."""
    here = target.stat().st_size if target.is_file() else 0
    if here == size and target.is_file() and sha256(target) == expected:
        return
    if here and not force:  # one without bytes is left by a power cut
        raise CrackutilsError(f"{target} differs from the photo in the session. Move it, or replace it with --force.")
    with replacing_file(target) as part:
        with open(part, "wb") as out:
            shutil.copyfileobj(source, out, _BLOCK)
        _require(sha256(part) == expected, f"the photo {name} differs from the saved one")


def _read_brush(archive: zipfile.ZipFile, entry: str, folder: Path) -> np.ndarray:
    """Return a brush, uint8 (h, w), of 0, 1 and 2, memory-mapped; ValueError for an invalid one."""
    _require(archive.getinfo(entry).file_size <= LARGEST * 10**6, f"{entry} is too large")
    raw = archive.read(entry)
    file = folder / f"{hashlib.sha256(raw).hexdigest()[:32]}.npy"
    if not file.is_file():
        try:
            with Image.open(io.BytesIO(raw), formats=("PNG",)) as picture:
                _require(picture.mode == "L" and picture.width * picture.height <= LARGEST * 10**6, f"invalid {entry}")
                brush = np.asarray(picture)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{entry} is not a brush: {error}") from error
        _require(int(brush.max()) <= ERASED, f"{entry} has other values than 0, 1 and 2")
        save_array(file, brush)
    return np.load(file, mmap_mode="c")
