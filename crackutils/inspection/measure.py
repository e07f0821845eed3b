"""Length and width of cracks: from a mask to centre lines, and to a table with a row per crack."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
from skimage.morphology import skeletonize

from crackutils.detector.pooling import CELL
from crackutils.inspection.mask import BLOCK, GAP, RIM, cell_pixels, dilate, likely_cells
from crackutils.inspection.tiling import sigmoid

LENGTHS = ["length", "width_mean", "width_most"]
COLUMNS = ["x", "y", "width", "height", "x_top", "y_top", "p_crack", "length", "area", "width_mean", "width_most"]


def centre_lines(mask: np.ndarray) -> np.ndarray:
    """Return the centre lines of cracks, bool (h, w), one pixel wide (Zhang, Suen 1984), across gaps of some pixels."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GAP, GAP))
    rim = GAP // 2
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)[rim:-rim, rim:-rim]
    return skeletonize(closed.astype(bool))


def measure_cracks(mask: np.ndarray, line: np.ndarray, logits: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return a row per crack, the longest first. Lines in touching crack-like cells are one crack.

    Args: as `crack_mask`, `centre_lines` and `cell_logits` return them, and the threshold of `crack_mask`.

    Returns:
        x, y, width, height (box, pixels); x_top, y_top (topmost pixel of its line); p_crack, of its most crack-like
        cell; length, of its centre line with all branches; area; width_mean (area by length where it is more than a
        pixel wide; 1 if it is nowhere) and width_most, all in pixels. Cracks wider than about 40 pixels are measured
        wrongly: their middle is as bright as what surrounds it.
    """
    _, near = likely_cells(logits, threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8), connectivity=8)
    rows = []
    for number in range(1, count):
        left, top, wide, high = (int(v) for v in stats[number, :4])
        cells = labels[top : top + high, left : left + wide] == number
        box = np.s_[top * CELL : (top + high) * CELL, left * CELL : (left + wide) * CELL]
        here = cell_pixels(cells, mask[box].shape)
        own, part = line[box] & here, mask[box] & here
        length = line_length(own)
        if not length:  # crack-like cells without a line
            continue
        y, x = (int(v[0]) for v in np.nonzero(own))
        p_crack = float(sigmoid(logits[top : top + high, left : left + wide][cells].max()))
        row = (left * CELL, top * CELL, part.shape[1], part.shape[0], left * CELL + x, top * CELL + y, p_crack)
        rows.append((*row, length, int(part.sum()), _mean_width(part, own), _largest_width(part)))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("length", ascending=False, ignore_index=True)


def line_length(line: np.ndarray) -> float:
    """Return the length of a line of one pixel's width, bool (h, w), in pixels (Vossepoel, Smeulders 1982).

    By hand: scikit-image has only the perimeter of areas.
    """
    line = np.pad(line, 1)
    straight, slanting = (np.zeros(line.shape, np.uint8) for _ in range(2))  # steps that begin or end at each pixel
    head, tail, whole = np.s_[:-1], np.s_[1:], np.s_[:]
    for one, two in (((whole, tail), (whole, head)), ((tail, whole), (head, whole))):
        step = line[one] & line[two]
        straight[one] += step
        straight[two] += step
    for one, two in ((tail, head), (head, tail)):
        step = line[head, two] & line[tail, one]
        step &= ~(line[head, one] | line[tail, two])  # two straight steps lead round this corner
        slanting[head, two] += step
        slanting[tail, one] += step
    turns = ((straight == 1) & (slanting == 1)).sum()
    return float(0.98 * straight.sum() / 2 + 1.406 * slanting.sum() / 2 - 0.091 * turns)


def _mean_width(mask: np.ndarray, line: np.ndarray) -> float:
    """Return area by length; traced paths are one pixel wide by construction, so they are excluded."""
    wide = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    length = line_length(line & dilate(wide, 3))
    return float(wide.sum() / length) if length else 1.0


def _largest_width(mask: np.ndarray) -> float:
    """Return the largest width in a mask, pixels, on a grid twice as fine: even widths have a middle there as well."""
    most = 0.0
    for top in range(0, mask.shape[0], BLOCK):
        for left in range(0, mask.shape[1], BLOCK):
            y, x = max(0, top - RIM), max(0, left - RIM)
            part = mask[y : top + BLOCK + RIM, x : left + BLOCK + RIM].astype(np.uint8)
            fine = np.pad(cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), 1)
            most = max(most, float(cv2.distanceTransform(fine, cv2.DIST_L2, 5).max()))
    return most
