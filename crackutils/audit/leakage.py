"""Measure the effect of leakage: error rates of heads on frozen features over many splits of several methods."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import t as student
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from crackutils import plots
from crackutils.files import progress
from crackutils.linear import STRENGTHS, fit_linear_head
from crackutils.metrics import log_loss
from crackutils.splits.check import leaked_test_images
from crackutils.splits.make import BUNDLES, pack_groups, spread_classes

_PROTOCOLS = {  # split method and tested part
    "tested on the training images (random split)": ("random", "train"),
    "tested on the images that chose the model (random split)": ("random", "val"),
    "random split": ("random", "test"),
    "copy-safe split": ("copy-safe", "test"),
    "photo-safe split": ("photo-safe", "test"),
}


def count_relatives(splits: dict[str, pd.DataFrame], near: dict[str, pd.DataFrame]) -> dict[str, dict[str, int]]:
    """Return for each split method the number of test images, and how many of them have a relative in training.

    `splits` holds manifests, `near` tables of pairs a, b by kind: the counts are test, and "with <kind>" for each.
    """
    parts = {method: manifest["split"].to_numpy() for method, manifest in splits.items()}
    kinds = {f"with {kind}": pairs for kind, pairs in near.items()}
    return {
        method: {"test": int((part == "test").sum())} | {k: leaked_test_images(part, v) for k, v in kinds.items()}
        for method, part in parts.items()
    }


def measure_leakage(
    x: np.ndarray, y: np.ndarray, groups: dict[str, np.ndarray], near: dict[str, pd.DataFrame], seeds: Sequence[int]
) -> pd.DataFrame:
    """Train and test heads on frozen features over many splits of several methods.

    A split has one of ten bundles of whole groups for the test, two for validation and seven for training; with too few
    groups, `spread_classes` makes it. The heads:
    linear (`fit_linear_head` with the four strongest penalties, for speed), dense (two layers of 128 and 64 units, as
    in the published chernxi-mobilenetv2; Adam, up to the first of 20 epochs that does not lower the validation loss)
    and nearest (the label of the nearest training image).

    Features x are float32 (n, dimensions), labels y (0 or 1) int (n,). `groups` holds the group of each image, int
    (n,), per split method; in a random split each image is a group. `near` holds tables of pairs a, b by kind of
    nearness, the closest first: the kind of an image is the first in which it has a partner, else "none".
    A row per method, seed, head, part (test; val and train, which chose or trained the head), kind of nearness and
    in_training (whether a partner of that kind is in the training part): n and errors of those images.
    """
    kind = np.full(len(y), "none", object)
    ends = {name: pairs[["a", "b"]].to_numpy(int).T for name, pairs in near.items()}
    for name in reversed(ends):
        kind[ends[name]] = name
    rows = []
    for method, ids in groups.items():
        for seed in progress(seeds, method, unit="split"):
            bundle = pack_groups(y, ids, BUNDLES, seed)
            order = np.random.default_rng(seed).permutation(BUNDLES)
            part = np.select([bundle == order[0], np.isin(bundle, order[1:3])], ["test", "val"], "train")
            part, _ = spread_classes(y, ids, part, seed)
            train = part == "train"
            in_training = np.zeros(len(y), bool)
            for name, (a, b) in ends.items():
                partners = np.concatenate([a[train[b]], b[train[a]]])
                in_training[partners] |= kind[partners] == name
            for head, called in _fit_heads(x, y, train, part == "val", seed).items():
                images = pd.DataFrame({"part": part, "near": kind, "in_training": in_training, "wrong": called != y})
                counts = images.groupby(["part", "near", "in_training"])["wrong"].agg(n="size", errors="sum")
                rows.append(counts.reset_index().assign(method=method, seed=seed, head=head))
    return pd.concat(rows, ignore_index=True)


def _fit_heads(x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the labels, (n,), that each head predicts for all images."""
    linear = fit_linear_head(x[train], y[train], x[val], y[val], 1000, STRENGTHS[:4])
    z = StandardScaler().fit(x[train]).transform(x)
    dense = MLPClassifier((128, 64), batch_size=min(64, int(train.sum())), learning_rate_init=1e-4, random_state=seed)
    best, best_loss = None, np.inf
    for _ in range(20):
        p = dense.partial_fit(z[train], y[train], classes=[0, 1]).predict_proba(z)[:, 1]  # one epoch
        loss = round(log_loss(y[val], p[val]), 6)
        if loss >= best_loss:
            break
        best, best_loss = p, loss
    nearest = y.copy()  # the nearest of a training image is the image itself
    nearest[~train] = KNeighborsClassifier(1, metric="cosine").fit(x[train], y[train]).predict(x[~train])
    return {"linear": linear.probabilities(x) >= 0.5, "dense": best >= 0.5, "nearest": nearest}


