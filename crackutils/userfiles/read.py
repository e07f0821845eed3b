"""Read users' tables, as spreadsheets and other systems write them."""

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import printable
from crackutils.userfiles.names import class_of
from crackutils.userfiles.write import NAMES

FILES = ("file", "filename", "image", "imagename", "path", "filepath")  # names of a column of files
_FIELDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # first bytes of .xlsx, .xlsb and .ods, and of .xls
_ABOVE = 20  # rows that may hold the names of the columns


def read_table(file: Path, columns: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows of a CSV file or a spreadsheet as text, under our names of its columns.

    `columns` lists the accepted names of each column, the most likely first; case and spaces are ignored. Other columns
    are left out; those in `optional` may be missing. Lines above the names, empty rows and empty fields at the end are
    ignored. `attrs` of the result holds a description of how the file was read ("read"), and the names of the columns
    in the file ("names"). Raises CrackutilsError for a file that cannot be read or is not such a table, lacks a column
    or has it twice, or has rows with more or fewer fields than names.
    """
    best, fewest = None, len(columns) + 1
    for read, rows, problem in _readings(file):
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        for k, row in enumerate(rows[:_ABOVE] or [[]]):
            heads = [re.sub(r"[\s_-]", "", cell).lower() for cell in row]
            found = {ours: next((name for name in names if name in heads), "") for ours, names in columns.items()}
            wrong = [x for x, name in found.items() if (heads.count(name) > 1 if name else x not in optional)]
            if len(wrong) < fewest:
                read += f", {k} line{'s' * (k > 1)} above the names" * (k > 0)
                best, fewest = (read, row, heads, found, wrong, rows[k + 1 :], problem), len(wrong)
        if not fewest:
            break
    assert best is not None
    read, row, heads, found, wrong, rows, problem = best
    if wrong:
        first = ",".join(name for name in columns if name not in optional)
        remedy = f"Its first line must be {' or '.join([first, *(f'{first},{x}' for x in optional if x in NAMES)])}"
        raise CrackutilsError(f"{file} has not one column {' and '.join(wrong)}. {remedy}.")
    if problem:
        raise CrackutilsError(f"{file} is not a CSV file ({problem}). Save it as one, in UTF-8.")
    places = {ours: heads.index(name) for ours, name in found.items() if name}
    least = 1 + max(place for ours, place in places.items() if ours not in optional or ours in NAMES)
    rows = [row[: len(heads)] if not any(cell.strip() for cell in row[len(heads) :]) else row for row in rows]
    cut = [",".join(row) for row in rows if not least <= len(row) <= len(heads)]
    refuse_rows(file, len(rows), cut, "there are more or fewer fields than in the first line", "Correct them")
    rows = [row + [""] * (len(heads) - len(row)) for row in rows]
    table = pd.DataFrame({ours: pd.Series([r[k] for r in rows], dtype=object) for ours, k in places.items()})
    for name in table.columns.intersection(NAMES):
        table[name] = table[name].str.replace(r"^(\./)+", "", regex=True)  # written by `table_bytes` and others
    named = [places.get(name) for name in NAMES]
    others = (cell for row in rows for k, cell in enumerate(row) if k not in named)
    read += ", decimal commas" * any(re.fullmatch(r"\s*-?\d+,\d+\s*", cell) for cell in others)
    table.attrs = {"read": f"{len(rows):,} rows, {read}", "names": {x: row[k].strip() for x, k in places.items()}}
    return table


def _readings(file: Path) -> Iterator[tuple[str, list[list[str]], str]]:
    """Yield the readings of a file, by sheet or separator: description, rows, and the error that ended them."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror}). Give a CSV file or a spreadsheet.") from error
    if raw.startswith(_SPREADSHEETS):
        options = {"sheet_name": None, "header": None, "dtype": object, "keep_default_na": False}
        try:
            sheets = pd.read_excel(io.BytesIO(raw), engine="calamine", **options)
        except Exception as error:  # its parser raises its own errors, also for a password
            why = f"{file} is not a readable spreadsheet ({error})"
            raise CrackutilsError(f"{why}. Save it as .xlsx without a password, or as CSV.") from error
        for name, sheet in sheets.items():
            among = f" (of {', '.join(sheets)})" if len(sheets) > 1 else ""
            yield f"sheet {name}{among}", [[str(cell) for cell in row] for row in sheet.to_numpy()], ""
        return
    text, encoding = _decode(raw)
    told = re.match(r'"?sep=([^\w"\r\n ])"?\s*', text, re.IGNORECASE)
    for mark in dict.fromkeys([*(told[1] if told else ""), *_FIELDS]):
        lines, rows, problem = io.StringIO(text[told.end() if told else 0 :], newline=""), [], ""
        try:
            rows.extend(csv.reader(lines, delimiter=mark, strict=True, skipinitialspace=True))
        except csv.Error as error:  # wrong separator, or unfinished file
            problem = str(error)
        yield f"{encoding}, {_FIELDS.get(mark, f'separator {mark}')}", rows, problem


def _decode(raw: bytes) -> tuple[str, str]:
    """Return the text of a file, and its encoding: by its byte-order mark, else UTF-8, else Windows-1252."""
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:2]
    wide = ("utf-16" if raw[:1] > b"\x7f" else "utf-16-be" if raw[:1] == b"\0" else "utf-16-le") if wide else ""
    for encoding, words in ((wide, "UTF-16"), ("utf-8", "UTF-8"), ("cp1252", "Windows-1252")):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            errors = "surrogateescape" if encoding == "cp1252" else "strict"
            return raw.decode(encoding, errors).strip("\ufeff\x1a\0"), words
    raise AssertionError


def read_classes(file: Path, table: pd.DataFrame, column: str, other: str, empty: bool = False) -> pd.Series:
    """Return a column of `read_table` as classes, 0 or 1, missing where it is empty; print how the file was read.

    Raises CrackutilsError for unknown labels, for empty ones unless `empty`, and if the column `other` differs.
    """
    text, total = table[column].str.strip(), len(table)
    label = pd.Series([class_of(cell) for cell in text], table.index, dtype="Int64")
    name = table["file"] if "file" in table else table["photo"]
    unknown = (name + ": " + text)[label.isna() & ((text != "") | (not empty))]
    remedy = f"Write 0 or 1, or {' or '.join(CLASSES)}" + ", or nothing" * empty
    refuse_rows(file, total, unknown, "the label is unknown", remedy)
    if other in table:
        theirs = table[other].str.strip()
        differ = (label != pd.Series([class_of(cell) for cell in theirs], table.index, dtype="Int64")).fillna(True)
        differ = name[differ & label.notna() & (theirs != "")]
        refuse_rows(file, total, differ, f"the columns {column} and {other} differ", "Remove one of them")
    counts = {"crack": int((label == 1).sum()), "no crack": int((label == 0).sum()), "empty": int(label.isna().sum())}
    told = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n or what != "empty")
    print(f"{file.name}: {table.attrs['read']}; column {table.attrs['names'][column]}: {told}")
    return label


def refuse_rows(file: Path, total: int, wrong: Iterable[str], problem: str, remedy: str) -> None:
    """Raise CrackutilsError if rows of a table are wrong, with their number and the first three."""
    if wrong := list(wrong):
        first = ", ".join(printable(text)[:100] for text in wrong[:3])
        raise CrackutilsError(f"{file}: in {len(wrong)} of {total} rows {problem} (first: {first}). {remedy}.")
