"""Tables that people have, as spreadsheets and other systems write them, and those that they get from a command."""

import contextlib
import csv
import io
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import printable, write_atomically

NAMES = ("file", "photo")  # columns of our tables that hold names of files
# what people call the classes, in tables and as folders; `class_of` compares without case, spaces, dashes, underscores
_NO = "negative neg uncracked uncrack nocrack nocracks noncrack noncracked notcracked withoutcrack withoutcracks"
_NO += " crackfree no n false f nein falsch non faux intact normal undamaged uw ud up"
_YES = "positive pos cracked crack cracks withcrack withcracks yes y true t ja j wahr oui vrai damaged cw cd cp"
CLASS_NAMES = dict.fromkeys(["0", *_NO.split()], 0) | dict.fromkeys(["1", *_YES.split()], 1)
_FIELDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx, .xlsb and .ods begin, and .xls
_ABOVE = 20  # rows among which the names of the columns are looked for
_FORMULA = "=+-@\t\r\n＝＋－＠"  # a spreadsheet calculates a cell that begins with one of them
_NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?", re.IGNORECASE)
# what readers of a table take for a number, a date or a missing value
_NO_TEXT = re.compile(r"[\d.,:/e+-]+|nan|n/?a|none|null|true|false|inf(inity)?", re.IGNORECASE)


def class_of(name: str) -> int | None:
    """Return 0 or 1 for what people call no crack and crack (`CLASS_NAMES`, also 1.0 or 1,0), and None for the rest."""
    name = re.sub(r"(?<=[a-z])[\s_-]+(?=[a-z])", "", name.strip().lower())  # the sign of a number stays
    return CLASS_NAMES.get(re.sub(r"(?<=\d)[.,]0*$", "", name))


