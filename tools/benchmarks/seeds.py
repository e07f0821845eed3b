"""Errors of all recipes by training seed, for docs/benchmark.md.

    for seed in 1 2 1337; do make run-recipes PROFILE=metu-tenth SEED=$seed; done
    .venv/bin/python -m tools.benchmarks.seeds [PROFILE]

Collects the finished runs of a profile and writes data/benchmark/PROFILE/seeds.json, then the page. Recipes that did
not run with all seeds are left out and named.
"""

import json
import subprocess
import sys
import time

from crackutils import config, datasets
from crackutils.comparison.tables import compare_seeds
from crackutils.evaluation.predictions import BENCHMARK
from crackutils.files import write_atomically
from crackutils.runs import collect_runs
from tools.tables import write_benchmark


def main(words: list[str]) -> None:
    """Collect, and write seeds.json and the page."""
    profile = config.start(words[0] if words else "metu-tenth")
    ds = datasets.load(profile)
    table = compare_seeds(collect_runs(profile.name), ds, profile.split, config.DEFAULT_SEED)
    whole = table["seeds"].map(len) == table["seeds"].map(len).max()
    if rest := table.loc[~whole, "recipe"].tolist():
        print(f"left out, for lack of runs: {', '.join(rest)}")
    commit = ["git", "-C", str(config.ROOT), "rev-parse", "--short", "HEAD"]
    found = {"date": time.strftime("%Y-%m-%d"), "commit": subprocess.check_output(commit, text=True).strip()}
    found["command"] = f"make run-recipes PROFILE={profile.name} SEED=1"
    found["over_seeds"] = table[whole].to_dict("records")
    write_atomically(BENCHMARK / profile.name / "seeds.json", json.dumps(found, indent=1) + "\n")
    write_benchmark()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except config.CrackutilsError as error:
        raise SystemExit(f"error: {error}") from None
