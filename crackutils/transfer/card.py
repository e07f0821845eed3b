"""The model card of the network of notebook 08."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Template

from crackutils.stages import Recipe
from crackutils.transfer.evaluation import auroc_text
from crackutils.transfer.methods import SAVED


def write_card(metrics: dict[str, Any], recipe: Recipe) -> str:
    """Return the card, Markdown: how the network was trained, where it works and where not.

    `metrics` are those of the run, as `Run.finish` returns them.
    """
    text = Path(__file__).with_name("card.md.j2").read_text("utf-8")
    thirds = {(r["measure"], r["third"]): r["auroc"] for r in metrics["by_measure"] if r["run"] == recipe.name}
    template = Template(text, trim_blocks=True, keep_trailing_newline=True)
    return template.render(metrics, recipe=recipe, saved=SAVED, auroc_text=auroc_text, thirds=thirds)
