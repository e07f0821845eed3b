"""Run folders: their names and settings, and the files that are written and read."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, provenance
from crackutils.config import CrackutilsError, Profile, choose
from crackutils.datasets import Dataset
from crackutils.files import write_atomically
from crackutils.metrics import score_predictions
from crackutils.stages import Recipe

SCHEMA = 1


@dataclass
class Run:
    """One run of a notebook under one set of settings, and its folder."""

    notebook: str
    name: str
    settings: dict[str, Any]
    folder: Path
    began: float = field(default_factory=time.time)

    def show(self, figure: Any, name: str) -> None:
        """Save a figure as `figures/<name>.png` and show it below the cell, with its titles as alternative text."""
        import matplotlib.pyplot as plt
        from IPython.display import Image, display

        (file := self.folder / "figures" / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=120, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        texts = (ax.get_title() or ax.get_ylabel() or ax.get_xlabel() for ax in figure.axes)
        title = figure.get_suptitle() or "; ".join(filter(None, dict.fromkeys(texts)))
        alt = " ".join(f"Figure {name}: {title}".replace("_", " ").split())
        width = int.from_bytes((picture := file.read_bytes())[16:20])  # in the header of a PNG, pixels
        display(Image(picture, width=round(width * figure.dpi / 120), alt=alt[:200]))  # drawn once, as it is slow

    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints; CRACKUTILS_FORCE deletes earlier ones."""
        folder = self.folder / "checkpoints"
        if os.environ.get("CRACKUTILS_FORCE"):
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def begin(self) -> None:
        """Write only the settings into `metrics.json`, so that a model can be scored before its run has finished."""
        for old in ("run.json", "model/model.weights.h5"):  # without the first a run counts as unfinished
            (self.folder / old).unlink(missing_ok=True)
        self._write("metrics.json", self._head())

    def _head(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "notebook": self.notebook, "run": self.name, "settings": self.settings}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.folder / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def finish(
        self, ds: Dataset, manifest: pd.DataFrame, found: dict[str, Any], timings: dict[str, float]
    ) -> dict[str, Any]:
        """Write `metrics.json` (equal for equal runs) and `run.json`, and return the former."""
        counts = {"images": ("label", "size"), "positive": ("label", "sum"), "groups": ("group", _groups)}
        split = manifest.groupby("split").agg(**counts)
        data = {"source": ds.profile.source, "sha256": ds.sha256, "images": len(ds.index)}
        data |= {"positive": int(ds.index["label"].sum()), "left_out": len(ds.left_out)}
        data |= {part: {name: int(n) for name, n in row.items()} for part, row in split.T.to_dict().items()}
        content = self._head() | {"data": data} | _plain(found)
        spent = {k: round(v, 2) for k, v in timings.items()} | {"notebook_seconds": round(time.time() - self.began, 2)}
        if self.notebook[:2].isdigit():  # beside an entered model they are the user's
            for figure in self.folder.glob("figures/*.png"):  # of an earlier version, or of other parameters
                if figure.stat().st_mtime < self.began - 5:  # some file systems count in steps of two seconds
                    figure.unlink()
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        self._write("run.json", {"versions": provenance.versions(), "machine": provenance.machine(), "timings": spent})
        self._write("metrics.json", content)
        if os.environ.get("MLFLOW_TRACKING_URI"):
            provenance.track(f"{self.notebook} {self.name}", self.folder, content, spent)
        if note := os.environ.get("CRACKUTILS_RUN_NOTE"):
            with open(note, "a", encoding="utf-8") as handle:
                handle.write(f"{self.folder}\n")
        return content

    def write_predictions(self, table: pd.DataFrame) -> dict[str, dict[str, Any]]:
        """Write `predictions.csv` and return the metrics of `val` and `test`, computed from the file just written."""
        # the shortest text that reads back as the same float32
        lines = table.assign(p_crack=[str(p) for p in table["p_crack"].to_numpy(np.float32)])
        write_atomically(self.folder / "predictions.csv", lines.to_csv(index=False, lineterminator="\n"))
        return score_parts(read_predictions(self.folder))

    def write_history(self, history: pd.DataFrame) -> None:
        """Write `history.csv`, a row per epoch."""
        write_atomically(self.folder / "history.csv", history.to_csv(index=False, lineterminator="\n"))


