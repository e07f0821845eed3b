"""Splits into train, val and test that keep copies together, and a check that looks for copies by another means.

Grouping: neighbours in colour and texture statistics, registered by normalised cross-correlation.
Check: every crop position on high-passed thumbnails, decided by phase correlation; it shares no step with the grouping
but the thumbnails.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance
from scipy import fft
from threadpoolctl import threadpool_limits

from crackutils import datasets
from crackutils.files import write_atomically
from crackutils.images import GREY, thumbnails
from crackutils.splits.registration import _COARSE, LINKS_VERSION, coarse_maps, find_copies, in_batches

PHASE_PEAK = 0.25  # unrelated METU crops stay below 0.19 (99 %), crops 57 pixels apart of one photo lie above 0.22
PLANTED = ("shifted", "re-encoded", "brighter", "all three")  # kinds of copies that are planted
_KEPT = 167 / 227  # of the side, in windows that are planted


def find_leaks(ds: datasets.Dataset, manifest: pd.DataFrame) -> pd.DataFrame:
    """Look for copies of test images in train and val, and of val images in train, by another means than `group`.

    Every crop position is compared without looking at colour or neighbours first, and the five best candidates per
    image are decided by phase correlation (Kuglin and Hines 1975), which compares phases where the grouping compares
    values.

    Returns:
        A row per pair found, cached per split: a (val or test row), b (row in another part), peak (of the phase
        correlation, 0 to 1).
    """
    key = hashlib.sha256(" ".join(manifest["split"]).encode()).hexdigest()
    file = ds.cache / f"leaks-{key[:12]}.v{LINKS_VERSION}.csv"
    if not file.exists():
        split = manifest["split"].to_numpy()
        found = []
        for asked, others in (("test", ("train", "val")), ("val", ("train",))):
            a, b = np.flatnonzero(split == asked), np.flatnonzero(np.isin(split, others))
            found.append(
                _search(ds.grey[a], ds.grey[b], f"looking for copies of {asked}").assign(
                    a=lambda t, a=a: a[t["a"]], b=lambda t, b=b: b[t["b"]]
                )
            )
        write_atomically(file, pd.concat(found).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file)


def _search(asked: np.ndarray, among: np.ndarray, what: str) -> pd.DataFrame:
    """Return pairs (a, b, peak) of rows of two uint8 (n, 128, 128) arrays that show the same piece of a photo."""
    if not len(asked) or not len(among):
        return pd.DataFrame({"a": np.empty(0, int), "b": np.empty(0, int), "peak": np.empty(0)})
    half, room = _COARSE // 2, _COARSE - _COARSE // 2 + 1
    windows = np.lib.stride_tricks.sliding_window_view
    small_a, small_b = coarse_maps(asked), coarse_maps(among)
    queries = _unit(windows(small_a, (half, half), axis=(1, 2))[:, room // 2, room // 2].reshape(len(asked), -1))
    # 64 principal directions hold three quarters of the windows' energy and quarter the work
    basis = np.linalg.eigh(queries.T @ queries)[1][:, ::-1][:, :64]
    queries = np.ascontiguousarray((queries @ basis).T)

    def score(images: np.ndarray) -> np.ndarray:
        w = _unit(windows(images, (half, half), axis=(1, 2)).reshape(-1, half * half)) @ basis
        return (w @ queries).reshape(len(images), room * room, -1).max(1)

    with threadpool_limits(1, "blas"):  # two threads of ours keep both cores busy; batches of 8 stay in the cache
        best = np.concatenate(in_batches(score, small_b, 8, what)).T
    k = min(5, len(among))
    candidates = np.argpartition(-best, k - 1, axis=1)[:, :k]
    pairs = np.column_stack([np.repeat(np.arange(len(asked)), k), candidates.ravel()])
    peak = in_batches(lambda p: _phase_peak(asked[p[:, 0]], among[p[:, 1]]), pairs, 256, what)
    table = pd.DataFrame({"a": pairs[:, 0], "b": pairs[:, 1], "peak": np.concatenate(peak).round(4)})
    return table[table["peak"] > PHASE_PEAK].sort_values(["a", "b"], ignore_index=True)


def _unit(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    return x / (np.sqrt((x * x).sum(1, keepdims=True)) + 1e-6)


def _phase_peak(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the height of each pair's phase-correlation peak: about 1 for equal crops, near 0 for unrelated ones."""
    window = np.outer(np.hanning(GREY), np.hanning(GREY)).astype(np.float32)
    fa, fb = fft.rfft2(a * window), fft.rfft2(b * window)
    cross = fa * np.conj(fb)
    cross /= np.abs(cross) + 1e-3
    ky, kx = np.meshgrid(np.fft.fftfreq(GREY), np.fft.rfftfreq(GREY), indexing="ij")
    cross *= np.exp(-((ky**2 + kx**2) / (2 * 0.15**2)))  # the finest detail is what JPEG changes
    r = fft.irfft2(cross, (GREY, GREY))
    spread = np.exp(-((ky**2 + kx**2) / (2 * 0.15**2)))
    return r.max((1, 2)) / fft.irfft2(spread, (GREY, GREY)).max()


