"""Run folders, what is written into them, and how they are compared, kept as reference and shown in the README."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, evaluation
from crackutils.config import ENGINES, LABELS, PRECISIONS, WEIGHTS, CrackutilsError, Profile, choose
from crackutils.datasets import Dataset, sources
from crackutils.splits import METHODS

SCHEMA = 1
TIMED = "timing_"  # figures whose names begin so show timings: they differ from run to run
README_PROFILE = "metu-half"  # whose reference the README shows
SPLITS_PROFILE = "metu-tenth"  # and the one on which recipes were compared over several splits
_USUAL = re.compile(
    r"default|(?!default)[a-z0-9]+(-[a-z0-9]+)*(--split-(random|copy-safe|photo-safe))?(--split-seed-\d+)?"
    r"(--labels-corrected)?"
)  # runs that a reference keeps
_AUDITED = (  # what notebook 07 measures
    *("planted_copies", "overlaps", "overlaps_found", "mosaics", "photos", "relatives_in_training", "planted_labels"),
    *("ranks_of_wrong_labels", "with_corrections", "quality", "leakage", "leakage_by_relative", "protocols"),
)
_TEST = ("p_value", "p_holm", "verdict")
_PITFALLS = (  # what notebook 06 measures, on tiny models
    *("seen_in_training", "two_passes", "chosen_and_reported", "rescaled", "one_unit", "decayed_to_zero"),
    *("trainable", "batchnorm", "copies_across", "axes"),
)
_ELSEWHERE = (  # what notebook 08 measures
    *("target", "elsewhere", "methods", "chosen", "report", "home", "by_measure", "adaptation", "robustness"),
    *("stages", "last", "thresholds", "methods_tried_with"),
)
_INSPECTED = ("made", "attention", "photos", "tiles", "thresholds")  # what notebook 09 measures
_PICTURES = {  # kept with the reference because the README shows them
    "metu-half": (
        "03_transfer_learning/mobilenetv2/figures/predicted_against_true.png",
        "05_comparison/default/figures/error_rates.png",
        "07_data_audit/default/figures/mosaic_2.png",
        "08_cross_dataset/mobilenetv2-cells/figures/maps.png",
        "09_inspect_photos/default/figures/photo.png",
    ),
    "sample": (
        "01_eda/default/figures/photos.png",
        "03_transfer_learning/mobilenetv2-linear/figures/worst.png",
    ),
}


@dataclass
class Run:
    """One run of a notebook under one set of settings, and its folder."""

    notebook: str
    name: str
    settings: dict[str, Any]
    folder: Path
    began: float = field(default_factory=time.time)

    def show(self, figure: Any, name: str) -> None:
        """Save a figure as `figures/<name>.png` and show it below the cell."""
        import matplotlib.pyplot as plt
        from IPython.display import display

        file = self.folder / "figures" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=120, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        display(figure)

    def checkpoints(self) -> Path:
        """Return the folder for what a killed run goes on from; with CRACKUTILS_FORCE nothing of before is in it."""
        folder = self.folder / "checkpoints"
        if os.environ.get("CRACKUTILS_FORCE"):
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def begin(self) -> None:
        """Write the settings alone into `metrics.json`, so that a model can be scored before its run has finished."""
        for old in ("run.json", "model/model.weights.h5"):  # without the first a run counts as unfinished
            (self.folder / old).unlink(missing_ok=True)
        content = {"schema": SCHEMA, "notebook": self.notebook, "run": self.name, "settings": self.settings}
        config.write_atomically(self.folder / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def finish(
        self, ds: Dataset, manifest: pd.DataFrame, found: dict[str, Any], timings: dict[str, float]
    ) -> dict[str, Any]:
        """Write `metrics.json` (nothing in it changes between equal runs) and `run.json`, and return the former."""
        split = manifest.groupby("split").agg(
            images=("label", "size"), positive=("label", "sum"), groups=("group", _groups)
        )
        data = {
            "source": ds.profile.source,
            "sha256": ds.sha256,
            "images": len(ds.index),
            "positive": int(ds.index["label"].sum()),
            "left_out": len(ds.left_out),
        }
        data |= {part: {name: int(n) for name, n in row.items()} for part, row in split.T.to_dict().items()}
        content = {
            "schema": SCHEMA,
            "notebook": self.notebook,
            "run": self.name,
            "settings": self.settings,
            "data": data,
        }
        content |= _plain(found)
        if "test" in found and (self.folder / "predictions.csv").exists():
            content |= judged(predictions(self.folder), ds, manifest)
        spent = {k: round(v, 2) for k, v in timings.items()} | {"notebook_seconds": round(time.time() - self.began, 2)}
        facts = {"versions": versions(), "machine": machine(), "timings": spent}
        config.write_atomically(self.folder / "run.json", json.dumps(facts, indent=1) + "\n")
        config.write_atomically(self.folder / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        note = os.environ.get("CRACKUTILS_RUN_NOTE")
        if note:
            with open(note, "a", encoding="utf-8") as handle:
                handle.write(f"{self.folder}\n")
        return content

    def write_predictions(self, table: pd.DataFrame) -> dict[str, dict[str, Any]]:
        """Write `predictions.csv` and return the metrics of `val` and `test`, computed from the file just written."""
        # the shortest text that reads back as the same float32
        lines = table.assign(p_crack=[str(p) for p in table["p_crack"].to_numpy(np.float32)])
        config.write_atomically(self.folder / "predictions.csv", lines.to_csv(index=False, lineterminator="\n"))
        return score(predictions(self.folder))

    def write_history(self, history: pd.DataFrame) -> None:
        """Write `history.csv`, a row per epoch."""
        config.write_atomically(self.folder / "history.csv", history.to_csv(index=False, lineterminator="\n"))


def open_run(
    notebook: str,
    profile: Profile,
    *,
    recipe: Any = None,
    split: str = "",
    split_seed: int = config.DEFAULT_SEED,
    seed: int = config.DEFAULT_SEED,
    weights: str = "",
    epochs: int = 0,
    engine: str = "",
    precision: str = "float32",
    labels: str = "given",
    image: str = "",
    target: str = "",
) -> Run:
    """Name the run by its recipe and by every setting that is not the default, and make its folder.

    Args:
        notebook: stem of the notebook's file name.
        profile: as `config.start` returned it.
        recipe: a `recipes.Recipe`, None for notebooks that train nothing.
        split: split method; empty takes the profile's.
        split_seed: seed of the split.
        seed: seed of the training.
        weights: weights of the backbone; empty takes the profile's.
        epochs: bound on epochs per stage that the user gave, 0 for none.
        engine: what computes features, one of `config.ENGINES`; for recipes that compute some.
        precision: of a CNN's arithmetic, one of `config.PRECISIONS`.
        labels: one of `config.LABELS`.
        image: the file that the user wants to see, in notebooks that show one.
        target: the other images that it is tested on, where they are not the usual ones.

    Raises:
        CrackutilsError: unknown split, weights, engine, precision or labels; an engine for a recipe without features.
    """
    choose("SPLIT", split or profile.split, METHODS)
    choose("WEIGHTS", weights or profile.weights, WEIGHTS)
    chosen = {"split": split or profile.split, "split_seed": split_seed, "seed": seed}
    usual = {"split": profile.split, "split_seed": config.DEFAULT_SEED, "seed": config.DEFAULT_SEED}
    if recipe is not None:
        start = profile.weights if recipe.backbone else "random"
        chosen |= {"weights": weights or start, "epochs": epochs}
        usual |= {"weights": start, "epochs": 0}
        choose("ENGINE", engine or ENGINES[0], ENGINES)
        if recipe.linear:
            chosen["engine"], usual["engine"] = engine or ENGINES[0], ENGINES[0]
        elif engine not in ("", ENGINES[0]):
            raise CrackutilsError(
                f"ENGINE={engine} means nothing to RECIPE={recipe.name}, which computes no features; leave it out."
            )
    if choose("PRECISION", precision, PRECISIONS) != PRECISIONS[0]:
        chosen["precision"], usual["precision"] = precision, PRECISIONS[0]
    if choose("LABELS", labels, LABELS) != LABELS[0]:
        chosen["labels"], usual["labels"] = labels, LABELS[0]
    if image:
        chosen["image"], usual["image"] = image.replace("/", "-"), ""
    if target:
        plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", target).strip("-")
        mark = "" if plain == target else f"-{hashlib.sha256(target.encode()).hexdigest()[:8]}"
        chosen["target"], usual["target"] = f"{plain}{mark}", ""
    parts = [recipe.name if recipe is not None else "default"]
    parts += [f"{name.replace('_', '-')}-{value}" for name, value in chosen.items() if value != usual[name]]
    settings = {"profile": profile.name, "threads": profile.threads, "threshold": 0.5} | chosen
    if recipe is not None:
        settings["recipe"] = recipe.as_dict()
    folder = config.results_dir() / profile.name / notebook / "--".join(parts)
    return Run(notebook, "--".join(parts), settings, folder)


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it: NumPy's numbers as Python's, and None for what is not a number."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _groups(ids: pd.Series) -> int:
    return ids.nunique() if ids.min() >= 0 else len(ids)  # -1: nothing was grouped


# ---------------------------------------------------------------- reading


def predictions(folder: Path) -> pd.DataFrame:
    """Read `predictions.csv` of a run: file, split, label, p_crack (float32, bit for bit as written)."""
    table = pd.read_csv(folder / "predictions.csv", float_precision="round_trip")
    return table.astype({"p_crack": np.float32})


def score(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the metrics of the `val` and `test` rows of predictions."""
    return {
        part: evaluation.metrics(rows["label"], rows["p_crack"])
        for part in ("val", "test")
        if len(rows := table[table["split"] == part])
    }


