"""Fit the last layer of a trained network to one site, with the labels of its user, and say what that is worth."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sized
from pathlib import Path

import numpy as np
import pandas as pd

from crackutils import config

FEWEST = 10  # labels
_LABELS = {"0": 0, "1": 1} | {name.lower(): label for label, name in enumerate(config.CLASSES)}
_NAMED = re.compile(r"(\d+)-\d+\.\w+")  # PHOTO-TILE.jpg, as SDNET2018 has it


def read_labels(file: str | Path) -> pd.DataFrame:
    """Read and check a CSV file of labels, as `adapt` explains it.

    Returns:
        A row per tile: file, label (int, 0 or 1) and, where the CSV has it, photo (text).

    Raises:
        CrackutilsError: it cannot be read, lacks a column, or holds a row that cannot be used; the message counts such
            rows and names the first.
    """
    file = Path(file)
    try:
        with open(file, newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle, strict=True) if row]
    except OSError as error:
        raise config.CrackutilsError(f"{file} cannot be read ({error.strerror}); give a CSV file of labels.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise config.CrackutilsError(f"{file} is no CSV file in UTF-8 ({error}); save it as one.") from error
    names = [name.strip().lower() for name in rows[0]] if rows else []
    counts = {name: names.count(name) for name in ("file", "label", "photo")}
    if wrong := [name for name, count in counts.items() if count > 1 or (not count and name != "photo")]:
        raise config.CrackutilsError(
            f"{file} has not one column {' and '.join(wrong)}; its first line must be file,label or file,label,photo,"
            " with commas."
        )
    table = pd.DataFrame([row for row in rows[1:] if len(row) == len(names)], columns=names, dtype=object)
    cut = [",".join(row) for row in rows[1:] if len(row) != len(names)]
    _refuse(file, rows[1:], cut, "there are more or fewer fields than in the first line", "correct them")
    table = table.loc[:, [name for name in ("file", "label", "photo") if name in names]]
    table = table.apply(lambda column: column.str.strip())
    label, paths = table["label"].str.lower().map(_LABELS), [file.parent / name for name in table["file"]]
    remedy = f"write 0 or 1, or {' or '.join(config.CLASSES)}"
    _refuse(file, table, (table["file"] + ": " + table["label"])[label.isna()], "the label is none", remedy)
    gone = table["file"][[not path.is_file() for path in paths]]
    _refuse(file, table, gone, "the file does not exist", f"paths begin at {file.parent.absolute()}")
    again = table["file"][pd.Series([path.resolve() for path in paths], dtype=object).duplicated()]
    _refuse(file, table, again, "the file stood in a row before", "list each picture once")
    if "photo" in table:
        unknown = table["file"][table["photo"] == ""]
        _refuse(file, table, unknown, "the photo is missing", "fill it in, or leave the column out")
    table["label"] = label.astype(int)
    if len(table) < FEWEST:
        raise config.CrackutilsError(f"{file} holds {len(table)} labels; give at least {FEWEST}, better some hundred.")
    if table["label"].nunique() < 2:
        only = config.CLASSES[table["label"].iloc[0]]
        raise config.CrackutilsError(f"{file} labels all {len(table)} tiles {only}; give tiles of both classes.")
    return table


def _refuse(file: Path, rows: Sized, wrong: Iterable[str], what: str, remedy: str) -> None:
    """Raise one sentence that counts the wrong ones among rows and names the first, if there are any."""
    if wrong := list(wrong):
        raise config.CrackutilsError(
            f"{file}: in {len(wrong)} of {len(rows)} rows {what} (first: {wrong[0]}); {remedy}."
        )


def photos_of_tiles(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return which photo each tile is from, int (n,), and what told so: "column", "names" or "nothing"."""
    names = [_NAMED.fullmatch(Path(file).name) for file in table["file"]]
    if "photo" in table:
        photos, told_by = table["photo"], "column"
        print(f"{photos.nunique():,} photos, by the column photo")
    elif all(names):
        photos, told_by = pd.Series([name[1] for name in names]), "names"
        print(f"{photos.nunique():,} photos, by the names PHOTO-TILE")
    else:
        photos, told_by = table["file"], "nothing"
        print(
            "Each file counts as a photo of its own, as there is no column photo: where tiles are of one photo the"
            " intervals below are too narrow and the gains too large."
        )
    return pd.factorize(photos)[0], told_by
