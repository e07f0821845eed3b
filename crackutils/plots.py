"""Figures. Every function returns a matplotlib Figure; the caller saves and shows it with `Run.show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from crackutils import config
from crackutils.decisions import precision_at_prevalence
from crackutils.metrics import score_predictions, wilson

PALETTE = sns.color_palette("colorblind")  # made to be told apart by colour-blind readers
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
    """Show images in a grid.

    Args:
        images: uint8 (height, width, 3) or (height, width) arrays.
        titles: one per image.
        columns: images per row.
        title: of the figure.
        wrong: marks images with a thick frame and a title in another colour.
        side: width of one image, inches.
    """
    if not images:
        figure, ax = plt.subplots(figsize=(6, 0.6))  # a figure without axes would be shown as text
        ax.text(0, 0.5, f"{title} - nothing to show", va="center", fontsize=12)
        ax.axis("off")
        return figure
    rows, tall = -(-len(images) // columns), side * max(image.shape[0] / image.shape[1] for image in images)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * side, rows * (tall + 0.35) + 0.4), squeeze=False)
    for k, ax in enumerate(axes.ravel()):
        ax.set_xticks([])
        ax.set_yticks([])
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


def picture(image: np.ndarray, title: str, longest: float = 11.0) -> Figure:
    """Show one uint8 (height, width, 3) image, its longer side `longest` inches."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    figure, ax = plt.subplots(figsize=(max(width * scale, 4), height * scale + 0.5))
    ax.imshow(image)
    ax.axis("off")
    ax.set_title(title)
    return figure


def photos(images: Sequence[np.ndarray], masks: Sequence[np.ndarray], cuts: Sequence[pd.DataFrame]) -> Figure:
    """Show photos with frames around the patches that were cut from them, and their crack masks below.

    Args:
        images: uint8 (height, width, 3) arrays.
        masks: uint8 (height, width), 0-255.
        cuts: per photo a table with x, y (left, top), side (pixels) and label.
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
            colour = COLOURS[config.CLASSES[row.label]]
            style = "-" if row.label else "--"
            axes[0, k].add_patch(
                plt.Rectangle((row.x, row.y), row.side, row.side, fill=False, ec=colour, ls=style, lw=1.5)
            )
    for ax in axes.ravel():
        ax.axis("off")
    figure.suptitle("Photos, with frames where patches were cut: solid with a crack, dashed without", fontsize=12)
    return figure


def split_counts(manifest: pd.DataFrame) -> Figure:
    """Show how many images of each class are in train, val and test."""
    counts = manifest.groupby(["split", "label"]).size().reset_index(name="images")
    counts["class"] = counts["label"].map(dict(enumerate(config.CLASSES)))
    figure, ax = plt.subplots(figsize=(6, 3.4))
    sns.barplot(counts, x="split", y="images", hue="class", order=["train", "val", "test"], palette=COLOURS, ax=ax)
    for bars in ax.containers:
        ax.bar_label(bars, fmt="{:,.0f}", fontsize=9)
    ax.set(xlabel="part of the split", ylabel="number of images", title="Images per part and class")
    ax.legend(title="")
    return figure


def sizes(index: pd.DataFrame) -> Figure:
    """Show the ten most frequent image sizes, and the distribution of file sizes by class."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    shape = (index["width"].astype(str) + "x" + index["height"].astype(str)).value_counts().head(10)
    bars = left.barh(shape.index[::-1], shape.to_numpy()[::-1], 0.6, color=PALETTE[7])
    left.set_ylim(-1, max(len(shape), 2))
    left.margins(x=0.15)
    left.bar_label(bars, fmt="{:,.0f}", fontsize=9)
    left.set(xlabel="number of images", ylabel="width x height (pixels)", title="Image sizes")
    table = pd.DataFrame({"kB": index["bytes"] / 1000, "class": index["label"].map(dict(enumerate(config.CLASSES)))})
    sns.histplot(
        table, x="kB", hue="class", hue_order=config.CLASSES, palette=COLOURS, element="step", bins=60, ax=right
    )
    right.get_legend().set_title("")
    right.set(xlabel="file size (kB)", ylabel="number of images", title="File sizes")
    return figure


