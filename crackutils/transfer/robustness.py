"""Probabilities of trained models for any images, and their errors on corrupted ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils.datasets import Dataset
from crackutils.images import resize
from crackutils.metrics import score_predictions
from crackutils.scoring import load_scorer
from crackutils.synthetic.scene import PATCH
from crackutils.transfer.cache import cached_outputs
from crackutils.transfer.corruptions import CORRUPTIONS, corrupt


def measure_robustness(
    ds: Dataset, rows: np.ndarray, runs: dict[str, Path], engine: str, seed: int, cache: Path
) -> pd.DataFrame:
    """Return the errors of trained models, run folders by name, on corrupted images; `seed` draws the noise.

    Returns:
        A row per run, corruption and strength (0 to 5): run, corruption, strength, n, errors, error_rate (threshold
        0.5), auroc.
    """
    labels = ds.index["label"].to_numpy()[rows]
    jobs = [("none", 0)] + [(kind, strength) for kind in CORRUPTIONS for strength in range(1, 6)]
    items = [(kind, strength, int(row)) for kind, strength in jobs for row in rows]

    def corrupted(item: tuple[str, int, int]) -> np.ndarray:
        kind, strength, row = item
        image = ds.read(row, PATCH)  # strengths are in pixels of a patch
        return corrupt(image, kind, strength, np.random.default_rng((seed, row, strength)))

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
    items = [int(row) for row in rows]
    return _probabilities(run, engine, f"{run.name}, scoring", ds.sha256, items, ds.read, cache)


def _probabilities(
    run: Path, engine: str, name: str, data: Any, items: list[Any], read: Callable[[Any], np.ndarray], cache: Path
) -> np.ndarray:
    running, recipe, key = load_scorer(run, engine)
    outputs = cached_outputs(cache, name, (key, data), running, items, lambda i: resize(read(i), recipe.size))
    return outputs[:, -1].astype(np.float32)  # the only unit, or the second of two classes
