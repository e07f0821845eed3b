"""Length and width of cracks: from a mask to centre lines, and to a table with a row per crack."""

import itertools

import cv2
import numpy as np
import pandas as pd
from skimage.morphology import skeletonize

from crackutils.detector.network import CELL
from crackutils.inspection.mask import BLOCK, GAP, RIM, cell_pixels, dilate, likely_cells
from crackutils.inspection.tiling import sigmoid

LENGTHS = ["length", "width_mean", "width_most"]
COLUMNS = ["x", "y", "width", "height", "x_top", "y_top", "p_crack", "length", "area", "width_mean", "width_most"]


def centre_lines(mask: np.ndarray) -> np.ndarray:
    """Return the centre lines of cracks, bool (h, w), one pixel wide (Zhang, Suen 1984), across gaps of some pixels."""
    disk, rim = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GAP, GAP)), GAP // 2
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)[rim:-rim, rim:-rim]
    return skeletonize(closed.astype(bool))


def measure_cracks(mask: np.ndarray, line: np.ndarray, logits: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return a row per crack, the longest first. Lines in touching crack-like cells are one crack.

    Takes what `crack_mask`, `centre_lines` and `cell_logits` return. Columns: x, y, width, height (box); x_top, y_top
    (topmost pixel of its line); p_crack, of its most crack-like cell; length, of its centre line with all branches;
    area; width_mean (area by length where it is more than a pixel wide; 1 if it is nowhere); width_most; all in pixels.
    Cracks wider than about 40 pixels are measured wrongly: their middle is as bright as what surrounds it.
    """
    near, rows = likely_cells(logits, threshold)[1].astype(np.uint8), []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    for number in range(1, count):
        left, top, wide, high = (int(v) for v in stats[number, :4])
        cells = labels[top : top + high, left : left + wide] == number
        box = np.s_[top * CELL : (top + high) * CELL, left * CELL : (left + wide) * CELL]
        here = cell_pixels(cells, mask[box].shape)
        own, part = line[box] & here, mask[box] & here
        if not (length := line_length(own)):  # crack-like cells without a line
            continue
        y, x = (int(v[0]) for v in np.nonzero(own))
        p_crack = float(sigmoid(logits[top : top + high, left : left + wide][cells].max()))
        row = (left * CELL, top * CELL, part.shape[1], part.shape[0], left * CELL + x, top * CELL + y, p_crack)
        # traced paths are one pixel wide by construction, so the mean width excludes them
        solid = cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        along = line_length(own & dilate(solid, 3))
        mean_width = float(solid.sum() / along) if along else 1.0
        rows.append((*row, length, int(part.sum()), mean_width, _largest_width(part)))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("length", ascending=False, ignore_index=True)


def line_length(line: np.ndarray) -> float:
    """Return the length, pixels, of a line one pixel wide, bool (h, w) (Vossepoel, Smeulders 1982).

    By hand: scikit-image has only the perimeter of areas.
    """
    line = np.pad(line, 1)
    shift = lambda y, x: np.roll(line, (y, x), (0, 1))  # noqa: E731
    # steps that begin or end at each pixel; where two straight steps lead round a corner, none slants across
    straight = line * sum((shift(*step) for step in ((0, 1), (1, 0), (0, -1), (-1, 0))), np.uint8(0))
    slants = (shift(y, x) & ~(shift(y, 0) | shift(0, x)) for y in (1, -1) for x in (1, -1))
    slanting = line * sum(slants, np.uint8(0))
    turns = ((straight == 1) & (slanting == 1)).sum()
    return float(0.98 * straight.sum() / 2 + 1.406 * slanting.sum() / 2 - 0.091 * turns)


def _largest_width(mask: np.ndarray) -> float:
    """Return the largest width in a mask, pixels, on a grid twice as fine: even widths have a middle there as well."""
    most = 0.0
    for top, left in itertools.product(*(range(0, side, BLOCK) for side in mask.shape)):
        part = mask[max(0, top - RIM) : top + BLOCK + RIM, max(0, left - RIM) : left + BLOCK + RIM].astype(np.uint8)
        fine = np.pad(cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), 1)
        most = max(most, float(cv2.distanceTransform(fine, cv2.DIST_L2, 5).max()))
    return most
