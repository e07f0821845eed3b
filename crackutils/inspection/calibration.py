"""Labels of tiles: how well the tiles are ranked, and which threshold the labels choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from crackutils.config import CrackutilsError
from crackutils.inspection.tiling import sigmoid
from crackutils.metrics import ranking_metrics, score_predictions

_SCORES = ("precision", "recall", "f1")


def read_tile_labels(file: str | Path) -> pd.DataFrame:
    """Read labels of tiles: photo, row, col, crack. tiles.csv with a column crack added is such a file.

    photo (or file) is the name of a photo as in tiles.csv, crack is 1, 0, or empty for tiles that nobody has looked at.
    Raises CrackutilsError for a file that cannot be read, lacks a column, or holds a row that cannot be used.
    """
    try:
        labels = pd.read_csv(file, dtype={"photo": str, "file": str})
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror}). Give a CSV file of labels.") from error
    except ValueError as error:  # pandas' errors, and bytes that are no UTF-8
        raise CrackutilsError(f"{file} is no CSV file ({error}). Save it as one, in UTF-8.") from error
    if "photo" not in labels:
        labels = labels.rename(columns={"file": "photo"})
    if missing := {"photo", "row", "col", "crack"} - set(labels.columns):
        raise CrackutilsError(f"{file} has no column {', '.join(sorted(missing))}. Give photo, row, col, crack.")
    labels = labels.loc[labels["crack"].notna(), ["photo", "row", "col", "crack"]]
    numbers = labels[["row", "col", "crack"]].apply(pd.to_numeric, errors="coerce")
    if not (numbers["crack"].isin((0, 1)).all() and (numbers % 1 == 0).all(axis=None)):
        raise CrackutilsError(f"{file} has other values. Let crack be 0, 1 or empty, row and col whole numbers.")
    labels = labels.assign(**numbers.astype(int))
    if labels.duplicated(["photo", "row", "col"]).any():
        raise CrackutilsError(f"{file} lists a tile twice. Keep one row per tile.")
    return labels


def _labelled_tiles(tiles: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    both = tiles.merge(labels, left_on=["file", "row", "col"], right_on=["photo", "row", "col"])
    if both.empty:
        raise CrackutilsError("No label belongs to a tile of these photos. Name the photos as tiles.csv does.")
    return both


def calibrate_threshold(tiles: pd.DataFrame, labels: pd.DataFrame) -> dict[str, Any]:
    """Return the threshold with the highest F1 on labelled tiles, evaluated leave-one-photo-out.

    Args:
        tiles: file, row, col, p_crack, as in tiles.csv.
        labels: as `read_tile_labels` returns them; CrackutilsError where none belongs to a tile, or all are alike.

    Returns:
        threshold, 0.5 where such thresholds are no better than 0.5; n tiles of so many photos; precision, recall and
        f1, of each photo at the threshold that the others choose (None where there is one photo, or the others lack a
        class), and the same with _before at 0.5.
    """
    both = _labelled_tiles(tiles, labels)
    y, p, photo = (both[name].to_numpy() for name in ("crack", "p_crack", "photo"))
    if len(np.unique(y)) < 2:
        raise CrackutilsError("The labelled tiles are all of one class. Label some with a crack and some without.")
    names = np.unique(photo)
    result: dict[str, Any] = {"threshold": _best_f1(y, p), "n": len(y), "photos": len(names)}
    if len(names) < 2 or any(len(np.unique(y[photo != name])) < 2 for name in names):
        return result | dict.fromkeys([*_SCORES, *(f"{name}_before" for name in _SCORES)])
    bound = np.zeros(len(y))
    for name in names:
        bound[photo == name] = _best_f1(y[photo != name], p[photo != name])
    scores, before = score_predictions(y, (p >= bound).astype(float)), score_predictions(y, p)
    result |= {name: scores[name] for name in _SCORES} | {f"{name}_before": before[name] for name in _SCORES}
    return result | ({} if result["f1"] > result["f1_before"] else {"threshold": 0.5})


def _best_f1(y: np.ndarray, p: np.ndarray) -> float:
    """Return the threshold of the highest F1: the middle, in logits, between the score that gives it and the next."""
    p = np.clip(p, 0.01, 0.99)
    precision, recall, bounds = precision_recall_curve(y, p)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    logits = np.log(bounds / (1 - bounds))
    return float(sigmoid((logits[best] + logits[max(0, best - 1)]) / 2))


def describe_calibration(calibration: dict[str, Any]) -> str:
    """Return in words what `calibrate_threshold` returned."""
    text = f"chosen on {calibration['n']:,} labelled tiles of {calibration['photos']} photo"
    text += "s" * (calibration["photos"] > 1)
    if calibration["f1"] is None:
        return text
    said = {name: "undefined" if value is None else f"{value:.2f}" for name, value in calibration.items()}
    return (
        f"{text}; leave-one-photo-out precision is {said['precision']} and recall {said['recall']}"
        f" (at 0.5 {said['precision_before']} and {said['recall_before']})"
    )


def rank_tiles(tiles: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return how well the probabilities rank tiles with a crack above others; arguments as for `calibrate_threshold`.

    Returns:
        A row per photo, and one called "all": photo, n, cracked, auroc and average_precision (None where all tiles are
        of one class), precision and recall at the threshold 0.5.
    """
    both = _labelled_tiles(tiles, labels)
    rows = []
    for name, part in [*both.groupby("photo", sort=True), ("all", both)]:
        y, p = part["crack"].to_numpy(), part["p_crack"].to_numpy()
        scores = score_predictions(y, p)
        row = {"photo": name, "n": len(y), "cracked": int(y.sum())} | ranking_metrics(y, p)
        rows.append(row | {k: scores[k] for k in ("precision", "recall")})
    return pd.DataFrame(rows)
