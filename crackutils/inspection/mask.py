"""From a photo's map to the pixels of its cracks."""

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.morphology import skeletonize

from crackutils.detector.network import CELL

_STRIP = 2048  # rows that are labelled at once, to limit the memory
_BLOCK, _RIM = 512, 64  # side of the blocks in which masks are thinned, and of their overlap, pixels
_SHORTEST = 20  # least length of a crack, pixels
_CELL_SURE = 2.0  # least mean logit of the cells along some stretch of a crack, at a threshold of 0.5 and more
_STRETCH = 9  # side of the square of cells that a mean is taken over
_LOW = 0.5  # share of the threshold down to which a crack continues
_HOLE = 42  # longest hole that is filled, pixels: with the ring around it, it fits into the overlap
_CORE = 0.6  # times p (1 - p): how far above the threshold p pixels count besides the centre line


def crack_mask(pixels: np.ndarray, threshold: float, cells: np.ndarray | None = None) -> np.ndarray:
    """Return the pixels of cracks, bool (h, w), from the probabilities of a `CrackMap`, uint8 (h, w).

    A crack continues from pixels that reach the threshold to neighbours that reach half of it (hysteresis: Canny 1986).
    Of pixels below 0.65, for a threshold of 0.5, only the centre line counts, because the mask would be too wide. Small
    holes of wide cracks are filled. Cracks under 20 pixels are dropped. With the logits of the map's `cells`, so are
    cracks without a confident stretch: cells see more of the surroundings.
    """
    low, high, core = (255 * t for t in (_LOW * threshold, threshold, threshold + _CORE * threshold * (1 - threshold)))
    cells, sure = (np.zeros((1, 1)), -np.inf) if cells is None else (_average(cells, pixels, low), _CELL_SURE)
    if threshold < 0.5:  # users choose a low one to see doubtful cracks
        sure = math.log(threshold / (1 - threshold)) + 2 * threshold * sure
    found = _grow(pixels, low, high, cells, sure)
    mask = found.copy()

    def thin(row: int, col: int) -> None:
        top, left = max(0, row - _RIM), max(0, col - _RIM)
        window = np.s_[top : row + _BLOCK + _RIM, left : col + _BLOCK + _RIM]
        own, sure = found[window], found[window] & (pixels[window] >= core)
        if own.any():
            kept = _thin_and_fill(own, sure)[row - top :, col - left :]
            mask[row : row + _BLOCK, col : col + _BLOCK] = kept[:_BLOCK, :_BLOCK]

    for_blocks(thin, mask.shape, _BLOCK)
    return mask


def for_blocks(act: Callable[[int, int], None], shape: Sequence[int], side: int) -> None:
    """Call a function with the first row and column of each block of an array (h, w), in several threads."""
    corners = itertools.product(*(range(0, n, side) for n in shape))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda corner: act(*corner), corners))


