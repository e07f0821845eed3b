"""Further distractors on walls and roads, one function per kind."""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

from crackutils.synthetic.drawing import blob, fill, normals, octaves, ribbon, soften, stroke, trace, walk, wave
from crackutils.synthetic.joints import add_tie_holes
from crackutils.synthetic.scene import LINE, Overlay, Scene


def _cast(s: Scene, cover: np.ndarray, reach: float) -> np.ndarray:
    """Return a cover moved away from the light by `reach` pixels, as its shadow is."""
    move = np.array([[1, 0, -s.light[0] * reach], [0, 1, -s.light[1] * reach]])
    return cv2.warpAffine(cover, move, (s.w, s.h))


def _worn(s: Scene, cover: np.ndarray, colour: tuple[float, ...], most: float) -> None:
    """Coat the surface with patchy chalk or paint."""
    rough = np.clip(s.rng.uniform(0.5, 1.5) + 0.6 * s.noise(s.rng.uniform(1.5, 5)), 0, 1)
    s.overlays.append(Overlay((cover * rough * most).astype(np.uint8), "coat", colour))
    s.mark(cover > 70, LINE)


def _colour(rng: Generator) -> tuple[float, ...]:
    """Return the colour of chalk, of a pen or of paint."""
    if rng.random() < 0.4:
        return tuple(np.full(3, rng.uniform(190, 250)))
    if rng.random() < 0.5:
        return tuple(np.full(3, rng.uniform(15, 80)))
    return tuple(rng.uniform(20, 230, 3))


