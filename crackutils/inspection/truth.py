"""Comparison with true masks, of a user's photos and of synthetic photos."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from crackutils.config import CrackutilsError
from crackutils.files import as_text, name_some, printable
from crackutils.folders import find_pictures
from crackutils.images import READ, ImageError, read_image
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.measure import find_lines
from crackutils.inspection.tiling import TILE, CrackMap, cut_tiles
from crackutils.synthetic.scene import Photo
from crackutils.userfiles.names import match_names

NEAR = 4  # largest distance between matching found and true centre lines, pixels
_DISK = (np.hypot(*np.mgrid[-NEAR : NEAR + 1, -NEAR : NEAR + 1]) <= NEAR).astype(np.uint8)
_END = re.compile(r"[._-]mask(?=\.\w+$)", re.IGNORECASE)  # of the names of masks, before the suffix
SCORES = ["iou", "f1", "precision", "recall", "line_f1", "line_precision", "line_recall", "length_error"]


def compare_masks(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Count what `score_counts` needs: pixels, pixels of centre lines, and lengths, of a found and a true mask.

    Both are bool (h, w); centre lines are from `find_lines`. line_found_right counts pixels of found lines with a true
    line within 4 pixels, line_true_found pixels of true lines with a found one.
    """
    counts, lines = {"found": int(mask.sum()), "true": int(truth.sum()), "both": int((mask & truth).sum())}, {}
    for kind, part in (("found", mask), ("true", truth)):
        paths, points, _ = find_lines(part)
        lines[kind] = np.zeros(mask.shape, np.uint8)
        for path in paths:
            lines[kind][path[:, 1], path[:, 0]] = 1
        counts[f"line_{kind}"] = int(lines[kind].sum())
        counts[f"length_{kind}"] = float(sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in points))
    counts["line_found_right"] = int((lines["found"] & cv2.dilate(lines["true"], _DISK)).sum())
    counts["line_true_found"] = int((lines["true"] & cv2.dilate(lines["found"], _DISK)).sum())
    return counts


def score_counts(counts: pd.DataFrame) -> pd.DataFrame:
    """Return scores in front of rows of `compare_masks`; NaN for shares of nothing.

    iou, f1, precision and recall are of pixels. line_precision and line_recall are the shares of pixels of found centre
    lines with a true one within 4 pixels, and of true ones with a found one; line_f1 is their harmonic mean.
    length_error is found minus true length, as a share of the true one.
    """
    c = counts
    scores = {"iou": c["both"] / (c["found"] + c["true"] - c["both"]), "f1": 2 * c["both"] / (c["found"] + c["true"])}
    scores |= {"precision": c["both"] / c["found"], "recall": c["both"] / c["true"]}
    p, r = c["line_found_right"] / c["line_found"], c["line_true_found"] / c["line_true"]
    lineless = c["line_found"] + c["line_true"] == 0
    scores["line_f1"] = (2 * p * r / (p + r)).fillna(0).mask(lineless)  # if only one of them has lines, all are wrong
    scores |= {"line_precision": p, "line_recall": r}
    scores["length_error"] = (c["length_found"] - c["length_true"]) / c["length_true"].replace(0, np.nan)
    return pd.concat([pd.DataFrame(scores), c], axis=1)


_ALIKE = "Name them alike: wall.jpg and wall.png, or, beside a wall.tif, wall.jpg and wall.jpg.png"


def find_masks(photos: Mapping[str, Any], folder: Path, photo: str = "photo", mask: str = "mask") -> dict[str, Path]:
    """Return the masks of photos in a folder (`match_masks`); print what is alone. CrackutilsError if there is none."""
    if not (folder := Path(os.path.abspath(folder))).is_dir():
        raise CrackutilsError(f"{folder} is not a folder. Give the folder with the masks.")
    masks = {as_text(file.relative_to(folder).as_posix()): file for file in find_pictures(folder)[0]}
    if not (found := match_masks(photos, masks)):
        raise CrackutilsError(f"No {mask} in {folder} is named like a {photo}. {_ALIKE}.")
    used = {*map(_real, found.values())}
    if rest := [name for name, file in photos.items() if name not in found and _real(file) not in used]:
        print(f"{photo}s without a {mask}: {len(rest):,} ({name_some(rest)})")
    used |= {*map(_real, photos.values())}
    if rest := [name for name, file in masks.items() if _real(file) not in used]:
        print(f"{mask}s without a {photo}: {len(rest):,} ({name_some(rest)})")
    return found


