"""Batches of images for TensorFlow, augmentation layers, and predictions in file order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from crackutils import config
from crackutils.recipes import Recipe

tf = config.tensorflow()
import keras


def batches(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, batch: int, seed: int | None = None) -> Any:
    """Return a tf.data set of (float32 (n, size, size, 3) RGB 0-255, float32 (n, 1) labels).

    Args:
        images: uint8 (all, size, size, 3), as `Dataset.pixels` gives them.
        labels: int (all,), 0 or 1.
        rows: which images.
        batch: images per batch.
        seed: shuffles, differently in each epoch; None keeps the order of `rows`, as evaluation needs.
    """
    order = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
    if seed is not None:
        order = order.shuffle(
            len(rows), seed=seed, reshuffle_each_iteration=True
        )  # indices only: a whole shuffle is cheap

    def take(i: Any) -> Any:
        x, y = tf.numpy_function(lambda k: (images[k], labels[k].astype(np.float32)), [i], (tf.uint8, tf.float32))
        x.set_shape((None, *images.shape[1:]))
        y.set_shape((None,))
        return tf.cast(x, tf.float32), y[:, None]

    options = tf.data.Options()
    options.threading.private_threadpool_size = 2  # whatever the number of visible cores
    return order.batch(batch).map(take).prefetch(2).with_options(options)


def augmentation(recipe: Recipe, seed: int) -> list[Any]:
    """Return the augmentation layers of a recipe; inside a model they act during training only."""
    return [
        # without a name Keras would count on from the models built before
        getattr(keras.layers, name)(seed=seed + i, name=f"augment_{i + 1}", **options)
        for i, (name, options) in enumerate(recipe.augment)
    ]


def predict(model: Any, data: Any, flips: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return labels int (n,) and crack probabilities float32 (n,) of unshuffled batches, from one pass over them.

    With `flips` a probability is the mean over the image and its mirror images left-right, top-bottom, and both.
    """
    labels, found = [], []
    for x, y in data:
        found.append(chances(model, np.asarray(x), flips))
        labels.append(np.asarray(y).reshape(-1))
    return np.concatenate(labels).astype(int), np.concatenate(found)


def chances(model: Any, x: np.ndarray, flips: bool = False) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), of one batch; `predict` explains `flips`."""
    views = (x, x[:, :, ::-1], x[:, ::-1], x[:, ::-1, ::-1]) if flips else (x,)
    # the only unit, or the second of two classes
    return np.mean([np.asarray(model.predict_on_batch(view))[:, -1] for view in views], axis=0, dtype=np.float32)


def augmented(layer: Any, image: np.ndarray, count: int) -> list[np.ndarray]:
    """Return `count` random draws of an augmentation layer on one uint8 (height, width, 3) image."""
    x = image[None].astype(np.float32)
    return [np.clip(np.asarray(layer(x, training=True))[0], 0, 255).astype(np.uint8) for _ in range(count)]


VARIATIONS = ("scale", "contrast", "blur", "exposure and noise", "jpeg and tint")  # what `vary` knows
CORRUPTIONS = {
    "blur": (0.8, 1.5, 2.5, 4.0, 6.0),  # sigma, pixels
    "noise": (6.0, 12.0, 20.0, 32.0, 50.0),  # standard deviation, grey levels
    "darker": (0.5, 1.0, 1.5, 2.0, 2.5),  # values are divided by 2 to this power
    "brighter": (0.2, 0.4, 0.6, 0.8, 1.0),  # values are multiplied by 2 to this power
    "JPEG": (50, 30, 18, 10, 5),  # quality
    "rotation": (10.0, 20.0, 30.0, 45.0, 60.0),  # degrees
    "scale": (0.8, 0.65, 0.5, 0.35, 0.25),  # of the size; what lies around is mirrored
}


def vary(image: np.ndarray, rng: np.random.Generator, kinds: Sequence[str], share: float = 1.0) -> np.ndarray:
    """Return a uint8 (height, width, 3) image as another camera might have taken it.

    Args:
        image: uint8 (height, width, 3).
        rng: draws how much.
        kinds: of `VARIATIONS`: scale (shrunk to 0.4-1 of its size, its surroundings mirrored), contrast (with level),
            blur (sigma 0.4-2 pixels), exposure and noise (2.5 stops darker to 0.7 brighter, clipped; deviation 1-30
            grey levels), jpeg and tint (quality 35-95, colour cast).
        share: how probable each kind is; contrast and colour cast always happen.
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
        image = _jpeg(image, int(rng.uniform(35, 95)))
    return image


def shrink(image: np.ndarray, factor: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return a square image shrunk by `factor` and surrounded by its mirror images; in the middle without `rng`."""
    side = len(image)
    small = cv2.resize(image, (max(2, int(factor * side)),) * 2, interpolation=cv2.INTER_AREA)
    left = side - len(small)
    y, x = rng.integers(0, left + 1, 2) if rng is not None else (left // 2, left // 2)
    return cv2.copyMakeBorder(small, y, left - y, x, left - x, cv2.BORDER_REFLECT)


def mix_textures(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return `other` with the fine structure of `image`, cracks included, burnt into it; both uint8 of one size."""
    x = image.astype(np.float32) + 1
    ratio = (x / cv2.GaussianBlur(x, (0, 0), len(image) / 12)).mean(2, keepdims=True)
    return np.clip(other.astype(np.float32) * ratio, 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    found = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # OpenCV wants BGR
    return np.ascontiguousarray(cv2.imdecode(found, cv2.IMREAD_COLOR)[..., ::-1])


def corrupt(image: np.ndarray, kind: str, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Return a uint8 square image with one of the `CORRUPTIONS`, at a strength of 1 to 5; 0 leaves it as it is.

    After Hendrycks and Dietterich (2019), Benchmarking neural network robustness to common corruptions.
    """
    if not strength:
        return image
    value = CORRUPTIONS[kind][strength - 1]
    if kind == "JPEG":
        return _jpeg(image, value)
    if kind == "scale":
        return shrink(image, value)
    if kind == "rotation":
        side = len(image)
        turn = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), value, 1)
        return cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    x = image.astype(np.float32)
    if kind == "blur":
        x = cv2.GaussianBlur(x, (0, 0), value)
    elif kind == "noise":
        x = x + rng.normal(0, value, x.shape)
    else:
        x = x * 2 ** (value if kind == "brighter" else -value)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return a uint8 (height, width, 3) image with a Gaussian blur of `sigma` pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (sigma, sigma, 0))


def fade(image: np.ndarray, contrast: float) -> np.ndarray:
    """Return a uint8 image with its differences from the mean colour multiplied by `contrast`."""
    mean = image.mean((0, 1), keepdims=True)
    return np.clip(np.rint(mean + contrast * (image - mean)), 0, 255).astype(np.uint8)
