"""Images as another camera, in other light, might have taken them."""

from collections.abc import Sequence

import cv2
import numpy as np

VARIATIONS = ("scale", "contrast", "blur", "exposure and noise", "jpeg and tint")  # kinds of `vary`


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
