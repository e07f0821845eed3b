"""Run the notebooks in order, keep their executed copies, and make one browsable report of them."""

from __future__ import annotations

import html
from pathlib import Path

import nbformat

from crackutils import config
from crackutils.files import write_atomically
from tools.badges import COLAB_TAGS
from tools.notebooks import executed_copies, notebook_title, read_notebook


def report(profile: config.Profile) -> Path:
    """Turn the executed copies of a profile into HTML with a common index; nothing in it needs a network.

    Returns:
        `results/<profile>/report/index.html`.

    Raises:
        CrackutilsError: no notebook has been run with this profile.
    """
    copies = executed_copies(profile)
    if not copies:
        raise config.CrackutilsError(
            f"PROFILE={profile.name} has no executed notebook yet; run make run-all PROFILE={profile.name} first."
        )
    home = config.results_dir() / profile.name / "report"
    entries = []
    for copy in copies:
        nb, page = read_notebook(copy), home / f"{copy.stem}.html"
        title = notebook_title(nb, copy.stem)
        changed = nb.metadata.get("crackutils", {}).get("changed", {})
        title += f" ({', '.join(f'{name}={value}' for name, value in changed.items())})" if changed else ""
        if not page.is_file() or page.stat().st_mtime < max(copy.stat().st_mtime, Path(__file__).stat().st_mtime):
            write_atomically(page, _page(nb, f"{title} - {profile.name}"))
        ended = str(nb.metadata.get("papermill", {}).get("end_time") or "")
        entries.append((page.name, title, ended[:16].replace("T", " ") + " UTC" if ended else ""))
    for page in home.glob("*.html"):
        if page.name not in {"index.html", *(name for name, _, _ in entries)}:
            page.unlink()  # its notebook was renamed or removed
    index = home / "index.html"
    write_atomically(index, _index(profile, entries))
    return index


def _page(nb: nbformat.NotebookNode, title: str) -> str:
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    # the stock template loads require.js, MathJax and Mermaid from the network
    blocks = ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
    empty = "".join("{%% block %s %%}{%% endblock %%}" % block for block in blocks)  # noqa: UP031
    exporter = HTMLExporter(
        template_name="lab",
        template_file="crackutils.html.j2",
        extra_loaders=[DictLoader({"crackutils.html.j2": "{% extends 'lab/index.html.j2' %}" + empty})],
        embed_images=True,
    )
    nb.cells = [c for c in nb.cells if not set(COLAB_TAGS) & set(c.metadata.get("tags", []))]
    return exporter.from_notebook_node(nb, {"metadata": {"name": title, "path": str(config.NOTEBOOKS)}})[0]


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Concrete cracks - report of profile {profile}</title>
<style>
:root {{ color-scheme: light; --line: #d0d7de; --ink: #1f2328; --soft: #59636e; --blue: #0a58ca; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; height: 100vh; overflow: hidden; display: grid; grid-template-columns: 19rem 1fr; color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }}
header {{ overflow: auto; padding: 1rem; background: #f6f8fa; border-right: 1px solid var(--line); }}
h1 {{ margin: 0; font-size: 1.15rem; }}
p {{ margin: .25rem 0 1rem; color: var(--soft); font-size: .875rem; }}
ul {{ margin: 0; padding: 0; list-style: none; }}
a {{ display: block; padding: .5rem .75rem; border-left: 3px solid transparent;
  color: inherit; text-decoration: none; }}
a:hover {{ background: #eaeef2; }}
a:focus-visible {{ outline: 2px solid var(--blue); outline-offset: -2px; }}
a[aria-current] {{ border-left-color: var(--blue); background: #fff; font-weight: 600; }}
a small {{ display: block; color: var(--soft); font-weight: 400; }}
main {{ min-height: 0; }}
iframe {{ display: block; width: 100%; height: 100%; border: 0; background: #fff; }}
@media (max-width: 48rem) {{
  body {{ grid-template: auto 1fr / 1fr; }}
  header {{ max-height: 35vh; padding: .75rem; border-right: 0; border-bottom: 1px solid var(--line); }}
}}
</style>
</head>
<body>
<header>
<h1>Concrete cracks</h1>
<p>Profile {profile}: {about}</p>
<nav aria-label="Notebooks"><ul>
{links}
</ul></nav>
</header>
<main><iframe name="page" title="Selected notebook" src="{first}"></iframe></main>
<script>
const links = [...document.querySelectorAll("nav a")];
function mark(link) {{
  links.forEach(other => other.removeAttribute("aria-current"));
  link.setAttribute("aria-current", "page");
  document.querySelector("iframe").title = link.firstChild.textContent;
}}
links.forEach(link => link.addEventListener("click", () => {{
  mark(link);
  location.replace("#" + link.getAttribute("href"));
}}));
const wanted = links.find(link => "#" + link.getAttribute("href") === location.hash);
if (wanted) wanted.click(); else mark(links[0]);
</script>
</body>
</html>
"""


def _index(profile: config.Profile, entries: list[tuple[str, str, str]]) -> str:
    links = [
        f'<li><a href="{html.escape(name)}" target="page">{html.escape(title)}<small>{when}</small></a></li>'
        for name, title, when in entries
    ]
    return _INDEX.format(
        profile=html.escape(profile.name),
        about=html.escape(profile.title),
        links="\n".join(links),
        first=html.escape(entries[0][0]),
    )
