"""The learning curve: the gain on other photos of a site, by number of labelled tiles."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from crackutils import config, plots
from crackutils.detector.head import fit_head
from crackutils.files import progress

SCORES = {"auroc": roc_auc_score, "average_precision": average_precision_score}
_CURVE = ["n", "draws", *(f"{score}{part}" for score in SCORES for part in ("", "_gain", "_gain_low", "_gain_high"))]


def learning_curve(
    x: np.ndarray,
    labels: np.ndarray,
    photos: np.ndarray,
    ns: Sequence[int] = (20, 50, 100, 500),
    draws: int = 20,
    seed: int = config.DEFAULT_SEED,
) -> pd.DataFrame:
    """Measure the scores of adapted heads on other photos of the site, by number of labelled tiles.

    Each draw divides the photos into two halves. From one, n tiles are drawn, stratified by label, and a head is fitted
    to them (`fit_head`); the other half tests it and the unadapted network. An interval holds the middle 95 % of the
    draws' differences from the unadapted network. The draws share photos, so it is approximate: it shows how much
    depends on the choice of photos and tiles, and is too narrow for a further site.

    `x`, (tiles, 1 + features), and `labels`, int (tiles,), are those of `fit_head`; `ns` that do not fit into half of
    the `photos`, (tiles,), in every draw are left out. Returned is a row per n, n = 0 (unadapted) first: n, draws;
    auroc and average_precision, means over the draws; and of both _gain, the mean difference from unadapted, with
    _gain_low and _gain_high. Raises CrackutilsError for under four photos, a class in under two, or if no n fits.
    """
    x, labels, photos = np.asarray(x), np.asarray(labels, int), np.unique(photos, return_inverse=True)[1]
    halves = _draw_halves(labels, photos, draws, seed)
    room = min(len(order) for order, _ in halves)
    if not (fitting := [n for n in sorted(set(ns)) if n <= room]):
        why = f"half of the photos may hold only {room} labelled tiles, and it needs {min(ns)}"
        raise config.CrackutilsError(f"There is no learning curve: {why}. Label more tiles.")
    found = np.zeros((draws, 1 + len(fitting), len(SCORES)))
    for draw, (order, test) in enumerate(progress(halves, "learning curve", unit="draw")):
        found[draw, 0] = [score(labels[test], x[test, 0]) for score in SCORES.values()]
        for k, n in enumerate(fitting, 1):
            rows = _stratified(order, labels, n)
            weights, bias, _ = fit_head(x[rows], labels[rows], photos[rows], seed)
            found[draw, k] = [score(labels[test], x[test] @ weights + bias) for score in SCORES.values()]
    gains = found - found[:, :1]
    low, high = np.quantile(gains, [(1 - 0.95) / 2, (1 + 0.95) / 2], axis=0)
    rows = []
    for k, n in enumerate([0, *fitting]):
        parts = [(found[:, k, s].mean(), gains[:, k, s].mean(), low[k, s], high[k, s]) for s in range(len(SCORES))]
        rows.append([n, draws, *sum(parts, ())])
    return pd.DataFrame(rows, columns=_CURVE)


def try_learning_curve(*data: np.ndarray, **options: Any) -> tuple[pd.DataFrame, str]:
    """Return `learning_curve` of these arguments and an empty text; or a table without rows and the reason."""
    try:
        return learning_curve(*data, **options), ""
    except config.CrackutilsError as error:
        return pd.DataFrame(columns=_CURVE), str(error)


def _draw_halves(labels: np.ndarray, photos: np.ndarray, draws: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return per draw the rows of one half of the photos, in random order, and of the other; both hold both classes."""
    for label, name in enumerate(config.CLASSES):
        if (count := len(np.unique(photos[labels == label]))) < 2:
            why = f"{name} tiles come from {count} photo{'s' * (count != 1)}, and both halves of the photos need some"
            raise config.CrackutilsError(f"There is no learning curve: {why}. Label tiles of further photos.")
    if photos.max() < 3:
        why = f"the tiles come from {photos.max() + 1} photos, too few to choose the penalty on half of them"
        raise config.CrackutilsError(f"There is no learning curve: {why}. Label tiles of at least 4 photos.")
    halves = []
    for draw in range(draws):
        rng, half = np.random.default_rng([seed, draw]), np.zeros(len(labels), bool)
        # with two photos of each class, some draw soon has both classes in both halves
        while any(len(np.unique(labels[side])) < 2 for side in (half, ~half)):
            order = rng.permutation(photos.max() + 1)
            half = np.isin(photos, order[: (len(order) + rng.integers(2)) // 2])
        halves.append((rng.permutation(np.flatnonzero(half)), np.flatnonzero(~half)))
    return halves


def _stratified(order: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """Return the first n rows in `order`, with the class shares of all rows, and at least one of each class."""
    cracks, others = (order[labels[order] == label] for label in (1, 0))
    count = int(np.clip(round(n * len(cracks) / len(order)), max(1, n - len(others)), min(n - 1, len(cracks))))
    return np.concatenate([cracks[:count], others[: n - count]])


def describe_gain(curve: pd.DataFrame) -> str:
    """Return sentences on the number of labels from which the intervals of the scores' gains stay above 0."""
    told, gained = [], False
    for score, name in {"auroc": "AUROC", "average_precision": "average precision"}.items():
        before, rows = curve[score].iloc[0], curve.iloc[1:]
        never = np.flatnonzero(rows[f"{score}_gain_low"] <= 0)
        after = rows.iloc[never[-1] + 1 :] if len(never) else rows  # from here on, all are above 0
        row = after.iloc[0] if len(after) else rows.iloc[-1]
        gain, low, high = (row[f"{score}_gain{part}"] for part in ("", "_low", "_high"))
        labels = f"{row['n']:.0f} labels"
        what = f"a reliable gain from {labels} on{', the fewest tried' * (not len(never))}"
        what = what if len(after) else f"no reliable gain; with {labels}"
        gain = f"{gain:+.3f} (95 % of the draws {low:+.3f} to {high:+.3f})"
        told.append(f"{name}: {what}, {row[score]:.3f} against {before:.3f} unadapted, {gain}.")
        gained |= len(after) > 0
    return " ".join([*told, *([] if gained else ["Prefer the unadapted model."])])


def plot_learning_curve(table: pd.DataFrame) -> Figure:
    """Show scores and gains by number of labelled tiles, with the middle 95 % of the draws."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.7))
    rows, at = table[table["n"] > 0], np.arange((table["n"] > 0).sum())
    for k, (score, name) in enumerate({"auroc": "AUROC", "average_precision": "average precision"}.items()):
        axes[0].axhline(table[score].iloc[0], color=plots.PALETTE[k], linestyle=":", label=f"{name}, unadapted")
        axes[0].plot(at, rows[score], "os"[k] + "-", color=plots.PALETTE[k], linewidth=2, label=f"{name}, adapted")
        gain = rows[f"{score}_gain"]
        bars = np.maximum([gain - rows[f"{score}_gain_low"], rows[f"{score}_gain_high"] - gain], 0)
        axes[1].errorbar(at + 0.14 * (k - 0.5), gain, bars, fmt="os"[k], color=plots.PALETTE[k], capsize=3)
    axes[1].axhline(0, color="0.3", linestyle="--")
    for ax, label in zip(axes, ("mean over the draws", "difference from unadapted"), strict=True):
        ax.set_xticks(at, [f"{n:,}" for n in rows["n"]])
        ax.set(xlabel="labelled tiles", ylabel=label, xlim=(-0.5, len(rows) - 0.5))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
