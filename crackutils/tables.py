"""Tables that people have, as spreadsheets and systems write them, and those that they get from a command."""

import re
from pathlib import Path

import pandas as pd

from crackutils.files import write_atomically

NAMES = ("file", "photo")  # columns of our tables that hold names of files
_FORMULA = "=+-@\t\r\n＝＋－＠"  # a spreadsheet calculates a cell that begins with one of them
_NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?", re.IGNORECASE)
# what readers of a table take for a number, a date or a missing value
_NO_TEXT = re.compile(
    r"[\d.,:/e+-]+|nan|n/?a|none|null|true|false|inf(inity)?", re.IGNORECASE
)  # to a reader, as a name


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
    return '"' + text.replace('"', '""') + '"' if re.search('[,;"\t\r\n]', text) else text
