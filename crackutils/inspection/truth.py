"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from crackutils.inspection.lines import centre_lines, measure_cracks
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.tiling import TILE
from crackutils.synthetic.scene import Photo


def compare_with_truth(shot: Photo, mask: np.ndarray, lines: pd.DataFrame) -> dict[str, Any]:
    """Return what was found in a photo made by code beside what is there.

    Args:
        shot: the photo.
        mask: as `crack_mask` returns it.
        lines: as `cracks` returns them.

    Returns:
        style; iou of found and true pixels; true_found and found_true, shares of true pixels that have a found one
        within 4 pixels, and the other way round (None where there are none); length_true and length, pixels, and
        length_error, their difference as a share of the true length.
    """
    truth, near = shot.mask > 127, np.ones((9, 9), np.uint8)
    around = [cv2.dilate(m.astype(np.uint8), near).astype(bool) for m in (mask, truth)]
    true_length, length = _length_of(shot), float(lines["length"].sum())
    share = lambda part, of: float((part & of).sum() / of.sum()) if of.any() else None  # noqa: E731
    return {
        "style": shot.facts["style"],
        "iou": float((mask & truth).sum() / max(1, (mask | truth).sum())),
        "true_found": share(around[0], truth),
        "found_true": share(around[1], mask),
        "length_true": true_length,
        "length": length,
        "length_error": (length - true_length) / true_length if true_length else None,
    }


def _length_of(shot: Photo) -> float:
    """Return the length of all cracks and branches inside a photo, pixels."""
    total, (h, w) = 0.0, shot.mask.shape
    for line in shot.lines:
        steps, middles = np.diff(line[:, :2], axis=0), (line[1:, :2] + line[:-1, :2]) / 2
        inside = ((middles >= 0) & (middles < (w, h))).all(1)
        total += float(np.hypot(*steps[inside].T).sum())
    return total


def cracked_tiles(mask: np.ndarray, least: int = 24) -> pd.DataFrame:
    """Return a row per tile as `tiles` has them: row, col, crack (1 where at least so many pixels of it are crack)."""
    rows = []
    for row in range(math.ceil(mask.shape[0] / TILE)):
        for col in range(math.ceil(mask.shape[1] / TILE)):
            part = mask[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
            rows.append({"row": row, "col": col, "crack": int((part > 127).sum() >= least)})
    return pd.DataFrame(rows)


def compare_at_threshold(shots: Sequence[Photo], odds: Sequence[np.ndarray], threshold: float) -> dict[str, float]:
    """Return what `against` says of photos at another threshold: medians, those of length_error without its sign."""
    rows = []
    for shot, cells in zip(shots, odds, strict=True):
        mask = crack_mask(shot.image, cells, threshold)
        rows.append(compare_with_truth(shot, mask, measure_cracks(mask, centre_lines(mask), cells, threshold)))
    table = pd.DataFrame(rows).astype({"length_error": float, "found_true": float, "true_found": float})
    table["length_error"] = table["length_error"].abs()
    middle = table[["iou", "true_found", "found_true", "length_error"]].median()
    return {"threshold": threshold} | {name: float(value) for name, value in middle.items()}


def save_photos(shots: Sequence[Photo], folder: Path) -> pd.DataFrame:
    """Save photos made by code as JPEG, as a camera would, and return labels of their tiles as `ranked` wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    for before in folder.glob("made-*.jpg"):  # of a call with more photos
        before.unlink()
    labels = []
    for k, shot in enumerate(shots):
        Image.fromarray(shot.image).save(folder / f"made-{k:02d}.jpg", quality=90)
        labels.append(cracked_tiles(shot.mask).assign(photo=f"made-{k:02d}.jpg"))
    return pd.concat(labels, ignore_index=True)
