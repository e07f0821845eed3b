"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config
from crackutils.inspection.tiling import sigmoid
from crackutils.metrics import ranking_metrics, score_predictions


def read_tile_labels(file: str | Path) -> pd.DataFrame:
    """Read labels of tiles: photo, row, col, crack. tiles.csv with a column crack added is such a file.

    Args:
        file: CSV file; photo (or file) is the name of a photo as tiles.csv has it, crack is 1, 0, or empty for tiles
            that nobody has looked at.

    Raises:
        CrackutilsError: it cannot be read, lacks a column, or holds a row that cannot be used.
    """
    try:
        labels = pd.read_csv(file, dtype={"photo": str, "file": str})
    except OSError as error:
        raise config.CrackutilsError(f"{file} cannot be read ({error.strerror}); give a CSV file of labels.") from error
    except ValueError as error:  # pandas' errors, and bytes that are no UTF-8
        raise config.CrackutilsError(f"{file} is no CSV file ({error}); save it as one, in UTF-8.") from error
    if "photo" not in labels:
        labels = labels.rename(columns={"file": "photo"})
    if missing := {"photo", "row", "col", "crack"} - set(labels.columns):
        raise config.CrackutilsError(f"{file} has no column {', '.join(sorted(missing))}; give photo, row, col, crack.")
    labels = labels.loc[labels["crack"].notna(), ["photo", "row", "col", "crack"]]
    numbers = labels[["row", "col", "crack"]].apply(pd.to_numeric, errors="coerce")
    if not (numbers["crack"].isin((0, 1)).all() and (numbers % 1 == 0).all(axis=None)):
        raise config.CrackutilsError(f"{file}: crack must be 0, 1 or empty, row and col whole numbers.")
    labels = labels.assign(**numbers.astype(int))
    if labels.duplicated(["photo", "row", "col"]).any():
        raise config.CrackutilsError(f"{file}: each tile must stand in it once.")
    return labels


def _labelled(found: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    both = found.merge(labels, left_on=["file", "row", "col"], right_on=["photo", "row", "col"])
    if both.empty:
        raise config.CrackutilsError(
            "No label belongs to a tile of these photos; photo must be a name as tiles.csv has it."
        )
    return both


def calibrate_threshold(found: pd.DataFrame, labels: pd.DataFrame) -> dict[str, Any]:
    """Return the threshold with the highest F1 on labelled tiles, and what such thresholds are worth elsewhere.

    Args:
        found: file, row, col, p_crack, as tiles.csv has them.
        labels: as `tile_labels` returns them.

    Returns:
        threshold, 0.5 where such thresholds are worth no more; n tiles of so many photos; precision, recall and f1, of
        each photo at the threshold that the others choose (None where there is one photo, or the others lack a class),
        and the same with _before at 0.5.

    Raises:
        CrackutilsError: no label belongs to a tile, or all are of one class.
    """
    both = _labelled(found, labels)
    y, p, photo = (both[name].to_numpy() for name in ("crack", "p_crack", "photo"))
    if len(np.unique(y)) < 2:
        raise config.CrackutilsError(
            "The labelled tiles are all of one class; label some with a crack and some without."
        )
    names = np.unique(photo)
    told: dict[str, Any] = {"threshold": _best_f1(y, p), "n": len(y), "photos": len(names)}
    if len(names) < 2 or any(len(np.unique(y[photo != name])) < 2 for name in names):
        return told | dict.fromkeys(SCORES)
    bound = np.zeros(len(y))
    for name in names:
        bound[photo == name] = _best_f1(y[photo != name], p[photo != name])
    at, before = score_predictions(y, (p >= bound).astype(float)), score_predictions(y, p)
    told |= {name: (before if name.endswith("_before") else at)[name.removesuffix("_before")] for name in SCORES}
    return told | ({} if told["f1"] > told["f1_before"] else {"threshold": 0.5})


SCORES = [name + when for when in ("", "_before") for name in ("precision", "recall", "f1")]


def _best_f1(y: np.ndarray, p: np.ndarray) -> float:
    """Return the threshold of the highest F1: the middle, in log-odds, between the score that gives it and the next."""
    from sklearn.metrics import precision_recall_curve

    p = np.clip(p, 0.01, 0.99)
    precision, recall, bounds = precision_recall_curve(y, p)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    odds = np.log(bounds / (1 - bounds))
    return float(sigmoid((odds[best] + odds[max(0, best - 1)]) / 2))


def rank_tiles(found: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return how well tiles with a crack are told from others, in each photo and in all.

    Args:
        found: file, row, col, p_crack, as tiles.csv has them.
        labels: as `tile_labels` returns them.

    Returns:
        A row per photo, and one called "all": photo, n, cracked, auroc and average_precision (None where all tiles are
        of one class), precision and recall at the threshold 0.5.

    Raises:
        CrackutilsError: no label belongs to a tile.
    """
    both = _labelled(found, labels)
    rows = []
    for name, part in [*both.groupby("photo", sort=True), ("all", both)]:
        y, p = part["crack"].to_numpy(), part["p_crack"].to_numpy()
        decided = score_predictions(y, p)
        row = {"photo": name, "n": len(y), "cracked": int(y.sum())} | ranking_metrics(y, p)
        rows.append(row | {k: decided[k] for k in ("precision", "recall")})
    return pd.DataFrame(rows)
