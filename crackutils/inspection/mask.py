"""From a photo's map to the pixels of its cracks."""

import itertools
import math

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.morphology import skeletonize

from crackutils.detector.network import CELL

_STRIP = 2048  # rows that are labelled at once, so that memory does not grow with the photo
_BLOCK, _RIM = 512, 64  # side of the blocks that are thinned, and of what they see around them, pixels
_SHORTEST = 20  # pixels of a line that counts
_CELL_SURE = 2.0  # by which the logit of a crack's surest cell is above that of the threshold, from 0.5 up
_LOW = 0.5  # of the threshold: down to this a crack goes on


def crack_mask(pixels: np.ndarray, threshold: float, cells: np.ndarray | None = None) -> np.ndarray:
    """Return the pixels of cracks, bool (h, w), from the probabilities of a `CrackMap`, uint8 (h, w).

    A crack goes on from pixels that reach the threshold to neighbours of half of it (hysteresis: Canny 1986): there the
    centre line alone counts, as the mask would be too wide else. What is shorter than 20 pixels is dropped, and, with
    the logits of the map's `cells`, so is what no cell is sure of: cells see more of their surroundings.
    """
    # a low threshold was chosen in order to see what is doubtful
    sure = -np.inf if cells is None else math.log(threshold / (1 - threshold)) + _CELL_SURE * min(1, 2 * threshold)
    found = _grow(pixels, _LOW * threshold * 255, threshold * 255, np.zeros((1, 1)) if cells is None else cells, sure)
    mask, (h, w) = found.copy(), pixels.shape
    for row, col in itertools.product(range(0, h, _BLOCK), range(0, w, _BLOCK)):
        top, left = max(0, row - _RIM), max(0, col - _RIM)
        window = np.s_[top : row + _BLOCK + _RIM, left : col + _BLOCK + _RIM]
        own, sure = found[window], found[window] & (pixels[window] >= threshold * 255)
        if (own != sure).any():
            kept = _thin_doubtful(own, sure)[row - top :, col - left :][:_BLOCK, :_BLOCK]
            mask[row : row + _BLOCK, col : col + _BLOCK] = kept
    return mask


def _grow(pixels: np.ndarray, low: float, high: float, cells: np.ndarray, sure_cell: float) -> np.ndarray:
    """Return the pixels of at least `low` that hang together with one of `high`, and with a cell of `sure_cell`.

    They must reach far enough.
    """

    def label(strip: slice) -> tuple[int, np.ndarray, np.ndarray]:
        return cv2.connectedComponentsWithStats((pixels[strip] >= low).astype(np.uint8), connectivity=8)[:3]

    strips = [slice(top, top + _STRIP) for top in range(0, len(pixels), _STRIP)]
    boxes, sure, best, pairs, first, above, last = [], [], [], [np.empty((2, 0), int)], 0, 0, None
    for strip in strips:
        count, labels, stats = label(strip)
        left, top, wide, tall = stats.T[:4]
        boxes.append(np.stack([-left, -top - strip.start, left + wide, top + strip.start + tall]))
        sure.append(np.isin(np.arange(count), labels[pixels[strip] >= high]))
        row, col = np.nonzero(labels)
        best.append(np.full(count, -np.inf))
        y, x = ((row + strip.start) // CELL).clip(max=len(cells) - 1), (col // CELL).clip(max=cells.shape[1] - 1)
        np.maximum.at(best[-1], labels[row, col], cells[y, x])
        if last is not None:  # what touches across the seam is one
            for shift in (-1, 0, 1):
                one = last[max(0, -shift) : len(last) - max(0, shift)]
                other = labels[0][max(0, shift) : len(last) - max(0, -shift)]
                both = (one > 0) & (other > 0)
                pairs.append(np.stack([above + one[both], first + other[both]]))
        last, above, first = labels[-1], first, first + count
    one, other = np.concatenate(pairs, 1)
    groups, group = connected_components(coo_array((np.ones(len(one)), (one, other)), (first, first)), directed=False)
    reach, certain = np.full((5, groups), -np.inf), np.zeros(groups, bool)
    for side, values in zip(reach, [*np.concatenate(boxes, 1), np.concatenate(best)], strict=True):
        np.maximum.at(side, group, values)
    certain[group[np.concatenate(sure)]] = True
    certain &= (np.hypot(reach[0] + reach[2], reach[1] + reach[3]) >= _SHORTEST) & (reach[4] >= sure_cell)
    kept = certain[group]
    found, first = np.zeros(pixels.shape, bool), 0
    for strip in strips:
        count, labels, _ = label(strip)
        own = kept[first : first + count]
        own[0] = False  # the surface
        found[strip], first = own[labels], first + count
    return found


def _thin_doubtful(found: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Return what is sure, the centre line of the rest, and what both enclose: wide cracks may be sure at their edges.

    Takes and returns bool (h, w).
    """
    core, cross = sure | skeletonize(found), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    rest = found & ~core
    _, labels = cv2.connectedComponents(rest.astype(np.uint8), connectivity=4)
    outside = cv2.dilate((~found).astype(np.uint8), cross) > 0
    enclosed = ~np.isin(np.arange(labels.max() + 1), labels[rest & outside])
    return core | (rest & enclosed[labels])


def dilate(mask: np.ndarray, side: int) -> np.ndarray:
    """Return a bool mask (h, w) grown by a square of `side` pixels."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
