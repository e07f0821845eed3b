"""Centre lines of cracks as a graph: lines between ends and forks, without spurs of rough edges.

By hand, in a hundred lines: skan would need numba, llvmlite and toolz.
"""

import heapq
import itertools
from collections import defaultdict

import cv2
import numpy as np
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

from crackutils.inspection.mask import find_pixels, for_blocks

GAP = 15  # pixels of a gap that a centre line bridges
_BLOCK, _RIM = 1024, 128  # side of the blocks in which a mask is thinned, and of their overlap, pixels
_HOLE = 3  # side of the disk that closes holes and notches, pixels
_PAD = 32  # pixels by which lines are extended beyond the photo for thinning
_TANGENT = 8  # pixels of a line that give the direction of its end
_SPUR = 4  # pixels by which a branch must be longer than the distance from centre line to edge
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to half of the neighbours of a pixel, straight ones first (y, x)


def thin_mask(mask: np.ndarray) -> np.ndarray:
    """Return centre lines (Zhang, Suen 1984), gaps bridged: pixels to the edge, rounded up, uint8 (h, w); else 0."""
    disk, reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_HOLE, _HOLE)), np.zeros(mask.shape, np.uint8)

    def thin(y: int, x: int) -> None:
        part = mask[max(0, y - _RIM) : y + _BLOCK + _RIM, max(0, x - _RIM) : x + _BLOCK + _RIM]
        if not part.any():
            return
        # lines are extended beyond the photo, because thinning shortens their ends
        closed = cv2.copyMakeBorder(part.astype(np.uint8), *(_PAD,) * 4, cv2.BORDER_REPLICATE)
        closed = cv2.morphologyEx(closed, cv2.MORPH_CLOSE, disk)
        left, top, wide, high = cv2.boundingRect(closed)
        box = np.s_[top : top + high, left : left + wide]
        closed[box] = skeletonize(closed[box])
        closed = closed[_PAD:-_PAD, _PAD:-_PAD]
        rows, cols = find_pixels(closed > 0)
        far = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3)[rows, cols]
        closed[rows, cols] = np.ceil(far).clip(1, 255)
        reach[y : y + _BLOCK, x : x + _BLOCK] = closed[min(y, _RIM) :, min(x, _RIM) :][:_BLOCK, :_BLOCK]

    for_blocks(thin, mask.shape, _BLOCK)  # thinning is local; blocks limit the memory
    bridge_gaps(reach)
    return reach


def bridge_gaps(reach: np.ndarray) -> None:
    """Join ends of `thin_mask` that face each other across `GAP` pixels or fewer, in place, the nearest first."""
    y, x = find_pixels(reach > 0)
    points, links = np.stack([x, y], 1).astype(float), _neighbours(reach, y, x)
    ends = [k for k, near in enumerate(links) if len(near) < 2]
    if len(ends) < 2:
        return
    ahead = []
    for end in ends:
        path = [end, *links[end]]
        while len(path) < _TANGENT and len(links[path[-1]]) == 2:
            path.append(links[path[-1]][links[path[-1]][0] == path[-2]])
        ahead.append(points[end] - points[path[-1]])
    free, spots = [2 - len(links[end]) for end in ends], points[ends]  # a single pixel may be joined twice
    pairs = KDTree(spots).query_pairs(GAP, output_type="ndarray")
    gaps = spots[pairs[:, 1]] - spots[pairs[:, 0]]
    for k in np.argsort(np.hypot(*gaps.T), kind="stable"):
        (one, other), gap = pairs[k], gaps[k]
        ways = (ahead[one], gap), (ahead[other], -gap)
        faces = all(way @ to >= 0.7 * np.hypot(*way) * np.hypot(*to) for way, to in ways)
        if free[one] and free[other] and faces:
            free[one], free[other] = free[one] - 1, free[other] - 1
            steps = np.linspace(spots[one], spots[other], int(np.abs(gap).max()) + 1).round().astype(int)
            reach[steps[:, 1], steps[:, 0]] = np.maximum(reach[steps[:, 1], steps[:, 0]], 1)


