"""Inspection of one photo: from file to map, mask, centre lines, table and pictures."""

import contextlib
import hashlib
import io
import json
import os
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import PIL
from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import hash_sources, write_atomically
from crackutils.images import DECODING, ImageError, decode_image, read_image
from crackutils.inspection.drawing import draw_overlay, encode_jpeg, encode_mask
from crackutils.inspection.exif import read_exif
from crackutils.inspection.export import assign_pixels, describe_areas, describe_lines, join_shares, share_over_limit
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.measure import LENGTHS, Piece, measure_cracks, nearest_cracks
from crackutils.inspection.numbering import number_cracks
from crackutils.inspection.session import ADDED, CONTRARY, ERASED, MARKS, Edits, LineMark, describe_contrary
from crackutils.inspection.tiling import CrackMap, Detector, map_photo, tile_probabilities

# longest cracks of a photo in the report's list, and cracks over the limit; they have their number in the picture
LISTED, OVER_LISTED = 10, 100
MARKED = 15  # largest distance of a user's mark from its centre line, pixels
UNUSABLE = (ImageError, MemoryError, cv2.error)  # errors of a photo
_CODE = hash_sources(Path(__file__).parent)
_RECORD = "found.json"
_PICTURES = ("overlay.jpg", "thumbnail.jpg", "mask.png")


@dataclass(frozen=True)
class Options:
    """Options of the inspection of a photo.

    threshold: probability at which a crack begins, above 0 and below 1; mm_per_pixel: scale, None for
    lengths in pixels; limit_mm: the largest allowed width; edits: a user's corrections, whose scale takes precedence;
    exif: whether camera, date and place are reported.
    """

    threshold: float
    mm_per_pixel: float | None = None
    limit_mm: float | None = None
    edits: Edits | None = None
    exif: bool = False

    @property
    def scale(self) -> float | None:
        """Millimetres per pixel, None where unknown."""
        return (self.edits.mm_per_pixel if self.edits else None) or self.mm_per_pixel


def folder_of(name: str, windows: bool = os.name == "nt") -> Path:
    """Return the folder of a photo's results, by its name with escapes; parts that are too long for disks are cut.

    On Windows, forbidden characters, as in sessions from other systems, are escaped too.
    """
    parts = []
    for part in Path(name).parts:
        part = re.sub(r'[<>:"|?*\x00-\x1f]', lambda sign: f"%{ord(sign[0]):02X}", part) if windows else part
        raw = part.encode()
        whole = len(raw) <= 255
        parts.append(part if whole else raw[:200].decode(errors="ignore") + hashlib.sha256(raw).hexdigest()[:8])
    return Path(*parts)


def read_photo(file: str | Path) -> np.ndarray:
    """Read one photo as `read_image` does; the CrackutilsError for one that cannot be used names the file."""
    try:
        return read_image(file)
    except ImageError as error:
        raise CrackutilsError(f"{file} {error}. Give another photo.") from error


def find_cracks(
    image: np.ndarray, seen: CrackMap, threshold: float, edits: Edits | None = None
) -> tuple[np.ndarray, pd.DataFrame, list[Piece]]:
    """Return mask, bool (h, w), and rows and pieces of `measure_cracks` in pixels, after a user's edits.

    Takes the photo, uint8 (h, w, 3), its map, and the threshold, above 0 and below 1. Pixels added by the brush are
    crack, whatever the network says. Cracks marked as joint or nothing are removed from all three; the others are not
    measured again. With edits, cracks have the numbers of `number_cracks`, and the table has a column confirmed, True
    for those marked as crack; its `attrs` hold "marks" (`LineMark`) by number, also of removed cracks, "note", on
    contradictory ones, whose cracks stay, and "numbers", for the next edits. Raises CrackutilsError for a brush of
    another size than the photo's, and for unknown marks.
    """
    mask = crack_mask(seen.pixels, threshold, seen.cells)
    if edits is not None and edits.brush is not None:
        if edits.brush.shape != mask.shape:
            sizes = " and ".join(f"{wide}x{high}" for high, wide in (edits.brush.shape[:2], mask.shape))
            raise CrackutilsError(f"The brush and its photo differ in size ({sizes} pixels). Paint on this photo anew.")
        mask = (mask | (edits.brush == ADDED)) & (edits.brush != ERASED)
    cracks, pieces = measure_cracks(image, mask, seen.pixels)
    if edits is None:
        return mask, cracks, pieces
    marks = _marked_cracks(pieces, edits)
    rejected = [crack for crack, mark in marks.items() if mark[2] in MARKS[1:]]
    if rejected:
        y, x, crack = assign_pixels(mask, pieces)
        gone = np.isin(crack, rejected)
        mask[y[gone], x[gone]] = False
    pieces.sort(key=lambda piece: piece.crack in rejected)  # cracks that are left get the first numbers
    number, numbers = number_cracks(pieces, edits.numbers)
    pieces = [replace(piece, crack=number[piece.crack]) for piece in pieces if piece.crack not in rejected]
    cracks = cracks[~cracks["crack"].isin(rejected)].reset_index(drop=True)
    cracks["confirmed"] = cracks["crack"].isin([crack for crack, mark in marks.items() if mark[2] == MARKS[0]])
    cracks["crack"] = cracks["crack"].map(number)
    cracks.attrs = {"marks": {number[crack]: mark for crack, mark in marks.items()}, "numbers": numbers}
    cracks.attrs["note"] = describe_contrary(cracks.attrs["marks"])
    return mask, cracks, pieces


