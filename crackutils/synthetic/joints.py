"""Structures with joints and seams: formwork, panels, masonry, tiles, seals and saw cuts, in perspective."""

import math

import cv2
import numpy as np
from numpy.random import Generator

from crackutils.synthetic.drawing import blob, fill, soften
from crackutils.synthetic.scene import JOINT, Overlay, Scene


class _Grid:
    """Coordinates u, v (h, w) on a wall that is seen rotated and slightly obliquely, in pixels at its middle."""

    def __init__(self, s: Scene) -> None:
        rng = s.rng
        angle = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.04) if rng.random() < 0.85 else rng.uniform(0, math.pi)
        c, sn, (gx, gy) = math.cos(angle), math.sin(angle), rng.uniform(-0.35, 0.35, 2) / max(s.w, s.h)
        view = np.array([[c, sn, 0], [-sn, c, 0], [gx, gy, 1]]) @ [[1, 0, -s.w / 2], [0, 1, -s.h / 2], [0, 0, 1]]
        x, y = np.arange(s.w, dtype=np.float32)[None], np.arange(s.h, dtype=np.float32)[:, None]
        u, v, depth = (np.float32(a) * x + np.float32(b) * y + np.float32(d) for a, b, d in view)
        self.u, self.v, self.angle = u / depth, v / depth, angle
        self.back, self.s = np.linalg.inv(view), s
        self.reach = float(max(np.abs(self.u).max(), np.abs(self.v).max()))

    def line(self, corners: list[tuple[float, float]]) -> None:
        """Record the course of a seam through corners (u, v), a point every 2 pixels."""
        steps = np.append(0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T)))
        along = np.arange(0, steps[-1], 2)
        line = np.column_stack([np.interp(along, steps, axis) for axis in np.transpose(corners)])
        line = cv2.perspectiveTransform(line[None], self.back)[0]
        here = line[((line > -10) & (line < (self.s.w + 10, self.s.h + 10))).all(1)]
        if len(here) > 20:
            self.s.seams.append(here)


