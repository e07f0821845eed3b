"""Photos that a user has corrected, in a session or with masks, and labelled tiles of them: for `adapt`."""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.detector.runs import SHIPPED
from crackutils.files import explain_write_errors, name_some, progress
from crackutils.folders import find_pictures, print_left_out
from crackutils.images import ImageError, read_image
from crackutils.inspection.export import assign_pixels
from crackutils.inspection.photo import find_cracks
from crackutils.inspection.session import ADDED, read_session
from crackutils.inspection.tiling import TILE, cut_tiles, load_detector, map_photo
from crackutils.inspection.truth import find_masks, match_masks, read_mask
from crackutils.userfiles.write import table_bytes

_CRACKED = 24  # pixels of crack from which a tile counts as cracked
Shot = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, photo, pixels of cracks, pixels of possible cracks


@contextlib.contextmanager
def corrected_photos(origin: Path, out: Path, model: Path | None, engine: str) -> Iterator[tuple[Path, Iterator[Shot]]]:
    """Yield a temporary folder beside `out`, and the photos that a user has corrected.

    `origin` is a session, whose photos with marks or paint count, or a folder with complete masks (`pair_masks`; white
    is crack). Cracks are confirmed, painted or masked ones. CrackutilsError: a session or folder that cannot be used.
    """
    with explain_write_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        held = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent)
    with held as work:
        corrected = _corrected(origin, Path(work), Path(model or SHIPPED), engine)
        yield Path(work), _masked(origin) if origin.is_dir() else corrected


@contextlib.contextmanager
def labelled_tiles(origin: Path, out: Path, model: Path | None, engine: str) -> Iterator[Path]:
    """Yield a table for `adapt` of tiles of 256x256 pixels, which lie beside `out` during the block.

    The arguments are those of `corrected_photos`. A tile with at least 24 pixels of cracks is cracked; a tile without a
    possible one is free. Other tiles are left out, and so are tiles cut by the photo's border. Prints the numbers.
    Raises CrackutilsError as `corrected_photos` does, if a class is missing, and for fewer than ten tiles.
    """
    with corrected_photos(origin, out, model, engine) as (work, shots):
        rows, doubtful, seen = [], 0, set()
        for name, image, cracked, possible in shots:
            for row, col, tile in cut_tiles(cracked, TILE):
                place = np.s_[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
                if tile.shape != (TILE, TILE):
                    continue
                if (label := int(tile.sum() >= _CRACKED)) == 0 and possible[place].any():
                    doubtful += 1
                    continue
                Image.fromarray(image[place]).save(content := io.BytesIO(), "PNG")
                if (digest := hashlib.sha256(content.getvalue()).hexdigest()) not in seen:  # equal tiles count once
                    seen.add(digest)
                    (work / f"{digest}.png").write_bytes(content.getvalue())
                    rows.append({"file": f"{digest}.png", "label": label, "photo": name})
        table = pd.DataFrame(rows, columns=["file", "label", "photo"])
        cracks, photos = int(table["label"].sum()), table["photo"].nunique()
        told = f"{len(table):,} tiles of {photos:,} corrected photos: {cracks:,} cracked, {len(table) - cracks:,} free"
        if len(table) < 10 or not 0 < cracks < len(table):
            raise CrackutilsError(f"{origin} gives {told}. Correct more: confirm or paint cracks, reject false ones.")
        print(f"{told}; left out as doubtful: {doubtful:,}")
        (work / "labels.csv").write_bytes(table_bytes(table))
        yield work / "labels.csv"


def _corrected(file: Path, work: Path, model: Path, engine: str) -> Iterator[Shot]:
    session = read_session(file, work / "session")
    names = [name for name in session.photos if session.edits[name].corrected]
    net = load_detector(model, engine) if names else None
    for name, image in _readable({name: session.photos[name] for name in names}) if names else ():
        edits = session.edits[name]
        mask, cracks, pieces = find_cracks(image, map_photo(image, net), session.threshold, edits)
        y, x, crack = assign_pixels(mask, pieces)
        cracked = mask & (edits.brush == ADDED) if edits.brush is not None else np.zeros_like(mask)
        sure = np.isin(crack, cracks["crack"][cracks["confirmed"]])
        cracked[y[sure], x[sure]] = True
        yield name, image, cracked, mask


def pair_masks(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return photo and mask by the photo's name (`match_masks`): of images/ and masks/, or beside each other."""
    apart = all((folder / name).is_dir() for name in ("images", "masks"))
    home = folder / "images" if apart else folder
    pictures, left_out = find_pictures(home)
    print_left_out(left_out)
    files = {file.relative_to(home).as_posix(): file.absolute() for file in pictures}
    if not apart and not match_masks(files, files):
        remedy = "For wall.jpg, name the mask wall_mask.png, or use folders images/ and masks/"
        raise CrackutilsError(f"{folder} holds no photo with a mask beside it. {remedy}.")
    masks = find_masks(files, folder / "masks" if apart else home)  # which tells what is alone
    return {name: (files[name], mask) for name, mask in masks.items()}


def _masked(folder: Path) -> Iterator[Shot]:
    pairs = pair_masks(folder)
    for name, image in _readable({name: file for name, (file, _) in pairs.items()}):
        yield name, image, (truth := read_mask(pairs[name][1], image.shape[:2])), truth


def _readable(files: dict[str, Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and photos, and print which ones cannot be used, and why."""
    unread = []
    for name, file in progress(files.items(), "corrected photos", len(files), "photo"):
        try:
            yield name, read_image(file)
        except ImageError as error:
            unread.append(f"{name} {error}")
    if unread:
        print(f"photos that cannot be used: {len(unread):,} ({name_some(unread)})")
