"""From a photo and its map to the pixels of its cracks: dark lines near crack-like cells, and paths that join them."""

import itertools
import math

import cv2
import numpy as np
from skimage.filters import apply_hysteresis_threshold
from skimage.graph import MCP_Geometric
from skimage.morphology import skeletonize

from crackutils.detector.network import CELL
from crackutils.inspection.tiling import sigmoid

BLOCK, RIM = 1024, 80  # side of the blocks that a photo is worked on in, and of what they see around them, pixels
GAP = 9  # pixels of a gap that a centre line bridges
_BACKGROUND = 31  # side of the square whose median is the surface's brightness, pixels
_SHORTEST = 20  # pixels of a line that counts
_LOW, _HIGH = 1.5, 3.0  # bounds of the hysteresis: how much darker than its surroundings, in deviations of the surface
_BEYOND, _LEVEL = 1.4, 0.2  # how much darker than the brightest path the darkest one must be, and than the surface
_HALF = 7  # side of the square in which a line is compared with its darkest pixel, pixels


def crack_mask(image: np.ndarray, logits: np.ndarray, threshold: float) -> np.ndarray:
    """Return the pixels of cracks, bool (h, w), in a photo, uint8 (h, w, 3).

    Near cells of `cell_logits` whose probability reaches the threshold, a pixel counts where it is darker than its
    surroundings by more than the surface's own unevenness (hysteresis); lines shorter than 20 pixels are dropped. Where
    a hairline fades, the darkest path through these cells, one pixel wide, counts as well (minimal paths: Cohen, Kimmel
    1997), if it is darker than the brightest path is bright.
    """
    mask, (likely, near) = np.zeros(image.shape[:2], bool), likely_cells(logits, threshold)
    side, rim = BLOCK // CELL, RIM // CELL
    # block by block, so that memory does not grow with the photo
    for row, col in itertools.product(*(range(0, n, side) for n in likely.shape)):
        top, left, low, right = max(0, row - rim), max(0, col - rim), row + side + rim, col + side + rim
        part = np.s_[top:low, left:right]
        if likely[part].any():
            block = image[top * CELL : low * CELL, left * CELL : right * CELL]
            dark = _dark_lines(block, likely[part], near[part])[(row - top) * CELL :, (col - left) * CELL :]
            mask[row * CELL : row * CELL + BLOCK, col * CELL : col * CELL + BLOCK] = dark[:BLOCK, :BLOCK]
    return mask


def likely_cells(logits: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the crack-like cells, and these with the cells around them, both bool (h, w)."""
    likely = sigmoid(logits) >= threshold
    return likely, dilate(likely, 3)


def cell_pixels(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of cells, bool, cut to the shape (h, w) of the photo."""
    return np.kron(cells, np.ones((CELL, CELL), bool))[: shape[0], : shape[1]]


def dilate(mask: np.ndarray, side: int) -> np.ndarray:
    """Return a bool mask (h, w) grown by a square of `side` pixels."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _dark_lines(image: np.ndarray, likely: np.ndarray, near: np.ndarray) -> np.ndarray:
    inside = cell_pixels(near, image.shape)
    depth = _depth(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    spread = 1.4826 * np.median(np.abs(depth[inside])) + 1.0
    # a line is as wide as where it is half as deep, however blurred it is
    line = np.where(inside & (depth >= 0.5 * cv2.dilate(depth, np.ones((_HALF, _HALF), np.uint8))), depth, 0)
    dark = apply_hysteresis_threshold(line, _LOW * spread, _HIGH * spread)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    long = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) >= _SHORTEST
    dark &= long[labels]
    paths = _dark_paths(cv2.GaussianBlur(depth, (0, 0), 1.0) / spread, likely)
    return dark | (paths & ~dilate(dark, GAP // 2 + 1))  # centre lines bridge what is between


def _depth(grey: np.ndarray) -> np.ndarray:
    """Return by how many grey levels each pixel is darker than its surroundings, float32.

    The surroundings are the brightest of three medians: a small one is the crack itself where the crack is wide.
    """
    around = cv2.medianBlur(grey, _BACKGROUND)
    for times in (2, 4):
        small = cv2.resize(grey, (-(-grey.shape[1] // times), -(-grey.shape[0] // times)), interpolation=cv2.INTER_AREA)
        wider = cv2.resize(cv2.medianBlur(small, _BACKGROUND), grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
        around = np.maximum(around, wider)
    return around.astype(np.float32) - cv2.GaussianBlur(grey, (0, 0), 0.8).astype(np.float32)


def _dark_paths(depth: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Return the darkest paths along chains of cells, bool (h, w), if darker than the brightest paths are bright."""
    found, depth = np.zeros(depth.shape, bool), depth - np.median(depth)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(likely.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        left, top, wide, high, size = (int(v) for v in stats[number])
        if size < 2:
            continue
        chain = np.pad(labels[top : top + high, left : left + wide] == number, 1)
        y, x = max(0, top - 1), max(0, left - 1)  # the pad stays where the photo does not end
        chain, thin = (some[y - top + 1 :, x - left + 1 :] for some in (chain, skeletonize(chain)))
        part = np.s_[y * CELL : (y + chain.shape[0]) * CELL, x * CELL : (x + chain.shape[1]) * CELL]
        _, level = _trace_paths(-depth[part], chain, thin)
        found[part] |= _trace_paths(depth[part], chain, thin, _BEYOND * max(level, _LEVEL))[0]
    return found


def _trace_paths(depth: np.ndarray, chain: np.ndarray, thin: np.ndarray, least: float = -math.inf) -> tuple:
    """Return the deepest paths, bool, from the deepest pixel of a chain to its other cells, and their mean depth.

    Paths whose mean depth is below `least` are left out, and so is what adds less than 20 pixels to the others.
    """
    own, goals, found = cell_pixels(chain, depth.shape), [], np.zeros(depth.shape, bool)
    allowed, deep = dilate(own, 2 * CELL + 1), np.where(own, depth, -np.inf)  # a path may leave its cells by one
    graph = MCP_Geometric(np.where(allowed, (0.2 + depth.clip(0, 4)) ** -2, -1))  # below 0: no way
    cost, _ = graph.find_costs([np.unravel_index(deep.argmax(), deep.shape)])
    for row, col in np.argwhere(thin) * CELL:
        square = deep[row : row + CELL, col : col + CELL]
        y, x = np.unravel_index(square.argmax(), square.shape)
        goals.append((row + y, col + x))
    for goal in sorted(goals, key=lambda goal: -cost[goal]):
        path = tuple(np.array(graph.traceback(goal)).T)
        new = ~found[path]
        if new.sum() >= _SHORTEST and depth[path][new].mean() >= least:
            found[path] = True
    return found, float(depth[found].mean()) if found.any() else 0.0