def add_notes(s: Scene, rng: Generator, lines: list[np.ndarray] | None = None) -> None:
    """Write on the wall, or mark a crack as inspectors do: a line along it, a ring around a part, its width, ticks."""
    cover, thick, zoom = s.canvas(), int(rng.integers(1, 6)), rng.uniform(0.5, 2.5)
    place = rng.uniform(0.1, 0.8, 2) * (s.w, s.h)
    if lines:
        line = lines[int(rng.integers(len(lines)))][:, :2].astype(float)
        n = len(line)
        i, place = int(rng.integers(0, n // 2)), line[n // 2] + rng.uniform(-60, 40, 2)
        part = line[i : i + int(rng.uniform(0.3, 1) * n)]
        if rng.random() < 0.6:
            beside = rng.choice([-1, 1]) * rng.uniform(4, 28) + 2 * wave(rng, len(part), 25)
            smooth = cv2.blur(part, (1, 9)) + normals(cv2.blur(part, (1, 25))) * beside[:, None]
            stroke(cover, smooth, 255, thick)
        for at in part[:: int(rng.integers(40, 150))] if rng.random() < 0.4 else ():
            stroke(cover, at + rng.normal(0, 1, 2) * [[-10], [10]] * zoom, 255, thick)
    if not lines or rng.random() < 0.5:
        font = int(rng.choice([0, 1, 2, 3, 4, 6, 7]))
        for _ in range(int(rng.integers(1, 4))):
            text = "".join(rng.choice(list("0123456789.,-=/mLRWBAXNS "), int(rng.integers(2, 9))))
            spot = tuple(int(v) for v in place)
            cv2.putText(cover, text, spot, font, zoom, 255, thick, cv2.LINE_AA)
            place = place + np.array([rng.uniform(-20, 20), zoom * 36])
        turn = cv2.getRotationMatrix2D(tuple(place), rng.normal(0, 8), 1) if not lines else np.eye(2, 3)
        cover = cv2.warpAffine(cover, turn, (s.w, s.h))
    if rng.random() < 0.3:  # a ring, or an arrow's shaft
        t = np.linspace(0, 6.6, 60)[: 60 if rng.random() < 0.6 else 8]
        ring = np.column_stack([np.cos(t), np.sin(t) * rng.uniform(0.5, 1)]) * rng.uniform(20, 130)
        stroke(cover, ring * (1 + 0.04 * wave(rng, len(t), 8))[:, None] + place, 255, thick)
    _worn(s, cover, _colour(rng), rng.uniform(100, 255))


def _strands(s: Scene, rng: Generator) -> None:
    """Lay a bundle of grass, twigs or cobweb on the surface, or their shadow only."""
    cover, kind = s.canvas(2), str(rng.choice(["grass", "twigs", "cobweb", "shadow", "shadow"]))
    place, heading = rng.uniform(0, 1, 2) * (s.w, s.h), rng.uniform(0, 2 * math.pi)

    def twig(start: np.ndarray, heading: float, n: int, half: float, depth: int) -> None:
        bend = rng.normal(0, 0.005) + 0.012 * wave(rng, n, 15)
        line = trace(heading + np.cumsum(bend)) + start
        widths = half * np.linspace(1, 0.2, n)
        ribbon(cover, line, widths, widths, 2)
        for _ in range(int(rng.poisson(2.5)) if depth < 2 and kind in ("twigs", "shadow") else 0):
            i = int(rng.integers(n // 6, n))
            twig(
                line[i],
                heading + rng.choice([-1, 1]) * rng.uniform(0.3, 1),
                max(10, n // 2),
                widths[i] * 0.8,
                depth + 1,
            )

    for _ in range(int(rng.integers(3, 25)) if kind in ("grass", "cobweb") else int(rng.integers(1, 5))):
        n = int(rng.uniform(20, 90) if kind == "grass" else rng.uniform(50, 350))
        half = rng.uniform(0.4, 0.8) if kind == "cobweb" else rng.uniform(0.6, 4) * (1 + 2 * (kind == "shadow"))
        apart = rng.normal(0, 0.5 if kind != "cobweb" else 2)
        twig(place + rng.normal(0, 15 if kind != "cobweb" else 50, 2), heading + apart, n, half, 0)
    cover = cv2.resize(cover, (s.w, s.h), interpolation=cv2.INTER_AREA)
    if kind == "shadow":
        soft = cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.6, 4))
        s.overlays.append(Overlay(soft, "shadow", strength=rng.uniform(0.2, 0.65)))
    else:
        shadow = cv2.GaussianBlur(_cast(s, cover, rng.uniform(1, 9)), (0, 0), rng.uniform(0.7, 3))
        s.overlays.append(Overlay(shadow, "shadow", strength=rng.uniform(0.1, 0.5)))
        tone = {"grass": ((80, 95, 40), (150, 150, 90)), "twigs": ((45, 35, 25), (130, 110, 90))}
        colour = rng.uniform(*tone.get(kind, ((150, 150, 150), (240, 240, 240))))
        cover = (cover * (rng.uniform(0.2, 0.7) if kind == "cobweb" else 1)).astype(np.uint8)
        s.overlays.append(Overlay(cover, "solid", tuple(colour), rng.uniform(0, 0.6)))
    s.mark(cover > 60, LINE)


def _cable(s: Scene, rng: Generator) -> None:
    """Hang cables or pipes, or the mere shadows of railings, straight or sagging."""
    start, n, only_shadow = rng.uniform(0, 1, 2) * (s.w, s.h), int(0.8 * (s.w + s.h)), rng.random() < 0.4
    heading = rng.choice([0, math.pi / 2]) + rng.normal(0, 0.3)
    half, pitch, tone = math.exp(rng.uniform(0, 3.2)), rng.uniform(15, 120), rng.uniform(10, 220)
    cover, bend = s.canvas(), rng.normal(0, 0.0006)
    for k in range(int(rng.choice([1, 1, 2, 3, 8]))):
        line = trace(heading + bend * np.arange(n))
        line += start - line[n // 2] + np.array([-math.sin(heading), math.cos(heading)]) * k * (pitch + 2 * half)
        stroke(cover, line[::6], 255, max(1, int(2 * half)))
    shadow = _cast(s, cover, 0 if only_shadow else rng.uniform(0.5, 3) * half)
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.6, 5))
    s.overlays.append(Overlay(shadow, "shadow", strength=rng.uniform(0.2, 0.65)))
    if not only_shadow:
        colour = (tone, tone, tone) if rng.random() < 0.7 else tuple(rng.uniform(20, 220, 3))
        s.overlays.append(Overlay(cover, "solid", colour, rng.uniform(0.2, 0.9)))
    s.mark((shadow > 100) | (cover > 100 * (not only_shadow)) if half < 15 else cover > 300, LINE)


def _runs(s: Scene, rng: Generator) -> None:
    """Add drips: narrow streaks that run down from one height, dark, white or rusty, with crisp edges."""
    cover, x0, top = s.canvas(), rng.uniform(0, s.w), rng.uniform(-0.2, 0.7) * s.h
    for _ in range(int(rng.integers(1, 14))):
        line = walk(rng, math.pi / 2, rng.uniform(60, 1.2 * s.h), 0.01, 0.1)
        line += (x0 + rng.normal(0, 0.25 * s.w), top + rng.normal(0, 12))
        half = (
            rng.uniform(0.5, 9)
            * np.linspace(1, rng.uniform(0.1, 1), len(line))
            * np.exp(0.2 * wave(rng, len(line), 20))
        )
        ribbon(cover, line, half, half, 1)
    edge = soften(cover, rng.uniform(0.6, 4)) * np.clip(0.8 + 0.3 * s.noise(rng.uniform(3, 30)), 0, 1)
    s.albedo *= 1 + edge * rng.choice([-1, -1, 1]) * rng.uniform(0.08, 0.5)
    s.mark(edge > 0.4, LINE)


def _spalls(s: Scene, rng: Generator) -> None:
    """Break pieces off: pits with rough ground and dark, shadowed rims."""
    cover = s.canvas()
    for _ in range(int(rng.choice([1, 2, 6, 20]))):
        radius = math.exp(rng.uniform(1.5, 4.4 if rng.random() < 0.3 else 3.2))
        at = rng.uniform(0, 1, 2) * (s.w, s.h)
        fill(cover, blob(rng, *at, radius, rng.uniform(0.3, 1), 0.5), 255)
    ragged = np.clip(soften(cover, 2.5) * 3 - 1 + 0.35 * s.noise(5), 0, 1)
    deep = rng.uniform(1.5, 9)
    s.height += ragged * (rng.uniform(0.2, 1.2) * s.noise(rng.uniform(2, 7)) - deep)
    s.albedo *= 1 + ragged * (rng.normal(-0.05, 0.15) + 0.1 * s.noise(4))
    rim = ragged * (1 - soften(_cast(s, (ragged * 255).astype(np.uint8), -rng.uniform(2, 8)), 1.2))
    s.albedo *= 1 - np.clip(rim, 0, 1) * rng.uniform(0, 0.7)


def _holes(s: Scene, rng: Generator) -> None:
    """Add bug holes by the hundred, with dark insides."""
    cover, most = s.canvas(), rng.uniform(1.5, 9)
    for _ in range(int(math.exp(rng.uniform(3, 6.3)))):
        at, radius = rng.uniform(0, 1, 2) * (s.w, s.h), max(0.8, most * rng.random() ** 2.5)
        fill(cover, blob(rng, *at, radius, rng.uniform(0.5, 1), 0.25), int(rng.uniform(60, 255)))
    s.albedo *= 1 - soften(cover, 0.6, rng.uniform(0.2, 0.85))
    s.height -= soften(cover, 1.0) * rng.uniform(1, 3)


def _ties(s: Scene, rng: Generator) -> None:
    places = rng.uniform(0, 1, (int(rng.integers(1, 5)), 2)) * (s.w, s.h)
    add_tie_holes(s, places, math.exp(rng.uniform(1.6, 3.9)), bool(rng.random() < 0.3))


def _crust(s: Scene, rng: Generator) -> None:
    """Add moss, lichen or dirt with a crisp ragged rim, often where water stands."""
    ragged = s.noise(rng.uniform(25, 150)) + rng.uniform(0.2, 0.8) * s.noise(rng.uniform(3, 9)) + 0.2 * s.noise(1.8)
    cover = np.clip((ragged - rng.uniform(0.5, 1.6)) * rng.uniform(1, 8), 0, 1) * rng.uniform(0.3, 1)
    colour = rng.uniform((50, 55, 25), (110, 120, 70)) if rng.random() < 0.5 else np.full(3, rng.uniform(20, 200))
    s.overlays.append(Overlay((cover * 255).astype(np.uint8), "coat", tuple(colour)))
    s.height += cover * rng.uniform(0, 1) * s.noise(2.5)


def _lane(s: Scene, rng: Generator) -> None:
    """Add a painted line or a tyre mark: a straight or bent band."""
    n, heading = int(0.9 * (s.w + s.h)), rng.uniform(0, math.pi)
    line = trace(heading + rng.normal(0, 0.0008) * np.arange(n))
    line += rng.uniform(0.2, 0.8, 2) * (s.w, s.h) - line[n // 2]
    cover, tyre = s.canvas(), rng.random() < 0.4
    stroke(cover, line[::5], 255, int(math.exp(rng.uniform(1.4, 4.5))))
    worn = np.clip(rng.uniform(0.3, 1.6) + 0.6 * s.noise(rng.uniform(2, 6)) + 0.3 * s.noise(60), 0, 1)
    if tyre:
        s.albedo *= 1 - cv2.GaussianBlur(cover, (0, 0), 5) / np.float32(255) * worn * rng.uniform(0.1, 0.5)
    else:
        colour = (235, 235, 230) if rng.random() < 0.6 else (230, 190, 60)
        s.overlays.append(Overlay((cover * worn).astype(np.uint8), "coat", colour))


def _shade(s: Scene, rng: Generator) -> None:
    """Cast a strong shadow with sharp edges: of a corner, of a ledge, of leaves."""
    if rng.random() < 0.5:
        angle, at = rng.uniform(0, math.pi), rng.uniform(0.2, 0.8, 2) * (s.w, s.h)
        x, y = np.arange(s.w, dtype=np.float32) - at[0], np.arange(s.h, dtype=np.float32)[:, None] - at[1]
        edge = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
        edge = np.minimum(edge, x if rng.random() < 0.3 else edge) + rng.choice([0, 0, 8]) * s.noise(40)
    else:
        edge = (s.noise(rng.uniform(20, 130)) - rng.uniform(-0.5, 1)) * 20
    edge = np.clip(edge / rng.uniform(1, 12) + 0.5, 0, 1)
    s.shade = (1.0 if s.shade is None else s.shade) * (1 - rng.uniform(0.3, 0.75) * edge)


def _behind(s: Scene, rng: Generator) -> None:
    """End the wall: beyond a straight or ragged edge there is sky, soil, plants or another wall."""
    angle, at = rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.95)
    if rng.random() < 0.7:
        angle = round(angle / (math.pi / 2)) * math.pi / 2 + rng.normal(0, 0.1)
    c, sn = math.cos(angle), math.sin(angle)
    x, y = np.arange(s.w, dtype=np.float32) / s.w - 0.5, np.arange(s.h, dtype=np.float32)[:, None] / s.h - 0.5
    off = (np.float32(c) * x + np.float32(sn) * y - np.float32(at - 0.5)) * max(s.w, s.h)
    off += rng.choice([0, 1, 5]) * s.noise(rng.uniform(5, 40))
    share = np.clip(off + 0.5, 0, 1)
    kind = str(rng.choice(["sky", "soil", "plants", "wall", "dark"]))
    low, high = {
        "sky": ((140, 170, 200), (255, 255, 255)), "soil": ((60, 45, 30), (170, 140, 110)),
        "plants": ((40, 60, 20), (120, 140, 80)), "dark": ((5,) * 3, (50,) * 3), "wall": ((60,) * 3, (230,) * 3),
    }[kind]  # fmt: skip
    strength = {"sky": 0.01, "soil": 0.2, "plants": 0.4, "wall": 0.05, "dark": 0.2}[kind]
    grains = [(1.8, 0.3), (4, 0.7), (9, 0.6), (30, 0.4)]
    texture = 1 + strength * octaves(rng, s.h, s.w, grains)
    colour = np.array(low) + np.subtract(high, low) * (rng.random() + rng.normal(0, 0.07, 3))
    colours = colour.astype(np.float32) * np.clip(texture, 0.1, 2.5)[..., None]
    s.behind = np.dstack([colours, share]).astype(np.float32)
    s.albedo *= 1 + rng.normal(0, 0.3) * np.exp(-np.abs(off) / rng.uniform(2, 15))
    s.height -= share * rng.uniform(0, 6)


def _scales(s: Scene, rng: Generator) -> None:
    """Weather the surface: dark streaks that run down, blotches with ragged edges, worn patches."""
    a, b = rng.uniform(0, 0.35) * rng.random(), rng.uniform(0.02, 0.25)
    streaks = s.noise(rng.uniform(4, 14), rng.uniform(8, 40), math.pi / 2 + rng.normal(0, 0.03))
    blotch = octaves(rng, s.h, s.w, [(2.2, 0.5), (5, 0.6), (14, 0.5), (45, 0.5), (130, 0.5)])
    if rng.random() < 0.5:
        blotch = np.tanh(blotch * rng.uniform(1, 4))
    s.albedo *= np.clip(np.exp(a * streaks * (0.6 + 0.5 * s.noise(120)) + b * blotch), 0.25, 2.2)


MARKS: dict[str, Callable[[Scene, Generator], None]] = {
    "notes": add_notes, "strands": _strands, "cable": _cable, "runs": _runs, "spalls": _spalls, "holes": _holes,
    "ties": _ties, "crust": _crust, "lane": _lane, "shade": _shade, "behind": _behind, "scales": _scales,
}  # fmt: skip


def add_mark(s: Scene, name: str) -> None:
    """Add one of `MARKS` to a scene."""
    MARKS[name](s, s.rng)
    s.objects.append(name)
