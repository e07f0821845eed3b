"""Write the repository's name into the Colab badges, the set-up cells and README's list of notebooks."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat

from crackutils import config
from crackutils.files import write_atomically
from tools.notebooks import find_notebooks, notebook_title, read_notebook, replace_marked, tagged_cells


def project_table() -> dict[str, Any]:
    """Return the `[tool.crackutils]` table of pyproject.toml: repository slug and branch."""
    return tomllib.loads((config.ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["crackutils"]


COLAB_TAGS = ("colab-badge", "colab-setup")
# packages that Colab lacks: for all notebooks, and for single ones (gradio 6 with its parts: Colab may have gradio 5)
_NEEDED = ["split-folders", "rarfile", "pillow-heif", "ai-edge-litert"]
_NEEDED_BY = {
    "07": ["cleanlab", "cleanvision", "imagehash"],
    "09": ["ezdxf", "gradio>=6", "gradio-client>=2", "hf-gradio", "starlette>=1.0.1"],
}
_SETUP_CELL = """\
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("crackutils") is None:
    root = os.path.abspath("..")
    if "google.colab" in sys.modules:
        root, url = "/content/{name}", "https://github.com/{repository}"
        if not os.path.isdir(root):
            subprocess.run(["git", "clone", "-q", "--depth", "1", "--branch", "{branch}", url, root], check=True)
        os.chdir(f"{{root}}/notebooks")
        needed = {needed}
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *needed], check=True)
    sys.path.insert(0, root)"""


def badge(notebook: Path) -> str:
    """Return the Markdown of the "Open in Colab" badge of a notebook, from the repository named in pyproject.toml."""
    project = project_table()
    place = f"{project['repository']}/blob/{project['branch']}/notebooks/{notebook.name}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({image})](https://colab.research.google.com/github/{place})"


def write_badges(check: bool = False) -> list[str]:
    """Write the repository's name into the notebooks' badges and Colab set-up cells and into README's table.

    Args:
        check: change nothing.

    Returns:
        The files that have changed, or with `check` would.

    Raises:
        CrackutilsError: a notebook has no cell tagged colab-badge or colab-setup, or README has no place for the table.
    """
    project = project_table()
    name = project["repository"].split("/")[-1]
    new: dict[Path, str] = {}
    rows = ["| Notebook | What it shows | |", "|---|---|---|"]
    for path in find_notebooks().values():
        nb = read_notebook(path)
        needed = "\n        needed += ".join(map(json.dumps, filter(None, (_NEEDED, _NEEDED_BY.get(path.name[:2])))))
        setup = _SETUP_CELL.format(name=name, needed=needed, repository=project["repository"], branch=project["branch"])
        for tag, wanted in zip(COLAB_TAGS, (badge(path), setup), strict=True):
            cells = tagged_cells(nb, tag)
            if len(cells) != 1:
                raise config.CrackutilsError(
                    f"{config.display_path(path)} must have exactly one cell tagged {tag}, not {len(cells)}."
                )
            if cells[0].source != wanted:
                cells[0].source = wanted
                new[path] = nbformat.writes(nb).rstrip("\n") + "\n"
        summary = nb.metadata.get("crackutils", {}).get("summary", "")
        title = re.sub(r"^\d+\W+", "", notebook_title(nb, path.stem))
        cells = [f"[{path.name[:2]} {title}](notebooks/{path.name})", summary, badge(path)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    readme = config.ROOT / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    if (wanted := replace_marked(text, "notebooks", "\n".join(rows))) != text:
        new[readme] = wanted
    if not check:
        for path, content in new.items():
            write_atomically(path, content)
    return [config.display_path(path) for path in new]
