"""Train a network that tells where the crack is, on images of which only the label is known and on exact masks."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets, models, provenance, training
from crackutils.detector.data import _CENTRED, _GRID, CROP, SOMEWHERE, make_batch
from crackutils.detector.pooling import top_count
from crackutils.files import write_atomically
from crackutils.models import keras, tf
from crackutils.recipes import Recipe
from crackutils.synthetic.scene import PATCH
from crackutils.synthetic.store import Store

_CHUNK = 100  # steps between two checkpoints
_WARM_UP = 50  # steps


def cell_loss(share: float) -> Any:
    """Return a loss for maps of log-odds: cross-entropy of the known cells, and of the image by its top cells.

    The second part is multiple-instance learning: an image is cracked where some of its cells are (Dietterich, Lathrop,
    Lozano-Perez 1997).
    """
    top = top_count(share, _GRID**2)

    def of(y: Any, z: Any) -> Any:
        y, z = (tf.reshape(part, (-1, _GRID**2)) for part in (y, z))
        crack, known = tf.cast(y > 0.5, tf.float32), tf.cast(y > -0.5, tf.float32)
        cell = tf.nn.sigmoid_cross_entropy_with_logits(crack, z) * known * (1 + 2 * crack)  # few cells are cracked
        count, somewhere = tf.reduce_sum(crack, 1), tf.reduce_all(y == SOMEWHERE, 1)
        cracked = tf.logical_or(somewhere, count >= top)
        free = tf.reduce_all(y == 0.0, 1)
        image = tf.nn.sigmoid_cross_entropy_with_logits(
            tf.cast(cracked, tf.float32), tf.reduce_mean(tf.math.top_k(z, top)[0], 1)
        )
        return tf.reduce_mean(cell, 1) + 0.5 * image * tf.cast(tf.logical_or(cracked, free), tf.float32)

    return of


def train_detector(
    recipe: Recipe,
    ds: datasets.Dataset,
    manifest: pd.DataFrame,
    kept: Store | None,
    folder: Path,
    seed: int,
    weights: str,
    steps: int,
) -> training.Trained:
    """Train all layers but BatchNorm on the train part of a split and on patches with masks.

    Every 100 steps are kept in `folder`; after a kill the same call goes on from them and ends with the same bytes.
    The weights are those of the last step: nothing is chosen by validation.

    Args:
        recipe: `recipes.CELLS`.
        ds: the images.
        manifest: as `splits.make` returns it.
        kept: patches with masks; None trains on labels alone.
        folder: for checkpoints.
        seed: of batches and initial weights.
        weights: what the backbone starts from, one of `config.WEIGHTS`.
        steps: batches to train on.
    """
    rows = np.flatnonzero(manifest["split"] == "train")
    labels = ds.index["label"].to_numpy()
    if empty := [name for name in ("train", "val", "test") if not (manifest["split"] == name).any()]:
        raise config.CrackutilsError(
            f"The split leaves no image for {' and '.join(empty)}: {len(labels)} images are too few."
        )
    if len(np.unique(labels[rows])) < 2:
        raise config.CrackutilsError("The training images are all of one class; a classifier needs both.")
    images = ds.pixels(PATCH)
    small = replace(recipe, size=CROP)
    model, loaded = models.build(small, weights, seed)
    trunk = models.backbone_of(model)
    models.unfreeze_top(trunk, len(trunk.layers))
    net = keras.Model(model.input, model.get_layer("cells").output)
    top = recipe.stages[0].learning_rate
    warm = min(_WARM_UP, steps // 2)
    decay = {"alpha": 0.01, "warmup_target": top, "warmup_steps": warm}
    rate = keras.optimizers.schedules.CosineDecay(top / 20, max(steps - warm, 1), **decay)
    net.compile(keras.optimizers.Adam(rate, clipnorm=1.0), cell_loss(recipe.cells))
    net.optimizer.build(net.trainable_variables)
    key = _key(recipe, ds, manifest, kept, seed, loaded, steps)
    record = folder / "done.json"
    done = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    if done.get("key") == key:
        net.load_weights(folder / f"step-{done['steps'][-1]['step']}.weights.h5")
        print(f"going on after step {done['steps'][-1]['step']:,} of {steps:,}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = {"key": key, "steps": []}
    while (at := done["steps"][-1]["step"] if done["steps"] else 0) < steps:
        began, until = time.perf_counter(), min(at + _CHUNK, steps)
        fitted = net.fit(
            _stream(recipe, images, labels, rows, kept, seed, range(at, until), ds.profile.source in _CENTRED),
            steps_per_epoch=until - at,
            shuffle=False,
            verbose=0,
        )
        found, spent = float(fitted.history["loss"][0]), time.perf_counter() - began
        net.save_weights(folder / f"step-{until}.weights.h5")  # the optimizer's state is in it
        done["steps"].append({"step": until, "loss": round(found, 5), "seconds": round(spent, 2)})
        write_atomically(record, json.dumps(done))
        (folder / f"step-{at}.weights.h5").unlink(missing_ok=True)
        left = spent / (until - at) * (steps - until)
        print(f"step {until:,} of {steps:,}: loss {found:.4f}, about {math.ceil(left / 60)} min left", flush=True)
    whole, _ = models.build(recipe, weights, seed, load=False)
    model.save_weights(folder / "final.weights.h5")
    whole.load_weights(folder / "final.weights.h5")
    history = pd.DataFrame(done["steps"])
    stage = {"name": recipe.stages[0].name, "steps": steps, "loss": done["steps"][-1]["loss"], "kept": True}
    return training.Trained(
        whole, loaded, history[["step", "loss"]], [stage], {}, {stage["name"]: history["seconds"].sum()}
    )


def _stream(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    kept: Store | None,
    seed: int,
    steps: range,
    centred: bool,
) -> Any:
    shapes = (tf.TensorSpec((None, CROP, CROP, 3), tf.float32), tf.TensorSpec((None, _GRID, _GRID, 1), tf.float32))
    made = (make_batch(recipe, images, labels, rows, kept, (seed, step), centred) for step in steps)
    return tf.data.Dataset.from_generator(lambda: made, output_signature=shapes).prefetch(4)


def _key(
    recipe: Recipe,
    ds: datasets.Dataset,
    manifest: pd.DataFrame,
    kept: Store | None,
    seed: int,
    loaded: dict[str, str],
    steps: int,
) -> str:
    rows = "".join(manifest["label"].astype(str) + manifest["split"])
    masks = hashlib.sha256(kept.masks).hexdigest() if kept is not None else ""
    parts = [recipe.as_dict(), ds.sha256, rows, masks, seed, loaded["weights"], loaded["sha256"], steps]
    parts += [provenance.code_hash(), provenance.versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
