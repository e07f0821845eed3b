"""What a model is worth on other people's concrete, what helps it there, and what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import datasets
from crackutils.files import progress
from crackutils.images import resize
from crackutils.inference.engines import run_stream
from crackutils.metrics import ranking_metrics
from crackutils.synthetic.scene import PATCH
from crackutils.transfer.corruptions import CORRUPTIONS, corrupt
from crackutils.transfer.methods import cached_array, stack_outputs


def measure_robustness(
    ds: datasets.Dataset, rows: np.ndarray, runs: dict[str, Path], engine: str, seed: int, keep: Path
) -> pd.DataFrame:
    """Return the errors of trained models on corrupted images.

    Args:
        ds: the images.
        rows: which of them.
        runs: run folders by name.
        engine: one of `config.ENGINES`.
        seed: of noise.
        keep: folder where what is computed for a run is found after a kill.

    Returns:
        A row per run, corruption and strength (0 to 5): run, corruption, strength, n, errors, error_rate (threshold
        0.5), auroc.
    """
    labels = ds.index["label"].to_numpy()[rows]
    jobs = [("none", 0)] + [(kind, s) for kind in CORRUPTIONS for s in range(1, 6)]
    items = [(kind, strength, int(row)) for kind, strength in jobs for row in rows]

    def corrupted(item: tuple[str, int, int]) -> np.ndarray:
        kind, strength, row = item
        image = ds.read(row, PATCH)  # strengths are in pixels of a patch
        return corrupt(image, kind, strength, np.random.default_rng((seed, row, strength)))

    table = []
    for name, folder in runs.items():
        p = _chances(folder, engine, f"{name}, corrupted", items, corrupted, (ds.sha256, seed), keep)
        for (kind, strength), chances in zip(jobs, p.reshape(len(jobs), len(rows)), strict=True):
            wrong = int(((chances >= 0.5) != labels).sum())
            row = {"run": name, "corruption": kind, "strength": strength, "n": len(rows), "errors": wrong}
            auroc = ranking_metrics(labels, chances)["auroc"]
            table.append(row | {"error_rate": round(wrong / len(rows), 6), "auroc": auroc})
    return pd.DataFrame(table)


def score_images(ds: datasets.Dataset, rows: np.ndarray, folder: Path, engine: str, keep: Path) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), that the model of a run gives to images.

    `keep` is the folder where they are found after a kill.
    """
    items = [int(row) for row in rows]
    return _chances(folder, engine, f"{folder.name}, scoring", items, ds.read, ds.sha256, keep)


def _chances(
    folder: Path, engine: str, what: str, items: list[Any], read: Callable[[Any], np.ndarray], data: Any, keep: Path
) -> np.ndarray:
    from crackutils.scoring import load_scorer

    running, recipe, key = load_scorer(folder, engine)

    def compute() -> np.ndarray:
        found = run_stream(running, items, lambda item: resize(read(item), recipe.size))
        return stack_outputs(progress(found, what, len(items)))[:, -1].astype(np.float32)

    return cached_array(keep, what, (key, data, items), compute)