def brightness_contrast(grey: np.ndarray, labels: np.ndarray) -> Figure:
    """Show mean and standard deviation of the grey levels by class; grey is uint8 (n, height, width)."""
    flat = grey.reshape(len(grey), -1)
    table = pd.DataFrame({"mean": flat.mean(1), "std": flat.std(1), "class": np.array(config.CLASSES)[labels]})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    names = (("mean", "brightness: mean grey level (0-255)"), ("std", "contrast: deviation of grey levels (0-255)"))
    for ax, (column, text) in zip(axes, names, strict=True):
        sns.histplot(
            table,
            x=column,
            hue="class",
            hue_order=config.CLASSES,
            palette=COLOURS,
            element="step",
            bins=60,
            ax=ax,
            alpha=0.3,
        )
        ax.get_legend().set_title("")
        ax.set(xlabel=text, ylabel="number of images")
    figure.suptitle("Brightness and contrast by class")
    return figure


def mean_images(grey: np.ndarray, labels: np.ndarray) -> Figure:
    """Show the mean grey image of each class and their difference; grey is uint8 (n, height, width)."""
    means = [grey[labels == k].mean(0) for k in (0, 1)]
    low, high = min(m.min() for m in means), max(m.max() for m in means)
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.1))
    for ax, mean, name in zip(axes, means, config.CLASSES, strict=False):
        shown = ax.imshow(mean, cmap="gray", vmin=low, vmax=high)
        ax.set_title(f"mean {name} image")
    figure.colorbar(shown, ax=axes[:2], label="grey level (0-255)", shrink=0.8)
    gap = means[1] - means[0]
    shown = axes[2].imshow(gap, cmap="vlag", vmin=-abs(gap).max(), vmax=abs(gap).max())
    axes[2].set_title("Positive minus Negative")
    figure.colorbar(shown, ax=axes[2], label="grey levels", shrink=0.8)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
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


def architecture(model: Any) -> Figure:
    """Draw a model's layers from input to output with their output shapes and parameters; a backbone is one box."""
    boxes = []
    for layer in model.layers:
        shape = " x ".join(str(s) for s in layer.output.shape[1:])
        inner = f", {len(layer.layers)} layers" if hasattr(layer, "layers") else ""
        kind = "Backbone" if inner else type(layer).__name__.replace("InputLayer", "Input")
        boxes.append((kind, layer.name, shape, layer.count_params(), inner, bool(layer.trainable_weights)))
    figure, ax = plt.subplots(figsize=(8.4, 0.52 * len(boxes) + 0.7))
    for k, (kind, name, shape, count, inner, trained) in enumerate(boxes):
        y = len(boxes) - k
        colour = PALETTE[2] if trained else (PALETTE[9] if count else "0.93")
        ax.add_patch(
            plt.Rectangle((0, y - 0.36), 10, 0.72, facecolor=(*matplotlib.colors.to_rgb(colour), 0.35), edgecolor="0.4")
        )
        ax.text(0.2, y, kind, va="center", weight="bold", fontsize=10)
        ax.text(3.6, y, f"{name}{inner}", va="center", fontsize=9)
        ax.text(7.9, y, shape, va="center", ha="right", fontsize=9)
        ax.text(9.8, y, f"{count:,}" if count else "-", va="center", ha="right", fontsize=9)
        if k:
            ax.annotate("", (5, y + 0.36), (5, y + 0.64), arrowprops={"arrowstyle": "->", "color": "0.4"})
    for x, text, side in (
        (0.2, "layer", "left"),
        (3.6, "name", "left"),
        (7.9, "output", "right"),
        (9.8, "parameters", "right"),
    ):
        ax.text(x, len(boxes) + 0.75, text, fontsize=9, color="0.35", ha=side)
    ax.set(xlim=(-0.1, 10.1), ylim=(0.4, len(boxes) + 1.1))
    ax.axis("off")
    ax.set_title(f"{model.name}: {model.count_params():,} parameters (green: trained, blue: frozen)")
    return figure


