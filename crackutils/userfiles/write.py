"""Write results for users: never over their own files, and readable by any spreadsheet."""

import contextlib
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter
from openpyxl.writer.excel import ExcelWriter

from crackutils.config import CrackutilsError
from crackutils.files import as_text, explain_write_errors, lock_file, sha256, write_atomically

NAMES = ("file", "photo")  # columns of our tables that hold names of files
_FORMULA = "=+-@\t\r\n＝＋－＠"  # spreadsheets take cells that begin with one of them for formulas
_NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?", re.IGNORECASE)
_NO_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # characters that a workbook cannot hold
_ROWS, _CHARACTERS = 1_048_576, 32_767  # largest sheet and cell of spreadsheets
# texts that programs take for a number, a date or a missing value
_NO_TEXT = re.compile(r"[\d.,:/e+-]+|nan|n/?a|none|null|true|false|inf(inity)?", re.IGNORECASE)


def refuse_foreign(path: Path, force: bool = False) -> None:
    """Refuse to replace a file that `write_own` did not write, or that was changed since.

    Raises CrackutilsError for such a file, unless `force` is set.
    """
    if force or not os.path.lexists(path):
        return
    record = _record(path)
    written = record.read_text("utf-8").split() if record.is_file() else []
    if not (path.is_file() and sha256(path) in written):
        what = "has been changed since it was written" if written else "exists and was not written by this command"
        raise CrackutilsError(f"{path} {what}. Move it, give another name, or replace it with --force.")


def write_own(path: Path, content: str | bytes) -> None:
    """Write a file as `write_atomically`, and its hash into a hidden file beside it, for `refuse_foreign`."""
    content = content.encode() if isinstance(content, str) else content
    before = [sha256(path)] if path.is_file() else []  # after a kill it may be the old or the new one
    write_atomically(_record(path), "\n".join([*before, hashlib.sha256(content).hexdigest()]))
    write_atomically(path, content)


def remove_own(path: Path) -> None:
    """Remove a file and its record, if `write_own` wrote one there."""
    if _record(path).is_file():
        path.unlink(missing_ok=True)
        _record(path).unlink()


def _record(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Lock a user's file or folder during the block, and explain errors of writing.

    Creates the parent folder. Raises CrackutilsError.
    """
    out, remedy = out.absolute(), "Free disk space, close the file, or give another name; finished work is kept."
    with explain_write_errors(out, remedy):
        out.parent.mkdir(parents=True, exist_ok=True)
        busy = f"Another process is writing {out}. Wait for it, or give another name."
        inside = out.is_dir() and not os.access(out.parent, os.W_OK)  # as where `out` is mounted
        with lock_file((out if inside else out.parent) / f".{out.name}.lock", busy):
            yield


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return a table, without its index, as CSV in UTF-8 with a byte-order mark, which spreadsheets need.

    Text that looks like a formula gets a prefix: ./ for file names, in the columns `NAMES`, and an apostrophe for other
    text. Bytes of names that are not UTF-8 are escapes like \\xe4. Missing values are empty.
    """
    fields = []
    for column, values in table.items():
        cells = ["" if gone else value for value, gone in zip(values.array, values.isna(), strict=True)]
        fields.append([_field(column, name=False), *(_field(cell, column in NAMES) for cell in cells)])
    return "".join(f"{','.join(row)}\n" for row in zip(*fields, strict=True)).encode("utf-8-sig")


def workbook_bytes(sheets: dict[str, pd.DataFrame]) -> bytes:
    """Return tables, each on a sheet of its name, as a workbook (.xlsx), the same bytes for the same tables.

    Text is as in `table_bytes`, with escapes for control characters, and always of type text. The header row is frozen.
    Rows beyond the size of spreadsheets are left out.
    """
    book, written, content = Workbook(write_only=True), io.BytesIO(), io.BytesIO()
    book.properties.created = book.properties.modified = datetime(2000, 1, 1)
    for title, table in sheets.items():
        sheet = book.create_sheet(title)
        sheet.freeze_panes = "A2"
        for k, column in enumerate(table.columns, 1):
            sheet.column_dimensions[get_column_letter(k)].width = 40 if column in NAMES else len(column) + 4
        sheet.append([_cell(sheet, column, bold=True) for column in table.columns])
        for row in table.head(_ROWS - 1).itertuples(index=False, name=None):
            cells = zip(row, table.columns, strict=True)
            sheet.append([None if pd.isna(value) else _cell(sheet, value, column in NAMES) for value, column in cells])
    ExcelWriter(book, zipfile.ZipFile(written, "w")).save()  # Workbook.save would write the time
    with zipfile.ZipFile(written) as dated, zipfile.ZipFile(content, "w") as undated:
        for name in dated.namelist():
            undated.writestr(zipfile.ZipInfo(name), dated.read(name), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _cell(sheet: Any, value: Any, name: bool = False, bold: bool = False) -> WriteOnlyCell:
    """Return a value as a cell of a workbook, with one format each for text, whole numbers and other values."""
    if isinstance(value, str):
        text = _NO_XML.sub(lambda found: ascii(found[0])[1:-1], _safe_text(value, name))[:_CHARACTERS]
        cell = WriteOnlyCell(sheet, text)
        cell.data_type, cell.number_format = "s", "@"  # openpyxl takes = for a formula, and #N/A for an error
    else:
        cell = WriteOnlyCell(sheet, value)
        cell.number_format = "0" if isinstance(value, int | np.integer) else "0.0######"
    if bold:
        cell.font = Font(bold=True)
    return cell


def _field(value: object, name: bool) -> str:
    """Return a value as a field of a CSV file."""
    text = _safe_text(value, name)
    # Python's csv leaves a lone carriage return without quotes; a semicolon separates fields in many countries
    return '"' + text.replace('"', '""') + '"' if re.search('[,;"\t\r\n]|^ | $', text) else text


def _safe_text(value: object, name: bool) -> str:
    """Return a value as text that no spreadsheet takes for a formula, nor a name for a number."""
    text = as_text(str(value))
    if isinstance(value, str) and text:
        if name and (text[0] in _FORMULA or _NO_TEXT.fullmatch(text)):
            text = f"./{text}"
        elif not name and text[0] in _FORMULA and not _NUMBER.fullmatch(text):
            text = f"'{text}"
    return text
