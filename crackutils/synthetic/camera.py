"""The camera: focus, motion, noise, and the denoising and sharpening of phones."""

import math

import cv2
import numpy as np

from crackutils.synthetic.drawing import stroke


def take_photo(rng: np.random.Generator, rgb: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Return the image that a camera takes of a float32 (h, w, 3) view, uint8, and its part of `Photo.facts`."""
    h, w = rgb.shape[:2]
    blur = float(rng.uniform(0.5, 1.1) if rng.random() < 0.85 else rng.uniform(1.1, 3.0))
    rgb = cv2.GaussianBlur(rgb, (0, 0), blur)
    motion = 0.0
    if rng.random() < 0.07:
        motion = float(rng.uniform(2, 7))
        size = int(motion) * 2 + 3
        kernel = np.zeros((size, size), np.uint8)
        angle = rng.uniform(0, math.pi)
        dx, dy = motion / 2 * math.cos(angle), motion / 2 * math.sin(angle)
        stroke(kernel, np.array([[-dx, -dy], [dx, dy]]) + size // 2, 255)
        rgb = cv2.filter2D(rgb, -1, kernel.astype(np.float32) / max(1, int(kernel.sum())))
    noise = float(np.clip(math.exp(rng.normal(0.9, 0.5)), 0.5, 9))
    grain = rng.standard_normal((h, w), np.float32)
    rgb += (cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 0.9)) * 2 * noise)[..., None]
    tint = cv2.resize(rng.standard_normal((h // 4, w // 4, 3), np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    rgb += tint * noise * 0.35
    image = np.clip(rgb, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:  # what phones do against noise: fine detail runs together
        image = cv2.medianBlur(image, 3 if rng.random() < 0.5 else 5)
    sharp = float(rng.uniform(0, 1.0))
    image = cv2.addWeighted(image, 1 + sharp, cv2.GaussianBlur(image, (0, 0), 1.6), -sharp, 0)
    facts = {"blur": round(blur, 2), "motion": round(motion, 1), "noise": round(noise, 2)}
    return image, facts | {"sharpened": round(sharp, 2)}
