"""Length and width of cracks: from a mask to the pieces of their centre lines, and to a table with a row per crack."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from crackutils.inspection.graph import prune_spurs, thin_mask, trace_lines
from crackutils.inspection.width import BAND, BRIGHT, UNSURE, Reading, estimate_widths, fit_photo, read_profiles

LENGTHS = ["length", "width_mean", "width_p10", "width_p50", "width_p90", "width_most"]  # in pixels, as area in theirs
COLUMNS = ["crack", "x", "y", "width", "height", "x_top", "y_top", "p_crack", "length", "area", *LENGTHS[1:]]
COLUMNS += ["x_most", "y_most", "at_most", "pieces"]
_FINE, _COARSE, _ALONG = 1.0, 3.0, 2.0  # deviations that smooth a line, its direction, and values along it, pixels
_MEDIAN = 9  # points of a line whose median is the width
_BORDER = 3  # pixels along the border of a photo where no width is measured
_CHUNK, _OVERLAP = 2048, 12  # points that are measured at once, and neighbours that they use
_FORK = 1.0  # pixels beside a fork, beyond the crack's own half width, where no width is measured
_INDEPENDENT = 5  # points of a line that count as one independent measurement


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
        """Length of the line at each point, half of the way to both neighbours, float (n,)."""
        step = np.hypot(*np.diff(self.points.astype(float), axis=0).T)
        return (np.append(step, 0) + np.append(0, step)) / 2


def measure_cracks(image: np.ndarray, mask: np.ndarray, p: np.ndarray) -> tuple[pd.DataFrame, list[Piece]]:
    """Measure the cracks of a photo: a row per crack, the longest first, and the pieces of their centre lines.

    Takes the photo, uint8 (h, w, 3), the mask of its cracks, bool (h, w), and the probability of a crack times 255,
    uint8 (h, w). Lines that touch are one crack; single points are left out. Columns, in pixels: crack, the number from
    1; x, y, width, height (box); x_top, y_top (topmost point of its line); p_crack, mean along its line; length, of its
    centre line with all branches; area, length times mean width; what `summarize_widths` returns; pieces.
    """
    paths, lines, reach = find_lines(mask)
    widths = _measure_widths(image, mask, paths, reach)
    cracks = []
    for group in _groups(paths):
        own = sorted((Piece(0, 0, lines[k], *widths[k]) for k in group), key=lambda piece: -piece.steps.sum())
        cracks.append((_row(own, p, mask.shape), own))
    cracks.sort(key=lambda crack: -crack[0]["length"])
    pieces = [
        replace(piece, crack=i, piece=k) for i, (_, own) in enumerate(cracks, 1) for k, piece in enumerate(own, 1)
    ]
    rows = [{"crack": i} | row for i, (row, _) in enumerate(cracks, 1)]
    return pd.DataFrame(rows, columns=COLUMNS), pieces


def nearest_cracks(pieces: Sequence[Piece], points: Sequence | np.ndarray, most: float) -> np.ndarray:
    """Return the crack whose centre line is nearest to each of n points, x and y, at most so far away, else 0."""
    if not pieces or not len(points):
        return np.zeros(len(points), int)
    far, at = cKDTree(np.concatenate([piece.points for piece in pieces])).query(points)
    owner = np.repeat([piece.crack for piece in pieces], [len(piece.points) for piece in pieces])
    return np.where(far <= most, owner[at], 0)


def find_lines(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return the centre lines of a mask, bool (h, w), each from an end or fork to the next: their pixels and points.

    Pixels are int (n, 2), x and y; points are the same, smoothed, float32 (n, 2). The third value is `thin_mask`.
    """
    reach = thin_mask(mask)
    paths = prune_spurs(trace_lines(reach > 0), reach)
    return paths, [_smooth(path, _FINE) for path in paths], reach


