"""Find overlapping crops by registration at every shift, join them to mosaics, and estimate photos from mosaics."""

from functools import partial

import numpy as np
import pandas as pd
from scipy import fft
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import AgglomerativeClustering
from sklearn.neighbors import kneighbors_graph

from crackutils.datasets import Dataset
from crackutils.splits.registration import (
    appearance,
    cached_table,
    candidate_pairs,
    even_maps,
    find_copies,
    map_batches,
)

OVERLAP_SCORE = 18.0  # of 2,000 Positive pairs of METU 500 numbers apart none is above 14, of neighbours 63 % above 30
SURE_SCORE = 30.0  # for pictures of mosaics, where a wrong link shows; splits tolerate it
SMALLEST_OVERLAP = 0.12  # of the area; METU cut its crops with a quarter or a third of overlap
PER_PHOTO = 87  # METU's 40,000 crops come from 458 photos
_LARGEST_PHOTO = 1 / 20  # of all images, half a bundle of `splits.make`; larger photos could not be split
_NEIGHBOURS = 40  # in appearance; of the overlaps found in METU nine in ten are among the 20 nearest


def find_overlaps(ds: Dataset) -> pd.DataFrame:
    """Find overlapping crops among images of similar appearance or neighbouring numbers.

    Normalised cross-correlation at every shift (Lewis 1995), of thumbnails with equalised contrast; otherwise any two
    cracks match along their length. The score is Fisher's z of the correlation times the root of the number of pixels,
    so small overlaps need higher correlations. A row per pair above `OVERLAP_SCORE`, cached: a, b (rows of the index,
    a < b), dy, dx (position of b's upper left corner in a, fractions of the side), area (share of the crop that both
    show), ncc, score.
    """
    return cached_table(ds, "overlaps", search_overlaps)


def search_overlaps(ds: Dataset) -> pd.DataFrame:
    """Return the table of `find_overlaps`, computed without its cache."""
    number = ds.index["number"].to_numpy()
    neighbours = []
    for label in (0, 1):
        rows = np.flatnonzero((ds.given == label) & (number >= 0))
        rows = rows[np.argsort(number[rows], kind="stable")]
        neighbours += [np.column_stack([rows[step:], rows[:-step]]) for step in range(1, 6)]
    pairs = candidate_pairs(appearance(ds), _NEIGHBOURS, neighbours)
    crops = even_maps(ds.grey)
    tables = map_batches(lambda batch: _register(crops, batch), pairs, 64, "registering crops that may overlap")
    table = pd.concat(tables).sort_values(["a", "b"])
    return table[table["score"] > OVERLAP_SCORE].round(4).reset_index(drop=True)


def find_mosaics(ds: Dataset, score: float = OVERLAP_SCORE) -> np.ndarray:
    """Return the mosaic of each image, int (n,): a chain of crops that overlap with at least this score, or are copies.

    Shifted copies count only if `find_overlaps` confirms them: below `SURE_NCC`, cracks of two photos may match.
    """
    unmoved = find_copies(ds).query("kind != 'shifted'")
    overlaps = find_overlaps(ds).query("score >= @score")
    return connected_groups(len(ds.index), pd.concat([overlaps, unmoved])[["a", "b"]].to_numpy(int))


def connected_groups(n: int, links: np.ndarray) -> np.ndarray:
    """Return the group of each of `n` images, int (n,), from links (m, 2) between them."""
    graph = coo_matrix((np.ones(len(links), bool), (links[:, 0], links[:, 1])), (n, n))
    return connected_components(graph, directed=False)[1]


