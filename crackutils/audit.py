"""Doubts about the data and the models: wrong labels, image quality, leakage measured, accuracy per slice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2  # blurs and connected components, many times faster than SciPy's
import numpy as np
import pandas as pd

from crackutils import config, datasets, evaluation, splits
from crackutils.config import CrackutilsError
from crackutils.datasets import Dataset

FOLDS = 10
SLICES = ("thin", "faint", "dark", "blurred", "textured", "line-like", "doubtful label")
READ_TO = 10_000  # last number of METU's files that pictures to be read were drawn from
TENTH = 0.1  # of the images: how many a slice holds
_SLICES_VERSION = "1"  # raise it when a measure changes


# ---------------------------------------------------------------- slices


def measures(ds: Dataset) -> pd.DataFrame:
    """Measure what may make an image hard, on thumbnails of 128 pixels.

    Returns:
        A row per image in index order, cached: width (mean width of the longest dark thing, fraction of the side),
        length (its extent, fraction of the side), depth (how far the darkest 2 % lie below the median, grey levels),
        brightness (median grey level), sharpness (finest against coarser detail; blur lowers it), texture (median of
        the local deviation, grey levels).
    """
    file = ds.cache / f"measures.v{_SLICES_VERSION}.csv"
    if not file.exists():
        cv2.setNumThreads(1)  # the threads below do better, one image each
        with ThreadPoolExecutor(2) as pool:
            found = list(config.progress(pool.map(_measure, ds.grey), "measuring", len(ds.grey)))
        config.write_atomically(file, pd.DataFrame(found).round(4).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file)


def _measure(grey: np.ndarray) -> dict[str, float]:
    x = np.asarray(grey).astype(np.float32)
    side = len(x)
    fine, middle = cv2.GaussianBlur(x, (0, 0), 0.8), cv2.GaussianBlur(x, (0, 0), 3.2)
    soft = cv2.GaussianBlur(x, (0, 0), 1)
    below = cv2.blur(soft, (31, 31)) - soft
    dark = (below > max(6, 0.45 * np.quantile(below, 0.99))).astype(np.uint8)  # at least 6 grey levels: no noise
    count, _, boxes, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    width = length = 0.0
    if count > 1:
        extent = np.hypot(boxes[1:, cv2.CC_STAT_WIDTH], boxes[1:, cv2.CC_STAT_HEIGHT])
        longest = int(extent.argmax())
        length, width = extent[longest] / side, boxes[1 + longest, cv2.CC_STAT_AREA] / extent[longest] / side
    spread = np.sqrt(np.maximum(cv2.blur(x * x, (9, 9)) - cv2.blur(x, (9, 9)) ** 2, 0))
    return {
        "width": float(width),
        "length": float(length),
        "depth": float(np.median(x) - np.quantile(x, 0.02)),
        "brightness": float(np.median(x)),
        "sharpness": float(np.quantile(np.abs(x - fine), 0.99) / (np.quantile(np.abs(fine - middle), 0.99) + 1)),
        "texture": float(np.median(spread)),
    }


def slices(ds: Dataset) -> pd.DataFrame:
    """Tell the images that may be hard: of each kind the tenth of the images in which it is strongest.

    Returns:
        A row per image in index order, a column of bools per name in `SLICES`: thin, faint (cracked images only: the
        narrowest, and those that stand out least), dark, blurred, textured, line-like (images without a crack only:
        something long and thin that is darker than what lies beside it, as hairs, wires and joints are), doubtful
        label (those of `datasets.verdicts`, whatever their number).
    """
    m, cracked = measures(ds), ds.index["label"].to_numpy() == 1
    every = np.ones(len(m), bool)
    wanted = {
        "thin": (m["width"], cracked),
        "faint": (m["depth"], cracked),
        "dark": (m["brightness"], every),
        "blurred": (m["sharpness"], every),
        "textured": (-m["texture"], every),
        "line-like": (-m["length"] / (m["width"] + 1 / 128), ~cracked),
    }
    out = pd.DataFrame(False, index=m.index, columns=list(SLICES))
    for name, (value, among) in wanted.items():
        rows = np.flatnonzero(among)
        order = rows[np.argsort(value.to_numpy()[rows], kind="stable")]
        out.loc[order[: int(len(rows) * TENTH)], name] = True
    out.loc[datasets.verdicts(ds)["row"], "doubtful label"] = True
    return out


def by_slice(ds: Dataset, test: pd.DataFrame) -> list[dict[str, Any]]:
    """Return errors and accuracy of predictions in each slice, the weakest first.

    Args:
        ds: the images.
        test: rows of `results.predictions`.

    Returns:
        For each slice that holds any of them: slice, n, errors, accuracy, low, high (95 % Wilson interval).
    """
    held = slices(ds).assign(file=ds.index["file"])
    table = test.merge(held, on="file")
    wrong = (table["p_crack"] >= 0.5) != table["label"]
    rows = []
    for name in SLICES:
        n, errors = int(table[name].sum()), int(wrong[table[name]].sum())
        if n:
            low, high = evaluation.wilson(n - errors, n)
            row = {"slice": name, "n": n, "errors": errors, "accuracy": round(1 - errors / n, 6)}
            rows.append(row | {"low": round(low, 6), "high": round(high, 6)})
    return sorted(rows, key=lambda row: (row["accuracy"], row["slice"]))


# ---------------------------------------------------------------- copies and source photos


def copies_by_means(ds: Dataset, x: np.ndarray) -> pd.DataFrame:
    """Compare ways of looking for copies: bytes, difference hash, registration, and features.

    Args:
        ds: the images.
        x: float32 (n, dimensions), features.

    Returns:
        A row per way: way, images (that it says have a copy), confirmed (the share of them that lie in one mosaic with
        an image that it says is their copy; None for the ways that mosaics are made from).
    """
    from sklearn.neighbors import NearestNeighbors

    n, mosaic = len(ds.index), splits.mosaics(ds)
    found, over = splits.copies(ds).query("kind != 'shifted'"), splits.overlaps(ds)
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
    ids = splits.components(n, pairs[["a", "b"]].to_numpy(int))
    size = np.bincount(ids)
    order = np.argsort(-size, kind="stable")[:count]
    return [np.flatnonzero(ids == k) for k in order if size[k] > 1]


def loops(ds: Dataset) -> pd.DataFrame:
    """Check overlaps against each other: crops that are placed along one way must fit along any other.

    Each mosaic is laid out along its best links, a tree; every further link closes a loop, and agrees if it puts its
    crops where they lie, within an eighth of the side. A single wrong link between two mosaics closes none and is not
    seen.

    Returns:
        A row per link that closes a loop: a, b, mosaic, agrees.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    n, links = len(ds.index), splits.overlaps(ds)
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
    table = links.assign(mosaic=splits.mosaics(ds)[links["a"]], agrees=off < 1 / 8)
    return table.loc[closes, ["a", "b", "mosaic", "agrees"]].reset_index(drop=True)


