"""Exact McNemar tests between runs, with Holm's correction."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from crackutils.comparison.tables import accuracy_with_interval
from crackutils.runs import read_predictions

TESTS = ("p_value", "p_holm", "verdict")


def compare_splits(runs: list[dict[str, Any]], split: str) -> pd.DataFrame:
    """Compare the runs of `select_standard` over all seeds of a split method that all their recipes ran with.

    The recipe with the lowest mean validation loss is compared with each other one by the exact McNemar test on the
    test images of all these splits together. An image that is tested in two splits counts twice, and the models of two
    splits share training images, so the p-values are too small and the intervals too narrow. A row per recipe: recipe,
    splits, val_loss, errors (a list, a number per split seed), mean_errors, n, accuracy, low, high. All but the best
    recipe also have against (its name), only_it_wrong, only_this_wrong, p_value, p_holm (corrected for the number of
    recipes) and verdict. Empty if fewer than two splits are common to all recipes that ran with more than one.
    """
    seeds: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        if run["settings"]["split"] == split:
            seeds.setdefault(run["settings"]["recipe"]["name"], {})[run["settings"]["split_seed"]] = run
    several = {name: found for name, found in seeds.items() if len(found) > 1}
    common = sorted(set.intersection(*map(set, several.values()))) if several else []
    if len(common) < 2:
        return pd.DataFrame()
    rows, tables = [], {}
    for name, found in several.items():
        chosen = [found[seed] for seed in common]
        errors, n = [run["test"]["errors"] for run in chosen], sum(run["test"]["n"] for run in chosen)
        tables[name] = pd.concat(
            [read_predictions(found[seed]["folder"]).query("split == 'test'").assign(seed=seed) for seed in common]
        )
        row = {"recipe": name, "splits": len(common)}
        row["val_loss"] = round(float(np.mean([run["val"]["loss"] for run in chosen])), 6)
        row |= {"errors": errors, "mean_errors": round(float(np.mean(errors)), 6)}
        row |= accuracy_with_interval(sum(errors), n)
        rows.append(row | dict.fromkeys(("against", "only_it_wrong", "only_this_wrong", *TESTS)))
    first = min(rows, key=lambda row: (row["val_loss"], row["recipe"]))["recipe"]
    for row in rows:
        if row["recipe"] == first:
            continue
        found = _mcnemar(tables[first], tables[row["recipe"]], ["seed", "file"], first, row["recipe"])
        row |= {"against": first, "only_it_wrong": found["only_a_wrong"], "only_this_wrong": found["only_b_wrong"]}
        row |= {k: found[k] for k in ("p_value", "better")}
    _with_verdicts([row for row in rows if row["against"]])
    return pd.DataFrame(rows, dtype=object)


def compare_pairwise(runs: list[dict[str, Any]], only: str = "") -> pd.DataFrame:
    """Return the exact McNemar test of each pair of runs on their common test images, with a verdict in words.

    `only` leaves the pairs with the run of this name. The verdict follows p_holm, the p-value corrected by Holm's
    method for the number of pairs.
    """
    tables = {r["run"]: read_predictions(r["folder"]).query("split == 'test'") for r in runs}
    pairs = [pair for pair in combinations(tables, 2) if not only or only in pair]
    rows = [{"a": a, "b": b} | _mcnemar(tables[a], tables[b], ["file"], a, b) for a, b in pairs]
    _with_verdicts(rows)
    columns = ["a", "b", "only_a_wrong", "only_b_wrong", "both_wrong", "p_value", "p_holm", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _mcnemar(a: pd.DataFrame, b: pd.DataFrame, on: list[str], name_a: str, name_b: str) -> dict[str, Any]:
    both = a.merge(b[[*on, "p_crack"]].rename(columns={"p_crack": "other"}), on=on)
    found = mcnemar(both["label"], both["p_crack"], both["other"])
    return found | {"better": name_a if found["only_a_wrong"] < found["only_b_wrong"] else name_b}


def _with_verdicts(tests: list[dict[str, Any]]) -> None:
    """Add p_holm, Holm-corrected for the number of tests, and the verdict as text."""
    for test, p in zip(tests, holm(np.array([test["p_value"] for test in tests])), strict=True):
        better = test.pop("better")
        test["p_holm"] = float(f"{p:.3g}")
        test["verdict"] = f"{better} makes fewer errors" if p < 0.05 else "not distinguishable"


def mcnemar(labels: np.ndarray, p_a: np.ndarray, p_b: np.ndarray) -> dict[str, Any]:
    """Compare two models on the same images with the exact McNemar test (McNemar 1947).

    Returns only_a_wrong, only_b_wrong, both_wrong, and p_value of the hypothesis of equal error rates.

    >>> cracks, first, second = np.ones(8), np.full(8, 0.9), np.repeat([0.9, 0.1], [2, 6])
    >>> mcnemar(cracks, first, second)
    {'only_a_wrong': 0, 'only_b_wrong': 6, 'both_wrong': 0, 'p_value': 0.0312}
    """
    labels = np.asarray(labels)
    wrong_a, wrong_b = ((np.asarray(p) >= 0.5) != labels for p in (p_a, p_b))
    a, b = int((wrong_a & ~wrong_b).sum()), int((wrong_b & ~wrong_a).sum())
    p = binomtest(a, a + b).pvalue if a + b else 1.0
    both = int((wrong_a & wrong_b).sum())
    return {"only_a_wrong": a, "only_b_wrong": b, "both_wrong": both, "p_value": float(f"{p:.3g}")}


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm-corrected p-values in input order (Holm 1979).

    >>> holm(np.array([0.04, 0.01, 0.2])).round(3).tolist()
    [0.08, 0.03, 0.2]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    return corrected
