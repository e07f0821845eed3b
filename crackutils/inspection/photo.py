"""One photo: its way from file to map, mask, centre lines, table and pictures."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import hash_sources, save_array, write_atomically
from crackutils.images import DECODING, ImageError, decode_image
from crackutils.inspection.drawing import draw_overlay, encode_jpeg
from crackutils.inspection.mask import crack_mask, likely_cells
from crackutils.inspection.measure import LENGTHS, centre_lines, measure_cracks
from crackutils.inspection.tiling import Detector, cell_logits, crack_map, tile_probabilities

LISTED = 10  # cracks of a photo that the report lists, and that have their number in the picture
UNUSABLE = (ImageError, MemoryError, cv2.error)  # what a photo may raise
_CODE = hash_sources(Path(__file__).parent)
_PICTURES = ("overlay.jpg", "thumbnail.jpg")


def folder_of(name: str) -> Path:
    """Return the folder of a photo's results, its name; parts that escapes make longer than disks allow are cut."""
    parts = []
    for part in Path(name).parts:
        raw = part.encode()
        whole = len(raw) <= 255
        parts.append(part if whole else raw[:200].decode(errors="ignore") + hashlib.sha256(raw).hexdigest()[:8])
    return Path(*parts)


def inspect_photo(file: Path, folder: Path, net: Detector, threshold: float, mm_per_pixel: float | None) -> dict:
    """Find and measure the cracks of a photo, and write overlay.jpg, thumbnail.jpg and the map into a folder.

    Returns problem (what of the file is not used, else empty), cracks (rows of `measure_cracks`, in millimetres if a
    scale is given, else in pixels), framed (whether the overlay frames a cell), tiles (rows of `tile_probabilities`),
    wide and high (pixels). Raises `ImageError` for a photo that cannot be used.
    """
    image, _, note = decode_image(file)
    maps = cached_map(image, net, folder)
    logits = cell_logits(maps)
    mask = crack_mask(image, logits, threshold)
    line = centre_lines(mask)
    cracks = measure_cracks(mask, line, logits, threshold)
    overlay = draw_overlay(image, logits, line, threshold, 2000, mm_per_pixel, cracks.head(LISTED))
    thumbnail = draw_overlay(image, logits, line, threshold, 240)  # too small for a scale bar
    for name, picture in zip(_PICTURES, (overlay, thumbnail), strict=True):
        write_atomically(folder / name, encode_jpeg(Image.fromarray(picture), 85))
    cracks[LENGTHS] *= mm_per_pixel or 1.0
    cracks["area"] *= (mm_per_pixel or 1.0) ** 2
    tiles = tile_probabilities(maps, net.share)
    framed = bool(likely_cells(logits, threshold)[0].any())
    tables = {"framed": framed, "cracks": cracks.round(4).to_dict("records"), "tiles": tiles.to_dict("records")}
    return tables | {"wide": image.shape[1], "high": image.shape[0], "problem": note}


def resume_photo(
    file: Path, folder: Path, net: Detector, threshold: float, mm_per_pixel: float | None, force: bool = False
) -> dict:
    """Return what an earlier call found in a photo where nothing has changed since, else `inspect_photo`.

    It gains asked (what it depends on) and drawn (sizes of the pictures, bytes), and is written to found.json. Of a
    photo that cannot be used it has only problem, which says why: the next call tries again. Raises CrackutilsError
    where a picture is to be replaced that the user has changed, unless `force`.
    """
    found: dict[str, Any] = {"problem": "", "cracks": [], "tiles": []}
    try:
        state = file.stat()
    except OSError as error:
        return found | {"problem": f"cannot be read ({error.strerror})"}
    asked = {"model": net.key, "file": str(file), "bytes": state.st_size, "modified": state.st_mtime_ns, "code": _CODE}
    asked |= {"decoding": f"{DECODING} {PIL.__version__}", "threshold": threshold, "mm_per_pixel": mm_per_pixel}
    record, before = folder / "found.json", {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or cut short when the power went
        before = dict(json.loads(record.read_text("utf-8")))
    if before.get("asked") == asked and all((folder / name).is_file() for name in _PICTURES):
        return before
    for name, size in before.get("drawn", {}).items():
        if not force and (folder / name).is_file() and (folder / name).stat().st_size != size:
            why = f"{folder / name} has been changed since it was written"
            raise CrackutilsError(f"{why}. Move it, or replace it with --force.")
    record.unlink(missing_ok=True)  # pictures and numbers must not come from two calls
    try:
        found = {"asked": asked} | found | inspect_photo(file, folder, net, threshold, mm_per_pixel)
    except UNUSABLE as error:
        return found | {"problem": str(error) if isinstance(error, ImageError) else "needs more memory than there is"}
    found["drawn"] = {name: (folder / name).stat().st_size for name in _PICTURES}
    write_atomically(record, json.dumps(found))
    return found


def cached_map(image: np.ndarray, net: Detector, folder: Path) -> np.ndarray:
    """Return `crack_map`, from map.npy in a folder where it was made of the same pixels, network and code."""
    file, made_of = folder / "map.npy", folder / "map.json"
    pixels = hashlib.sha256(image.ravel()).hexdigest()
    key = {"model": net.key, "shape": list(image.shape), "pixels": pixels, "code": _CODE}
    with contextlib.suppress(OSError, ValueError, EOFError):  # none, or cut short when the power went
        if json.loads(made_of.read_text("utf-8")) == key:
            return np.load(file)
    made_of.unlink(missing_ok=True)
    maps = crack_map(image, net)
    save_array(file, maps)
    write_atomically(made_of, json.dumps(key))
    return maps
