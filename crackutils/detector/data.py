"""Training examples of the detector: crops of photos with masks and of labelled images, with varied cameras."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from crackutils import config
from crackutils.detector.network import CELL
from crackutils.synthetic.scene import CRACK, JOINT, LINE, UNSURE
from crackutils.synthetic.store import Photos, Store, load_photos, load_store

CROP = 224  # side of a training image, pixels
GRID = CROP // CELL  # side of its map, cells
SIDE = 224  # side of the patches with masks, pixels
EACH = 5  # patches of a class from one photo, at most
PHOTO_SEED = 555  # of the photos with masks; no profile uses it
SOMEWHERE = -1.0  # target of all cells of an image with a crack but without a mask
UNKNOWN = -2.0  # target of a cell or pixel that may be either
CENTRED = ("metu", "sample", "smoke")  # sources whose cracks run through the middle of the image
VARIATIONS = ("scale", "contrast", "blur", "exposure and noise", "jpeg and tint")  # kinds of `vary`
VARIED = 0.35  # probability of each variation of a training image
MASKED = 0.6  # share of a batch with masks
_PHOTO = 512  # side of the photos of notebook 08, pixels
_ZOOM = (0.6, 1.7)  # of photos with masks
_CRACKED = 8  # pixels of crack from which a cell counts as cracked

Example = tuple[np.ndarray, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Labelled:
    """Images with a label but without a mask."""

    read: Callable[[int], np.ndarray]  # from a row to the image, uint8 (side, side, 3)
    labels: np.ndarray  # int (all,), 0 or 1
    rows: np.ndarray  # rows to train on
    centred: bool  # whether cracks run through the middle of the image
    odds: np.ndarray | None = None  # probabilities of `rows`; None for equal ones


def load_patches(profile: config.Profile) -> Store:
    """Return the patches with masks that a profile trains with; thin and faint cracks are more frequent."""
    return load_store(PHOTO_SEED, profile.cells[1], EACH, SIDE, thin=True)


def draw_photos(profile: config.Profile) -> Photos:
    """Return the photos with masks that notebook 08 trains with, a quarter of the patches of a class in number."""
    return load_photos(PHOTO_SEED, profile.cells[1] // 4, _PHOTO)


def count_training(patches: Store) -> int:
    """Return the number of patches for training, the first in order: those of nine in ten photos."""
    photo = patches.facts["photo"].to_numpy()
    each = np.unique(photo)
    return int(np.searchsorted(photo, each[int(0.9 * len(each))])) or len(photo)


def masked_example(photos: Photos, number: int, rng: np.random.Generator) -> Example:
    """Return a random crop of a photo with a mask, uint8 (224, 224, 3), and its targets; `rng` draws all of it.

    Half of the crops lie on a crack and a quarter on a joint or another line, if there is one. The targets are
    float32: pixels (224, 224, 1) and cells (14, 14, 1), 1, 0 or `UNKNOWN`, and kinds (112, 112, 2), 1 or 0.
    """
    target = photos.targets[number]
    shape = np.array(target.shape)
    part = min(*shape, int(CROP / np.exp(rng.uniform(*np.log(_ZOOM)))))
    kind, place = rng.choice(3, p=(0.5, 0.25, 0.25)), rng.integers(0, shape)
    if kind < 2 and (on := photos.anchors[number, kind])[0, 0] >= 0:
        place = on[rng.integers(len(on))] + rng.normal(0, part / 5, 2)
    y, x = np.clip(place - part / 2, 0, shape - part).astype(int)
    target = target[y : y + part, x : x + part]
    shrunk = part > CROP
    planes = np.stack([target == value for value in (CRACK, UNSURE, JOINT, LINE)], 2).astype(np.uint8) * 255
    planes = cv2.resize(planes, (CROP, CROP), interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR)
    image, planes = _crop(photos.images[number], (y, x, part), planes, rng)
    crack, unsure = planes[..., 0] > (80 if shrunk else 127), planes[..., 1] > 80
    pixels = np.where(crack, 1.0, np.where(unsure, UNKNOWN, 0.0))
    kinds = planes[::2, ::2, 2:] > 110
    counts = crack.reshape(GRID, CELL, GRID, CELL).sum((1, 3))
    doubt = unsure.reshape(GRID, CELL, GRID, CELL).any((1, 3))
    cells = np.where(counts >= _CRACKED, 1.0, np.where((counts == 0) & ~doubt, 0.0, UNKNOWN))
    targets = {"pixels": pixels[..., None], "kinds": kinds, "cells": cells[..., None]}
    image = vary(image, rng, VARIATIONS[1:], VARIED)  # a change of scale would move the mask
    return image, {name: values.astype(np.float32) for name, values in targets.items()}


def labelled_example(image: np.ndarray, label: int, centred: bool, rng: np.random.Generator) -> Example:
    """Return a training image as `masked_example`, from an image and its label; all cells are `SOMEWHERE` or 0.

    Images, uint8 (side, side, 3), of both labels are cropped and resized alike, so that neither size nor blur predicts
    the label. They are cropped only if cracks run through the middle (`centred`). The pixels of an image with a crack
    are `UNKNOWN`, and so are all kinds.
    """
    side = len(image)
    part = int(rng.integers(round(0.625 * side), side + 1)) if centred and rng.random() < 0.7 else side
    place = rng.normal((side - part) / 2, 0.05 * side, 2) if label else rng.uniform(0, side - part, 2)
    y, x = np.clip(place, 0, side - part).astype(int)
    image, _ = _crop(image, (y, x, part), np.zeros((CROP, CROP)), rng)
    values = {"pixels": UNKNOWN, "cells": SOMEWHERE} if label else {"pixels": 0.0, "cells": 0.0}
    shapes = {"pixels": (CROP, CROP, 1), "kinds": (CROP // 2, CROP // 2, 2), "cells": (GRID, GRID, 1)}
    targets = {name: np.full(shape, values.get(name, UNKNOWN), np.float32) for name, shape in shapes.items()}
    return vary(image, rng, VARIATIONS, VARIED), targets


def _crop(image: np.ndarray, box: Any, targets: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a square of an image (top, left, side) at `CROP` pixels, and its targets, rotated and flipped alike."""
    y, x, side = box
    how = cv2.INTER_AREA if side > CROP else cv2.INTER_CUBIC
    image = cv2.resize(image[y : y + side, x : x + side], (CROP, CROP), interpolation=how)
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    rotated = (np.rot90(part, turns) for part in (image, targets))
    return [np.ascontiguousarray(part[:, ::-1] if flip else part) for part in rotated]


