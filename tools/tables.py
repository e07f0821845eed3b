"""Write the tables of README and of the page on the benchmark, from the reference and from what was entered."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from crackutils import config
from crackutils.comparison.significance import compare_pairwise
from crackutils.comparison.tables import best_by_validation, cost_table, summarize_runs
from crackutils.evaluation.predictions import BENCHMARK
from crackutils.files import write_atomically
from crackutils.published import PUBLISHED
from crackutils.recipes import RECIPES
from crackutils.runs import collect_runs
from tools.notebooks import replace_marked

PROFILE = "metu-half"  # whose reference README shows
_INTERVALS = (("images", "wilson"), ("groups", "groups"))
_MASK_SCORES = {"iou": "IoU", "f1": "F1", "line_precision": "Line precision", "line_recall": "Line recall"}
_MASK_SCORES |= {"line_f1": "Line F1"}


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


def benchmark_tables() -> str:
    """Return the benchmark's tables as Markdown: one per profile and per set of masks, with a list of its entries."""
    tables = []
    for home in sorted(path for path in BENCHMARK.iterdir() if path.name in config.PROFILES):
        runs = sorted(collect_runs(home.name, base=home), key=lambda run: run["test"]["errors"])
        first, settings, data = best_by_validation(runs), runs[0]["settings"], runs[0]["data"]
        pairs = [compare_pairwise(runs, first)] if len(runs) > 1 else []
        tests = {(row.b if row.a == first else row.a): row for table in pairs for row in table.itertuples()}
        rows = [_patch_row(run, tests.get(run["run"])) for run in runs]
        cards = [_read_card(run["folder"], run["data"]["sha256"][:12]) for run in runs]
        images = f"{config.PROFILES[home.name].title}; split {settings['split']}, seed {settings['split_seed']}"
        counts = f"{data['test']['images']:,} test images in {data['test']['groups']:,} groups"
        about = f"{images}: {counts}. Tests are against `{first}`."
        tables.append(f"### {home.name}\n\n{about}\n\n{_markdown(rows, cards)}")
        if (file := home / "seeds.json").is_file():
            tables.append(_seeds_table(json.loads(file.read_text("utf-8"))))
    for home in sorted((BENCHMARK / "masks").iterdir()):
        files = sorted(home.glob("*/scores.csv"))
        cards = [_read_card(file.parent) for file in files]
        tables.append(f"### Masks: {home.name}\n\n{_markdown([_mask_row(file) for file in files], cards)}")
    return "\n\n".join(tables)


def _seeds_table(found: dict[str, Any]) -> str:
    rows = []
    for r in sorted(found["over_seeds"], key=lambda r: r["mean_errors"]):
        row = {"Recipe": f"`{r['recipe']}`", "Mean errors": f"{r['mean_errors']:.1f} of {r['n']:,}"}
        row |= {"Errors by seed": ", ".join(map(str, r["errors"])), "Standard deviation": f"{r['deviation']:.1f}"}
        rows.append(row)
    seeds = ", ".join(map(str, found["over_seeds"][0]["seeds"]))
    caption = f"*Errors on the same test images by training seed: {seeds} ({found['date']}, commit {found['commit']})*:"
    return f"Training seeds:\n\n{_markdown(rows, [caption])}\n`{found['command']}`"


def _patch_row(run: dict[str, Any], test: Any) -> dict[str, str]:
    found, interval = run["test"], run["intervals"]
    row = {"Model": f"`{run['run']}`", "Errors": f"{found['errors']} of {found['n']:,}"}
    row |= {"Missed": str(found["fn"]), "False alarms": str(found["fp"])}
    row |= {f"Error rate by {kind}": "{:.4f}-{:.4f}".format(*interval[key]) for kind, key in _INTERVALS}
    row |= {"AUROC": f"{found['auroc']:.4f}", "ECE": f"{found['ece']:.4f}"}
    row["McNemar"] = f"{test.verdict} (p = {test.p_holm:.2g})" if test else "-"
    return row


def _mask_row(file: Path) -> dict[str, str]:
    table = pd.read_csv(file).set_index("file")
    row = {"Model": f"`{file.parent.name}`", "Photos": str(len(table) - 3)}
    for name, title in _MASK_SCORES.items():
        best, low, high = table.loc[["all", "all_low", "all_high"], name]
        row[title] = f"{best:.3f} ({low:.3f}-{high:.3f})"
    return row


def _read_card(folder: Path, data: str = "") -> str:
    """Return an entry's remarks, date, commit, hash of the images and command as an item of a list."""
    card = tomllib.loads((folder / "card.toml").read_text("utf-8"))
    made = f"{card['date']}, commit {card['commit']}, data {data or card['data']}"
    return f"- `{folder.name}`: {card['remarks']} ({made}).\n  `{card['command']}`"


def _markdown(rows: list[dict[str, str]], cards: list[str]) -> str:
    return "\n\n".join((pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True), "\n".join(cards)))


def write_benchmark(check: bool = False) -> bool:
    """Write the tables between the marks of docs/benchmark.md, and return whether it was up to date.

    Args:
        check: change nothing.
    """
    return _write_marked(config.ROOT / "docs" / "benchmark.md", "benchmark", benchmark_tables(), check)


def write_results(check: bool = False) -> bool:
    """Write the table between README's marks, and return whether README was up to date.

    Args:
        check: change nothing.

    Raises:
        CrackutilsError: no reference, or the marks are missing.
    """
    return _write_marked(config.ROOT / "README.md", "results", results_table(), check)


def _write_marked(page: Path, name: str, content: str, check: bool) -> bool:
    text = page.read_text("utf-8")
    wanted = replace_marked(text, name, content)
    if wanted != text and not check:
        write_atomically(page, wanted)
    return wanted == text
