"""Splits into train, val and test that keep copies together, and a check that looks for copies by another means.

Grouping: neighbours in colour and texture statistics, registered by normalised cross-correlation.
Check: every crop position on high-passed thumbnails, decided by phase correlation; it shares no step with the grouping
but the thumbnails.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from scipy import fft
from scipy.ndimage import gaussian_filter

from crackutils import datasets
from crackutils.files import progress, write_atomically
from crackutils.images import COLOUR, GREY

SURE_NCC = 0.9  # from here on a pair is counted as a copy; from COPY_NCC on it is kept together, to be safe
COPY_NCC = 0.8  # of registered high-passed crops; METU has next to no pair between 0.6 and 0.85
LINKS_VERSION = "1"  # raise it when copies are found or grouped in another way
_NEIGHBOURS = 60  # of METU's copies 0.999 are among the 100 nearest in appearance, 0.995 among the 20 nearest
_COARSE = 32  # side of the thumbnails on which candidates are slid over each other


def appearance(ds: datasets.Dataset) -> np.ndarray:
    """Describe each image by colour and texture statistics that hardly change when the crop moves.

    Returns:
        float32 (n, 42), each column standardised: mean, deviation and five quantiles per colour channel, colour cast,
        contrast at four scales, histogram of gradient directions.
    """
    out = []
    for start in range(0, len(ds.index), 2000):
        c = ds.colour[start : start + 2000].reshape(-1, COLOUR * COLOUR, 3).astype(np.float32)
        cast = np.sort(c - c.mean(2, keepdims=True), axis=1)
        c = np.sort(c, axis=1)  # quantiles by picking from the sorted values: many times faster than np.percentile
        columns = [c.mean(1), c.std(1), *(c[:, int(q * c.shape[1])] for q in (0.05, 0.25, 0.5, 0.75, 0.95))]
        columns += [2 * cast[:, int(q * c.shape[1])] for q in (0.1, 0.5, 0.9)]
        level = downscale(ds.grey[start : start + 2000].astype(np.float32), 2)
        dy, dx = np.gradient(downscale(level, 2), axis=(1, 2))
        sector = np.floor(np.arctan2(dy, dx) % np.pi / np.pi * 8).astype(int) % 8
        strength = np.hypot(dy, dx)
        turns = np.stack([(strength * (sector == k)).sum((1, 2)) for k in range(8)], axis=1)
        for _ in range(4):
            coarse = downscale(level, 2)
            detail = (level - coarse.repeat(2, 1).repeat(2, 2)).std((1, 2))
            columns.append(10 * np.log(detail + 0.1)[:, None])
            level = coarse
        columns.append(50 * turns / (turns.sum(1, keepdims=True) + 1e-6))
        out.append(np.concatenate(columns, axis=1))
    x = np.concatenate(out).astype(np.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def downscale(images: np.ndarray, k: int) -> np.ndarray:
    n, h, w = images.shape
    return images.reshape(n, h // k, k, w // k, k).mean((2, 4), dtype=np.float32)


def _high_pass(grey: np.ndarray) -> np.ndarray:
    """Return fine (n, 128, 128) crops without slow changes of light, as float32."""
    x = grey.astype(np.float32)
    return x - gaussian_filter(x, (0, 5, 5))


def coarse_maps(grey: np.ndarray) -> np.ndarray:
    """Return (n, 32, 32) maps of local contrast, equalised so that dark and bright crops compare."""
    out = np.empty((len(grey), _COARSE, _COARSE), np.float32)
    for start in range(0, len(grey), 1000):
        x = downscale(grey[start : start + 1000].astype(np.float32), 2)
        x -= gaussian_filter(x, (0, 3, 3))
        out[start : start + 1000] = downscale(x / (np.sqrt(gaussian_filter(x * x, (0, 6, 6))) + 2), 2)
    return out


class _Slider:
    """Slides the middle half of one image over another: normalised cross-correlation at every whole-pixel shift."""

    def __init__(self, images: np.ndarray) -> None:
        side = images.shape[1]
        self.half, self.room = side // 2, side - side // 2 + 1
        begin = (side - self.half) // 2
        middle = images[:, begin : begin + self.half, begin : begin + self.half]
        middle = middle - middle.mean((1, 2), keepdims=True)
        middle /= np.sqrt((middle**2).sum((1, 2), keepdims=True)) + 1e-6
        self.side, self.begin = side, begin
        self.middle = np.conj(fft.rfft2(middle, (side, side)))
        self.whole = fft.rfft2(images)
        self.scale = 1 / (np.sqrt(self._window_sums(images**2) - self._window_sums(images) ** 2 / self.half**2 + 1e-3))

    def _window_sums(self, x: np.ndarray) -> np.ndarray:
        sums = np.pad(x.cumsum(1, dtype=np.float64).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        k = self.half
        return (sums[:, k:, k:] - sums[:, :-k, k:] - sums[:, k:, :-k] + sums[:, :-k, :-k]).astype(np.float32)

    def best(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the highest correlation of each pair and the shift (dy, dx) in pixels where it lies."""
        r = fft.irfft2(self.middle[a] * self.whole[b], (self.side, self.side))[:, : self.room, : self.room]
        r = (r * self.scale[b]).reshape(len(a), -1)
        k = r.argmax(1)
        return r[np.arange(len(a)), k], k // self.room - self.begin, k % self.room - self.begin


