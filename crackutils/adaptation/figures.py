"""The figure of the learning curve."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crackutils import plots


def learning_curve(table: pd.DataFrame) -> Figure:
    """Show scores and gains by number of labelled tiles, with the middle 95 % of the draws; `curve` has the table."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.7))
    rows, at = table[table["n"] > 0], np.arange((table["n"] > 0).sum())
    names = {"auroc": "AUROC", "average_precision": "average precision"}
    for k, (score, name) in enumerate(names.items()):
        axes[0].axhline(table[score].iloc[0], color=plots.PALETTE[k], linestyle=":", label=f"{name}, unadapted")
        axes[0].plot(at, rows[score], "os"[k] + "-", color=plots.PALETTE[k], linewidth=2, label=f"{name}, adapted")
        gain = rows[f"{score}_gain"]
        bars = [gain - rows[f"{score}_gain_low"], rows[f"{score}_gain_high"] - gain]
        look = {"fmt": "os"[k], "color": plots.PALETTE[k], "capsize": 3}
        axes[1].errorbar(at + 0.14 * (k - 0.5), gain, np.maximum(bars, 0), **look)
    axes[1].axhline(0, color="0.3", linestyle="--")
    for ax, label in zip(axes, ("mean over the draws", "difference from unadapted"), strict=True):
        ax.set_xticks(at, [f"{n:,}" for n in rows["n"]])
        ax.set(xlabel="labelled tiles", ylabel=label, xlim=(-0.5, len(rows) - 0.5))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
