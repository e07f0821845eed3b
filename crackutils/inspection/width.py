"""Width of a crack from the grey values across it: by dark volume where it is narrow, by its edges where it is wide.

The lens blurs a narrow crack of width w and darkness d (relative depth below the surface's grey value) over more
pixels, but keeps its dark volume v, the integral of the depth below the surface: w = v / d (the rectangle transform of
Benz, Rodehorst, MVA 2021, has d = 1). If the crack is wider than the blur, the distance e between its edges, the
steepest places on both sides, gives w; the bias by blur is known (Steger, PAMI 1998). Both estimates are weighted by
their precision, by one rule for all widths. Grey values are not linearised: cameras sharpen and increase contrast, and
in linear light real hairlines come out at least half as wide again.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from crackutils.config import CrackutilsError

BAND = 6  # values on each side from which the surface's grey value is read
FEWEST = 16  # values of a profile
UNSURE = 0.4  # cracks narrower than so many deviations of the blur cannot be distinguished
BRIGHT = 250  # grey value from which a surface is overexposed
# priors, from synthetic photos: mean and deviation of the darkness, and of the blur
# (deviation of a Gaussian, pixels; relative deviation)
_DARK, _BLUR = (0.8, 0.2), (1.5, 0.5)
_ERRORS = (0.05, 2.5, 0.1, 1.0)  # of volume and edges, pixels: fixed, and times the noise and the noise by the depth
_REACH = 1.5  # pixels around an edge that are used to locate it


class Reading(NamedTuple):
    """Measurements of profiles, each an array float (m,); depths are shares of the surface's grey value."""

    volume: np.ndarray  # integral of the depth, pixels
    level: np.ndarray  # depth, as a mean dominated by the deepest part
    edges: np.ndarray  # distance between the edges, pixels
    noise: np.ndarray  # deviation of the surface beside the crack
    surface: np.ndarray  # grey value

    @property
    def volume_error(self) -> np.ndarray:
        """Deviation of the volumes, pixels."""
        return _ERRORS[0] + _ERRORS[1] * self.noise


def profile_width(values: np.ndarray) -> float:
    """Return the width, pixels, of the crack in the middle of one profile: at least 16 grey values, a pixel apart.

    NaN if nothing is darker than the surface. Raises CrackutilsError for too few values.
    """
    values = np.asarray(values, np.float32)
    if values.ndim != 1 or len(values) < FEWEST or not np.isfinite(values).all():
        raise CrackutilsError(f"A profile has fewer than {FEWEST} values, or not only numbers. Sample it wider.")
    reading = read_profiles(values[None])
    return float(estimate_widths(reading)[0]) if reading.volume[0] > 0 else float("nan")


