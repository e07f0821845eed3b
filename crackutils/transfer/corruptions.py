"""Changes of an image: corruptions of five strengths, and the texture of another image."""

from __future__ import annotations

import cv2
import numpy as np

from crackutils.detector.variation import jpeg, shrink

CORRUPTIONS = {
    "blur": (0.8, 1.5, 2.5, 4.0, 6.0),  # sigma, pixels
    "noise": (6.0, 12.0, 20.0, 32.0, 50.0),  # standard deviation, grey levels
    "darker": (0.5, 1.0, 1.5, 2.0, 2.5),  # values are divided by 2 to this power
    "brighter": (0.2, 0.4, 0.6, 0.8, 1.0),  # values are multiplied by 2 to this power
    "JPEG": (50, 30, 18, 10, 5),  # quality
    "rotation": (10.0, 20.0, 30.0, 45.0, 60.0),  # degrees
    "scale": (0.8, 0.65, 0.5, 0.35, 0.25),  # of the size; the rest is mirrored
}


def mix_textures(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return `other` with the fine structure of `image`, cracks included; both uint8 (side, side, 3) of one size."""
    x = image.astype(np.float32) + 1
    ratio = (x / cv2.GaussianBlur(x, (0, 0), len(image) / 12)).mean(2, keepdims=True)
    return np.clip(other.astype(np.float32) * ratio, 0, 255).astype(np.uint8)


def corrupt(image: np.ndarray, kind: str, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Return an image, uint8 (side, side, 3), with one of the `CORRUPTIONS` at a strength of 1 to 5; 0 changes nothing.

    After Hendrycks and Dietterich (2019), Benchmarking neural network robustness to common corruptions. `rng` draws the
    noise.
    """
    if not strength:
        return image
    value = CORRUPTIONS[kind][strength - 1]
    if kind == "JPEG":
        return jpeg(image, value)
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