def largest_mosaics(ds: Dataset) -> list[np.ndarray]:
    """Return the rows of the two largest mosaics that are mostly cracked, of the largest mostly without, and of the
    largest that holds both; of links above `splits.SURE_SCORE`, and of those in which all loops agree.
    """
    mosaic, cracked, closed = splits.mosaics(ds, splits.SURE_SCORE), ds.given, loops(ds)
    size = np.bincount(mosaic)
    share = np.bincount(mosaic, cracked) / size
    doubtful = set(mosaic[closed.loc[~closed["agrees"], ["a", "b"]].to_numpy().ravel()])
    order = [int(k) for k in np.argsort(-size, kind="stable") if size[k] > 1 and k not in doubtful]
    chosen = [k for k in order if share[k] > 0.5][:2] + [k for k in order if share[k] < 0.5][:1]
    chosen += [k for k in order if 0 < share[k] < 1][:1]
    return [np.flatnonzero(mosaic == k) for k in dict.fromkeys(chosen)]


def known_overlaps(ds: Dataset) -> pd.DataFrame:
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


def overlaps_found(ds: Dataset) -> pd.DataFrame:
    """Measure `splits.overlaps` where the truth is known.

    Returns:
        A row per class of overlap (from, to: share of the crop): known pairs, found and recall; the last, "all", holds
        the pairs above `splits.SMALLEST_OVERLAP` and the precision of what was found. Empty where nothing is known.
    """
    known, found = known_overlaps(ds), splits.overlaps(ds)
    if not len(known):
        return pd.DataFrame(columns=["overlap", "known", "found", "recall", "precision"])
    hit = known.merge(found[["a", "b"]], on=["a", "b"], how="left", indicator=True)["_merge"].to_numpy() == "both"
    rows = []
    for low, high in ((splits.SMALLEST_OVERLAP, 0.2), (0.2, 0.3), (0.3, 0.5), (0.5, 1.01)):
        those = (known["area"] >= low) & (known["area"] < high)
        rows.append(
            {"overlap": f"{low:.0%} to {min(high, 1):.0%}", "known": int(those.sum()), "found": int(hit[those].sum())}
        )
    those = known["area"] >= splits.SMALLEST_OVERLAP
    row = {"overlap": "all", "known": int(those.sum()), "found": int(hit[those].sum())}
    rows.append(row | {"precision": round(hit.sum() / max(1, len(found)), 6)})
    table = pd.DataFrame(rows)
    return table.assign(recall=(table["found"] / table["known"].clip(1)).round(6))