def open_run(
    notebook: str,
    profile: Profile,
    *,
    recipe: Recipe | None = None,
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
    """Return a new run, named by its recipe and by every setting that is not the default.

    `notebook` is the stem of its file name; notebooks that train nothing have no recipe. The other arguments are the
    notebook's parameters, empty ones taken from the profile; `target` names test images other than the default.
    Raises CrackutilsError for an unknown split, weights, engine, precision or labels, and for an engine with a recipe
    that computes no features.
    """
    choose("SPLIT", split or profile.split, config.SPLITS)
    choose("WEIGHTS", weights or profile.weights, config.WEIGHTS)
    chosen = {"split": split or profile.split, "split_seed": split_seed, "seed": seed}
    usual = {"split": profile.split, "split_seed": config.DEFAULT_SEED, "seed": config.DEFAULT_SEED}
    if recipe is not None:
        start = profile.weights if recipe.backbone else "random"
        chosen |= {"weights": weights or start, "epochs": epochs}
        usual |= {"weights": start, "epochs": 0}
        choose("ENGINE", engine or config.ENGINES[0], config.ENGINES)
        if recipe.linear:
            chosen["engine"], usual["engine"] = engine or config.ENGINES[0], config.ENGINES[0]
        elif engine not in ("", config.ENGINES[0]):
            why = f"ENGINE={engine} has no effect on RECIPE={recipe.name}, which computes no features"
            raise CrackutilsError(f"{why}. Leave ENGINE out.")
    elif weights and weights != profile.weights:  # a notebook without a recipe uses a frozen backbone
        chosen["weights"], usual["weights"] = weights, profile.weights
    for name, value, values in (("precision", precision, config.PRECISIONS), ("labels", labels, config.LABELS)):
        if choose(name.upper(), value, values) != values[0]:
            chosen[name], usual[name] = value, values[0]
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
    """Return a value for JSON: NumPy's numbers as Python's, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _groups(ids: pd.Series) -> int:
    return ids.nunique() if ids.min() >= 0 else len(ids)  # -1: nothing was grouped


def read_predictions(folder: Path) -> pd.DataFrame:
    """Read `predictions.csv` of a run: file, split, label, p_crack (float32, bit for bit as written)."""
    # a name may hold a carriage return
    table = pd.read_csv(folder / "predictions.csv", float_precision="round_trip", lineterminator="\n")
    return table.astype({"p_crack": np.float32})


def score_parts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the metrics of the `val` and `test` rows of predictions."""
    return {
        part: score_predictions(rows["label"], rows["p_crack"])
        for part in ("val", "test")
        if len(rows := table[table["split"] == part])
    }


def read_run(folder: Path) -> dict[str, Any]:
    """Read `metrics.json` of a run, with the timings of `run.json` under "run_json"."""
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    return found | {"run_json": json.loads((folder / "run.json").read_text("utf-8")), "folder": folder}


def read_recipe(folder: Path) -> tuple[Recipe, str]:
    """Return the recipe and initial weights of a finished training run; CrackutilsError if there is none."""
    try:
        settings = json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
        fields, weights = settings["recipe"], settings["weights"]
    except (OSError, LookupError, TypeError, ValueError) as error:
        remedy = "Give a folder with metrics.json and model/."
        raise CrackutilsError(f"{folder} holds no finished training run. {remedy}") from error
    try:
        return Recipe.from_dict(fields), weights
    except (TypeError, KeyError) as error:
        remedy = "Run its notebook again with FORCE=1."
        raise CrackutilsError(f"{folder} was made by another version of crackutils. {remedy}") from error


def find_best_run() -> Path:
    """Return the folder of the run with the lowest validation loss, of the largest METU profile that has runs.

    Only runs with default settings but for the recipe count: others may have other validation images. Raises
    CrackutilsError where there is none.
    """
    for profile in ("metu", "metu-half", "metu-tenth", "metu-mini"):
        with contextlib.suppress(CrackutilsError):
            runs = [run for run in collect_runs(profile) if "--" not in run["run"]]
            runs = [run for run in runs if (run["folder"] / "model" / "model.weights.h5").is_file()]
            if runs:
                return min(runs, key=lambda run: (run["val"]["loss"], run["run"]))["folder"]
    remedy = "Run make run-03 PROFILE=metu-half first, or give a run's folder as --model."
    raise CrackutilsError(f"No finished run on METU is in {config.display_path(config.results_dir())}. {remedy}")


def collect_runs(profile: str, trained: bool = True, base: Path | None = None) -> list[dict[str, Any]]:
    """Return the finished runs of a profile, by notebook and name; with `trained` only those with test metrics.

    `base` is their folder, by default that of the profile's results. Raises CrackutilsError if there is none.
    """
    base = base or config.results_dir() / profile
    found = [read_run(f.parent) for f in sorted(base.glob("*_*/*/metrics.json")) if f.with_name("run.json").is_file()]
    found = [r for r in found if ("test" in r or not trained) and r["folder"].name == r["run"]]  # no copies of a folder
    if not found:
        why = f"PROFILE={profile} has no finished training run in {config.display_path(base)}"
        raise CrackutilsError(f"{why}. Run notebooks 03 and 04 first.")
    return found