def _apart(u: np.ndarray, pitch: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each u is from the nearest of the lines that are `pitch` apart, and the number of its field."""
    place = u / pitch + shift
    field = np.floor(place)
    return (0.5 - np.abs(place - field - 0.5)) * pitch, field.astype(np.int32)


def _per_field(rng: Generator, field: np.ndarray, spread: float) -> np.ndarray:
    """Return a random value for each field."""
    return rng.normal(0, spread, 509).astype(np.float32)[field % 509]


def _cut(s: Scene, off: np.ndarray, half: float, depth: float | None = None) -> None:
    """Cut a groove of half width `half` where `off`, the distance from its middle, is small; or let paste stand out.

    Its edges are ragged or straight, and it may fade out; faded parts are not recorded as joint.
    """
    rng = s.rng
    if (ragged := rng.choice([0, 0.12, 0.3]) * min(half, 4)) > 0:
        off = off + ragged * s.noise(rng.uniform(3, 25))
    groove = np.clip((half - off) / rng.choice([1, 1, 1, 1 + half * 0.5]) + 0.5, 0, min(1.0, 2 * half))
    if rng.random() < 0.4:
        groove *= np.clip(rng.uniform(0.3, 1.3) + 0.6 * s.noise(rng.uniform(15, 120)), 0, 1)
    tone = rng.uniform(0.15, 0.85) if depth is None else depth
    if rng.random() < 0.2 and depth is None:  # filled with lime or paint
        tone = rng.uniform(-0.5, -0.08)
    s.albedo *= 1 - groove * tone * np.clip(1 + 0.15 * s.noise(rng.uniform(3, 25)), 0.5, 1.3)
    s.height -= cv2.GaussianBlur(groove, (0, 0), max(0.7, 0.2 * half)) * rng.uniform(-1, 4)
    s.mark(groove > 0.25, JOINT)


def _planks(s: Scene, rng: Generator) -> None:
    """Add the print of board formwork: wood grain, boards of their own tone and height, seams between them."""
    g, pitch, shift = _Grid(s), math.exp(rng.uniform(math.log(35), math.log(260))), rng.random()
    off, board = _apart(g.v + rng.uniform(0, 0.8) * s.noise(60), pitch, shift)
    grain, stretch = rng.uniform(0, 0.3), rng.uniform(15, 40)
    wood = s.noise(rng.uniform(2, 7), stretch, g.angle)
    s.height += grain * wood * 2 + _per_field(rng, board, rng.uniform(0, 1.5))
    s.albedo *= 1 + rng.uniform(0, 0.05) * wood + _per_field(rng, board, rng.uniform(0, 0.1))
    _cut(s, off + 8 * np.maximum(_per_field(rng, board, 1) - 1.2, 0), math.exp(rng.uniform(-0.7, 1.1)))
    if rng.random() < 0.4:  # paste that ran out between the boards
        s.albedo *= 1 + rng.normal(0, 0.12) * np.exp(-((off / rng.uniform(3, 14)) ** 2)) * (1 + 0.5 * s.noise(20))
    if rng.random() < 0.4:  # ends of boards
        ends, _ = _apart(g.u + _per_field(rng, board, 300), rng.uniform(300, 900))
        _cut(s, ends, rng.uniform(0.5, 1.5))
    for k in range(int(-g.reach / pitch) - 1, int(g.reach / pitch) + 2):
        g.line([(-g.reach, (k - shift) * pitch), (g.reach, (k - shift) * pitch)])


def _panels(s: Scene, rng: Generator) -> None:
    """Add joints between the panels of a wall, single, double or crossing, panels of their own tones, and tie holes."""
    g, (pu, pv), (a, b) = _Grid(s), rng.uniform(250, 1100, 2), rng.random(2)
    (du, fu), (dv, fv) = _apart(g.u + rng.uniform(0, 1) * s.noise(80), pu, a), _apart(g.v, pv, b)
    s.albedo *= 1 + _per_field(rng, fu * 31 + fv * 17, rng.uniform(0, 0.07))
    half, both = math.exp(rng.uniform(-0.5, 1.9)), rng.random() < 0.7
    for off, on in ((dv, True), (du, both)):
        if on:
            _cut(s, np.abs(off - rng.choice([0, 0, 2 * half + rng.uniform(2, 30)])), half * rng.uniform(0.6, 1.2))
    if rng.random() < 0.5:  # dirt beside the joint
        s.albedo *= 1 - rng.uniform(0, 0.3) * np.exp(-dv / rng.uniform(4, 40)) * np.clip(s.noise(30), 0, 1)
    for k in range(int(-g.reach / pv) - 1, int(g.reach / pv) + 2):
        g.line([(-g.reach, (k - b) * pv), (g.reach, (k - b) * pv)])
    for k in range(int(-g.reach / pu) - 1, int(g.reach / pu) + 2) if both else ():
        g.line([((k - a) * pu, -g.reach), ((k - a) * pu, g.reach)])
    if rng.random() < 0.7:
        step, radius = rng.uniform(150, 450, 2), math.exp(rng.uniform(math.log(5), math.log(32)))
        plugged, at = rng.random() < 0.3, np.stack(np.meshgrid(*[np.arange(-6, 7)] * 2), -1).reshape(-1, 2)
        ties = cv2.perspectiveTransform((at * step + rng.uniform(0, 100, 2))[None], g.back)[0]
        add_tie_holes(s, ties, radius, plugged)


def add_tie_holes(s: Scene, places: np.ndarray, radius: float, plugged: bool) -> None:
    """Add the round cones that formwork ties leave at `places` (n, 2), deep and shadowed, or plugged with mortar."""
    rng, cover, deep = s.rng, s.canvas(), s.canvas()
    away = -np.array(s.light) * radius * rng.uniform(0.2, 0.5)
    for x, y in places[((places > -radius) & (places < (s.w + radius, s.h + radius))).all(1)]:
        outline = blob(rng, x, y, radius * rng.uniform(0.93, 1.05), rng.uniform(0.9, 1), 0.03)
        fill(cover, outline, 255)
        fill(deep, outline + away, 255)
    hole = soften(cover, 0.8)
    if plugged:
        s.albedo *= 1 + hole * (rng.normal(0, 0.12) + 0.05 * s.noise(3))
        s.height -= soften(cover, 1.5) * rng.uniform(0.5, 3)
    else:
        s.albedo *= 1 - hole * rng.uniform(0.05, 0.5)
        s.albedo *= 1 - hole * (1 - soften(deep, max(0.8, radius * 0.1))) * rng.uniform(0.3, 0.9)
        s.height -= soften(cover, 1.5) * rng.uniform(2, 6)


def _masonry(s: Scene, rng: Generator, kind: str) -> None:
    """Add bricks, blocks or tiles with mortar joints, each of its own colour."""
    g = _Grid(s)
    low, high = {"bricks": (24, 95), "blocks": (90, 260), "tiles": (60, 320)}[kind]
    pv = math.exp(rng.uniform(math.log(low), math.log(high)))
    pu = pv * {"bricks": rng.uniform(2.2, 3.6), "blocks": rng.uniform(1.6, 2.4), "tiles": rng.choice([1, 1, 2])}[kind]
    bond, shift = 0.0 if kind == "tiles" and rng.random() < 0.7 else rng.choice([0.5, 0.5, 0.33]), rng.random()
    wavy = pv * rng.uniform(0, {"bricks": 0.03, "blocks": 0.015, "tiles": 0.004}[kind])
    dv, row = _apart(g.v + wavy * s.noise(40), pv)
    du, column = _apart(g.u + wavy * s.noise(40), pu, shift + (row % 2) * np.float32(bond))
    half = {"bricks": rng.uniform(0.03, 0.08), "blocks": rng.uniform(0.01, 0.035), "tiles": rng.uniform(0.004, 0.02)}
    half, stone = max(0.7, half[kind] * pv), row * 37 + column
    s.albedo *= np.clip(1 + _per_field(rng, stone, rng.uniform(0.02, 0.16)), 0.4, 1.6)
    s.height += _per_field(rng, stone, 0.5 if kind == "bricks" else 0.15)
    off = np.minimum(du, dv)
    mortar = np.clip(half - off + 0.5 + rng.choice([0, 0.3, 0.8]) * s.noise(rng.uniform(2, 8)), 0, 1)
    if kind == "bricks" and rng.random() < 0.75:
        red = rng.uniform((110, 60, 45), (200, 115, 90)) * rng.uniform(0.6, 1.1)
        s.overlays.append(Overlay(((1 - mortar) * rng.uniform(150, 255)).astype(np.uint8), "coat", tuple(red)))
    tone = rng.uniform(-0.5, 0.0) if rng.random() < 0.45 else rng.uniform(0.1, 0.75)
    s.albedo *= 1 - mortar * tone * np.clip(1 + 0.12 * s.noise(3), 0.5, 1.4)
    s.height -= cv2.GaussianBlur(mortar, (0, 0), max(0.7, 0.3 * half)) * rng.uniform(0.5, 5)
    s.mark(mortar > 0.25, JOINT)
    for _ in range(6):  # level joints, and stairs along the joints
        k, i = (int(rng.integers(-int(g.reach / p) - 1, int(g.reach / p) + 2)) for p in (pv, pu))
        if bond == 0 or rng.random() < 0.3:
            g.line([(-g.reach, k * pv), (g.reach, k * pv)])
            continue
        corners, down = [], int(rng.choice([-1, 1]))
        for _ in range(2 * int(g.reach / pv) + 2):  # down one head joint, along to the next
            u = (i - shift - (k % 2) * bond) * pu
            corners += [(u, (k + (down < 0)) * pv), (u, (k + (down > 0)) * pv)]
            k, i = k + down, i + int(rng.integers(0, 2))
        g.line(corners)


def _seal(s: Scene, rng: Generator) -> None:
    """Add an expansion joint with a dark, smooth filling."""
    g, half = _Grid(s), rng.uniform(4, 30)
    off = np.abs(g.v - rng.uniform(-0.4, 0.4) * s.h + rng.uniform(0, 1) * s.noise(50))
    band = np.clip(half - off + 0.5, 0, 1)
    s.height *= 1 - 0.7 * band
    s.albedo += band * (rng.uniform(0.1, 0.8) * (1 + 0.06 * s.noise(6)) - s.albedo)
    s.height -= cv2.GaussianBlur(band, (0, 0), 1.5) * rng.uniform(0, 5)
    _cut(s, np.abs(off - half), rng.uniform(0.4, 2))
    s.mark(band > 0.25, JOINT)


def _saw(s: Scene, rng: Generator) -> None:
    """Add perfectly straight cuts."""
    g = _Grid(s)
    for axis in (g.u, g.v)[: int(rng.choice([1, 1, 2]))]:
        at = rng.uniform(-0.4, 0.4) * s.w
        groove = np.clip(rng.uniform(0.6, 4) - np.abs(axis - at) + 0.5, 0, 1)
        s.albedo *= 1 - groove * rng.uniform(0.4, 0.85)
        s.mark(groove > 0.25, JOINT)
        ends = [(at, -g.reach), (at, g.reach)] if axis is g.u else [(-g.reach, at), (g.reach, at)]
        g.line(ends)


STRUCTURES = {"planks": _planks, "panels": _panels, "seal": _seal, "saw": _saw}


def add_structure(s: Scene, name: str) -> None:
    """Add one of `STRUCTURES`, or bricks, blocks or tiles, to a scene, and record its joints and seams."""
    if name in STRUCTURES:
        STRUCTURES[name](s, s.rng)
    else:
        _masonry(s, s.rng, name)
    s.objects.append(name)
