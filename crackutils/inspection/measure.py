"""Length and width of cracks: from a mask to the pieces of their centre lines, and to a table with a row per crack."""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crackutils.inspection.graph import centre_lines, prune_spurs, trace_lines
from crackutils.inspection.width import measure_widths

LENGTHS = ["length", "width_mean", "width_p10", "width_p50", "width_p90", "width_most"]  # in pixels, as area in theirs
COLUMNS = ["x", "y", "width", "height", "x_top", "y_top", "p_crack", "length", "area", *LENGTHS[1:]]
COLUMNS += ["x_most", "y_most", "at_most", "pieces"]
_SMOOTH = 2.0  # deviation of the Gaussian that smooths a centre line, pixels


@dataclass(frozen=True)
class Piece:
    """A piece of a crack's centre line, from an end or fork to the next.

    crack: number of its crack, from 1, as in the rows of `measure_cracks`; piece: its number in the crack, from 1;
    points: float32 (n, 2), x and y in pixels, the middle of the first pixel is (0, 0); width: float32 (n,), pixels, NaN
    where it cannot be measured; at_most: bool (n,), where the width is only an upper bound.
    """

    crack: int
    piece: int
    points: np.ndarray
    width: np.ndarray
    at_most: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """Length of line at each point, float (n,): half of the way to its neighbours."""
        step = np.hypot(*np.diff(self.points.astype(float), axis=0).T)
        return (np.append(step, 0) + np.append(0, step)) / 2


def measure_cracks(image: np.ndarray, mask: np.ndarray, p: np.ndarray) -> tuple[pd.DataFrame, list[Piece]]:
    """Measure the cracks of a photo: a row per crack, the longest first, and the pieces of their centre lines.

    Takes the photo, uint8 (h, w, 3), the mask of its cracks, bool (h, w), and the probability of crack, uint8 (h, w),
    times 255. Lines that touch are one crack. Columns: x, y, width, height (box); x_top, y_top (topmost point of its
    line); p_crack, mean along its line; length, of its centre line with all branches; area, length times mean width;
    width_mean, width_p10, width_p50, width_p90, width_most along its length (NaN where none can be measured); x_most,
    y_most, where it is widest; at_most, share of the length whose width is only an upper bound; pieces. In pixels.
    """
    paths, points = find_lines(mask)
    found = _widths(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), points)
    rows, pieces = [], []
    for group in _groups(paths):
        lines = [Piece(0, 0, points[k], *found[k]) for k in group]
        rows.append((_row(lines, p, mask.shape), sorted(lines, key=lambda line: -line.steps.sum())))
    rows.sort(key=lambda row: -row[0]["length"])
    for crack, (_, lines) in enumerate(rows, 1):
        pieces += [Piece(crack, k, line.points, line.width, line.at_most) for k, line in enumerate(lines, 1)]
    return pd.DataFrame([row for row, _ in rows], columns=COLUMNS), pieces


def find_lines(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the centre lines of a mask, bool (h, w), from an end or fork to the next: their pixels and their points.

    Pixels are int (n, 2), x and y; points, the same smoothed, float32 (n, 2).
    """
    half = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    paths = prune_spurs(trace_lines(centre_lines(mask)), half + 4)
    return paths, [_smooth(path.astype(np.float32)) for path in paths]


def _smooth(points: np.ndarray) -> np.ndarray:
    if len(points) < 3:
        return points
    if closed := bool((points[0] == points[-1]).all()):
        points = points[:-1]
    smooth = gaussian_filter1d(points, _SMOOTH, axis=0, mode="wrap" if closed else "nearest")
    if closed:
        return np.concatenate([smooth, smooth[:1]])
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _widths(grey: np.ndarray, points: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return width and at_most along each line."""
    found, across = [], np.arange(-24, 25, dtype=np.float32)
    for line in points:
        along = np.gradient(line, axis=0) if len(line) > 1 else np.array([[1.0, 0.0]], np.float32)
        along /= np.maximum(np.hypot(*along.T), 1e-6)[:, None]
        x = line[:, :1] - along[:, 1:] * across
        y = line[:, 1:] + along[:, :1] * across
        left, top = int(max(0, x.min() - 2)), int(max(0, y.min() - 2))
        part = grey[top : int(y.max()) + 3, left : int(x.max()) + 3]
        x, y = (x - left).astype(np.float32), (y - top).astype(np.float32)
        found.append(measure_widths(cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)))
    return found


def _groups(paths: list[np.ndarray]) -> list[list[int]]:
    """Return the numbers of the lines of each crack: lines that share an end."""
    if not paths:
        return []
    ends = np.concatenate([[path[0], path[-1]] for path in paths])
    _, node = np.unique(ends, axis=0, return_inverse=True)
    node, owner = node.ravel() + len(paths), np.arange(len(ends)) // 2
    size = len(paths) + len(ends)
    _, label = connected_components(coo_array((np.ones(len(ends)), (owner, node)), (size, size)), directed=False)
    return [np.nonzero(label[: len(paths)] == k)[0].tolist() for k in np.unique(label[: len(paths)])]


def _row(lines: list[Piece], p: np.ndarray, shape: tuple[int, ...]) -> dict:
    """Return the row of a crack."""
    points = np.concatenate([line.points for line in lines])
    width = np.concatenate([line.width for line in lines])
    steps, bound = np.concatenate([line.steps for line in lines]), np.concatenate([line.at_most for line in lines])
    x, y = points.round().astype(int).T
    reach = np.nan_to_num(width[:, None], nan=1.0) / 2
    left, top = np.maximum(0, np.floor((points - reach).min(0))).astype(int)
    right, low = np.minimum(np.array(shape[::-1]) - 1, np.ceil((points + reach).max(0))).astype(int)
    first = int(y.argmin())
    row = {
        "x": left,
        "y": top,
        "width": right - left + 1,
        "height": low - top + 1,
        "x_top": x[first],
        "y_top": y[first],
    }
    row |= {"p_crack": float(p[y, x].mean() / 255), "length": float(steps.sum()), "pieces": len(lines)}
    known = np.isfinite(width)
    weight = steps[known] + 1e-9
    measures = dict.fromkeys([*LENGTHS[1:], "area", "x_most", "y_most", "at_most"], np.nan)
    if known.any():
        order = np.argsort(width[known])
        share = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
        mean, most = float(np.average(width[known], weights=weight)), int(np.nanargmax(width))
        measures |= {f"width_p{q}": float(np.interp(q / 100, share, width[known][order])) for q in (10, 50, 90)}
        measures |= {"width_mean": mean, "width_most": float(width[most]), "area": mean * row["length"]}
        measures |= {"x_most": x[most], "y_most": y[most]}
        measures["at_most"] = float(np.average(bound[known], weights=weight))
    return row | measures
