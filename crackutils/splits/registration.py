"""Find copies by registration: neighbours in appearance, compared by normalised cross-correlation."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from scipy import fft
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors

from crackutils.datasets import Dataset
from crackutils.files import progress, write_atomically
from crackutils.images import COLOUR, GREY

SURE_NCC = 0.9  # from here on a pair counts as a copy; from COPY_NCC on it is kept together
COPY_NCC = 0.8  # of registered high-passed crops; METU has next to no pair between 0.6 and 0.85
LINKS_VERSION = "1"  # raise it when copies are found or grouped in another way
_NEIGHBOURS = 60  # of METU's copies 0.999 are among the 100 nearest in appearance, 0.995 among the 20 nearest


def find_copies(ds: Dataset) -> pd.DataFrame:
    """Find exact and near copies: the same piece of the same photo, also shifted by up to 57 of 227 pixels.

    A row per pair, cached: a, b (rows of the index, a < b), kind (exact: equal bytes; same: same crop, other bytes;
    shifted), dy, dx (shift as a fraction of the side), ncc (normalised cross-correlation).
    """
    return cached_table(ds, "copies", search_copies)


def search_copies(ds: Dataset) -> pd.DataFrame:
    """Return the table of `find_copies`, computed without its cache."""
    pairs = candidate_pairs(appearance(ds), _NEIGHBOURS)
    coarse = _Slider(coarse_maps(ds.grey))
    score = map_batches(lambda batch: coarse.best_shifts(*batch.T)[0], pairs, 2048, "comparing crops")
    pairs = pairs[np.concatenate(score) > 0.5]
    registered = pd.concat(map_batches(lambda batch: _register(ds, batch), pairs, 256, "registering crops"))
    sha256 = ds.index["sha256"].to_numpy()
    exact = pd.DataFrame(equal_pairs(sha256), columns=["a", "b"]).assign(dy=0.0, dx=0.0, ncc=1.0)
    found = pd.concat([exact, registered[registered["ncc"] > COPY_NCC].astype({"ncc": float})])
    found = found.drop_duplicates(["a", "b"]).sort_values(["a", "b"], ignore_index=True)
    unmoved = (found["dy"] == 0) & (found["dx"] == 0)
    kind = np.select([sha256[found["a"]] == sha256[found["b"]], unmoved], ["exact", "same"], "shifted")
    return found.assign(kind=kind).round({"dy": 4, "dx": 4, "ncc": 4})


def cached_table(ds: Dataset, name: str, search: Callable[[Dataset], pd.DataFrame]) -> pd.DataFrame:
    """Return a table of pairs a, b from the cache of these images; `search` computes it on the first call."""
    file = ds.cache / f"{name}.v{LINKS_VERSION}.csv"
    if not file.exists():
        write_atomically(file, search(ds).to_csv(index=False, lineterminator="\n"))
    table = pd.read_csv(file)  # it guesses no types if it is empty
    return table.astype({name: {"a": int, "b": int, "kind": str}.get(name, float) for name in table})


def equal_pairs(keys: np.ndarray) -> np.ndarray:
    """Return pairs of rows with equal keys, int (m, 2): the first row with a key, and each later one."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    pairs = np.column_stack([first[which], np.arange(len(keys))])
    return pairs[pairs[:, 0] < pairs[:, 1]]


