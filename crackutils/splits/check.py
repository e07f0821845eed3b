"""Check a split for copies across its parts, by a search independent of the grouping but for the thumbnails."""

import hashlib
import io

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance
from scipy import fft

from crackutils.datasets import Dataset
from crackutils.images import GREY, thumbnails
from crackutils.splits.registration import cached_table, coarse_maps, find_copies, map_batches

PHASE_PEAK = 0.25  # unrelated METU crops stay below 0.19 (99 %), crops 57 pixels apart of one photo lie above 0.22
PLANTED = ("shifted", "re-encoded", "brighter", "all three")  # kinds of planted copies
_WINDOW = 167 / 227  # of the side, in planted copies


def leaked_test_images(split: np.ndarray, pairs: pd.DataFrame) -> int:
    """Return the number of test images in a pair (a, b: rows of the index) with a training image; split is str (n,)."""
    a, b = split[pairs["a"]], split[pairs["b"]]
    return len({*pairs["a"][(a == "test") & (b == "train")], *pairs["b"][(b == "test") & (a == "train")]})


def find_leaks(ds: Dataset, manifest: pd.DataFrame) -> pd.DataFrame:
    """Find copies of test images in train and val, and of val images in train, independently of the grouping.

    All crop positions are compared, independent of colours and neighbours; phase correlation (Kuglin and Hines 1975)
    decides on the five best candidates of each image. It compares phases; the grouping compares values. A row per pair,
    cached per split: a (val or test row), b (row in another part), peak (of the phase correlation, 0 to 1).
    """
    split = manifest["split"].to_numpy()

    def search(ds: Dataset) -> pd.DataFrame:
        found = []
        for part, others in (("test", ("train", "val")), ("val", ("train",))):
            a, b = np.flatnonzero(split == part), np.flatnonzero(np.isin(split, others))
            pairs = _search_pairs(ds.grey[a], ds.grey[b], f"looking for copies of {part}")
            found.append(pairs.assign(a=a[pairs["a"]], b=b[pairs["b"]]))
        return pd.concat(found)

    return cached_table(ds, f"leaks-{hashlib.sha256(' '.join(split).encode()).hexdigest()[:12]}", search)


def planted_recall(ds: Dataset, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Measure the recall of the check with planted copies.

    Ten times `count` images (or all) are cut to a `crop_window`, and `count` of these get a copy, shifted by up to 60
    of 227 pixels. A row per kind in `PLANTED`: kind, planted, found, recall, and false_alarms, reported pairs of
    images that are not copies according to the grouping.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(ds.index))[: 10 * count])
    count, known = min(count, len(rows)), {tuple(pair) for pair in find_copies(ds)[["a", "b"]].to_numpy()}
    base = np.stack([thumbnails(crop_window(ds, row))[0] for row in rows])
    picked = rng.choice(len(rows), count, replace=False)
    kind = np.resize(PLANTED, count)
    copies = (crop_window(ds, rows[i], what, rng, _WINDOW, 60) for i, what in zip(picked, kind, strict=True))
    found = _search_pairs(np.stack([thumbnails(copy)[0] for copy in copies]), base, "looking for planted copies")
    table = pd.DataFrame({"kind": kind, "hit": False, "false_alarms": 0})
    for a, b in found[["a", "b"]].to_numpy():
        if b == picked[a]:
            table.loc[a, "hit"] = True
        elif tuple(sorted((rows[picked[a]], rows[b]))) not in known:
            table.loc[a, "false_alarms"] += 1
    by_kind = table.groupby("kind", sort=False)
    counts = by_kind["hit"].agg(planted="size", found="sum", recall="mean")
    return counts.assign(false_alarms=by_kind["false_alarms"].sum()).reset_index()