def trace_lines(line: np.ndarray) -> list[np.ndarray]:
    """Return the lines between ends and forks of centre lines, bool (h, w): a list of int (n, 2), pixels x, y.

    Closed lines begin and end at the same pixel.
    """
    y, x = find_pixels(line)
    links = _neighbours(line, y, x)
    nodes = [k for k, near in enumerate(links) if len(near) != 2]
    paths, seen = [], np.zeros(len(links), bool)
    seen[nodes] = True
    joined = set()  # pairs of nodes that touch
    for start in itertools.chain(nodes, range(len(links))):  # rings have no nodes
        if len(links[start]) == 2 and seen[start]:
            continue
        ring = len(links[start]) == 2
        seen[start] = True
        for step in links[start][: 1 if ring else None]:
            if seen[step] and len(links[step]) == 2:
                continue  # already traced from its other end
            path = [start, step]
            while len(links[step]) == 2 and step != start:
                seen[step] = True
                step = links[step][links[step][0] == path[-2]]
                path.append(step)
            if len(path) == 2:
                if (step, start) in joined:
                    continue
                joined.add((start, step))
            paths.append(np.stack([x[path], y[path]], 1))
    return paths


def _neighbours(line: np.ndarray, y: np.ndarray, x: np.ndarray) -> list[list[int]]:
    """Return the neighbours of each pixel of a line; no diagonal one that two straight steps reach."""
    wide = line.shape[1] + 2
    at = (y + 1) * wide + x + 1  # ascending
    has = lambda there: at[np.searchsorted(at, there).clip(max=len(at) - 1)] == there  # noqa: E731
    links: list[list[int]] = [[] for _ in at]
    for down, right in _STEPS:
        there = at + down * wide + right
        found = has(there)
        if down and right:
            found &= ~(has(at + wide) | has(at + right))
        for one, other in zip(np.nonzero(found)[0].tolist(), np.searchsorted(at, there[found]).tolist(), strict=True):
            links[one].append(other)
            links[other].append(one)
    return links


def prune_spurs(paths: list[np.ndarray], reach: np.ndarray) -> list[np.ndarray]:
    """Return lines of `trace_lines` without branches and loops that hardly leave the crack; `reach` is `thin_mask`.

    The shortest is removed first; lines that meet at its former fork are joined.
    """
    kept, ends = dict(enumerate(paths)), defaultdict(set)
    for k, path in kept.items():
        for node in _ends(path):
            ends[node].add(k)
    numbers, heap = itertools.count(len(paths)), [(len(path), k) for k, path in kept.items()]
    heapq.heapify(heap)
    while heap:
        length, k = heapq.heappop(heap)
        if k not in kept:
            continue
        one, other = _ends(kept[k])
        free = [len(ends[node]) == 1 for node in (one, other)]
        double = one == other or len(ends[one] & ends[other]) > 1
        x, y = other if free[0] else one
        if all(free) or not (any(free) or double) or length - 1 > 1.5 * int(reach[y, x]) + _SPUR:
            continue
        del kept[k]
        for node in {one, other}:
            ends[node].discard(k)
            if len(ends[node]) == 2 and all(len(set(_ends(kept[j]))) == 2 for j in ends[node]):
                first, last = (kept.pop(j) for j in sorted(ends.pop(node)))
                first = first if _ends(first)[1] == node else first[::-1]
                last = last if _ends(last)[0] == node else last[::-1]
                new = next(numbers)
                kept[new] = np.concatenate([first, last[1:]])
                heapq.heappush(heap, (len(kept[new]), new))
                for end in _ends(kept[new]):
                    ends[end] = {j for j in ends[end] if j in kept} | {new}
    return list(kept.values())


def _ends(path: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    return tuple(map(int, path[0])), tuple(map(int, path[-1]))
