"""Figures. Every function returns a matplotlib Figure; the caller saves and shows it with `Run.show`."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from crackutils import config
from crackutils.metrics import ranking_metrics

PALETTE = sns.color_palette("colorblind")  # distinguishable for colour-blind readers
COLOURS = {config.CLASSES[0]: PALETTE[0], config.CLASSES[1]: PALETTE[1]}
WRONG = PALETTE[3]

sns.set_theme(style="whitegrid", palette="colorblind")
plt.rcParams.update({"figure.dpi": 80, "figure.constrained_layout.use": True, "axes.titlesize": 11})


def image_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 3,
    title: str = "",
    wrong: Sequence[bool] | None = None,
    side: float = 1.9,
) -> Figure:
    """Show uint8 images (height, width, 3) or (height, width) in a grid, each `side` inches wide.

    `wrong` marks images with a thick frame and a title in another colour.
    """
    if not images:
        figure, ax = plt.subplots(figsize=(6, 0.6))  # a figure without axes would be shown as text
        ax.text(0, 0.5, f"{title} - nothing to show", va="center", fontsize=12)
        ax.axis("off")
        return figure
    rows, tall = -(-len(images) // columns), side * max(image.shape[0] / image.shape[1] for image in images)
    tall += 0.15 + 0.2 * max(text.count("\n") + 1 for text in titles or [""])
    figure, axes = plt.subplots(rows, columns, figsize=(columns * side, rows * tall + 0.4), squeeze=False)
    for k, ax in enumerate(axes.ravel()):
        ax.set(xticks=[], yticks=[])
        if k >= len(images):
            ax.axis("off")
            continue
        ax.imshow(images[k], cmap="gray", vmin=0, vmax=255)
        bad = bool(wrong[k]) if wrong is not None else False
        if titles is not None:
            ax.set_title(titles[k], fontsize=9, color=WRONG if bad else "black")
        for spine in ax.spines.values():
            spine.set(edgecolor=WRONG if bad else "0.8", linewidth=3 if bad else 1)
    figure.suptitle(title, fontsize=12)
    return figure


def picture(image: np.ndarray, title: str) -> Figure:
    """Show one uint8 (height, width, 3) image, its longer side 11 inches."""
    height, width = image.shape[:2]
    scale = 11 / max(height, width)
    figure, ax = plt.subplots(figsize=(max(width * scale, 4), height * scale + 0.5))
    ax.imshow(image)
    ax.axis("off")
    ax.set_title(title)
    return figure


def photos(images: Sequence[np.ndarray], masks: Sequence[np.ndarray], cuts: Sequence[pd.DataFrame]) -> Figure:
    """Show photos with frames around the patches that were cut from them, and their crack masks (0-255) below.

    `cuts` has per photo a table with x, y (left, top), side (pixels) and label.
    """
    n = len(images)
    if not n:
        return image_grid([], title="The photos that these images were cut from are not known")
    figure, axes = plt.subplots(2, n, figsize=(4.2 * n, 6.6), squeeze=False)
    for k in range(n):
        axes[0, k].imshow(images[k])
        axes[1, k].imshow(masks[k], cmap="gray", vmin=0, vmax=255)
        axes[1, k].set_title(f"its crack mask: {(masks[k] > 127).mean():.2%} of the pixels", fontsize=9)
        for row in cuts[k].itertuples():
            style = {"ec": COLOURS[config.CLASSES[row.label]], "ls": "-" if row.label else "--", "lw": 1.5}
            axes[0, k].add_patch(plt.Rectangle((row.x, row.y), row.side, row.side, fill=False, **style))
    for ax in axes.ravel():
        ax.axis("off")
    figure.suptitle("Photos, with frames where patches were cut: solid with a crack, dashed without", fontsize=12)
    return figure


def pairs(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], titles: Sequence[tuple[str, str]], title: str
) -> Figure:
    """Show pairs of images, one above the other; each pair has a title for its upper and its lower image."""
    n = len(left)
    if not n:
        return image_grid([], title=title)
    figure, axes = plt.subplots(2, n, figsize=(n * 1.9, 4.7), squeeze=False)
    for k in range(n):
        for ax, image, text in zip(axes[:, k], (left[k], right[k]), titles[k], strict=True):
            ax.imshow(image)
            ax.set_title(text, fontsize=8)
    for ax in axes.ravel():
        ax.axis("off")
    figure.suptitle(title, fontsize=12)
    return figure


def curves(history: pd.DataFrame) -> Figure:
    """Show loss and accuracy of train and val by epoch; a dotted line marks the start of each further stage.

    A linear head has no epochs: for it, both are shown by the strength of the penalty.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.5))
    linear = "C" in history and history["C"].notna().all()
    x = history["C"] if linear else np.arange(1, len(history) + 1)
    for ax, column, text in zip(axes, ("loss", "accuracy"), ("loss (nats)", "accuracy (fraction)"), strict=True):
        ax.plot(x, history[column], "o-", color=PALETTE[0], label="train" if linear else "train (augmented)")
        ax.plot(x, history[f"val_{column}"], "s--", color=PALETTE[1], label="val")
        if linear:
            ax.set(xlabel="C, one over the strength of the L2 penalty", ylabel=text, xscale="log")
            continue
        begins = np.flatnonzero(history["stage"].to_numpy()[1:] != history["stage"].to_numpy()[:-1]) + 1
        for start, name in zip([0, *begins], pd.unique(history["stage"]), strict=True):
            if start:
                ax.axvline(start + 0.5, color="0.5", linestyle=":")
            ax.text(start + 0.6, 1.01, name, transform=ax.get_xaxis_transform(), fontsize=9, color="0.35")
        ax.set(xlabel="epoch", ylabel=text, xlim=(0.5, len(history) + 0.5))
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes[0].set_yscale("log")
    axes[0].legend()
    return figure


