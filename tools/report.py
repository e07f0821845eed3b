"""Write the report of a profile: its executed notebooks as HTML, with a common index."""

from __future__ import annotations

from pathlib import Path

import nbformat
from jinja2 import FileSystemLoader

from crackutils import config
from crackutils.files import render_template, write_atomically
from tools.badges import COLAB_TAGS
from tools.notebooks import executed_copies, notebook_title, read_notebook

_TEMPLATES = Path(__file__).with_name("templates")


def write_report(profile: config.Profile) -> Path:
    """Turn the executed copies of a profile into HTML with a common index; nothing in it needs a network.

    Returns:
        `results/<profile>/report/index.html`.

    Raises:
        CrackutilsError: no notebook has been run with this profile.
    """
    copies = executed_copies(profile)
    if not copies:
        raise config.CrackutilsError(
            f"PROFILE={profile.name} has no executed notebook yet. Run make run-all PROFILE={profile.name} first."
        )
    home = config.results_dir() / profile.name / "report"
    newest = max(file.stat().st_mtime for file in (Path(__file__), *_TEMPLATES.iterdir()))
    entries = []
    for copy in copies:
        nb, page = read_notebook(copy), home / f"{copy.stem}.html"
        title = notebook_title(nb, copy.stem)
        changed = nb.metadata.get("crackutils", {}).get("changed", {})
        title += f" ({', '.join(f'{name}={value}' for name, value in changed.items())})" if changed else ""
        if not page.is_file() or page.stat().st_mtime < max(copy.stat().st_mtime, newest):
            write_atomically(page, _page(nb, f"{title} - {profile.name}"))
        ended = str(nb.metadata.get("papermill", {}).get("end_time") or "")
        ended = ended[:16].replace("T", " ") + " UTC" if ended else ""
        entries.append({"page": page.name, "title": title, "ended": ended})
    for page in home.glob("*.html"):
        if page.name not in {"index.html", *(entry["page"] for entry in entries)}:
            page.unlink()  # its notebook was renamed or removed
    index = home / "index.html"
    write_atomically(index, render_template(_TEMPLATES / "index.html.j2", {"profile": profile, "entries": entries}))
    return index


def _page(nb: nbformat.NotebookNode, title: str) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="lab",
        template_file="page.html.j2",
        extra_loaders=[FileSystemLoader(_TEMPLATES)],
        embed_images=True,
    )
    nb.cells = [c for c in nb.cells if not set(COLAB_TAGS) & set(c.metadata.get("tags", []))]
    return exporter.from_notebook_node(nb, {"metadata": {"name": title, "path": str(config.NOTEBOOKS)}})[0]
