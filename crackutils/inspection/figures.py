"""Figures of notebook 09; each returns a matplotlib Figure, which `Run.show` saves."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crackutils import plots
from crackutils.inspection.attention import Look


def inspection(image: np.ndarray, p: np.ndarray, overlay: np.ndarray) -> Figure:
    """Show a photo, uint8 (h, w, 3), the probabilities of a crack, float (h, w), and larger its `draw_overlay`."""
    height, width = image.shape[:2]
    places = [["photo", "found"], ["probability of a crack", "found"]]
    size = (12, 8 * height / width + 1)
    figure, axes = plt.subplot_mosaic(places, figsize=size, width_ratios=(1, 2))
    shown = axes[places[1][0]].imshow(p, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes["photo"].imshow(image)
    axes["found"].imshow(overlay)
    for title, ax in axes.items():
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)
    figure.colorbar(shown, ax=axes[places[1][0]], label="probability", location="bottom", shrink=0.8, pad=0.03)
    return figure


def lengths(table: pd.DataFrame) -> Figure:
    """Show measured against true lengths; `table` has a row per photo: style, length_true and length_found, pixels."""
    figure, ax = plt.subplots(figsize=(5.5, 5))
    most = 1.08 * max(table["length_true"].max(), table["length_found"].max(), 1)
    ax.plot([0, most], [0, most], "--", color="0.4", linewidth=1)
    for k, (style, rows) in enumerate(table.groupby("style")):
        both = rows["length_true"], rows["length_found"]
        ax.plot(*both, "osD^"[k % 4], color=plots.PALETTE[k], markersize=8, label=style)
    ax.set(xlabel="true length (pixels)", ylabel="length as found (pixels)", xlim=(0, most), ylim=(0, most))
    ax.legend(title="cracks")
    return figure


def attention(images: Sequence[np.ndarray], labels: np.ndarray, looks: dict[str, Look], each: int = 2) -> Figure:
    """Show heat maps, a row per run: `each` found cracks, missed cracks and false alarms; most confident first.

    Images are uint8 (h, w, 3), labels int (n,), 1 for crack.
    """
    kinds = {"found": (1, True), "missed": (1, False), "false alarm": (0, True)}
    figure, axes = plt.subplots(len(looks), 3 * each, figsize=(1.75 * 3 * each, 2.1 * len(looks) + 0.5), squeeze=False)
    for row, (name, look) in zip(axes, looks.items(), strict=True):
        for k, (kind, (label, called)) in enumerate(kinds.items()):
            those = np.flatnonzero((labels == label) & ((look.p >= 0.5) == called))
            those = those[np.argsort(-np.abs(look.p[those] - 0.5), kind="stable")]
            for j, ax in enumerate(row[k * each : (k + 1) * each]):
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                if j >= len(those):
                    ax.text(0.5, 0.5, f"{kind}: none" if not j else "", ha="center", va="center", fontsize=8)
                    ax.axis("off")
                    continue
                over = {"extent": ax.imshow(images[those[j]]).get_extent(), "alpha": 0.5, "interpolation": "bilinear"}
                ax.imshow(look.heat[those[j]], cmap="viridis", vmin=0, vmax=1, **over)
                ax.set_title(f"{kind}, p = {look.p[those[j]]:.2f}", fontsize=8)
        beside = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 8}  # an axis that is off has no label
        row[0].text(-0.08, 0.5, name, transform=row[0].transAxes, **beside)
    return figure
