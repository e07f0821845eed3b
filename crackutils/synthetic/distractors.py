"""Distractors on concrete, which models may mistake for cracks: one function per kind."""

import math
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.random import Generator

from crackutils.synthetic.drawing import blob, fill, ribbon, rotate, slope, soften, stroke, trace, wave
from crackutils.synthetic.scene import FINE, JOINT, LINE, Overlay, Scene


def add_distractor(s: Scene, name: str) -> None:
    """Add one of `OBJECTS` to a scene."""
    x, y = s.rng.uniform(0.1, 0.9) * s.w, s.rng.uniform(0.1, 0.9) * s.h
    _KINDS[name](s, s.rng, x, y, s.rng.uniform(0, 2 * math.pi))
    s.objects.append(name)


def _straight_line(s: Scene, upright: float = 0.8) -> np.ndarray:
    """Return the signed distance (h, w) of each pixel from a random straight line, and note places on that line."""
    rng, w, h = s.rng, s.w, s.h
    angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.06) if rng.random() < upright else rng.uniform(0, math.pi)
    x0, y0 = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
    nx, ny = -math.sin(angle), math.cos(angle)
    across = ((np.arange(w, dtype=np.float32) - x0) * nx)[None] + ((np.arange(h, dtype=np.float32) - y0) * ny)[:, None]
    on = np.argwhere(np.abs(across) < 0.6)[:, ::-1].astype(float)
    s.points += map(tuple, on[rng.integers(0, len(on), 10)].tolist() if len(on) else [])
    return across


def _away_from_light(s: Scene, cover: np.ndarray, reach: float) -> np.ndarray:
    """Return a cover moved by `reach` pixels, as its shadow is."""
    return np.roll(cover, (int(-s.light[1] * reach), int(-s.light[0] * reach)), (0, 1))