def planted_copies(ds: Dataset, count: int = 200, seed: int = 0) -> pd.DataFrame:
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
    kind = np.array(splits.PLANTED)[np.arange(count) % len(splits.PLANTED)]
    made = [splits.window(ds, row) for row in rows]
    made += [splits.changed_window(ds, rows[i], what, rng, 1, 40) for i, what in zip(picked, kind, strict=True)]
    index = pd.concat([ds.index.iloc[rows], ds.index.iloc[rows[picked]]], ignore_index=True)
    index = index.assign(sha256=[f"{i:064d}" for i in range(len(index))], number=-1)  # neither bytes nor numbers help
    grey, colour = (np.stack(part) for part in zip(*(splits.thumbnails(image) for image in made), strict=True))
    fake = replace(ds, index=index, grey=grey, colour=colour)
    found = pd.concat([splits.find_copies(fake), splits.find_overlaps(fake)])
    pairs = {tuple(pair) for pair in found[["a", "b"]].to_numpy(int)}
    before = known_overlaps(ds)
    before = before if len(before) else pd.concat([splits.copies(ds), splits.overlaps(ds)])
    true = {tuple(pair) for pair in before[["a", "b"]].to_numpy(int)}
    origin = np.concatenate([rows, rows[picked]])
    right = [a == b or (min(a, b), max(a, b)) in true for a, b in ((origin[i], origin[j]) for i, j in pairs)]
    hit = np.array([(int(i), len(rows) + k) in pairs for k, i in enumerate(picked)])
    table = [{"kind": k, "planted": int((kind == k).sum()), "found": int(hit[kind == k].sum())} for k in splits.PLANTED]
    table.append(
        {
            "kind": "all",
            "planted": count,
            "found": int(hit.sum()),
            "precision": round(sum(right) / max(1, len(right)), 6),
        }
    )
    return pd.DataFrame(table).assign(recall=lambda t: (t["found"] / t["planted"].clip(1)).round(6))


def pairs_together(ids: np.ndarray, photo: np.ndarray) -> dict[str, float]:
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


def stitch(ds: Dataset, rows: np.ndarray, limit: int = 150) -> np.ndarray:
    """Put crops that overlap together again, each where `splits.overlaps` registered it.

    Args:
        ds: the images.
        rows: of one mosaic, as `largest_mosaics` returns them.
        limit: the number of crops that are placed at most, those that were found to overlap best.

    Returns:
        uint8 (height, width, 3); what no crop covers is light blue.
    """
    links = splits.overlaps(ds).query("score >= @splits.SURE_SCORE")
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


# ---------------------------------------------------------------- labels