def judged(table: pd.DataFrame, ds: Dataset, manifest: pd.DataFrame) -> dict[str, Any]:
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
    from crackutils import audit

    test = table[table["split"] == "test"]
    wrong = ((test["p_crack"] >= 0.5) != test["label"]).to_numpy()
    group = test[["file"]].merge(manifest[["file", "group"]], how="left", on="file")["group"].to_numpy()
    intervals = {"error_rate": round(float(wrong.mean()), 6)}
    intervals["wilson"] = [round(v, 6) for v in evaluation.wilson(int(wrong.sum()), len(wrong))]
    if group.min() >= 0:  # a random split knows no groups
        intervals["groups"] = [round(v, 6) for v in evaluation.group_interval(wrong, group)]
    return _chosen(table) | {"intervals": intervals, "slices": audit.by_slice(ds, test)}


def _chosen(table: pd.DataFrame) -> dict[str, Any]:
    val, test = (table[table["split"] == part] for part in ("val", "test"))
    pair = [column.to_numpy() for part in (val, test) for column in (part["label"], part["p_crack"])]
    return {"calibration": evaluation.calibration(*pair), "decision": evaluation.decision(*pair)}


def read(folder: Path) -> dict[str, Any]:
    """Read `metrics.json` of a run, with the timings of `run.json` under "run_json"."""
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    return found | {"run_json": json.loads((folder / "run.json").read_text("utf-8")), "folder": folder}


def trained_recipe(folder: Path) -> tuple[Any, str]:
    """Return the recipe of a finished training run and what its backbone started from; CrackutilsError for no run."""
    from crackutils.recipes import Recipe

    try:
        settings = json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
        fields, weights = settings["recipe"], settings["weights"]
    except (OSError, KeyError, ValueError) as error:
        raise CrackutilsError(
            f"{folder} holds no finished training run; give a folder with metrics.json and model/."
        ) from error
    try:
        return Recipe.from_dict(fields), weights
    except (TypeError, KeyError) as error:
        raise CrackutilsError(
            f"{folder} was made by another version of crackutils; run its notebook again with FORCE=1."
        ) from error


def cells_run(folder: Path) -> tuple[Any, str, Path]:
    """Return the recipe of a run of `recipes.CELLS`, what its backbone started from, and the file of its weights.

    Raises CrackutilsError for any other folder.
    """
    recipe, start = trained_recipe(folder)
    file = folder / "model" / "model.weights.h5"
    if not recipe.cells:
        raise CrackutilsError(
            f"{folder} holds a {recipe.name}, which has no cells of its own; give a run of notebook 08."
        )
    if not file.is_file():
        raise CrackutilsError(f"{folder / 'model'} holds no model.weights.h5; run the notebook again with FORCE=1.")
    return recipe, start, file


def best_run() -> Path:
    """Return the folder of the run with the lowest validation loss, of the largest METU profile that has runs.

    Only runs in which nothing but the recipe was chosen count: others may have other validation images.

    Raises:
        CrackutilsError: there is none.
    """
    for profile in ("metu", "metu-half", "metu-tenth", "metu-mini"):
        with contextlib.suppress(CrackutilsError):
            runs = [run for run in collect(profile) if "--" not in run["run"]]
            runs = [run for run in runs if (run["folder"] / "model" / "model.weights.h5").is_file()]
            if runs:
                return min(runs, key=lambda run: (run["val"]["loss"], run["run"]))["folder"]
    raise CrackutilsError(
        f"No finished run on METU is in {config.shown(config.results_dir())}; run make run-03 PROFILE=metu-half first,"
        " or give a run's folder as --model."
    )


