"""Concrete photographs made by code, with exact crack masks, and patches cut from them the way METU was made.

A photo is a surface (albedo and a height field under slanted light), cracks, things that are no cracks, and a camera.
Everything follows from two numbers, the seed and the photo's number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2  # noise, drawing and filters: the field's standard, many times faster than Pillow or SciPy at this
import numpy as np
from scipy.signal import lfilter

PATCH = 227  # side of a patch, pixels
TILE = 256  # side of a tile, pixels
MASK_BLOCK = 4  # pixels of a kept patch to a pixel of its kept mask
WIDTH, HEIGHT = 1024, 768  # of a photo, pixels
VERSION = 4  # of the generator: raised whenever pictures change; benchmarks/sample.json has a row per version
QUALITY = 75  # of the JPEG files, as METU's
FINISHES = ("smooth", "pitted", "brushed", "boards", "rough", "eroded")
STYLES = ("hairline", "medium", "wide")  # of cracks
USUAL = (0.33, 0.27, 0.4)  # shares of the styles
THIN = (0.6, 0.25, 0.15)  # the same where thin cracks are to be learnt
VISIBLE = (8.0, 1.0)  # least `contrast` of a crack in a patch that counts as cracked
FAINT = (5.0, 0.7)  # the same where faint cracks are to be learnt
OBJECTS = ("hair", "wire", "joint", "scratch", "shadow", "paint", "leaf", "root", "stain", "salt", "hole", "ridge")
FINE = 3  # cracks are drawn this many times finer than the photo, so that hairlines keep their width
BITS = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True)
class Photo:
    """A photo and what is known of it.

    Attributes:
        image: uint8 (height, width, 3) RGB.
        mask: uint8 (height, width), how much of each pixel is crack, 0-255.
        lines: middle line of each crack and branch: float32 (n, 3), x and y in pixels and the width there in pixels.
        points: places (x, y) on things that are no cracks.
        facts: finish, objects, zoom, crack width in pixels, blur (sigma, pixels), noise (grey levels) and more.
    """

    image: np.ndarray
    mask: np.ndarray
    lines: list[np.ndarray]
    points: list[tuple[float, float]]
    facts: dict[str, Any]


@dataclass
class Scene:
    """What the steps below work on; luminances are multiples of the surface's own, heights are pixels."""

    rng: np.random.Generator
    w: int
    h: int
    zoom: float
    light: tuple[float, float]
    albedo: np.ndarray
    height: np.ndarray
    chroma: np.ndarray  # (h / 8, w / 8, 3), grey levels to add
    overlays: list[tuple[np.ndarray, tuple[float, float, float], float]] = field(default_factory=list)
    shade: np.ndarray | None = None  # multiplies everything at the end
    objects: list[str] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)  # on those objects, for patches that show them


def noise(
    rng: np.random.Generator, h: int, w: int, grain: float, stretch: float = 1.0, angle: float = 0.0
) -> np.ndarray:
    """Return smooth float32 noise (h, w), mean 0, deviation about 1, `grain` pixels between random values.

    `stretch` makes it that many times longer along `angle` (radians).
    """
    if stretch == 1:
        gh, gw = int(h / grain) + 4, int(w / grain) + 4
        coarse = rng.standard_normal((gh, gw), np.float32)
        if grain <= 1.05:
            return coarse[:h, :w]
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


def octaves(rng: np.random.Generator, h: int, w: int, octaves: list[tuple[float, float]]) -> np.ndarray:
    """Return the sum of noises of several (grain, strength); the coarse ones are made small and enlarged once."""
    small = [(g, a) for g, a in octaves if g >= 8]
    total = sum(a * noise(rng, h, w, g) for g, a in octaves if g < 8)
    if small:
        coarse = sum(a * noise(rng, h // 4 + 2, w // 4 + 2, g / 4) for g, a in small)
        total = total + cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    return total


def wave(rng: np.random.Generator, n: int, length: float) -> np.ndarray:
    """Return smooth noise along a line: n values, deviation about 1, `length` values between random ones."""
    knots = rng.standard_normal(int(n / length) + 4)
    return np.interp(np.arange(n) / length + rng.random(), np.arange(len(knots)), knots)


def walk(
    rng: np.random.Generator, start: tuple[float, float], heading: float, length: float, wander: float, kinks: float
) -> np.ndarray:
    """Return a wandering line, float (n, 2), a point every 2 pixels; `kinks` is their number per 100 pixels."""
    n = max(4, int(length / 2))
    push = rng.normal(0, wander, n) + (rng.random(n) < kinks / 50) * rng.normal(0, 0.9, n)
    theta = heading + lfilter([1.0], [1.0, -0.93], push) + 0.25 * wave(rng, n, 3)
    return np.cumsum(np.column_stack([np.cos(theta), np.sin(theta)]) * 2, axis=0) + start


def inside(line: np.ndarray, w: int, h: int, margin: int = 20) -> np.ndarray:
    ok = (line[:, 0] > -margin) & (line[:, 0] < w + margin) & (line[:, 1] > -margin) & (line[:, 1] < h + margin)
    ends = np.flatnonzero(~ok)
    return line[: ends[0]] if len(ends) else line


def ribbon(canvas: np.ndarray, line: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float = 1.0) -> None:
    """Fill the band between `left` and `right` pixels beside a line with 255."""
    if len(line) < 2:
        return
    step = np.gradient(line, axis=0)
    normal = np.column_stack([-step[:, 1], step[:, 0]]) / (np.hypot(*step.T)[:, None] + 1e-6)
    fixed = scale * (1 << BITS)
    a = np.rint((line + normal * left[:, None] + 0.5) * fixed - (1 << (BITS - 1))).astype(np.int32)
    b = np.rint((line - normal * right[:, None] + 0.5) * fixed - (1 << (BITS - 1))).astype(np.int32)
    for quad in np.stack([a[:-1], a[1:], b[1:], b[:-1]], axis=1):
        cv2.fillConvexPoly(canvas, quad, 255, cv2.LINE_8, BITS)


def straight(rng: np.random.Generator, w: int, h: int, upright: float = 0.8) -> tuple[np.ndarray, float]:
    """Return the signed distance (h, w) of each pixel from a random straight line, and the line's angle."""
    angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.06) if rng.random() < upright else rng.uniform(0, math.pi)
    x0, y0 = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
    nx, ny = -math.sin(angle), math.cos(angle)
    across = ((np.arange(w, dtype=np.float32) - x0) * nx)[None] + ((np.arange(h, dtype=np.float32) - y0) * ny)[:, None]
    return across, float(angle)


def blob(
    rng: np.random.Generator, x: float, y: float, radius: float, squash: float = 1.0, rough: float = 0.25
) -> np.ndarray:
    """Return the outline of a rounded, irregular shape as int32 points in OpenCV's fixed-point coordinates."""
    n = 14
    r = radius * (1 + rough * (wave(rng, n, 2.0) + 0.5 * rng.standard_normal(n)).clip(-2, 2) / 1.5)
    t = np.arange(n) * 2 * math.pi / n
    turn = rng.uniform(0, math.pi)
    px, py = r * np.cos(t), r * squash * np.sin(t)
    shape = np.column_stack(
        [x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)]
    )
    return np.rint(shape * (1 << BITS)).astype(np.int32)


def fill(canvas: np.ndarray, shape: np.ndarray, value: float) -> None:
    cv2.fillPoly(canvas, [shape], value, cv2.LINE_AA, BITS)
