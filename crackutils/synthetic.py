"""Concrete photographs made by code, with exact crack masks, and patches cut from them the way METU was made.

A photo is a surface (albedo and a height field under slanted light), cracks, things that are no cracks, and a camera.
Everything follows from two numbers, the seed and the photo's number.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2  # noise, drawing and filters: the field's standard, many times faster than Pillow or SciPy at this
import numpy as np
import pandas as pd
import PIL
from PIL import Image
from scipy.signal import lfilter

from crackutils import config, datasets
from crackutils.config import CLASSES

PATCH = 227  # side of a patch, pixels
TILE = 256  # side of a tile, pixels
CELL = 4  # pixels of a kept patch to a pixel of its kept mask
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
_FINE = 3  # cracks are drawn this many times finer than the photo, so that hairlines keep their width
_BITS = 4  # fractional bits of OpenCV's drawing coordinates


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
class _Scene:
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


# ---------------------------------------------------------------- noise and curves


def _noise(
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


def _octaves(rng: np.random.Generator, h: int, w: int, octaves: list[tuple[float, float]]) -> np.ndarray:
    """Return the sum of noises of several (grain, strength); the coarse ones are made small and enlarged once."""
    small = [(g, a) for g, a in octaves if g >= 8]
    total = sum(a * _noise(rng, h, w, g) for g, a in octaves if g < 8)
    if small:
        coarse = sum(a * _noise(rng, h // 4 + 2, w // 4 + 2, g / 4) for g, a in small)
        total = total + cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    return total


def _wave(rng: np.random.Generator, n: int, length: float) -> np.ndarray:
    """Return smooth noise along a line: n values, deviation about 1, `length` values between random ones."""
    knots = rng.standard_normal(int(n / length) + 4)
    return np.interp(np.arange(n) / length + rng.random(), np.arange(len(knots)), knots)


def _walk(
    rng: np.random.Generator, start: tuple[float, float], heading: float, length: float, wander: float, kinks: float
) -> np.ndarray:
    """Return a wandering line, float (n, 2), a point every 2 pixels; `kinks` is their number per 100 pixels."""
    n = max(4, int(length / 2))
    push = rng.normal(0, wander, n) + (rng.random(n) < kinks / 50) * rng.normal(0, 0.9, n)
    theta = heading + lfilter([1.0], [1.0, -0.93], push) + 0.25 * _wave(rng, n, 3)
    return np.cumsum(np.column_stack([np.cos(theta), np.sin(theta)]) * 2, axis=0) + start


def _inside(line: np.ndarray, w: int, h: int, margin: int = 20) -> np.ndarray:
    ok = (line[:, 0] > -margin) & (line[:, 0] < w + margin) & (line[:, 1] > -margin) & (line[:, 1] < h + margin)
    ends = np.flatnonzero(~ok)
    return line[: ends[0]] if len(ends) else line


def _ribbon(canvas: np.ndarray, line: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float = 1.0) -> None:
    """Fill the band between `left` and `right` pixels beside a line with 255."""
    if len(line) < 2:
        return
    step = np.gradient(line, axis=0)
    normal = np.column_stack([-step[:, 1], step[:, 0]]) / (np.hypot(*step.T)[:, None] + 1e-6)
    fixed = scale * (1 << _BITS)
    a = np.rint((line + normal * left[:, None] + 0.5) * fixed - (1 << (_BITS - 1))).astype(np.int32)
    b = np.rint((line - normal * right[:, None] + 0.5) * fixed - (1 << (_BITS - 1))).astype(np.int32)
    for quad in np.stack([a[:-1], a[1:], b[1:], b[:-1]], axis=1):
        cv2.fillConvexPoly(canvas, quad, 255, cv2.LINE_8, _BITS)


def _straight(rng: np.random.Generator, w: int, h: int, upright: float = 0.8) -> tuple[np.ndarray, float]:
    """Return the signed distance (h, w) of each pixel from a random straight line, and the line's angle."""
    angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.06) if rng.random() < upright else rng.uniform(0, math.pi)
    x0, y0 = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
    nx, ny = -math.sin(angle), math.cos(angle)
    across = ((np.arange(w, dtype=np.float32) - x0) * nx)[None] + ((np.arange(h, dtype=np.float32) - y0) * ny)[:, None]
    return across, float(angle)


def _blob(
    rng: np.random.Generator, x: float, y: float, radius: float, squash: float = 1.0, rough: float = 0.25
) -> np.ndarray:
    """Return the outline of a rounded, irregular shape as int32 points in OpenCV's fixed-point coordinates."""
    n = 14
    r = radius * (1 + rough * (_wave(rng, n, 2.0) + 0.5 * rng.standard_normal(n)).clip(-2, 2) / 1.5)
    t = np.arange(n) * 2 * math.pi / n
    turn = rng.uniform(0, math.pi)
    px, py = r * np.cos(t), r * squash * np.sin(t)
    shape = np.column_stack(
        [x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)]
    )
    return np.rint(shape * (1 << _BITS)).astype(np.int32)


def _fill(canvas: np.ndarray, shape: np.ndarray, value: float) -> None:
    cv2.fillPoly(canvas, [shape], value, cv2.LINE_AA, _BITS)


# ---------------------------------------------------------------- surface