def read_profiles(grey: np.ndarray, mask: np.ndarray | None = None) -> Reading:
    """Read profiles, grey values float (m, n), n odd with the crack's centre line in the middle.

    `mask`, uint8 (m, n), is 1 in the crack, 0 beside it and 2 where the surface must not be read (other cracks, outside
    the photo); its edges may be wrong by a pixel or two. Without a mask, the crack is the darkest place near the
    middle, and n may be even.
    """
    (m, n), middle = grey.shape, (grey.shape[1] - 1) / 2
    x, at = np.arange(n, dtype=np.float32)[None], np.full((m, 1), round(middle))
    if mask is None:
        soft = np.pad(grey, ((0, 0), (1, 1)), "edge")
        soft = soft[:, :-2] / 4 + grey / 2 + soft[:, 2:] / 4
        at = np.where(np.abs(x - middle) <= n / 8 + 1, soft, np.inf).argmin(1)[:, None]
        inside, free = np.abs(x - at) <= 2, np.ones((m, n), bool)
    else:
        inside, free = (mask == 1) | (x == at), mask != 2
    begin, end = _first(inside, x), _last(inside, x)
    core = x == at if mask is None else (x == at) | ((x >= begin + 4) & (x <= end - 4))
    surface, _ = _surface(grey, free, begin - 2, end + 2)
    if mask is None:  # values near the middle may be the inside of a wide crack
        usual = np.quantile(grey, 0.7, axis=1, keepdims=True)
        surface = np.where(np.take_along_axis(grey, at, 1) < 0.6 * usual, usual, surface)
    depth = 1 - grey / surface
    dark = (depth > _level(depth * inside) / 2) | core  # the crack extends from the middle down to half depth
    left, right = _last(~dark & (x < at), x) + 1, _first(~dark & (x > at), x) - 1
    near = (x >= left - 1) & (x <= right + 1)  # farther away, noise exceeds the dark volume
    surface, noise = _surface(grey, free, left - 2, right + 2)
    depth = (1 - grey / surface) * near
    if mask is None:
        begin, end, core = left, right, core & False
    edges = _edges(grey, begin, end, core)
    surface = surface[:, n // 2]
    return Reading(depth.sum(1), _level(depth)[:, 0], edges, noise / surface, surface)


def _first(where: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(where, x, x.shape[1]).min(1, keepdims=True)


def _last(where: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(where, x, -1).max(1, keepdims=True)


def _level(depth: np.ndarray) -> np.ndarray:
    square = np.maximum(depth, 0) ** 2
    cube = (square * depth).sum(1, keepdims=True)
    return np.maximum(cube / np.maximum(square.sum(1, keepdims=True), 1e-6), 0.02)


def _surface(grey: np.ndarray, free: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface's grey value, float (m, n), a line between the medians of both sides, and its deviation (m,).

    `left` and `right` are the first places beside the crack. A side without free pixels does not count.
    """
    n, medians, places, noises = grey.shape[1], [], [], []
    for first, sign in ((left, -1), (right, 1)):
        index = (first + sign * np.arange(BAND)).astype(int)
        known = np.take_along_axis(free, index.clip(0, n - 1), 1) & (index >= 0) & (index < n)
        known[:, 0] |= ~known.any(1) & (index[:, 0] >= 0) & (index[:, 0] < n)
        values = np.where(known, np.take_along_axis(grey, index.clip(0, n - 1), 1), np.nan)
        medians.append(_median(values))
        places.append(np.where(known, index, 0).sum(1) / np.maximum(known.sum(1), 1))
        noises.append(1.5 * _median(np.abs(values - medians[-1][:, None])))
    one, other = (np.where(np.isfinite(a), a, b) for a, b in (medians, medians[::-1]))
    share = (np.arange(n) - places[0][:, None]) / np.maximum(places[1] - places[0], 1)[:, None]
    line = one[:, None] + (other - one)[:, None] * share.clip(0, 1)
    return np.maximum(np.nan_to_num(line, nan=128.0), 1), np.nan_to_num(np.fmin(*noises))


def _median(values: np.ndarray) -> np.ndarray:
    """Return the lower median of rows without NaN; NumPy's function is many times slower."""
    values = np.sort(values, 1)  # NaN last
    count = np.isfinite(values).sum(1, keepdims=True)
    return np.take_along_axis(values, np.maximum(count - 1, 0) // 2, 1)[:, 0]


def _edges(grey: np.ndarray, begin: np.ndarray, end: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Return the distance between the steepest places, searched iteratively from `begin` and `end`."""
    step, x = np.diff(grey, axis=1), np.arange(grey.shape[1] - 1, dtype=np.float32)[None] + 0.5
    near = (x > begin - 2) & (x < end + 2) & ~(core[:, 1:] & core[:, :-1])
    places, middle = [], (begin + end) / 2
    for sign, place in ((-1, begin + 0.5), (1, end - 0.5)):
        steep = np.where(near & (sign * (x - middle) > -0.75), np.maximum(sign * step, 0), 0) ** 2
        for _ in range(3):
            weight = steep * np.exp(-0.5 * ((x - place) / _REACH) ** 2)
            total = weight.sum(1, keepdims=True)
            place = np.where(total > 0, (weight * x).sum(1, keepdims=True) / np.maximum(total, 1e-6), place)
        places.append(place[:, 0])
    return np.maximum(places[1] - places[0], 1.0)


def _blurred() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return widths and distances between edges, in deviations of the blur, and levels, as shares of the darkness."""
    width, x = np.linspace(0.02, 12, 200), np.linspace(0, 14, 1401)
    steep = np.exp(-((x - width[:, None] / 2) ** 2) / 2) - np.exp(-((x + width[:, None] / 2) ** 2) / 2)
    depth = ndtr(x + width[:, None] / 2) - ndtr(x - width[:, None] / 2)
    return width, 2 * (steep**2 * x).sum(1) / (steep**2).sum(1), (depth**3).sum(1) / (depth**2).sum(1)


_WIDTHS, _EDGES, _LEVELS = _blurred()
_SLOPES = np.gradient(_EDGES, _WIDTHS)


def _expected_edges(width: np.ndarray, blur: float) -> np.ndarray:
    ratio = width / blur
    return blur * (np.interp(ratio, _WIDTHS, _EDGES) + np.maximum(ratio - _WIDTHS[-1], 0))


def fit_photo(reading: Reading, independent: float) -> tuple[float, float, float, float]:
    """Return darkness and its deviation, blur and its deviation in pixels, of the cracks of one photo.

    Widths vary along cracks, so edges, levels and volumes vary together; their relation gives both. If they hardly
    vary, the prior dominates. `independent` is the number of profiles that count as independent.
    """
    dark, blur = np.linspace(0.2, 1.1, 19), np.geomspace(0.5, 3, 19)
    cost = ((dark[:, None] - _DARK[0]) / _DARK[1]) ** 2 / 2 + (np.log(blur / _BLUR[0]) / _BLUR[1]) ** 2 / 2
    some = slice(None, None, max(1, -(-len(reading.volume) // 500)))
    volume, level, edges, noise, _ = (values[some] for values in reading)
    volume, noise = np.maximum(volume, 0.02), noise / level
    error = _ERRORS[2] + _ERRORS[3] * noise + 0.1 * edges, np.hypot(0.2, noise)
    for i, j in np.ndindex(cost.shape) if independent else ():
        width = volume / dark[i]
        off = (edges - _expected_edges(width, blur[j])) / error[0]
        pale = np.log(level / dark[i] / np.interp(width / blur[j], _WIDTHS, _LEVELS)) / error[1]
        cost[i, j] += independent * np.log1p((off**2 + pale**2) / 2).mean()  # outliers count little
    p = np.exp(cost.min() - cost)
    p /= p.sum()
    d, log = float(p.sum(1) @ dark), float(p.sum(0) @ np.log(blur))
    d_spread, spread = np.sqrt(p.sum(1) @ (dark - d) ** 2), np.sqrt(p.sum(0) @ (np.log(blur) - log) ** 2)
    # darkness and blur vary within a photo
    return d, float(np.hypot(0.08, d_spread)), float(np.exp(log)), float(np.exp(log) * np.hypot(0.12, spread))


def estimate_widths(
    reading: Reading,
    dark: float = _DARK[0],
    dark_spread: float = _DARK[1],
    blur: float = _BLUR[0],
    blur_spread: float = _BLUR[0] * _BLUR[1],
) -> np.ndarray:
    """Return widths in pixels, float (m,), from the results of `read_profiles` and `fit_photo`."""
    relative = reading.noise / reading.level
    by_volume = np.maximum(reading.volume, 0.02) / dark
    ratio = reading.edges / blur
    by_edges = blur * (np.interp(ratio, _EDGES, _WIDTHS) + np.maximum(ratio - _EDGES[-1], 0))
    fixed = reading.volume_error / dark
    blurred = _ERRORS[2] + _ERRORS[3] * relative + 0.03 * reading.edges
    width = by_volume
    for _ in range(4):  # precisions depend on the width
        slope = np.interp(width / blur, _WIDTHS, _SLOPES)
        of_blur = (_expected_edges(width, blur) - width * slope) / blur * blur_spread
        one = (dark_spread * width / dark) ** 2 + fixed**2
        other = (blurred**2 + of_blur**2) / np.maximum(slope, 0.01) ** 2
        width = (by_volume * other + by_edges * one) / (one + other)
    return width
