"""Concrete photographs made by code, with exact crack masks, and patches cut from them the way METU was made.

A photo is a surface (albedo and a height field under slanted light), cracks, things that are no cracks, and a camera.
Everything follows from two numbers, the seed and the photo's number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2  # noise, drawing and filters: the field's standard, many times faster than Pillow or SciPy at this
import numpy as np

from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import FAINT, FINE, PATCH, THIN, USUAL, VISIBLE, Photo


@dataclass(frozen=True)
class Patch:
    """A patch cut from a photo: uint8 (227, 227, 3), its label, where it was cut (left, top), and the crack in it."""

    image: np.ndarray
    mask: np.ndarray
    label: int
    x: int
    y: int
    facts: dict[str, Any]


def crack_contrast(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
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


def cut_patches(
    shot: Photo, rng: np.random.Generator, each: int, visible: tuple[float, float] = VISIBLE
) -> list[Patch]:
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
        inside = inside[inside[:, 2] > 0.5 + 1 / FINE]  # where it is open
        if len(inside) < 35:  # 70 pixels of crack, a point every two
            continue
        image, mask = shot.image[y : y + PATCH, x : x + PATCH], shot.mask[y : y + PATCH, x : x + PATCH]
        step, clear = crack_contrast(image, mask)
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


def draw_patches(seed: int, count: int, each: int = 8, thin: bool = False) -> Iterator[tuple[int, Photo, list[Patch]]]:
    """Yield photos with their patches, in order, until there are `count` patches of each class.

    `thin` takes more hairlines, and fainter cracks.
    """
    cv2.setNumThreads(1)  # the threads below do better, one photo each

    def one(number: int) -> tuple[int, Photo, list[Patch]]:
        shot = make_photo(seed, number, styles=THIN if thin else USUAL)
        rng = np.random.default_rng([seed, number, 1])
        return number, shot, cut_patches(shot, rng, each, FAINT if thin else VISIBLE)

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
