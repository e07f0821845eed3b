"""Training in stages with checkpoints; saving and loading of models."""

import hashlib
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, models, provenance
from crackutils.batches import crack_probabilities, make_batches
from crackutils.config import CrackutilsError, keras
from crackutils.datasets import Dataset
from crackutils.files import explain_write_errors, render_template, write_atomically
from crackutils.linear import choose_penalty, class_weights
from crackutils.metrics import score_predictions, wilson
from crackutils.runs import Run, read_recipe
from crackutils.stages import SOLVERS, Recipe, Stage

# modules of the parts of a model, besides our own layers
_PARTS = ("keras.layers", "keras.src.models", "keras.regularizers", "keras.constraints", "keras.activations")
_MODELS = ("Functional", "Model", "Sequential", "__keras_tensor__")
_CODE = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")  # layers that run code from a file


@dataclass
class Trained:
    """The result of training."""

    model: Any  # the keras.Model with the best weights
    start: dict[str, str]  # its initial weights, as `models.weights_facts` returns it
    history: pd.DataFrame  # a row per epoch, or per penalty of a linear head: stage, epoch, and what `keep` takes
    stages: list[dict[str, Any]]  # of each name, epochs, best_epoch, best_val_loss, kept (val loss fell)
    seconds: dict[str, float] = field(default_factory=dict)  # wall time per stage, of the run that trained it


