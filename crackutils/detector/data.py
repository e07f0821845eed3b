"""Train a network that tells where the crack is, on images of which only the label is known and on exact masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from crackutils import config
from crackutils.detector.variation import VARIATIONS, vary
from crackutils.recipes import Recipe
from crackutils.synthetic.scene import MASK_BLOCK
from crackutils.synthetic.store import Store, load_store

CROP = 160  # side of the training images, pixels
SIDE = 224  # side of the kept patches with masks, pixels
EACH = 5  # patches of a class from one photo, at most
PHOTO_SEED = 555  # of the photos with masks; no profile has it
SOMEWHERE, UNKNOWN = -1.0, -2.0  # of cells: of an image with a crack that no mask shows; neither crack nor free of it
_STRIDE = 16  # pixels of a cell
_GRID = CROP // _STRIDE
_CENTRED = ("metu", "sample", "smoke")  # sources whose cracks run through the middle of the image
_VARIED = 0.35  # how probable each variation of a training image is
_DRAWN = 0.625  # share of a batch that has masks


def load_patches(profile: config.Profile) -> Store:
    """Return the patches with masks that a profile trains with: thin and faint cracks more than others."""
    return load_store(PHOTO_SEED, profile.cells[1], EACH, SIDE, thin=True)


def count_training(kept: Store) -> int:
    """Return how many of the kept patches, in their order, are for training: those of nine photos in ten."""
    photo = kept.facts["photo"].to_numpy()
    each = np.unique(photo)
    return int(np.searchsorted(photo, each[int(0.9 * len(each))])) or len(photo)


def masked_example(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a training image and its cells from a patch with its mask.

    Args:
        image: uint8 (224, 224, 3).
        mask: uint8 (56, 56), as in `synthetic.Store`.
        rng: chooses crop, turn, mirror image, light, sharpness and compression.

    Returns:
        uint8 (160, 160, 3), and float (10, 10): 1 crack, 0 none, `UNKNOWN` where it is between.
    """
    part = min(SIDE, int(CROP / np.exp(rng.uniform(np.log(0.8), np.log(1.4))))) // MASK_BLOCK
    top, left = rng.integers(0, SIDE // MASK_BLOCK - part + 1, 2)
    y, x, side = (v * MASK_BLOCK for v in (top, left, part))
    how = cv2.INTER_AREA if side > CROP else cv2.INTER_CUBIC
    image = cv2.resize(image[y : y + side, x : x + side], (CROP, CROP), interpolation=how)
    fine = cv2.resize(mask[top : top + part, left : left + part], (_GRID * 4, _GRID * 4))
    most = fine.reshape(_GRID, 4, _GRID, 4).max((1, 3))
    cells = np.where(most > 100, 1.0, np.where(most < 20, 0.0, UNKNOWN))
    image, cells = _turned(rng, image, cells)
    return vary(image, rng, VARIATIONS[1:], _VARIED), cells


def labelled_example(
    image: np.ndarray, label: int, centred: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a training image and its cells from an image of which the label is all that is known.

    Images are cut, enlarged and shrunk in the same way whatever their label, so that neither size nor sharpness tells
    it. Only where cracks run through the middle can a cracked one be cut.

    Args:
        image: uint8 (side, side, 3).
        label: 0 or 1.
        centred: whether cracks of these images run through their middle.
        rng: as in `drawn`.

    Returns:
        As `drawn`; all cells are `SOMEWHERE`, or all 0.
    """
    side = len(image)
    part = int(rng.integers(round(0.625 * side), side + 1)) if centred and rng.random() < 0.7 else side
    place = rng.normal((side - part) / 2, 0.05 * side, 2) if label else rng.uniform(0, side - part, 2)
    y, x = np.clip(place, 0, side - part).astype(int)
    how = cv2.INTER_AREA if part > CROP else cv2.INTER_CUBIC
    image = cv2.resize(image[y : y + part, x : x + part], (CROP, CROP), interpolation=how)
    image, cells = _turned(rng, image, np.full((_GRID, _GRID), SOMEWHERE if label else 0.0))
    return vary(image, rng, VARIATIONS, _VARIED), cells


def _turned(rng: np.random.Generator, *maps: np.ndarray) -> list[np.ndarray]:
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    return [np.ascontiguousarray(np.rot90(m, turns)[:, ::-1] if flip else np.rot90(m, turns)) for m in maps]


def make_batch(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    kept: Store | None,
    seed: Any,
    centred: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one training batch, the same for the same seed: float32 (n, 160, 160, 3) 0-255 and (n, 10, 10, 1) cells.

    Args:
        recipe: tells n.
        images: uint8 (all, side, side, 3), as `Dataset.pixels` gives them.
        labels: int (all,).
        rows: which of them are for training.
        kept: patches with masks, `_DRAWN` of the batch; None for none.
        seed: of this batch.
        centred: as in `labelled`.
    """
    rng = np.random.default_rng(seed)
    count = round(_DRAWN * recipe.batch) if kept is not None else 0
    chosen = rng.integers(0, count_training(kept), count) if count else ()
    pairs = [masked_example(kept.images[i], kept.masks[i], rng) for i in chosen]
    pairs += [labelled_example(images[i], int(labels[i]), centred, rng) for i in rng.choice(rows, recipe.batch - count)]
    x, cells = (np.stack(part).astype(np.float32) for part in zip(*pairs, strict=True))
    return x, cells[..., None]