def _real(file: Path | None) -> str:
    """Return one path for all ways to a file; empty for none."""
    return os.path.realpath(file) if file else ""


def match_masks(photos: Mapping[str, Path | None], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Return the masks of photos, both files by name: alike but for folders, suffix, and _mask, -mask or .mask.

    A mask belongs to one photo: wall.jpg and wall.tif need wall.jpg.png and wall.tif.png. Photos may lie among the
    masks: only a PNG is then the mask of another photo.
    """
    stem = {name: posixpath.splitext(_END.sub("", name))[0] for name in photos}
    bare = {stem[name] for name in photos if not _END.search(name)}
    real = {k: _real(file) for k, file in photos.items() if not _END.search(k) or stem[k] not in bare}
    known, found = {*real.values()}, {}
    ordered = sorted(masks.items(), key=lambda one: bool(_END.search(one[0])))  # of equal names the last wins
    ordered = [(name, file) for name, file in ordered if file.suffix.lower() == ".png" or _real(file) not in known]
    named = {_END.sub("", name): file for name, file in ordered}
    times = Counter(cut := [posixpath.splitext(name)[0] for name in named])
    spelt = {one: name for one, name in zip(cut, named, strict=True) if times[one] == 1}  # before `match_names`
    whole, last = list(map(stem.get, real)), [posixpath.basename(stem[photo]) for photo in real]
    for stems, count in (([f"{photo}.png" for photo in real], {}), (whole, {}), (last, Counter(last))):
        names = [spelt.get(one, name) for one, name in zip(stems, match_names(stems, named), strict=True)]
        files = zip(real, map(named.get, names), strict=True)
        given = {photo: file for photo, file in files if _real(file) not in ("", real[photo])}
        times = Counter([*given.values(), *found.values()])
        for photo, one in zip(real, stems, strict=True):
            if count.get(one, 1) == times[given.get(photo)] == 1:
                found.setdefault(photo, given[photo])
    return found


def read_mask(file: Path, shape: tuple[int, int] | None = None, true: bool = True) -> np.ndarray:
    """Return a mask as bool (h, w): white is crack, or, where nothing is above 127, whatever is not 0.

    Transparent pixels are no crack; if all others are black, these are. Raises CrackutilsError for an unusable file,
    another height and width than `shape`, a `true` mask that is mostly white, and a found one that may hold
    probabilities: mostly grey, or of several values, but none above 127.
    """
    try:
        values = read_image(file).max(2)
        with Image.open(file, "r", READ) as opened:
            opened.filename = ""  # as in `images.decode_image`
            whole = sorted(opened.size) == sorted(values.shape)  # else `read_image` took another page
            if whole and opened.has_transparency_data:
                alpha = np.asarray(ImageOps.exif_transpose(opened.convert("RGBA")).getchannel("A"))
                values = np.where(alpha > 127, values, 0)
                values = values if values.any() or alpha.min() > 127 else alpha  # black strokes on nothing
            elif whole and opened.mode.startswith("I") and np.asarray(opened).max() < 256:  # else scaled to 0
                values = np.asarray(ImageOps.exif_transpose(opened)).astype(np.uint8)
    except ImageError as error:
        raise CrackutilsError(f"{file} {error}. Save it again, or take it out of the folder of masks.") from error
    if shape and values.shape != shape:
        sizes = " and ".join(f"{wide}x{high}" for high, wide in (values.shape, shape))
        raise CrackutilsError(f"{file} and its photo differ in size ({sizes} pixels). Give a mask of the photo's size.")
    counts, mask = np.bincount(values.ravel(), minlength=256), values > (127 if values.max() > 127 else 0)
    grey = counts[33 : int(0.87 * values.max())].sum() > 0.85 * counts[33:].sum()  # soft rims of lines are less
    if true and mask.mean() > 0.5:
        why = f"{file} is white in more than half of its pixels, so it is no mask of cracks"
        raise CrackutilsError(f"{why}. Paint cracks white and the rest black, or move the file.")
    if not true and (((levels := (counts > 0).sum()) > 32 and grey) or (levels > 2 and values.max() <= 127)):
        raise CrackutilsError(f"{file} has many grey values, as probabilities do. Save crack as 255, the rest as 0.")
    return mask


def summarize_truth(counts: dict[str, dict]) -> pd.DataFrame:
    """Return a table of `score_counts` with a row per photo and one called "all", of the sums; print its scores."""
    table = pd.DataFrame(list(counts.values()), index=list(counts))
    table = score_counts(pd.concat([table, table.sum().to_frame("all").T]))
    print(table[SCORES].round(3).rename(printable).to_string(na_rep="-"))
    error = table["length_error"][:-1].abs().median()
    told = "no crack in the true masks" if np.isnan(error) else f"length error {error:.1%} (median of absolute values)"
    print(f"lines agree within {NEAR} pixels; {told}")
    return table.rename_axis("file").reset_index()


def compare_with_truth(shot: Photo, mask: np.ndarray) -> dict[str, Any]:
    """Return style and `compare_masks` for a synthetic photo and its mask from `crack_mask`.

    Parts of cracks that are too thin for the true mask do not count, found or not. length_true is the length of the
    drawn lines within 4 pixels of the true mask, in pixels.
    """
    truth, drawn, length = shot.mask > 127, np.zeros(shot.mask.shape, np.uint8), 0.0
    shown = cv2.dilate(truth.view(np.uint8), _DISK) > 0
    for line in shot.lines:  # cracks and branches, without parts outside the photo
        steps, middles = np.diff(line[:, :2], axis=0), (line[1:, :2] + line[:-1, :2]) / 2
        inside = ((middles >= 0) & (middles < truth.shape[::-1])).all(1)
        x, y = middles[inside].astype(int).T
        drawn[y, x] = 1
        length += float(np.hypot(*steps[inside].T)[shown[y, x]].sum())
    counts = compare_masks(mask & (shown | (cv2.dilate(drawn, _DISK) == 0)), truth)
    return {"style": shot.facts["style"]} | counts | {"length_true": length}


def compare_at_threshold(shots: Sequence[Photo], maps: Sequence[CrackMap], threshold: float) -> dict[str, float]:
    """Return medians over photos of scores at a threshold; length_error is absolute."""
    both = zip(shots, maps, strict=True)
    rows = [compare_with_truth(shot, crack_mask(seen.pixels, threshold, seen.cells)) for shot, seen in both]
    return {"threshold": threshold} | score_counts(pd.DataFrame(rows))[SCORES].abs().median().to_dict()


def save_photos(shots: Sequence[Photo], folder: Path) -> pd.DataFrame:
    """Save synthetic photos as JPEG; return labels as `read_tile_labels`: a tile with 24 pixels of crack is cracked."""
    folder.mkdir(parents=True, exist_ok=True)
    for before in folder.glob("made-*.jpg"):  # of a call with more photos
        before.unlink()
    labels = []
    for k, shot in enumerate(shots):
        name = f"made-{k:02d}.jpg"
        Image.fromarray(shot.image).save(folder / name, quality=90)
        for row, col, tile in cut_tiles(shot.mask, TILE):
            labels.append({"row": row, "col": col, "crack": int((tile > 127).sum() >= 24), "photo": name})
    return pd.DataFrame(labels)
