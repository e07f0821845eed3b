"""Figures of notebook 08; each returns a matplotlib Figure, which `Run.show` saves."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import expit

from crackutils import plots

_MEASURES = {"width": "width of the longest dark shape", "darkness": "darkness of the crack"}
_MEASURES |= {"sharpness": "sharpness of the image"}


def domains(tables: dict[str, pd.DataFrame]) -> Figure:
    """Show width, depth and sharpness of cracked images, rows of `slices.measure_images` by name of their data set."""
    panels = {
        "width": "width of the longest dark shape\n(fraction of the side)",
        "depth": "darkness of the crack\n(grey levels)",
        "sharpness": "sharpness: finest against coarser\ndetail (ratio)",
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        edges = np.linspace(0, np.quantile(np.concatenate([t[column] for t in tables.values()]), 0.99), 40)
        for k, (name, table) in enumerate(tables.items()):
            share = np.histogram(np.minimum(table[column], edges[-1]), edges)[0] / max(len(table), 1)
            ax.stairs(share, edges, color=plots.PALETTE[k], linewidth=2, linestyle=("-", "--", ":")[k % 3], label=name)
        ax.set(xlabel=label, ylabel="share of cracked images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def methods(table: pd.DataFrame, aim: float | None = None) -> Figure:
    """Show AUROC with 95 % intervals, a row per method; columns method, auroc, low, high; `aim` draws a line."""
    figure, ax = plt.subplots(figsize=(9.5, 0.34 * len(table) + 1.2))
    for y, row in enumerate(table.itertuples()):
        if pd.notna(row.low):
            ax.plot([row.low, row.high], [y, y], color=plots.PALETTE[0], linewidth=2, alpha=0.6)
        ax.plot(row.auroc, y, "o", color=plots.PALETTE[0], markersize=7)
        ax.annotate(f"{row.auroc:.3f}", (row.auroc, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    if aim is not None:
        ax.axvline(aim, color="0.3", linestyle="--")
    ax.set_yticks(range(len(table)), table["method"])
    ax.set(ylim=(len(table) - 0.5, -0.8), xlabel="AUROC, with 95 % interval over photos (dashed: the aim)")
    return figure


def by_measure(table: pd.DataFrame) -> Figure:
    """Show AUROC by thirds of width, darkness and sharpness, a line per run; `table` is from `auroc_by_measure`."""
    ends = {"width": ("thin", "wide"), "darkness": ("faint", "clear"), "sharpness": ("blurred", "sharp")}
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    for ax, (measure, label) in zip(axes, _MEASURES.items(), strict=True):
        for k, (run, rows) in enumerate(table[table["measure"] == measure].groupby("run", sort=False)):
            ax.plot(rows["third"], rows["auroc"].astype(float), marker="osD^"[k % 4], **_line(k, run))
        ax.set_xticks([0, 1, 2], [f"{ends[measure][0]}\nthird", "middle", f"{ends[measure][1]}\nthird"])
        ax.set(xlabel=label, ylabel="AUROC (fraction)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def robustness(table: pd.DataFrame) -> Figure:
    """Show error rates by strength, a panel per corruption, a line per run; `table` is from `measure_robustness`."""
    kinds = [kind for kind in table["corruption"].unique() if kind != "none"]
    clean = table[table["corruption"] == "none"].set_index("run")["error_rate"]
    rows, highest = -(-len(kinds) // 4), max(0.55, 1.05 * table["error_rate"].max())
    figure, axes = plt.subplots(rows, 4, figsize=(12, 2.9 * rows + 0.5), sharey=True, squeeze=False)
    for ax, kind in zip(axes.ravel(), kinds, strict=False):
        for k, (run, some) in enumerate(table[table["corruption"] == kind].groupby("run", sort=False)):
            rate = [clean[run], *some.sort_values("strength")["error_rate"]]
            ax.plot(range(len(rate)), rate, marker="osD^vP"[k % 6], markersize=5, **_line(k, run))
        ax.set(title=kind, xlabel="strength (0: untouched)", ylabel="share that is wrong", ylim=(-0.02, highest))
    for ax in axes.ravel()[len(kinds) :]:
        ax.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _line(k: int, run: str) -> dict[str, Any]:
    return {"linestyle": ("-", "--", "-.", ":")[k % 4], "color": plots.PALETTE[k], "label": run}


def crack_maps(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str], title: str, bar: bool = True
) -> Figure:
    """Show images, uint8 (side, side, 3), three in a row, each beside its crack probabilities.

    Maps are logits (n, n) of any n. `bar` adds a scale of the probabilities; true masks need none.
    """
    if not len(images):
        return plots.image_grid([], title=title)
    rows = -(-len(images) // 3)
    figure, axes = plt.subplots(rows, 6, figsize=(12.6, 2.55 * rows + 1))
    for k, pair in enumerate(axes.reshape(-1, 2)):
        for ax in pair:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            if k < len(images):
                ax.imshow(images[k])
            else:
                ax.axis("off")
    for (left, right), image, logits, text in zip(axes.reshape(-1, 2), images, maps, titles, strict=False):
        frame, p = (-0.5, len(image) - 0.5, len(image) - 0.5, -0.5), expit(np.asarray(logits, float))
        shown = right.imshow(p, cmap="viridis", vmin=0, vmax=1, alpha=0.6, extent=frame, interpolation="nearest")
        left.set_title(text, fontsize=10)
    if bar:
        figure.colorbar(shown, ax=axes, label="probability of a crack", location="bottom", shrink=0.3, pad=0.03)
    figure.suptitle(title, fontsize=12)
    return figure