def find_copies(ds: datasets.Dataset) -> pd.DataFrame:
    """Find exact and near copies: the same piece of the same photo, also shifted by up to 57 of 227 pixels.

    Returns:
        A row per pair, cached: a, b (rows of the index, a < b), kind (exact: equal bytes; same: same crop, other
        bytes; shifted), dy, dx (shift as a fraction of the side), ncc (normalised cross-correlation).
    """
    file = ds.cache / f"copies.v{LINKS_VERSION}.csv"
    if not file.exists():
        write_atomically(file, search_copies(ds).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file).astype({"a": int, "b": int, "kind": str, "dy": float, "dx": float, "ncc": float})


def search_copies(ds: datasets.Dataset) -> pd.DataFrame:
    """Return what `copies` keeps, computed now."""
    from sklearn.neighbors import NearestNeighbors

    n = len(ds.index)
    x = appearance(ds)
    near = (
        NearestNeighbors(n_neighbors=min(_NEIGHBOURS + 1, n), algorithm="brute")
        .fit(x)
        .kneighbors(x, return_distance=False)
    )
    a = np.repeat(np.arange(n), near.shape[1])
    pairs = np.unique(np.sort(np.column_stack([a, near.ravel()]), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    slider = _Slider(coarse_maps(ds.grey))
    score = in_batches(lambda batch: slider.best(*batch.T)[0], pairs, 2048, "comparing crops")
    pairs = pairs[np.concatenate(score) > 0.5] if score else pairs
    table = in_batches(lambda batch: _register(ds, batch), pairs, 256, "registering crops")
    found = pd.concat(table) if table else pd.DataFrame(columns=["a", "b", "dy", "dx", "ncc"], dtype=float)
    found = found[found["ncc"] > COPY_NCC]
    by_hash = ds.index.reset_index(names="row").groupby("sha256")["row"].agg(list)
    exact = [(rows[0], b, 0.0, 0.0, 1.0) for rows in by_hash if len(rows) > 1 for b in rows[1:]]
    found = pd.concat(
        [pd.DataFrame(exact, columns=["a", "b", "dy", "dx", "ncc"]), found.astype(float)], ignore_index=True
    )
    found = found.astype({"a": int, "b": int}).drop_duplicates(["a", "b"]).sort_values(["a", "b"], ignore_index=True)
    sha = ds.index["sha256"].to_numpy()
    same = (found["dy"] == 0) & (found["dx"] == 0)
    kind = np.where(sha[found["a"]] == sha[found["b"]], "exact", np.where(same, "same", "shifted"))
    return found.assign(kind=kind).round({"dy": 4, "dx": 4, "ncc": 4})


def in_batches(work: Callable[[np.ndarray], Any], rows: np.ndarray, size: int, what: str) -> list[Any]:
    """Apply `work` to slices of `rows` in two threads (FFTs release Python's lock), keeping their order."""
    batches = [rows[s : s + size] for s in range(0, len(rows), size)]
    with ThreadPoolExecutor(2) as pool:
        return list(progress(pool.map(work, batches), what, len(batches), unit="batch"))


def _register(ds: datasets.Dataset, pairs: np.ndarray) -> pd.DataFrame:
    rows, local = np.unique(pairs, return_inverse=True)
    local = local.reshape(-1, 2)
    ncc, dy, dx = _Slider(_high_pass(ds.grey[rows])).best(local[:, 0], local[:, 1])
    return pd.DataFrame({"a": pairs[:, 0], "b": pairs[:, 1], "dy": dy / GREY, "dx": dx / GREY, "ncc": ncc})
