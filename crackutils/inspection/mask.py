"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import math

import cv2
import numpy as np

from crackutils.inspection.tiling import CELL, sigmoid

_BACKGROUND = 31  # pixels, side of the square that tells how bright the surface is around a pixel
_SHORTEST = 20  # pixels of a line that counts
_LOW, _HIGH = 1.5, 3.0  # how much darker than its surroundings a crack's pixel is, in deviations of the surface
_BEYOND, _LEVEL = 1.4, 0.2  # how much darker than the brightest path the darkest one must be, and than the surface
GAP = 9  # pixels of a gap that a middle line bridges
_HALF = 7  # pixels, side of the square in which a line is deepest
BLOCK, RIM = 1024, 80  # pixels of a photo that are looked at together, and around them


def crack_mask(image: np.ndarray, odds: np.ndarray, threshold: float) -> np.ndarray:
    """Return the pixels of cracks, bool (h, w): dark lines near crack-like cells, and what joins them.

    A pixel is dark where it lies below its surroundings by more than the surface's own unevenness (hysteresis with two
    bounds); what is shorter than 20 pixels is dropped. A hairline is not so dark everywhere: where crack-like cells go
    on, the darkest path through them, one pixel wide, counts as well (minimal paths: Cohen, Kimmel 1997), if it is
    darker than the brightest path is bright.

    Args:
        image: uint8 (h, w, 3).
        odds: as `cells_of` returns them.
        threshold: probability from which a cell is crack-like.
    """
    h, w = image.shape[:2]
    mask = np.zeros((h, w), bool)
    likely, near = likely_cells(odds, threshold)
    side, rim = BLOCK // CELL, RIM // CELL
    for row in range(0, likely.shape[0], side):  # block by block, so that memory does not grow with the photo
        for col in range(0, likely.shape[1], side):
            top, left = max(0, row - rim), max(0, col - rim)
            part = np.s_[top : row + side + rim, left : col + side + rim]
            if not likely[part].any():
                continue
            y, x = top * CELL, left * CELL
            cells = likely[part]
            here = image[y : y + cells.shape[0] * CELL, x : x + cells.shape[1] * CELL]
            found = _dark_lines(here, cells, near[part])
            core = np.s_[row * CELL : row * CELL + BLOCK, col * CELL : col * CELL + BLOCK]
            offset = (row * CELL - y, col * CELL - x)
            kept = found[offset[0] : offset[0] + BLOCK, offset[1] : offset[1] + BLOCK]
            mask[core] = kept
    return mask


def likely_cells(odds: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells that are crack-like, and these with those around them, both bool."""
    likely = sigmoid(odds) >= threshold
    return likely, cv2.dilate(likely.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def cell_pixels(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of cells, bool, cut where the photo ends."""
    return np.kron(cells, np.ones((CELL, CELL), bool))[: shape[0], : shape[1]]


def _dark_lines(image: np.ndarray, cells: np.ndarray, near: np.ndarray) -> np.ndarray:
    from skimage.filters import apply_hysteresis_threshold

    inside = cell_pixels(near, image.shape)
    depth = _depth(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    spread = 1.4826 * np.median(np.abs(depth[inside])) + 1.0
    deepest = cv2.dilate(depth, np.ones((_HALF, _HALF), np.uint8))
    # a line is as wide as where it is half as deep, however blurred it is
    line = np.where(inside & (depth >= 0.5 * deepest), depth, 0)
    dark = apply_hysteresis_threshold(line, _LOW * spread, _HIGH * spread)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    long = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) >= _SHORTEST
    long[0] = False
    dark = long[labels]
    beside = cv2.dilate(dark.astype(np.uint8), np.ones((GAP // 2 + 1,) * 2, np.uint8)).astype(bool)
    paths = _paths(cv2.GaussianBlur(depth, (0, 0), 1.0) / spread, cells)
    return dark | (paths & ~beside)  # middle lines bridge what is between


def _paths(depth: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the darkest paths along chains of cells, bool (h, w), where they are darker than chance makes them.

    Any surface has a darkest path. What chance can do is told by the brightest one, as cracks are not bright.
    """
    from skimage.morphology import skeletonize

    found = np.zeros(depth.shape, bool)
    depth = depth - np.median(depth)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        left, top, wide, high, size = (int(v) for v in stats[number])
        if size < 2:
            continue
        chain = np.pad(labels[top : top + high, left : left + wide] == number, 1)
        y, x = max(0, top - 1), max(0, left - 1)  # the pad stays where the photo does not end
        chain, thin = (some[y - top + 1 :, x - left + 1 :] for some in (chain, skeletonize(chain)))
        part = depth[y * CELL :, x * CELL :][: chain.shape[0] * CELL, : chain.shape[1] * CELL]
        _, level = _ways(-part, chain, thin)
        ways, _ = _ways(part, chain, thin, _BEYOND * max(level, _LEVEL))
        found[y * CELL :, x * CELL :][: part.shape[0], : part.shape[1]] |= ways
    return found


def _ways(depth: np.ndarray, chain: np.ndarray, thin: np.ndarray, least: float = -math.inf) -> tuple[np.ndarray, float]:
    """Return the deepest paths from the deepest pixel of a chain of cells to its other cells, and their mean depth.

    Paths of less than `least`, on average, are left out, and what adds less than 20 pixels to the others.
    """
    from skimage.graph import MCP_Geometric

    own = cell_pixels(chain, depth.shape)
    # a path may leave its cells by one
    allowed = cv2.dilate(own.astype(np.uint8), np.ones((2 * CELL + 1,) * 2, np.uint8)).astype(bool)
    deep, goals, found = np.where(own, depth, -np.inf), [], np.zeros(depth.shape, bool)
    graph = MCP_Geometric(np.where(allowed, (0.2 + depth.clip(0, 4)) ** -2, -1))  # below 0: no way
    far, _ = graph.find_costs([np.unravel_index(deep.argmax(), deep.shape)])
    for row, col in np.argwhere(thin) * CELL:
        square = deep[row : row + CELL, col : col + CELL]
        at = np.unravel_index(square.argmax(), square.shape)
        goals.append((row + at[0], col + at[1]))
    for goal in sorted(goals, key=lambda goal: -far[goal]):
        way = tuple(np.array(graph.traceback(goal)).T)
        new = ~found[way]
        if new.sum() >= _SHORTEST and depth[way][new].mean() >= least:
            found[way] = True
    return found, float(depth[found].mean()) if found.any() else 0.0


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