def estimate_photos(ds: Dataset, per_photo: int = PER_PHOTO) -> np.ndarray:
    """Estimate the photo of each image, int (n,), whether or not it is known; about `per_photo` images come from each.

    Mosaics are certain, but a photo may hold several that do not touch. They are clustered by the mean appearance of
    their images (Ward's method), whitened by the covariance within mosaics, so that variation within photos counts
    little (Hatch, Kajarekar, Stolcke 2006). Two clusters per three photos keep more images of a photo together than one
    per photo, but mix photos. Clusters of more than a twentieth of the images are divided again.
    """
    mosaic = find_mosaics(ds)
    size = np.bincount(mosaic)
    clusters = min(len(size), max(1, round(2 * len(mosaic) / per_photo / 3)))
    if clusters == len(size):
        return mosaic
    x, links = appearance(ds), find_overlaps(ds)
    links = links[links["area"] < 0.8]  # others are copies, which hardly differ
    if len(links) >= 4 * x.shape[1]:  # enough to estimate a covariance
        difference = x[links["a"]] - x[links["b"]]
        scatter = difference.T @ difference / len(links) / 2
        scatter = 0.9 * scatter + 0.1 * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        value, vector = np.linalg.eigh(scatter)
        x = x @ (vector / np.sqrt(value))
    mean = np.zeros((len(size), x.shape[1]))
    np.add.at(mean, mosaic, x)
    mean /= size[:, None]
    near = kneighbors_graph(mean, min(30, len(size) - 1), include_self=False)
    photo = AgglomerativeClustering(clusters, connectivity=near + near.T, linkage="ward").fit_predict(mean)
    while True:
        images, mosaics = np.bincount(photo, size), np.bincount(photo)
        images[mosaics < 2] = 0  # a mosaic is not divided
        largest = int(images.argmax())
        if images[largest] <= _LARGEST_PHOTO * len(mosaic):
            return photo[mosaic]
        rows = np.flatnonzero(photo == largest)
        half = AgglomerativeClustering(2, linkage="ward").fit_predict(mean[rows])
        photo[rows[half == 1]] = len(images)


def _register(crops: np.ndarray, pairs: np.ndarray) -> pd.DataFrame:
    """Return the best shift of each pair that reaches `OVERLAP_SCORE`, in the columns of `find_overlaps`."""
    # by hand: scikit-image's masked phase_cross_correlation takes one pair at a time and weighs no areas
    side = crops.shape[1]
    spectrum = partial(fft.rfft2, s=(2 * side, 2 * side))
    # pixels that the crops share at each shift
    n = np.maximum(_overlap_sums(np.ones((1, side, side), np.float32), 1), 1)
    least = np.where(n < SMALLEST_OVERLAP * side * side, np.float32(np.inf), np.tanh(OVERLAP_SCORE / np.sqrt(n)))
    firsts, at = np.unique(pairs[:, 0], return_inverse=True)  # few: pairs come in order of a
    a, b = crops[firsts], crops[pairs[:, 1]]
    product = np.conj(spectrum(b))
    product *= spectrum(a)[at]
    r = fft.irfft2(product, (2 * side, 2 * side))
    # means are near 0 after the high-pass filter
    r *= (1 / np.sqrt(np.maximum(_overlap_sums(a * a, 1), n / 2)))[at]
    r /= np.sqrt(np.maximum(_overlap_sums(b * b, -1), n / 2))
    pair, y, x = np.unravel_index(np.flatnonzero(r > least), r.shape)
    ncc, shared = r[pair, y, x], n[0, y, x]
    dy, dx = ((k + side) % (2 * side) - side for k in (y, x))
    table = pd.DataFrame({"a": pairs[pair, 0], "b": pairs[pair, 1], "dy": dy / side, "dx": dx / side})
    score = np.arctanh(np.clip(ncc, -0.999, 0.999)) * np.sqrt(shared)
    table = table.assign(area=shared / side**2, ncc=ncc, score=score)
    return table.loc[table.groupby(["a", "b"])["score"].idxmax()]


def _overlap_sums(x: np.ndarray, sign: int) -> np.ndarray:
    """Return the sums of x, (n, side, side), over its overlap with a crop at each shift: (n, 2 side, 2 side).

    Shifts run from 0 up to side - 1, then from -side to -1, as in a spectrum. A shift is the place of the other crop in
    x (`sign` 1), or x in the other (-1).
    """
    first = (slice(None, -1), slice(None, 0, -1))[sign < 0]  # sums up to where the shared part begins, or ends
    sums = np.pad(x.cumsum(1, dtype=np.float64).cumsum(2), ((0, 0), (1, 0), (1, 0))).astype(np.float32)
    parts = [sums[:, -1:] - sums[:, first], sums[:, first]]
    sums = np.concatenate(parts[::sign], 1)
    parts = [sums[..., -1:] - sums[..., first], sums[..., first]]
    return np.concatenate(parts[::sign], 2)