def planted_recall(ds: datasets.Dataset, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Measure the check: plant copies that are known, and see how many it finds.

    From each of ten times `count` images (or all) a window of 167/227 of the side is kept. `count` of the windows get a
    copy: moved by 5-60 pixels (of 227), saved again as JPEG at quality 60-95, up to 30 % brighter, or all of it.

    Returns:
        A row per kind of copy: kind, planted, found, recall, and false_alarms, pairs reported of images that are no
        copies as far as the grouping knows.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(ds.index))[: 10 * count]
    rows, count = np.sort(rows), min(count, len(rows))
    known = {tuple(p) for p in find_copies(ds)[["a", "b"]].to_numpy()}
    base = np.stack([thumbnails(crop_window(ds, r))[0] for r in rows])
    picked = rng.choice(len(rows), count, replace=False)
    kind = [PLANTED[i % len(PLANTED)] for i in range(count)]
    planted = [
        thumbnails(changed_window(ds, rows[i], what, rng, _KEPT, 60))[0] for i, what in zip(picked, kind, strict=True)
    ]
    found = _search(np.stack(planted), base, "looking for planted copies")
    hit = np.zeros(count, bool)
    wrong = dict.fromkeys(PLANTED, 0)
    for a, b in found[["a", "b"]].to_numpy():
        if b == picked[a]:
            hit[a] = True
        elif tuple(sorted((rows[picked[a]], rows[b]))) not in known:
            wrong[kind[a]] += 1
    table = pd.DataFrame({"kind": kind, "hit": hit}).groupby("kind", sort=False)["hit"].agg(["size", "sum", "mean"])
    table = table.set_axis(["planted", "found", "recall"], axis=1).reset_index()
    return table.assign(false_alarms=table["kind"].map(wrong))


def changed_window(
    ds: datasets.Dataset, row: int, kind: str, rng: np.random.Generator, unit: float, farthest: float
) -> np.ndarray:
    """Return the `window` of an image as a copy of one of the kinds in `PLANTED` would have it.

    Args:
        ds: the images.
        row: of the index.
        kind: shifted, re-encoded (JPEG, quality 60-95), brighter (by 5-30 %), or all three.
        rng: draws how far, in which direction, and how much.
        unit: side, as a fraction of the image's, that counts 227 pixels below.
        farthest: shifts go from 5 to this many pixels.
    """
    shift, angle = rng.uniform(5, farthest) if kind in ("shifted", "all three") else 0, rng.uniform(0, np.pi / 2)
    quality = int(rng.integers(60, 96)) if kind in ("re-encoded", "all three") else None
    gain = rng.uniform(1.05, 1.3) if kind in ("brighter", "all three") else 1.0
    moved = (shift * np.cos(angle) * unit / 227, shift * np.sin(angle) * unit / 227)
    return crop_window(ds, row, *moved, quality, gain)


def crop_window(
    ds: datasets.Dataset, row: int, x: float = 0, y: float = 0, quality: int | None = None, gain: float = 1.0
) -> np.ndarray:
    """Return the window of 167/227 of an image's side at (x, y), re-encoded and brightened: uint8 (height, width, 3).

    Args:
        ds: the images.
        row: of the index.
        x: left edge, a fraction of the width.
        y: upper edge, a fraction of the height.
        quality: of a JPEG that it is saved as, and read again; None for none.
        gain: what the grey levels are multiplied by.
    """
    image = Image.fromarray(ds.read(row))
    w, h = image.size
    side = _KEPT
    left, top = round(x * w), round(y * h)
    image = image.crop((left, top, left + round(side * w), top + round(side * h)))
    if gain != 1:
        image = ImageEnhance.Brightness(image).enhance(gain)
    if quality:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
    return np.asarray(image)