def _surface(s: _Scene, finish: str) -> None:
    """Give albedo and height their texture."""
    rng, h, w, z = s.rng, s.h, s.w, s.zoom
    strength = math.exp(rng.normal(math.log(0.010), 0.4))
    octaves = [
        (max(1.5, g * z**0.5), a) for g, a in ((2, 0.5), (4.5, 0.8), (10, 0.9), (24, 0.9), (60, 1.0), (160, 1.1))
    ]
    s.albedo += _octaves(rng, h, w, [(g, strength * a * math.exp(rng.normal(0, 0.35))) for g, a in octaves])
    relief = {"smooth": 0.14, "pitted": 0.25, "brushed": 0.25, "boards": 0.25, "rough": 0.55, "eroded": 0.4}[finish]
    relief *= math.exp(rng.normal(0, 0.45))
    octaves = [(max(1.4, g * z**0.5), a) for g, a in ((1.6, 0.18), (3.2, 0.45), (7, 0.8), (18, 1.2), (50, 2.2))]
    s.height += _octaves(rng, h, w, [(g, relief * a * z**0.5 * math.exp(rng.normal(0, 0.3))) for g, a in octaves])
    angle = rng.uniform(0, math.pi)
    if finish == "brushed":
        for grain in (1.6, 4, 9):
            s.height += (
                rng.uniform(0.04, 0.25) * grain**0.6 * _noise(rng, h, w, grain * z**0.5, rng.uniform(8, 30), angle)
            )
    elif finish == "boards":
        angle = float(rng.choice([0, math.pi / 2])) + rng.normal(0, 0.03)
        for grain in (2, 6):
            s.height += rng.uniform(0.04, 0.22) * _noise(rng, h, w, grain * z**0.5, 40, angle)
        s.albedo += rng.uniform(0.002, 0.015) * _noise(rng, h, w, 5 * z, 40, angle)
    elif finish in ("pitted", "eroded"):
        for grain in (3, 7):
            pits = np.maximum(_noise(rng, h, w, grain * z**0.6) - rng.uniform(1.0, 1.9), 0)
            s.height -= rng.uniform(0.2, 1.0) * grain**0.5 * pits
            s.albedo -= rng.uniform(0.0, 0.10) * pits
    if finish in ("rough", "eroded") or rng.random() < 0.25:  # grains of sand and stone, lighter and darker
        for sign in (1, -1):
            grains = np.maximum(sign * _noise(rng, h, w, rng.uniform(2, 6) * z**0.5) - rng.uniform(1.2, 2.2), 0)
            s.albedo += sign * rng.uniform(0.01, 0.08) * np.minimum(grains, 1)
            s.height += rng.uniform(0, 0.4) * grains
    _pores(s)
    for _ in range(int(rng.poisson(1.2))):  # clouds of dirt and of lime
        cloud = np.clip(_noise(rng, h, w, rng.uniform(40, 200)) - rng.uniform(0.2, 1.2), 0, 1.2)
        s.albedo += rng.normal(-0.02, 0.03) * cloud
    s.chroma += rng.uniform(0, 2.5) * _low(s, rng.uniform(4, 30))[..., None] * np.array([0.5, 0.1, -1.0], np.float32)


def _low(s: _Scene, grain: float) -> np.ndarray:
    return _noise(s.rng, *s.chroma.shape[:2], grain)


def _pores(s: _Scene) -> None:
    """Bug holes: small ones in numbers, large ones rarely; each a hollow with its own darkness."""
    rng, z = s.rng, s.zoom
    hollow = np.zeros((s.h, s.w), np.uint8)
    dark = np.zeros((s.h, s.w), np.uint8)
    number = int(math.exp(rng.normal(3.6, 1.1)))
    for _ in range(min(number, 400)):
        x, y = rng.uniform(0, s.w), rng.uniform(0, s.h)
        radius = float(np.clip(math.exp(rng.normal(0.75, 0.5)) * z**0.7, 0.7, 16))
        shape = _blob(rng, x, y, radius, rng.uniform(0.45, 1), 0.3)
        _fill(hollow, shape, int(rng.uniform(80, 255)))
        if rng.random() < 0.75:
            _fill(dark, shape, int(rng.uniform(40, 230)))
    light = np.zeros((s.h, s.w), np.uint8)
    for _ in range(int(math.exp(rng.normal(1.5, 1.2)))):  # white grains
        shape = _blob(
            rng, rng.uniform(0, s.w), rng.uniform(0, s.h), rng.uniform(0.8, 3.5) * z**0.5, rng.uniform(0.5, 1)
        )
        _fill(light, shape, int(rng.uniform(60, 255)))
    soft = cv2.GaussianBlur(hollow, (0, 0), 0.9 * max(1, z**0.5)).astype(np.float32) / 255
    s.height -= rng.uniform(1, 4) * soft
    s.albedo *= 1 - rng.uniform(0.3, 0.7) * cv2.GaussianBlur(dark, (0, 0), 0.7).astype(np.float32) / 255
    s.albedo += rng.uniform(0.08, 0.3) * cv2.GaussianBlur(light, (0, 0), 0.7).astype(np.float32) / 255


