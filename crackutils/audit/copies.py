"""Compare methods that detect copies, and measure ours with planted copies."""

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from crackutils.audit.mosaics import known_overlaps
from crackutils.datasets import Dataset
from crackutils.images import thumbnails
from crackutils.splits.check import PLANTED, crop_window
from crackutils.splits.overlaps import connected_groups, find_mosaics, find_overlaps, search_overlaps
from crackutils.splits.registration import find_copies, search_copies


def compare_copy_detectors(ds: Dataset, x: np.ndarray) -> pd.DataFrame:
    """Compare bytes, difference hash, registration and features x, float32 (n, dimensions), as copy detectors.

    A row per detector: way, images (reported to have a copy), confirmed (share of these that lie in one mosaic with a
    reported copy; None for the detectors from which mosaics are made).
    """
    mosaic, rows = find_mosaics(ds), np.arange(len(ds.index))
    distance, near = NearestNeighbors(n_neighbors=2, metric="cosine").fit(x).kneighbors(x)
    partner = np.where(near[:, 0] == rows, near[:, 1], near[:, 0])  # a copy may come before the image itself
    index, unmoved = ds.index.assign(mosaic=mosaic), find_copies(ds).query("kind != 'shifted'")

    def repeated(*columns: str) -> np.ndarray:
        return index.duplicated(list(columns), keep=False).to_numpy()

    found = {
        "exact: equal bytes": (repeated("sha256"), repeated("sha256", "mosaic")),
        "hash: equal difference hash": (repeated("phash"), repeated("phash", "mosaic")),
        "registered: same crop": (np.isin(rows, unmoved[["a", "b"]]), None),
        "registered: overlap of 12 % and more": (np.isin(rows, find_overlaps(ds)[["a", "b"]]), None),
        "features: cosine above 0.98": (distance[:, 1] < 0.02, mosaic[partner] == mosaic),
    }
    table = []
    for way, (has_copy, right) in found.items():
        share = None if right is None or not has_copy.any() else round(float(right[has_copy].mean()), 6)
        table.append({"way": way, "images": int(has_copy.sum()), "confirmed": share})
    return pd.DataFrame(table)


def largest_groups(n: int, pairs: pd.DataFrame, count: int) -> list[np.ndarray]:
    """Return the rows of the `count` largest groups of `n` images that pairs a, b join, the largest first."""
    ids = connected_groups(n, pairs[["a", "b"]].to_numpy(int))
    size = np.bincount(ids)
    order = np.argsort(-size, kind="stable")[:count]
    return [np.flatnonzero(ids == k) for k in order if size[k] > 1]


def score_planted_copies(ds: Dataset, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Measure `find_copies` and `find_overlaps` together with planted copies.

    Ten times `count` images (or all) are cut to a `crop_window`, and `count` of these get a copy, shifted by up to 40
    of 227 pixels. A row per kind in `PLANTED` and one for all: kind, planted, found and recall. For all also precision:
    the share of found pairs that are planted or in `known_overlaps`, or, if overlaps are unknown, were also found among
    the whole images.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(ds.index))[: 10 * count])
    count = min(count, len(rows))
    picked = np.sort(rng.choice(len(rows), count, replace=False))
    kind = np.resize(PLANTED, count)
    windows = [crop_window(ds, row) for row in rows]
    windows += [crop_window(ds, rows[i], what, rng, 1, 40) for i, what in zip(picked, kind, strict=True)]
    origin = np.concatenate([rows, rows[picked]])
    index = ds.index.iloc[origin].reset_index(drop=True)
    index = index.assign(sha256=[f"{i:064d}" for i in range(len(index))], number=-1)  # bytes and numbers must not help
    grey, colour = (np.stack(part) for part in zip(*map(thumbnails, windows), strict=True))
    planted = replace(ds, index=index, grey=grey, colour=colour)
    known = known_overlaps(ds)
    known = known if len(known) else pd.concat([find_copies(ds), find_overlaps(ds)])
    found = pd.concat([search_copies(planted), search_overlaps(planted)])
    found, true = ({tuple(pair) for pair in table[["a", "b"]].to_numpy(int)} for table in (found, known))
    right = [a == b or (min(a, b), max(a, b)) in true for a, b in (origin[list(pair)] for pair in found)]
    hit = np.array([(i, len(rows) + k) in found for k, i in enumerate(picked)])
    table = [{"kind": k, "planted": int((kind == k).sum()), "found": int(hit[kind == k].sum())} for k in PLANTED]
    table.append({"kind": "all", "planted": count, "found": int(hit.sum())})
    table[-1]["precision"] = round(sum(right) / max(1, len(right)), 6)
    return pd.DataFrame(table).assign(recall=lambda t: (t["found"] / t["planted"].clip(1)).round(6))
