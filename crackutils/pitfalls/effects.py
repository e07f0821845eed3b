"""How mistakes change results: the luck of a choice, copies across folds, and what notebook 06 keeps."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.model_selection import PredefinedSplit, ShuffleSplit, StratifiedShuffleSplit, cross_val_predict

from crackutils import config, plots


def draw_few(label: np.ndarray, train: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return 100 draws of up to 100 of the rows `train`, each with both classes; labels, 0 or 1, are int (n,)."""
    drawn = StratifiedShuffleSplit if np.bincount(label[train]).min() > 1 else ShuffleSplit
    draws = drawn(100, train_size=min(100, len(train) // 2), random_state=seed).split(train, label[train])
    either = train[np.unique(label[train], return_index=True)[1]]  # an image of each class, for draws that lack one
    return [np.append(train[few], either[:0] if np.ptp(label[train[few]]) else either) for few, _ in draws]


def score_choice(wrong: np.ndarray, size: int, seed: int) -> pd.DataFrame:
    """Choose the best of 1, 10 or 100 models on `size` images, and score it on these and on the others.

    `wrong`, bool (models, images), says which images each model gets wrong. Accuracies are means of 500 draws of models
    and images: a row per number of candidates, columns "same images" and "untouched images".
    """
    rng, scores = np.random.default_rng(seed), {}
    for candidates in (1, 10, 100):
        draws = np.empty((500, 2))
        for draw in draws:
            judged = wrong[rng.permutation(len(wrong))[:candidates]][:, rng.permutation(wrong.shape[1])]
            same, untouched = judged[:, :size].mean(axis=1), judged[:, size:].mean(axis=1)
            draw[:] = 1 - same.min(), 1 - untouched[same.argmin()]
        scores[candidates] = draws.mean(axis=0)
    return pd.DataFrame(scores, ["same images", "untouched images"]).T.round(6).rename_axis("candidates")


def plot_inputs(reach: dict[str, np.ndarray], label: np.ndarray) -> Figure:
    """Show two images as they reach a backbone, for each way to rescale; float32 (n, side, side, 3) from -1 to 1."""
    shown = [(name, row) for row in (len(label) // 4, len(label) * 3 // 4) for name in reach]
    images = [np.uint8(np.clip((reach[name][row] + 1) * 127.5, 0, 255)) for name, row in shown]
    titles = [f"{config.CLASSES[label[row]]}\nrescaled {name}" for name, row in shown]
    return plots.image_grid(images, titles, 4, "What reaches the backbone (-1 is black, 1 is white)")


def compare_folds(
    models: dict[str, tuple[Any, np.ndarray]], label: np.ndarray, folds: dict[str, np.ndarray], pairs: pd.DataFrame
) -> tuple[pd.Series, pd.DataFrame]:
    """Predict each image by models fitted on the other folds, for several ways to deal out the folds.

    Args:
        models: by name a scikit-learn classifier and its inputs (n, dimensions).
        label: 0 or 1, int (n,).
        folds: by split the fold of each image, int (n,); the first split says which images have a copy in training.
        pairs: copies, rows a and b.

    Returns:
        By split the share of images with a copy in another fold, and the shares of wrong images: a row per model and
        test images ("with a copy", "without", "all"), a column per split.
    """
    across = {name: pairs.loc[fold[pairs["a"]] != fold[pairs["b"]], ["a", "b"]] for name, fold in folds.items()}
    has_copy = pd.DataFrame({name: np.isin(np.arange(len(label)), ends) for name, ends in across.items()})
    first, errors = has_copy.iloc[:, 0], {}
    kinds = {"with a copy": first, "without": ~first, "all": first | True}
    for name, (model, x) in models.items():
        called = {s: cross_val_predict(model, x, label, cv=PredefinedSplit(fold)) for s, fold in folds.items()}
        missed = pd.DataFrame({split: predicted != label for split, predicted in called.items()})
        errors[name] = pd.DataFrame({kind: missed[rows].mean() for kind, rows in kinds.items()}).T.round(6)
    return has_copy.mean().round(6), pd.concat(errors, names=["model", "test images"])


def collect_results(
    seen: pd.DataFrame,
    manifest: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    decay: pd.DataFrame,
    trainable: pd.DataFrame,
    warned: list[Any],
    moved: pd.DataFrame,
    with_copy: pd.Series,
    errors: pd.DataFrame,
    careful: dict[str, Any],
) -> dict[str, Any]:
    """Return the results of notebook 06 for metrics.json, by pitfall; arguments are its tables, the last its scores."""
    train, test = (set(manifest["file"][manifest["split"] == part]) for part in ("train", "test"))
    names = ("buffer_256", "buffer_whole", "of_40000_buffer_256", "files_split_first")
    leaked = [*seen.iloc[4, :3], len(train & test) / len(test)]
    found = {"seen_in_training": dict(zip(names, leaked, strict=True))}
    found |= {name: table.to_dict() for name, table in tables.items()}
    found["decayed_to_zero"] = (decay["largest change"] == 0).mean().to_dict()
    warnings = sum("trainable" in str(one.message) for one in warned)
    found["trainable"] = trainable["share that changed"].to_dict() | {"warnings": warnings}
    found["batchnorm"] = moved.to_dict()
    by_model = {name: errors.loc[name].to_dict() for name in errors.index.unique(0)}
    found["copies_across"] = {"with_copy_in_training": with_copy.to_dict()} | by_model
    read_off = round(careful["tn"] / (careful["tn"] + careful["fp"]), 6)
    found["axes"] = {"recall": careful["recall"], "recall_read_off": read_off}
    found["axes"] |= {"missed": careful["fn"], "missed_read_off": careful["fp"]}
    return found


def list_mistakes(found: dict[str, Any]) -> pd.DataFrame:
    """Return the scores that mistakes change, from `collect_results`; columns name, wrong, right."""
    passes, trained = found["two_passes"], found["rescaled"]
    unit, near, axes = found["one_unit"], found["copies_across"]["nearest features"], found["axes"]
    rows = {
        "2 labels of another pass: accuracy": [passes[kind]["accuracy"] for kind in ("two", "one")],
        "3 one set to choose and report: accuracy, best of 100": [*found["chosen_and_reported"][100].values()],
        "4 rescaled twice: accuracy, trained as theirs": [trained[k]["trained as theirs"] for k in ("twice", "once")],
        "5 argmax of one unit: recall of cracks": [unit[kind]["recall"] for kind in ("argmax", "threshold")],
        "9 copies across the split: accuracy, nearest features": [1 - near[k]["all"] for k in ("random", "copy-safe")],
        "10 names on the wrong axes: recall of cracks": [axes["recall_read_off"], axes["recall"]],
    }
    return pd.DataFrame([[name, *pair] for name, pair in rows.items()], columns=["name", "wrong", "right"])


def wrong_and_right(table: pd.DataFrame) -> Figure:
    """Show a score with a mistake and without it, joined by a line; columns name, wrong, right (fractions)."""
    figure, ax = plt.subplots(figsize=(9.5, 0.46 * len(table) + 1.4))
    y = np.arange(len(table))
    ax.hlines(y, table["wrong"], table["right"], color="0.6", linewidth=2, zorder=1)
    ax.plot(table["wrong"], y, "s", color=plots.WRONG, markersize=9, label="with the mistake")
    ax.plot(table["right"], y, "o", color=plots.PALETTE[0], markersize=8, label="without it")
    ax.set_yticks(y, table["name"])
    for k, row in enumerate(table.itertuples()):
        for x, value, colour in ((1.06, row.wrong, plots.WRONG), (1.17, row.right, plots.PALETTE[0])):
            ax.text(x, k, f"{value:.3f}", color=colour, va="center", fontsize=9)
    ax.grid(False, axis="y")
    ax.set(xlim=(-0.03, 1.03), ylim=(len(table) - 0.5, -0.5), xlabel="fraction (0 to 1)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    return figure