def _heads(x: np.ndarray, y: np.ndarray, strengths: Sequence[float]) -> list[Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)).fit(x, y) for c in strengths]


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int = config.DEFAULT_SEED) -> pd.DataFrame:
    """Return crack probabilities of every image by models that saw neither it nor any of its group.

    Ten folds; a strict and a loose linear head, and the share of cracks among the ten nearest images.

    Args:
        x: float32 (n, dimensions), features.
        y: int (n,), 0 or 1.
        groups: int (n,), what stays together.
        seed: which folds.

    Returns:
        A row per image, a column per model: strict (C = 0.001), loose (C = 0.1), neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    fold = splits.pack(y, groups, FOLDS, seed)
    names = ("strict", "loose", "neighbours")
    found = pd.DataFrame(np.nan, index=range(len(y)), columns=names)
    for k in config.progress(np.unique(fold), "folds", unit="fold"):
        away, here = fold != k, fold == k
        if len(np.unique(y[away])) < 2:
            raise CrackutilsError("The images outside one fold are all of one class; the audit needs more images.")
        near = KNeighborsClassifier(min(10, int(away.sum())), metric="cosine").fit(x[away], y[away])
        for name, model in zip(names, [*_heads(x[away], y[away], (1e-3, 0.1)), near], strict=True):
            found.loc[here, name] = model.predict_proba(x[here])[:, 1]
    return found


def suspects(y: np.ndarray, chances: pd.DataFrame) -> pd.DataFrame:
    """Rank images by how little several models believe their labels.

    The rank is by the mean probability of the given label. `by` counts the models for which confident learning
    (Northcutt, Jiang, Chuang 2021; cleanlab) calls the label wrong.

    Args:
        y: int (n,), given labels.
        chances: as `out_of_fold` returns them; probabilities in [0, 1].

    Returns:
        A row per image, the most doubtful first: row, given (mean probability of its label), by.

    Raises:
        CrackutilsError: cleanlab is missing.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise CrackutilsError("The audit of labels needs cleanlab: run pip install cleanlab.") from error
    given = np.where(y[:, None] == 1, chances, 1 - chances)
    by = np.zeros(len(y), int)
    for name in chances:
        p = chances[name].to_numpy(np.float64)
        by += find_label_issues(y, np.column_stack([1 - p, p]), n_jobs=1)
    table = pd.DataFrame({"row": np.arange(len(y)), "given": given.mean(1).round(6), "by": by})
    return table.sort_values(["given", "row"], ignore_index=True)


def planted_labels(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, share: float = 0.01, seed: int = 0
) -> dict[str, float | int]:
    """Turn some labels round, audit them, and see how many of these are found.

    Args:
        x: float32 (n, dimensions), features.
        y: int (n,), labels that are taken to be right.
        groups: int (n,), what stays together.
        share: of the labels that are turned.
        seed: which.

    Returns:
        planted; recall (share of them among as many first suspects) and, of the images that all models of confident
        learning call wrong, called, called_recall and called_precision.
    """
    rng = np.random.default_rng(seed)
    turned = np.zeros(len(y), bool)
    turned[rng.choice(len(y), max(1, int(share * len(y))), replace=False)] = True
    flipped = np.where(turned, 1 - y, y)
    chances = out_of_fold(x, flipped, groups)
    table = suspects(flipped, chances)
    first = turned[table["row"].to_numpy()[: turned.sum()]]
    called = table.loc[table["by"] == chances.shape[1], "row"].to_numpy()
    hit = int(turned[called].sum())
    return {
        "planted": int(turned.sum()),
        "recall": round(float(first.mean()), 6),
        "called": len(called),
        "called_recall": round(hit / int(turned.sum()), 6),
        "called_precision": round(hit / max(1, len(called)), 6),
    }


def unread(ds: Dataset) -> dict[str, float | int]:
    """Estimate how many Negative images show a crack that nobody has found, from those that were drawn at random.

    Returns:
        read (images), random and cracks (among them), share with low and high (its 95 % Wilson interval), unread
        (Negative images), and expected, expected_low and expected_high cracks among those. Empty where nobody has read.
    """
    table = datasets.reads(ds)
    random = table[table["drawn"] == "random"]
    if not len(random):
        return {}
    cracks = int((random["verdict"] == "crack").sum())
    share, (low, high) = cracks / len(random), evaluation.wilson(cracks, len(random))
    asked = (ds.given == 0) & (ds.index["number"] <= READ_TO)
    left = int((~ds.index["file"].isin(table["file"]) & asked).sum())
    found = {"read": len(table), "random": len(random), "cracks": cracks, "unread": left}
    found |= {name: round(value, 6) for name, value in (("share", share), ("low", low), ("high", high))}
    names = ("expected", "expected_low", "expected_high")
    return found | {name: round(value * left) for name, value in zip(names, (share, low, high), strict=True)}


