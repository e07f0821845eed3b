"""The user's table of site labels, and the photos that its tiles were cut from."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from crackutils.config import CLASSES, CrackutilsError
from crackutils.tables import find_files, read_classes, read_table, refuse_rows

_COLUMNS = {
    "file": ("file", "filename", "image", "imagename", "path", "filepath", "tile"),
    "label": ("label", "crack", "class", "cracked"),
    "crack": ("crack",),
    "photo": ("photo",),
}
_NAMED = re.compile(r"(\d+)-\d+\.\w+")  # PHOTO-TILE.jpg, as SDNET2018 has it
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how an absolute path begins there


def read_labels(file: str | Path) -> pd.DataFrame:
    """Return the rows of a table of labels as `adapt` describes it: file, label (int, 0 or 1) and, if given, photo.

    Prints how the table was read. Raises CrackutilsError where it cannot be read, lacks a column or a class, or holds
    unusable rows or under ten.
    """
    file = Path(file)
    table = read_table(file, _COLUMNS, ("photo", "crack"))
    total, label = len(table), read_classes(file, table, "label", "crack")
    given, folder = table["file"], file.parent.absolute()
    table["file"] = find_files(file.parent, given.tolist())
    paths = [file.parent / name for name in table["file"]]
    gone = given[[not os.path.isfile(path) for path in paths]]
    drives = [name for name in gone if _WINDOWS.match(name.strip())]
    remedy = f"Write paths that begin at {folder}"
    refuse_rows(file, total, drives if os.name != "nt" else [], "the path is that of another computer", remedy)
    refuse_rows(file, total, gone, "the file does not exist", f"Paths begin at {folder}")
    again = given[pd.Series([path.resolve() for path in paths], dtype=object).duplicated()]
    refuse_rows(file, total, again, "the file stood in a row before", "List each picture once")
    if "photo" in table:
        table["photo"] = table["photo"].str.strip()
        empty = given[table["photo"] == ""]
        refuse_rows(file, total, empty, "the photo is missing", "Fill it in, or leave the column out")
    table["label"] = label.astype(int)
    table = table[[name for name in ("file", "label", "photo") if name in table]]
    if total < 10:
        raise CrackutilsError(f"{file} holds {total} labels. Give at least 10, better some hundred.")
    if table["label"].nunique() < 2:
        remedy = "Give tiles of both classes."
        raise CrackutilsError(f"{file} labels all {total} tiles {CLASSES[table['label'][0]]}. {remedy}")
    return table


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
