"""How our transfer recipe was chosen: one change at a time, judged on validation images of METU alone.

    python benchmarks/recipe.py

Needs the images of PROFILE=metu-half and ImageNet weights (CRACKUTILS_WEIGHTS_DIR). Trains each variant on some images
of the training part, scores it on some of the validation part, and writes benchmarks/recipe.json and .png. A variant
that has been trained before, with the same settings, is not trained again. The test part is never read.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

PROFILE = config.start("metu-half")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from crackutils import config, datasets, training
from crackutils.batches import make_batches, predict
from crackutils.files import write_atomically
from crackutils.metrics import EPS, score_predictions
from crackutils.recipes import RECIPES, Recipe, Stage
from crackutils.runs import Run
from crackutils.splits.make import make_split

OUT = config.ROOT / "benchmarks" / "recipe.json"
KEPT = config.results_dir() / "benchmarks" / "recipe.json"  # predictions as well
TRAIN, VAL = 2500, 2000  # images
DRAWS = 2000  # of the bootstrap
FLIPS = ("RandomFlip", {"mode": "horizontal_and_vertical"})


def tuned(epochs: int = 2, rate: float = 1e-4, layers: int = 54, head: int = 2) -> tuple[Stage, ...]:
    """Return the two stages with a change in the second, or in the epochs of the first."""
    return (Stage("head", head, 1e-3), Stage("fine-tune", epochs, rate, unfreeze=layers))


BASE = replace(RECIPES["mobilenetv2"], name="base", title="the recipe that the variants start from", stages=tuned())
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "resolution 112 px": {"size": 112},
    "resolution 224 px": {"size": 224},
    "head with a dense layer of 128": {
        "head": (("GlobalAveragePooling2D", {}), ("Dense", {"units": 128, "activation": "relu"}))
    },
    "fine-tune 100 layers": {"stages": tuned(layers=100)},
    "fine-tune at 3e-4": {"stages": tuned(rate=3e-4)},
    "1 + 3 epochs": {"stages": tuned(3, head=1)},
    "flips only": {"augment": (FLIPS,)},
    "label smoothing 0.05": {"label_smoothing": 0.05},
    "weight averaging 0.98": {"averaging": 0.98},
}


def parts(ds: datasets.Dataset) -> pd.DataFrame:
    """Return the split with a draw of its training and validation images, and without its test images.

    The 64 rows called "test" are validation images too: `training.train` wants some.
    """
    manifest = make_split(ds, PROFILE.split, config.DEFAULT_SEED)
    rng = np.random.default_rng(config.DEFAULT_SEED)
    chosen = pd.Series("unused", manifest.index)
    chosen[rng.choice(np.flatnonzero(manifest["split"] == "train"), TRAIN, replace=False)] = "train"
    val = rng.permutation(np.flatnonzero(manifest["split"] == "val"))
    chosen[val[:VAL]], chosen[val[VAL : VAL + 64]] = "val", "test"
    return manifest.assign(split=chosen)


def measure(ds: datasets.Dataset, manifest: pd.DataFrame, recipe: Recipe) -> dict[str, Any]:
    """Train a recipe and return its seconds and the validation probabilities, without and with mirror images."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trained = training.train(recipe, ds, manifest, Run("", "", {}, Path(folder)), config.DEFAULT_SEED, "imagenet")
        seconds = time.perf_counter() - began
        rows = np.flatnonzero(manifest["split"] == "val")
        data = make_batches(ds.pixels(recipe.size), ds.index["label"].to_numpy(), rows, 64)
        plain, mirrored = (predict(trained.model, data, flips)[1] for flips in (False, True))
    told = {"plain": [round(float(p), 7) for p in plain], "mirrored": [round(float(p), 7) for p in mirrored]}
    return {"seconds": round(seconds, 1), **told}


def loss(labels: np.ndarray, p_crack: Any) -> np.ndarray:
    """Return each image's cross-entropy in nats."""
    p = np.asarray(p_crack)
    return -np.log(np.clip(np.where(labels == 1, p, 1 - p), EPS, 1))


def main() -> None:
    """Train what is missing and write the table."""
    ds = datasets.load(PROFILE)
    manifest = parts(ds)
    labels = manifest.loc[manifest["split"] == "val", "label"].to_numpy()
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    for name, changes in VARIANTS.items():
        recipe = replace(BASE, **changes)
        about = json.loads(json.dumps({"recipe": recipe.as_dict(), "images": ds.sha256, "parts": [TRAIN, VAL]}))
        known = kept.get(name, {})
        if {key: known.get(key) for key in about} != about:
            print(name, flush=True)
            kept[name] = about | measure(ds, manifest, recipe)
            write_atomically(KEPT, json.dumps(kept) + "\n")
    base = loss(labels, kept["base"]["plain"])
    draws = np.random.default_rng(config.DEFAULT_SEED).integers(0, VAL, (DRAWS, VAL))
    table = []
    for name, run in ((name, kept[name]) for name in VARIANTS):
        for view in ("plain", "mirrored") if name == "base" else ("plain",):
            scores = score_predictions(labels, run[view])
            each = loss(labels, run[view]) - base
            low, high = np.quantile(each[draws].mean(1), (0.025, 0.975))
            table.append(
                {
                    "variant": name if view == "plain" else "flips at test time",
                    "errors": scores["errors"],
                    "loss": scores["loss"],
                    "against_base": round(float(each.mean()), 5),
                    "low": round(float(low), 5),
                    "high": round(float(high), 5),
                    "auroc": scores["auroc"],
                    "seconds_ratio": round(run["seconds"] / kept["base"]["seconds"], 2),
                }
            )
    content = {"profile": PROFILE.name, "train": TRAIN, "val": VAL, "base": BASE.as_dict(), "table": table}
    write_atomically(OUT, json.dumps(content, indent=1) + "\n")
    print(pd.DataFrame(table).to_string(index=False))
    figure(pd.DataFrame(table)).savefig(OUT.with_suffix(".png"), dpi=100, bbox_inches="tight")


def figure(table: pd.DataFrame) -> Any:
    """Draw each variant's difference in validation loss from the base, with its 95 % interval."""
    shown = table[table["variant"] != "base"].reset_index(drop=True)
    drawing, ax = plt.subplots(figsize=(8, 0.4 * len(shown) + 1.2), layout="constrained")
    ax.axvline(0, color="0.5", linestyle=":")
    ax.hlines(shown.index, shown["low"], shown["high"], color="#0173b2", linewidth=2)
    ax.plot(shown["against_base"], shown.index, "o", color="#0173b2")
    for y, row in enumerate(shown.itertuples()):
        ax.annotate(f"  {row.errors} errors, x{row.seconds_ratio:.1f} time", (row.high, y), va="center", fontsize=8)
    ax.set_yticks(shown.index, shown["variant"])
    ax.invert_yaxis()
    ax.margins(x=0.35)
    ax.set(xlabel=f"validation loss less that of the base (nats, {VAL:,} images), 95 % bootstrap interval")
    return drawing


if __name__ == "__main__":
    main()