def curves(history: pd.DataFrame) -> Figure:
    """Show loss and accuracy of train and val by epoch; a dotted line begins each further stage.

    The history of a linear head alone has no epochs: there they are shown by the strength of the penalty.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.5))
    if "C" in history and history["C"].notna().all():
        for ax, column, text in zip(axes, ("loss", "accuracy"), ("loss (nats)", "accuracy (fraction)"), strict=True):
            ax.plot(history["C"], history[column], "o-", color=PALETTE[0], label="train")
            ax.plot(history["C"], history[f"val_{column}"], "s--", color=PALETTE[1], label="val")
            ax.set(xlabel="C, one over the strength of the L2 penalty", ylabel=text, xscale="log")
        axes[0].set_yscale("log")
        axes[0].legend()
        return figure
    x = np.arange(1, len(history) + 1)
    for ax, column, text in zip(axes, ("loss", "accuracy"), ("loss (nats)", "accuracy (fraction)"), strict=True):
        ax.plot(x, history[column], "o-", color=PALETTE[0], label="train (augmented)")
        ax.plot(x, history[f"val_{column}"], "s--", color=PALETTE[1], label="val")
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
    """Show a confusion matrix twice: with the names of the classes in their order, and the wrong way round."""
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.8))
    _confusion(axes[0], scores, config.CLASSES)
    _confusion(axes[1], scores, config.CLASSES[::-1])
    axes[0].set_title("Names in the order of the labels")
    axes[1].set_title("Names swapped, the same numbers", color=WRONG)
    return figure


def _confusion(ax: Any, scores: dict[str, Any], names: Sequence[str]) -> None:
    counts = np.array([[scores["tn"], scores["fp"]], [scores["fn"], scores["tp"]]])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    text = np.array(
        [[f"{c:,}\n{s:.2%}" for c, s in zip(*rows, strict=True)] for rows in zip(counts, share, strict=True)]
    )
    ticks = {"xticklabels": names, "yticklabels": names, "cbar_kws": {"label": "share of the true class"}}
    sns.heatmap(share, annot=text, fmt="", cmap="Blues", vmin=0, vmax=1, ax=ax, **ticks)
    ax.set(xlabel="predicted", ylabel="true")


def wrong_and_right(table: pd.DataFrame) -> Figure:
    """Show what a mistake makes of a score, and the score itself, joined by a line.

    Args:
        table: columns name, wrong, right (fractions), in the order of drawing.
    """
    figure, ax = plt.subplots(figsize=(9.5, 0.46 * len(table) + 1.4))
    y = np.arange(len(table))
    ax.hlines(y, table["wrong"], table["right"], color="0.6", linewidth=2, zorder=1)
    ax.plot(table["wrong"], y, "s", color=WRONG, markersize=9, label="with the mistake")
    ax.plot(table["right"], y, "o", color=PALETTE[0], markersize=8, label="without it")
    ax.set_yticks(y, table["name"])
    for k, row in enumerate(table.itertuples()):
        for x, value, colour in ((1.06, row.wrong, WRONG), (1.17, row.right, PALETTE[0])):
            ax.text(x, k, f"{value:.3f}", color=colour, va="center", fontsize=9)
    ax.grid(False, axis="y")
    ax.set(xlim=(-0.03, 1.03), ylim=(len(table) - 0.5, -0.5), xlabel="fraction (0 to 1)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    return figure


def roc_pr(labels: np.ndarray, p_crack: np.ndarray) -> Figure:
    """Show the receiver operating characteristic and precision against recall, with the area under each."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9))
    scores = score_predictions(labels, p_crack)
    if scores["auroc"] is None:
        raise config.CrackutilsError(
            "The test images are all of one class, so there is no ROC curve; add images of the other."
        )
    fpr, tpr, _ = roc_curve(labels, p_crack)
    precision, recall, _ = precision_recall_curve(labels, p_crack)
    left.plot([0, 1], [0, 1], ":", color="0.6")
    left.plot(fpr, tpr, color=PALETTE[0], linewidth=2)
    left.set(
        xlabel="false positive rate", ylabel="true positive rate (recall)", title=f"ROC, area {scores['auroc']:.5f}"
    )
    right.axhline(np.mean(labels), linestyle=":", color="0.6")
    right.plot(recall, precision, color=PALETTE[0], linewidth=2)
    right.set(xlabel="recall", ylabel="precision")
    right.set_title(f"Precision-recall, average precision {scores['average_precision']:.5f}")
    for ax in (left, right):
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        ax.plot([], [], ":", color="0.6", label="chance")
        ax.legend(loc="lower center")
    return figure