def _shading(s: _Scene) -> np.ndarray:
    """Return the luminance of the surface: albedo under slanted light."""
    dx = cv2.Sobel(s.height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    dy = cv2.Sobel(s.height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    slope = dx * s.light[0] + dy * s.light[1]
    return s.albedo * (1 + 0.45 * np.tanh(slope * 0.7))


# ---------------------------------------------------------------- cracks


@dataclass
class _Crack:
    open: np.ndarray  # uint8 (h, w), coverage 0-255
    chips: np.ndarray  # uint8 (h, w), where the edge has broken off
    lines: list[np.ndarray]
    width: float


def _cracks(s: _Scene, style: str) -> _Crack:
    """Draw one or more cracks with branches. `style`: hairline, medium or wide."""
    rng, w, h = s.rng, s.w, s.h
    fine = np.zeros((h * _FINE, w * _FINE), np.uint8)
    chips = np.zeros((h, w), np.uint8)
    width = {"hairline": rng.uniform(0.7, 2.4), "medium": rng.uniform(2.5, 7), "wide": rng.uniform(6, 24)}[style]
    lines: list[np.ndarray] = []
    wander, kinks = rng.uniform(0.02, 0.12), rng.uniform(0.3, 3)
    rough = rng.uniform(0.1, 0.45)

    def add(start: tuple[float, float], heading: float, length: float, width: float, taper: bool, depth: int) -> None:
        line = _inside(_walk(rng, start, heading, length, wander, kinks), w, h)
        n = len(line)
        if n < 12:
            return
        size = width * np.exp(0.35 * _wave(rng, n, 40) + 0.22 * _wave(rng, n, 9))
        if taper:
            size = size * np.clip(np.linspace(1.3, 0, n), 0, 1) ** 0.7
        if rng.random() < (0.4 if style == "hairline" else 0.12):  # closed for a while, open again
            size = size * np.clip(1.2 + 1.3 * _wave(rng, n, rng.uniform(12, 40)), 0, 1)
        long, short = max(7.0, 0.8 * width), max(2.5, 0.25 * width)
        side = [
            size / 2 * np.clip(1 + rough * (_wave(rng, n, long) + 0.5 * _wave(rng, n, short)), 0.1, 3) for _ in range(2)
        ]
        _ribbon(fine, line, side[0], side[1], _FINE)
        edge_pixel = 1 / _FINE  # OpenCV paints the outline of a shape, too
        lines.append(np.column_stack([line, side[0] + side[1] + edge_pixel]).astype(np.float32))
        _chip(s, chips, line, size)
        if depth < 2:
            for _ in range(int(rng.poisson((0.9 if depth == 0 else 0.4) * branchy))):
                i = int(rng.integers(n // 8, n - n // 8))
                ahead = math.atan2(*(line[min(i + 5, n - 1)] - line[i])[::-1])
                turn = ahead + rng.choice([-1, 1]) * rng.uniform(0.3, 1.3)
                reach = rng.uniform(60, 420)
                add(tuple(line[i]), turn, reach, float(size[i]) * rng.uniform(0.35, 0.85), True, depth + 1)

    branchy = float(rng.choice([0.3, 1.0, 2.5]))
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        edge = int(rng.integers(4))
        x, y = rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * h
        start = [(x, -15.0), (w + 15.0, y), (x, h + 15.0), (-15.0, y)][edge]
        heading = math.pi / 2 * (edge + 1) + rng.normal(0, 0.35)
        add(start, heading, 1.6 * max(w, h), width * math.exp(rng.normal(0, 0.15)), bool(rng.random() < 0.25), 0)
    opened = cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA)
    return _Crack(opened, chips, lines, width)


def _chip(s: _Scene, chips: np.ndarray, line: np.ndarray, size: np.ndarray) -> None:
    """Break pieces off the edges of a crack."""
    rng, n = s.rng, len(line)
    step = np.gradient(line, axis=0)
    normal = np.column_stack([-step[:, 1], step[:, 0]]) / (np.hypot(*step.T)[:, None] + 1e-6)
    for i in rng.integers(0, n, int(rng.poisson(n / 50 * rng.choice([0.2, 1, 3])))):
        radius = float(size[i] * rng.uniform(0.35, 1.0) + rng.uniform(0.5, 2))
        x, y = line[i] + normal[i] * rng.choice([-1, 1]) * (size[i] / 2 + radius * 0.3)
        _fill(chips, _blob(rng, x, y, radius, rng.uniform(0.4, 1), 0.4), int(rng.uniform(90, 255)))


def _render_crack(s: _Scene, surface: np.ndarray, crack: _Crack, style: str) -> np.ndarray:
    """Return the luminance with the crack in it: broken edges, lit and shadowed rims, a dark inside."""
    rng, width = s.rng, crack.width
    c = crack.open.astype(np.float32) / 255
    if crack.chips.any():
        broken = cv2.GaussianBlur(crack.chips, (0, 0), 0.8).astype(np.float32) / 255
        s.height -= rng.uniform(0.5, 3) * broken
        surface = _shading(s)
        tone = rng.normal(0.02, 0.12) + 0.08 * _noise(rng, s.h, s.w, 3)
        surface = surface * (1 + broken * tone)
    if rng.random() < 0.5:  # dirt or lime along the crack
        halo = cv2.GaussianBlur(c, (0, 0), rng.uniform(3, 14)) * min(3.0, 6 / width)
        surface = surface * (
            1 + rng.normal(-0.06, 0.12) * np.minimum(halo, 1) * (0.7 + 0.4 * _noise(rng, s.h, s.w, 30))
        )
    rim = max(0.8, 0.12 * width)
    for sigma, most in (
        (rim, 0.25 if style == "hairline" else 0.6),
        (max(2.0, 0.5 * width), 0.15 if style == "hairline" else 0.45),
    ):
        soft = cv2.GaussianBlur(c, (0, 0), sigma)
        lit = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3, scale=0.125) * s.light[0]
        lit += cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3, scale=0.125) * s.light[1]
        lit *= sigma * 2.5
        uneven = np.clip(1 + 0.6 * _noise(rng, s.h, s.w, 25), 0, 2)
        gain = np.where(lit > 0, rng.uniform(0, most), rng.uniform(0, most * 1.2)).astype(np.float32)
        surface = surface * (1 + gain * lit * uneven)
    inside = rng.uniform(0.05, 0.3) if style == "wide" else rng.uniform(0.1, 0.45)
    inside = inside * np.clip(1 + 0.35 * _noise(rng, s.h, s.w, max(3, width)), 0.2, 2.5)
    depth = np.clip(rng.uniform(0.8, 1.1) + 0.2 * _noise(rng, s.h, s.w, rng.uniform(15, 60)), 0.35, 1)
    if rng.random() < 0.15:  # partly filled with dust
        depth = depth * np.clip(1 + 0.5 * _noise(rng, s.h, s.w, rng.uniform(5, 20)), 0.3, 1)
    if style == "hairline":
        depth = depth * rng.uniform(0.4, 1)
    return surface + c * depth * (inside - surface)


# ---------------------------------------------------------------- what is no crack


def _object(s: _Scene, name: str) -> None:
    """Add one thing that models take for a crack, or that lies on real concrete."""
    rng, w, h, z = s.rng, s.w, s.h, s.zoom
    x, y = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
    heading = rng.uniform(0, 2 * math.pi)
    canvas = np.zeros((h, w), np.uint8)
    if name in ("hair", "wire", "root"):
        length = rng.uniform(80, 350) if name == "hair" else rng.uniform(300, 1200)
        n = int(length / 2)
        bend = (
            rng.normal(0, 0.008 if name == "hair" else 0.003)
            + 0.008 * _wave(rng, n, 40)
            + (0.08 if name == "root" else 0.0) * _wave(rng, n, 8)
        )
        theta = heading + np.cumsum(bend)
        line = np.cumsum(np.column_stack([np.cos(theta), np.sin(theta)]) * 2, axis=0) + np.array([x, y])
        size = {"hair": rng.uniform(0.8, 2.2), "wire": rng.uniform(3, 9) * z**0.3, "root": rng.uniform(4, 14)}[name]
        half = np.full(n, size / 2) * (np.linspace(1, 0.3, n) * (1 + 0.15 * _wave(rng, n, 6)) if name == "root" else 1)
        fine = np.zeros((h * _FINE, w * _FINE), np.uint8)
        _ribbon(fine, line, half, half, _FINE)
        canvas = cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA)
        tone = rng.uniform(15, 90) if rng.random() < 0.65 else rng.uniform(150, 245)
        colour = {
            "hair": (tone * 1.1, tone, tone * 0.9),
            "wire": tuple(rng.uniform(15, 230, 3)) if rng.random() < 0.4 else (tone, tone, tone),
            "root": (rng.uniform(90, 150), rng.uniform(75, 115), rng.uniform(50, 85)),
        }[name]
        shadow = np.roll(canvas, (int(-s.light[1] * (2 + size / 2)), int(-s.light[0] * (2 + size / 2))), (0, 1))
        s.overlays.append((cv2.GaussianBlur(shadow, (0, 0), 1 + size / 4), (0.0, 0.0, 0.0), rng.uniform(0.1, 0.5)))
        s.overlays.append((canvas, colour, 0.0 if name == "hair" else rng.uniform(0.3, 0.9)))
        s.points += [tuple(p) for p in line[:: max(1, n // 12)]]
    elif name == "joint":
        across, _ = _straight(rng, w, h)
        _mark(s, across)
        across += 0.4 * _noise(rng, h, w, 40)
        half = rng.uniform(1.0, 6) * z**0.3
        groove = np.clip(half - np.abs(across) + 0.5, 0, 1)
        s.albedo *= 1 - groove * rng.uniform(0.25, 0.85) * np.clip(1 + 0.12 * _noise(rng, h, w, 25), 0.5, 1.2)
        s.height -= cv2.GaussianBlur(groove, (0, 0), 0.8) * rng.uniform(1, 4)
    elif name == "ridge":  # a formwork line: a seam of paste, or a small step between boards
        across, _ = _straight(rng, w, h)
        _mark(s, across)
        across += 0.8 * _noise(rng, h, w, 30)
        size = rng.uniform(1.0, 4) * z**0.5
        if rng.random() < 0.5:
            s.height += (
                rng.uniform(1, 5) * np.exp(-((across / size) ** 2)) * np.clip(1 + 0.5 * _noise(rng, h, w, 20), 0, 2)
            )
        else:
            s.height += rng.uniform(1, 5) / (1 + np.exp(-np.clip(across / size * 2, -30, 30)))
        s.albedo *= (
            1 + rng.normal(0, 0.06) * (across > 0) + rng.normal(-0.04, 0.06) * np.exp(-((across / (size * 6)) ** 2))
        )
    elif name == "scratch":
        for _ in range(int(rng.integers(1, 7))):
            length, bend = rng.uniform(40, 400), rng.normal(0, 0.004)
            theta = heading + rng.normal(0, 0.05) + bend * np.arange(int(length / 2))
            line = np.cumsum(np.column_stack([np.cos(theta), np.sin(theta)]) * 2, axis=0)
            line += (x + rng.normal(0, 40), y + rng.normal(0, 40))
            s.points += [tuple(p) for p in line[:: max(1, len(line) // 3)]]
            points = np.rint(line * (1 << _BITS)).astype(np.int32)
            cv2.polylines(
                canvas, [points], False, int(rng.uniform(60, 255)), int(rng.integers(1, 3)), cv2.LINE_AA, _BITS
            )
        soft = cv2.GaussianBlur(canvas, (0, 0), 0.7).astype(np.float32) / 255
        s.albedo *= 1 + soft * np.clip(1 + _noise(rng, h, w, 10), 0, 1.5) * rng.choice([0.25, 0.15, -0.12])
        s.height -= soft * rng.uniform(0, 1)
    elif name == "shadow":
        across, _ = _straight(rng, w, h, 0.3)
        _mark(s, across)
        across += rng.uniform(0, 25) * _noise(rng, h, w, rng.uniform(60, 200))
        edge = np.clip(across / rng.uniform(1.5, 25) + 0.5, 0, 1)
        if rng.random() < 0.5:
            edge *= np.clip((rng.uniform(30, 250) - across) / rng.uniform(2, 20), 0, 1)
        s.shade = (1.0 if s.shade is None else s.shade) * (1 - rng.uniform(0.15, 0.6) * edge)
    elif name == "paint":
        if rng.random() < 0.5:
            across, _ = _straight(rng, w, h, 0.6)
            _mark(s, across)
            across += rng.uniform(0.3, 6) * _noise(rng, h, w, rng.uniform(4, 40))
            cover = np.clip(across + 0.5, 0, 1) * np.clip(rng.uniform(20, 500) - across, 0, 1)
        else:
            _fill(canvas, _blob(rng, x, y, rng.uniform(10, 120), rng.uniform(0.3, 1), 0.5), 255)
            s.points.append((x, y))
            worn = _noise(rng, h, w, rng.uniform(2, 8)) + 4 * (canvas.astype(np.float32) / 255 - 0.5)
            cover = np.clip((cv2.GaussianBlur(worn, (0, 0), 1) + rng.uniform(-0.5, 1)) * 2, 0, 1) * (canvas > 0)
        tone = rng.uniform(60, 245)
        colour = tuple(rng.uniform(30, 240, 3)) if rng.random() < 0.3 else (tone, tone * 0.98, tone * 0.94)
        s.overlays.append(((cover * rng.uniform(90, 255)).astype(np.uint8), colour, -1.0))
    elif name == "leaf":
        for _ in range(int(rng.integers(1, 4))):
            cx, cy, size, turn = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(20, 90), rng.uniform(0, 2 * math.pi)
            s.points.append((cx, cy))
            t = np.linspace(0, 2 * math.pi, 40)
            px, py = size * np.cos(t), size * rng.uniform(0.25, 0.5) * np.sin(t) * (1 + 0.1 * rng.standard_normal(40))
            shape = np.column_stack(
                [px * math.cos(turn) - py * math.sin(turn), px * math.sin(turn) + py * math.cos(turn)]
            )
            one = np.zeros((h, w), np.uint8)
            _fill(one, np.rint((shape + np.array([cx, cy])) * (1 << _BITS)).astype(np.int32), 255)
            shadow = np.roll(one, (int(-s.light[1] * 4), int(-s.light[0] * 4)), (0, 1))
            s.overlays.append((cv2.GaussianBlur(shadow, (0, 0), 2), (0.0, 0.0, 0.0), 0.4))
            green = rng.random() < 0.5
            colour = tuple(
                rng.uniform((70, 85, 45), (120, 130, 80)) if green else rng.uniform((90, 70, 45), (160, 125, 90))
            )
            s.overlays.append((one, colour, 0.3))
            rib = np.zeros((h, w), np.uint8)
            ends = np.array([[-1, 0], [1.2, 0]]) * size @ np.array(
                [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
            ) + (cx, cy)
            cv2.polylines(rib, [np.rint(ends * (1 << _BITS)).astype(np.int32)], False, 255, 1, cv2.LINE_AA, _BITS)
            s.overlays.append((rib, tuple(0.65 * v for v in colour), 0.0))
    elif name == "stain":
        if rng.random() < 0.5:  # run down the wall
            flow = _noise(rng, h, w, rng.uniform(6, 30), rng.uniform(6, 20), math.pi / 2 + rng.normal(0, 0.05))
            cover = np.clip(flow - rng.uniform(0.6, 1.6), 0, 1.5)
        else:
            field_ = _noise(rng, h, w, rng.uniform(50, 220)) + 0.15 * _noise(rng, h, w, 9)
            cover = np.clip((field_ - rng.uniform(0.6, 1.4)) * rng.uniform(1, 10), 0, 1)
        s.albedo *= 1 - cover * rng.uniform(0.04, 0.3)
        if rng.random() < 0.5:
            rust = cv2.resize(cover, s.chroma.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
            s.chroma += rust * rng.uniform(2, 20) * np.array([0.8, 0.0, -1.0], np.float32)
    elif name == "salt":  # efflorescence: a white crust with ragged edges
        ragged = _noise(rng, h, w, rng.uniform(30, 120)) + 0.5 * _noise(rng, h, w, 7) + 0.3 * _noise(rng, h, w, 2.5)
        cover = np.clip((ragged - rng.uniform(0.9, 1.8)) * rng.uniform(0.8, 4), 0, 1)
        s.albedo += cover * rng.uniform(0.05, 0.35)
        s.height += cover * rng.uniform(0, 1.5)
    elif name == "hole":
        radius = rng.uniform(10, 45) * z**0.3
        shape = _blob(rng, x, y, radius, rng.uniform(0.85, 1), 0.04)
        _fill(canvas, shape, 255)
        s.points.append((x, y))
        s.height -= cv2.GaussianBlur(canvas, (0, 0), 1.5).astype(np.float32) / 255 * rng.uniform(3, 8)
        depth = np.roll(canvas, (int(-s.light[1] * radius * 0.25), int(-s.light[0] * radius * 0.25)), (0, 1))
        deep = cv2.GaussianBlur(np.minimum(canvas, depth), (0, 0), 2).astype(np.float32) / 255
        s.albedo *= 1 - deep * rng.uniform(0.3, 0.85)
    s.objects.append(name)


def _mark(s: _Scene, across: np.ndarray) -> None:
    """Note places on the zero line of `across`."""
    y, x = np.nonzero(np.abs(across) < 0.6)
    picked = s.rng.integers(0, len(x), 10) if len(x) else []
    s.points += [(float(x[i]), float(y[i])) for i in picked]


def _lay(rgb: np.ndarray, s: _Scene) -> None:
    """Lay the overlays on an image (h, w, 3), in place; each touches its bounding box only."""
    for cover, colour, kind in s.overlays:
        x, y, w, h = cv2.boundingRect(cover)
        if not w:
            continue
        part = rgb[y : y + h, x : x + w]
        c = cover[y : y + h, x : x + w, None].astype(np.float32) / 255
        if colour == (0.0, 0.0, 0.0):  # a cast shadow
            part *= 1 - kind * c
        elif kind < 0:  # a coat that lets the relief show
            grey = part.mean(2, keepdims=True)
            relief = grey / max(float(grey.mean()), 1.0)
            part += c * (np.array(colour, np.float32) * relief - part)
        else:
            tone = np.array(colour, np.float32)[None, None]
            if kind > 0:  # round: lit from the side of the light
                soft = cv2.GaussianBlur(c[..., 0], (0, 0), 1.5)
                lit = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3, scale=0.25) * s.light[0]
                lit += cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3, scale=0.25) * s.light[1]
                tone = tone * np.clip(1 - 1.2 * kind * lit[..., None], 0.3, 1.8)
            part += c * (tone - part)


# ---------------------------------------------------------------- camera


def _camera(rng: np.random.Generator, rgb: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Take the picture: focus, motion, noise, the phone's denoising and sharpening. Returns uint8 and what was done."""
    h, w = rgb.shape[:2]
    blur = float(rng.uniform(0.5, 1.1) if rng.random() < 0.85 else rng.uniform(1.1, 3.0))
    rgb = cv2.GaussianBlur(rgb, (0, 0), blur)
    motion = 0.0
    if rng.random() < 0.07:
        motion = float(rng.uniform(2, 7))
        size = int(motion) * 2 + 3
        kernel = np.zeros((size, size), np.uint8)
        angle = rng.uniform(0, math.pi)
        dx, dy = motion / 2 * math.cos(angle), motion / 2 * math.sin(angle)
        ends = np.rint((np.array([[-dx, -dy], [dx, dy]]) + size // 2) * (1 << _BITS)).astype(np.int32)
        cv2.polylines(kernel, [ends], False, 255, 1, cv2.LINE_AA, _BITS)
        rgb = cv2.filter2D(rgb, -1, kernel.astype(np.float32) / max(1, int(kernel.sum())))
    noise = float(np.clip(math.exp(rng.normal(0.9, 0.5)), 0.5, 9))
    grain = rng.standard_normal((h, w), np.float32)
    rgb += (cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 0.9)) * 2 * noise)[..., None]
    tint = cv2.resize(rng.standard_normal((h // 4, w // 4, 3), np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    rgb += tint * noise * 0.35
    image = np.clip(rgb, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:  # what phones do against noise: fine detail runs together
        image = cv2.medianBlur(image, 3 if rng.random() < 0.5 else 5)
    sharp = float(rng.uniform(0, 1.0))
    soft = cv2.GaussianBlur(image, (0, 0), 1.6)
    image = cv2.addWeighted(image, 1 + sharp, soft, -sharp, 0)
    return image, {
        "blur": round(blur, 2),
        "motion": round(motion, 1),
        "noise": round(noise, 2),
        "sharpened": round(sharp, 2),
    }


def photo(seed: int, number: int, width: int = WIDTH, height: int = HEIGHT, styles: tuple[float, ...] = USUAL) -> Photo:
    """Make one photo.

    Args:
        seed: of the whole set.
        number: which photo of it, from 0.
        width: in pixels, at least 256.
        height: in pixels, at least 256.
        styles: how probable each of `STYLES` is.
    """
    rng = np.random.default_rng([seed, number])
    style = str(rng.choice(STYLES, p=styles))
    zoom = float(np.clip(math.exp(rng.normal({"hairline": -0.2, "medium": 0.2, "wide": 0.6}[style], 0.45)), 0.5, 3.5))
    turn = rng.uniform(0, 2 * math.pi)
    s = _Scene(
        rng=rng,
        w=width,
        h=height,
        zoom=zoom,
        light=(math.cos(turn), math.sin(turn)),
        albedo=np.ones((height, width), np.float32),
        height=np.zeros((height, width), np.float32),
        chroma=np.zeros((-(-height // 8), -(-width // 8), 3), np.float32),
    )
    finish = str(rng.choice(FINISHES, p=[0.34, 0.26, 0.1, 0.07, 0.12, 0.11]))
    _surface(s, finish)
    chosen = rng.permutation(len(OBJECTS))[: int(rng.choice([0, 1, 2, 3], p=[0.4, 0.35, 0.2, 0.05]))]
    for i in chosen:
        _object(s, OBJECTS[i])
    surface = _shading(s)
    crack = _cracks(s, style)
    surface = _render_crack(s, surface, crack, style)
    level = float(np.clip(rng.normal(178, 24), 95, 222))
    if rng.random() < 0.7:  # warm, as in METU, or cool, as on SDNET's walls
        cast = np.array([0.45, -0.08, -1.0]) * rng.normal(9, 5) + rng.normal(0, 0.8, 3)
    else:
        cast = np.array([-0.9, 0.25, 1.0]) * rng.normal(8, 4) + rng.normal(0, 0.8, 3)
    cast = cast.astype(np.float32)
    chroma = cv2.resize(s.chroma, (width, height), interpolation=cv2.INTER_LINEAR)
    rgb = cv2.merge([surface * level] * 3) * (1 + cast / level) + chroma
    _lay(rgb, s)
    light = 1 + rng.uniform(0, 0.06) * cv2.resize(
        rng.standard_normal((3, 4), np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    rgb *= (light if s.shade is None else light * s.shade)[..., None]
    image, taken = _camera(rng, rgb.astype(np.float32))
    facts = {"finish": finish, "objects": s.objects, "style": style, "zoom": round(zoom, 2)}
    facts |= {"crack_width": round(crack.width, 2), "level": round(level)} | taken
    return Photo(image, crack.open, crack.lines, s.points, facts)


# ---------------------------------------------------------------- patches


@dataclass(frozen=True)
class Patch:
    """A patch cut from a photo: uint8 (227, 227, 3), its label, where it was cut (left, top), and the crack in it."""

    image: np.ndarray
    mask: np.ndarray
    label: int
    x: int
    y: int
    facts: dict[str, Any]


def contrast(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return how far a crack stands out: grey levels between it and what lies beside it, and that over its spread."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    on = mask > 110
    if on.sum() < 8:
        return 0.0, 0.0
    near = cv2.dilate((mask > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    beside = (cv2.dilate(near, np.ones((9, 9), np.uint8)) > 0) & (near == 0)
    if not beside.any():
        return 0.0, 0.0
    step = float(grey[beside].mean() - grey[on].mean())
    return step, step / (float(grey[beside].std()) + 1.0)


def patches(shot: Photo, rng: np.random.Generator, each: int, visible: tuple[float, float] = VISIBLE) -> list[Patch]:
    """Cut up to `each` patches with a crack and `each` without from a photo.

    A patch counts as cracked when at least 70 pixels of cracks run through its middle 190 pixels and stand out clearly
    enough for a person to see them (their `contrast` reaches `visible`); as not cracked when not one pixel of it is
    crack. Half of the latter lie on things that look like cracks, where the photo has any. Everything between the two
    is not cut.
    """
    h, w = shot.mask.shape
    found: list[Patch] = []

    def corner(x: float, y: float) -> tuple[int, int]:
        return int(np.clip(x - PATCH // 2, 0, w - PATCH)), int(np.clip(y - PATCH // 2, 0, h - PATCH))

    spots = np.concatenate(shot.lines) if shot.lines else np.zeros((0, 3))
    tries = 0
    while len(spots) and len(found) < each and tries < 6 * each:
        tries += 1
        x, y, _ = spots[rng.integers(len(spots))] + np.append(rng.normal(0, 32, 2).clip(-80, 80), 0)
        x, y = corner(x, y)
        inside = spots[(np.abs(spots[:, 0] - x - PATCH / 2) < 95) & (np.abs(spots[:, 1] - y - PATCH / 2) < 95)]
        inside = inside[inside[:, 2] > 0.5 + 1 / _FINE]  # where it is open
        if len(inside) < 35:  # 70 pixels of crack, a point every two
            continue
        image, mask = shot.image[y : y + PATCH, x : x + PATCH], shot.mask[y : y + PATCH, x : x + PATCH]
        step, clear = contrast(image, mask)
        if step < visible[0] or clear < visible[1]:
            continue
        facts = {"width": round(float(np.median(inside[:, 2])), 2), "step": round(step, 1), "contrast": round(clear, 2)}
        found.append(Patch(image, mask, 1, x, y, facts))
    ones, tries = len(found), 0
    while len(found) - ones < each and tries < 30 * each:
        tries += 1
        if shot.points and tries % 2:
            px, py = shot.points[rng.integers(len(shot.points))]
            x, y = corner(px + rng.normal(0, 40), py + rng.normal(0, 40))
        else:
            x, y = int(rng.integers(0, w - PATCH + 1)), int(rng.integers(0, h - PATCH + 1))
        mask = shot.mask[y : y + PATCH, x : x + PATCH]
        if not mask.any():
            found.append(Patch(shot.image[y : y + PATCH, x : x + PATCH], mask, 0, x, y, {}))
    return found


def sample(seed: int, count: int, each: int = 8, thin: bool = False) -> Iterator[tuple[int, Photo, list[Patch]]]:
    """Yield photos with their patches, in order, until there are `count` patches of each class.

    `thin` takes more hairlines, and fainter cracks.
    """
    cv2.setNumThreads(1)  # the threads below do better, one photo each

    def one(number: int) -> tuple[int, Photo, list[Patch]]:
        shot = photo(seed, number, styles=THIN if thin else USUAL)
        rng = np.random.default_rng([seed, number, 1])
        return number, shot, patches(shot, rng, each, FAINT if thin else VISIBLE)

    left, start = [count, count], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while max(left) > 0:
            ahead = range(start, start + 16)
            start += len(ahead)
            for number, shot, cut in pool.map(one, ahead):
                kept = []
                for patch in cut:
                    if left[patch.label] > 0:
                        left[patch.label] -= 1
                        kept.append(patch)
                if kept:
                    yield number, shot, kept


@dataclass(frozen=True)
class Store:
    """Patches with their masks, kept for training.

    Attributes:
        images: uint8 (n, side, side, 3) RGB.
        masks: uint8 (n, side / 4, side / 4), the most crack, 0-255, in each 4x4 block of the patch's mask.
        facts: a row per patch: photo, label, and what `Photo.facts` tells of its photo.
    """

    images: np.ndarray
    masks: np.ndarray
    facts: pd.DataFrame


def store(seed: int, count: int, each: int, side: int, thin: bool = False) -> Store:
    """Return patches of `sample`, drawn on first use and kept in the data folder.

    Args:
        seed: of the photos.
        count: patches of each class.
        each: at most, of a class from one photo.
        side: 160, to which patches are resized, or 224, to which they are cut.
        thin: as in `sample`.
    """
    made_by = f"{config.sha256(Path(__file__))} {np.__version__} {cv2.__version__} {PIL.__version__}"
    key = hashlib.sha256(made_by.encode()).hexdigest()[:12]
    name = f"patches-{key}-{seed}-{count}-{each}-{side}{'-thin' if thin else ''}"
    home = config.data_dir() / "cache" / name
    if not home.exists():
        part = home.with_name(f"{home.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        n, cells = 2 * count, side // CELL
        images = np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, (n, side, side, 3))
        masks, facts = np.zeros((n, cells, cells), np.uint8), []
        numbers = config.progress(range(n), "photographing", n, unit="patch")
        for number, shot, cut in sample(seed, count, each, thin):
            for patch in cut:
                i = next(numbers)
                if side == 160:
                    images[i] = datasets.resize(patch.image, side)
                    fine = cv2.resize(patch.mask, (side, side), interpolation=cv2.INTER_AREA)
                else:
                    images[i], fine = patch.image[:side, :side], patch.mask[:side, :side]
                masks[i] = fine.reshape(cells, CELL, cells, CELL).max((1, 3))
                facts.append({"photo": number, "label": patch.label} | shot.facts | patch.facts)
        images.flush()
        del images  # Windows renames no folder with an open file in it
        np.save(part / "masks.npy", masks)
        pd.DataFrame(facts).to_csv(part / "facts.csv", index=False, lineterminator="\n")
        os.replace(part, home)
    images = np.load(home / "images.npy", mmap_mode="r")
    return Store(images, np.load(home / "masks.npy"), pd.read_csv(home / "facts.csv"))


def draw_tiles(folder: Path, count: int, seed: int) -> None:
    """Write the tiles of `count` photos of hairlines to `folder/Negative` and `folder/Positive`, and `patches.csv`.

    Cut and named like SDNET2018's: 256x256 pixels, without overlap, PHOTO-TILE.jpg. A tile counts as cracked when 30
    pixels of open crack that stand out by 3 grey levels run through it, and as not cracked when none of it is crack;
    what lies between is left out. patches.csv tells for each file the photo, where it was cut, and what is in it.
    """
    rows = []
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number in config.progress(range(count), "photographing", count, unit="photo"):
        shot = photo(seed, number, 6 * TILE, 4 * TILE, (1.0, 0.0, 0.0))
        spots = np.concatenate(shot.lines) if shot.lines else np.zeros((0, 3))
        for tile in range(24):
            y, x = tile // 6 * TILE, tile % 6 * TILE
            image, mask = (part[y : y + TILE, x : x + TILE] for part in (shot.image, shot.mask))
            here = spots[(spots[:, 0] // TILE == x // TILE) & (spots[:, 1] // TILE == y // TILE)]
            here = here[here[:, 2] > 0.5 + 1 / _FINE]
            step, clear = contrast(image, mask)
            label = 1 if len(here) >= 15 and step >= 3 else 0 if not mask.any() else -1  # a point every two pixels
            if label < 0:
                continue
            file = f"{CLASSES[label]}/{number:03d}-{tile + 1}.jpg"
            Image.fromarray(image).save(folder / file, quality=90)
            row = {"file": file, "photo": number, "x": x, "y": y} | {k: shot.facts[k] for k in ("finish", "blur")}
            row |= {"width": round(float(np.median(here[:, 2])), 2), "step": round(step, 1)} if label else {}
            rows.append(row | ({"contrast": round(clear, 2)} if label else {}))
    pd.DataFrame(rows).to_csv(folder / "patches.csv", index=False, lineterminator="\n")


def draw(folder: Path, count: int, seed: int, each: int = 8) -> None:
    """Write `count` patches of each class to `folder/Negative` and `folder/Positive`, and `folder/patches.csv`.

    Numbered and saved like METU: Positive in the order of photos, Negative shuffled, JPEG quality 75, and one image in
    50 an exact copy of another (a few more are, where two patches were cut at one place). At most `each` of a class
    come from one photo. The same arguments give the same files on one kind of machine. patches.csv tells for each file
    the photo it was cut from, where, and what is in it.
    """
    rng = np.random.default_rng([seed, 2**31])
    cut: list[list[dict[str, Any]]] = [[], []]
    fresh = count - count // 50
    for number, shot, found in config.progress(sample(seed, fresh, each), "photographing", unit="photo"):
        for p in found:
            row = (
                {"photo": number, "x": p.x, "y": p.y}
                | p.facts
                | {k: shot.facts[k] for k in ("finish", "style", "blur")}
            )
            cut[p.label].append(row | {"objects": " ".join(shot.facts["objects"]), "image": p.image})
    rows = []
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        again = rng.choice(fresh, count - fresh, replace=False)
        chosen = cut[label] + [cut[label][i] for i in again]
        chosen.sort(key=lambda row: row["photo"]) if label else rng.shuffle(chosen)
        for number, row in enumerate(chosen, 1):
            file = f"{name}/{number:05d}.jpg"
            Image.fromarray(row["image"]).save(folder / file, quality=QUALITY)
            rows.append({"file": file} | {k: v for k, v in row.items() if k != "image"})
    pd.DataFrame(rows).to_csv(folder / "patches.csv", index=False, lineterminator="\n")
