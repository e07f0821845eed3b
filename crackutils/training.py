"""Train a recipe stage by stage, go on after a kill, save and load."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets, models, provenance
from crackutils.batches import make_batches, predict
from crackutils.files import write_atomically
from crackutils.inference.features import Features, frozen_features
from crackutils.linear import LinearHead, fit_linear_head
from crackutils.metrics import score_predictions, wilson
from crackutils.models import keras
from crackutils.recipes import Recipe, Stage
from crackutils.runs import Run, read_recipe
from crackutils.slices import measure_images


@dataclass
class Trained:
    """What training leaves.

    Attributes:
        model: the keras.Model with the best weights.
        loaded: which weights it started from.
        history: a row per epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate.
        stages: per stage name, epochs run, best_epoch, best_val_loss, kept (whether validation got better by it).
        before: metrics on the test images before any training.
        seconds: wall time per stage (of the run that trained it; of a linear head with that of its features).
        engine: what features were computed with; empty where none were.
    """

    model: Any
    loaded: dict[str, str]
    history: pd.DataFrame
    stages: list[dict[str, Any]]
    before: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)


def prepare(recipe: Recipe, ds: datasets.Dataset, manifest: pd.DataFrame, run: Run) -> None:
    """Decode the images, or compute their features, before training, where progress may show."""
    if not recipe.on_features:
        ds.pixels(recipe.size)
    if recipe.linear:
        parts = ("train", "val", "test") if recipe.on_features else ("train", "val")
        rows = np.flatnonzero(manifest["split"].isin(parts))
        _features(recipe, ds, rows, run.settings["weights"], run.settings["engine"])
    measure_images(ds)  # for the slices in the metrics


def _features(recipe: Recipe, ds: datasets.Dataset, rows: np.ndarray, weights: str, engine: str) -> Features:
    return frozen_features(ds, rows, recipe.backbone, recipe.size, weights, engine)


def _predict(
    model: Any, recipe: Recipe, ds: datasets.Dataset, rows: np.ndarray, weights: str, engine: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return labels, crack probabilities and images per second, as `evaluate` explains them."""
    labels = ds.index["label"].to_numpy()
    if recipe.on_features:
        found = _features(recipe, ds, rows, weights, engine)
        kernel, bias = model.get_layer("p_crack").get_weights()
        return labels[rows], LinearHead(kernel[:, 0], float(bias[0])).chances(found.x), found.rate
    began = time.perf_counter()
    data = make_batches(ds.pixels(recipe.size), labels, rows, 64)
    return *predict(model, data, recipe.flips), len(rows) / (time.perf_counter() - began)


