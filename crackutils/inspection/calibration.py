"""Labels of tiles: the threshold with the best F1 on them, and scores of the ranking of tiles."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import precision_recall_curve

from crackutils.config import CrackutilsError
from crackutils.metrics import score_predictions
from crackutils.userfiles.names import match_names
from crackutils.userfiles.read import FILES, read_classes, read_table, refuse_rows

_SCORES = ("precision", "recall", "f1")
_COLUMNS = {"photo": ("photo", *FILES), "row": ("row",), "col": ("col", "column")}
_COLUMNS |= {"crack": ("crack", "label", "class", "cracked"), "label": ("label",)}
_TILE = ["photo", "row", "col"]


def read_tile_labels(file: str | Path) -> pd.DataFrame:
    """Read labels of tiles, as of tiles.csv with a column crack added: photo (or file), row, col, crack.

    crack is 1 or 0, in any words of `CLASS_NAMES`, or empty for tiles without a label. Prints how the table was read.
    Raises CrackutilsError for a file that cannot be used.
    """
    table = read_table(file := Path(file), _COLUMNS, ("label",))
    crack = read_classes(file, table, "crack", "label", empty=True)
    labels = table.assign(crack=crack)[["photo", "row", "col", "crack"]][crack.notna()]
    numbers = labels[["row", "col"]].apply(lambda column: pd.to_numeric(column.str.replace(",", "."), errors="coerce"))
    place = labels["photo"] + ": " + labels["row"] + ", " + labels["col"]
    remedy = "Write row and col as in tiles.csv"
    refuse_rows(file, len(table), place[~(numbers % 1 == 0).all(axis=1)], "row and col are not whole numbers", remedy)
    labels = labels.assign(**numbers).astype({"row": int, "col": int, "crack": int})
    refuse_rows(file, len(table), place[labels.duplicated(_TILE)], "the tile is a duplicate", "List each tile once")
    return labels


def match_photos(labels: pd.DataFrame, photos: Iterable[str]) -> pd.DataFrame:
    """Return labels of tiles with their photos as `photos` spells them (`match_names`).

    CrackutilsError: a tile then has two labels.
    """
    names = match_names(labels["photo"], photos := set(photos))
    labels = labels.assign(photo=pd.Series(names, labels.index, object))  # pyarrow's texts are UTF-8, names may not be
    if len(twice := labels["photo"][labels["photo"].isin(photos) & labels.duplicated(_TILE)]):
        raise CrackutilsError(f"The labels list a tile of {twice.iloc[0]} twice. Keep one row for each tile.")
    return labels


def _labelled_tiles(tiles: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    labels = match_photos(labels, tiles["file"])
    both = tiles.merge(labels, left_on=["file", "row", "col"], right_on=["photo", "row", "col"])
    if both.empty:
        raise CrackutilsError("No label belongs to a tile of these photos. Name the photos as in tiles.csv.")
    return both


def calibrate_threshold(tiles: pd.DataFrame, labels: pd.DataFrame) -> dict[str, Any]:
    """Return the threshold with the highest F1 on labelled tiles, evaluated leave-one-photo-out.

    Tiles have file, row, col, p_crack as in tiles.csv; labels are as from `read_tile_labels`. Returns threshold (0.5 if
    its leave-one-photo-out F1 is not better than that of 0.5), n (tiles), photos; precision, recall and f1, each photo
    scored at the threshold that the others choose (None for a single photo, or if the others lack a class); and the
    same at 0.5, with _before. Raises CrackutilsError if no label belongs to a tile, or all are of one class.
    """
    both = _labelled_tiles(tiles, labels)
    y, p, photo = (both[name].to_numpy() for name in ("crack", "p_crack", "photo"))
    if len(np.unique(y)) < 2:
        raise CrackutilsError("The labelled tiles are all of one class. Label some with a crack and some without.")
    folds = [photo == name for name in np.unique(photo)]
    result: dict[str, Any] = {"threshold": _best_f1(y, p), "n": len(y), "photos": len(folds)}
    if len(folds) < 2 or any(len(np.unique(y[~fold])) < 2 for fold in folds):
        return result | dict.fromkeys([*_SCORES, *(f"{name}_before" for name in _SCORES)])
    bound = np.sum([fold * _best_f1(y[~fold], p[~fold]) for fold in folds], 0)
    scores, before = score_predictions(y, (p >= bound).astype(float)), score_predictions(y, p)
    result |= {name: scores[name] for name in _SCORES} | {f"{name}_before": before[name] for name in _SCORES}
    return result | ({} if result["f1"] > result["f1_before"] else {"threshold": 0.5})


def _best_f1(y: np.ndarray, p: np.ndarray) -> float:
    """Return the threshold with the highest F1: the middle, in logits, of its score and the next lower one, if any."""
    precision, recall, bounds = precision_recall_curve(y, np.clip(p, 0.01, 0.99))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best, logits = int(np.argmax(f1[:-1])), np.log(bounds / (1 - bounds))
    return float(expit((logits[best] + logits[best - 1]) / 2) if best else max(p.min(), 1e-6))


def describe_calibration(calibration: dict[str, Any]) -> str:
    """Return the result of `calibrate_threshold` as text."""
    plural = "s" * (calibration["photos"] > 1)
    text = f"chosen on {calibration['n']:,} labelled tiles of {calibration['photos']} photo{plural}"
    if calibration["f1"] is None:
        return text
    said = {name: "undefined" if value is None else f"{value:.2f}" for name, value in calibration.items()}
    scores, before = (f"precision {said[f'precision{at}']}, recall {said[f'recall{at}']}" for at in ("", "_before"))
    if calibration["f1"] > calibration["f1_before"]:
        return f"{text}; leave-one-photo-out {scores} (at 0.5: {before})"
    return f"kept: on held-out photos, a threshold {text} was no better ({scores}) than 0.5 ({before})"


def rank_tiles(tiles: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return scores of the ranking of tiles by probability; arguments as for `calibrate_threshold`.

    A row per photo, and one called "all": photo, n, cracked, auroc and average_precision (None if all tiles are of one
    class), precision and recall at the threshold 0.5.
    """
    both, rows = _labelled_tiles(tiles, labels), []
    for name, part in [*both.groupby("photo", sort=True), ("all", both)]:
        scores = score_predictions(part["crack"].to_numpy(), part["p_crack"].to_numpy())
        row = {"photo": name, "n": len(part), "cracked": int(part["crack"].sum())}
        rows.append(row | {k: scores[k] for k in ("auroc", "average_precision", "precision", "recall")})
    return pd.DataFrame(rows)
