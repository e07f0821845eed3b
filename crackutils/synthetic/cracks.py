"""Cracks: their course, width and branches, and how they are rendered into the surface."""

import math

import cv2
import numpy as np
from numpy.random import Generator

from crackutils.synthetic.drawing import blob, fill, normals, ribbon, slope, soften, walk, wave
from crackutils.synthetic.scene import FINE, Scene
from crackutils.synthetic.surface import shade_surface


def add_cracks(s: Scene, style: str) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], float]:
    """Draw one or more cracks of one of `STYLES`, with branches, into a scene.

    Return the luminance, float (h, w), mask and lines as in `Photo`, and the width of the main crack in pixels.
    """
    rng, w, h = s.rng, s.w, s.h
    fine, chips = s.canvas(FINE), s.canvas()
    width = {"hairline": rng.uniform(0.7, 2.4), "medium": rng.uniform(2.5, 7), "wide": rng.uniform(6, 24)}[style]
    wander, kinks = rng.uniform(0.02, 0.12), rng.uniform(0.3, 3)
    rough, lines = rng.uniform(0.1, 0.45), []

    def add(start: tuple[float, float], heading: float, length: float, width: float, taper: bool, depth: int) -> None:
        line = walk(rng, heading, length, wander, kinks) + start
        outside = ((line <= -20) | (line >= (w + 20, h + 20))).any(1)
        line = line[outside.cumsum() == 0]  # up to where it leaves the photo
        if (n := len(line)) < 12:
            return
        ends = np.clip(np.linspace(1.3, 0, n), 0, 1) ** 0.7 if taper else 1.0
        size, left, right = widen(rng, n, width, ends, 0.4 if style == "hairline" else 0.12, rough)
        ribbon(fine, line, left, right, FINE)
        edge_pixel = 1 / FINE  # OpenCV paints the outline of a shape, too
        lines.append(np.column_stack([line, left + right + edge_pixel]).astype(np.float32))
        add_chips(rng, chips, line, size)
        for _ in range(int(rng.poisson((0.9 if depth == 0 else 0.4) * branchy)) if depth < 2 else 0):
            i = int(rng.integers(n // 8, n - n // 8))
            ahead = math.atan2(*(line[min(i + 5, n - 1)] - line[i])[::-1])
            turn = ahead + rng.choice([-1, 1]) * rng.uniform(0.3, 1.3)
            add(tuple(line[i]), turn, rng.uniform(60, 420), float(size[i]) * rng.uniform(0.35, 0.85), True, depth + 1)

    branchy = float(rng.choice([0.3, 1.0, 2.5]))
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        edge = int(rng.integers(4))
        x, y = rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * h
        start = [(x, -15.0), (w + 15.0, y), (x, h + 15.0), (-15.0, y)][edge]
        heading = math.pi / 2 * (edge + 1) + rng.normal(0, 0.35)
        add(start, heading, 1.6 * max(w, h), width * math.exp(rng.normal(0, 0.15)), bool(rng.random() < 0.25), 0)
    mask = cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA)
    surface, cover, inside = render(s, mask, chips, width, style)
    return surface + cover * (inside - surface), mask, lines, width


def widen(
    rng: Generator, n: int, width: float, ends: np.ndarray | float, closed: float, rough: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for n points of a crack the width, and how far it reaches to the left and to the right.

    `ends` narrows it; `closed` is the chance that it closes and opens again along its course.
    """
    size = width * np.exp(0.35 * wave(rng, n, 40) + 0.22 * wave(rng, n, 9)) * ends
    if rng.random() < closed:
        size = size * np.clip(1.2 + 1.3 * wave(rng, n, rng.uniform(12, 40)), 0, 1)
    long, short = max(7.0, 0.8 * width), max(2.5, 0.25 * width)
    left, right = (
        size / 2 * np.clip(1 + rough * (wave(rng, n, long) + 0.5 * wave(rng, n, short)), 0.1, 3) for _ in range(2)
    )
    return size, left, right


def add_chips(rng: Generator, chips: np.ndarray, line: np.ndarray, size: np.ndarray) -> None:
    """Break pieces off the edges of a crack."""
    n, normal = len(line), normals(line)
    for i in rng.integers(0, n, int(rng.poisson(n / 50 * rng.choice([0.2, 1, 3])))):
        radius = float(size[i] * rng.uniform(0.35, 1.0) + rng.uniform(0.5, 2))
        x, y = line[i] + normal[i] * rng.choice([-1, 1]) * (size[i] / 2 + radius * 0.3)
        fill(chips, blob(rng, x, y, radius, rng.uniform(0.4, 1), 0.4), int(rng.uniform(90, 255)))


def render(
    s: Scene, mask: np.ndarray, chips: np.ndarray, width: float, style: str, rim: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the luminance around the crack, with broken edges and lit and shadowed rims, its cover, and its inside.

    `rim` is how strong the rims are.
    """
    rng, hairline, surface = s.rng, style == "hairline", shade_surface(s)
    c = mask.astype(np.float32) / 255
    if chips.any():
        broken = soften(chips, 0.8)
        s.height -= rng.uniform(0.5, 3) * broken
        surface = shade_surface(s) * (1 + broken * (rng.normal(0.02, 0.12) + 0.08 * s.noise(3)))
    if rng.random() < 0.5:  # dirt or lime along the crack
        halo = cv2.GaussianBlur(c, (0, 0), rng.uniform(3, 14)) * min(3.0, 6 / width)
        surface = surface * (1 + rng.normal(-0.06, 0.12) * np.minimum(halo, 1) * (0.7 + 0.4 * s.noise(30)))
    rims = (max(0.8, 0.12 * width), 0.25 if hairline else 0.6), (max(2.0, 0.5 * width), 0.15 if hairline else 0.45)
    for sigma, most in rims:
        lit = slope(cv2.GaussianBlur(c, (0, 0), sigma), s.light) * (sigma * 2.5)
        uneven = np.clip(1 + 0.6 * s.noise(25), 0, 2)
        gain = np.where(lit > 0, rng.uniform(0, most * rim), rng.uniform(0, most * rim * 1.2)).astype(np.float32)
        surface = surface * (1 + gain * lit * uneven)
    inside = rng.uniform(0.05, 0.3) if style == "wide" else rng.uniform(0.1, 0.45)
    inside = inside * np.clip(1 + 0.35 * s.noise(max(3, width)), 0.2, 2.5)
    depth = np.clip(rng.uniform(0.8, 1.1) + 0.2 * s.noise(rng.uniform(15, 60)), 0.35, 1)
    if rng.random() < 0.15:  # partly filled with dust
        depth = depth * np.clip(1 + 0.5 * s.noise(rng.uniform(5, 20)), 0.3, 1)
    depth = depth * (rng.uniform(0.4, 1) if hairline else 1)
    return surface, c * depth, inside