def confusion(scores: dict[str, Any]) -> Figure:
    """Show a confusion matrix, rows true and columns predicted, with counts and shares of the true class."""
    figure, ax = plt.subplots(figsize=(4.6, 3.8))
    _confusion(ax, scores, config.CLASSES)
    ax.set(title=f"Confusion matrix, {scores['n']:,} test images")
    return figure


def confusion_swapped(scores: dict[str, Any]) -> Figure:
    """Show a confusion matrix twice: with the class names in the right order, and swapped."""
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.8))
    _confusion(axes[0], scores, config.CLASSES)
    _confusion(axes[1], scores, config.CLASSES[::-1])
    axes[0].set_title("Names in the order of the labels")
    axes[1].set_title("Names swapped, the same numbers", color=WRONG)
    return figure


def _confusion(ax: Any, scores: dict[str, Any], names: Sequence[str]) -> None:
    # by hand: scikit-learn's ConfusionMatrixDisplay shows counts or shares, not both
    counts = np.array([[scores["tn"], scores["fp"]], [scores["fn"], scores["tp"]]])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    text = np.array([f"{c:,}\n{s:.2%}" for c, s in zip(counts.flat, share.flat, strict=True)]).reshape(2, 2)
    ticks = {"xticklabels": names, "yticklabels": names, "cbar_kws": {"label": "share of the true class"}}
    sns.heatmap(share, annot=text, fmt="", cmap="Blues", vmin=0, vmax=1, ax=ax, **ticks)
    ax.set(xlabel="predicted", ylabel="true")


def roc_pr(labels: np.ndarray, p_crack: np.ndarray) -> Figure:
    """Show the receiver operating characteristic and precision against recall, with the area under each."""
    scores = ranking_metrics(labels, p_crack)
    if scores["auroc"] is None:
        raise config.CrackutilsError("All test images are of one class, so there is no ROC. Add images of the other.")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.6))
    RocCurveDisplay.from_predictions(labels, p_crack, plot_chance_level=True, ax=left)
    PrecisionRecallDisplay.from_predictions(labels, p_crack, plot_chance_level=True, ax=right)
    left.set(title=f"ROC, area {scores['auroc']:.5f}", xlabel="false alarm rate", ylabel="recall")
    right.set(title=f"Average precision {scores['average_precision']:.5f}", xlabel="recall", ylabel="precision")
    return figure


def probabilities(labels: np.ndarray, p_crack: np.ndarray) -> Figure:
    """Show the distribution of the predicted probabilities by class, counts on a logarithmic scale."""
    table = pd.DataFrame({"p": p_crack, "class": np.array(config.CLASSES)[labels]})
    figure, ax = plt.subplots(figsize=(7, 3.2))
    bins = {"bins": 40, "binrange": (0, 1), "element": "step"}
    sns.histplot(table, x="p", hue="class", hue_order=config.CLASSES, palette=COLOURS, ax=ax, **bins)
    ax.axvline(0.5, color="0.3", linestyle="--")
    sns.move_legend(ax, "lower center", bbox_to_anchor=(0.5, 1), ncol=2, title="", frameon=False)
    ax.set(yscale="log", ylim=(0.7, None), xlabel="predicted probability of a crack", ylabel="number of images (log)")
    return figure


def predicted_against_true(images: Sequence[np.ndarray], table: pd.DataFrame, title: str) -> Figure:
    """Show images with predicted and true class and probability; wrong ones are framed.

    `table` has the columns file, label, p_crack, a row per image; 0.5 and above count as crack.
    """
    called = (table["p_crack"] >= 0.5).astype(int).to_numpy()
    titles = [
        f"{file[0]}/{file.split('/')[-1]}\ntrue {config.CLASSES[y]}\npredicted {config.CLASSES[c]}, p {p:.3f}"
        for file, y, c, p in zip(table["file"], table["label"], called, table["p_crack"], strict=True)
    ]
    return image_grid(images, titles, 6, title, list(called != table["label"].to_numpy()), side=2.0)


def worst(table: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Return the `count` predictions with the largest error, the largest first."""
    off = (table["p_crack"] - table["label"]).abs()
    return table.assign(off=off).sort_values(["off", "file"], ascending=[False, True], kind="stable").head(count)
