"""Comparison with synthetic photos, of which every crack is known to the pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crackutils.inspection.mask import crack_mask, dilate
from crackutils.inspection.measure import centre_lines, measure_cracks
from crackutils.inspection.tiling import TILE, cut_tiles
from crackutils.synthetic.scene import Photo


def compare_with_truth(shot: Photo, mask: np.ndarray, cracks: pd.DataFrame) -> dict[str, Any]:
    """Compare what `crack_mask` and `measure_cracks` found in a synthetic photo with the truth.

    iou is that of found and true pixels; true_found the share of true pixels that have a found one within 4 pixels, and
    found_true the share of found pixels that have a true one so near (None where there are none); length_error the
    difference of length and length_true (pixels) as a share of the latter.
    """
    truth, length, true_length = shot.mask > 127, float(cracks["length"].sum()), 0.0
    for line in shot.lines:  # cracks and branches; what lies outside the photo does not count
        steps, middles = np.diff(line[:, :2], axis=0), (line[1:, :2] + line[:-1, :2]) / 2
        inside = ((middles >= 0) & (middles < truth.shape[::-1])).all(1)
        true_length += float(np.hypot(*steps[inside].T).sum())
    share = lambda part, of: float((part & of).sum() / of.sum()) if of.any() else None  # noqa: E731
    iou = float((mask & truth).sum() / max(1, (mask | truth).sum()))
    found = {"style": shot.facts["style"], "iou": iou, "true_found": share(dilate(mask, 9), truth)}
    found |= {"found_true": share(dilate(truth, 9), mask), "length_true": true_length, "length": length}
    return found | {"length_error": (length - true_length) / true_length if true_length else None}


def compare_at_threshold(shots: Sequence[Photo], logits: Sequence[np.ndarray], threshold: float) -> dict[str, float]:
    """Return the medians over photos of `compare_with_truth` at a threshold, that of length_error without its sign."""
    rows = []
    for shot, cells in zip(shots, logits, strict=True):
        mask = crack_mask(shot.image, cells, threshold)
        rows.append(compare_with_truth(shot, mask, measure_cracks(mask, centre_lines(mask), cells, threshold)))
    table = pd.DataFrame(rows)[["iou", "true_found", "found_true", "length_error"]].astype(float)
    return {"threshold": threshold} | table.abs().median().to_dict()  # no share is below 0


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
