"""Width of a crack from the grey values across it."""

import numpy as np

INSIDE = 0.2  # what a crack's inside reflects of the light that the surface does


def profile_width(values: np.ndarray) -> float:
    """Return the width in pixels of a crack in the middle of a profile, float (n,), grey values a pixel apart."""
    return float(measure_widths(np.asarray(values, float)[None])[0][0])


def measure_widths(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return width, float32 (m,) pixels (NaN where there is none), and whether it is only an upper bound, bool (m,).

    Takes profiles, float (m, n): grey values a pixel apart across a crack in their middle.
    """
    light = (np.asarray(profiles, np.float32) / 255) ** 2.2
    side = max(2, light.shape[1] // 4)
    surface = np.median(np.concatenate([light[:, :side], light[:, -side:]], 1), 1, keepdims=True)
    depth = 1 - light / np.maximum(surface, 1e-3)
    width = depth[:, side:-side].sum(1) / np.maximum(1 - INSIDE, depth.max(1))
    return np.where(width > 0.05, width, np.nan).astype(np.float32), width < 0.7