def probabilities(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> Figure:
    """Show the distribution of the predicted probabilities by class, counts on a logarithmic scale."""
    table = pd.DataFrame({"p": p_crack, "class": np.array(config.CLASSES)[labels]})
    figure, ax = plt.subplots(figsize=(7, 3.2))
    sns.histplot(
        table,
        x="p",
        hue="class",
        hue_order=config.CLASSES,
        palette=COLOURS,
        bins=40,
        binrange=(0, 1),
        element="step",
        ax=ax,
    )
    ax.axvline(threshold, color="0.3", linestyle="--")
    ax.get_legend().set_title("")
    ax.set(yscale="log", ylim=(0.7, None), xlabel="predicted probability of a crack", ylabel="number of images (log)")
    return figure


def predicted_against_true(
    images: Sequence[np.ndarray], table: pd.DataFrame, title: str, threshold: float = 0.5, columns: int = 6
) -> Figure:
    """Show images with what was predicted, how surely, and what is true; wrong ones are framed.

    Args:
        images: one per row of `table`.
        table: predictions with columns file, label, p_crack.
        title: of the figure.
        threshold: a crack is called at or above it.
        columns: images per row.
    """
    called = (table["p_crack"] >= threshold).astype(int).to_numpy()
    titles = [
        f"{file[0]}/{file.split('/')[-1]}\ntrue {config.CLASSES[y]}\npredicted {config.CLASSES[c]}, p {p:.3f}"
        for file, y, c, p in zip(table["file"], table["label"], called, table["p_crack"], strict=True)
    ]
    return image_grid(images, titles, columns, title, list(called != table["label"].to_numpy()), side=2.0)


def worst(table: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Return the `count` predictions that are farthest from the truth, the worst first."""
    off = (table["p_crack"] - table["label"]).abs()
    return table.assign(off=off).sort_values(["off", "file"], ascending=[False, True], kind="stable").head(count)


_KINDS = {  # colour, marker and place within the row
    "copy-safe": (PALETTE[0], "o", -0.28),
    "random": (PALETTE[1], "D", 0.0),
    "published": (PALETTE[7], "s", 0.28),
}


def error_rates(table: pd.DataFrame) -> Figure:
    """Show error rates with 95 % Wilson intervals, a row per name.

    Args:
        table: columns name, errors, n, kind ("copy-safe", "random" or "published"; a name has each at most once), in
            the order of drawing.
    """
    names = list(dict.fromkeys(table["name"]))
    figure, ax = plt.subplots(figsize=(10.5, 0.64 * len(names) + 1.3))
    floor = 0.1 / table["n"].min()
    for row in table.itertuples():
        low, high = (1 - v for v in wilson(row.n - row.errors, row.n)[::-1])
        colour, marker, offset = _KINDS[row.kind]
        y = names.index(row.name) + offset
        ax.plot([max(low, floor), high], [y, y], color=colour, linewidth=2)
        # no error at all has no place on a log scale: an arrow points to it
        ax.plot(max(row.errors / row.n, floor), y, marker if row.errors else "<", color=colour, markersize=6)
        ax.annotate(f"  {row.errors:,} of {row.n:,}", (high, y), va="center", fontsize=8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.hlines(np.arange(1, len(names)) - 0.5, 0, 1, "0.9", linewidth=0.8, transform=ax.get_yaxis_transform())
    ax.margins(x=0.18)
    ax.set(xscale="log", xlabel="share of test images that are wrong (log scale), with 95 % Wilson interval")
    told = {"copy-safe": "here, copy-safe split", "random": "here, random split", "published": "published"}
    for kind, text in told.items():
        if (table["kind"] == kind).any():
            ax.plot([], [], _KINDS[kind][1], color=_KINDS[kind][0], label=text)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    return figure


def p_values(table: pd.DataFrame) -> Figure:
    """Show the exact McNemar test of each pair of models as a matrix; columns a, b, p_holm.

    Below 0.05, in bold on a dark ground, the two err differently often.
    """
    names = list(dict.fromkeys([*table["a"], *table["b"]]))
    if not names:
        return image_grid([], title="Tests between models: there is only one")
    side = 0.62 * len(names)
    figure, ax = plt.subplots(figsize=(side + 3.2, side + 2.2))
    for row in table.itertuples():
        told = row.p_holm < 0.05
        x, y = sorted((names.index(row.a), names.index(row.b)))
        ax.add_patch(
            plt.Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=PALETTE[0] if told else "0.95", edgecolor="white")
        )
        text = f"{row.p_holm:.2f}" if row.p_holm >= 0.01 else f"{row.p_holm:.0e}".replace("e-0", "e-")
        ax.text(
            x, y, text, ha="center", va="center", fontsize=8,
            color="white" if told else "0.3", weight="bold" if told else "normal",
        )  # fmt: skip
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=40, ha="right")
    ax.set_yticks(range(1, len(names)), names[1:])
    ax.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 0.5, 0.5), xlabel="one model", ylabel="another")
    ax.grid(False)
    ax.set_title("p-values of the exact McNemar test, corrected by Holm (blue: told apart)")
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
    """Show shares of cracks against predicted probabilities, with 95 % Wilson intervals, a panel per entry.

    Args:
        runs: title and `evaluation.reliability` table.
    """
    figure, axes = plt.subplots(1, len(runs), figsize=(4.4 * len(runs), 4.1), squeeze=False)
    for ax, (title, table) in zip(axes[0], runs.items(), strict=True):
        ax.plot([0, 1], [0, 1], ":", color="0.5", label="perfect")
        bars = [table["share"] - table["share_low"], table["share_high"] - table["share"]]
        ax.errorbar(
            table["p"], table["share"], np.maximum(bars, 0), fmt="o", color=PALETTE[0], capsize=3, label="test images"
        )
        for row in table.itertuples():
            ax.annotate(
                f"{row.n:,}", (row.p, row.share), (5, -11), textcoords="offset points", fontsize=7, color="0.35"
            )
        ax.set(xlim=(-0.04, 1.09), ylim=(-0.06, 1.06), xlabel="predicted probability of a crack", title=title)
        ax.set_ylabel("share of images with a crack")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def cost_curves(labels: np.ndarray, p_crack: np.ndarray, threshold: float | None) -> Figure:
    """Show what deciding at each threshold costs, for several prices of a missed crack, on a log-odds axis.

    Args:
        labels: int (n,), 0 or 1.
        p_crack: (n,), probabilities in [0, 1].
        threshold: the one that was chosen on validation images, None for none.
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
    ax.set(xlabel="threshold (log-odds axis); dashed: chosen on validation images, dotted: 0.5", yscale="symlog")
    ax.set_yscale("symlog", linthresh=1 / len(labels))
    ax.set(ylabel="cost per image (false alarms)", ylim=(0, None))
    ax.legend(title="a missed crack costs\nas much as ... false alarms", fontsize=8)
    return figure


def prevalence(runs: dict[str, tuple[float, float]]) -> Figure:
    """Show what precision becomes where fewer images are cracked.

    Args:
        runs: name, and recall and share of false alarms (fractions) at its threshold.
    """
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
    sns.heatmap(
        rate[order], annot=np.array(text), fmt="", cmap="Blues", vmin=0, ax=ax, annot_kws={"fontsize": 8},
        cbar_kws={"label": "share that is wrong"},
    )  # fmt: skip
    ax.set(xlabel="slice of the test images, the weakest first (wrong / all)", ylabel="")
    return figure