def _strand(name: str, s: Scene, rng: Generator, x: float, y: float, heading: float) -> None:
    """Lay a hair, a wire or a root on the surface, with its shadow. Each draws the random numbers of all three."""
    root = name == "root"
    n = int((rng.uniform(80, 350) if name == "hair" else rng.uniform(300, 1200)) / 2)
    bend = rng.normal(0, 0.008 if name == "hair" else 0.003) + 0.008 * wave(rng, n, 40) + 0.08 * root * wave(rng, n, 8)
    line = trace(heading + np.cumsum(bend)) + np.array([x, y])
    size = {"hair": rng.uniform(0.8, 2.2), "wire": rng.uniform(3, 9) * s.zoom**0.3, "root": rng.uniform(4, 14)}[name]
    half = np.full(n, size / 2) * (np.linspace(1, 0.3, n) * (1 + 0.15 * wave(rng, n, 6)) if root else 1)
    fine = s.canvas(FINE)
    ribbon(fine, line, half, half, FINE)
    cover = cv2.resize(fine, (s.w, s.h), interpolation=cv2.INTER_AREA)
    tone = rng.uniform(15, 90) if rng.random() < 0.65 else rng.uniform(150, 245)
    colour = {
        "hair": (tone * 1.1, tone, tone * 0.9),
        "wire": tuple(rng.uniform(15, 230, 3)) if rng.random() < 0.4 else (tone, tone, tone),
        "root": (rng.uniform(90, 150), rng.uniform(75, 115), rng.uniform(50, 85)),
    }[name]
    shadow = cv2.GaussianBlur(_away_from_light(s, cover, 2 + size / 2), (0, 0), 1 + size / 4)
    s.overlays.append(Overlay(shadow, "shadow", strength=rng.uniform(0.1, 0.5)))
    s.overlays.append(Overlay(cover, "solid", colour, 0.0 if name == "hair" else rng.uniform(0.3, 0.9)))
    s.points += [tuple(p) for p in line[:: max(1, n // 12)]]
    s.mark(cover > 60, LINE)


def _joint(s: Scene, rng: Generator, *_: float) -> None:
    across = _straight_line(s) + 0.4 * s.noise(40)
    half = rng.uniform(1.0, 6) * s.zoom**0.3
    groove = np.clip(half - np.abs(across) + 0.5, 0, 1)
    s.mark(groove > 0.25, JOINT)
    s.albedo *= 1 - groove * rng.uniform(0.25, 0.85) * np.clip(1 + 0.12 * s.noise(25), 0.5, 1.2)
    s.height -= cv2.GaussianBlur(groove, (0, 0), 0.8) * rng.uniform(1, 4)


def _ridge(s: Scene, rng: Generator, *_: float) -> None:
    """Add a formwork line: a seam of paste, or a small step between boards."""
    across = _straight_line(s) + 0.8 * s.noise(30)
    size = rng.uniform(1.0, 4) * s.zoom**0.5
    if rng.random() < 0.5:
        s.height += rng.uniform(1, 5) * np.exp(-((across / size) ** 2)) * np.clip(1 + 0.5 * s.noise(20), 0, 2)
    else:
        s.height += rng.uniform(1, 5) / (1 + np.exp(-np.clip(across / size * 2, -30, 30)))
    boards = rng.normal(0, 0.06) * (across > 0)
    s.mark(np.abs(across) < size, JOINT)
    s.albedo *= 1 + boards + rng.normal(-0.04, 0.06) * np.exp(-((across / (size * 6)) ** 2))


def _scratch(s: Scene, rng: Generator, x: float, y: float, heading: float) -> None:
    cover = s.canvas()
    for _ in range(int(rng.integers(1, 7))):
        length, bend = rng.uniform(40, 400), rng.normal(0, 0.004)
        line = trace(heading + rng.normal(0, 0.05) + bend * np.arange(int(length / 2)))
        line += (x + rng.normal(0, 40), y + rng.normal(0, 40))
        s.points += [tuple(p) for p in line[:: max(1, len(line) // 3)]]
        stroke(cover, line, int(rng.uniform(60, 255)), int(rng.integers(1, 3)))
    soft = soften(cover, 0.7)
    s.mark(cover > 60, LINE)
    s.albedo *= 1 + soft * np.clip(1 + s.noise(10), 0, 1.5) * rng.choice([0.25, 0.15, -0.12])
    s.height -= soft * rng.uniform(0, 1)


def _shadow(s: Scene, rng: Generator, *_: float) -> None:
    across = _straight_line(s, 0.3) + rng.uniform(0, 25) * s.noise(rng.uniform(60, 200))
    edge = np.clip(across / rng.uniform(1.5, 25) + 0.5, 0, 1)
    if rng.random() < 0.5:
        edge *= np.clip((rng.uniform(30, 250) - across) / rng.uniform(2, 20), 0, 1)
    s.shade = (1.0 if s.shade is None else s.shade) * (1 - rng.uniform(0.15, 0.6) * edge)


def _paint(s: Scene, rng: Generator, x: float, y: float, _: float) -> None:
    """Add a painted band with a ragged rim, or a worn spot of paint."""
    if rng.random() < 0.5:
        across = _straight_line(s, 0.6) + rng.uniform(0.3, 6) * s.noise(rng.uniform(4, 40))
        cover = np.clip(across + 0.5, 0, 1) * np.clip(rng.uniform(20, 500) - across, 0, 1)
    else:
        spot = s.canvas()
        fill(spot, blob(rng, x, y, rng.uniform(10, 120), rng.uniform(0.3, 1), 0.5), 255)
        s.points.append((x, y))
        worn = s.noise(rng.uniform(2, 8)) + 4 * (spot.astype(np.float32) / 255 - 0.5)
        cover = np.clip((cv2.GaussianBlur(worn, (0, 0), 1) + rng.uniform(-0.5, 1)) * 2, 0, 1) * (spot > 0)
    tone = rng.uniform(60, 245)
    colour = tuple(rng.uniform(30, 240, 3)) if rng.random() < 0.3 else (tone, tone * 0.98, tone * 0.94)
    s.overlays.append(Overlay((cover * rng.uniform(90, 255)).astype(np.uint8), "coat", colour))


def _leaf(s: Scene, rng: Generator, *_: float) -> None:
    t = np.linspace(0, 2 * math.pi, 40)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, s.w), rng.uniform(0, s.h)
        size, turn = rng.uniform(20, 90), rng.uniform(0, 2 * math.pi)
        s.points.append((x, y))
        px, py = size * np.cos(t), size * rng.uniform(0.25, 0.5) * np.sin(t) * (1 + 0.1 * rng.standard_normal(40))
        leaf, rib = s.canvas(), s.canvas()
        fill(leaf, rotate(px, py, turn) + np.array([x, y]), 255)
        stroke(rib, rotate(np.array([-size, 1.2 * size]), np.zeros(2), turn) + np.array([x, y]), 255)
        green = rng.random() < 0.5
        colour = rng.uniform((70, 85, 45), (120, 130, 80)) if green else rng.uniform((90, 70, 45), (160, 125, 90))
        s.overlays += [
            Overlay(cv2.GaussianBlur(_away_from_light(s, leaf, 4), (0, 0), 2), "shadow", strength=0.4),
            Overlay(leaf, "solid", tuple(colour), 0.3),
            Overlay(rib, "solid", tuple(0.65 * colour)),
        ]


def _stain(s: Scene, rng: Generator, *_: float) -> None:
    if rng.random() < 0.5:  # runs down the wall
        flow = s.noise(rng.uniform(6, 30), rng.uniform(6, 20), math.pi / 2 + rng.normal(0, 0.05))
        cover = np.clip(flow - rng.uniform(0.6, 1.6), 0, 1.5)
    else:
        cloud = s.noise(rng.uniform(50, 220)) + 0.15 * s.noise(9)
        cover = np.clip((cloud - rng.uniform(0.6, 1.4)) * rng.uniform(1, 10), 0, 1)
    s.albedo *= 1 - cover * rng.uniform(0.04, 0.3)
    if rng.random() < 0.5:
        rust = cv2.resize(cover, s.chroma.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
        s.chroma += rust * rng.uniform(2, 20) * np.array([0.8, 0.0, -1.0], np.float32)


def _salt(s: Scene, rng: Generator, *_: float) -> None:
    """Add efflorescence: a white crust with ragged edges."""
    ragged = s.noise(rng.uniform(30, 120)) + 0.5 * s.noise(7) + 0.3 * s.noise(2.5)
    cover = np.clip((ragged - rng.uniform(0.9, 1.8)) * rng.uniform(0.8, 4), 0, 1)
    s.albedo += cover * rng.uniform(0.05, 0.35)
    s.height += cover * rng.uniform(0, 1.5)


def _hole(s: Scene, rng: Generator, x: float, y: float, _: float) -> None:
    radius = rng.uniform(10, 45) * s.zoom**0.3
    cover = s.canvas()
    fill(cover, blob(rng, x, y, radius, rng.uniform(0.85, 1), 0.04), 255)
    s.points.append((x, y))
    s.height -= soften(cover, 1.5) * rng.uniform(3, 8)
    deep = np.minimum(cover, _away_from_light(s, cover, radius * 0.25))
    s.albedo *= 1 - soften(deep, 2) * rng.uniform(0.3, 0.85)


_KINDS: dict[str, Callable[..., None]] = {name: partial(_strand, name) for name in ("hair", "wire", "root")}
# the other functions are named like their objects
_KINDS |= {f.__name__[1:]: f for f in (_joint, _ridge, _scratch, _shadow, _paint, _leaf, _stain, _salt, _hole)}


def lay_overlays(rgb: np.ndarray, s: Scene) -> None:
    """Lay the overlays on an image, float32 (h, w, 3), in place; each touches its bounding box only."""
    for cover, kind, colour, strength in s.overlays:
        x, y, w, h = cv2.boundingRect(cover)
        if not w:
            continue
        part = rgb[y : y + h, x : x + w]
        c = cover[y : y + h, x : x + w, None].astype(np.float32) / 255
        tone = np.array(colour, np.float32)
        if kind == "shadow":
            part *= 1 - strength * c
            continue
        if kind == "coat":
            grey = part.mean(2, keepdims=True)
            tone = tone * (grey / max(float(grey.mean()), 1.0))
        elif strength > 0:  # round: lit from the side of the light
            lit = slope(cv2.GaussianBlur(c[..., 0], (0, 0), 1.5), s.light, scale=0.25)
            tone = tone * np.clip(1 - 1.2 * strength * lit[..., None], 0.3, 1.8)
        part += c * (tone - part)
