"""Run folders, what is written into them, and how they are compared, kept as reference and shown in the README."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets
from crackutils.decisions import calibration_metrics, threshold_metrics
from crackutils.metrics import group_interval, holm, mcnemar, wilson
from crackutils.runs import read_predictions

TESTS = ("p_value", "p_holm", "verdict")


def decision_metrics(table: pd.DataFrame, ds: datasets.Dataset, manifest: pd.DataFrame) -> dict[str, Any]:
    """Return what predictions say beyond `score`: whether to believe them, where to decide, and where they fail.

    Args:
        table: as `predictions` returns it, with val and test rows.
        ds: the images.
        manifest: of the split.

    Returns:
        calibration, decision (`evaluation.calibration` and `evaluation.decision`: fitted on val, measured on test),
        intervals (of the test errors' share: Wilson, and drawing whole groups) and slices (of the test images, the
        weakest first).
    """
    from crackutils.slices import score_slices

    test = table[table["split"] == "test"]
    wrong = ((test["p_crack"] >= 0.5) != test["label"]).to_numpy()
    group = test[["file"]].merge(manifest[["file", "group"]], how="left", on="file")["group"].to_numpy()
    intervals = {"error_rate": round(float(wrong.mean()), 6)}
    intervals["wilson"] = [round(v, 6) for v in wilson(int(wrong.sum()), len(wrong))]
    if group.min() >= 0:  # a random split knows no groups
        intervals["groups"] = [round(v, 6) for v in group_interval(wrong, group)]
    return chosen_metrics(table) | {"intervals": intervals, "slices": score_slices(ds, test)}


def chosen_metrics(table: pd.DataFrame) -> dict[str, Any]:
    val, test = (table[table["split"] == part] for part in ("val", "test"))
    pair = [column.to_numpy() for part in (val, test) for column in (part["label"], part["p_crack"])]
    return {"calibration": calibration_metrics(*pair), "decision": threshold_metrics(*pair)}


def select_comparable(
    runs: list[dict[str, Any]], ds: datasets.Dataset, split: str, split_seed: int
) -> list[dict[str, Any]]:
    """Return the runs that were tested on the same images: those of one split of these very images and labels."""
    wanted = (ds.sha256, split, split_seed, ds.labels)
    chosen = []
    for run in runs:
        settings = run["settings"]
        its = (
            run["data"]["sha256"],
            settings["split"],
            settings["split_seed"],
            settings.get("labels", config.LABELS[0]),
        )
        chosen += [run] if its == wanted else []
    if not chosen:
        raise config.CrackutilsError(
            f"No finished run used SPLIT={split} SPLIT_SEED={split_seed} LABELS={ds.labels}; run notebooks 03 and 04"
            " with it."
        )
    return chosen


def summarize_runs(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run: what the test images say, with the 95 % Wilson interval of the accuracy, and the size."""
    rows = []
    for run in runs:
        test, model = run["test"], run["model"]
        row = {"errors": test["errors"]} | _share(test["errors"], test["n"])
        row |= {k: test[k] for k in ("precision", "recall", "f1", "auroc", "loss")}
        rows.append({"run": run["run"]} | row | {"parameters": model["parameters"], "megabytes": model["bytes"] / 1e6})
    return pd.DataFrame(rows).set_index("run")


