"""Build the site of a profile with Sphinx: its executed notebooks, the pages of docs/ and the API; runs no notebook."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

from crackutils import config
from crackutils.files import render_template, write_atomically
from tools.badges import project_table
from tools.browser import SCRIPTS, Unreachable, write_browser_files
from tools.notebooks import executed_copies, read_notebook, tagged_cells

DOCS, _TEMPLATES = config.ROOT / "docs", Path(__file__).with_name("templates")
CARDS = ("tools/benchmarks/README.md", "crackutils/detector/shipped/model/README.md", "crackutils/backbone/README.md")
PARTS = {  # of the navigation, besides the notebooks
    "Guides": [
        *(f"docs/{name}.md" for name in ("running", "own-images", "whole-photos")),
        *("try.md", "docs/export.md", "docs/scale.md", "docs/reproducibility.md"),
    ],
    "Results": [
        f"docs/{name}.md" for name in ("about", "results", "benchmark", "audit", "transfer", "speed", "sample")
    ],
    "Reference": ["docs/glossary.md", "api.md", "docs/architecture.md", *CARDS],
}
MODULES = {  # of the public API, by task
    "Images and splits": ("config", "datasets", "images", "folders", "splits.make", "splits.registration"),
    "Models and training": ("recipes", "stages", "models", "augment", "batches", "training", "linear"),
    "Features and engines": ("inference.features", "inference.engines"),
    "Scores and runs": ("metrics", "decisions", "slices", "runs", "comparison.tables", "comparison.significance"),
    "Cracks in photos": (
        *("detector.network", "inspection.tiling", "inspection.mask", "inspection.measure", "inspection.photo"),
        *("inspection.folder", "inspection.scale", "inspection.session", "inspection.truth", "app.serve"),
    ),
    "Models of any framework": ("evaluation.predictions", "evaluation.masks", "evaluation.manifest"),
    "Other sites": ("adaptation.adapt", "adaptation.masks", "transfer.methods", "transfer.robustness", "scoring"),
    "Other programs": ("deployment.export", "deployment.runtimes"),
    "Synthetic photos": ("synthetic.photo", "synthetic.patches", "synthetic.store"),
}

_API = """# crackutils.{module}

```{{eval-rst}}
.. automodule:: crackutils.{module}
   :members:
```
"""


def write_site(profile: config.Profile) -> Path:
    """Build `results/<profile>/site/` and return its `index.html`; no page of it needs a network.

    Raises:
        CrackutilsError: no notebook has been run with this profile, or Sphinx failed.
    """
    copies = executed_copies(profile)
    if not copies:
        raise config.CrackutilsError(
            f"PROFILE={profile.name} has no executed notebook yet. Run make run-all PROFILE={profile.name} first."
        )
    home = config.results_dir() / profile.name
    sources, site = home / ".site" / "pages", home / "site"
    pages = dict(_pages(profile, copies))
    for old in (path for path in sources.rglob("*") if path.is_file()):
        if old.relative_to(sources).as_posix() not in pages:
            old.unlink()
    for name, content in pages.items():
        target = sources / name
        if not target.is_file() or target.read_bytes() != content:  # Sphinx only rebuilds changed pages
            write_atomically(target, content.decode() if target.suffix in (".md", ".ipynb") else content)
    folders = [str(sources.with_name("doctrees")), str(sources), str(site)]
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(DOCS), "-d", *folders]
    if subprocess.call(command, cwd=config.ROOT):
        raise config.CrackutilsError("Sphinx could not build the site. Correct the errors above.")
    try:
        write_browser_files(site / "_static" / "browser")
    except Unreachable as error:  # without a network the rest of the site is whole
        print(f"note: the page Try it does not work. {error}")
    for page in (site / "notebooks").glob("*.html"):
        if f"notebooks/{page.stem}.ipynb" not in pages:
            page.unlink()  # its notebook was renamed or removed
    return site / "index.html"


def _pages(profile: config.Profile, copies: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield name, relative to the sources of the site, and content of each of its pages and pictures."""
    guides = {f"docs/{path.name}": path for path in sorted(DOCS.glob("*.md"))}
    guides |= {name: config.ROOT / name for name in CARDS}
    notebooks = {f"notebooks/{path.name}": path for path in copies}
    known, entries, pictures = {*guides, *notebooks}, [], set()
    for name, path in guides.items():
        text, shown = _relink(path.read_text("utf-8"), name, known)
        pictures |= shown
        yield name, text.encode()
    for name, path in notebooks.items():
        nb = read_notebook(path)
        pictures |= _prepare(nb, name, known)
        entries.append({"page": name, "summary": nb.metadata.get("crackutils", {}).get("summary", "")})
        yield name, nbformat.writes(nb).encode()
    for picture in sorted(pictures):
        yield picture, (config.ROOT / picture).read_bytes()
    parts = {"Notebooks": entries} | {part: [{"page": name} for name in names] for part, names in PARTS.items()}
    modules = {task: [(m, _first_line(m)) for m in group] for task, group in MODULES.items()}
    for module in (m for group in MODULES.values() for m in group):
        yield f"api/{module}.md", _API.format(module=module).encode()
    yield "try.md", (SCRIPTS / "try.md").read_bytes()
    values = {"profile": profile, "entries": entries, "modules": modules, "parts": list(parts)}
    for name in ("index", "api"):
        yield f"{name}.md", render_template(_TEMPLATES / f"{name}.md.j2", values).encode()
    for part, content in parts.items():
        text = render_template(_TEMPLATES / "part.md.j2", {"title": part, "entries": content})
        yield f"{part.lower()}.md", text.encode()


