"""Splits into train, val and test that keep copies together, and a check that looks for copies by another means.

Grouping: neighbours in colour and texture statistics, registered by normalised cross-correlation.
Check: every crop position on high-passed thumbnails, decided by phase correlation; it shares no step with the grouping
but the thumbnails.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance
from scipy import fft
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits

from crackutils import config
from crackutils.config import CLASSES, CrackutilsError, choose
from crackutils.datasets import COLOUR, GREY, Dataset, _replacing, thumbnails

PARTS = ("train", "val", "test")
RATIO = (0.7, 0.2, 0.1)
METHODS = ("copy-safe", "random", "photo-safe")
BUNDLES = 10  # 7 + 2 + 1 of them make 70/20/10
SURE_NCC = 0.9  # from here on a pair is counted as a copy; from COPY_NCC on it is kept together, to be safe
COPY_NCC = 0.8  # of registered high-passed crops; METU has next to no pair between 0.6 and 0.85
PHASE_PEAK = 0.25  # unrelated METU crops stay below 0.19 (99 %), crops 57 pixels apart of one photo lie above 0.22
OVERLAP_SCORE = 18.0  # of 2,000 Positive pairs of METU 500 numbers apart none is above 14, of neighbours 63 % above 30
SURE_SCORE = 30.0  # for pictures of mosaics: one wrong link joins two photos, which a split need not mind
SMALLEST_OVERLAP = 0.12  # of the area; METU cut its crops with a quarter or a third of overlap
PER_PHOTO = 87  # METU's 40,000 crops come from 458 photos
_OVERLAP_NEIGHBOURS = 40  # in appearance; of the overlaps found in METU nine in ten are among the 20 nearest
_LINKS_VERSION = "1"  # raise it when copies are found or grouped in another way
_NEIGHBOURS = 60  # of METU's copies 0.999 are among the 100 nearest in appearance, 0.995 among the 20 nearest
PLANTED = ("shifted", "re-encoded", "brighter", "all three")  # kinds of copies that are planted
_KEPT = 167 / 227  # of the side, in windows that are planted
_COARSE = 32  # side of the thumbnails on which candidates are slid over each other


# ---------------------------------------------------------------- finding copies


def appearance(ds: Dataset) -> np.ndarray:
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
        level = _bin(ds.grey[start : start + 2000].astype(np.float32), 2)
        dy, dx = np.gradient(_bin(level, 2), axis=(1, 2))
        sector = np.floor(np.arctan2(dy, dx) % np.pi / np.pi * 8).astype(int) % 8
        strength = np.hypot(dy, dx)
        turns = np.stack([(strength * (sector == k)).sum((1, 2)) for k in range(8)], axis=1)
        for _ in range(4):
            coarse = _bin(level, 2)
            detail = (level - coarse.repeat(2, 1).repeat(2, 2)).std((1, 2))
            columns.append(10 * np.log(detail + 0.1)[:, None])
            level = coarse
        columns.append(50 * turns / (turns.sum(1, keepdims=True) + 1e-6))
        out.append(np.concatenate(columns, axis=1))
    x = np.concatenate(out).astype(np.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def _bin(images: np.ndarray, k: int) -> np.ndarray:
    n, h, w = images.shape
    return images.reshape(n, h // k, k, w // k, k).mean((2, 4), dtype=np.float32)


def _high_pass(grey: np.ndarray) -> np.ndarray:
    """Return fine (n, 128, 128) crops without slow changes of light, as float32."""
    x = grey.astype(np.float32)
    return x - gaussian_filter(x, (0, 5, 5))


def _coarse(grey: np.ndarray) -> np.ndarray:
    """Return (n, 32, 32) maps of local contrast, equalised so that dark and bright crops compare."""
    out = np.empty((len(grey), _COARSE, _COARSE), np.float32)
    for start in range(0, len(grey), 1000):
        x = _bin(grey[start : start + 1000].astype(np.float32), 2)
        x -= gaussian_filter(x, (0, 3, 3))
        out[start : start + 1000] = _bin(x / (np.sqrt(gaussian_filter(x * x, (0, 6, 6))) + 2), 2)
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


def copies(ds: Dataset) -> pd.DataFrame:
    """Find exact and near copies: the same piece of the same photo, also shifted by up to 57 of 227 pixels.

    Returns:
        A row per pair, cached: a, b (rows of the index, a < b), kind (exact: equal bytes; same: same crop, other
        bytes; shifted), dy, dx (shift as a fraction of the side), ncc (normalised cross-correlation).
    """
    file = ds.cache / f"copies.v{_LINKS_VERSION}.csv"
    if not file.exists():
        config.write_atomically(file, find_copies(ds).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file).astype({"a": int, "b": int, "kind": str, "dy": float, "dx": float, "ncc": float})


def find_copies(ds: Dataset) -> pd.DataFrame:
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
    slider = _Slider(_coarse(ds.grey))
    score = _in_batches(lambda batch: slider.best(*batch.T)[0], pairs, 2048, "comparing crops")
    pairs = pairs[np.concatenate(score) > 0.5] if score else pairs
    table = _in_batches(lambda batch: _register(ds, batch), pairs, 256, "registering crops")
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


def _in_batches(work: Callable[[np.ndarray], Any], rows: np.ndarray, size: int, what: str) -> list[Any]:
    """Apply `work` to slices of `rows` in two threads (FFTs release Python's lock), keeping their order."""
    batches = [rows[s : s + size] for s in range(0, len(rows), size)]
    with ThreadPoolExecutor(2) as pool:
        return list(config.progress(pool.map(work, batches), what, len(batches), unit="batch"))


def _register(ds: Dataset, pairs: np.ndarray) -> pd.DataFrame:
    rows, local = np.unique(pairs, return_inverse=True)
    local = local.reshape(-1, 2)
    ncc, dy, dx = _Slider(_high_pass(ds.grey[rows])).best(local[:, 0], local[:, 1])
    return pd.DataFrame({"a": pairs[:, 0], "b": pairs[:, 1], "dy": dy / GREY, "dx": dx / GREY, "ncc": ncc})


# ---------------------------------------------------------------- source photos


def overlaps(ds: Dataset) -> pd.DataFrame:
    """Find crops of one photo that overlap, by registering images that look alike or have neighbouring numbers.

    Normalised cross-correlation at every shift (Lewis 1995), of thumbnails whose contrast is made even everywhere: else
    any two cracks match along their length. The score is Fisher's z of the correlation times the root of the number of
    pixels, so that small overlaps must agree better than large ones.

    Returns:
        A row per pair above `OVERLAP_SCORE`, cached: a, b (rows of the index, a < b), dy, dx (where b's upper left
        corner lies in a, as fractions of the side), area (share of the crop that both show), ncc, score.
    """
    file = ds.cache / f"overlaps.v{_LINKS_VERSION}.csv"
    if not file.exists():
        config.write_atomically(file, find_overlaps(ds).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file).astype(dict.fromkeys(("dy", "dx", "area", "ncc", "score"), float) | {"a": int, "b": int})


def find_overlaps(ds: Dataset) -> pd.DataFrame:
    """Return what `overlaps` keeps, computed now."""
    from sklearn.neighbors import NearestNeighbors

    n = len(ds.index)
    x = appearance(ds)
    k = min(_OVERLAP_NEIGHBOURS + 1, n)
    near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(x, return_distance=False)
    found = [np.column_stack([np.repeat(np.arange(n), k), near.ravel()])]
    for label in (0, 1):
        rows = np.flatnonzero((ds.given == label) & (ds.index["number"].to_numpy() >= 0))
        rows = rows[np.argsort(ds.index["number"].to_numpy()[rows], kind="stable")]
        found += [np.column_stack([rows[step:], rows[:-step]]) for step in range(1, 6)]
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    small = np.empty((n, GREY // 2, GREY // 2), np.float32)
    for start in range(0, n, 1000):
        y = ds.grey[start : start + 1000].astype(np.float32)
        y = _bin(y - gaussian_filter(y, (0, 3, 3)), 2)
        small[start : start + 1000] = np.clip(y / (np.sqrt(gaussian_filter(y * y, (0, 3, 3))) + 1), -2.5, 2.5)
    area = _overlap_areas(small.shape[1])
    table = _in_batches(lambda batch: _overlap(small, batch, area), pairs, 128, "registering crops that may overlap")
    columns = ["a", "b", "dy", "dx", "area", "ncc", "score"]
    found = pd.concat(table) if table else pd.DataFrame(columns=columns, dtype=float)
    found = found[found["score"] > OVERLAP_SCORE].astype({"a": int, "b": int})
    return found.round(4).sort_values(["a", "b"], ignore_index=True)


def _overlap_areas(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the transform of a full crop, padded to twice its side, and the pixels that each shift has in common."""
    ones = np.zeros((2 * side, 2 * side), np.float32)
    ones[:side, :side] = 1
    whole = fft.rfft2(ones)
    return whole, np.maximum(fft.irfft2(np.conj(whole) * whole, ones.shape).round(), 1)


def _overlap(small: np.ndarray, pairs: np.ndarray, area: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    side = small.shape[1]
    shape, (whole, n) = (2 * side, 2 * side), area

    def correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return fft.irfft2(np.conj(x) * y, shape)

    a, b = small[pairs[:, 0]], small[pairs[:, 1]]
    r = correlate(fft.rfft2(b, shape), fft.rfft2(a, shape))  # means are near 0 after the high-pass filter
    energy_a = correlate(whole, fft.rfft2(a * a, shape))
    energy_b = correlate(fft.rfft2(b * b, shape), whole)
    r /= np.sqrt(np.maximum(energy_a, n / 2) * np.maximum(energy_b, n / 2))
    score = np.arctanh(np.clip(r, -0.999, 0.999)) * np.sqrt(n)
    score[:, n < SMALLEST_OVERLAP * side * side] = -1
    score = score.reshape(len(pairs), -1)
    best, rows = score.argmax(1), np.arange(len(pairs))
    dy, dx = ((k + side) % (2 * side) - side for k in np.divmod(best, 2 * side))
    return pd.DataFrame(
        {"a": pairs[:, 0], "b": pairs[:, 1], "dy": dy / side, "dx": dx / side}
        | {"area": n.ravel()[best] / side**2, "ncc": r.reshape(len(pairs), -1)[rows, best], "score": score[rows, best]}
    )


def mosaics(ds: Dataset, score: float = OVERLAP_SCORE) -> np.ndarray:
    """Return the mosaic of each image, int (n,): crops that overlap with at least this score, one after the other, or
    are copies.

    Shifted copies count as far as `overlaps` confirms them, which it does for nearly all above `SURE_NCC`; below it
    cracks of two photos may look alike.
    """
    same = copies(ds).query("kind != 'shifted'")
    sure = overlaps(ds).query("score >= @score")
    links = np.concatenate([table[["a", "b"]].to_numpy(int) for table in (sure, same)])
    return components(len(ds.index), links)


def components(n: int, links: np.ndarray) -> np.ndarray:
    """Return the group of each of `n` images, int (n,), that links (m, 2) between them make."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(links), bool), (links[:, 0], links[:, 1])), (n, n))
    return connected_components(graph, directed=False)[1]


def photos(ds: Dataset, per_photo: int = PER_PHOTO) -> np.ndarray:
    """Estimate which photo each image was cut from, whether or not it is known.

    Mosaics are certain, but a photo may hold several that do not touch. They are clustered by the mean appearance of
    their images (Ward's method), whitened by how images that overlap, and so show one photo, differ: what varies within
    photos shall count little (Hatch, Kajarekar, Stolcke 2006). Two clusters for three photos keep more of a photo
    together than one for each, at the price of holding parts of others. Clusters of more than a twentieth of the images
    are cut again, or no split could hold them.

    Args:
        ds: the images.
        per_photo: images per photo, about.

    Returns:
        int (n,), a number for each estimated photo.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.neighbors import kneighbors_graph

    mosaic = mosaics(ds)
    size = np.bincount(mosaic)
    x = appearance(ds)
    links = overlaps(ds)
    links = links[links["area"] < 0.8]  # others are copies: they hardly differ
    if len(links) >= 4 * x.shape[1]:
        difference = x[links["a"]] - x[links["b"]]
        scatter = difference.T @ difference / len(links) / 2
        scatter = 0.9 * scatter + 0.1 * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        value, vector = np.linalg.eigh(scatter)
        x = x @ (vector / np.sqrt(value))
    mean = np.zeros((len(size), x.shape[1]))
    np.add.at(mean, mosaic, x)
    mean /= size[:, None]
    clusters = min(len(size), max(1, round(2 * len(x) / per_photo / 3)))
    if clusters == len(size):
        return mosaic
    near = kneighbors_graph(mean, min(30, len(size) - 1), include_self=False)
    found = AgglomerativeClustering(clusters, connectivity=near + near.T, linkage="ward").fit_predict(mean)
    while True:
        held, parts = np.bincount(found, size), np.bincount(found)
        held[parts < 2] = 0  # a mosaic is not cut
        k = int(held.argmax())
        if held[k] <= len(x) / (2 * BUNDLES):
            return found[mosaic]
        those = np.flatnonzero(found == k)
        halves = AgglomerativeClustering(2, linkage="ward").fit_predict(mean[those])
        found[those[halves == 1]] = len(held)


# ---------------------------------------------------------------- groups


@dataclass(frozen=True)
class Groups:
    """Which images must stay on one side.

    Attributes:
        ids: int (n,), the group of each image.
        report: files, groups, largest group, cap, and how many links of each kind were joined or cut by the cap.
    """

    ids: np.ndarray
    report: dict[str, int]


def group(ds: Dataset, method: str = METHODS[0]) -> Groups:
    """Return which images must stay together, for "copy-safe" or for "photo-safe".

    Copy-safe joins copies and runs of neighbouring Positive numbers, which METU cut along the same crack of one photo.

    Where the photos are known, all patches of one are joined, and runs are not needed. Exact copies and copies of the
    same crop are always joined; then shifted ones and neighbours, each from the most alike on, unless the group would
    exceed the cap (an eighth of a bundle): without it the whole of Positive would chain into one group.

    Photo-safe joins the images of one photo: as it is known, or else as `photos` estimates it.
    """
    n = len(ds.index)
    if method == "photo-safe":
        known = ds.cuts["photo"].to_numpy()
        ids = np.unique(known if (known >= 0).all() else photos(ds), return_inverse=True)[1]
        if ids.max() + 1 < min(BUNDLES, n):
            raise CrackutilsError(
                f"SPLIT=photo-safe needs at least {BUNDLES} photos, these {n} images come from about {ids.max() + 1};"
                " use SPLIT=copy-safe."
            )
        return Groups(ids, {"files": n, "groups": int(ids.max() + 1), "largest": int(np.bincount(ids).max())})
    cap = max(4, n // (8 * BUNDLES))
    parent, size = list(range(n)), [1] * n
    photo = ds.cuts["photo"].to_numpy()
    of_photo = np.argsort(photo, kind="stable")
    of_photo = of_photo[photo[of_photo] >= 0]
    beside = photo[of_photo[1:]] == photo[of_photo[:-1]]
    same_photo = np.column_stack([of_photo[:-1], of_photo[1:]])[beside]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    report = {"files": n, "cap": cap}
    found = copies(ds)
    found = found.sort_values("ncc", ascending=False, kind="stable")
    shifted = found["kind"] == "shifted"
    running = (ds.given == 1) & (ds.index["number"] >= 0) & (photo < 0)
    positive = ds.index[running].sort_values("number", kind="stable")
    rows = positive.index.to_numpy()
    x = appearance(ds)
    distance = np.sqrt(((x[rows[1:]] - x[rows[:-1]]) ** 2).sum(1)).round(3)
    runs = np.column_stack([rows[:-1], rows[1:]])[np.argsort(distance, kind="stable")]
    ends = found[["a", "b"]].to_numpy()
    found_links = [("copy", ends[~shifted]), ("shifted", ends[shifted]), ("run", runs)]
    if len(same_photo):
        found_links.insert(0, ("photo", same_photo))
    for name, links in found_links:
        joined = cut = 0
        for a, b in links:
            ra, rb = sorted((root(int(a)), root(int(b))))
            if ra == rb:
                continue
            if name not in ("photo", "copy") and size[ra] + size[rb] > cap:
                cut += 1
                continue
            parent[rb], size[ra] = ra, size[ra] + size[rb]
            joined += 1
        report |= {f"{name}_links_joined": joined, f"{name}_links_cut": cut}
    ids = np.unique([root(i) for i in range(n)], return_inverse=True)[1]
    return Groups(ids, report | {"groups": int(ids.max() + 1), "largest": int(np.bincount(ids).max())})


def pack(labels: np.ndarray, ids: np.ndarray, bundles: int, seed: int) -> np.ndarray:
    """Pack whole groups into bundles of nearly equal numbers of files of each class.

    Args:
        labels: int (n,), 0 or 1.
        ids: int (n,), the group of each file.
        bundles: number of bundles.
        seed: which of the equally good packings.

    Returns:
        int (n,), the bundle of each file.
    """
    counts = np.zeros((ids.max() + 1, 2), int)
    np.add.at(counts, (ids, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    load = np.zeros((bundles, 2))
    share = np.maximum(counts.sum(0), 1) / bundles
    home = np.empty(len(counts), int)
    for g in order:
        after = ((load + counts[g]) / share) ** 2 - (load / share) ** 2  # the growth of the squared load, per class
        home[g] = after.sum(1).argmin()
        load[home[g]] += counts[g]
    return home[ids]


# ---------------------------------------------------------------- splitting


def make(ds: Dataset, method: str, seed: int) -> pd.DataFrame:
    """Split the images 70/20/10 with split-folders and return the manifest.

    The files are laid out below `data/splits/` as train/, val/ and test/, each with a folder per class, ready for any
    other tool; they are hard links where the disk allows, so they cost no space.

    Args:
        ds: the images.
        method: "copy-safe" keeps copies and runs of neighbours on one side, "photo-safe" whole photos, as far as they
            are known or can be told (`group`); "random" splits each class file by file, as published, and so leaks
            copies.
        seed: of the shuffling, 1337 in the published project.

    Returns:
        A row per image in index order: file, label, split (train, val or test), group (-1 for random).

    Raises:
        CrackutilsError: unknown method.
    """
    choose("SPLIT", method, METHODS)
    home = _home(ds, method, seed)
    file = home / "manifest.csv"
    if not file.exists():
        grouped = group(ds, method) if method != "random" else None
        with _replacing(home) as work:
            _split_folders(ds, grouped, seed, work)
            (work / "report.json").write_text(json.dumps(grouped.report if grouped else {}, indent=1), "utf-8")
    return pd.read_csv(file).assign(label=ds.index["label"])  # which may be corrected; the folders are as given


def _home(ds: Dataset, method: str, seed: int) -> Path:
    return config.data_dir() / "splits" / f"{ds.profile.source}-{ds.sha256[:12]}-{method}-{seed}.v{_LINKS_VERSION}"


def report(ds: Dataset, method: str, seed: int) -> dict[str, int]:
    """Return what `group` reported when this split was made; empty for "random"."""
    manifest = make(ds, method, seed)
    return json.loads((_home(ds, method, seed) / "report.json").read_text("utf-8")) | {"split_files": len(manifest)}


def _split_folders(ds: Dataset, grouped: Groups | None, seed: int, work: Path) -> None:
    import random

    import splitfolders

    flat, out = work / "flat", work / "out"
    labels = ds.given
    view = {}
    for row, file in enumerate(ds.index["file"]):
        folder, name = file.split("/")
        # one class for split-folders when whole groups, which may hold both classes, are to be kept together
        path = flat / "all" / f"{folder}__{name}" if grouped else flat / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ds.folder / file, path)
        except OSError:
            shutil.copyfile(ds.folder / file, path)
        view[path.name if grouped else f"{folder}__{name}"] = row
    bundle = pack(labels, grouped.ids, BUNDLES, seed) if grouped else None

    def by_bundle(files: list[Path]) -> list[tuple[Path, ...]]:
        rows = {view[f.name]: f for f in files}
        return [tuple(rows[r] for r in np.flatnonzero(bundle == b)) for b in range(BUNDLES) if (bundle == b).any()]

    state = random.getstate()  # split-folders seeds Python's global generator
    by = by_bundle if grouped else None
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        splitfolders.ratio(str(flat), str(out), seed=seed, ratio=RATIO, move=True, group=by)
    random.setstate(state)
    split = pd.Series(index=ds.index.index, dtype=str)
    for part in PARTS:
        for name in CLASSES:
            (work / part / name).mkdir(parents=True)
        for path in (p for p in (out / part).rglob("*") if p.is_file()):
            key = path.name if grouped else f"{path.parent.name}__{path.name}"
            split.iloc[view[key]] = part
            os.replace(path, work / part / key.split("__", 1)[0] / key.split("__", 1)[1])
    shutil.rmtree(flat)
    shutil.rmtree(out)
    if split.isna().any():
        raise AssertionError(f"split-folders lost {split.isna().sum()} files")
    manifest = ds.index[["file", "label"]].assign(split=split, group=grouped.ids if grouped else -1)
    manifest.to_csv(work / "manifest.csv", index=False, lineterminator="\n")


def leaked_test_images(split: np.ndarray, pairs: pd.DataFrame) -> int:
    """Return how many test images have a copy in train, given the part of each image and the pairs of `copies`."""
    a, b = split[pairs["a"]], split[pairs["b"]]
    return len({*pairs["a"][(a == "test") & (b == "train")], *pairs["b"][(b == "test") & (a == "train")]})


# ---------------------------------------------------------------- check by another means


def leaks(ds: Dataset, manifest: pd.DataFrame) -> pd.DataFrame:
    """Look for copies of test images in train and val, and of val images in train, by another means than `group`.

    Every crop position is compared without looking at colour or neighbours first, and the five best candidates per
    image are decided by phase correlation (Kuglin and Hines 1975), which compares phases where the grouping compares
    values.

    Returns:
        A row per pair found, cached per split: a (val or test row), b (row in another part), peak (of the phase
        correlation, 0 to 1).
    """
    key = hashlib.sha256(" ".join(manifest["split"]).encode()).hexdigest()
    file = ds.cache / f"leaks-{key[:12]}.v{_LINKS_VERSION}.csv"
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
        config.write_atomically(file, pd.concat(found).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file)


def _search(asked: np.ndarray, among: np.ndarray, what: str) -> pd.DataFrame:
    """Return pairs (a, b, peak) of rows of two uint8 (n, 128, 128) arrays that show the same piece of a photo."""
    if not len(asked) or not len(among):
        return pd.DataFrame({"a": np.empty(0, int), "b": np.empty(0, int), "peak": np.empty(0)})
    half, room = _COARSE // 2, _COARSE - _COARSE // 2 + 1
    windows = np.lib.stride_tricks.sliding_window_view
    small_a, small_b = _coarse(asked), _coarse(among)
    queries = _unit(windows(small_a, (half, half), axis=(1, 2))[:, room // 2, room // 2].reshape(len(asked), -1))
    # 64 principal directions hold three quarters of the windows' energy and quarter the work
    basis = np.linalg.eigh(queries.T @ queries)[1][:, ::-1][:, :64]
    queries = np.ascontiguousarray((queries @ basis).T)

    def score(images: np.ndarray) -> np.ndarray:
        w = _unit(windows(images, (half, half), axis=(1, 2)).reshape(-1, half * half)) @ basis
        return (w @ queries).reshape(len(images), room * room, -1).max(1)

    with threadpool_limits(1, "blas"):  # two threads of ours keep both cores busy; batches of 8 stay in the cache
        best = np.concatenate(_in_batches(score, small_b, 8, what)).T
    k = min(5, len(among))
    candidates = np.argpartition(-best, k - 1, axis=1)[:, :k]
    pairs = np.column_stack([np.repeat(np.arange(len(asked)), k), candidates.ravel()])
    peak = _in_batches(lambda p: _phase_peak(asked[p[:, 0]], among[p[:, 1]]), pairs, 256, what)
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


def planted_recall(ds: Dataset, count: int = 200, seed: int = 0) -> pd.DataFrame:
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
    known = {tuple(p) for p in copies(ds)[["a", "b"]].to_numpy()}
    base = np.stack([thumbnails(window(ds, r))[0] for r in rows])
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
    ds: Dataset, row: int, kind: str, rng: np.random.Generator, unit: float, farthest: float
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
    return window(ds, row, *moved, quality, gain)


def window(
    ds: Dataset, row: int, x: float = 0, y: float = 0, quality: int | None = None, gain: float = 1.0
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