def decision_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run: whether to believe its probabilities, and what comes of deciding by them.

    Returns:
        brier, ece; temperature and ece_after (NaN where validation does not determine them); threshold, missed and
        false_alarms (of the test images) at it, precision_1_in_100 (where one image in a hundred is cracked); band_low,
        band_high, band_share, and error_inside and error_outside of the band.
    """
    rows = []
    for run in runs:
        told, chosen = run["calibration"], run["decision"]
        band = chosen["band"]
        row = {"run": run["run"], "brier": run["test"]["brier"], "ece": run["test"]["ece"]}
        row |= {"temperature": told["temperature"], "ece_after": told["ece"], "threshold": chosen["threshold"]}
        row |= {"missed": chosen["fn"], "false_alarms": chosen["fp"]}
        row |= {"precision_1_in_100": chosen["precision_at_prevalence"]["0.01"]}
        row |= {f"band_{name}": band[name] for name in ("low", "high", "share")}
        rows.append(row | {f"error_{name}": band[f"error_rate_{name}"] for name in ("inside", "outside")})
    return pd.DataFrame(rows).set_index("run").astype(float)


def cost_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run with its training minutes and images scored per second (both change between runs)."""
    rows = []
    for run in runs:
        timings = run["run_json"]["timings"]
        minutes = sum(v for k, v in timings.items() if k.startswith("train ")) / 60
        row = {"minutes": minutes, "images_per_second": timings["images_per_second"]}
        rows.append({"run": run["run"]} | row | {"accuracy": run["test"]["accuracy"]})
    return pd.DataFrame(rows).set_index("run")


def select_standard(runs: list[dict[str, Any]], ds: datasets.Dataset) -> list[dict[str, Any]]:
    """Return the runs on these very images in which nothing but recipe, split and split seed was chosen.

    They come in the order of `recipes.RECIPES`, each recipe's in that of their names.
    """
    from crackutils.recipes import RECIPES

    usual = {"seed": config.DEFAULT_SEED, "epochs": 0}
    found = []
    for run in runs:
        settings = run["settings"]
        start = ds.profile.weights if settings["recipe"]["backbone"] else "random"
        same = all(settings[name] == value for name, value in (usual | {"weights": start}).items())
        same &= settings.get("engine", config.ENGINES[0]) == config.ENGINES[0] and "precision" not in settings
        same &= "labels" not in settings
        if same and run["data"]["sha256"] == ds.sha256:
            found.append(run)
    order = {name: place for place, name in enumerate(RECIPES)}
    return sorted(found, key=lambda run: (order.get(run["settings"]["recipe"]["name"], len(order)), run["run"]))


def split_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run of `of_recipes`: recipe, split, split_seed, and what its val and test images say."""
    rows = []
    for run in runs:
        test, settings = run["test"], run["settings"]
        row = {"recipe": settings["recipe"]["name"]} | {k: settings[k] for k in ("split", "split_seed")}
        rows.append(
            row | {"val_loss": run["val"]["loss"], "errors": test["errors"]} | _share(test["errors"], test["n"])
        )
    columns = ["recipe", "split", "split_seed", "val_loss", "errors", "n", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def compare_seeds(runs: list[dict[str, Any]], ds: datasets.Dataset, split: str, split_seed: int) -> pd.DataFrame:
    """Return how far the errors of one recipe on one split spread with the seed of the training alone.

    Args:
        runs: as `collect` returns them.
        ds: the images.
        split: the split method.
        split_seed: seed of the split.

    Returns:
        A row per recipe with several training seeds: recipe, seeds, errors (a list, a number per seed), mean_errors,
        deviation (of the errors, n - 1 in the denominator), n (test images).
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    wanted = {"split": split, "split_seed": split_seed}
    for run in runs:
        settings = run["settings"]
        like = run | {"settings": settings | {"seed": config.DEFAULT_SEED}}  # usual but for the seed
        if all(settings[k] == v for k, v in wanted.items()) and select_standard([like], ds):
            found.setdefault(settings["recipe"]["name"], {})[settings["seed"]] = run["test"]
    rows = []
    for name, tests in found.items():
        errors = [tests[seed]["errors"] for seed in sorted(tests)]
        if len(errors) > 1:
            row = {"recipe": name, "seeds": sorted(tests), "errors": errors}
            row |= {"mean_errors": round(float(np.mean(errors)), 6), "n": tests[min(tests)]["n"]}
            rows.append(row | {"deviation": round(float(np.std(errors, ddof=1)), 6)})
    return pd.DataFrame(rows, columns=["recipe", "seeds", "errors", "mean_errors", "deviation", "n"])


