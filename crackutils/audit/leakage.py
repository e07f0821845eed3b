"""Doubts about the data and the models: wrong labels, image quality, leakage measured, accuracy per slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from crackutils.files import progress
from crackutils.metrics import score_predictions
from crackutils.splits.groups import pack_groups
from crackutils.splits.overlaps import BUNDLES


def measure_leakage(
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
        for seed in progress(seeds, method, unit="split"):
            bundle = pack_groups(y, ids, BUNDLES, seed)
            order = np.random.default_rng(seed).permutation(BUNDLES)
            test, val = bundle == order[0], np.isin(bundle, order[1:3])
            train = ~test & ~val
            taught = np.zeros(len(y), bool)
            for name, (a, b) in ends.items():
                partner = np.zeros(len(y), bool)
                partner[a[train[b]]] = partner[b[train[a]]] = True
                taught |= partner & (kind == name)
            part = np.select([test, val], ["test", "val"], "train")
            for head, called in _predicted_by_heads(x, y, train, val, seed).items():
                cells = pd.DataFrame({"part": part, "near": kind, "in_training": taught, "wrong": called != y})
                found = cells.groupby(["part", "near", "in_training"])["wrong"].agg(["size", "sum"]).reset_index()
                found = found.rename(columns={"size": "n", "sum": "errors"})
                rows.append(found.assign(method=method, seed=seed, head=head))
    return pd.concat(rows, ignore_index=True)


def _predicted_by_heads(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    from crackutils.linear import STRENGTHS, fit_linear_head

    linear = fit_linear_head(x[train], y[train], x[val], y[val], 1000, STRENGTHS[:4])
    scale = StandardScaler().fit(x[train])
    z = scale.transform(x)
    dense = MLPClassifier((128, 64), batch_size=min(64, int(train.sum())), learning_rate_init=1e-4, random_state=seed)
    best, kept = np.inf, None
    for _ in range(20):
        chances = dense.partial_fit(z[train], y[train], classes=[0, 1]).predict_proba(z)[:, 1]  # one epoch
        loss = score_predictions(y[val], chances[val])["loss"]
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


def summarize_leakage(table: pd.DataFrame, by: Sequence[str] = ("head", "method")) -> pd.DataFrame:
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


def protocol_table(table: pd.DataFrame) -> pd.DataFrame:
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
