"""Selection of comparable runs, and tables over them."""

from typing import Any

import numpy as np
import pandas as pd

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.metrics import wilson
from crackutils.recipes import RECIPES
from crackutils.runs import read_predictions


def select_comparable(runs: list[dict[str, Any]], ds: Dataset, split: str, split_seed: int) -> list[dict[str, Any]]:
    """Return the runs with one split of exactly these images and labels, which have the same test images.

    Where photos or a given split came later, runs of the earlier split are left out, with a note.
    """
    usual, wanted = {"labels": config.LABELS[0]}, {"split": split, "split_seed": split_seed, "labels": ds.labels}
    same = [run for run in runs if run["data"]["sha256"] == ds.sha256]
    chosen = [run for run in same if wanted.items() <= (usual | run["settings"]).items()]
    if not chosen:
        why = f"No finished run used SPLIT={split} SPLIT_SEED={split_seed} LABELS={ds.labels}"
        raise config.CrackutilsError(f"{why}. Run notebooks 03 and 04 with it.")
    files = [run["folder"] / "predictions.csv" for run in chosen]
    tested = [{*read_predictions(f.parent).query("split == 'test'")["file"]} if f.is_file() else None for f in files]
    last = max((k for k, some in enumerate(tested) if some), key=lambda k: files[k].stat().st_mtime, default=0)
    if old := [run["run"] for run, some in zip(chosen, tested, strict=True) if some not in (None, tested[last])]:
        print(f"note: left out, because the split has changed since: {', '.join(old)}. Run them again.")
    return [run for run in chosen if run["run"] not in old]


def select_standard(runs: list[dict[str, Any]], ds: Dataset) -> list[dict[str, Any]]:
    """Return the runs on exactly these images with default settings but for recipe, split and split seed, by recipe."""
    usual = {"seed": config.DEFAULT_SEED, "epochs": 0, "engine": config.ENGINES[0]}
    found = []
    for run in runs:
        settings = {"engine": config.ENGINES[0]} | run["settings"]
        if "recipe" not in settings or {"precision", "labels"} & set(settings):  # an entered model has no recipe
            continue
        start = ds.profile.weights if settings["recipe"]["backbone"] else "random"
        same = (usual | {"weights": start}).items() <= settings.items()
        if same and run["data"]["sha256"] == ds.sha256:
            found.append(run)
    order = {name: place for place, name in enumerate(RECIPES)}
    return sorted(found, key=lambda run: (order.get(run["settings"]["recipe"]["name"], len(order)), run["run"]))


def summarize_runs(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run: its test scores, with the 95 % Wilson interval of the accuracy, and its size, if known."""
    rows = []
    for run in runs:
        test, size = run["test"], run.get("model", {"parameters": np.nan, "bytes": np.nan})
        row = {"errors": test["errors"]} | accuracy_with_interval(test["errors"], test["n"])
        row |= {k: test[k] for k in ("precision", "recall", "f1", "auroc", "loss")}
        rows.append({"run": run["run"]} | row | {"parameters": size["parameters"], "megabytes": size["bytes"] / 1e6})
    return pd.DataFrame(rows).set_index("run")


def decision_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run: calibration, threshold and review band.

    Its columns are brier, ece; temperature and ece_after (NaN if undetermined by validation); threshold; missed and
    false_alarms of the test images at it; precision_1_in_100 (at a prevalence of one in a hundred); band_low,
    band_high, band_share, error_inside and error_outside of the review band.
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
    """Return a row per timed run with its training minutes and images scored per second (both change between runs)."""
    rows = []
    for run in runs:
        timings = run["run_json"]["timings"]
        if "images_per_second" not in timings:  # of an entered model
            continue
        minutes = sum(v for k, v in timings.items() if k.startswith("train ")) / 60
        row = {"minutes": minutes, "images_per_second": timings["images_per_second"]}
        rows.append({"run": run["run"]} | row | {"accuracy": run["test"]["accuracy"]})
    return pd.DataFrame(rows, columns=["run", "minutes", "images_per_second", "accuracy"]).set_index("run")


def split_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run of `select_standard`: recipe, split, split_seed, and its val and test scores."""
    rows = []
    for run in runs:
        test, settings = run["test"], run["settings"]
        row = {"recipe": settings["recipe"]["name"]} | {k: settings[k] for k in ("split", "split_seed")}
        row |= {"val_loss": run["val"]["loss"], "errors": test["errors"]}
        rows.append(row | accuracy_with_interval(test["errors"], test["n"]))
    columns = ["recipe", "split", "split_seed", "val_loss", "errors", "n", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def compare_seeds(runs: list[dict[str, Any]], ds: Dataset, split: str, split_seed: int) -> pd.DataFrame:
    """Return the spread of a recipe's errors on one split over training seeds.

    A row per recipe with several training seeds: recipe, seeds, errors (a list, a number per seed), mean_errors,
    deviation (of the errors, n - 1 in the denominator), n (test images).
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    wanted = {"split": split, "split_seed": split_seed}
    for run in runs:
        settings = run["settings"]
        like = run | {"settings": settings | {"seed": config.DEFAULT_SEED}}  # default but for the seed
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


def best_by_validation(runs: list[dict[str, Any]]) -> str:
    """Return the name of the run with the lowest validation loss: test images choose nothing."""
    judged = [run for run in runs if "val" in run] or runs  # an entered model may come without
    return min(judged, key=lambda run: (run.get("val", {}).get("loss", 0), run["run"]))["run"]


def shared_mistakes(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the test images that any run gets wrong: file, label, mean p_crack, number and names of these runs."""
    rows = []
    for run in runs:
        table = read_predictions(run["folder"]).query("split == 'test'")
        rows.append(table.assign(run=run["run"], bad=(table["p_crack"] >= 0.5) != table["label"]))
    table = pd.concat(rows)
    found = table.groupby("file").agg(label=("label", "first"), p_crack=("p_crack", "mean"), wrong=("bad", "sum"))
    by = table[table["bad"]].groupby("file")["run"].agg(", ".join)
    found = found[found["wrong"] > 0].assign(by=by).reset_index()
    return found.sort_values(["wrong", "file"], ascending=[False, True], ignore_index=True)


def accuracy_with_interval(errors: int, n: int) -> dict[str, Any]:
    """Return n, accuracy, and low and high of its 95 % Wilson interval."""
    low, high = wilson(n - errors, n)
    return {"n": n, "accuracy": round((n - errors) / n, 6), "low": round(low, 6), "high": round(high, 6)}
