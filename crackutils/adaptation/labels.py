"""The user's CSV file of site labels, and the photos that its tiles were cut from."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from crackutils.config import CLASSES, CrackutilsError

_LABELS = {"0": 0, "1": 1} | {name.lower(): label for label, name in enumerate(CLASSES)}
_NAMED = re.compile(r"(\d+)-\d+\.\w+")  # PHOTO-TILE.jpg, as SDNET2018 has it


def read_labels(file: str | Path) -> pd.DataFrame:
    """Return the rows of a CSV file of labels as `adapt` describes it: file, label (int, 0 or 1) and, if given, photo.

    Raises CrackutilsError where it cannot be read, lacks a column or a class, or holds unusable rows or under ten.
    """
    file = Path(file)
    try:
        # pandas takes rows that are too short, and columns that occur twice
        with open(file, newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle, strict=True) if row]
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror}). Give a CSV file of labels.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CrackutilsError(f"{file} is no CSV file in UTF-8 ({error}). Save it as one.") from error
    names = [name.strip().lower() for name in rows[0]] if rows else []
    counts = {name: names.count(name) for name in ("file", "label", "photo")}
    if wrong := [name for name, count in counts.items() if count > 1 or (not count and name != "photo")]:
        remedy = "Its first line must be file,label or file,label,photo, with commas."
        raise CrackutilsError(f"{file} has not one column {' and '.join(wrong)}. {remedy}")
    total = len(rows) - 1
    cut = [",".join(row) for row in rows[1:] if len(row) != len(names)]
    refuse_rows(file, total, cut, "there are more or fewer fields than in the first line", "Correct them")
    table = pd.DataFrame(rows[1:], columns=names, dtype=object)[[name for name in counts if name in names]]
    table = table.apply(lambda column: column.str.strip())
    label, paths = table["label"].str.lower().map(_LABELS), [file.parent / name for name in table["file"]]
    unknown = (table["file"] + ": " + table["label"])[label.isna()]
    refuse_rows(file, total, unknown, "the label is none", f"Write 0 or 1, or {' or '.join(CLASSES)}")
    gone = table["file"][[not path.is_file() for path in paths]]
    refuse_rows(file, total, gone, "the file does not exist", f"Paths begin at {file.parent.absolute()}")
    again = table["file"][pd.Series([path.resolve() for path in paths], dtype=object).duplicated()]
    refuse_rows(file, total, again, "the file stood in a row before", "List each picture once")
    if "photo" in table:
        empty = table["file"][table["photo"] == ""]
        refuse_rows(file, total, empty, "the photo is missing", "Fill it in, or leave the column out")
    table["label"] = label.astype(int)
    if total < 10:
        raise CrackutilsError(f"{file} holds {total} labels. Give at least 10, better some hundred.")
    if table["label"].nunique() < 2:
        remedy = "Give tiles of both classes."
        raise CrackutilsError(f"{file} labels all {total} tiles {CLASSES[table['label'][0]]}. {remedy}")
    return table


def refuse_rows(file: Path, total: int, wrong: Iterable[str], problem: str, remedy: str) -> None:
    """Raise CrackutilsError where rows of a CSV file are wrong; it counts them and names the first."""
    if wrong := list(wrong):
        raise CrackutilsError(f"{file}: in {len(wrong)} of {total} rows {problem} (first: {wrong[0]}). {remedy}.")


def photos_of_tiles(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return the photo of each tile, int (n,), and where it is from: "column", "names" (of files) or "nothing"."""
    names = [_NAMED.fullmatch(Path(file).name) for file in table["file"]]
    if "photo" in table:
        photos, source, what = table["photo"], "column", "by the column photo"
    elif all(names):
        photos, source, what = pd.Series([name[1] for name in names]), "names", "by the names PHOTO-TILE"
    else:
        photos, source, what = table["file"], "nothing", "one for each file, because there is no column photo."
        what += " If several tiles are from one photo, the intervals below are too narrow and the gains too large."
    print(f"{photos.nunique():,} photos, {what}")
    return pd.factorize(photos)[0], source