class Training:
    """The stages of one training run: a loop over `stages` compiles, fits, and passes the history to `keep`.

    Each finished stage is saved in `run.folder/checkpoints`. After a kill, the same loop continues with the next stage
    and gives the same bytes as an uninterrupted run. A stage that does not lower the validation loss is dropped: the
    model gets back its weights from before the stage.
    """

    def __init__(
        self, model: Any, recipe: Recipe, ds: Dataset, manifest: pd.DataFrame, run: Run, features: dict | None = None
    ) -> None:
        """Prepare the stages of a recipe.

        Rows "train" of the manifest are fitted, rows "val" choose, "test" is not used. Checkpoints and TensorBoard
        logs go into the run's folder; its settings contain seed and weights. `features` are the facts of the features
        that a linear head is fitted to. Raises CrackutilsError as `split_rows` does.
        """
        self.recipe, self.run = recipe, run
        # the same layers without an optimizer, whose state need not be saved
        self.model = keras.Model(model.inputs, model.outputs, name=model.name)
        self.labels = ds.index["label"].to_numpy()
        self.rows = split_rows(manifest, self.labels)
        self.class_weights = class_weights(self.labels[self.rows["train"]])
        self._images = None if recipe.linear else ds.pixels(recipe.size)
        self._seed = run.settings["seed"]
        self.start = models.weights_facts(recipe.backbone, recipe.size, run.settings["weights"])
        if recipe.backbone and run.settings["weights"] == "random":
            few = np.sort(np.random.default_rng(self._seed).permutation(self.rows["train"])[:128])
            scale, offset = models.BACKBONES[recipe.backbone].rescaling or (1, 0)
            models.settle(models.backbone_of(model), self._images[few].astype(np.float32) * scale + offset)
        # everything that the bytes of a checkpoint depend on
        parts = [recipe.as_dict(), ds.sha256, "".join(manifest["label"].astype(str) + manifest["split"]), self._seed]
        weights = [hashlib.sha256(values.tobytes()).hexdigest() for values in model.get_weights()]
        parts += [self.start, features or {}, _layers(model), weights]
        parts += [keras.config.dtype_policy().name, provenance.code_hash(), provenance.versions()]
        self._key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        self._folder = run.checkpoints()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._random = [(v, np.array(v)) for v in model.variables if v.path.endswith("seed_generator_state")]
        self._best = math.inf
        self._best_file = save_weights(self.model, self._folder / f"start-{self._key[:12]}.weights.h5")
        self._history: list[dict[str, Any]] = []
        self._done: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._number, self._record = 0, {}

    def stages(self) -> Iterator[Stage]:
        """Yield the stages that are still to be fitted, with the model prepared; call `keep` after each."""
        for number, stage in enumerate(self.recipe.stages, 1):
            self._number = number
            file, weights = (self._folder / f"stage-{number}.{ending}" for ending in ("json", "weights.h5"))
            self._record = json.loads(file.read_text("utf-8")) if file.exists() else {}
            if self._record.get("key") == self._key:
                print(f"stage {stage.name}: finished before, loaded from its checkpoint")
                self.model.load_weights(weights)
            else:
                what = "iterations" if stage.optimizer in SOLVERS else "epochs"
                print(f"stage {stage.name}: up to {stage.epochs:,} {what}, {len(self.rows['train']):,} images each")
                if self.class_weights:
                    print(describe_weights([*self.class_weights.values()]))
                file.unlink(missing_ok=True)  # of other settings; after a kill it must not lie beside new weights
                keras.utils.set_random_seed(self._seed + number)  # TensorFlow's shuffling depends on it
                for variable, first in self._random:
                    variable.assign(first + np.array([number, 0], first.dtype))
                self._record, began = {}, time.perf_counter()
                yield stage
                self._record |= {"key": self._key, "better": self._record["best_val_loss"] < self._best}
                self._record["seconds"] += time.perf_counter() - began
                save_weights(self.model, weights)
                write_atomically(file, json.dumps(self._record))
            self._accept(stage, weights)

    def batches(self) -> tuple[Any, Any]:
        """Return the batches of this stage: training images, shuffled by seed and stage, and validation images.

        If a class is rare, they also hold the weight of each image.
        """
        train = self.rows["train"], self.recipe.batch, self._seed + self._number
        val = self.rows["val"], 64, None
        return tuple(make_batches(self._images, self.labels, *part, self.class_weights) for part in (train, val))

    def callbacks(self, stage: Stage) -> list[Any]:
        """Return early stopping, which restores the best epoch's weights, and a log for TensorBoard."""
        log = self.run.folder / "tensorboard" / f"{self._number}-{stage.name}"
        shutil.rmtree(log, ignore_errors=True)  # of a run that was killed
        return [
            keras.callbacks.EarlyStopping("val_loss", patience=self.recipe.patience, restore_best_weights=True),
            keras.callbacks.TensorBoard(log, write_graph=False),
        ]

    def keep(self, stage: Stage, history: dict[str, list[float]], seconds: float = 0.0) -> None:
        """Record the history of a fitted stage.

        It has a list per column, as Keras's `History.history` or `LinearHead.tried.to_dict("list")`; `seconds` is the
        time that was spent before on the features of the stage.
        """
        losses = np.nan_to_num(history["val_loss"], nan=np.inf)  # a training that diverges keeps its best epoch
        best = choose_penalty(losses) if "C" in history else int(np.argmin(losses))
        rows = [dict(zip(history, values, strict=True)) for values in zip(*history.values(), strict=True)]
        if "C" not in history:
            names = ("loss", "accuracy", "val_loss", "val_accuracy")
            rate = [round(learning_rate(stage, epoch), 9) for epoch in range(1, len(rows) + 1)]
            rows = [{name: round(float(row[name]), 6) for name in names} for row in rows]
            rows = [row | {"learning_rate": left} for row, left in zip(rows, rate, strict=True)]
        epochs = [{"stage": stage.name, "epoch": epoch} | row for epoch, row in enumerate(rows, 1)]
        self._record = {"history": epochs, "best_epoch": best + 1, "best_val_loss": rows[best]["val_loss"]}
        self._record |= {"seconds": seconds} | ({"C": rows[best]["C"]} if "C" in history else {})

    def _accept(self, stage: Stage, weights: Path) -> None:
        record = self._record
        self._history += record["history"]
        self._seconds[stage.name] = record["seconds"]
        facts = {k: record[k] for k in ("C", "best_epoch", "best_val_loss") if k in record}
        epochs = {"name": stage.name, "epochs": len(record["history"])}
        weighted = {"class_weights": [*self.class_weights.values()]} if self.class_weights else {}
        self._done.append(epochs | facts | weighted | {"kept": record["better"]})
        if record["better"]:
            self._best, self._best_file = record["best_val_loss"], weights
        else:
            print(f"stage {stage.name}: validation loss did not improve; its weights are dropped")
            self.model.load_weights(self._best_file)

    def result(self) -> Trained:
        """Return model and records; its `trainable` layers are those that the accepted stages have trained."""
        base = models.backbone_of(self.model)
        if base is not None:
            layers = [stage.unfreeze for stage, row in zip(self.recipe.stages, self._done, strict=True) if row["kept"]]
            models.unfreeze_top(base, max(layers, default=0))
        return Trained(self.model, self.start, pd.DataFrame(self._history), self._done, self._seconds)


