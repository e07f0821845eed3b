"""Preparation of an inspection: corrections of a session, and the scale of each photo."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import hash_sources, name_some, progress, write_atomically
from crackutils.images import READ, ImageError, read_image
from crackutils.inspection.photo import UNUSABLE, describe_unusable
from crackutils.inspection.scale import describe_marker, scale_of_marker
from crackutils.inspection.session import Edits, Session, read_session

_CODE = hash_sources(Path(__file__).parent)


def open_session(file: Path, folder: Path, mark: Path, force: bool) -> Session:
    """Return a session with its photos unpacked into a folder; `mark` is written first, so that a next call continues.

    If the folder is new and the session cannot be used, the folder is removed again. Raises CrackutilsError as
    `read_session` does, and for a session without photos.
    """
    new = not folder.exists() and not mark.exists()
    if new:
        write_atomically(mark, "{}")
    try:
        session = read_session(file, folder, force)
        if not session.photos:
            raise CrackutilsError(f"{file} is a session without photos. Add some and save it again.")
    except CrackutilsError:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
            mark.unlink()
            with contextlib.suppress(OSError):  # with --force it may hold files of the user
                mark.parent.rmdir()
        raise
    return session


def settle_options(session: Session, **options: float | None) -> list[float | None]:
    """Return options, with the session's value for each None; print those that differ from the session."""
    settled = []
    for name, given in options.items():
        saved = getattr(session, name)
        if given is not None and saved is not None and given != saved:
            print(f"--{name.replace('_', '-')} {given:g} is used, not {saved:g} of the session")
        settled.append(saved if given is None else given)
    return settled


def refuse_sizes(files: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
    """Raise CrackutilsError for a mask of another size than its photo, as far as the heads of the files show it."""
    for name, mask in masks.items():
        sizes = []
        for file in (mask, files[name]):
            with contextlib.suppress(Exception), Image.open(file, "r", READ) as image:  # whatever Pillow raises
                sizes += [image.size] * (image.format != "TIFF" or image.n_frames == 1)  # else another page may count
        if len(sizes) == 2 and sorted(sizes[0]) != sorted(sizes[1]):  # one of them may be turned by its EXIF
            told = " and ".join(f"{wide}x{high}" for wide, high in sizes)
            raise CrackutilsError(f"Mask {mask} and its photo differ in size ({told} pixels). Give one of its size.")


def choose_scales(
    files: Mapping[str, Path],
    edits: Mapping[str, Edits],
    mm_per_pixel: float | None,
    marker_mm: float | None,
    folders: Mapping[str, Path],
) -> tuple[dict[str, float | None], dict[str, str], dict[str, str]]:
    """Return millimetres per pixel of each photo, None for all in pixels; notes on doubtful scales; and their sources.

    A photo's own scale counts first (source: photo), then that of a marker with sides of `marker_mm` (marker), then
    `mm_per_pixel` (no source). The search for markers is cached as marker.json in the photo's folder, one of `folders`.
    Photos that cannot be read need no scale. Raises CrackutilsError if some photos would be in millimetres and others
    in pixels.
    """
    own = {name: edits[name].mm_per_pixel if name in edits else None for name in files}
    scales, notes, without, unread = own.copy(), {}, {}, set()
    searched = [name for name in files if own[name] is None] if marker_mm is not None else []
    for name in progress(searched, "looking for markers", len(searched), "photo") if searched else ():
        found = _marker_of(files[name], folders[name], marker_mm)
        scales[name] = found.get("mm_per_pixel")
        notes |= {name: found["note"]} if found.get("note") else {}
        without |= {name: found["without"]} if "without" in found else {}
        unread |= {name} if "unread" in found else set()
    sources = {name: "photo" if own[name] else "marker" for name, scale in scales.items() if scale is not None}
    scales = {name: mm_per_pixel if scale is None else scale for name, scale in scales.items()}
    rest = [name for name, scale in scales.items() if scale is None and name not in unread]
    if marker_mm is None:  # all may be in pixels
        rest = [name for name in rest if _is_readable(files[name])] if len(rest) < len(files) else []
    if rest:
        why = f"{len(rest):,} of {len(files):,} photos have no scale ({name_some(rest)})"
        first = next((f" {name}: {text}" for name, text in without.items() if "There is no" not in text), "")
        raise CrackutilsError(f"{why}.{first} Give --mm-per-pixel, or leave them out.")
    if without:
        print(f"photos without a usable marker, measured with --mm-per-pixel: {len(without):,} ({name_some(without)})")
    return scales, notes, sources


def _is_readable(file: Path) -> bool:
    with contextlib.suppress(ImageError, OSError):
        read_image(file)
        return True
    return False


def _marker_of(file: Path, folder: Path, side_mm: float) -> dict[str, Any]:
    """Return the search for a photo's marker: mm_per_pixel and note, or without (the reason), or unread."""
    try:
        state = file.stat()
    except OSError:
        return {"unread": True}
    asked = {"file": str(file), "bytes": state.st_size, "modified": state.st_mtime_ns, "side": side_mm, "code": _CODE}
    record = folder / "marker.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # none, or cut short when the power went
        before = json.loads(record.read_text("utf-8"))
        if before["asked"] == asked:
            return before["found"]
    try:
        marker = scale_of_marker(read_image(file), side_mm)
        found: dict[str, Any] = {"mm_per_pixel": marker.mm_per_pixel, "note": describe_marker(marker)}
    except ImageError:
        return {"unread": True}
    except CrackutilsError as error:
        found = {"without": str(error)}
    except UNUSABLE as error:  # one photo must not end the search in the others
        return {"without": f"It {describe_unusable(error)}."}
    write_atomically(record, json.dumps({"asked": asked, "found": found}))
    return found