def train(recipe: Recipe, ds: datasets.Dataset, manifest: pd.DataFrame, run: Run, seed: int, weights: str) -> Trained:
    """Train a recipe on the train part, watching the val part; the test part is only scored before training.

    Each finished stage is kept in `run.folder/checkpoints`; after a kill the same call goes on from the last one. A
    stage always starts from a newly built model and the weights file of the stage before, so that an interrupted run
    and an uninterrupted one end with the same bytes. A stage that does not lower the validation loss is dropped.

    Args:
        recipe: what to train.
        ds: the images.
        manifest: as `splits.make` returns it.
        run: where checkpoints and TensorBoard logs go.
        seed: of initial weights, dropout, augmentation and shuffling.
        weights: what the backbone starts from, one of `config.WEIGHTS`.
    """
    labels = ds.index["label"].to_numpy()
    part = {name: np.flatnonzero(manifest["split"] == name) for name in ("train", "val", "test")}
    if empty := [name for name, rows in part.items() if not len(rows)]:
        raise config.CrackutilsError(
            f"The split leaves no image for {' and '.join(empty)}: {len(labels)} images are too few."
        )
    model, loaded = models.build(recipe, weights, seed)
    base = models.backbone_of(model)
    images = None if recipe.on_features else ds.pixels(recipe.size)
    if base is not None and weights == "random":
        few = np.random.default_rng(seed).permutation(part["train"])[:128]
        scale, offset = models.BACKBONES[recipe.backbone].rescaling or (1, 0)
        models.settle(base, images[np.sort(few)].astype(np.float32) * scale + offset)
    engine = run.settings.get("engine", "")
    before = score_predictions(*_predict(model, recipe, ds, part["test"], weights, engine)[:2])
    before = {name: value for name, value in before.items() if name not in ("brier", "ece")}  # of chance, not of trust
    fitted = {name: _features(recipe, ds, part[name], weights, engine) for name in ("train", "val") if recipe.linear}
    facts = fitted["train"].facts if fitted else {}
    folder = run.checkpoints()
    key = _key(recipe, ds, manifest, seed, loaded, facts)
    folder.mkdir(parents=True, exist_ok=True)
    start = _save(model, folder / f"start-{key[:12]}.weights.h5")
    rows: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    best = math.inf
    for number, stage in enumerate(recipe.stages, 1):
        record = folder / f"stage-{number}.json"
        kept = json.loads(record.read_text("utf-8")) if record.exists() else {}
        if kept.get("key") == key:
            print(f"stage {stage.name}: finished before, taken from its checkpoint")
        else:
            what = "iterations" if stage.optimizer == "L-BFGS" else "epochs"
            print(f"stage {stage.name}: up to {stage.epochs:,} {what}, {len(part['train']):,} images each")
            began = time.perf_counter()
            record.unlink(missing_ok=True)  # of other settings: a kill must not leave it beside the new weights
            if stage.optimizer == "L-BFGS":
                kept = _linear_head(model, stage, fitted, labels, part)
                began -= sum(found.seconds.sum() for found in fitted.values())
            else:
                model, kept = _stage(recipe, stage, number, start, images, labels, part, run, seed, weights)
            kept["better"] = kept["best_val_loss"] < best
            _save(model, folder / f"stage-{number}.weights.h5")
            kept |= {"key": key, "seconds": time.perf_counter() - began}
            write_atomically(record, json.dumps(kept))
        rows += kept["history"]
        seconds[stage.name] = kept["seconds"]
        done.append(
            {"name": stage.name, "epochs": len(kept["history"])}
            | {k: kept[k] for k in ("C", "best_epoch", "best_val_loss") if k in kept}
            | {"kept": kept["better"]}
        )
        if kept["better"]:
            best, start = kept["best_val_loss"], folder / f"stage-{number}.weights.h5"
        else:
            print(f"stage {stage.name}: validation loss did not get better; its weights are dropped")
    model, _ = models.build(recipe, weights, seed, load=False)
    model.load_weights(start)
    _trainable_as_trained(model, recipe, {stage["name"] for stage in done if stage["kept"]})
    return Trained(model, loaded, pd.DataFrame(rows), done, before, seconds, facts)


def _trainable_as_trained(model: Any, recipe: Recipe, kept: set[str]) -> None:
    """Set `trainable` so that parameter counts speak of what was trained in the stages that were kept."""
    base = models.backbone_of(model)
    if base is not None:
        models.unfreeze_top(base, max((stage.unfreeze for stage in recipe.stages if stage.name in kept), default=0))