def _marked_cracks(pieces: list[Piece], edits: Edits) -> dict[int, LineMark]:
    """Return where each marked crack is marked, by its number, and as what, whatever the order of its marks."""
    if unknown := [kind for _, _, kind in edits.marks if kind not in MARKS]:
        raise CrackutilsError(f"The mark {unknown[0]!r} is unknown. Use one of: {', '.join(MARKS)}.")
    nearest = nearest_cracks(pieces, [mark[:2] for mark in edits.marks], MARKED).tolist()
    marked = {}
    for crack in filter(None, nearest):
        own = sorted((m for one, m in zip(nearest, edits.marks, strict=True) if one == crack), key=lambda m: m[2])
        x, y, kind = own[-1]
        marked[crack] = x, y, CONTRARY if own[0][2] == MARKS[0] != kind else kind, own
    return marked


def list_cracks(cracks: pd.DataFrame, longest: int = LISTED) -> pd.DataFrame:
    """Return those of the rows of `join_shares` to list: over the limit, the widest first; then the longest others."""
    over = cracks["over_limit"] > 0 if "over_limit" in cracks else cracks["length"] < 0
    first = cracks[over].sort_values("width_most", ascending=False, kind="stable").index[:OVER_LISTED]
    return cracks.loc[[*first, *(row for row in cracks.index[:longest] if row not in first)]]


def inspect_photo(file: Path, folder: Path, net: Detector, options: Options) -> dict[str, Any]:
    """Find and measure the cracks of a photo, and write overlay.jpg, thumbnail.jpg, mask.png and the map into a folder.

    Returns problem (unused parts of the file, contradictory marks, else empty), cracks (rows of `measure_cracks`, in
    millimetres if a scale is given, else in pixels; None where unknown), listed (those of `list_cracks`), seen
    (whether a pixel reaches the threshold), tiles (rows of `tile_probabilities`), lines and areas (`describe_lines`,
    `describe_areas`), wide and high (pixels), with a limit, also in cracks, what `share_over_limit` returns, and with
    exif what `read_exif` does. With edits, it also has rejected (x, y and kind of the mark of each crack that the user
    has rejected), corrected (whether the user has marked or painted anything) and numbers, and the cracks have
    confirmed: see `find_cracks`. Raises `ImageError` for a photo that cannot be used, and CrackutilsError for edits
    that cannot.
    """
    image, _, note = decode_image(file)
    seen = cached_map(image, net, folder)
    threshold, mm_per_pixel, edits = options.threshold, options.scale, options.edits
    mask, cracks, pieces = find_cracks(image, seen, threshold, edits)
    likely, remembered = seen.pixels >= 255 * threshold, cracks.attrs
    if edits is not None and edits.corrected:  # no frames around rejected or erased cracks
        likely &= mask | ~crack_mask(seen.pixels, threshold, seen.cells)
        likely &= True if edits.brush is None else edits.brush != ERASED
    scale = mm_per_pixel or 1.0
    limit = options.limit_mm / scale if options.limit_mm else None
    cracks = join_shares(cracks, pieces, limit)
    listed = list_cracks(cracks)
    overlay = draw_overlay(image, likely | mask, pieces, 2000, mm_per_pixel, listed, limit)
    thumbnail = draw_overlay(image, likely | mask, pieces, 240, limit=limit)  # too small for a scale bar
    pictures = [encode_jpeg(Image.fromarray(picture), 85) for picture in (overlay, thumbnail)] + [encode_mask(mask)]
    (folder / _RECORD).unlink(missing_ok=True)  # pictures and numbers must come from the same call
    for name, content in zip(_PICTURES, pictures, strict=True):
        write_atomically(folder / name, content)
    cracks[LENGTHS] *= scale
    cracks["area"] *= scale**2
    cracks = cracks.round(4).astype(object).where(cracks.notna(), None)  # JSON has no NaN
    found = {"seen": bool(likely.any()), "cracks": cracks.to_dict("records")}
    found |= {"listed": cracks.loc[listed.index].to_dict("records")}
    found |= {"lines": describe_lines(pieces, mm_per_pixel, limit), "areas": describe_areas(mask, pieces)}
    found |= share_over_limit(pieces, limit) if limit else {}
    found |= {"exif": read_exif(file)} if options.exif else {}
    found |= {"tiles": tile_probabilities(seen.cells, net.share).to_dict("records")}
    if edits is not None:
        rejected = [{"x": x, "y": y, "kind": k} for x, y, k, _ in remembered["marks"].values() if k in MARKS[1:]]
        found |= {"rejected": rejected, "corrected": edits.corrected, "numbers": remembered["numbers"]}
        note = "; ".join(filter(None, [note, remembered["note"]]))
    return found | {"wide": image.shape[1], "high": image.shape[0], "problem": note}