def with_corrections(x: np.ndarray, given: np.ndarray, corrected: np.ndarray, manifest: pd.DataFrame) -> pd.DataFrame:
    """Train linear heads with the labels as given and as corrected, and test each against both, on one split.

    Returns:
        A row per training: trained_with, changed (labels in train and val that differ), errors_given,
        errors_corrected, n (of the test), changed_test.
    """
    from crackutils import features

    part = {name: (manifest["split"] == name).to_numpy() for name in splits.PARTS}
    rows = []
    for name, y in (("given", given), ("corrected", corrected)):
        head = features.fit(x[part["train"]], y[part["train"]], x[part["val"]], y[part["val"]], 1000)
        called = head.chances(x[part["test"]]) >= 0.5
        changed = given != corrected
        row = {"trained_with": name, "changed": int(changed[~part["test"]].sum()) if name == "corrected" else 0}
        row |= {"errors_given": int((called != given[part["test"]]).sum())}
        row |= {"errors_corrected": int((called != corrected[part["test"]]).sum())}
        rows.append(row | {"n": int(part["test"].sum()), "changed_test": int(changed[part["test"]].sum())})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- quality


def quality(ds: Dataset) -> pd.DataFrame:
    """Look for dark, bright, blurred, empty and oddly shaped images with cleanvision.

    Returns:
        A row per image in index order: row, and for each issue of cleanvision is_<issue>_issue and <issue>_score (0 the
        worst, 1 the best).

    Raises:
        CrackutilsError: cleanvision is missing.
    """
    try:
        from cleanvision import Imagelab
    except ImportError as error:
        raise CrackutilsError("The look at image quality needs cleanvision: run pip install cleanvision.") from error
    import contextlib
    import io

    files = [str(ds.folder / file) for file in ds.index["file"]]
    lab = Imagelab(filepaths=files)
    wanted = ("dark", "light", "blurry", "low_information", "odd_size", "odd_aspect_ratio")
    with contextlib.redirect_stdout(io.StringIO()):  # its report repeats what the table says
        lab.find_issues({name: {} for name in wanted}, n_jobs=1, verbose=False)
    return lab.issues.loc[files].reset_index(drop=True).assign(row=np.arange(len(files)))


# ---------------------------------------------------------------- leakage


def leakage(
    x: np.ndarray, y: np.ndarray, groups: dict[str, np.ndarray], near: dict[str, pd.DataFrame], seeds: Sequence[int]
) -> pd.DataFrame:
    """Train and test heads on frozen features over many splits of several methods, and sort the test errors.

    A split is one of ten bundles of whole groups for the test, two for validation and seven for training. The heads:
    linear (`features.fit` with the four strictest penalties, for speed: the recipe tries weaker ones too), dense (two
    layers of 128 and 64 units, as the published chernxi-mobilenetv2 has; Adam, up to the first of 20 epochs that does
    not lower the validation loss) and nearest (the label of the nearest training image).

    Args:
        x: float32 (n, dimensions), features.
        y: int (n,), 0 or 1.
        groups: per split method the group of each image, int (n,); single images for a random split.
        near: kinds of nearness, the closest first, each with a table of pairs a, b: an image is of the first kind of
            which it has a partner at all, or of the kind "none".
        seeds: of the splits.

    Returns:
        A row per method, seed, head, part (test, and val and train, which chose or taught the head), kind of nearness
        and in_training (whether a partner of that kind is in the training part): n and errors of those images.
    """
    kind = np.full(len(y), "none", object)
    for name, pairs in reversed(near.items()):
        kind[pairs[["a", "b"]].to_numpy(int).ravel()] = name
    ends = {name: pairs[["a", "b"]].to_numpy(int).T for name, pairs in near.items()}
    rows = []
    for method, ids in groups.items():
        for seed in config.progress(seeds, method, unit="split"):
            bundle = splits.pack(y, ids, splits.BUNDLES, seed)
            order = np.random.default_rng(seed).permutation(splits.BUNDLES)
            test, val = bundle == order[0], np.isin(bundle, order[1:3])
            train = ~test & ~val
            taught = np.zeros(len(y), bool)
            for name, (a, b) in ends.items():
                partner = np.zeros(len(y), bool)
                partner[a[train[b]]] = partner[b[train[a]]] = True
                taught |= partner & (kind == name)
            part = np.select([test, val], ["test", "val"], "train")
            for head, called in _called(x, y, train, val, seed).items():
                cells = pd.DataFrame({"part": part, "near": kind, "in_training": taught, "wrong": called != y})
                found = cells.groupby(["part", "near", "in_training"])["wrong"].agg(["size", "sum"]).reset_index()
                found = found.rename(columns={"size": "n", "sum": "errors"})
                rows.append(found.assign(method=method, seed=seed, head=head))
    return pd.concat(rows, ignore_index=True)


