"""How the cells of a map become one number per image; NumPy only, so that TensorFlow need not start."""

import numpy as np

from crackutils.models import top_count

CELL = 16  # side of a cell, pixels: the network's map has one value for each square of 16x16


def top_mean(maps: np.ndarray, share: float) -> np.ndarray:
    """Return the mean of the most crack-like cells of maps (n, h, w), as `layers.TopMean` does: (n,)."""
    flat = np.sort(maps.reshape(len(maps), -1), 1)
    return flat[:, -top_count(share, flat.shape[1]) :].mean(1)