def summarize_leakage(table: pd.DataFrame, by: Sequence[str] = ("head", "method")) -> pd.DataFrame:
    """Return the error rate over splits for rows of `measure_leakage`, grouped by columns.

    A row per group: its columns, n, errors, error_rate, low, high (fractions), and splits with such images. The 95 %
    interval is Student's t interval of the mean over splits. The splits share images, so it is slightly too narrow.
    """
    rows = []
    for key, part in table[table["n"] > 0].groupby(list(by), sort=False):
        splits = part.groupby("seed")[["n", "errors"]].sum()
        n, errors = (int(total) for total in splits.sum())
        rate, k = (splits["errors"] / splits["n"]).to_numpy(), len(splits)
        half = float(student.ppf(0.975, k - 1) * rate.std(ddof=1) / np.sqrt(k)) if k > 1 else 0.0
        row = {"n": n, "errors": errors, "error_rate": round(errors / n, 6)}
        row |= {"low": round(max(0.0, errors / n - half), 6), "high": round(min(1.0, errors / n + half), 6)}
        rows.append(dict(zip(by, key, strict=True)) | row | {"splits": k})
    return pd.DataFrame(rows)


def plot_leakage(table: pd.DataFrame) -> Figure:
    """Show the error rates of `summarize_leakage` with 95 % intervals, a row per head, a marker per split method."""
    heads, methods = list(table["head"].unique()), list(table["method"].unique())
    figure, ax = plt.subplots(figsize=(8.5, 0.85 * len(heads) + 1.4))
    for row in table.itertuples():
        k = methods.index(row.method)
        y = heads.index(row.head) + 0.22 * (k - (len(methods) - 1) / 2)
        ax.plot([row.low, row.high], [y, y], color=plots.PALETTE[k], linewidth=2)
        ax.plot(row.error_rate, y, "oDs^"[k], color=plots.PALETTE[k], markersize=7)
        ax.annotate(f"  {row.error_rate:.2%}", (row.high, y), va="center", fontsize=8)
    for k, method in enumerate(methods):
        ax.plot([], [], "oDs^"[k], color=plots.PALETTE[k], label=method)
    ax.set_yticks(range(len(heads)), heads)
    ax.set(ylim=(len(heads) - 0.5, -0.5), xlabel="share of test images that are wrong, with 95 % interval over splits")
    ax.set_xlim(0, 1.14 * table["high"].max() or 1)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    return figure


def protocol_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the error rates that published protocols would report for the heads in `measure_leakage`.

    A row per head and protocol: head, protocol, n, errors, error_rate, and flattery, the error rate on the photo-safe
    split divided by this one (None below ten errors, where a ratio has no meaning, and without a photo-safe split).
    """
    rows = []
    for head, part in table.groupby("head", sort=False):
        counts = part.groupby(["method", "part"])[["n", "errors"]].sum().reindex([*_PROTOCOLS.values()], fill_value=0)
        n, errors = counts.loc["photo-safe", "test"].tolist()
        photo_safe = errors / n if n else None
        for name, (n, errors) in zip(_PROTOCOLS, counts.to_numpy().tolist(), strict=True):
            row = {"head": head, "protocol": name, "n": n, "errors": errors, "error_rate": round(errors / max(1, n), 6)}
            known = errors >= 10 and photo_safe is not None
            rows.append(row | {"flattery": round(photo_safe / (errors / n), 2) if known else None})
    return pd.DataFrame(rows)
