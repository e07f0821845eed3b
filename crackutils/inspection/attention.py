"""Grad-CAM heat maps of models, and the share of them that lies on cracks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crackutils import training
from crackutils.config import keras, tf
from crackutils.images import resize
from crackutils.synthetic.patches import Patch


@dataclass(frozen=True)
class Look:
    """Probabilities and Grad-CAM heat maps of a model for n images."""

    p: np.ndarray  # (n,), the probability of a crack
    heat: np.ndarray  # float32 (n, h, w), as `grad_cam` returns it


def attend(folder: Path, images: Sequence[np.ndarray]) -> Look:
    """Return the heat maps of a run's model for images, uint8 (h, w, 3)."""
    model, recipe = training.load(folder)
    return Look(*grad_cam(model, np.stack([resize(image, recipe.size) for image in images]).astype(np.float32)))


def grad_cam(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of a crack, float32 (n,), and Grad-CAM heat maps of a model's last feature map.

    For images (n, size, size, 3), RGB 0-255, the heat maps (Selvaraju et al. 2017) are float32 (n, h, w) of the feature
    map's size, with maximum 1, or all 0 if nothing contributes to a crack. The gradient is that of the logit, because
    that of the probability vanishes for confident models. By hand, because the well-kept libraries for it are for
    PyTorch.
    """
    # the input of the last layer that takes a map; a backbone's own output belongs to another graph
    takes = [x.input for x in model.layers[1:] if not isinstance(x.input, list)]
    feature_map = next(x for x in reversed(takes) if len(x.shape) == 4 and x.shape[-1] > 1)
    last = model.layers[-1]
    kernel, bias = last.kernel, last.bias
    if kernel.shape[-1] == 2:  # of two classes
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    first, rest, p, heat = keras.Model(model.input, feature_map), keras.Model(feature_map, last.input), [], []
    for start in range(0, len(images), 16):
        maps = tf.convert_to_tensor(first.predict_on_batch(images[start : start + 16]))
        with tf.GradientTape() as tape:  # only from the maps on, because earlier layers would take gigabytes
            tape.watch(maps)
            logits = tf.matmul(rest(maps, training=False), kernel) + bias
        weights = tf.reduce_mean(tape.gradient(logits, maps), (1, 2), keepdims=True)
        cam = np.maximum(np.asarray(tf.reduce_sum(weights * maps, -1)), 0)
        heat.append(cam / np.maximum(cam.max((1, 2), keepdims=True), 1e-12))
        p.append(np.asarray(tf.sigmoid(logits))[:, 0])
    return np.concatenate(p), np.concatenate(heat)


def attention_on_cracks(look: Look, patches: Sequence[Patch]) -> dict[str, float]:
    """Return the share of heat maps on cracks; `look` may hold further images after the patches, which do not count.

    cracked: patches with a crack; found: share of them with p >= 0.5; mass: mean share of a map on the crack's pixels,
    0 if the map is 0 everywhere; chance: share of these pixels in the patch; ratio: mass / chance; blank: number of
    maps that are 0 everywhere.
    """
    cracked = [k for k, patch in enumerate(patches) if patch.label]
    pixels = [patches[k].mask > 127 for k in cracked]
    mass = [mass_on_mask(look.heat[k], mask) for k, mask in zip(cracked, pixels, strict=True)]
    on, by_chance = float(np.mean([share or 0.0 for share in mass])), float(np.mean([mask.mean() for mask in pixels]))
    summary = {"cracked": len(cracked), "found": float((look.p[cracked] >= 0.5).mean()), "mass": on}
    return summary | {"chance": by_chance, "ratio": on / by_chance, "blank": mass.count(None)}


def mass_on_mask(heat: np.ndarray, mask: np.ndarray) -> float | None:
    """Return the share of a heat map's mass, (h, w) >= 0, that lies on a mask, bool (height, width).

    None for a map that is 0 everywhere. The value by chance is the mask's share of the image.
    """
    large = cv2.resize(np.asarray(heat, np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return float(large[mask].sum() / large.sum()) if large.sum() > 0 else None
