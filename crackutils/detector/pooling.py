"""Metrics, intervals and tests, all from labels and probabilities."""

from __future__ import annotations

import numpy as np


def top_count(share: float, count: int) -> int:
    """Return how many of the `count` cells of an image decide."""
    return max(2, round(share * count))


def top_mean(maps: np.ndarray, share: float) -> np.ndarray:
    """Return what a network of cells makes of its maps (n, h, w): the mean of the most crack-like cells, (n,)."""
    flat = np.sort(maps.reshape(len(maps), -1), 1)
    return flat[:, -top_count(share, flat.shape[1]) :].mean(1)
