"""Augmented images, and how much of a crack an augmentation leaves visible (notebook 02)."""

from typing import Any

import numpy as np


def draw_augmented(layer: Any, image: np.ndarray, count: int) -> list[np.ndarray]:
    """Return `count` random draws of an augmentation layer on one uint8 (height, width, 3) image."""
    x = image[None].astype(np.float32)
    return [np.clip(np.asarray(layer(x, training=True))[0], 0, 255).astype(np.uint8) for _ in range(count)]


def fade(image: np.ndarray, contrast: float) -> np.ndarray:
    """Return a uint8 image with its differences from the mean colour multiplied by `contrast`."""
    mean = image.mean((0, 1), keepdims=True)
    return np.clip(np.rint(mean + contrast * (image - mean)), 0, 255).astype(np.uint8)


def crack_darkness(image: np.ndarray) -> float:
    """Return a crack's darkness: how far the darkest 2 % of an image lie below its median, in grey levels (0-255)."""
    grey = np.asarray(image, np.float64).mean(-1)
    return float(np.median(grey) - np.quantile(grey, 0.02))
