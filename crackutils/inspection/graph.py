"""Centre lines of cracks as a graph: lines between ends and forks, without the spurs of rough edges.

By hand: skan needs numba and its compiler, 130 MB, for what is a hundred lines here.
"""

import heapq
import itertools

import cv2
import numpy as np
from skimage.morphology import skeletonize

GAP = 9  # pixels of a gap that a centre line bridges
_BLOCK, _RIM = 1024, 128  # side of the blocks that a mask is thinned in, and of what they see around them, pixels
_PAD = 32  # pixels that lines go on beyond the photo while they are thinned
_SPUR = 4  # pixels that a branch must be longer than from centre line to edge
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to half of the neighbours of a pixel, straight ones first (y, x)


def centre_lines(mask: np.ndarray) -> np.ndarray:
    """Return the centre lines of cracks, bool (h, w), one pixel wide (Zhang, Suen 1984), across gaps of some pixels."""
    return thin_mask(mask) > 0


def thin_mask(mask: np.ndarray) -> np.ndarray:
    """Return how far it is from `centre_lines` to the edge, uint8 (h, w), pixels rounded up, at most 255; else 0."""
    disk, reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GAP, GAP)), np.zeros(mask.shape, np.uint8)
    # block by block: thinning is local, and memory does not grow with the photo
    for y, x in itertools.product(*(range(0, side, _BLOCK) for side in mask.shape)):
        part = mask[max(0, y - _RIM) : y + _BLOCK + _RIM, max(0, x - _RIM) : x + _BLOCK + _RIM]
        if not part.any():
            continue
        # lines go on beyond the photo, so that they are not shortened at its border
        closed = cv2.copyMakeBorder(part.astype(np.uint8), *(_PAD,) * 4, cv2.BORDER_REPLICATE)
        closed = cv2.morphologyEx(closed, cv2.MORPH_CLOSE, disk)
        left, top, wide, high = cv2.boundingRect(closed)
        box = np.s_[top : top + high, left : left + wide]
        closed[box] = skeletonize(closed[box])
        closed = closed[_PAD:-_PAD, _PAD:-_PAD]
        closed *= np.ceil(cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3)).clip(1, 255).astype(np.uint8)
        reach[y : y + _BLOCK, x : x + _BLOCK] = closed[min(y, _RIM) :, min(x, _RIM) :][:_BLOCK, :_BLOCK]
    return reach


def trace_lines(line: np.ndarray) -> list[np.ndarray]:
    """Return the lines between ends and forks of centre lines, bool (h, w): a list of int (n, 2), pixels x, y.

    Closed lines begin and end at the same pixel.
    """
    y, x = np.nonzero(line)
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
                continue  # walked from its other end
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
    """Return for each pixel of a line the numbers of its neighbours; no slant where two straight steps lead."""
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
    """Return `trace_lines` without branches that hardly leave the line they come from, with `thin_mask` for `reach`.

    The shortest goes first; lines that meet where it left become one.
    """
    ends: dict[tuple, set[int]] = {}
    kept = dict(enumerate(paths))
    for k, path in kept.items():
        for end in (path[0], path[-1]):
            ends.setdefault(tuple(end), set()).add(k)
    loops = {k for k, path in kept.items() if (path[0] == path[-1]).all()}

    def fork_of(k: int) -> tuple | None:
        """Return the fork that a spur leaves, None where the line is no spur."""
        one, other = tuple(kept[k][0]), tuple(kept[k][-1])
        free = [len(ends[end]) == 1 for end in (one, other)]
        fork = other if free[0] else one
        return (
            fork
            if k not in loops and sum(free) == 1 and len(kept[k]) - 1 <= int(reach[fork[1], fork[0]]) + _SPUR
            else None
        )

    heap = [(len(path), k) for k, path in kept.items() if fork_of(k)]
    heapq.heapify(heap)
    new = len(paths)
    while heap:
        length, k = heapq.heappop(heap)
        if k not in kept or length != len(kept[k]) or (fork := fork_of(k)) is None:
            continue
        for end in (kept[k][0], kept[k][-1]):
            ends[tuple(end)].discard(k)
        del kept[k]
        if len(ends[fork]) != 2 or ends[fork] & loops:
            continue
        one, other = (kept.pop(k) for k in sorted(ends.pop(fork)))
        one = one if tuple(one[-1]) == fork else one[::-1]
        other = other if tuple(other[0]) == fork else other[::-1]
        kept[new] = np.concatenate([one, other[1:]])
        for end in (one[0], other[-1]):
            ends[tuple(end)] -= ends[tuple(end)] - kept.keys()
            ends[tuple(end)].add(new)
        if tuple(one[0]) == tuple(other[-1]):
            loops.add(new)
        elif fork_of(new):
            heapq.heappush(heap, (len(kept[new]), new))
        new += 1
    return list(kept.values())
