"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from crackutils.inspection.mask import BLOCK, GAP, RIM, cell_pixels, likely_cells
from crackutils.inspection.tiling import CELL, sigmoid


def centre_lines(mask: np.ndarray) -> np.ndarray:
    """Return the middle lines of cracks, bool (h, w), one pixel wide (Zhang, Suen 1984), across gaps of some pixels."""
    from skimage.morphology import skeletonize

    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GAP, GAP))
    rim = GAP // 2
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)[rim:-rim, rim:-rim]
    return skeletonize(closed.astype(bool))


def line_length(line: np.ndarray) -> float:
    """Return how long a line of one pixel's width is, pixels, with the estimator of Vossepoel and Smeulders (1982)."""
    line = np.pad(line, 1)
    straight, slanting = (np.zeros(line.shape, np.uint8) for _ in range(2))  # steps that begin or end at each pixel
    whole = np.s_[:]
    for rows, cols in (((whole, whole), (np.s_[1:], np.s_[:-1])), ((np.s_[1:], np.s_[:-1]), (whole, whole))):
        step = line[rows[0], cols[0]] & line[rows[1], cols[1]]
        straight[rows[0], cols[0]] += step
        straight[rows[1], cols[1]] += step
    for one, two in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
        step = line[:-1, two] & line[1:, one]
        step &= ~(line[:-1, one] | line[1:, two])  # two straight steps lead round this corner
        slanting[:-1, two] += step
        slanting[1:, one] += step
    turns = ((straight == 1) & (slanting == 1)).sum()
    return float(0.98 * straight.sum() / 2 + 1.406 * slanting.sum() / 2 - 0.091 * turns)


def measure_cracks(mask: np.ndarray, line: np.ndarray, odds: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return a row per crack: what touches along crack-like cells is one. Cells without any line are left out.

    Args:
        mask: as `crack_mask` returns it.
        line: as `middle_lines` returns it.
        odds: as `cells_of` returns them.
        threshold: as for `crack_mask`.

    Returns:
        x, y, width, height (box, pixels); x_top, y_top (topmost pixel of its line); p_crack, of its surest cell;
        length, of its middle line with all branches; area; width_mean (area by length where it is more than a pixel
        wide; 1 if it is nowhere) and width_most, all in pixels. Cracks of more than about 40 pixels across are not
        measured rightly: their middle is as bright as what surrounds it.
    """
    _, near = likely_cells(odds, threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8), connectivity=8)
    rows = []
    for number in range(1, count):
        left, top, wide, high = (int(v) for v in stats[number, :4])
        cells = labels[top : top + high, left : left + wide] == number
        box = np.s_[top * CELL : (top + high) * CELL, left * CELL : (left + wide) * CELL]
        here = cell_pixels(cells, mask[box].shape)
        own, part = line[box] & here, mask[box] & here
        length = line_length(own)
        if not length:
            continue
        y, x = (int(v[0]) for v in np.nonzero(own))
        surest = float(sigmoid(odds[top : top + high, left : left + wide][cells].max()))
        row = {"x": left * CELL, "y": top * CELL, "width": part.shape[1], "height": part.shape[0]}
        row |= {"x_top": left * CELL + x, "y_top": top * CELL + y, "p_crack": surest}
        row |= {"length": length, "area": int(part.sum()), "width_mean": _mean_width(part, own)}
        rows.append(row | {"width_most": _widest(part)})
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("length", ascending=False, ignore_index=True)


def _mean_width(mask: np.ndarray, line: np.ndarray) -> float:
    """Return area by length where a crack is more than a pixel wide: a path that was followed tells no width."""
    wide = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    length = line_length(line & cv2.dilate(wide, np.ones((3, 3), np.uint8)).astype(bool))
    return float(wide.sum() / length) if length else 1.0


def _widest(mask: np.ndarray) -> float:
    """Return the largest width in a mask, pixels: of lines twice as fine, so that even widths have a middle as well."""
    most = 0.0
    for top in range(0, mask.shape[0], BLOCK):
        for left in range(0, mask.shape[1], BLOCK):
            y, x = max(0, top - RIM), max(0, left - RIM)
            part = mask[y : top + BLOCK + RIM, x : left + BLOCK + RIM].astype(np.uint8)
            fine = np.pad(cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), 1)
            most = max(most, float(cv2.distanceTransform(fine, cv2.DIST_L2, 5).max()))
    return most


COLUMNS = ["x", "y", "width", "height", "x_top", "y_top", "p_crack", "length", "area", "width_mean", "width_most"]
