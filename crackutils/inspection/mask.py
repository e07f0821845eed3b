"""From a photo's map to the pixels of its cracks."""

import itertools

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import skeletonize

BLOCK, RIM = 2048, 128  # side of the blocks that a map is worked on in, and of what they see around them, pixels
_SHORTEST = 20  # pixels of a line that counts
_LOW = 0.5  # of the threshold: down to this a crack goes on


def crack_mask(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Return the pixels of cracks, bool (h, w), from the probabilities of a `CrackMap`, uint8 (h, w).

    A crack goes on from pixels that reach the threshold to neighbours of half of it (hysteresis: Canny 1986): there the
    centre line alone counts, as the mask would be too wide else. What is shorter than 20 pixels is dropped.
    """
    mask, h, w = np.zeros(pixels.shape, bool), *pixels.shape
    # block by block, so that memory does not grow with the photo
    for row, col in itertools.product(range(0, h, BLOCK), range(0, w, BLOCK)):
        top, left = max(0, row - RIM), max(0, col - RIM)
        part = pixels[top : row + BLOCK + RIM, left : col + BLOCK + RIM]
        if (part >= 255 * threshold).any():
            found = apply_hysteresis_threshold(part, _LOW * threshold * 255, threshold * 255)
            _, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
            long = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) >= _SHORTEST
            found &= long[labels]
            sure = (part >= threshold * 255) & found
            found &= binary_fill_holes(sure | skeletonize(found))  # a wide crack may be sure at its edges only
            mask[row : row + BLOCK, col : col + BLOCK] = found[row - top :, col - left :][:BLOCK, :BLOCK]
    return mask


def dilate(mask: np.ndarray, side: int) -> np.ndarray:
    """Return a bool mask (h, w) grown by a square of `side` pixels."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
