"""The user's table of site labels, and the photos of its tiles."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from crackutils.config import CLASSES, CrackutilsError
from crackutils.datasets import PHOTO_TILE
from crackutils.userfiles.names import find_files
from crackutils.userfiles.read import FILES, read_classes, read_table, refuse_rows

_COLUMNS = {"file": (*FILES, "tile"), "label": ("label", "crack", "class", "cracked")}
_COLUMNS |= {"crack": ("crack",), "photo": ("photo",)}
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # start of an absolute path there


def read_labels(file: str | Path) -> pd.DataFrame:
    """Return the rows of a table of labels as `adapt` describes it: file, label (int, 0 or 1) and, if given, photo.

    Prints how the table was read. Raises CrackutilsError if it cannot be read, lacks a column or a class, or has
    unusable rows or fewer than ten.
    """
    file = Path(file)
    table = read_table(file, _COLUMNS, ("photo", "crack"))
    total, label = len(table), read_classes(file, table, "label", "crack")
    given, folder = table["file"], file.parent.absolute()
    table["file"] = find_files(file.parent, given.tolist())
    paths = [file.parent / name for name in table["file"]]
    gone = given[[not os.path.isfile(path) for path in paths]]
    drives = [name for name in gone if _WINDOWS.match(name.strip())]
    remedy = f"Write paths relative to {folder}"
    refuse_rows(file, total, drives if os.name != "nt" else [], "the path belongs to another computer", remedy)
    refuse_rows(file, total, gone, "the file does not exist", f"Paths are relative to {folder}")
    again = given[pd.Series([path.resolve() for path in paths], dtype=object).duplicated()]
    refuse_rows(file, total, again, "the file is a duplicate", "List each picture once")
    if "photo" in table:
        table["photo"] = table["photo"].str.strip()
        empty = given[table["photo"] == ""]
        refuse_rows(file, total, empty, "the photo is missing", "Fill it in, or leave the column out")
    table["label"] = label.astype(int)
    table = table[[name for name in ("file", "label", "photo") if name in table]]
    if total < 10:
        raise CrackutilsError(f"{file} holds {total} labels. Give at least 10, better several hundred.")
    if table["label"].nunique() < 2:
        raise CrackutilsError(f"{file} labels all {total} tiles {CLASSES[table['label'][0]]}. Give both classes.")
    return table


def photos_of_tiles(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return the photo of each tile, int (n,), and the source: "column", "names" (of files) or "nothing"."""
    names = [re.fullmatch(PHOTO_TILE, Path(file).name) for file in table["file"]]
    if "photo" in table:
        photos, source, what = table["photo"], "column", "by the column photo"
    elif all(names):
        photos, source, what = pd.Series([name[1] for name in names]), "names", "by the names PHOTO-TILE"
    else:
        photos, source, what = table["file"], "nothing", "one for each file, because there is no column photo."
        what += " If several tiles are from one photo, the intervals below are too narrow and the gains too large."
    print(f"{photos.nunique():,} photos, {what}")
    return pd.factorize(photos)[0], source
