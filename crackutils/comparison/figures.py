"""Figures of notebook 05; each returns a matplotlib Figure, which `Run.show` saves."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from crackutils.decisions import precision_at_prevalence
from crackutils.metrics import wilson
from crackutils.plots import PALETTE, image_grid

_KINDS = {  # colour, marker, place within the row, and text
    "copy-safe": (PALETTE[0], "o", -0.28, "here, copy-safe split"),
    "random": (PALETTE[1], "D", 0.0, "here, random split"),
    "published": (PALETTE[7], "s", 0.28, "published"),
}


def error_rates(table: pd.DataFrame) -> Figure:
    """Show error rates with 95 % Wilson intervals, a row per name.

    The columns are name, errors, n and kind ("copy-safe", "random" or "published"; a name has each at most once).
    """
    names = list(dict.fromkeys(table["name"]))
    figure, ax = plt.subplots(figsize=(10.5, 0.64 * len(names) + 1.3))
    floor = 0.1 / table["n"].min()
    for row in table.itertuples():
        low, high = (1 - v for v in wilson(row.n - row.errors, row.n)[::-1])
        colour, marker, offset, _ = _KINDS[row.kind]
        y = names.index(row.name) + offset
        ax.plot([max(low, floor), high], [y, y], color=colour, linewidth=2)
        # zero errors have no place on a log scale: an arrow stands for them
        ax.plot(max(row.errors / row.n, floor), y, marker if row.errors else "<", color=colour, markersize=6)
        ax.annotate(f"  {row.errors:,} of {row.n:,}", (high, y), va="center", fontsize=8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.hlines(np.arange(1, len(names)) - 0.5, 0, 1, "0.9", linewidth=0.8, transform=ax.get_yaxis_transform())
    ax.margins(x=0.18)
    ax.set(xscale="log", xlabel="share of test images that are wrong (log scale), with 95 % Wilson interval")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda share, _: np.format_float_positional(share, 6, trim="-"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    for kind, (colour, marker, _, text) in _KINDS.items():
        if (table["kind"] == kind).any():
            ax.plot([], [], marker, color=colour, label=text)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    return figure


def p_values(table: pd.DataFrame) -> Figure:
    """Show the exact McNemar test of each pair of models as a matrix; columns a, b, p_holm.

    p-values below 0.05 are bold on a dark ground: the error rates differ.
    """
    names = list(dict.fromkeys([*table["a"], *table["b"]]))
    if not names:
        return image_grid([], title="Tests between models: there is only one")
    side = 0.62 * len(names)
    figure, ax = plt.subplots(figsize=(side + 3.2, side + 2.2))
    for row in table.itertuples():
        told = row.p_holm < 0.05
        x, y = sorted((names.index(row.a), names.index(row.b)))
        colours = {"facecolor": PALETTE[0] if told else "0.95", "edgecolor": "white"}
        ax.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, **colours))
        text = f"{row.p_holm:.2f}" if row.p_holm >= 0.01 else f"{row.p_holm:.0e}".replace("e-0", "e-")
        style = {"color": "white", "weight": "bold"} if told else {"color": "0.3", "weight": "normal"}
        ax.text(x, y, text, ha="center", va="center", fontsize=8, **style)
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=40, ha="right")
    ax.set_yticks(range(1, len(names)), names[1:])
    ax.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 0.5, 0.5), xlabel="one model", ylabel="another")
    ax.grid(False)
    ax.set_title("p-values of the exact McNemar test, Holm-corrected (blue: below 0.05)")
    return figure


def time_against_accuracy(table: pd.DataFrame) -> Figure:
    """Show test accuracy against training time; columns name, minutes, accuracy."""
    figure, ax = plt.subplots(figsize=(9.5, 4.2))
    for k, row in enumerate(table.itertuples()):
        marker = "osD^vP"[k % 6]
        ax.plot(row.minutes, row.accuracy, marker, color=PALETTE[k % 10], markersize=10, alpha=0.85, label=row.name)
    ax.margins(0.1)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    ax.set(xlabel="training time on this machine (minutes)", ylabel="test accuracy (fraction)")
    return figure


def reliability(runs: dict[str, pd.DataFrame]) -> Figure:
    """Show shares of cracks against predicted probabilities, one panel per run (`metrics.reliability_table`)."""
    # by hand: scikit-learn's CalibrationDisplay has no intervals
    figure, axes = plt.subplots(1, len(runs), figsize=(4.4 * len(runs), 4.1), squeeze=False)
    for ax, (title, table) in zip(axes[0], runs.items(), strict=True):
        ax.plot([0, 1], [0, 1], ":", color="0.5", label="perfect")
        bars = [table["share"] - table["share_low"], table["share_high"] - table["share"]]
        look = {"fmt": "o", "color": PALETTE[0], "capsize": 3, "label": "test images"}
        ax.errorbar(table["p"], table["share"], np.maximum(bars, 0), **look)
        for row in table.itertuples():
            look = {"textcoords": "offset points", "fontsize": 7, "color": "0.35"}
            ax.annotate(f"{row.n:,}", (row.p, row.share), (5, -11), **look)
        ax.set(xlim=(-0.04, 1.09), ylim=(-0.06, 1.06), xlabel="predicted probability of a crack", title=title)
        ax.set_ylabel("share of images with a crack")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def cost_curves(labels: np.ndarray, p_crack: np.ndarray, threshold: float | None) -> Figure:
    """Show the cost of each threshold for several prices of a missed crack, on a logit axis.

    `threshold` was chosen on validation images; None if there is none.
    """
    labels, p = np.asarray(labels), np.clip(np.asarray(p_crack, np.float64), 1e-6, 1 - 1e-6)
    grid = 1 / (1 + np.exp(-np.linspace(-12, 12, 241)))
    missed = np.array([((p < t) & (labels == 1)).sum() for t in grid])
    alarms = np.array([((p >= t) & (labels == 0)).sum() for t in grid])
    figure, ax = plt.subplots(figsize=(8, 3.9))
    for k, price in enumerate((1, 10, 100)):
        cost = (price * missed + alarms) / len(labels)
        ax.plot(np.log(grid / (1 - grid)), cost, ("-", "--", "-.")[k], color=PALETTE[k], linewidth=2, label=f"{price}")
    ax.axvline(0, color="0.5", linestyle=":")
    if threshold is not None:
        ax.axvline(np.log(max(threshold, 1e-6) / (1 - min(threshold, 1 - 1e-6))), color="0.2", linestyle="--")
    ticks = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    ax.set_xticks([np.log(t / (1 - t)) for t in ticks], [f"{t:g}" for t in ticks])
    ax.set(xlabel="threshold (logit scale); dashed: chosen on validation images, dotted: 0.5", yscale="symlog")
    ax.set_yscale("symlog", linthresh=1 / len(labels))
    ax.set(ylabel="cost per image (false alarms)", ylim=(0, None))
    ax.legend(title="a missed crack costs\nas much as ... false alarms", fontsize=8)
    return figure


def prevalence(runs: dict[str, tuple[float, float]]) -> Figure:
    """Show precision against prevalence; `runs` holds recall and share of false alarms (fractions) by run."""
    figure, ax = plt.subplots(figsize=(8, 3.9))
    share = np.geomspace(1e-4, 0.5, 100)
    for k, (name, (recall, alarms)) in enumerate(runs.items()):
        precision = [precision_at_prevalence(s, recall, alarms) for s in share]
        style = ("-", "--", "-.", ":")[k // 3 % 4]
        ax.plot(share, np.array(precision, float), style, color=PALETTE[k % 10], linewidth=2, label=name)
    ax.axvline(0.01, color="0.5", linestyle=":")
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="share of images that are cracked (log scale)")
    ax.set_ylabel("precision: share of alarms\nthat are cracks")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def slices(table: pd.DataFrame) -> Figure:
    """Show the error rate of each run in each slice; columns run, slice, n, errors."""
    if not len(table):
        return image_grid([], title="No slice holds a test image")
    wrong = table.pivot_table(index="run", columns="slice", values="errors", sort=False)
    n = table.pivot_table(index="run", columns="slice", values="n", sort=False)
    rate = wrong / n
    order = rate.mean().sort_values(ascending=False).index
    text = [[f"{w:.0f}/{m:.0f}" for w, m in zip(wrong.loc[r, order], n.loc[r, order], strict=True)] for r in rate.index]
    figure, ax = plt.subplots(figsize=(1.15 * len(order) + 3.2, 0.42 * len(rate) + 1.6))
    texts = {"annot": np.array(text), "annot_kws": {"fontsize": 8}, "cbar_kws": {"label": "share that is wrong"}}
    sns.heatmap(rate[order], fmt="", cmap="Blues", vmin=0, ax=ax, **texts)
    ax.set(xlabel="slice of the test images, the weakest first (wrong / all)", ylabel="")
    return figure