def _stage(
    recipe: Recipe,
    stage: Stage,
    number: int,
    start: Path,
    images: np.ndarray,
    labels: np.ndarray,
    part: dict[str, np.ndarray],
    run: Run,
    seed: int,
    weights: str,
) -> tuple[Any, dict[str, Any]]:
    model, _ = models.build(recipe, weights, seed + number, load=False)
    model.load_weights(start)
    base = models.backbone_of(model)
    if base is not None:
        models.unfreeze_top(base, stage.unfreeze)
    steps = math.ceil(len(part["train"]) / recipe.batch) * stage.epochs
    rate = keras.optimizers.schedules.CosineDecay(stage.learning_rate, steps) if stage.decay else stage.learning_rate
    averaging = {"use_ema": True, "ema_momentum": recipe.averaging} if recipe.averaging else {}
    if recipe.units == 1:
        loss = keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing)
        accuracy = keras.metrics.BinaryAccuracy
    else:
        loss, accuracy = keras.losses.SparseCategoricalCrossentropy(), keras.metrics.SparseCategoricalAccuracy
    model.compile(
        getattr(keras.optimizers, stage.optimizer)(rate, **averaging),
        loss,
        metrics=[accuracy(name="accuracy")],
    )
    log = run.folder / "tensorboard" / f"{number}-{stage.name}"
    shutil.rmtree(log, ignore_errors=True)  # of a run that was killed
    fitted = model.fit(
        make_batches(images, labels, part["train"], recipe.batch, seed + number),
        validation_data=make_batches(images, labels, part["val"], 64),
        epochs=stage.epochs,
        shuffle=False,  # the batches are shuffled already; Keras warns otherwise
        verbose=2,
        callbacks=[
            # validation, and what early stopping keeps, see the averaged weights
            *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if recipe.averaging else []),
            keras.callbacks.EarlyStopping("val_loss", patience=recipe.patience, restore_best_weights=True),
            keras.callbacks.TensorBoard(log, write_graph=False),
        ],
    )
    epochs = range(len(fitted.epoch))
    history = [
        {"stage": stage.name, "epoch": e + 1}
        | {name: round(float(fitted.history[name][e]), 6) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        | {"learning_rate": round(_learning_rate(stage, e + 1), 9)}
        for e in epochs
    ]
    best = min(epochs, key=lambda e: fitted.history["val_loss"][e])
    return model, {
        "history": history,
        "best_epoch": best + 1,
        "best_val_loss": history[best]["val_loss"],
    }


def _linear_head(
    model: Any, stage: Stage, fitted: dict[str, Features], labels: np.ndarray, part: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Fit the last layer of a model on features; the history has a row for each strength of the penalty."""
    train, val = ((fitted[name].x, labels[part[name]]) for name in ("train", "val"))
    head = fit_linear_head(*train, *val, stage.epochs)
    model.get_layer("p_crack").set_weights([head.weights[:, None], np.float32([head.bias])])
    rows = head.tried.to_dict("records")
    return {
        "history": [{"stage": stage.name, "epoch": i + 1} | row for i, row in enumerate(rows)],
        "best_epoch": head.best + 1,
        "best_val_loss": rows[head.best]["val_loss"],
        "C": rows[head.best]["C"],
    }


def _learning_rate(stage: Stage, epoch: int) -> float:
    """Return what the learning rate is after an epoch, counted from 1."""
    return stage.learning_rate * ((1 + math.cos(math.pi * epoch / stage.epochs)) / 2 if stage.decay else 1)


def _save(model: Any, file: Path) -> Path:
    """Save weights so that a kill leaves the old file or the whole new one."""
    part = file.with_name(f"part-{file.name}")
    model.save_weights(part)
    os.replace(part, file)
    return file


def _key(
    recipe: Recipe,
    ds: datasets.Dataset,
    manifest: pd.DataFrame,
    seed: int,
    loaded: dict[str, str],
    engine: dict[str, Any],
) -> str:
    """Everything that the bytes of a checkpoint depend on."""
    rows = "".join(manifest["label"].astype(str) + manifest["split"])
    parts = [recipe.as_dict(), ds.sha256, rows, seed, loaded["weights"], loaded["sha256"]]
    parts += [engine, keras.config.dtype_policy().name]
    parts += [provenance.code_hash(), provenance.versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def evaluate(
    trained: Trained, recipe: Recipe, ds: datasets.Dataset, manifest: pd.DataFrame
) -> tuple[pd.DataFrame, float]:
    """Predict every val and test image once, in file order.

    Returns:
        The predictions (file, split, label, p_crack float32), and images per second: for a recipe on features those of
        computing them, decoding included; else those of the network alone, decoding not counted.
    """
    rows = np.flatnonzero(manifest["split"].isin(["val", "test"]))
    truth, chance, rate = _predict(
        trained.model, recipe, ds, rows, trained.loaded["weights"], trained.engine.get("engine", "")
    )
    table = manifest.loc[rows, ["file", "split"]].reset_index(drop=True)
    return table.assign(label=truth, p_crack=chance), rate


def save(trained: Trained, run: Run, card: str) -> dict[str, int]:
    """Save the model into `run.folder/model`: weights, a .keras file, a table of its layers and a model card.

    Returns the sizes in bytes of the first two.

    The weights load in any Keras 3 through `load`; a .keras file loads only in the Keras that wrote it, or a later one.
    """
    folder = run.folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    _save(trained.model, folder / "model.weights.h5")
    trained.model.save(folder / "model.keras")
    write_atomically(folder / "summary.txt", models.layer_table(trained.model) + "\n")
    write_atomically(folder / "README.md", card)
    return {name: (folder / name).stat().st_size for name in ("model.weights.h5", "model.keras")}


def load(folder: str | Path) -> tuple[Any, Recipe]:
    """Build the model of a finished run and load its weights; it computes in float32, however it was trained.

    Args:
        folder: a run folder, for example results/metu-half/03_transfer_learning/mobilenetv2.

    Raises:
        CrackutilsError: the folder holds no finished run.
    """
    folder = Path(folder)
    recipe, weights = read_recipe(folder)
    with models.in_float32():
        model, _ = models.build(recipe, weights, config.DEFAULT_SEED, load=False)
    try:
        model.load_weights(folder / "model" / "model.weights.h5")
    except (OSError, ValueError) as error:
        raise config.CrackutilsError(f"{folder / 'model'} holds no usable model.weights.h5 ({error}).") from error
    return model, recipe


def describe_stages(stages: list[dict[str, Any]]) -> str:
    """Return in words what validation chose in each stage of `Trained.stages`."""
    said = []
    for stage in stages:
        what = f"penalty C = {stage['C']:g}," if "C" in stage else "epoch"
        dropped = "" if stage["kept"] else " (dropped)"
        said.append(f"{stage['name']}: {what} {stage['best_epoch']} of {stage['epochs']}{dropped}")
    return "; ".join(said)


def model_card(recipe: Recipe, run: Run, test: dict[str, Any], trained: Trained) -> str:
    """Return the model card: what the model is, how it was trained, how it did, where it should not be used."""
    low, high = wilson(test["n"] - test["errors"], test["n"])
    stages = "; ".join(
        f"{s['name']} {s['epochs']} {'penalties' if 'C' in s else 'epochs'}{'' if s['kept'] else ' (dropped)'}"
        for s in trained.stages
    )
    size = models.describe_model(trained.model)
    setting = run.settings
    return f"""# {recipe.title}

- Task: does a square concrete patch show a crack?
- Input: RGB {recipe.size}x{recipe.size}, values 0-255. Output: probability of `{config.CLASSES[1]}`.
- Recipe `{recipe.name}`, profile `{setting["profile"]}`, split `{setting["split"]}` (seed {setting["split_seed"]}),
  training seed {setting["seed"]}, {size["parameters"]:,} parameters.
- Started from {trained.loaded["weights"]} weights; {stages}.
- Test: {test["errors"]} errors in {test["n"]:,} images, accuracy {test["accuracy"]:.4f}
  (95 % Wilson interval {low:.4f} to {high:.4f}).
- Load: `crackutils.training.load("<this run's folder>")` builds the network and reads `model.weights.h5`.
- Limits: trained on close, sharp patches with the crack in the middle. On other people's concrete, thin cracks, whole
  photos or other cameras expect far more errors.
"""