def collect(profile: str, trained: bool = True, base: Path | None = None) -> list[dict[str, Any]]:
    """Return the finished runs of a profile in the order of notebooks and names.

    Args:
        profile: name of the profile.
        trained: whether runs without test metrics are left out.
        base: folder of the profile's runs; None for the results.

    Raises:
        CrackutilsError: there is none.
    """
    base = base or config.results_dir() / profile
    files = sorted(base.glob("[0-9][0-9]_*/*/metrics.json"))
    found = [read(file.parent) for file in files if file.with_name("run.json").is_file()]
    found = [run for run in found if "test" in run or not trained]
    if not found:
        raise CrackutilsError(
            f"PROFILE={profile} has no finished training run in {config.shown(base)}; run notebooks 03 and 04 first."
        )
    return found


def comparable(runs: list[dict[str, Any]], ds: Dataset, split: str, split_seed: int) -> list[dict[str, Any]]:
    """Return the runs that were tested on the same images: those of one split of these very images and labels."""
    wanted = (ds.sha256, split, split_seed, ds.labels)
    chosen = []
    for run in runs:
        settings = run["settings"]
        its = (run["data"]["sha256"], settings["split"], settings["split_seed"], settings.get("labels", LABELS[0]))
        chosen += [run] if its == wanted else []
    if not chosen:
        raise CrackutilsError(
            f"No finished run used SPLIT={split} SPLIT_SEED={split_seed} LABELS={ds.labels}; run notebooks 03 and 04"
            " with it."
        )
    return chosen


def summary(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run: what the test images say, with the 95 % Wilson interval of the accuracy, and the size."""
    rows = []
    for run in runs:
        test, model = run["test"], run["model"]
        row = {"errors": test["errors"]} | _share(test["errors"], test["n"])
        row |= {k: test[k] for k in ("precision", "recall", "f1", "auroc", "loss")}
        rows.append({"run": run["run"]} | row | {"parameters": model["parameters"], "megabytes": model["bytes"] / 1e6})
    return pd.DataFrame(rows).set_index("run")


def judgements(runs: list[dict[str, Any]]) -> pd.DataFrame:
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


def costs(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per run with its training minutes and images scored per second (both change between runs)."""
    rows = []
    for run in runs:
        timings = run["run_json"]["timings"]
        minutes = sum(v for k, v in timings.items() if k.startswith("train ")) / 60
        row = {"minutes": minutes, "images_per_second": timings["images_per_second"]}
        rows.append({"run": run["run"]} | row | {"accuracy": run["test"]["accuracy"]})
    return pd.DataFrame(rows).set_index("run")


def of_recipes(runs: list[dict[str, Any]], ds: Dataset) -> list[dict[str, Any]]:
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
        same &= settings.get("engine", ENGINES[0]) == ENGINES[0] and "precision" not in settings
        same &= "labels" not in settings
        if same and run["data"]["sha256"] == ds.sha256:
            found.append(run)
    order = {name: place for place, name in enumerate(RECIPES)}
    return sorted(found, key=lambda run: (order.get(run["settings"]["recipe"]["name"], len(order)), run["run"]))


def by_split(runs: list[dict[str, Any]]) -> pd.DataFrame:
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


def over_seeds(runs: list[dict[str, Any]], ds: Dataset, split: str, split_seed: int) -> pd.DataFrame:
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
        if all(settings[k] == v for k, v in wanted.items()) and of_recipes([like], ds):
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
    low, high = evaluation.wilson(n - errors, n)
    return {"n": n, "accuracy": round((n - errors) / n, 6), "low": round(low, 6), "high": round(high, 6)}


def over_splits(runs: list[dict[str, Any]], split: str) -> pd.DataFrame:
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
            [predictions(found[seed]["folder"]).query("split == 'test'").assign(seed=seed) for seed in common]
        )
        row = {"recipe": name, "splits": len(common)}
        row["val_loss"] = round(float(np.mean([run["val"]["loss"] for run in chosen])), 6)
        row |= {"errors": errors, "mean_errors": round(float(np.mean(errors)), 6)} | _share(sum(errors), n)
        rows.append(row | dict.fromkeys(("against", "only_it_wrong", "only_this_wrong", *_TEST)))
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
    found = evaluation.mcnemar(both["label"], both["p_crack"], both["other"])
    return found | {"better": name_a if found["only_a_wrong"] < found["only_b_wrong"] else name_b}


def _with_verdicts(tests: list[dict[str, Any]]) -> None:
    """Add p_holm, corrected for that there are several tests, and the verdict in words that it allows."""
    for test, p in zip(tests, evaluation.holm(np.array([test["p_value"] for test in tests])), strict=True):
        better = test.pop("better")
        test["p_holm"] = float(f"{p:.3g}")
        test["verdict"] = f"{better} makes fewer errors" if p < 0.05 else "not distinguishable"