def _first_line(module: str) -> str:
    return (importlib.import_module(f"crackutils.{module}").__doc__ or "").split("\n")[0]


def _prepare(nb: nbformat.NotebookNode, name: str, known: set[str]) -> set[str]:
    """Turn an executed copy into a page: no set-up cell, progress bars or empty outputs, new links, alternative texts.

    Returns:
        The pictures that its links show.
    """
    nb.metadata.pop("widgets", None)  # old progress bars, whose scripts would be loaded from the network
    for cell in tagged_cells(nb, "colab-setup"):
        nb.cells.remove(cell)
    for cell in tagged_cells(nb, "colab-badge"):  # its picture would be loaded from the network
        cell.source = f"[Open in Colab]({cell.source.rpartition('](')[2]}"
    shown: set[str] = set()
    changed = nb.metadata.get("crackutils", {}).get("changed", {})
    if changed:
        title = next(cell for cell in nb.cells if cell.source.startswith("# "))
        settings = ", ".join(f"{k}={v}" for k, v in changed.items())
        code = f" (`{settings.replace('`', '_')}`)"
        title.source = re.sub(r"^# .*$", lambda line: line[0] + code, title.source, count=1, flags=re.M)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source, pictures = _relink(cell.source, name, known)
            shown |= pictures
            continue
        for out in (out for out in cell.outputs if out.output_type == "stream"):
            out.text = re.sub(r"\r[^\n]*", "", out.text).lstrip("\n")
        texts = [out.get("text", out.get("data", {}).get("text/plain")) for out in cell.outputs]
        cell.outputs = [out for out, text in zip(cell.outputs, texts, strict=True) if text != ""]
        if cell.source.startswith("from crackutils import "):
            cell.metadata.setdefault("tags", []).append("hide-input")  # imports open after a click
        pictures = [out.get("metadata", {}).get("image/png", {}) for out in cell.outputs]
        if texts := [picture["alt"] for picture in pictures if "alt" in picture]:
            cell.metadata["mystnb"] = {"image": {"alt": "; ".join(texts)}}
    return shown


def _relink(text: str, name: str, known: set[str]) -> tuple[str, set[str]]:
    """Return Markdown with links to pages of the site or to the repository, and the pictures that it shows."""
    project, pictures = project_table(), set()

    def lead(match: re.Match[str]) -> str:
        link, mark, anchor = match[1].partition("#")
        target = (config.ROOT / name).parent.joinpath(link).resolve()
        if not link or re.match("[a-z]+:", link) or not target.is_relative_to(config.ROOT):
            return match[0]
        place = target.relative_to(config.ROOT).as_posix()
        if place in known:
            return match[0]
        if target.suffix in (".png", ".jpg") and target.is_file():
            pictures.add(place)
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"](https://github.com/{project['repository']}/{kind}/{project['branch']}/{place}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", lead, text), pictures