def crop_window(
    ds: Dataset, row: int, kind: str = "", rng: np.random.Generator | None = None, unit: float = 1, farthest: float = 0
) -> np.ndarray:
    """Return the upper left window of 167/227 of an image's side, or a changed copy of it: uint8 (height, width, 3).

    Kinds of copies: shifted (5 to `farthest` pixels, where `unit` times the side is 227 pixels), re-encoded (JPEG,
    quality 60-95), brighter (by 5-30 %), or all three; `rng` draws distance, direction, quality and gain.
    """
    image = Image.fromarray(ds.read(row))
    w, h = image.size
    left = top = quality = gain = 0
    if kind:
        shift, angle = rng.uniform(5, farthest) if kind in ("shifted", "all three") else 0, rng.uniform(0, np.pi / 2)
        left, top = round(shift * np.cos(angle) * unit / 227 * w), round(shift * np.sin(angle) * unit / 227 * h)
        quality = int(rng.integers(60, 96)) if kind in ("re-encoded", "all three") else 0
        gain = rng.uniform(1.05, 1.3) if kind in ("brighter", "all three") else 0
    image = image.crop((left, top, left + round(_WINDOW * w), top + round(_WINDOW * h)))
    if gain:
        image = ImageEnhance.Brightness(image).enhance(gain)
    if quality:
        image.save(buffer := io.BytesIO(), "JPEG", quality=quality)
        image = Image.open(buffer)
    return np.asarray(image)


def _search_pairs(asked: np.ndarray, among: np.ndarray, what: str) -> pd.DataFrame:
    """Return pairs (a, b, peak) of rows of two uint8 (n, 128, 128) arrays that show the same piece of a photo."""
    if not len(asked) or not len(among):
        return pd.DataFrame({"a": np.empty(0, int), "b": np.empty(0, int), "peak": np.empty(0)})
    small_a, small_b = coarse_maps(asked), coarse_maps(among)
    half, middle = small_a.shape[1] // 2, small_a.shape[1] // 4
    window = slice(middle, middle + half)
    queries = _standardize(small_a[:, window, window].reshape(len(asked), -1))
    # 64 principal directions hold three quarters of the windows' energy and quarter the work
    basis = np.linalg.eigh(queries.T @ queries)[1][:, ::-1][:, :64]
    queries = np.ascontiguousarray((queries @ basis).T)

    def score(images: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(images, (half, half), axis=(1, 2))
        similarity = _standardize(windows.reshape(-1, half * half)) @ basis @ queries
        return similarity.reshape(len(images), -1, len(asked)).max(1)

    best = np.concatenate(map_batches(score, small_b, 8, what)).T  # batches of 8 stay in the processor's cache
    k = min(5, len(among))
    pairs = np.column_stack([np.repeat(np.arange(len(asked)), k), np.argpartition(-best, k - 1)[:, :k].ravel()])
    peak = map_batches(lambda batch: _phase_peaks(asked[batch[:, 0]], among[batch[:, 1]]), pairs, 256, what)
    table = pd.DataFrame({"a": pairs[:, 0], "b": pairs[:, 1], "peak": np.concatenate(peak).round(4)})
    return table[table["peak"] > PHASE_PEAK].sort_values(["a", "b"], ignore_index=True)


def _standardize(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    return x / (np.sqrt((x * x).sum(1, keepdims=True)) + 1e-6)


def _phase_peaks(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the height of each pair's phase-correlation peak: about 1 for equal crops, near 0 for unrelated ones."""
    # by hand: scikit-image's phase_cross_correlation takes one pair at a time and returns no height
    window = np.outer(np.hanning(GREY), np.hanning(GREY)).astype(np.float32)
    cross = fft.rfft2(a * window) * np.conj(fft.rfft2(b * window))
    cross /= np.abs(cross) + 1e-3
    ky, kx = np.meshgrid(np.fft.fftfreq(GREY), np.fft.rfftfreq(GREY), indexing="ij")
    low_pass = np.exp(-((ky**2 + kx**2) / (2 * 0.15**2)))  # JPEG changes the finest detail
    cross *= low_pass  # in place, to stay complex64
    return fft.irfft2(cross, (GREY, GREY)).max((1, 2)) / fft.irfft2(low_pass, (GREY, GREY)).max()