def make_batch(n: int, labelled: Labelled | None, masked: Sequence[tuple[Photos, float]], seed: Any) -> Example:
    """Return a training batch, uint8 (n, 224, 224, 3), and its targets, stacked as in `masked_example`.

    The same seed gives the same batch. Each entry of `masked` holds photos and their share of the batch; the rest are
    images with labels.
    """
    rng, examples = np.random.default_rng(seed), []
    for photos, share in masked:
        examples += [masked_example(photos, i, rng) for i in rng.integers(0, len(photos.images), round(share * n))]
    if labelled:
        chosen = rng.choice(labelled.rows, n - len(examples), p=labelled.odds)
        examples += [labelled_example(labelled.read(i), int(labelled.labels[i]), labelled.centred, rng) for i in chosen]
    images, targets = zip(*examples, strict=True)
    return np.stack(images), {k: np.stack([one[k] for one in targets]) for k in targets[0]}


def vary(image: np.ndarray, rng: np.random.Generator, kinds: Sequence[str], share: float = 1.0) -> np.ndarray:
    """Return a uint8 (height, width, 3) image as another camera might have taken it; `rng` draws how much.

    `kinds` are of `VARIATIONS`: scale (shrunk to 0.4-1 of its size, its surroundings mirrored), contrast (with level),
    blur (sigma 0.4-2 pixels), exposure and noise (2.5 stops darker to 0.7 brighter, clipped; deviation 1-30 grey
    levels), jpeg and tint (quality 35-95, colour cast). Each happens with probability `share`, contrast and colour cast
    always.
    """
    if "scale" in kinds and rng.random() < share:
        image = shrink(image, rng.uniform(0.4, 1), rng)
    x = image.astype(np.float32)
    if "blur" in kinds and rng.random() < share:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 2))
    if "contrast" in kinds:
        mean = x.mean((0, 1), keepdims=True)
        x = (x - mean) * np.exp(rng.normal(-0.1, 0.35)) + mean * rng.uniform(0.75, 1.2) + rng.uniform(-15, 15)
    if "jpeg and tint" in kinds:
        x = x + rng.normal(0, 7, 3)
    if "exposure and noise" in kinds:
        if rng.random() < share:
            x = np.minimum(x * 2 ** rng.uniform(-2.5, 0.7), 255)
        if rng.random() < share:
            shape = x.shape if rng.random() < 0.5 else (*x.shape[:2], 1)  # noise of each colour, or of the brightness
            x = x + rng.normal(0, np.exp(rng.uniform(0, np.log(30))), shape)
    image = np.clip(x, 0, 255).astype(np.uint8)
    if "jpeg and tint" in kinds and rng.random() < share:
        image = jpeg(image, int(rng.uniform(35, 95)))
    return image


def shrink(image: np.ndarray, factor: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return a square image shrunk by `factor` and surrounded by its mirror images; in the middle without `rng`."""
    side = len(image)
    small = cv2.resize(image, (max(2, int(factor * side)),) * 2, interpolation=cv2.INTER_AREA)
    left = side - len(small)
    y, x = rng.integers(0, left + 1, 2) if rng is not None else (left // 2, left // 2)
    return cv2.copyMakeBorder(small, y, left - y, x, left - x, cv2.BORDER_REFLECT)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return a uint8 image after JPEG compression; quality 0 to 100."""
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # OpenCV wants BGR
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])