def candidate_pairs(x: np.ndarray, neighbours: int, more: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Return the pairs (a < b) of each row of `x` and its nearest, and those in `more`, each once: int (m, 2)."""
    k = min(neighbours + 1, len(x))  # the nearest of a row is the row itself
    near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(x, return_distance=False)
    pairs = [np.column_stack([np.repeat(np.arange(len(x)), k), near.ravel()]), *more]
    pairs = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def map_batches(work: Callable[[np.ndarray], Any], rows: np.ndarray, size: int, what: str) -> list[Any]:
    """Apply `work` to slices of `rows`, one at least, in two threads: FFTs release Python's lock. The order stays."""
    batches = [rows[start : start + size] for start in range(0, max(len(rows), 1), size)]
    with ThreadPoolExecutor(2) as pool:
        return list(progress(pool.map(work, batches), what, len(batches), unit="batch"))


def appearance(ds: Dataset) -> np.ndarray:
    """Return statistics that hardly depend on the position of the crop, float32 (n, 42), each column standardised.

    Mean, deviation and five quantiles per colour channel, colour cast, contrast at four scales, gradient directions.
    """
    out = []
    for start in range(0, len(ds.index), 2000):
        c = ds.colour[start : start + 2000].reshape(-1, COLOUR * COLOUR, 3).astype(np.float32)
        cast = np.sort(c - c.mean(2, keepdims=True), axis=1)
        c = np.sort(c, axis=1)  # quantiles from sorted values are many times faster than np.percentile
        columns = [c.mean(1), c.std(1), *(c[:, int(q * c.shape[1])] for q in (0.05, 0.25, 0.5, 0.75, 0.95))]
        columns += [2 * cast[:, int(q * c.shape[1])] for q in (0.1, 0.5, 0.9)]
        level = downscale(ds.grey[start : start + 2000].astype(np.float32), 2)
        dy, dx = np.gradient(downscale(level, 2), axis=(1, 2))
        sector = np.floor(np.arctan2(dy, dx) % np.pi / np.pi * 8).astype(int) % 8
        strength = np.hypot(dy, dx)
        directions = np.stack([(strength * (sector == k)).sum((1, 2)) for k in range(8)], axis=1)
        for _ in range(4):
            coarse = downscale(level, 2)
            detail = (level - coarse.repeat(2, 1).repeat(2, 2)).std((1, 2))
            columns.append(10 * np.log(detail + 0.1)[:, None])
            level = coarse
        columns.append(50 * directions / (directions.sum(1, keepdims=True) + 1e-6))
        out.append(np.concatenate(columns, axis=1))
    x = np.concatenate(out).astype(np.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def downscale(images: np.ndarray, k: int) -> np.ndarray:
    """Return float32 (n, height / k, width / k): the means of blocks of k x k pixels."""
    n, h, w = images.shape
    return images.reshape(n, h // k, k, w // k, k).mean((2, 4), dtype=np.float32)


def coarse_maps(grey: np.ndarray) -> np.ndarray:
    """Return float32 (n, 32, 32) maps of local contrast, equalised so that dark and bright crops are comparable."""
    out = np.empty((len(grey), GREY // 4, GREY // 4), np.float32)
    for start in range(0, len(grey), 1000):
        x = downscale(grey[start : start + 1000].astype(np.float32), 2)
        x -= gaussian_filter(x, (0, 3, 3))
        out[start : start + 1000] = downscale(x / (np.sqrt(gaussian_filter(x * x, (0, 6, 6))) + 2), 2)
    return out


def even_maps(grey: np.ndarray) -> np.ndarray:
    """Return float32 (n, 64, 64) high-passed maps with equalised contrast, -2.5 to 2.5."""
    out = np.empty((len(grey), GREY // 2, GREY // 2), np.float32)
    for start in range(0, len(grey), 1000):
        x = grey[start : start + 1000].astype(np.float32)
        x = downscale(x - gaussian_filter(x, (0, 3, 3)), 2)
        out[start : start + 1000] = np.clip(x / (np.sqrt(gaussian_filter(x * x, (0, 3, 3))) + 1), -2.5, 2.5)
    return out


class _Slider:
    """Slides the middle half of one image over another: normalised cross-correlation at every whole-pixel shift."""

    # by hand: scikit-image's match_template takes one pair at a time and transforms both images anew
    def __init__(self, images: np.ndarray) -> None:
        self.side = images.shape[1]
        self.half, self.begin = self.side // 2, (self.side - self.side // 2) // 2
        window = slice(self.begin, self.begin + self.half)
        middle = images[:, window, window] - images[:, window, window].mean((1, 2), keepdims=True)
        middle /= np.sqrt((middle**2).sum((1, 2), keepdims=True)) + 1e-6
        self.middle = np.conj(fft.rfft2(middle, (self.side, self.side)))
        self.whole = fft.rfft2(images)
        self.scale = 1 / (np.sqrt(self._window_sums(images**2) - self._window_sums(images) ** 2 / self.half**2 + 1e-3))

    def _window_sums(self, x: np.ndarray) -> np.ndarray:
        sums = np.pad(x.cumsum(1, dtype=np.float64).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        k = self.half
        return (sums[:, k:, k:] - sums[:, :-k, k:] - sums[:, k:, :-k] + sums[:, :-k, :-k]).astype(np.float32)

    def best_shifts(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the highest correlation of each pair of images and the shift (dy, dx) in pixels where it lies."""
        shifts = self.side - self.half + 1  # along each axis
        r = fft.irfft2(self.middle[a] * self.whole[b], (self.side, self.side))[:, :shifts, :shifts]
        r = (r * self.scale[b]).reshape(len(a), shifts**2)
        k = r.argmax(1)
        return r[np.arange(len(a)), k], k // shifts - self.begin, k % shifts - self.begin


def _register(ds: Dataset, pairs: np.ndarray) -> pd.DataFrame:
    rows, local = np.unique(pairs, return_inverse=True)
    crops = ds.grey[rows].astype(np.float32)
    crops -= gaussian_filter(crops, (0, 5, 5))  # slow changes of light
    ncc, dy, dx = _Slider(crops).best_shifts(*local.reshape(-1, 2).T)
    return pd.DataFrame({"a": pairs[:, 0], "b": pairs[:, 1], "dy": dy / GREY, "dx": dx / GREY, "ncc": ncc})
