"""Settings of Sphinx for the site, which `make docs` builds."""

from typing import Any

from crackutils import __version__
from tools.badges import project_table

project, release, html_title = "Concrete cracks", __version__, "Concrete cracks"
copyright = "the authors of crackutils; images of METU: Özgenel 2019, CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
nb_execution_mode = "off"  # the pages show the run that was made
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the imports", "Hide the imports"  # only these are folded
myst_heading_anchors = 4
highlight_language = "sh"  # of blocks without a language
default_role = "code"  # single backticks in docstrings
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
html_use_index = html_domain_indices = False  # nothing links to them; the search finds names
html_theme = "pydata_sphinx_theme"
html_show_sourcelink = False
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_context = {"default_mode": "light"}
html_theme_options = {
    "github_url": f"https://github.com/{project_table()['repository']}",
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app: Any) -> None:
    """Leave out what a NamedTuple says of its fields: "Alias for field number 0"."""
    alias = "Alias for field number"
    app.connect(
        "autodoc-skip-member",
        lambda _app, _what, _name, member, _skip, _options: str(member.__doc__).startswith(alias) or None,
    )
