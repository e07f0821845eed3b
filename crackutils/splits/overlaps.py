"""Splits into train, val and test that keep copies together, and a check that looks for copies by another means.

Grouping: neighbours in colour and texture statistics, registered by normalised cross-correlation.
Check: every crop position on high-passed thumbnails, decided by phase correlation; it shares no step with the grouping
but the thumbnails.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import fft
from scipy.ndimage import gaussian_filter

from crackutils import datasets
from crackutils.files import write_atomically
from crackutils.images import GREY
from crackutils.splits.registration import LINKS_VERSION, appearance, downscale, find_copies, in_batches

BUNDLES = 10  # 7 + 2 + 1 of them make 70/20/10
OVERLAP_SCORE = 18.0  # of 2,000 Positive pairs of METU 500 numbers apart none is above 14, of neighbours 63 % above 30
SURE_SCORE = 30.0  # for pictures of mosaics: one wrong link joins two photos, which a split need not mind
SMALLEST_OVERLAP = 0.12  # of the area; METU cut its crops with a quarter or a third of overlap
PER_PHOTO = 87  # METU's 40,000 crops come from 458 photos
_OVERLAP_NEIGHBOURS = 40  # in appearance; of the overlaps found in METU nine in ten are among the 20 nearest


def find_overlaps(ds: datasets.Dataset) -> pd.DataFrame:
    """Find crops of one photo that overlap, by registering images that look alike or have neighbouring numbers.

    Normalised cross-correlation at every shift (Lewis 1995), of thumbnails whose contrast is made even everywhere: else
    any two cracks match along their length. The score is Fisher's z of the correlation times the root of the number of
    pixels, so that small overlaps must agree better than large ones.

    Returns:
        A row per pair above `OVERLAP_SCORE`, cached: a, b (rows of the index, a < b), dy, dx (where b's upper left
        corner lies in a, as fractions of the side), area (share of the crop that both show), ncc, score.
    """
    file = ds.cache / f"overlaps.v{LINKS_VERSION}.csv"
    if not file.exists():
        write_atomically(file, search_overlaps(ds).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file).astype(dict.fromkeys(("dy", "dx", "area", "ncc", "score"), float) | {"a": int, "b": int})


def search_overlaps(ds: datasets.Dataset) -> pd.DataFrame:
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
        y = downscale(y - gaussian_filter(y, (0, 3, 3)), 2)
        small[start : start + 1000] = np.clip(y / (np.sqrt(gaussian_filter(y * y, (0, 3, 3))) + 1), -2.5, 2.5)
    area = _overlap_areas(small.shape[1])
    table = in_batches(lambda batch: _overlap(small, batch, area), pairs, 128, "registering crops that may overlap")
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


def find_mosaics(ds: datasets.Dataset, score: float = OVERLAP_SCORE) -> np.ndarray:
    """Return the mosaic of each image, int (n,): crops that overlap with at least this score, one after the other, or
    are copies.

    Shifted copies count as far as `overlaps` confirms them, which it does for nearly all above `SURE_NCC`; below it
    cracks of two photos may look alike.
    """
    same = find_copies(ds).query("kind != 'shifted'")
    sure = find_overlaps(ds).query("score >= @score")
    links = np.concatenate([table[["a", "b"]].to_numpy(int) for table in (sure, same)])
    return connected_groups(len(ds.index), links)


def connected_groups(n: int, links: np.ndarray) -> np.ndarray:
    """Return the group of each of `n` images, int (n,), that links (m, 2) between them make."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(links), bool), (links[:, 0], links[:, 1])), (n, n))
    return connected_components(graph, directed=False)[1]


def estimate_photos(ds: datasets.Dataset, per_photo: int = PER_PHOTO) -> np.ndarray:
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

    mosaic = find_mosaics(ds)
    size = np.bincount(mosaic)
    x = appearance(ds)
    links = find_overlaps(ds)
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
