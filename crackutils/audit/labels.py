"""Doubts about the data and the models: wrong labels, image quality, leakage measured, accuracy per slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets
from crackutils.files import progress
from crackutils.metrics import wilson
from crackutils.splits.groups import pack_groups
from crackutils.splits.make import PARTS

FOLDS = 10
READ_TO = 10_000  # last number of METU's files that pictures to be read were drawn from


def _heads(x: np.ndarray, y: np.ndarray, strengths: Sequence[float]) -> list[Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)).fit(x, y) for c in strengths]


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int = config.DEFAULT_SEED) -> pd.DataFrame:
    """Return crack probabilities of every image by models that saw neither it nor any of its group.

    Ten folds; a strict and a loose linear head, and the share of cracks among the ten nearest images.

    Args:
        x: float32 (n, dimensions), features.
        y: int (n,), 0 or 1.
        groups: int (n,), what stays together.
        seed: which folds.

    Returns:
        A row per image, a column per model: strict (C = 0.001), loose (C = 0.1), neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    fold = pack_groups(y, groups, FOLDS, seed)
    names = ("strict", "loose", "neighbours")
    found = pd.DataFrame(np.nan, index=range(len(y)), columns=names)
    for k in progress(np.unique(fold), "folds", unit="fold"):
        away, here = fold != k, fold == k
        if len(np.unique(y[away])) < 2:
            raise config.CrackutilsError(
                "The images outside one fold are all of one class; the audit needs more images."
            )
        near = KNeighborsClassifier(min(10, int(away.sum())), metric="cosine").fit(x[away], y[away])
        for name, model in zip(names, [*_heads(x[away], y[away], (1e-3, 0.1)), near], strict=True):
            found.loc[here, name] = model.predict_proba(x[here])[:, 1]
    return found


def rank_suspects(y: np.ndarray, chances: pd.DataFrame) -> pd.DataFrame:
    """Rank images by how little several models believe their labels.

    The rank is by the mean probability of the given label. `by` counts the models for which confident learning
    (Northcutt, Jiang, Chuang 2021; cleanlab) calls the label wrong.

    Args:
        y: int (n,), given labels.
        chances: as `out_of_fold` returns them; probabilities in [0, 1].

    Returns:
        A row per image, the most doubtful first: row, given (mean probability of its label), by.

    Raises:
        CrackutilsError: cleanlab is missing.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise config.CrackutilsError("The audit of labels needs cleanlab: run pip install cleanlab.") from error
    given = np.where(y[:, None] == 1, chances, 1 - chances)
    by = np.zeros(len(y), int)
    for name in chances:
        p = chances[name].to_numpy(np.float64)
        by += find_label_issues(y, np.column_stack([1 - p, p]), n_jobs=1)
    table = pd.DataFrame({"row": np.arange(len(y)), "given": given.mean(1).round(6), "by": by})
    return table.sort_values(["given", "row"], ignore_index=True)


def score_planted_labels(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, share: float = 0.01, seed: int = 0
) -> dict[str, float | int]:
    """Turn some labels round, audit them, and see how many of these are found.

    Args:
        x: float32 (n, dimensions), features.
        y: int (n,), labels that are taken to be right.
        groups: int (n,), what stays together.
        share: of the labels that are turned.
        seed: which.

    Returns:
        planted; recall (share of them among as many first suspects) and, of the images that all models of confident
        learning call wrong, called, called_recall and called_precision.
    """
    rng = np.random.default_rng(seed)
    turned = np.zeros(len(y), bool)
    turned[rng.choice(len(y), max(1, int(share * len(y))), replace=False)] = True
    flipped = np.where(turned, 1 - y, y)
    chances = out_of_fold(x, flipped, groups)
    table = rank_suspects(flipped, chances)
    first = turned[table["row"].to_numpy()[: turned.sum()]]
    called = table.loc[table["by"] == chances.shape[1], "row"].to_numpy()
    hit = int(turned[called].sum())
    return {
        "planted": int(turned.sum()),
        "recall": round(float(first.mean()), 6),
        "called": len(called),
        "called_recall": round(hit / int(turned.sum()), 6),
        "called_precision": round(hit / max(1, len(called)), 6),
    }


def estimate_unread(ds: datasets.Dataset) -> dict[str, float | int]:
    """Estimate how many Negative images show a crack that nobody has found, from those that were drawn at random.

    Returns:
        read (images), random and cracks (among them), share with low and high (its 95 % Wilson interval), unread
        (Negative images), and expected, expected_low and expected_high cracks among those. Empty where nobody has read.
    """
    table = label_readings(ds)
    random = table[table["drawn"] == "random"]
    if not len(random):
        return {}
    cracks = int((random["verdict"] == "crack").sum())
    share, (low, high) = cracks / len(random), wilson(cracks, len(random))
    asked = (ds.given == 0) & (ds.index["number"] <= READ_TO)
    left = int((~ds.index["file"].isin(table["file"]) & asked).sum())
    found = {"read": len(table), "random": len(random), "cracks": cracks, "unread": left}
    found |= {name: round(value, 6) for name, value in (("share", share), ("low", low), ("high", high))}
    names = ("expected", "expected_low", "expected_high")
    return found | {name: round(value * left) for name, value in zip(names, (share, low, high), strict=True)}


def compare_corrections(
    x: np.ndarray, given: np.ndarray, corrected: np.ndarray, manifest: pd.DataFrame
) -> pd.DataFrame:
    """Train linear heads with the labels as given and as corrected, and test each against both, on one split.

    Returns:
        A row per training: trained_with, changed (labels in train and val that differ), errors_given,
        errors_corrected, n (of the test), changed_test.
    """
    from crackutils.linear import fit_linear_head

    part = {name: (manifest["split"] == name).to_numpy() for name in PARTS}
    rows = []
    for name, y in (("given", given), ("corrected", corrected)):
        head = fit_linear_head(x[part["train"]], y[part["train"]], x[part["val"]], y[part["val"]], 1000)
        called = head.chances(x[part["test"]]) >= 0.5
        changed = given != corrected
        row = {"trained_with": name, "changed": int(changed[~part["test"]].sum()) if name == "corrected" else 0}
        row |= {"errors_given": int((called != given[part["test"]]).sum())}
        row |= {"errors_corrected": int((called != corrected[part["test"]]).sum())}
        rows.append(row | {"n": int(part["test"].sum()), "changed_test": int(changed[part["test"]].sum())})
    return pd.DataFrame(rows)


def label_readings(ds: datasets.Dataset) -> pd.DataFrame:
    """Return which images were opened and read for their labels, and what was read: `data/audit/*_reads.csv`.

    Returns:
        A row per image of these: file, drawn (suspect: doubted by models; random: drawn from Negative images that
        nobody had read; control: drawn among those that models believe), first and second (what two readings said,
        neither of which saw the label), verdict (as in `verdicts`). Empty where nobody has read any.
    """
    file = config.AUDIT / f"{ds.profile.source}_reads.csv"
    columns = ["file", "drawn", "first", "second", "verdict"]
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=columns)
    return table[table["file"].isin(ds.index["file"])].reset_index(drop=True)
