"""Figures of the audit; the caller shows and saves them with `Run.show`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from crackutils import plots


def leakage(table: pd.DataFrame) -> Figure:
    """Show error rates with 95 % intervals, a row per head, a marker per split method.

    Args:
        table: columns head, method, error_rate, low, high (fractions).
    """
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