def read_table(file: Path, columns: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows of a CSV file or a spreadsheet as text, under our names of its columns.

    `columns` holds for each of our names those that people use, the likeliest first; case and spaces do not count, and
    columns of other names are left out. Those in `optional` may be missing. Lines above the names, empty rows and empty
    fields at the end do not count. `attrs` of the result holds under "read" how the file was read, in words, and under
    "names" the columns as the file calls them. Raises CrackutilsError for a file that cannot be read, is no such table,
    lacks a column or has it twice, or has rows with more or fewer fields than names.
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
        raise CrackutilsError(f"{file} is no CSV file ({problem}). Save it as one, in UTF-8.")
    places = {ours: heads.index(name) for ours, name in found.items() if name}
    least = 1 + max(place for ours, place in places.items() if ours not in optional or ours in NAMES)
    rows = [row[: len(heads)] if not any(cell.strip() for cell in row[len(heads) :]) else row for row in rows]
    cut = [",".join(row) for row in rows if not least <= len(row) <= len(heads)]
    refuse_rows(file, len(rows), cut, "there are more or fewer fields than in the first line", "Correct them")
    rows = [row + [""] * (len(heads) - len(row)) for row in rows]
    table = pd.DataFrame({ours: pd.Series([r[k] for r in rows], dtype=object) for ours, k in places.items()})
    for name in table.columns.intersection(NAMES):
        table[name] = table[name].str.replace(r"^(\./)+", "", regex=True)  # as `table_bytes` writes it, and others
    named = [places.get(name) for name in NAMES]
    others = (cell for row in rows for k, cell in enumerate(row) if k not in named)
    read += ", decimal commas" * any(re.fullmatch(r"\s*-?\d+,\d+\s*", cell) for cell in others)
    table.attrs = {"read": f"{len(rows):,} rows, {read}", "names": {x: row[k].strip() for x, k in places.items()}}
    return table


def _readings(file: Path) -> Iterator[tuple[str, list[list[str]], str]]:
    """Yield how a file can be read, by its sheets or separators, in words; its rows then; and what ends them early."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror}). Give a CSV file or a spreadsheet.") from error
    if raw.startswith(_SPREADSHEETS):
        options = {"sheet_name": None, "header": None, "dtype": object, "keep_default_na": False}
        try:
            sheets = pd.read_excel(io.BytesIO(raw), engine="calamine", **options)
        except Exception as error:  # its parser raises errors of its own, also for a password
            why = f"{file} is no spreadsheet that can be read ({error})"
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
        except csv.Error as error:  # with the wrong mark, or in an unfinished file
            problem = str(error)
        yield f"{encoding}, {_FIELDS.get(mark, f'separator {mark}')}", rows, problem


def _decode(raw: bytes) -> tuple[str, str]:
    """Return the text of a file, and its encoding in words: that of its byte-order mark, UTF-8, or Windows-1252."""
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:2]
    wide = ("utf-16" if raw[:1] > b"\x7f" else "utf-16-be" if raw[:1] == b"\0" else "utf-16-le") if wide else ""
    for encoding, words in ((wide, "UTF-16"), ("utf-8", "UTF-8"), ("cp1252", "Windows-1252")):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            errors = "surrogateescape" if encoding == "cp1252" else "strict"
            return raw.decode(encoding, errors).strip("\ufeff\x1a\0"), words
    raise AssertionError


def read_classes(file: Path, table: pd.DataFrame, column: str, other: str, empty: bool = False) -> pd.Series:
    """Return a column of `read_table` as classes, 0 or 1, missing where it is empty; print how the file was read.

    Raises CrackutilsError for what is no class, for nothing unless `empty`, and where the column `other` differs.
    """
    text, total = table[column].str.strip(), len(table)
    label = pd.Series([class_of(cell) for cell in text], table.index, dtype="Int64")
    name = table["file"] if "file" in table else table["photo"]
    unknown = (name + ": " + text)[label.isna() & ((text != "") | (not empty))]
    remedy = f"Write 0 or 1, or {' or '.join(CLASSES)}" + ", or nothing" * empty
    refuse_rows(file, total, unknown, "the label is none", remedy)
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
    """Raise CrackutilsError where rows of a table are wrong; it counts them and names the first three."""
    if wrong := list(wrong):
        first = ", ".join(printable(text)[:100] for text in wrong[:3])
        raise CrackutilsError(f"{file}: in {len(wrong)} of {total} rows {problem} (first: {first}). {remedy}.")


def match_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return each name as `known` spells it, where exactly one does so, else as it is.

    Case, slashes, ./ in front, composed letters, escapes of bytes and the encoding of the table do not count. Nor does
    the suffix where a name has none.
    """
    keys, stems, known, found = defaultdict(list), defaultdict(list), set(known), []
    for name in known:
        keys[_key(name)].append(name)
        stems[_key(posixpath.splitext(name)[0])].append(name)
    for name in names:
        alike = ([one] if one in known else keys[_key(one)] or stems[_key(one)] for one in _spellings(name))
        found.append(next((one[0] for one in alike if len(one) == 1), name))
    return found


def _spellings(name: str) -> Iterator[str]:
    """Yield what a name can mean: itself, with slashes, and, taken for Windows-1252, in three other encodings."""
    yield name
    yield (name := posixpath.normpath(name.strip().replace("\\", "/")))
    for encoding in ("utf-8", "mac_roman", "cp850") if not name.isascii() else ():
        with contextlib.suppress(UnicodeError):
            yield name.encode("cp1252", "surrogateescape").decode(encoding)


def find_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the names of files in a table, absolute or relative to `folder`, as the disk spells them: `match_names`.

    A name remains as it is where no file, or more than one, is called like that.
    """
    missing = [name for name in dict.fromkeys(names) if not os.path.isfile(folder / name)]
    keys, known = [_key(one) for name in missing for one in _spellings(name)], []
    wanted = {key[: k + 1] for key in keys for k, sign in enumerate(key) if sign == "/"}
    for top in {re.match(r"/|(\.\./)*", key)[0] for key in keys}:
        for place, folders, files in os.walk(folder / top, followlinks=True):  # only where the names lead
            below = posixpath.join(top, Path(place).relative_to(folder / top).as_posix())
            folders[:] = [name for name in folders if f"{_key(posixpath.join(below, name))}/" in wanted]
            known += [posixpath.normpath(posixpath.join(below, name)) for name in files]
    found = dict(zip(missing, match_names(missing, known), strict=True))
    return [found.get(name, name) for name in names]


def _key(name: str) -> str:
    path = posixpath.normpath(printable(name.strip()).replace("\\", "/"))
    return unicodedata.normalize("NFC", path).casefold()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table for people to a CSV file, whole or not at all; `table_bytes` says how."""
    write_atomically(path, table_bytes(table))


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return a table, without its index, as CSV in UTF-8 with a byte-order mark, which spreadsheets need.

    No text is a formula: a name of a file, in the columns `NAMES`, begins with ./ instead, and other text with an
    apostrophe. Bytes of names that are no UTF-8 stand as escapes like \\xe4. Missing values are empty.
    """
    fields = []
    for column, values in table.items():
        cells = ["" if gone else value for value, gone in zip(values.array, values.isna(), strict=True)]
        fields.append([_field(column, name=False), *(_field(cell, column in NAMES) for cell in cells)])
    return "".join(f"{','.join(row)}\n" for row in zip(*fields, strict=True)).encode("utf-8-sig")


def _field(value: object, name: bool) -> str:
    """Return a value as a field of a CSV file."""
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, str) and text:
        if name and (text[0] in _FORMULA or _NO_TEXT.fullmatch(text)):
            text = f"./{text}"
        elif not name and text[0] in _FORMULA and not _NUMBER.fullmatch(text):
            text = f"'{text}"
    # Python's csv leaves a lone carriage return without quotes; a semicolon separates fields in many countries
    return '"' + text.replace('"', '""') + '"' if re.search('[,;"\t\r\n]|^ | $', text) else text
