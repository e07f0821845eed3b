"""Doubts about the data and the models: wrong labels, image quality, leakage measured, accuracy per slice."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crackutils import datasets
from crackutils.splits.overlaps import SMALLEST_OVERLAP, SURE_SCORE, find_mosaics, find_overlaps


def check_loops(ds: datasets.Dataset) -> pd.DataFrame:
    """Check overlaps against each other: crops that are placed along one way must fit along any other.

    Each mosaic is laid out along its best links, a tree; every further link closes a loop, and agrees if it puts its
    crops where they lie, within an eighth of the side. A single wrong link between two mosaics closes none and is not
    seen.

    Returns:
        A row per link that closes a loop: a, b, mosaic, agrees.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    n, links = len(ds.index), find_overlaps(ds)
    if not len(links):
        return pd.DataFrame({"a": [], "b": [], "mosaic": [], "agrees": []}).astype(int).astype({"agrees": bool})
    best = 1 / links["score"]  # the lightest tree holds the best links
    tree = minimum_spanning_tree(coo_matrix((best, (links["a"], links["b"])), (n, n)))
    tree = (tree + tree.T).tocsr()
    step = {}
    for link in links.itertuples():
        step[link.a, link.b], step[link.b, link.a] = (link.dy, link.dx), (-link.dy, -link.dx)
    at = np.full((n, 2), np.nan)
    for start in range(n):
        if np.isnan(at[start, 0]):
            at[start] = 0
            order, before = breadth_first_order(tree, start, directed=False)
            for row in order[1:]:
                at[row] = at[before[row]] + step[before[row], row]
    off = np.abs(at[links["b"]] - at[links["a"]] - links[["dy", "dx"]].to_numpy()).max(1)
    closes = np.asarray(tree[links["a"], links["b"]]).ravel() == 0
    table = links.assign(mosaic=find_mosaics(ds)[links["a"]], agrees=off < 1 / 8)
    return table.loc[closes, ["a", "b", "mosaic", "agrees"]].reset_index(drop=True)


def largest_mosaics(ds: datasets.Dataset) -> list[np.ndarray]:
    """Return the rows of the two largest mosaics that are mostly cracked, of the largest mostly without, and of the
    largest that holds both; of links above `splits.SURE_SCORE`, and of those in which all loops agree.
    """
    mosaic, cracked, closed = find_mosaics(ds, SURE_SCORE), ds.given, check_loops(ds)
    size = np.bincount(mosaic)
    share = np.bincount(mosaic, cracked) / size
    doubtful = set(mosaic[closed.loc[~closed["agrees"], ["a", "b"]].to_numpy().ravel()])
    order = [int(k) for k in np.argsort(-size, kind="stable") if size[k] > 1 and k not in doubtful]
    chosen = [k for k in order if share[k] > 0.5][:2] + [k for k in order if share[k] < 0.5][:1]
    chosen += [k for k in order if 0 < share[k] < 1][:1]
    return [np.flatnonzero(mosaic == k) for k in dict.fromkeys(chosen)]


def known_overlaps(ds: datasets.Dataset) -> pd.DataFrame:
    """Return the pairs of images that overlap, from where they were cut (`Dataset.cuts`), where that is known.

    Returns:
        A row per pair: a, b (rows of the index, a < b), area (share of the crop that both show).
    """
    cuts = ds.cuts
    found = [np.empty((0, 3))]
    if {"x", "y"} <= set(cuts):
        sides = {"x": ds.index["width"].to_numpy(), "y": ds.index["height"].to_numpy()}
        for _, part in cuts[cuts["photo"] >= 0].groupby("photo"):
            a, b = np.triu_indices(len(part), 1)
            a, b = part.index.to_numpy()[a], part.index.to_numpy()[b]
            shared = np.ones(len(a))
            for axis, side in sides.items():
                at = cuts[axis].to_numpy()
                common = np.minimum(at[a] + side[a], at[b] + side[b]) - np.maximum(at[a], at[b])
                shared *= np.maximum(0, common) / np.minimum(side[a], side[b])
            found.append(np.column_stack([a, b, shared])[shared > 0])
    table = pd.DataFrame(np.concatenate(found), columns=["a", "b", "area"])
    return table.astype({"a": int, "b": int}).sort_values(["a", "b"], ignore_index=True)


