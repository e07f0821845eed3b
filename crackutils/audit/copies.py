"""Doubts about the data and the models: wrong labels, image quality, leakage measured, accuracy per slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from crackutils import datasets
from crackutils.audit.mosaics import known_overlaps
from crackutils.images import thumbnails
from crackutils.splits.check import PLANTED, changed_window, crop_window
from crackutils.splits.overlaps import connected_groups, find_mosaics, find_overlaps, search_overlaps
from crackutils.splits.registration import find_copies, search_copies


def compare_copy_detectors(ds: datasets.Dataset, x: np.ndarray) -> pd.DataFrame:
    """Compare ways of looking for copies: bytes, difference hash, registration, and features.

    Args:
        ds: the images.
        x: float32 (n, dimensions), features.

    Returns:
        A row per way: way, images (that it says have a copy), confirmed (the share of them that lie in one mosaic with
        an image that it says is their copy; None for the ways that mosaics are made from).
    """
    from sklearn.neighbors import NearestNeighbors

    n, mosaic = len(ds.index), find_mosaics(ds)
    found, over = find_copies(ds).query("kind != 'shifted'"), find_overlaps(ds)
    distance, near = NearestNeighbors(n_neighbors=2, metric="cosine").fit(x).kneighbors(x)
    parallel = distance[:, 1] < 0.02
    partner = np.where(near[:, 0] == np.arange(n), near[:, 1], near[:, 0])  # copies tie with the image itself
    rows = []
    for way, column in (("exact: equal bytes", "sha256"), ("hash: equal difference hash", "phash")):
        has = ds.index[column].duplicated(keep=False).to_numpy()
        held = pd.DataFrame({"key": ds.index[column], "mosaic": mosaic}).duplicated(keep=False).to_numpy()
        rows.append((way, has, held))
    for way, pairs in (("registered: same crop", found), ("registered: overlap of 12 % and more", over)):
        rows.append((way, np.isin(np.arange(n), pairs[["a", "b"]]), None))
    rows.append(("features: cosine above 0.98", parallel, mosaic[partner] == mosaic))
    return pd.DataFrame(
        [
            {
                "way": way,
                "images": int(has.sum()),
                "confirmed": None if right is None or not has.any() else round(float(right[has].mean()), 6),
            }
            for way, has, right in rows
        ]
    )


def largest_groups(n: int, pairs: pd.DataFrame, count: int) -> list[np.ndarray]:
    """Return the rows of the `count` largest groups of `n` images that pairs a, b join, the largest first."""
    ids = connected_groups(n, pairs[["a", "b"]].to_numpy(int))
    size = np.bincount(ids)
    order = np.argsort(-size, kind="stable")[:count]
    return [np.flatnonzero(ids == k) for k in order if size[k] > 1]


def score_planted_copies(ds: datasets.Dataset, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Plant copies that are known among images, and see which of them the audit finds, and what else.

    Of up to ten times `count` images, drawn at random, a window of 167/227 of the side is kept; `count` of them get a
    copy: moved by 5-40 pixels (of 227), saved again as JPEG at quality 60-95, up to 30 % brighter, or all of it.

    Returns:
        A row per kind of copy and one for all: kind, planted, found and recall (by `splits.find_copies` or
        `splits.find_overlaps`); and for all precision: of the pairs found, the share that are planted or overlap as
        far as `known_overlaps` tells, or, where nothing is known, were found among the whole images as well.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(ds.index))[: 10 * count])
    count = min(count, len(rows))
    picked = np.sort(rng.choice(len(rows), count, replace=False))
    kind = np.array(PLANTED)[np.arange(count) % len(PLANTED)]
    made = [crop_window(ds, row) for row in rows]
    made += [changed_window(ds, rows[i], what, rng, 1, 40) for i, what in zip(picked, kind, strict=True)]
    index = pd.concat([ds.index.iloc[rows], ds.index.iloc[rows[picked]]], ignore_index=True)
    index = index.assign(sha256=[f"{i:064d}" for i in range(len(index))], number=-1)  # neither bytes nor numbers help
    grey, colour = (np.stack(part) for part in zip(*(thumbnails(image) for image in made), strict=True))
    fake = replace(ds, index=index, grey=grey, colour=colour)
    found = pd.concat([search_copies(fake), search_overlaps(fake)])
    pairs = {tuple(pair) for pair in found[["a", "b"]].to_numpy(int)}
    before = known_overlaps(ds)
    before = before if len(before) else pd.concat([find_copies(ds), find_overlaps(ds)])
    true = {tuple(pair) for pair in before[["a", "b"]].to_numpy(int)}
    origin = np.concatenate([rows, rows[picked]])
    right = [a == b or (min(a, b), max(a, b)) in true for a, b in ((origin[i], origin[j]) for i, j in pairs)]
    hit = np.array([(int(i), len(rows) + k) in pairs for k, i in enumerate(picked)])
    table = [{"kind": k, "planted": int((kind == k).sum()), "found": int(hit[kind == k].sum())} for k in PLANTED]
    table.append(
        {
            "kind": "all",
            "planted": count,
            "found": int(hit.sum()),
            "precision": round(sum(right) / max(1, len(right)), 6),
        }
    )
    return pd.DataFrame(table).assign(recall=lambda t: (t["found"] / t["planted"].clip(1)).round(6))