def _average(cells: np.ndarray, pixels: np.ndarray, low: float) -> np.ndarray:
    """Return for each cell the mean logit of the cells around it that hold pixels of at least `low`, like `cells`.

    Along a joint, single cells are as confident as those of a crack, but not a stretch of them. The mean is taken over
    a stretch, not a whole line, because a crack and a long joint may touch.
    """
    rows, cols = (np.arange(0, side, CELL) for side in pixels.shape)
    some = (pixels[top : top + CELL] >= low for top in rows)
    count = np.stack([np.add.reduceat(row.sum(0, dtype=np.float32), cols) for row in some])
    count = np.minimum(count, CELL)  # a line's pixels: a hole beside a crack does not outweigh it
    total, weight = (
        cv2.boxFilter(x, -1, (_STRETCH, _STRETCH), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for x in (count * cells.astype(np.float32), count)
    )
    return total / np.maximum(weight, 1)


def _grow(pixels: np.ndarray, low: float, high: float, cells: np.ndarray, sure_cell: float) -> np.ndarray:
    """Return the pixels of at least `low` that are connected with one of `high` and with a cell of `sure_cell`.

    Too short ones are dropped.
    """

    def label(strip: slice) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        some = pixels[strip] >= low
        return *cv2.connectedComponents(some.view(np.uint8), connectivity=8), *find_pixels(some)

    strips = [slice(top, top + _STRIP) for top in range(0, len(pixels), _STRIP)]
    reaches, pairs, first, above, last = [], [np.empty((2, 0), int)], 0, 0, None
    for strip in strips:
        count, labels, row, col = label(strip)
        own, down = labels[row, col], row + strip.start
        y, x = (down // CELL).clip(max=len(cells) - 1), (col // CELL).clip(max=cells.shape[1] - 1)
        reaches.append(np.full((6, count), -np.inf))
        sides = [-col, -down, col + 1, down + 1, cells[y, x], pixels[down, col]]
        for side, values in zip(reaches[-1], sides, strict=True):
            np.maximum.at(side, own, values)
        if last is not None:  # joins what touches across strips
            for shift in (-1, 0, 1):
                one = last[max(0, -shift) : len(last) - max(0, shift)]
                other = labels[0][max(0, shift) : len(last) - max(0, -shift)]
                both = (one > 0) & (other > 0)
                pairs.append(np.stack([above + one[both], first + other[both]]))
        last, above, first = labels[-1], first, first + count
    one, other = np.concatenate(pairs, 1)
    groups, group = connected_components(coo_array((np.ones(len(one)), (one, other)), (first, first)), directed=False)
    reach = np.full((6, groups), -np.inf)
    for side, values in zip(reach, np.concatenate(reaches, 1), strict=True):
        np.maximum.at(side, group, values)
    far = np.hypot(reach[0] + reach[2], reach[1] + reach[3]) >= _SHORTEST
    kept = (far & (reach[4] >= sure_cell) & (reach[5] >= high))[group]
    found, first = np.zeros(pixels.shape, bool), 0
    for strip in strips:
        count, labels, row, col = label(strip)
        found[strip][row, col], first = kept[first : first + count][labels[row, col]], first + count
    return found


def find_pixels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x of the pixels of a bool mask (h, w), row by row, as np.nonzero does, but many times faster."""
    return np.divmod(np.flatnonzero(mask), mask.shape[1])


def _thin_and_fill(found: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Return the pixels in `sure`, the centre line of the others, and what both enclose; all bool (h, w).

    A hole, which debris or light on a rim leaves, counts as enclosed if it is small: its box has a side of 2 pixels or
    less, or half of the ring around it is crack, as wide as the radius of the largest circle in the hole.
    """
    left, top, wide, high = cv2.boundingRect(found.view(np.uint8))
    box = np.s_[max(0, top - _HOLE) : top + high + _HOLE, max(0, left - _HOLE) : left + wide + _HOLE]
    core, thin = sure[box] | skeletonize(found[box]), np.zeros_like(found)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((~core).view(np.uint8), connectivity=4)
    crack = np.ones(len(boxes), bool)
    crack[labels[~found[box]]] = False
    first, size = boxes[:, :2], boxes[:, 2:4]
    hole = ~crack & ((first > 0) & (first + size < core.shape[::-1]) & (size <= _HOLE)).all(1)
    crack |= hole & (size.min(1) <= 2)
    core = crack[labels]
    for k in np.flatnonzero(hole & ~crack):
        (x, y), (right, low) = first[k], first[k] + size[k]
        radius = math.ceil(_distance(labels[y - 1 : low + 1, x - 1 : right + 1] == k).max())
        near = np.s_[max(0, y - radius) : low + radius, max(0, x - radius) : right + radius]
        far = _distance(labels[near] != k)
        crack[k] = core[near][(far > 0) & (far <= radius)].mean() >= 0.5
    thin[box] = crack[labels]
    return thin


def _distance(inside: np.ndarray) -> np.ndarray:
    """Return how far each pixel is from the nearest one that is not inside, float32 (h, w)."""
    return cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