def _smooth(path: np.ndarray, sigma: float) -> np.ndarray:
    """Return a smoothed line, float32 (n, 2); its ends stay in place, and closed lines stay closed."""
    points, closed = path.astype(np.float32), len(path) > 3 and bool((path[0] == path[-1]).all())
    smooth = gaussian_filter1d(points[: len(points) - closed], sigma, axis=0, mode="wrap" if closed else "nearest")
    if closed:
        return np.concatenate([smooth, smooth[:1]])
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _measure_widths(
    image: np.ndarray, mask: np.ndarray, paths: list[np.ndarray], reach: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return width and at_most of each line, as in `Piece`."""
    profiles, known, meet = [], [], Counter(tuple(end) for path in paths for end in (path[0], path[-1]))
    for path in paths:
        far, free = reach[path[:, 1], path[:, 0]].astype(int), np.ones(len(path), bool)
        for end in (path[0], path[-1]):
            if meet[tuple(end)] > 1:  # near a fork, a profile crosses both branches
                free &= np.hypot(*(path - end).T) > reach[end[1], end[0]] + _FORK
        for begin in range(0, len(path), _CHUNK):  # OpenCV's pictures end at 32,767 pixels
            some = slice(max(0, begin - _OVERLAP), begin + _CHUNK + _OVERLAP)
            own = slice(begin - some.start, begin - some.start + len(path[begin : begin + _CHUNK]))
            grey, inside, whole = _sample(image, mask, path[some], far[some])
            profiles.append((gaussian_filter1d(grey, _ALONG, axis=0, mode="nearest")[own], inside[own]))
            known.append(whole[own] & free[begin : begin + _CHUNK])
    if not paths:
        return []
    every, whole = _read_together(profiles), np.concatenate(known)
    whole &= every.volume > -2 * every.volume_error  # else the crack is filled and brighter than the surface
    fit = fit_photo(Reading(*(values[whole] for values in every)), whole.sum() / _INDEPENDENT)
    width, blur = estimate_widths(every, *fit), fit[2]
    bright = every.surface >= BRIGHT
    ends, found = np.cumsum([len(path) for path in paths])[:-1], []
    split = zip(*(np.split(a, ends) for a in (width, whole, bright, every.edges)), strict=True)
    for own, known, light, edges in split:
        if known.any():
            own = np.interp(np.arange(len(own)), np.nonzero(known)[0], own[known])
            own = gaussian_filter1d(median_filter(own, _MEDIAN, mode="nearest"), _ALONG, mode="nearest")
        thin = own < UNSURE * blur
        own = np.where(light, np.maximum(edges, own), np.where(thin, blur, own))
        found.append((np.where(known, own, np.nan).astype(np.float32), (thin | light) & known))
    return found


def _read_together(profiles: list[tuple[np.ndarray, np.ndarray]]) -> Reading:
    """Return `read_profiles` of the profiles of several lines at once: many small calls are slow."""
    sizes = np.repeat([grey.shape[1] for grey, _ in profiles], [len(grey) for grey, _ in profiles])
    readings = []
    for size in np.unique(sizes):
        grey, inside = map(np.concatenate, zip(*(p for p in profiles if p[0].shape[1] == size), strict=True))
        parts = (slice(begin, begin + _CHUNK) for begin in range(0, len(grey), _CHUNK))  # limits the memory
        readings += [read_profiles(grey[part], inside[part]) for part in parts]
    order = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return Reading(*(np.concatenate(values)[order] for values in zip(*readings, strict=True)))


def _sample(
    image: np.ndarray, mask: np.ndarray, path: np.ndarray, far: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return grey values across a line, float32 (n, m), a mask of them for `read_profiles`, and which are whole.

    A profile is not whole if the crack continues along it, at forks, and at the photo's border.
    """
    half = int(1.5 * far.max()) + BAND + 9
    across, line = np.arange(-half, half + 1, dtype=np.float32), _smooth(path, _FINE)
    along = np.gradient(_smooth(path, max(_COARSE, float(np.median(far)) / 2)), axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    x, y = line[:, :1] - along[:, 1:] * across, line[:, 1:] + along[:, :1] * across
    left, top = (max(0, int(v.min()) - 3) for v in (x, y))
    box = np.s_[top : int(y.max()) + 4, left : int(x.max()) + 4]
    x, y = (x - left).astype(np.float32), (y - top).astype(np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(image[box]), cv2.COLOR_RGB2GRAY)
    grey = cv2.remap(grey, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    hit = cv2.remap(mask[box].astype(np.uint8), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=2)
    longest, inside = np.minimum(2 * far + 3, half - BAND - 2), np.where(hit > 0, 2, 0).astype(np.uint8)
    whole = ((path >= _BORDER) & (path < np.array(mask.shape[::-1]) - _BORDER)).all(1)
    for side in (slice(half, None), slice(half, None, -1)):
        run = np.where(hit[:, side] == 1, half + 1, np.arange(half + 1)).min(1)  # up to the end of the mask
        whole &= run <= longest
        inside[:, side][np.arange(half + 1) < run[:, None]] = 1
    return grey, inside, whole


def _groups(paths: list[np.ndarray]) -> list[list[int]]:
    """Return the numbers of the lines of each crack: lines that share an end."""
    if not paths:
        return []
    ends = np.concatenate([[path[0], path[-1]] for path in paths])
    begin, end = np.unique(ends, axis=0, return_inverse=True)[1].reshape(-1, 2).T
    _, label = connected_components(coo_array((np.ones(len(paths)), (begin, end)), (len(ends),) * 2), directed=False)
    return [np.nonzero(label[begin] == k)[0].tolist() for k in dict.fromkeys(label[begin].tolist())]


def _row(lines: list[Piece], p: np.ndarray, shape: tuple[int, ...]) -> dict:
    """Return the row of a crack."""
    points, width, steps = (np.concatenate([getattr(line, k) for line in lines]) for k in ("points", "width", "steps"))
    x, y = points.round().astype(int).T
    reach = np.nan_to_num(width[:, None], nan=1.0) / 2
    left, top = np.maximum(0, np.floor((points - reach).min(0))).astype(int)
    right, low = np.minimum(np.array(shape[::-1]) - 1, np.ceil((points + reach).max(0))).astype(int)
    first = int(y.argmin())
    row = {"x": left, "y": top, "width": right - left + 1, "height": low - top + 1}
    row |= {"x_top": x[first], "y_top": y[first]}
    row |= {"p_crack": float(p[y, x].mean() / 255), "length": float(steps.sum()), "pieces": len(lines)}
    row |= summarize_widths(lines)
    return row | {"area": row["width_mean"] * row["length"]}


def summarize_widths(pieces: Sequence[Piece]) -> dict[str, float]:
    """Return the widths of pieces, pixels, along the length where they are known; all NaN where none is.

    width_mean, width_p10, width_p50, width_p90, in which upper bounds count as widths; at_most, the share of bounds;
    width_most, the largest, for which bounds by the blur count only if at_most is at least 0.5; x_most, y_most, where.
    """
    measures = dict.fromkeys([*LENGTHS[1:], "x_most", "y_most", "at_most"], np.nan)
    parts = ("points", "width", "at_most", "steps")
    points, width, bound, steps = (np.concatenate([getattr(piece, k) for piece in pieces]) for k in parts)
    known = np.isfinite(width)
    if known.any():
        weight, order = steps[known] + 1e-9, np.argsort(width[known])
        share = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
        measures |= {f"width_p{q}": float(np.interp(q / 100, share, width[known][order])) for q in (10, 50, 90)}
        mean, at_most = (float(np.average(values[known], weights=weight)) for values in (width, bound))
        # bounds by the blur are equal, and where a crack tapers off, larger than it is anywhere
        blurred = bound & (width <= np.min(width[bound & known], initial=np.inf)) & (at_most < 0.5)
        most = int(np.nanargmax(np.where(blurred, np.nan, width)))
        x, y = points[most].round().astype(int).tolist()
        measures |= {"width_mean": mean, "width_most": float(width[most]), "x_most": x, "y_most": y, "at_most": at_most}
    return measures
