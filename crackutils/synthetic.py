"""Small drawn pictures of concrete, so that everything runs without any download.

Patches are cut from drawn photos the way METU was: overlapping along a crack for Positive, anywhere else for Negative.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from crackutils.config import CLASSES

PATCH = 227  # side of a patch, pixels
_WIDTH, _HEIGHT = 640, 480  # of a photo, pixels


def draw(folder: Path, photos: int, seed: int) -> None:
    """Draw photos and write the patches cut from them to `folder/Negative` and `folder/Positive` as JPEG files.

    Every photo gives five patches with a crack in their middle and five without any; like METU, the set holds a few
    exact copies. The same arguments give the same files.
    """
    rng = np.random.default_rng(seed)
    patches: dict[str, list[Image.Image]] = {name: [] for name in CLASSES}
    for _ in range(photos):
        photo, mask, path = _photo(rng)
        turn = 90 * int(rng.integers(4))
        picked = np.sort(rng.choice(len(path), 5, replace=False))
        for x, y in path[picked]:
            patches["Positive"].append(_cut(photo, int(x) - PATCH // 2, int(y) - PATCH // 2).rotate(turn))
        free = 0
        while free < 5:
            x, y = int(rng.integers(0, _WIDTH - PATCH + 1)), int(rng.integers(0, _HEIGHT - PATCH + 1))
            if not mask[y : y + PATCH, x : x + PATCH].any():
                patches["Negative"].append(_cut(photo, x, y).rotate(turn))
                free += 1
    rng.shuffle(patches["Negative"])
    for name in CLASSES:
        patches[name] += patches[name][: max(2, photos // 8)]
        (folder / name).mkdir(parents=True)
        for number, patch in enumerate(patches[name], 1):
            patch.save(folder / name / f"{number:05d}.jpg", quality=90)


def _cut(photo: Image.Image, x: int, y: int) -> Image.Image:
    x, y = min(max(x, 0), _WIDTH - PATCH), min(max(y, 0), _HEIGHT - PATCH)
    return photo.crop((x, y, x + PATCH, y + PATCH))


def _photo(rng: np.random.Generator) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return a photo, its crack mask (height, width) and the crack's middle line as (x, y) rows."""
    size = (_HEIGHT, _WIDTH)
    texture = sum(strength * _noise(rng, grain) for grain, strength in ((1, 7), (6, 5), (30, 6), (150, 10)))
    pores = Image.fromarray(np.where(rng.random(size) < 0.0008, 255, 0).astype(np.uint8))
    pores = np.asarray(pores.filter(ImageFilter.GaussianBlur(1.5))).astype(float)
    grey = rng.uniform(110, 190) + texture - pores * rng.uniform(0.2, 1)
    tint = np.array([1, 1, 1]) + rng.normal(0, 0.015, 3)
    photo = Image.fromarray(np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8))
    _distract(photo, rng)
    line = _line(rng)
    width = int(rng.integers(2, 8))
    mask = Image.new("L", (_WIDTH, _HEIGHT))
    pen = ImageDraw.Draw(mask)
    for a, b in pairwise(line):
        pen.line([tuple(a), tuple(b)], 255, max(1, width + int(rng.integers(-2, 3))))
    dark = Image.fromarray(np.full((*size, 3), int(rng.integers(25, 70)), np.uint8))
    photo.paste(dark, (0, 0), mask.filter(ImageFilter.GaussianBlur(0.8)))
    photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
    inside = line[(line[:, 0] > 40) & (line[:, 0] < _WIDTH - 40)]
    return photo, np.asarray(mask) > 0, inside


def _line(rng: np.random.Generator) -> np.ndarray:
    """Return a crack's middle line from the left edge to the right one, near the top or the bottom of the photo."""
    x = np.arange(-10, _WIDTH + 10, 6)
    y = np.cumsum(rng.normal(0, 4, len(x)))
    y = y - y.mean() + rng.choice([0.22, 0.78]) * _HEIGHT + rng.uniform(-0.1, 0.1) * (x - _WIDTH / 2)
    y = np.where(y.mean() < _HEIGHT / 2, np.minimum(y, _HEIGHT - PATCH - 30), np.maximum(y, PATCH + 30))
    return np.column_stack([x, y])


def _distract(photo: Image.Image, rng: np.random.Generator) -> None:
    """Draw what is no crack: a scratch lighter than the surface, a straight joint, a stain's edge."""
    pen = ImageDraw.Draw(photo)
    for _ in range(int(rng.integers(0, 3))):
        ends = [(int(rng.integers(_WIDTH)), int(rng.integers(_HEIGHT))) for _ in range(2)]
        pen.line(ends, tuple(int(v) for v in rng.integers(170, 225, 1).repeat(3)), int(rng.integers(1, 3)))
    if rng.random() < 0.3:
        x, y = int(rng.integers(_WIDTH)), int(rng.integers(_HEIGHT))
        pen.ellipse(
            [x, y, x + int(rng.integers(30, 120)), y + int(rng.integers(30, 120))], outline=(120, 110, 100), width=3
        )


def _noise(rng: np.random.Generator, grain: int) -> np.ndarray:
    """Return smooth noise of zero mean and unit deviation, `grain` pixels from one random value to the next."""
    coarse = rng.standard_normal((_HEIGHT // grain + 2, _WIDTH // grain + 2)).astype(np.float32)
    values = np.asarray(Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC))
    return (values - values.mean()) / values.std()