def _layers(model: Any) -> list[Any]:
    """Return class and settings of each layer, without names, whose numbers depend on models built before."""
    named = ("name", "layers", "input_layers", "output_layers")  # of a backbone: its weights are hashed besides
    settings = ({k: v for k, v in layer.get_config().items() if k not in named} for layer in model.layers)
    return [[type(layer).__name__, own] for layer, own in zip(model.layers, settings, strict=True)]


def split_rows(manifest: pd.DataFrame, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of train, val and test, int arrays.

    Raises CrackutilsError for a part without images, or training images of one class only.
    """
    rows = {part: np.flatnonzero(manifest["split"] == part) for part in ("train", "val", "test")}
    if empty := [part for part, some in rows.items() if not len(some)]:
        raise CrackutilsError(f"{len(labels)} images leave none for {' and '.join(empty)}. Use more images.")
    if len(np.unique(labels[rows["train"]])) < 2:
        raise CrackutilsError("The training images are all of one class. Add images of the other.")
    return rows


def learning_rate(stage: Stage, epoch: int) -> float:
    """Return the learning rate after an epoch, counted from 1."""
    return stage.learning_rate * ((1 + math.cos(math.pi * epoch / stage.epochs)) / 2 if stage.decay else 1)


def predict_rows(model: Any, ds: Dataset, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return crack probabilities, float32 (n,), of some images, and images per second (decoding not counted)."""
    images, began = ds.pixels(model.input_shape[1]), time.perf_counter()
    batches = make_batches(images, ds.index["label"].to_numpy(), rows, 64)
    found = np.concatenate([crack_probabilities(model, np.asarray(x)) for x, _ in batches])
    return found, len(rows) / (time.perf_counter() - began)


def score_untrained(labels: np.ndarray, p_crack: np.ndarray) -> dict[str, Any]:
    """Return the scores of a model before training, without brier and ece, which have no meaning there."""
    return {k: v for k, v in score_predictions(labels, p_crack).items() if k not in ("brier", "ece")}


def save_weights(model: Any, file: Path) -> Path:
    """Save weights; even after a kill the file is complete, old or new. CrackutilsError if the disk is full."""
    part = file.with_name(f"part-{file.name}")
    with explain_write_errors(file):
        _reserve(part, model)
        model.save_weights(part)
        os.replace(part, file)
    return file


def _reserve(file: Path, model: Any) -> None:
    """Raise OSError if the disk has no room for a model, because HDF5 crashes on a full disk."""
    try:
        file.write_bytes(os.urandom(4 * model.count_params() + 500_000))  # some disks compress zeros
    finally:
        file.unlink(missing_ok=True)


def save(model: Any, folder: Path, card: str) -> dict[str, int]:
    """Save a model into `folder/model`: weights, a .keras file, a table of its layers and a model card.

    Returns the sizes in bytes of the first two. `load` takes the architecture from the .keras file and the weights from
    the other, so it works in any Keras 3. The .keras file alone loads only in the Keras that wrote it, or a later one.
    """
    home = folder / "model"
    home.mkdir(parents=True, exist_ok=True)
    save_weights(model, home / "model.weights.h5")
    with explain_write_errors(home / "model.keras"):
        _reserve(home / "model.keras", model)
        model.save(home / "model.keras")
    write_atomically(home / "summary.txt", models.layer_table(model) + "\n")
    write_atomically(home / "README.md", card)
    return {name: (home / name).stat().st_size for name in ("model.weights.h5", "model.keras")}


def load(folder: str | Path) -> tuple[Any, Recipe]:
    """Build the model of a run folder and load its weights; it computes in float32, however it was trained.

    Raises CrackutilsError if the folder holds no finished run, or one that cannot be read.
    """
    folder = Path(folder)
    recipe, _ = read_recipe(folder)
    home = folder / "model"
    try:
        with zipfile.ZipFile(home / "model.keras") as parts:
            architecture = _portable(json.loads(parts.read("config.json")))
        from crackutils import layers  # noqa: F401  Keras finds only layers that are registered

        with models.in_float32():
            model = keras.saving.deserialize_keras_object(architecture)
        model.load_weights(home / "model.weights.h5")
    except (OSError, ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        why = f"no usable model.keras and model.weights.h5 ({str(error).strip().splitlines()[0][:200]})"
        raise CrackutilsError(f"{home} holds {why}. Run its notebook again with FORCE=1.") from error
    return model, recipe


def _portable(value: Any) -> Any:
    """Return an architecture without initial values, and without options that other versions of Keras refuse.

    Raises ValueError for parts that are not plain layers: a model from elsewhere must not run its own code.
    """
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = (value.get("module") or "", value.get("class_name"), str(value.get("registered_name")))
    known = named[0].startswith(_PARTS) or (named[0] in ("", "keras") and named[1] in _MODELS)
    if named[1] and not known and named[2] != "crackutils>_TopMean":
        raise ValueError(f"its part {named[0]}.{named[1]} is not one that this series uses")
    if named[1] in _CODE:
        raise ValueError(f"its layer {named[1]} contains code")
    dropped = ("build_config", "compile_config", "" if "keras_history" in value else "dtype")  # tensors need theirs
    if not value.get("renorm"):  # options unknown to Keras 3.8, at their defaults
        dropped += ("quantization_config", "renorm", "renorm_clipping", "renorm_momentum")
    return {k: _portable(v) for k, v in value.items() if k not in dropped and not k.endswith("_initializer")}


def describe_stages(stages: list[dict[str, Any]]) -> str:
    """Return as text the choice by validation in each stage of `Trained.stages`."""
    parts = []
    for stage in stages:
        what = f"penalty C = {stage['C']:g}, number" if "C" in stage else "epoch"
        dropped = "" if stage["kept"] else " (dropped)"
        parts.append(f"{stage['name']}: {what} {stage['best_epoch']} of {stage['epochs']}{dropped}")
    weighted = {describe_weights(stage["class_weights"]) for stage in stages if "class_weights" in stage}
    return ". ".join(["; ".join(parts), *weighted])


def describe_weights(weights: Sequence[float]) -> str:
    """Return as text the weight of a rare class in training; `weights` are those of `linear.class_weights`."""
    rare, times = config.CLASSES[int(np.argmax(weights))], max(weights) / min(weights)
    return f"{rare} is rare, so in training each of its images counted {times:,.0f} times; the threshold stays 0.5"


def model_card(recipe: Recipe, run: Run, test: dict[str, Any], trained: Trained) -> str:
    """Return the model card: task, training, test result and limits of the model."""
    facts = {"recipe": recipe, "settings": run.settings, "test": test, "trained": trained}
    facts |= {"wilson": wilson(test["n"] - test["errors"], test["n"]), "positive": config.CLASSES[1]}
    facts["weighted"] = next((describe_weights(s["class_weights"]) for s in trained.stages if "class_weights" in s), "")
    return render_template(config.PACKAGE / "card.md.j2", facts)