def _called(x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    from crackutils import features

    linear = features.fit(x[train], y[train], x[val], y[val], 1000, features.STRENGTHS[:4])
    scale = StandardScaler().fit(x[train])
    z = scale.transform(x)
    dense = MLPClassifier((128, 64), batch_size=min(64, int(train.sum())), learning_rate_init=1e-4, random_state=seed)
    best, kept = np.inf, None
    for _ in range(20):
        chances = dense.partial_fit(z[train], y[train], classes=[0, 1]).predict_proba(z)[:, 1]  # one epoch
        loss = evaluation.metrics(y[val], chances[val])["loss"]
        if loss >= best:
            break
        best, kept = loss, chances
    nearest = KNeighborsClassifier(1, metric="cosine").fit(x[train], y[train])
    called = y.copy()  # the nearest of a training image is the image itself
    called[~train] = nearest.predict(x[~train])
    return {
        "linear": (linear.chances(x) >= 0.5).astype(int),
        "dense": (kept >= 0.5).astype(int),
        "nearest": called,
    }


def leakage_summary(table: pd.DataFrame, by: Sequence[str] = ("head", "method")) -> pd.DataFrame:
    """Return the error rate over the splits of `leakage`, with a 95 % interval from the spread between splits.

    The interval is Student's of the mean over splits; they share images, so it is somewhat too narrow.

    Args:
        table: as `leakage` returns it, or some of its rows.
        by: what to keep apart.

    Returns:
        A row for each: n, errors, error_rate, low, high (fractions), and splits with such test images.
    """
    from scipy.stats import t as student

    rows = []
    for key, part in table.groupby(list(by), sort=False):
        each = part.groupby("seed")[["n", "errors"]].sum().query("n > 0")
        if not len(each):
            continue
        rate = (each["errors"] / each["n"]).to_numpy()
        mean, half = float(each["errors"].sum() / each["n"].sum()), 0.0
        if len(rate) > 1:
            half = float(student.ppf(0.975, len(rate) - 1) * rate.std(ddof=1) / np.sqrt(len(rate)))
        row = dict(zip(by, key, strict=True)) | {"n": int(each["n"].sum()), "errors": int(each["errors"].sum())}
        row |= {
            "error_rate": round(mean, 6),
            "low": round(max(0.0, mean - half), 6),
            "high": round(min(1.0, mean + half), 6),
        }
        rows.append(row | {"splits": len(each)})
    return pd.DataFrame(rows)


def protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Return the error rates that published protocols would report of the heads in `leakage`.

    Returns:
        A row per head and protocol: head, protocol, n, errors, error_rate, and flattery: how many times as high the
        error rate is on the photo-safe split (None below ten errors, where a ratio says nothing).
    """
    asked = {
        "tested on the training images (random split)": ("random", "train"),
        "tested on the images that chose the model (random split)": ("random", "val"),
        "random split": ("random", "test"),
        "copy-safe split": ("copy-safe", "test"),
        "photo-safe split": ("photo-safe", "test"),
    }
    rows = []
    for head, part in table.groupby("head", sort=False):
        total = {}
        for name, (method, which) in asked.items():
            cell = part[(part["method"] == method) & (part["part"] == which)]
            total[name] = int(cell["n"].sum()), int(cell["errors"].sum())
        n, errors = total["photo-safe split"]
        honest = errors / max(1, n)
        for name, (n, errors) in total.items():
            row = {"head": head, "protocol": name, "n": n, "errors": errors, "error_rate": round(errors / max(1, n), 6)}
            rows.append(row | {"flattery": round(honest / (errors / n), 2) if errors >= 10 else None})
    return pd.DataFrame(rows)
