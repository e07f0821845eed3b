"""Training examples of the detector: crops of patches with masks and of labelled images, varied as by other cameras."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from crackutils import config
from crackutils.detector.network import CELL
from crackutils.synthetic.scene import MASK_BLOCK
from crackutils.synthetic.store import Store, load_store

CROP = 160  # side of a training image, pixels
GRID = CROP // CELL  # side of its map, cells
SIDE = 224  # side of the patches with masks, pixels
EACH = 5  # patches of a class from one photo, at most
PHOTO_SEED = 555  # of the photos with masks; no profile has it
SOMEWHERE = -1.0  # target of all cells of an image with a crack, where no mask shows which
UNKNOWN = -2.0  # target of a cell between cracked and free
CENTRED = ("metu", "sample", "smoke")  # sources whose cracks run through the middle of the image
VARIATIONS = ("scale", "contrast", "blur", "exposure and noise", "jpeg and tint")  # kinds of `vary`
VARIED = 0.35  # how probable each variation of a training image is
MASKED = 0.625  # share of a batch that has masks


def load_patches(profile: config.Profile) -> Store:
    """Return the patches with masks that a profile trains with: thin and faint cracks more than others."""
    return load_store(PHOTO_SEED, profile.cells[1], EACH, SIDE, thin=True)


def count_training(patches: Store) -> int:
    """Return how many of the patches, in their order, are for training: those of nine photos in ten."""
    photo = patches.facts["photo"].to_numpy()
    each = np.unique(photo)
    return int(np.searchsorted(photo, each[int(0.9 * len(each))])) or len(photo)


def masked_example(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop of a patch, uint8 (160, 160, 3), and the targets of its cells, float (10, 10): 1, 0 or `UNKNOWN`.

    `image` is uint8 (224, 224, 3), `mask` uint8 (56, 56) as in `Store`; `rng` draws the crop, its flip and more.
    """
    part = min(SIDE, int(CROP / np.exp(rng.uniform(np.log(0.8), np.log(1.4))))) // MASK_BLOCK
    top, left = rng.integers(0, SIDE // MASK_BLOCK - part + 1, 2)
    fine = cv2.resize(mask[top : top + part, left : left + part], (CROP // MASK_BLOCK,) * 2)
    most = fine.reshape(GRID, CELL // MASK_BLOCK, GRID, CELL // MASK_BLOCK).max((1, 3))
    targets = np.where(most > 100, 1.0, np.where(most < 20, 0.0, UNKNOWN))
    image, targets = _crop(image, (v * MASK_BLOCK for v in (top, left, part)), targets, rng)
    return vary(image, rng, VARIATIONS[1:], VARIED), targets  # a change of scale would move the mask


def labelled_example(
    image: np.ndarray, label: int, centred: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a training image as `masked_example`, with all targets `SOMEWHERE` or all 0, from an image and its label.

    Images, uint8 (side, side, 3), are cropped and resized alike whatever their label, so that neither size nor blur
    predicts it. They are cropped only where the cracks run through the middle (`centred`).
    """
    side = len(image)
    part = int(rng.integers(round(0.625 * side), side + 1)) if centred and rng.random() < 0.7 else side
    place = rng.normal((side - part) / 2, 0.05 * side, 2) if label else rng.uniform(0, side - part, 2)
    y, x = np.clip(place, 0, side - part).astype(int)
    image, targets = _crop(image, (y, x, part), np.full((GRID, GRID), SOMEWHERE if label else 0.0), rng)
    return vary(image, rng, VARIATIONS, VARIED), targets


def _crop(image: np.ndarray, box: Any, targets: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a square of an image (top, left, side) at `CROP` pixels, and its targets, rotated and flipped alike."""
    y, x, side = box
    how = cv2.INTER_AREA if side > CROP else cv2.INTER_CUBIC
    image = cv2.resize(image[y : y + side, x : x + side], (CROP, CROP), interpolation=how)
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    rotated = (np.rot90(part, turns) for part in (image, targets))
    return [np.ascontiguousarray(part[:, ::-1] if flip else part) for part in rotated]


def make_batch(
    n: int,
    read: Callable,
    labels: np.ndarray,
    rows: np.ndarray,
    patches: Store | None,
    seed: Any,
    centred: bool,
    odds: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a training batch, float32 (n, 160, 160, 3) 0-255, and the targets of its cells, float32 (n, 10, 10, 1).

    The same seed gives the same batch. `MASKED` of it are patches, where there are some; the rest are some of `rows`,
    of which `read` returns the image, uint8 (side, side, 3), and `labels`, int (all,), holds the label. `odds` are the
    probabilities of `rows`, None for equal ones.
    """
    rng = np.random.default_rng(seed)
    count = round(MASKED * n) if patches is not None else 0
    chosen = rng.integers(0, count_training(patches), count) if count else ()
    pairs = [masked_example(patches.images[i], patches.masks[i], rng) for i in chosen]
    pairs += [labelled_example(read(i), int(labels[i]), centred, rng) for i in rng.choice(rows, n - count, p=odds)]
    x, targets = (np.stack(part).astype(np.float32) for part in zip(*pairs, strict=True))
    return x, targets[..., None]


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
            shape = x.shape if rng.random() < 0.5 else (*x.shape[:2], 1)  # of each colour, or of the light
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
