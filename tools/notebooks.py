"""Find and read notebooks: their parameters, tags and titles, and their executed copies."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat

from crackutils import config


def find_notebooks() -> dict[str, Path]:
    """Return the notebooks of the series by number, "00" first."""
    return {path.name[:2]: path for path in sorted(config.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}


def read_parameters(path: Path) -> dict[str, Any]:
    """Return the parameters of a notebook with its own values, from the cell tagged "parameters".

    Raises:
        CrackutilsError: the cell holds anything but assignments of literals.
    """
    found: dict[str, Any] = {}
    for cell in tagged_cells(read_notebook(path), "parameters"):
        try:
            for line in ast.parse(cell.source).body:
                target = line.targets[0] if isinstance(line, ast.Assign) else line.target
                found[target.id] = ast.literal_eval(line.value)
        except (AttributeError, SyntaxError, ValueError) as error:
            raise config.CrackutilsError(
                f"{config.display_path(path)}: the cell tagged parameters may hold only lines NAME = literal."
            ) from error
    return found


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; CrackutilsError if the file is not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (AttributeError, TypeError, ValueError, nbformat.ValidationError) as error:
        raise config.CrackutilsError(f"{config.display_path(path)} is not a readable notebook. Restore it.") from error


def tagged_cells(nb: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """Return the cells with a tag."""
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def notebook_title(nb: nbformat.NotebookNode, otherwise: str) -> str:
    """Return the first Markdown heading as plain text, or `otherwise`."""
    for cell in nb.cells:
        found = re.search(r"^#+ +(.+?) *#*$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if found:
            return re.sub(r"[*_`]", "", found[1])
    return otherwise


def copies_folder(profile: config.Profile) -> Path:
    """Folder of the executed copies of a profile."""
    return config.results_dir() / profile.name / "notebooks"


def executed_copies(profile: config.Profile) -> list[Path]:
    """Return the executed copies that are complete."""
    files = sorted(copies_folder(profile).glob("*.ipynb"))
    return [path for path in files if not path.name.startswith(".") and not path.name.endswith(".failed.ipynb")]


def replace_marked(text: str, name: str, content: str) -> str:
    """Return a page's text with other content between its marks of this name; CrackutilsError if these are missing."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise config.CrackutilsError(f"The page must hold the lines {begin} and {end} once each. Put them back.")
    return f"{text[: text.index(begin)]}{begin}\n{content}\n{text[text.index(end) :]}"
