"""Random fields and curves, outlines and bands, and their drawing and lighting."""

import math

import cv2  # draws and filters many times faster than Pillow or SciPy
import numpy as np
from numpy.random import Generator
from scipy.signal import lfilter

_BITS = 4  # fractional bits of OpenCV's drawing coordinates


def noise(rng: Generator, h: int, w: int, grain: float, stretch: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """Return smooth float32 noise (h, w), mean 0, deviation about 1, `stretch` times longer along `angle` (radians).

    `grain`, above 1, is the distance between random values in pixels.
    """
    if stretch == 1:
        gh, gw = int(h / grain) + 4, int(w / grain) + 4
        coarse = rng.standard_normal((gh, gw), np.float32)
        how = cv2.INTER_CUBIC if grain < 12 else cv2.INTER_LINEAR
        big = cv2.resize(coarse, (int(gw * grain) + 1, int(gh * grain) + 1), interpolation=how)
        oy, ox = rng.integers(0, max(1, int(grain)), 2)
        return big[oy : oy + h, ox : ox + w] * 1.25
    side = int(math.hypot(h, w)) + 8
    coarse = rng.standard_normal((int(side / grain) + 2, int(side / (grain * stretch)) + 2), np.float32)
    big = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), math.degrees(-angle), 1.0)
    turn[:, 2] += (w / 2 - side / 2, h / 2 - side / 2)
    return cv2.warpAffine(big, turn, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) * 1.3


def octaves(rng: Generator, h: int, w: int, parts: list[tuple[float, float]]) -> np.ndarray:
    """Return the sum of noises of several (grain, strength); the coarse ones are made small and enlarged once."""
    fine = sum(a * noise(rng, h, w, g) for g, a in parts if g < 8)
    coarse = sum(a * noise(rng, h // 4 + 2, w // 4 + 2, g / 4) for g, a in parts if g >= 8)
    return fine + cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)


def wave(rng: Generator, n: int, length: float) -> np.ndarray:
    """Return smooth noise along a line: n values, deviation about 1, `length` values between random ones."""
    knots = rng.standard_normal(int(n / length) + 4)
    return np.interp(np.arange(n) / length + rng.random(), np.arange(len(knots)), knots)


def trace(theta: np.ndarray) -> np.ndarray:
    """Return the line, float (n, 2), that goes 2 pixels in each of n directions (radians)."""
    return np.cumsum(np.column_stack([np.cos(theta), np.sin(theta)]) * 2, axis=0)


def walk(rng: Generator, heading: float, length: float, wander: float, kinks: float) -> np.ndarray:
    """Return a wandering line, float (n, 2), a point every 2 pixels, with `kinks` sharp bends per 100 pixels."""
    n = max(4, int(length / 2))
    push = rng.normal(0, wander, n) + (rng.random(n) < kinks / 50) * rng.normal(0, 0.9, n)
    return trace(heading + lfilter([1.0], [1.0, -0.93], push) + 0.25 * wave(rng, n, 3))


def normals(line: np.ndarray) -> np.ndarray:
    """Return the unit vectors (n, 2) across a line."""
    step = np.gradient(line, axis=0)
    return np.column_stack([-step[:, 1], step[:, 0]]) / (np.hypot(*step.T)[:, None] + 1e-6)


def rotate(px: np.ndarray, py: np.ndarray, turn: float, x: float = 0, y: float = 0) -> np.ndarray:
    """Return points (n, 2), turned about the origin and moved to (x, y)."""
    c, s = math.cos(turn), math.sin(turn)
    return np.column_stack([x + px * c - py * s, y + px * s + py * c])


def blob(rng: Generator, x: float, y: float, radius: float, squash: float = 1.0, rough: float = 0.25) -> np.ndarray:
    """Return the outline (n, 2) of a rounded, irregular shape."""
    n = 14
    r = radius * (1 + rough * (wave(rng, n, 2.0) + 0.5 * rng.standard_normal(n)).clip(-2, 2) / 1.5)
    t = np.arange(n) * 2 * math.pi / n
    return rotate(r * np.cos(t), r * squash * np.sin(t), rng.uniform(0, math.pi), x, y)


def fill(canvas: np.ndarray, outline: np.ndarray, value: float) -> None:
    """Fill an outline (n, 2) on a canvas, in place."""
    cv2.fillPoly(canvas, [np.rint(outline * (1 << _BITS)).astype(np.int32)], value, cv2.LINE_AA, _BITS)


def stroke(canvas: np.ndarray, line: np.ndarray, value: float, thickness: int = 1) -> None:
    """Draw a line (n, 2) on a canvas, in place."""
    fixed = np.rint(line * (1 << _BITS)).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, value, thickness, cv2.LINE_AA, _BITS)


def ribbon(
    canvas: np.ndarray, line: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float, exact: bool = False
) -> None:
    """Fill the band between `left` and `right` pixels beside a line with 255; the canvas is `scale` times finer.

    OpenCV paints the outline of a shape, too, which adds one fine pixel to the width; `exact` takes it off before.
    """
    normal, one, wide = normals(line), 1 << _BITS, np.ones(len(line), bool)
    if exact:
        edge = 0.5 * np.abs(normal).max(1) / scale
        left, right = left - edge, right - edge
        wide = left + right > 0
    sides = line + normal * left[:, None], line - normal * right[:, None]
    a, b = (np.rint((side + 0.5) * (scale * one) - one // 2).astype(np.int32) for side in sides)
    for quad in np.stack([a[:-1], a[1:], b[1:], b[:-1]], axis=1)[wide[:-1] & wide[1:]]:
        cv2.fillConvexPoly(canvas, quad, 255, cv2.LINE_8, _BITS)


def soften(canvas: np.ndarray, sigma: float, strength: float = 1.0) -> np.ndarray:
    """Return a uint8 canvas blurred, as float32 from 0 to `strength`."""
    return strength * cv2.GaussianBlur(canvas, (0, 0), sigma).astype(np.float32) / 255


def slope(height: np.ndarray, light: tuple[float, float], scale: float = 0.125) -> np.ndarray:
    """Return how steeply a surface falls towards the light."""
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale)
    return dx * light[0] + dy * light[1]