def _share(errors: int, n: int) -> dict[str, Any]:
    low, high = wilson(n - errors, n)
    return {"n": n, "accuracy": round((n - errors) / n, 6), "low": round(low, 6), "high": round(high, 6)}


def compare_splits(runs: list[dict[str, Any]], split: str) -> pd.DataFrame:
    """Compare recipes over all seeds of a split method that every one of them has run with.

    The recipe with the lowest mean validation loss is compared with each other one by the exact McNemar test on the
    test images of all these splits together. An image that is tested in two splits counts twice, and the models of two
    splits share training images, so the p-values are too small and the intervals too narrow.

    Args:
        runs: as `of_recipes` returns them.
        split: the split method.

    Returns:
        A row per recipe: recipe, splits, val_loss, errors (a list, a number per split seed), mean_errors, n, accuracy,
        low, high; and, but for the recipe that the others are compared with, against (its name), only_it_wrong,
        only_this_wrong, p_value, p_holm (corrected for the number of recipes), verdict. Empty where fewer than two
        splits are common to all recipes that ran with more than one.
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
        row |= {"errors": errors, "mean_errors": round(float(np.mean(errors)), 6)} | _share(sum(errors), n)
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


def _mcnemar(a: pd.DataFrame, b: pd.DataFrame, on: list[str], name_a: str, name_b: str) -> dict[str, Any]:
    both = a.merge(b[[*on, "p_crack"]].rename(columns={"p_crack": "other"}), on=on)
    found = mcnemar(both["label"], both["p_crack"], both["other"])
    return found | {"better": name_a if found["only_a_wrong"] < found["only_b_wrong"] else name_b}


def _with_verdicts(tests: list[dict[str, Any]]) -> None:
    """Add p_holm, corrected for that there are several tests, and the verdict in words that it allows."""
    for test, p in zip(tests, holm(np.array([test["p_value"] for test in tests])), strict=True):
        better = test.pop("better")
        test["p_holm"] = float(f"{p:.3g}")
        test["verdict"] = f"{better} makes fewer errors" if p < 0.05 else "not distinguishable"


def compare_pairwise(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the exact McNemar test of each pair of runs on their common test images, with a verdict in words.

    The verdict follows p_holm, the p-value corrected by Holm's method for the number of pairs.
    """
    tables = {r["run"]: read_predictions(r["folder"]).query("split == 'test'") for r in runs}
    rows = [{"a": a, "b": b} | _mcnemar(tables[a], tables[b], ["file"], a, b) for a, b in combinations(tables, 2)]
    _with_verdicts(rows)
    columns = ["a", "b", "only_a_wrong", "only_b_wrong", "both_wrong", "p_value", "p_holm", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def best_by_validation(runs: list[dict[str, Any]]) -> str:
    """Return the name of the run with the lowest validation loss: test images choose nothing."""
    return min(runs, key=lambda run: (run["val"]["loss"], run["run"]))["run"]


def shared_mistakes(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the test images that any run gets wrong: file, label, mean p_crack, in how many and in which runs."""
    rows = []
    for run in runs:
        table = read_predictions(run["folder"]).query("split == 'test'")
        rows.append(table.assign(run=run["run"], bad=(table["p_crack"] >= 0.5) != table["label"]))
    table = pd.concat(rows)
    grouped = table.groupby("file")
    found = pd.DataFrame(
        {"label": grouped["label"].first(), "p_crack": grouped["p_crack"].mean(), "wrong": grouped["bad"].sum()}
    )
    by = table[table["bad"]].groupby("file")["run"].agg(", ".join)
    found = found[found["wrong"] > 0].assign(by=by).reset_index()
    return found.sort_values(["wrong", "file"], ascending=[False, True], ignore_index=True)
