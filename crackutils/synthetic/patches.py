"""Patches cut from synthetic photos in the way of METU, with the labels of a human annotator."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import FAINT, FINE, PATCH, THIN, USUAL, VISIBLE, Photo

CLOSED = 0.5 + 1 / FINE  # width up to which a crack counts as closed, pixels


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
    """Return the contrast of a crack: grey levels between it and its surroundings, and these over their spread.

    `image` is uint8 (h, w, 3); `mask`, uint8 (h, w), is how much of each pixel is crack, 0-255.
    """
    grey, on = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), mask > 110
    near = cv2.dilate((mask > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    beside = (cv2.dilate(near, np.ones((9, 9), np.uint8)) > 0) & (near == 0)
    if on.sum() < 8 or not beside.any():
        return 0.0, 0.0
    step = float(grey[beside].mean() - grey[on].mean())
    return step, step / (float(grey[beside].std()) + 1.0)


def centre_points(shot: Photo) -> np.ndarray:
    """Return the points of all centre lines of a photo, (n, 3) as in `Photo.lines`, one every 2 pixels of crack."""
    return np.concatenate(shot.lines) if shot.lines else np.zeros((0, 3))


def cut_patches(shot: Photo, rng: Generator, each: int, visible: tuple[float, float] = VISIBLE) -> list[Patch]:
    """Cut up to `each` patches with a crack and `each` without from a photo.

    A patch counts as cracked when at least 70 pixels of cracks run through its middle 190 pixels and stand out clearly
    enough for a person to see them (their `crack_contrast` reaches `visible`); as not cracked when not one pixel of it
    is crack. Half of the latter lie on distractors, if the photo has any. Places between the two are not cut.
    """
    limit = np.array(shot.mask.shape[::-1]) - PATCH
    positive, negative, points = [], [], centre_points(shot)

    def cut(label: int, x: int, y: int) -> Patch:
        where = slice(y, y + PATCH), slice(x, x + PATCH)
        return Patch(shot.image[where], shot.mask[where], label, x, y, {})

    for _ in range(6 * each if len(points) else 0):
        if len(positive) == each:
            break
        place = points[rng.integers(len(points)), :2] + rng.normal(0, 32, 2).clip(-80, 80)
        x, y = (int(v) for v in np.clip(place - PATCH // 2, 0, limit))
        middle = points[(np.abs(points[:, :2] - (x + PATCH / 2, y + PATCH / 2)) < 95).all(1) & (points[:, 2] > CLOSED)]
        if len(middle) < 35:  # 70 pixels of crack
            continue
        patch = cut(1, x, y)
        step, clear = crack_contrast(patch.image, patch.mask)
        if step >= visible[0] and clear >= visible[1]:
            patch.facts["width"] = round(float(np.median(middle[:, 2])), 2)
            patch.facts.update(step=round(step, 1), contrast=round(clear, 2))
            positive.append(patch)
    for attempt in range(1, 30 * each + 1):
        if len(negative) == each:
            break
        if shot.points and attempt % 2:
            place = shot.points[rng.integers(len(shot.points))] + rng.normal(0, 40, 2)
            corner = np.clip(place - PATCH // 2, 0, limit)
        else:
            corner = [rng.integers(0, most + 1) for most in limit]
        patch = cut(0, *map(int, corner))
        if not patch.mask.any():
            negative.append(patch)
    return positive + negative


def draw_patches(seed: int, count: int, each: int = 8, thin: bool = False) -> Iterator[tuple[int, Photo, list[Patch]]]:
    """Yield photos, each with its number and its patches, in order, until there are `count` patches of each class.

    `thin` takes more hairlines, and fainter cracks.
    """
    cv2.setNumThreads(1)  # the threads below do better, one photo each

    def cut(number: int) -> tuple[int, Photo, list[Patch]]:
        shot = make_photo(seed, number, styles=THIN if thin else USUAL)
        found = cut_patches(shot, np.random.default_rng([seed, number, 1]), each, FAINT if thin else VISIBLE)
        return number, shot, found

    left, start = [count, count], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while max(left) > 0:
            for number, shot, patches in pool.map(cut, range(start, start + 16)):
                wanted = [p for k in (1, 0) for p in [p for p in patches if p.label == k][: left[k]]]
                left = [n - sum(p.label == k for p in wanted) for k, n in enumerate(left)]
                if wanted:
                    yield number, shot, wanted
            start += 16
