"""Check mosaics and estimated photos, by loops of overlaps and by known photos, and stitch mosaics to pictures."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import pair_confusion_matrix

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.splits.overlaps import SMALLEST_OVERLAP, SURE_SCORE, find_mosaics, find_overlaps


def check_loops(ds: Dataset) -> pd.DataFrame:
    """Check overlaps by loops: return a row per link that closes a loop, with columns a, b, mosaic, agrees.

    The best links of a mosaic, a spanning tree, give the places of its crops. Every further link closes a loop; it
    agrees if it gives the same places, within an eighth of the side. One wrong link between two mosaics closes no loop.
    """
    n, links = len(ds.index), find_overlaps(ds)
    if not len(links):
        return links[["a", "b"]].assign(mosaic=0, agrees=True)
    # the minimum spanning tree holds the best links
    tree = minimum_spanning_tree(coo_matrix((1 / links["score"], (links["a"], links["b"])), (n, n)))
    tree = (tree + tree.T).tocsr()
    step = links[["dy", "dx"]].to_numpy()
    steps = dict(zip(zip(links["a"], links["b"], strict=True), step, strict=True))
    at = np.full((n, 2), np.nan)
    for start in range(n):
        if np.isnan(at[start, 0]):
            at[start] = 0
            order, before = breadth_first_order(tree, start, directed=False)
            for row, a in zip(order[1:], before[order[1:]], strict=True):
                at[row] = at[a] + (steps[a, row] if a < row else -steps[row, a])
    off = np.abs(at[links["b"]] - at[links["a"]] - step).max(1)
    closes = np.asarray(tree[links["a"], links["b"]]).ravel() == 0
    table = links.assign(mosaic=find_mosaics(ds)[links["a"]], agrees=off < 1 / 8)
    return table.loc[closes, ["a", "b", "mosaic", "agrees"]].reset_index(drop=True)


def mosaic_counts(ds: Dataset) -> dict[str, Any]:
    """Return counts: two_and_more (mosaics of at least two crops), largest (crops), and those of `check_loops`.

    share: fraction of each class in such a mosaic; loops: links that close a loop; loops_agree: fraction of these that
    agree; doubtful: mosaics with a link that does not agree.
    """
    mosaic, loops = find_mosaics(ds), check_loops(ds)
    size = np.bincount(mosaic)
    share = {k: round(float((size[mosaic] > 1)[ds.given == i].mean()), 6) for i, k in enumerate(config.CLASSES)}
    found = {"two_and_more": int((size > 1).sum()), "largest": int(size.max()), "share": share}
    found |= {"loops": len(loops), "loops_agree": float(loops["agrees"].mean())}
    return found | {"doubtful": loops.loc[~loops["agrees"], "mosaic"].nunique()}


def group_ids(ds: Dataset, photo: np.ndarray) -> pd.DataFrame:
    """Return file, mosaic (from 1; missing if a crop overlaps no other) and photo, int (n,), of each image."""
    mosaic = find_mosaics(ds)
    several = pd.Series(mosaic, dtype="Int64").where(np.bincount(mosaic)[mosaic] > 1)
    ids = several.rank(method="dense").astype("Int64")
    return pd.DataFrame({"file": ds.index["file"], "mosaic": ids, "photo": photo})


def largest_mosaics(ds: Dataset) -> list[np.ndarray]:
    """Return the rows of the largest mosaics: two mostly cracked, one mostly without cracks, one with both classes.

    Only links above `SURE_SCORE` count, and mosaics with a loop that does not agree are left out.
    """
    mosaic, loops = find_mosaics(ds, SURE_SCORE), check_loops(ds)
    size = np.bincount(mosaic)
    share = np.bincount(mosaic, ds.given) / size
    doubtful = mosaic[loops.loc[~loops["agrees"], ["a", "b"]]]
    order = np.argsort(-size, kind="stable")
    order = order[(size[order] > 1) & ~np.isin(order, doubtful)]
    kinds = ((share > 0.5, 2), (share < 0.5, 1), ((share > 0) & (share < 1), 1))
    chosen = np.concatenate([order[of_kind[order]][:count] for of_kind, count in kinds])
    return [np.flatnonzero(mosaic == k) for k in dict.fromkeys(chosen)]


def known_overlaps(ds: Dataset) -> pd.DataFrame:
    """Return pairs a, b (rows, a < b) that overlap by `Dataset.cuts`, with area (share of the crop that both show)."""
    cuts = ds.cuts
    found = [np.empty((0, 3))]
    if {"x", "y"} <= set(cuts):
        sides = {"x": ds.index["width"].to_numpy(), "y": ds.index["height"].to_numpy()}
        for _, part in cuts[cuts["photo"] >= 0].groupby("photo"):
            a, b = part.index.to_numpy()[np.array(np.triu_indices(len(part), 1))]
            shared = np.ones(len(a))
            for axis, side in sides.items():
                at = cuts[axis].to_numpy()
                common = np.minimum(at[a] + side[a], at[b] + side[b]) - np.maximum(at[a], at[b])
                shared *= np.maximum(0, common) / np.minimum(side[a], side[b])
            found.append(np.column_stack([a, b, shared])[shared > 0])
    table = pd.DataFrame(np.concatenate(found), columns=["a", "b", "area"]).astype({"a": int, "b": int})
    return table.sort_values(["a", "b"], ignore_index=True)


def score_overlaps(ds: Dataset) -> pd.DataFrame:
    """Measure `find_overlaps` against known overlaps; empty if these are unknown.

    A row per class of overlap (from, to: share of the crop): known pairs, found and recall. The last row, "all", holds
    the pairs above `SMALLEST_OVERLAP` and the precision of the found ones.
    """
    known, found = known_overlaps(ds), find_overlaps(ds)
    if not len(known):
        return pd.DataFrame(columns=["overlap", "known", "found", "recall", "precision"])
    hit = known.merge(found[["a", "b"]], on=["a", "b"], how="left", indicator=True)["_merge"].to_numpy() == "both"
    bounds = (SMALLEST_OVERLAP, 0.2, 0.3, 0.5, 1.01)
    classes = {f"{a:.0%} to {min(b, 1):.0%}": known["area"].between(a, b, "left") for a, b in pairwise(bounds)}
    classes["all"] = known["area"] >= SMALLEST_OVERLAP
    rows = [{"overlap": k, "known": int(those.sum()), "found": int(hit[those].sum())} for k, those in classes.items()]
    rows[-1]["precision"] = round(hit.sum() / max(1, len(found)), 6)
    return pd.DataFrame(rows).assign(recall=lambda t: (t["found"] / t["known"].clip(1)).round(6))


def score_grouping(ids: np.ndarray, photo: np.ndarray) -> dict[str, float]:
    """Compare estimated photos with known ones, over all pairs of images.

    Returns recall (of the pairs of one photo, the share in one group), precision (of the pairs in one group, the share
    of one photo) and rand (adjusted Rand index, Hubert, Arabie 1985: 0 by chance, 1 perfect).
    """
    (_, extra), (cut, both) = pair_confusion_matrix(photo, ids)
    score = {"recall": both / max(1, both + cut), "precision": both / max(1, both + extra)}
    return {name: round(float(value), 6) for name, value in (score | {"rand": adjusted_rand_score(photo, ids)}).items()}


def stitch(ds: Dataset, rows: np.ndarray, limit: int = 150) -> np.ndarray:
    """Return the picture of a mosaic from `largest_mosaics`, uint8 (height, width, 3); gaps are light blue.

    At most `limit` crops are placed, the ones with the best scores.
    """
    links = find_overlaps(ds).query("score >= @SURE_SCORE")
    links = links[links["a"].isin(rows) & links["b"].isin(rows)].sort_values("score", ascending=False, kind="stable")
    if not len(links):
        return ds.read(int(rows[0]))
    first = int(links["a"].iloc[0])
    side = ds.read(first).shape[0]
    at = {first: (0, 0)}
    while len(at) < limit and len(step := links[links["a"].isin(at) != links["b"].isin(at)]):
        link = step.iloc[0]
        a, b, y, x = int(link.a), int(link.b), round(link.dy * side), round(link.dx * side)
        new, known, sign = (b, a, 1) if a in at else (a, b, -1)
        at[new] = (at[known][0] + sign * y, at[known][1] + sign * x)
    top, left = np.min(list(at.values()), axis=0)
    height, width = np.max(list(at.values()), axis=0) - (top, left) + side
    canvas = np.full((height, width, 3), (196, 214, 235), np.uint8)  # a blue that no concrete has
    for row, (y, x) in at.items():
        canvas[y - top : y - top + side, x - left : x - left + side] = ds.read(row, side)
    return canvas
