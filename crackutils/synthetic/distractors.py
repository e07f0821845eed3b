"""Concrete photographs made by code, with exact crack masks, and patches cut from them the way METU was made.

A photo is a surface (albedo and a height field under slanted light), cracks, things that are no cracks, and a camera.
Everything follows from two numbers, the seed and the photo's number.
"""

from __future__ import annotations

import math

import cv2  # noise, drawing and filters: the field's standard, many times faster than Pillow or SciPy at this
import numpy as np

from crackutils.synthetic.scene import BITS, FINE, Scene, blob, fill, noise, ribbon, straight, wave


def add_distractor(s: Scene, name: str) -> None:
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
            + 0.008 * wave(rng, n, 40)
            + (0.08 if name == "root" else 0.0) * wave(rng, n, 8)
        )
        theta = heading + np.cumsum(bend)
        line = np.cumsum(np.column_stack([np.cos(theta), np.sin(theta)]) * 2, axis=0) + np.array([x, y])
        size = {"hair": rng.uniform(0.8, 2.2), "wire": rng.uniform(3, 9) * z**0.3, "root": rng.uniform(4, 14)}[name]
        half = np.full(n, size / 2) * (np.linspace(1, 0.3, n) * (1 + 0.15 * wave(rng, n, 6)) if name == "root" else 1)
        fine = np.zeros((h * FINE, w * FINE), np.uint8)
        ribbon(fine, line, half, half, FINE)
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
        across, _ = straight(rng, w, h)
        _mark(s, across)
        across += 0.4 * noise(rng, h, w, 40)
        half = rng.uniform(1.0, 6) * z**0.3
        groove = np.clip(half - np.abs(across) + 0.5, 0, 1)
        s.albedo *= 1 - groove * rng.uniform(0.25, 0.85) * np.clip(1 + 0.12 * noise(rng, h, w, 25), 0.5, 1.2)
        s.height -= cv2.GaussianBlur(groove, (0, 0), 0.8) * rng.uniform(1, 4)
    elif name == "ridge":  # a formwork line: a seam of paste, or a small step between boards
        across, _ = straight(rng, w, h)
        _mark(s, across)
        across += 0.8 * noise(rng, h, w, 30)
        size = rng.uniform(1.0, 4) * z**0.5
        if rng.random() < 0.5:
            s.height += (
                rng.uniform(1, 5) * np.exp(-((across / size) ** 2)) * np.clip(1 + 0.5 * noise(rng, h, w, 20), 0, 2)
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
            points = np.rint(line * (1 << BITS)).astype(np.int32)
            cv2.polylines(
                canvas, [points], False, int(rng.uniform(60, 255)), int(rng.integers(1, 3)), cv2.LINE_AA, BITS
            )
        soft = cv2.GaussianBlur(canvas, (0, 0), 0.7).astype(np.float32) / 255
        s.albedo *= 1 + soft * np.clip(1 + noise(rng, h, w, 10), 0, 1.5) * rng.choice([0.25, 0.15, -0.12])
        s.height -= soft * rng.uniform(0, 1)
    elif name == "shadow":
        across, _ = straight(rng, w, h, 0.3)
        _mark(s, across)
        across += rng.uniform(0, 25) * noise(rng, h, w, rng.uniform(60, 200))
        edge = np.clip(across / rng.uniform(1.5, 25) + 0.5, 0, 1)
        if rng.random() < 0.5:
            edge *= np.clip((rng.uniform(30, 250) - across) / rng.uniform(2, 20), 0, 1)
        s.shade = (1.0 if s.shade is None else s.shade) * (1 - rng.uniform(0.15, 0.6) * edge)
    elif name == "paint":
        if rng.random() < 0.5:
            across, _ = straight(rng, w, h, 0.6)
            _mark(s, across)
            across += rng.uniform(0.3, 6) * noise(rng, h, w, rng.uniform(4, 40))
            cover = np.clip(across + 0.5, 0, 1) * np.clip(rng.uniform(20, 500) - across, 0, 1)
        else:
            fill(canvas, blob(rng, x, y, rng.uniform(10, 120), rng.uniform(0.3, 1), 0.5), 255)
            s.points.append((x, y))
            worn = noise(rng, h, w, rng.uniform(2, 8)) + 4 * (canvas.astype(np.float32) / 255 - 0.5)
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
            fill(one, np.rint((shape + np.array([cx, cy])) * (1 << BITS)).astype(np.int32), 255)
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
            cv2.polylines(rib, [np.rint(ends * (1 << BITS)).astype(np.int32)], False, 255, 1, cv2.LINE_AA, BITS)
            s.overlays.append((rib, tuple(0.65 * v for v in colour), 0.0))
    elif name == "stain":
        if rng.random() < 0.5:  # run down the wall
            flow = noise(rng, h, w, rng.uniform(6, 30), rng.uniform(6, 20), math.pi / 2 + rng.normal(0, 0.05))
            cover = np.clip(flow - rng.uniform(0.6, 1.6), 0, 1.5)
        else:
            field_ = noise(rng, h, w, rng.uniform(50, 220)) + 0.15 * noise(rng, h, w, 9)
            cover = np.clip((field_ - rng.uniform(0.6, 1.4)) * rng.uniform(1, 10), 0, 1)
        s.albedo *= 1 - cover * rng.uniform(0.04, 0.3)
        if rng.random() < 0.5:
            rust = cv2.resize(cover, s.chroma.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
            s.chroma += rust * rng.uniform(2, 20) * np.array([0.8, 0.0, -1.0], np.float32)
    elif name == "salt":  # efflorescence: a white crust with ragged edges
        ragged = noise(rng, h, w, rng.uniform(30, 120)) + 0.5 * noise(rng, h, w, 7) + 0.3 * noise(rng, h, w, 2.5)
        cover = np.clip((ragged - rng.uniform(0.9, 1.8)) * rng.uniform(0.8, 4), 0, 1)
        s.albedo += cover * rng.uniform(0.05, 0.35)
        s.height += cover * rng.uniform(0, 1.5)
    elif name == "hole":
        radius = rng.uniform(10, 45) * z**0.3
        shape = blob(rng, x, y, radius, rng.uniform(0.85, 1), 0.04)
        fill(canvas, shape, 255)
        s.points.append((x, y))
        s.height -= cv2.GaussianBlur(canvas, (0, 0), 1.5).astype(np.float32) / 255 * rng.uniform(3, 8)
        depth = np.roll(canvas, (int(-s.light[1] * radius * 0.25), int(-s.light[0] * radius * 0.25)), (0, 1))
        deep = cv2.GaussianBlur(np.minimum(canvas, depth), (0, 0), 2).astype(np.float32) / 255
        s.albedo *= 1 - deep * rng.uniform(0.3, 0.85)
    s.objects.append(name)


def _mark(s: Scene, across: np.ndarray) -> None:
    """Note places on the zero line of `across`."""
    y, x = np.nonzero(np.abs(across) < 0.6)
    picked = s.rng.integers(0, len(x), 10) if len(x) else []
    s.points += [(float(x[i]), float(y[i])) for i in picked]


def lay_overlays(rgb: np.ndarray, s: Scene) -> None:
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