def against_each_other(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the exact McNemar test of each pair of runs on their common test images, with a verdict in words.

    The verdict follows p_holm, the p-value corrected by Holm's method for the number of pairs.
    """
    tables = {r["run"]: predictions(r["folder"]).query("split == 'test'") for r in runs}
    rows = [{"a": a, "b": b} | _mcnemar(tables[a], tables[b], ["file"], a, b) for a, b in combinations(tables, 2)]
    _with_verdicts(rows)
    columns = ["a", "b", "only_a_wrong", "only_b_wrong", "both_wrong", "p_value", "p_holm", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def best_by_validation(runs: list[dict[str, Any]]) -> str:
    """Return the name of the run with the lowest validation loss: test images choose nothing."""
    return min(runs, key=lambda run: (run["val"]["loss"], run["run"]))["run"]


def mistakes(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the test images that any run gets wrong: file, label, mean p_crack, in how many and in which runs."""
    rows = []
    for run in runs:
        table = predictions(run["folder"]).query("split == 'test'")
        rows.append(table.assign(run=run["run"], bad=(table["p_crack"] >= 0.5) != table["label"]))
    table = pd.concat(rows)
    grouped = table.groupby("file")
    found = pd.DataFrame(
        {"label": grouped["label"].first(), "p_crack": grouped["p_crack"].mean(), "wrong": grouped["bad"].sum()}
    )
    by = table[table["bad"]].groupby("file")["run"].agg(", ".join)
    found = found[found["wrong"] > 0].assign(by=by).reset_index()
    return found.sort_values(["wrong", "file"], ascending=[False, True], ignore_index=True)


# ---------------------------------------------------------------- what a result depends on


def code_hash() -> str:
    """Return a hash of the package's source, of the backbone in it and of the labels that were corrected."""
    home = config.ROOT / "crackutils"
    files = [*sorted(home.glob("*.py")), *sorted(home.glob("backbone/*.npz"))]
    files += sorted(config.AUDIT.glob("*_labels.csv"))
    return hashlib.sha256("".join(config.sha256(f) for f in files).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    names = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "scipy", "scikit-image", "pillow")
    names += ("matplotlib", "split-folders")
    found = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    for name in ("ai-edge-litert", "openvino"):  # engines, of which not all need be there
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    with contextlib.suppress(metadata.PackageNotFoundError):  # Colab may have OpenCV under another of its names
        found["opencv"] = metadata.version("opencv-python-headless")  # the sample's photos depend on it
    return found | {"crackutils": _own_version()}


def _own_version() -> str:
    from crackutils import __version__

    return __version__


@cache
def machine() -> dict[str, Any]:
    """Return the hardware as far as results depend on it (instruction sets, GPU), the cores and the system."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")
    info = Path("/proc/cpuinfo")
    flags = set()
    if info.exists():
        line = next((x for x in info.read_text().splitlines() if x.startswith(("flags", "Features"))), "")
        flags = set(line.partition(":")[2].split())
    cpu = " ".join([platform.machine(), *(f for f in wanted if f in flags)])
    tf = sys.modules.get("tensorflow")  # without TensorFlow nothing has run on a GPU
    gpu = bool(tf and tf.config.list_physical_devices("GPU"))
    return {"cpu": cpu, "gpu": gpu, "cores": os.cpu_count(), "system": platform.system()}


# ---------------------------------------------------------------- reference


def _fingerprints(folder: Path) -> dict[str, str]:
    """Return the hashes that equal runs share: of the CSV files, and of the pixels of figures without timings."""
    from PIL import Image

    found = {
        name: config.sha256(folder / name) for name in ("predictions.csv", "history.csv") if (folder / name).exists()
    }
    for file in sorted((folder / "figures").glob("*.png")):
        if not file.name.startswith(TIMED):
            with Image.open(file) as image:
                found[f"figures/{file.name}"] = hashlib.sha256(
                    repr(image.size).encode() + image.convert("RGB").tobytes()
                ).hexdigest()
    return found


def make_reference(profile: str) -> None:
    """Replace `reference/<profile>/` by the results of the runs whose settings are the defaults.

    Recipe, split and split seed may differ, but not those of notebooks that train nothing.

    Kept of each run are metrics.json, run.json, fingerprints of the other files, and the pictures for the README.
    """
    from PIL import Image

    runs = [run for run in collect(profile, trained=False) if _USUAL.fullmatch(run["run"])]
    target = config.REFERENCE / profile
    shutil.rmtree(target, ignore_errors=True)
    for run in runs:
        home = target / run["notebook"] / run["run"]
        home.mkdir(parents=True)
        for name in ("metrics.json", "run.json"):
            shutil.copyfile(run["folder"] / name, home / name)
        config.write_atomically(home / "fingerprints.json", json.dumps(_fingerprints(run["folder"]), indent=1) + "\n")
    for picture in _PICTURES.get(profile, ()):
        file = config.results_dir() / profile / picture
        if not file.exists():
            print(f"reference/{profile}: README shows {picture}, which is not there; run its notebook, then this again")
        else:
            with Image.open(file) as image:  # 256 colours make a third of the bytes
                home = target / Path(picture).parent.parent
                image.convert("RGB").quantize(256).save(home / file.name, optimize=True)
    print(f"reference/{profile}: {len(runs)} runs kept")


def _differences(want: Any, have: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(want, dict) and isinstance(have, dict):
        keys = list(want) + [k for k in have if k not in want]
        return [d for k in keys for d in _differences(want.get(k), have.get(k), f"{path}.{k}" if path else str(k))]
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [d for i, (w, h) in enumerate(zip(want, have, strict=True)) for d in _differences(w, h, f"{path}[{i}]")]
    return [] if want == have else [(path, want, have)]


def verify(profile: str) -> int:
    """Compare results with `reference/<profile>/`, print a table, and return 0 if all is well, else 1.

    With the type of CPU, the versions and the weights file that made the reference everything must be equal. With
    others low digits move, so there scores may differ a little (see `_close`), and fingerprints are not compared.
    Everywhere the metrics must follow from the run's own predictions.csv.

    Raises:
        CrackutilsError: there is no reference for this profile.
    """
    config.profile(profile)
    base = config.REFERENCE / profile
    kept = sorted(base.glob("*/*/metrics.json"))
    if not kept:
        raise CrackutilsError(
            f"reference/{profile} is empty; fill it with make run-all and make reference, PROFILE={profile}."
        )
    table = []
    for file in kept:
        here = config.results_dir() / profile / file.parent.relative_to(base)
        run = "/".join(file.parts[-3:-1])
        if not (here / "metrics.json").exists():
            table.append((run, "metrics.json", "present", "not run", "DIFFERENT"))
            continue
        other = _other_circumstances(file.parent, here)
        want, have = json.loads(file.read_text("utf-8")), json.loads((here / "metrics.json").read_text("utf-8"))
        compared = [
            [r["run"] for r in metrics.get("runs", [])]
            + [f"{r['recipe']} {r['split']} {r['split_seed']}" for r in metrics.get("by_split", [])]
            + [f"{r['recipe']} seeds {r['seeds']}" for r in metrics.get("over_seeds", [])]
            for metrics in (want, have)
        ]
        if compared[0] != compared[1]:  # notebook 05 takes in all runs that there are
            table.append((run, "runs compared", *map(", ".join, compared), "not compared: other runs"))
            continue
        found = _differences(want, have)
        if other:
            made = "seed" in sources()[want["data"]["source"]]  # then even the images differ in low bits
            found = [d for d in found if not _close(d, want["data"]["test"]["images"], made)]
        for path, w, h in found:
            table.append((run, path, str(w)[:40], str(h)[:40], "DIFFERENT"))
        if not found:
            table.append((run, "metrics.json", "", "", f"close ({other})" if other else "equal"))
        if (here / "predictions.csv").exists():
            table_here = predictions(here)
            follows = score(table_here) | _chosen(table_here)
            own = _differences({k: have.get(k) for k in follows}, follows)
            for path, w, h in own:
                table.append((run, f"{path} from predictions.csv", w, h, "DIFFERENT"))
        marks, mine = json.loads((file.parent / "fingerprints.json").read_text("utf-8")), _fingerprints(here)
        off = [name for name in marks if marks[name] != mine.get(name)] if not other else []
        for name in off:
            table.append((run, name, marks[name][:8], (mine.get(name) or "missing")[:8], "DIFFERENT"))
        if not other and not off:
            table.append((run, f"{len(marks)} CSV files and figures", "", "", "equal"))
    print(pd.DataFrame(table, columns=["run", "item", "reference", "here", "verdict"]).to_string(index=False))
    bad = sum(row[-1] == "DIFFERENT" for row in table)
    print(f"\n{'RED' if bad else 'GREEN'}: {bad} differences in {len(kept)} runs")
    return int(bad > 0)


def _other_circumstances(reference: Path, here: Path) -> str:
    """Say what keeps two runs from being equal to the bit: hardware, versions, weights; empty if nothing does."""
    a, b = (json.loads((folder / "run.json").read_text("utf-8")) for folder in (reference, here))
    starts = (json.loads((folder / "metrics.json").read_text("utf-8")).get("model", {}) for folder in (reference, here))
    found = []
    if (a["machine"]["cpu"], a["machine"].get("gpu")) != (b["machine"]["cpu"], b["machine"].get("gpu")):
        found.append("another type of CPU or GPU")
    both = (a["versions"].keys() & b["versions"].keys()) - {"python"}
    if any(a["versions"][name] != b["versions"][name] for name in both):
        found.append("other versions")
    if len({model.get("start", {}).get("sha256", "") for model in starts}) > 1:
        found.append("another weights file")
    return ", ".join(found)


def _close(difference: tuple[str, Any, Any], images: int, made: bool) -> bool:
    """Whether a difference may come from other circumstances: in shares three images or half a percent, in counts twice
    that, in losses 0.05 nats. Of images made by code the hash may differ as well, and what is measured on them without
    a model: counts by five or five percent, shares by 0.02.
    """
    path, want, have = difference
    part, last = re.split(r"[.\[]", path)[0], path.rsplit(".", 1)[-1]
    if made and path == "data.sha256":
        return True
    measured = ("share_with_copy", "copies", "split_report", "test_images_with_copy_in_train", "check", "darkness_left")
    if made and part in measured and isinstance(want, int | float) and isinstance(have, int | float):
        return abs(want - have) <= (0.02 if isinstance(want, float) else max(5, 0.05 * want))
    if part in ("calibration", "decision", "judgements"):
        return True  # one validation image may decide where they lie
    if part == "before" or path.startswith(("model.start.", "features.")):
        return True  # an untrained model sits near 0.5, where a low digit moves many images
    if part in _AUDITED:  # ranks and ratios of a handful
        if last.startswith("ranks") or last in ("flattery", "low", "high", "near", "in_training"):
            return True
        numbers = isinstance(want, int | float) and isinstance(have, int | float)
        loose = max(0.005, 0.1 * abs(want)) if numbers else 0
        return numbers and abs(want - have) <= (loose if isinstance(want, float) else max(5, 0.1 * want))
    if part in _ELSEWHERE:  # rankings of images that are not like those trained on
        if last in ("chosen", "method", "best_run", "low", "high", "gain_low", "gain_high"):
            return True
        if path == "target.sha256":
            return want is not None and have is not None and made
        numbers = isinstance(want, int | float) and isinstance(have, int | float)
        if not numbers or (not made and (part == "target" or last in ("n", "cracked", "labels"))):
            return False
        small = 0.01 if part == "home" else 0.1
        return abs(want - have) <= (small if isinstance(want, float) else max(6, 0.1 * want))
    if part in _INSPECTED:  # of a handful of photos
        if not isinstance(want, int | float) or not isinstance(have, int | float):
            return last == "file"  # their order
        return abs(want - have) <= max(0.1, 0.2 * abs(want))
    if part in _PITFALLS and isinstance(want, int | float) and isinstance(have, int | float):
        return abs(want - have) <= (0.05 if isinstance(want, float) else max(5, 0.05 * want))
    told = ("val", "test", "training", "runs", "by_split", "over_splits", "mcnemar", "wrong_by_several")
    told += ("intervals", "slices", "over_seeds")
    if part not in (*told, "best_by_validation"):
        return False
    chosen_ones = ("temperature", "threshold", "low", "high", "slice", "kept", "best_epoch", "C", "against")
    if last in (*_TEST, *chosen_ones, "best_by_validation"):
        return True
    if not isinstance(want, int | float) or not isinstance(have, int | float):
        return False
    if last.endswith("loss"):
        return abs(want - have) <= 0.05
    share = max(0.005, 3 / images)
    return abs(want - have) <= (share if isinstance(want, float) else share * images * 2)


# ---------------------------------------------------------------- README


def update_readme(check: bool = False) -> bool:
    """Write the tables of results, from `reference/` and `benchmarks/*.json` alone, between README's marks.

    Args:
        check: change nothing, only tell.

    Returns:
        Whether the README was up to date.

    Raises:
        CrackutilsError: no reference, or the marks are missing.
    """
    readme = config.ROOT / "README.md"
    text = wanted = readme.read_text("utf-8")
    for name, write in (
        ("results", _readme_tables),
        ("audit", _readme_audit),
        ("cross", _readme_cross),
        ("speed", _readme_speed),
        ("sample", _readme_sample),
        ("inspected", _readme_inspected),
    ):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if wanted.count(begin) != 1 or wanted.count(end) != 1:
            raise CrackutilsError(f"README.md must hold the lines {begin} and {end} once each; put them back.")
        wanted = wanted[: wanted.index(begin)] + f"{begin}\n{write()}\n" + wanted[wanted.index(end) :]
    if wanted != text and not check:
        config.write_atomically(readme, wanted)
    return wanted == text


def _compared(profile: str) -> dict[str, Any]:
    file = config.REFERENCE / profile / "05_comparison" / "default" / "metrics.json"
    return json.loads(file.read_text("utf-8"))


def _readme_tables() -> str:
    from crackutils.recipes import PUBLISHED, RECIPES

    base = config.REFERENCE / README_PROFILE
    everything = {run["run"]: run for run in collect(README_PROFILE, base=base)}
    runs = [everything[name] for name in RECIPES if name in everything]
    table, cost = summary(runs), costs(runs)
    eda = json.loads((base / "01_eda" / "default" / "metrics.json").read_text("utf-8"))
    data, settings = runs[0]["data"], runs[0]["settings"]
    gpu = ", with GPU" if runs[0]["run_json"]["machine"]["gpu"] else ""
    lines = [
        f"{config.PROFILES[README_PROFILE].title}: {data['images']:,} images, split {settings['split']}; "
        f"{data['train']['images']:,} for training, {data['val']['images']:,} for validation, "
        f"{data['test']['images']:,} for the test; {settings['threads']} threads{gpu}. The first"
        f" {sum(name not in PUBLISHED for name in table.index)} recipes are ours; the others are those of published"
        " projects, with their mistakes corrected.",
        "",
        "| Recipe | Errors | Accuracy (95 % interval) | Random split | Published | Parameters | Training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in table.iterrows():
        random = everything.get(f"{name}--split-random", {}).get("test")
        leaky = f"{random['errors']} of {random['n']:,}" if random else "-"
        told = PUBLISHED.get(name)
        published = f"{told.errors:,} of {told.test_images:,}" if told and told.test_images else "-"
        lines.append(
            f"| `{name}`: {RECIPES[name].title} | {row.errors:.0f} of {row.n:,.0f} |"
            f" {row.accuracy:.4f} ({row.low:.4f}-{row.high:.4f}) |"
            f" {leaky} | {published} |"
            f" {row.parameters:,.0f} | {cost.loc[name, 'minutes']:.1f} min |"
        )
    if missing := [f"`{name}`" for name in RECIPES if name not in everything]:
        lines += ["", f"Not yet run on these images: {', '.join(missing)}."]
    if missing := [f"`{name}`" for name in table.index if f"{name}--split-random" not in everything]:
        all_of_them = len(missing) == len(table)
        lines += ["", f"Not yet run on the random split: {'all of them' if all_of_them else ', '.join(missing)}."]
    compared = _compared(README_PROFILE)
    first = compared["best_by_validation"]
    verdicts: dict[str, list[str]] = {}
    for test in compared["mcnemar"]:
        if first in (test["a"], test["b"]):
            other = test["b"] if test["a"] == first else test["a"]
            verdicts.setdefault(test["verdict"], []).append(f"`{other}` (p = {test['p_holm']:.2g})")
    lines += ["", f"`{first}`, whose validation loss is the lowest, on the same images (exact McNemar test):"]
    lines += [f"- {verdict}, against {', '.join(others)}." for verdict, others in verdicts.items()]
    lines += [
        "",
        f"The p-values are corrected for all {len(compared['mcnemar'])} pairs (Holm). The intervals and the tests count"
        " every image as independent. Crops of one crack are not: the"
        f" {data['test']['positive']:,} cracked test images form {eda['groups_of_positive']['test']} groups, so the"
        " true uncertainty is larger.",
    ]
    lines += _readme_splits()
    lines += [
        "",
        "What was published, and why the numbers above do not compare with it: other test images, mostly with copies"
        " of training images among them, and up to three times as many images for training.",
        "",
        "| Recipe | Project | Errors | Accuracy | Measured by | Caveat |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {p.source} | "
        + (f"{p.errors:,} of {p.test_images:,} | {p.accuracy:.4f}" if p.test_images else "- | -")
        + f" | {p.measured} | {p.caveat} |"
        for name, p in PUBLISHED.items()
    ]
    leaked, tests = eda["test_images_with_copy_in_train"], eda["data"]["test"]["images"]
    lines += [
        "",
        f"Of these images {eda['share_with_copy']:.1%} have an exact, re-encoded or shifted copy. A random split puts"
        f" {leaked['random']:,} images into a test set of about {tests:,} whose copy is in training; the copy-safe"
        f" split {leaked['copy-safe']:,}, as it is built from the same pairs."
        f" A check by another means finds {eda['check']['images_with_copy']} of"
        f" {eda['check']['images_asked']:,} validation and test images with a copy on another side.",
    ]
    return "\n".join(lines)


def _readme_splits() -> list[str]:
    from crackutils.recipes import PUBLISHED

    lines = []
    for profile in (README_PROFILE, SPLITS_PROFILE):
        found = _compared(profile) if (config.REFERENCE / profile).is_dir() else {"over_splits": []}
        rows = sorted(found["over_splits"], key=lambda row: row["val_loss"])
        if not rows:
            continue
        those = {row["recipe"] for row in rows}
        ran = [r for r in found["by_split"] if r["split"] == "copy-safe"]
        seeds = [{r["split_seed"] for r in ran if r["recipe"] == name} for name in those]
        lines += [
            "",
            f"Over {rows[0]['splits']} copy-safe splits of {config.PROFILES[profile].title}, in the order of their"
            f" seeds {', '.join(map(str, sorted(set.intersection(*seeds))))}:",
            "",
            "| Recipe | Mean errors | Errors | Accuracy, splits together (95 % interval) |"
            f" Against `{rows[0]['recipe']}` |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            verdict = f"{row['verdict']} (p = {row['p_holm']:.2g})" if row["verdict"] else "lowest validation loss"
            lines.append(
                f"| `{row['recipe']}`{'' if row['recipe'] in PUBLISHED else ' (ours)'} | {row['mean_errors']:.1f} |"
                f" {sum(row['errors'])} of {row['n']:,} ({', '.join(map(str, row['errors']))}) | {row['accuracy']:.4f}"
                f" ({row['low']:.4f}-{row['high']:.4f}) | {verdict} |"
            )
        if one := [r for r in ran if r["recipe"] not in those]:
            lines += ["", f"Run on one of these splits only: {', '.join('`' + r['recipe'] + '`' for r in one)}"]
            if min(r["errors"] for r in one) > sum(rows[0]["errors"]):
                lines[-1] += f"; each makes more errors there than `{rows[0]['recipe']}` on all {rows[0]['splits']}"
            lines[-1] += "."
    if lines:
        lines += [
            "",
            "Training and test images of these splits overlap, so the p-values are too small and the intervals too"
            " narrow; and some of the tested images were among those on which our recipe was chosen.",
        ]
    return lines


def _readme_audit() -> str:
    def measured(profile: str) -> dict[str, Any]:
        file = config.REFERENCE / profile / "07_data_audit" / "default" / "metrics.json"
        return json.loads(file.read_text("utf-8"))

    real, made = measured(README_PROFILE), measured("sample")
    share, relatives = real["mosaics"]["share"], real["relatives_in_training"]
    rates = {(row["head"], row["method"]): row for row in real["leakage"]}
    lines = [
        f"On {config.PROFILES[README_PROFILE].title}: {real['overlaps']:,} pairs of images overlap;"
        f" {share['Positive']:.1%} of Positive and {share['Negative']:.1%} of Negative overlap at least one other."
        " What that does to a test set, and to the share of test images that heads on frozen features get wrong (ten"
        " splits of each kind, 95 % interval over splits):",
        "",
        "| Split | Test images | same crop in training | overlap in training | Linear head | Dense head |"
        " Nearest neighbour |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in ("random", "copy-safe", "photo-safe"):
        row, cells = relatives[method], []
        for head in ("linear", "dense", "nearest"):
            r = rates[head, method]
            cells.append(f"{r['error_rate']:.2%} ({r['low']:.2%}-{r['high']:.2%})")
        lines.append(
            f"| {method} | {row['test']:,} | {row['with copy']:,} | {row['with overlap']:,} | {' | '.join(cells)} |"
        )
    lines += ["", "Images of which the same crop, or an overlap, exists, with and without it in training:"]
    lines += ["", "| Head | There is | not in training | in training |", "|---|---|---|---|"]
    pairs = {(r["head"], r["near"], r["in_training"]): r for r in real["leakage_by_relative"]}
    for head, near in dict.fromkeys((head, near) for head, near, _ in pairs):
        told = [pairs.get((head, near, taught)) for taught in (False, True)]
        cells = [f"{r['errors']} of {r['n']:,} wrong, {r['error_rate']:.2%}" if r else "-" for r in told]
        lines.append(f"| {head} | {'the same crop' if near == 'copy' else 'an overlap'} | {' | '.join(cells)} |")
    unseen, verdicts, ranks = real["unread"], real["verdicts"], real["ranks_of_wrong_labels"]
    lines += [
        "",
        f"Labels: {unseen['read']:,} pictures were opened and read; {verdicts.get('crack', 0)} called Negative show a"
        f" crack, {verdicts.get('no crack', 0)} called Positive show none, {verdicts.get('ambiguous', 0)} are ambiguous"
        f" ([the list](data/audit/metu_labels.csv)). Of {unseen['random']} Negative pictures drawn at random"
        f" {unseen['cracks']} show a crack, so some {unseen['expected']} more (95 % interval"
        f" {unseen['expected_low']} to {unseen['expected_high']}) are to be expected among the"
        f" {unseen['unread']:,} that nobody has read.",
        "",
        "Does the audit find what is there? "
        f"Of {made['planted_copies'][-1]['planted']} copies planted in the sample it finds"
        f" {made['planted_copies'][-1]['recall']:.0%} (precision {made['planted_copies'][-1]['precision']:.0%}); of its"
        f" overlaps, which are known, {made['overlaps_found'][-1]['recall']:.0%} (precision"
        f" {made['overlaps_found'][-1]['precision']:.0%}); of {made['planted_labels']['planted']} labels turned round,"
        f" {made['planted_labels']['recall']:.0%} are among as many first suspects. On METU it finds"
        f" {real['planted_copies'][-1]['recall']:.0%} of planted copies and {real['planted_labels']['recall']:.0%} of"
        f" {real['planted_labels']['planted']} labels turned round. Those are easy: of the {len(ranks)} labels that are"
        f" wrong in truth only {sum(rank <= len(ranks) for rank in ranks)} are among as many first suspects.",
    ]
    worth = {row["trained_with"]: row for row in real["with_corrections"]}
    lines += [
        "",
        "What the corrections are worth to a linear head, on the same split: trained with the labels as given"
        f" {worth['given']['errors_given']} errors by the given and {worth['given']['errors_corrected']} by the"
        f" corrected labels; trained with the corrected ones {worth['corrected']['errors_given']} and"
        f" {worth['corrected']['errors_corrected']}, of {worth['given']['n']:,}.",
    ]
    told = {"the sample": made, "SDNET2018's walls": measured("sdnet")}
    told = {name: found["photos"]["how_good"]["estimated photos"] for name, found in told.items()}
    lines += [
        "",
        "How well photos can be told by looks: of all pairs of images of one photo, the estimate keeps together "
        + " and ".join(
            f"{row['recall']:.0%} on {name} (precision {row['precision']:.0%})" for name, row in told.items()
        )
        + ". `photo-safe` is therefore sure of crops that overlap, not of photos.",
    ]
    return "\n".join(lines)


def _readme_cross() -> str:
    file = config.REFERENCE / README_PROFILE / "08_cross_dataset" / "mobilenetv2-cells" / "metrics.json"
    m = json.loads(file.read_text("utf-8"))
    where, home, there = m["target"], m["home"], m["thresholds"]

    def ranked(row: dict[str, Any]) -> str:
        return f"{row['auroc']:.3f} ({row['low']:.3f}-{row['high']:.3f})"

    def wrong(row: dict[str, Any]) -> str:
        return "-" if row["home_errors"] is None else f"{row['home_errors']:.2%}"

    decided = [
        f"{at['recall']:.0%} at the threshold {at['threshold']} ({at['precision']:.0%} of its alarms are cracks)"
        for at in there[::2]
    ]
    lines = [
        f"Trained on {config.PROFILES[README_PROFILE].title}, tested on {where['images']:,} tiles of"
        f" {where['photos']} of SDNET2018's wall photos, {where['cracked']:,} of them with a crack. No label of theirs"
        f" fitted anything; methods were chosen on {where['tuning_photos']} of the photos. On the other"
        f" {where['photos'] - where['tuning_photos']} ({where['held']:,} tiles), with 95 % intervals from drawing whole"
        " photos, of which there are few, so that these are rather too narrow:",
        "",
        f"| Model or method | AUROC there | within photos | Gain on `{m['report'][0]['method']}` |",
        "|---|---|---|---|",
    ]
    for row in m["report"]:
        gain = "-" if row["gain"] is None else f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        lines.append(f"| {row['method']} | {ranked(row)} | {row['auroc_by_photo']:.3f} | {gain} |")
    lines += [
        "",
        "The last row is the network that notebook 08 saves; the method that the tuning photos chose is"
        f" *{m['chosen']}*. Of the cracked tiles there the network finds {decided[0]}; {', '.join(decided[1:])}."
        " Labels of the site tell which threshold is right there. At home it makes"
        f" {home['test']['errors']} errors of {home['test']['n']:,} test images; `{home['best_run']}`, the best by"
        f" validation, makes {home['best_errors']}.",
        "",
        f"What helps, on the {where['tuning_photos']} photos on which methods were chosen (wrong at home: validation"
        " images, at the threshold that is best for them):",
        "",
        "| Method | AUROC there | Wrong at home |",
        "|---|---|---|",
    ]
    lines += [f"| {row['method']} | {ranked(row)} | {wrong(row)} |" for row in m["methods"]]
    lines += [
        "",
        "Labels of one's own site, on photos that chose nothing, half of them labelled, the other half scored"
        f" ({m['adaptation'][0]['draws']} draws):",
        "",
        "| Labelled tiles | AUROC | Gain (95 % of the draws) |",
        "|---|---|---|",
    ]
    for row in m["adaptation"]:
        gain = f"{row['auroc_gain']:+.3f} ({row['auroc_gain_low']:+.3f} to {row['auroc_gain_high']:+.3f})"
        lines.append(f"| {row['n']} | {row['auroc']:.3f} | {gain if row['n'] else '-'} |")
    table = pd.DataFrame(m["robustness"])
    clean = table[table["corruption"] == "none"].set_index("run")["error_rate"]
    rate = table[table["corruption"] != "none"].pivot_table("error_rate", "run", "corruption", sort=False)
    lines += [
        "",
        f"Share of {table['n'].iloc[0]} test images of METU that is wrong, untouched and with corruptions (mean of five"
        " strengths each):",
        "",
        f"| Recipe | untouched | {' | '.join(rate.columns)} |",
        "|---" * (len(rate.columns) + 2) + "|",
    ]
    for run, row in rate.iterrows():
        lines.append(f"| `{run}` | {clean[run]:.1%} | {' | '.join(f'{value:.0%}' for value in row)} |")
    return "\n".join(lines)


def _readme_inspected() -> str:
    file = config.REFERENCE / README_PROFILE / "09_inspect_photos" / "default" / "metrics.json"
    m = json.loads(file.read_text("utf-8"))
    table = pd.DataFrame(m["made"]).astype({"length_error": float})
    table["wrong"] = table["length_error"].abs()
    lines = [
        f"With the network of {config.PROFILES[README_PROFILE].title}, on {len(table)} photos made by code that trained"
        f" nothing, at the threshold {m['threshold']} (medians; *found* is the share of the true pixels of cracks that"
        " have a found one within 4 pixels). The code that made them also made those of the training, with other"
        " seeds: expect less of real walls.",
        "",
        "| Cracks | Photos | IoU | Found | Length is wrong by | At worst |",
        "|---|---|---|---|---|---|",
    ]
    for style, part in [*table.groupby("style"), ("all", table)]:
        middle = part[["iou", "true_found", "wrong"]].median()
        lines.append(
            f"| {style} | {len(part)} | {middle['iou']:.2f} | {middle['true_found']:.0%} | {middle['wrong']:.0%} |"
            f" {part['wrong'].max():.0%} |"
        )
    told = ", ".join(f"`{row['run']}` {row['ratio']:.1f}" for row in m["attention"])
    lines += ["", f"Where the models look (Grad-CAM), times as much at cracks as chance would: {told}."]
    return "\n".join(lines)


def _readme_speed() -> str:
    kept = json.loads((config.ROOT / "benchmarks" / "speed.json").read_text("utf-8"))
    race = {(row["run"], row["images"]): row for row in kept["race"]}
    counts = sorted({row["images"] for row in kept["race"]})
    lines = [
        "From the start of a process to the test metrics, TensorFlow's import left out, all in one run on"
        f" {kept['machine']['cores']} cores; ratios are to the published recipe:",
        "",
        "| Images | As published | Ours, first time | Ours, features kept |",
        "|---|---|---|---|",
    ]
    for count in counts:
        theirs, first, again = (race[name, count] for name in ("published", "ours", "ours, again"))
        lines.append(
            f"| {count:,} | {theirs['total']:.0f} s, {_wrong(theirs)} | {first['total']:.0f} s,"
            f" **{first['ratio']:.1f} times** as fast, {_wrong(first)} (McNemar p = {first['p_value']:.2g}) |"
            f" {again['total']:.1f} s, {again['ratio']:.0f} times |"
        )
    most = counts[-1]
    lines += [
        "",
        f"Variants of the linear head on {most:,} images:",
        "",
        "| Variant | Seconds | Times as fast | Validation loss | Above the lowest | Errors | McNemar p | Peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    variants = [row for (_, n), row in race.items() if n == most and row["val"] and row["run"] != "ours, again"]
    for row in variants:
        name = "160 px, as the recipe has it" if row["run"] == "ours" else row["run"]
        above, error = row["val"]["above"], row["val"]["standard_error"]
        lines.append(
            f"| {name} | {row['total']:.0f} | {row['ratio']:.1f} | {row['val']['loss']:.4f} |"
            f" {f'{above:.4f} ± {error:.4f}' if above else 'lowest'} | {row['errors']} of {row['tested']:,} |"
            f" {row['p_value']:.2g} | {row['peak_gb']:.2f} GB |"
        )
    chosen = race[kept["chosen"], most]
    lines += [
        "",
        "The fastest whose validation loss is less than two standard errors (of the paired difference) above the lowest"
        f" is *{chosen['run']}*:"
        f" {chosen['ratio']:.1f} times as fast as the published recipe, {_wrong(chosen)} against"
        f" {_wrong(race['published', most])}.",
    ]
    score, series = kept["scoring"], kept["series"]
    lines += [
        "",
        f"Scoring runs at {score['of_bound']:.2f} of what decoding and network allow one after the other, and"
        f" {score['to_predict']:.1f} times as fast as Keras's `predict`. A run of the first"
        f" {len(series['notebooks'])} notebooks on the sample takes {series['wall']:.0f} s:"
        f" {series['images']:.0f} s to make the images,"
        f" {series['start'] + _sum(series, 'start'):.0f} s to start, {_sum(series, 'imports'):.0f} s to import, above"
        f" all TensorFlow, {_sum(series, 'stages'):.0f} s for what the notebooks do; that leaves"
        f" {1 - series['explained']:.1%} unexplained.",
        "",
        "`PRECISION=bfloat16` lets notebook 04 compute in bfloat16. Against float32 it trains "
        + ", ".join(f"`{name}` {row['ratio']:.1f} times" for name, row in kept["precision"].items())
        + " as fast on this CPU, which "
        + ("has" if "bf16" in kept["machine"]["cpu"] else "has no")
        + " bfloat16.",
    ]
    return "\n".join(lines)


def _wrong(row: dict[str, Any]) -> str:
    return f"{row['errors']} error{'s' * (row['errors'] != 1)} of {row['tested']:,}"


def _sum(series: dict[str, Any], part: str) -> float:
    return sum(row[part] for row in series["notebooks"])


def _readme_sample() -> str:
    base = config.REFERENCE / "sample"
    runs = [run for run in collect("sample", base=base) if "--" not in run["run"]]
    compared = _compared("sample")
    kept = json.loads((config.ROOT / "benchmarks" / "sample.json").read_text("utf-8"))
    measured, versions = kept["final"], kept["versions"]
    data = runs[0]["data"]
    lines = [
        f"The sample: {data['images']:,} patches, {data['test']['images']:,} of them for the test, from"
        f" {data['test']['groups']} photos; no photo lies on two sides. The intervals and the test below count every"
        " patch as independent, which those of one photo are not; and our backbone has seen many other photos of the"
        " same generator.",
        "",
        "| Recipe | Errors | Accuracy (95 % interval) | AUROC |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{run}` | {row.errors:.0f} of {row.n:,.0f} | {row.accuracy:.4f} ({row.low:.4f}-{row.high:.4f}) |"
        f" {row.auroc:.4f} |"
        for run, row in summary(runs).iterrows()
    ]
    for test in compared["mcnemar"]:
        lines += ["", f"`{test['a']}` against `{test['b']}`: {test['verdict']} (p = {test['p_holm']:.3g})."]
    lines += [
        "",
        "A linear head fitted on sample patches alone, nothing real in training, on METU's copy-safe test set and on"
        " the walls of 16 SDNET2018 photos:",
        "",
        "| Backbone | Tested on | Accuracy | AUROC | Average precision |",
        "|---|---|---|---|---|",
    ]
    names = {"crackutils": "ours, trained on sample photos alone", "imagenet": "ImageNet, alpha 1.0"}
    for name, title in names.items():
        for target, where in (("metu_test", "METU"), ("sdnet_test", "SDNET2018")):
            s = measured["usefulness"][name][target]
            told = f"{s['accuracy']:.4f} | {s['auroc']:.4f} | {s['average_precision']:.4f}"
            lines.append(f"| {title} | {where} | {told} |")
    real = versions[-1]["realism_auroc"]
    lines += [
        "",
        "A classifier on ImageNet features still tells sample from real patches (AUROC, 0.5 would be perfect):"
        f" METU without crack {real['metu_negative']:.3f}, with crack {real['metu_positive']:.3f},"
        f" SDNET2018 {real['sdnet_negative']:.3f} and {real['sdnet_positive']:.3f}.",
    ]
    return "\n".join(lines)