def resume_photo(file: Path, folder: Path, net: Detector, options: Options, force: bool = False) -> dict[str, Any]:
    """Return the result of an earlier call for a photo if nothing has changed since, else `inspect_photo`.

    The result also has asked (what it depends on) and drawn (bytes of the pictures), and is written to found.json.
    For a photo that cannot be used it has only problem, the reason; the next call tries again. Raises CrackutilsError
    if a picture that the user has changed would be replaced, unless `force` is set.
    """
    found: dict[str, Any] = {"problem": "", "cracks": [], "tiles": []}
    try:
        state = file.stat()
    except OSError as error:
        return found | {"problem": f"cannot be read ({error.strerror})"}
    asked = {"model": net.key, "file": str(file), "bytes": state.st_size, "modified": state.st_mtime_ns, "code": _CODE}
    asked |= {"decoding": f"{DECODING} {PIL.__version__}"}
    asked |= vars(options) | {"edits": None if options.edits is None else options.edits.key}
    record, before = folder / _RECORD, {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or cut short when the power went
        before = dict(json.loads(record.read_text("utf-8")))
    here = {name: (folder / name).stat().st_size if (folder / name).is_file() else 0 for name in _PICTURES}
    if before.get("asked") == asked and before.get("drawn") == here:
        return before
    for name, size in before.get("drawn", {}).items():
        if not force and here.get(name, 0) not in (0, size):  # one without bytes is left by a power cut
            why = f"{folder / name} has been changed since it was written"
            raise CrackutilsError(f"{why}. Move it, or replace it with --force.")
    try:
        found = inspect_photo(file, folder, net, options)
        found = {"asked": asked, "problem": "", "cracks": [], "tiles": []} | found
    except UNUSABLE as error:
        return found | {"problem": describe_unusable(error)}
    found["drawn"] = {name: (folder / name).stat().st_size for name in _PICTURES}
    write_atomically(record, json.dumps(found))
    return found


def describe_unusable(error: Exception) -> str:
    """Return as text what one of `UNUSABLE` says of its photo."""
    if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
        return f"cannot be examined (OpenCV: {' '.join(error.err.split())})"
    return str(error) if isinstance(error, ImageError) else "needs more memory than there is"


def cached_map(image: np.ndarray, net: Detector, folder: Path) -> CrackMap:
    """Return `map_photo`, from map.npz in a folder if it is of the same pixels, network and code."""
    file, pixels = folder / "map.npz", hashlib.sha256(image.ravel()).hexdigest()
    key = json.dumps({"model": net.key, "shape": list(image.shape), "pixels": pixels, "code": _CODE})
    unread = contextlib.suppress(OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile)  # none, or cut short
    with unread, np.load(file) as kept:
        if str(kept["key"]) == key:
            return CrackMap(kept["pixels"], kept["cells"])
    found, content = map_photo(image, net), io.BytesIO()
    np.savez_compressed(content, pixels=found.pixels, cells=found.cells, key=key)
    write_atomically(file, content.getvalue())
    return found