def score_overlaps(ds: datasets.Dataset) -> pd.DataFrame:
    """Measure `splits.overlaps` where the truth is known.

    Returns:
        A row per class of overlap (from, to: share of the crop): known pairs, found and recall; the last, "all", holds
        the pairs above `splits.SMALLEST_OVERLAP` and the precision of what was found. Empty where nothing is known.
    """
    known, found = known_overlaps(ds), find_overlaps(ds)
    if not len(known):
        return pd.DataFrame(columns=["overlap", "known", "found", "recall", "precision"])
    hit = known.merge(found[["a", "b"]], on=["a", "b"], how="left", indicator=True)["_merge"].to_numpy() == "both"
    rows = []
    for low, high in ((SMALLEST_OVERLAP, 0.2), (0.2, 0.3), (0.3, 0.5), (0.5, 1.01)):
        those = (known["area"] >= low) & (known["area"] < high)
        rows.append(
            {"overlap": f"{low:.0%} to {min(high, 1):.0%}", "known": int(those.sum()), "found": int(hit[those].sum())}
        )
    those = known["area"] >= SMALLEST_OVERLAP
    row = {"overlap": "all", "known": int(those.sum()), "found": int(hit[those].sum())}
    rows.append(row | {"precision": round(hit.sum() / max(1, len(found)), 6)})
    table = pd.DataFrame(rows)
    return table.assign(recall=(table["found"] / table["known"].clip(1)).round(6))


def score_grouping(ids: np.ndarray, photo: np.ndarray) -> dict[str, float]:
    """Compare estimated photos with known ones, over all pairs of images.

    Returns:
        recall (of the pairs of one photo, the share in one group), precision (of the pairs in one group, the share of
        one photo) and rand (adjusted Rand index, Hubert, Arabie 1985: 0 by chance, 1 perfect).
    """
    from sklearn.metrics import adjusted_rand_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, extra), (cut, both) = pair_confusion_matrix(photo, ids)
    share = {"recall": both / max(1, both + cut), "precision": both / max(1, both + extra)}
    return {k: round(float(v), 6) for k, v in share.items()} | {"rand": round(adjusted_rand_score(photo, ids), 6)}


def stitch(ds: datasets.Dataset, rows: np.ndarray, limit: int = 150) -> np.ndarray:
    """Put crops that overlap together again, each where `splits.overlaps` registered it.

    Args:
        ds: the images.
        rows: of one mosaic, as `largest_mosaics` returns them.
        limit: the number of crops that are placed at most, those that were found to overlap best.

    Returns:
        uint8 (height, width, 3); what no crop covers is light blue.
    """
    links = find_overlaps(ds).query("score >= @splits.SURE_SCORE")
    links = links[links["a"].isin(rows) & links["b"].isin(rows)].sort_values("score", ascending=False, kind="stable")
    if not len(links):
        return ds.read(int(rows[0]))
    image = ds.read(int(links["a"].iloc[0]))
    side = image.shape[0]
    at = {int(links["a"].iloc[0]): (0, 0)}
    while len(at) < limit:
        step = links[links["a"].isin(at) != links["b"].isin(at)]
        if not len(step):
            break
        link = step.iloc[0]
        a, b, y, x = int(link.a), int(link.b), round(link.dy * side), round(link.dx * side)
        if a in at:
            at[b] = (at[a][0] + y, at[a][1] + x)
        else:
            at[a] = (at[b][0] - y, at[b][1] - x)
    top, left = np.min(list(at.values()), axis=0)
    height, width = np.max(list(at.values()), axis=0) - (top, left) + side
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = (196, 214, 235)  # a blue that no concrete has
    for row, (y, x) in at.items():
        canvas[y - top : y - top + side, x - left : x - left + side] = ds.read(row, side)
    return canvas
