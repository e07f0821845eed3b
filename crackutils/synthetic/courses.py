"""The cracks of training photos: of any width, along and across joints, in nets and pieces, empty, filled or wet."""

import math

import cv2
import numpy as np
from numpy.random import Generator
from scipy.spatial import Voronoi

from crackutils.synthetic.cracks import add_chips, render, widen
from crackutils.synthetic.drawing import normals, ribbon, rotate, soften, walk, wave
from crackutils.synthetic.scene import Scene

COURSES = {"through": 0.28, "straight": 0.16, "short": 0.16, "net": 0.12, "along": 0.16, "diagonal": 0.12}
WIDTHS = {"hairline": (0.3, 3.0), "medium": (2.0, 11.0), "wide": (8.0, 60.0)}  # log-uniform, pixels


def add_any_cracks(s: Scene, style: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], float]:
    """Draw cracks of one of `STYLES` into a scene, with branches.

    Return the luminance without and with them, float (h, w), mask and lines as in `Photo`, and the width in pixels.
    """
    rng = s.rng
    width = math.exp(rng.uniform(*np.log(WIDTHS[style])))
    course = str(rng.choice(list(COURSES), p=list(COURSES.values())))
    if course == "net":
        width = min(width, rng.uniform(3, 8))
    wander, kinks, rough = rng.uniform(0.02, 0.2), rng.uniform(0.3, 5), rng.uniform(0.05, 0.45)
    branchy, chips, pieces = float(rng.choice([0.2, 0.8, 2.5])), s.canvas(), []

    def add(line: np.ndarray, width: float, tapered: int, depth: int) -> None:
        inside = ((line > -20) & (line < (s.w + 20, s.h + 20))).all(1)
        first = int(inside.argmax())
        line = line[first:][(~inside[first:]).cumsum() == 0]  # its first part in the photo
        if (n := len(line)) < 12 or width < 0.2:
            return
        t = np.linspace(0, 1, n)
        ends = np.clip(1.3 * (1 - t), 0, 1) ** 0.7 if tapered else np.ones(n)
        ends = ends * (np.clip(4 * t, 0, 1) ** 0.7 if tapered > 1 else 1)
        size, left, right = widen(rng, n, width, ends, 0.3 if width < 3 else 0.12, rough)
        pieces.append((line, left, right))
        if width > 1.5:
            add_chips(rng, chips, line, size)
        for _ in range(int(rng.poisson(branchy * (0.9 if depth == 0 else 0.4))) if depth < 2 else 0):
            i = int(rng.integers(n // 8, n - n // 8))
            ahead = math.atan2(*(line[min(i + 5, n - 1)] - line[i])[::-1])
            turn = ahead + rng.choice([-1, 1]) * rng.uniform(0.3, 1.3)
            long = max(rng.uniform(40, 420), 5 * float(size[i]))
            twig = _jagged(rng, turn, long, calm, width) if jagged else walk(rng, turn, long, wander, kinks)
            add(twig + line[i], float(size[i]) * rng.uniform(0.25, 0.85 if width < 8 else 0.5), 1, depth + 1)

    calm, jagged = rng.uniform(0.1, 0.4) if course == "straight" else 1.0, rng.random() < 0.65
    while not pieces:
        for line, heading, length, tapered in _net(rng, s.w, s.h) if course == "net" else _plan(s, course):
            path = line
            if len(line) == 1 and jagged:
                path = _jagged(rng, heading, max(length, 12 * width), calm, width) + line
            elif len(line) == 1:
                path = walk(rng, heading, length, wander * calm, kinks * calm) + line
            size = width * math.exp(rng.normal(0, 0.35 if course == "net" else 0.15))
            add(path, size, tapered, 2 * (course == "net"))
    mask, lines = _draw(s, pieces)
    look = "hairline" if width < 3 else "medium" if width < 6 else "wide"
    bare, cover, inside = render(s, mask, chips, max(1.0, width), look, rng.uniform(0, 0.8))
    return *_fill(s, bare, cover, inside, mask, width), mask, lines, width


def _jagged(rng: Generator, heading: float, length: float, calm: float, width: float) -> np.ndarray:
    """Return an angular line (n, 2), a point every 2 pixels, of straight steps, few of them shorter than its width."""
    n, aside = max(4, int(length / 2)), 0.0
    for step in (240, 90, 35, 14, 6):
        step = step * rng.uniform(0.6, 1.5)
        aside = aside + min(calm, step / max(width, 1)) * rng.uniform(0.05, 0.22) * step * wave(rng, n, step / 2)
    return rotate(np.arange(n) * 2.0, aside - aside[0], heading)


def _plan(s: Scene, course: str) -> list[tuple[np.ndarray, float, float, int]]:
    """Return starts (1, 2) or courses (n, 2) of cracks, their heading, length, and number of tapered ends."""
    rng, w, h, plan = s.rng, s.w, s.h, []
    for _ in range(int(rng.choice([1, 2, 3, 5], p=[0.55, 0.25, 0.12, 0.08]))):
        if course == "along" and s.seams:
            seam = s.seams[int(rng.integers(len(s.seams)))]
            n = int(rng.uniform(0.3, 1) * len(seam))
            seam = seam[(i := int(rng.integers(0, len(seam) - n + 1))) : i + n]
            beside = rng.choice([0, 0, 1]) * rng.uniform(-30, 30) + rng.uniform(0, 2.5) * wave(rng, n, 30)
            seam = seam + normals(seam) * (beside + 0.5 * wave(rng, n, 4))[:, None]
            plan.append((seam, 0, 0, int(rng.integers(0, 3))))
        elif course == "short":
            at = rng.uniform(0.05, 0.95, 2) * (w, h)
            plan += [(at[None], rng.uniform(0, 2 * math.pi), rng.uniform(40, 350), 2)]
        else:
            edge, (x, y) = int(rng.integers(4)), rng.uniform(0.1, 0.9, 2) * (w, h)
            start = [(x, -15.0), (w + 15.0, y), (x, h + 15.0), (-15.0, y)][edge]
            turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0) if course == "diagonal" else rng.normal(0, 0.3)
            length = 1.6 * max(w, h) * (1 if rng.random() < 0.6 else rng.uniform(0.15, 0.6))
            plan += [(np.array([start]), math.pi / 2 * (edge + 1) + turn, length, int(rng.random() < 0.35))]
    return plan


def _net(rng: Generator, w: int, h: int) -> list[tuple[np.ndarray, float, float, int]]:
    """Return the courses of map cracking: the rims of cells around random points, in part of the photo."""
    pitch = math.exp(rng.uniform(math.log(45), math.log(260)))
    n = max(6, int(1.4 * w * h / pitch**2))
    cells, plan = Voronoi(rng.uniform(-0.1, 1.1, (n, 2)) * (w, h)), []
    middle, reach = rng.uniform(0, 1, 2) * (w, h), rng.uniform(0.3, 1.2) * max(w, h)
    bend = rng.uniform(0.02, 0.12)
    for a, b in cells.ridge_vertices:
        p, q = cells.vertices[a], cells.vertices[b]
        length = float(np.hypot(*(q - p)))
        if a < 0 or b < 0 or length < 24 or rng.random() < 0.15 or np.hypot(*((p + q) / 2 - middle)) > reach:
            continue
        t = np.linspace(0, 1, int(length / 2))
        swing = bend * length * wave(rng, len(t), len(t) / 4) + rng.uniform(1, 3) * wave(rng, len(t), 8)
        swing = swing * np.minimum(1, 6 * t * (1 - t)) + 0.4 * wave(rng, len(t), 2.5)
        across = np.array([p[1] - q[1], q[0] - p[0]]) / length
        plan.append((p + (q - p) * t[:, None] + across * swing[:, None], 0, 0, int(rng.choice([0, 0, 0, 1]))))
    return plan


def _draw(s: Scene, pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the mask and the lines; thin cracks are drawn up to eight times finer than the photo."""
    widest = max((float((left + right).max()) for _, left, right in pieces), default=1.0)
    finer = 8 if widest < 8 else 5 if widest < 25 else 3
    fine, lines = s.canvas(finer), []
    for line, left, right in pieces:
        ribbon(fine, line, left, right, finer, exact=True)
        width = np.where(left + right > np.abs(normals(line)).max(1) / finer, left + right, 0)
        if s.behind is not None:  # no crack beyond the wall
            x, y = np.rint(line).astype(int).T
            width *= s.behind[y.clip(0, s.h - 1), x.clip(0, s.w - 1), 3] < 0.5
        middle = line + normals(line) * ((left - right) / 2)[:, None]
        lines.append(np.column_stack([middle, width]).astype(np.float32))
    mask = cv2.resize(fine, (s.w, s.h), interpolation=cv2.INTER_AREA)
    if s.behind is not None:
        mask[s.behind[..., 3] >= 0.5] = 0
    return mask, lines


def _fill(
    s: Scene, bare: np.ndarray, cover: np.ndarray, inside: np.ndarray, mask: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the luminance without and with the crack, which is empty or filled, wet or with lime beside it."""
    rng, what = s.rng, s.rng.random()
    if width > 5 and rng.random() < 0.4:  # its far side, or what lies in it, is lit
        reach = rng.uniform(0.2, 0.7) * width * np.array(s.light) * rng.choice([-1, 1])
        dark = cv2.warpAffine(mask, np.array([[1, 0, reach[0]], [0, 1, reach[1]]]), (s.w, s.h), borderValue=255)
        inside = inside + (1 - soften(dark, 1)) * rng.uniform(0.1, 0.6) * np.clip(0.9 + 0.4 * s.noise(6), 0, 1.5)
    cover = cover * (rng.uniform(0.35, 1) if width < 3 else rng.uniform(0.7, 1))
    if what < 0.12:  # lime or glue that came out of it, bright, and often a dark core
        halo = np.minimum(1, soften(mask, rng.uniform(1.5, 5)) * rng.uniform(2, 7) / min(width, 3) ** 0.5)
        halo *= np.clip(rng.uniform(0.3, 1.2) + 0.7 * s.noise(rng.uniform(6, 40)), 0, 1)
        bare = bare + halo * (rng.uniform(1.15, 1.7) * (1 + 0.05 * s.noise(3)) - bare) * rng.uniform(0.3, 0.9)
        if rng.random() < 0.3 and width < 4:
            inside = inside * 0 + rng.uniform(1.2, 1.6)
    elif what < 0.22:  # dust
        inside = inside * 0.4 + rng.uniform(0.3, 0.65) * (1 + 0.1 * s.noise(4))
    elif what < 0.36:  # wet or dirty along it, with a crisp or a soft edge
        near = soften(mask, rng.uniform(4, 18)) * 12 / max(3.0, width) + 0.15 * s.noise(12) + 0.2 * s.noise(40)
        bare = bare * (1 - rng.uniform(0.1, 0.4) * np.clip((near - 0.3) * rng.uniform(1.5, 10), 0, 1))
    return bare, bare + cover * (inside - bare)
