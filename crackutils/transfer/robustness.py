"""Corruptions of images, and errors of trained models on corrupted images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from crackutils.datasets import Dataset
from crackutils.detector.data import jpeg, shrink
from crackutils.images import resize
from crackutils.inference.features import cached_outputs
from crackutils.metrics import score_predictions
from crackutils.scoring import load_scorer
from crackutils.synthetic.scene import PATCH

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

    After Hendrycks and Dietterich (2019), Benchmarking neural network robustness to common corruptions.
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


def measure_robustness(
    ds: Dataset, rows: np.ndarray, runs: dict[str, Path], engine: str, seed: int, cache: Path
) -> pd.DataFrame:
    """Return the errors of trained models, run folders by name, on corrupted images; `seed` draws the noise.

    A row holds run, corruption, strength (0 to 5), n, errors, error_rate (threshold 0.5) and auroc.
    """
    labels = ds.index["label"].to_numpy()[rows]
    jobs = [("none", 0)] + [(kind, strength) for kind in CORRUPTIONS for strength in range(1, 6)]
    items = [(kind, strength, int(row)) for kind, strength in jobs for row in rows]

    def corrupted(item: tuple[str, int, int]) -> np.ndarray:
        kind, strength, row = item  # strengths refer to pixels of a patch
        return corrupt(ds.read(row, PATCH), kind, strength, np.random.default_rng((seed, row, strength)))

    table = []
    for name, run in runs.items():
        p = _probabilities(run, engine, f"{name}, corrupted", (ds.sha256, seed), items, corrupted, cache)
        for (kind, strength), p_crack in zip(jobs, p.reshape(len(jobs), -1), strict=True):
            found = score_predictions(labels, p_crack)
            row = {"run": name, "corruption": kind, "strength": strength, "n": len(rows), "errors": found["errors"]}
            table.append(row | {"error_rate": round(row["errors"] / len(rows), 6), "auroc": found["auroc"]})
    return pd.DataFrame(table)


def score_images(ds: Dataset, rows: np.ndarray, run: Path, engine: str, cache: Path) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), that the model of a run folder gives to images."""
    return _probabilities(run, engine, f"{run.name}, scoring", ds.sha256, rows.tolist(), ds.read, cache)


def _probabilities(
    run: Path, engine: str, name: str, data: Any, items: list[Any], read: Callable[[Any], np.ndarray], cache: Path
) -> np.ndarray:
    running, recipe, key = load_scorer(run, engine)
    outputs = cached_outputs(cache, name, (key, data), running, items, lambda i: resize(read(i), recipe.size))
    return outputs[:, -1].astype(np.float32)  # the only unit, or the second of two classes
