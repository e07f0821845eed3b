"""Write README's table of results from the reference."""

from __future__ import annotations

import pandas as pd

from crackutils import config
from crackutils.comparison.tables import cost_table, summarize_runs
from crackutils.files import write_atomically
from crackutils.published import PUBLISHED
from crackutils.recipes import RECIPES
from crackutils.runs import collect_runs
from tools.notebooks import replace_marked

PROFILE = "metu-half"  # whose reference README shows


def results_table() -> str:
    """Return README's results as Markdown: the images, then a row per recipe that `reference/metu-half` has.

    Raises:
        CrackutilsError: no reference.
    """
    runs = {run["run"]: run for run in collect_runs(PROFILE, base=config.REFERENCE / PROFILE)}
    usual = [runs[name] for name in RECIPES if name in runs]
    cost, data = cost_table(usual), usual[0]["data"]
    rows = []
    for name, row in summarize_runs(usual).iterrows():
        random, published = runs.get(f"{name}--split-random", {}).get("test"), PUBLISHED.get(name)
        rows.append(
            {
                "Recipe": f"`{name}`" + ("" if published else " (ours)"),
                "Errors": f"{row.errors:.0f} of {row.n:,.0f}",
                "Accuracy (95 % interval)": f"{row.accuracy:.4f} ({row.low:.4f}-{row.high:.4f})",
                "Random split": f"{random['errors']} of {random['n']:,}" if random else "-",
                "Published": f"{published.errors:,} of {published.test_images:,}"
                if published and published.test_images
                else "-",
                "Parameters": f"{row.parameters:,.0f}",
                "Training": f"{cost.loc[name, 'minutes']:.1f} min",
            }
        )
    images = (
        f"{config.PROFILES[PROFILE].title}: {data['images']:,} images, split {usual[0]['settings']['split']};"
        f" {data['train']['images']:,} for training, {data['val']['images']:,} for validation,"
        f" {data['test']['images']:,} for the test."
    )
    return f"{images}\n\n{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}"


def write_results(check: bool = False) -> bool:
    """Write the table between README's marks, and return whether README was up to date.

    Args:
        check: change nothing.

    Raises:
        CrackutilsError: no reference, or the marks are missing.
    """
    readme = config.ROOT / "README.md"
    text = readme.read_text("utf-8")
    wanted = replace_marked(text, "results", results_table())
    if wanted != text and not check:
        write_atomically(readme, wanted)
    return wanted == text
