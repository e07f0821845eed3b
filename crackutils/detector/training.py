"""Train the detector on images of which only the label is known and on patches with exact masks."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from crackutils import models, provenance, training
from crackutils.config import keras, tf
from crackutils.datasets import Dataset
from crackutils.detector.data import CENTRED, CROP, GRID, SOMEWHERE, make_batch
from crackutils.detector.network import build_detector
from crackutils.detector.pooling import top_count
from crackutils.files import write_atomically
from crackutils.stages import Recipe
from crackutils.synthetic.scene import PATCH
from crackutils.synthetic.store import Store

CHUNK = 100  # steps between two checkpoints
_WARM_UP = 50  # steps


def cell_loss(share: float) -> Any:
    """Return a loss for maps of logits: cross-entropy of the known cells, and of the image by its top cells.

    The second part is multiple-instance learning: an image is cracked where some of its cells are (Dietterich, Lathrop,
    Lozano-Perez 1997). The loss takes targets as `data` makes them and logits, both (n, 10, 10, 1), and returns (n,).
    """
    top = top_count(share, GRID**2)

    def loss(y: Any, z: Any) -> Any:
        y, z = (tf.reshape(part, (-1, GRID**2)) for part in (y, z))
        crack, known = tf.cast(y > 0.5, tf.float32), tf.cast(y > -0.5, tf.float32)
        cell = tf.nn.sigmoid_cross_entropy_with_logits(crack, z) * known * (1 + 2 * crack)  # few cells are cracked
        count, somewhere = tf.reduce_sum(crack, 1), tf.reduce_all(y == SOMEWHERE, 1)
        cracked, free = tf.logical_or(somewhere, count >= top), tf.reduce_all(y == 0.0, 1)
        mean = tf.reduce_mean(tf.math.top_k(z, top)[0], 1)
        image = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(cracked, tf.float32), mean)
        return tf.reduce_mean(cell, 1) + 0.5 * image * tf.cast(tf.logical_or(cracked, free), tf.float32)

    return loss


def train_detector(
    recipe: Recipe,
    ds: Dataset,
    manifest: pd.DataFrame,
    patches: Store | None,
    folder: Path,
    seed: int,
    weights: str,
    steps: int,
) -> training.Trained:
    """Train all layers but BatchNorm on the train part of a split and on patches with masks.

    Every 100 steps are saved in `folder`; after a kill the same call goes on from them and ends with the same bytes.
    The weights are those of the last step: nothing is chosen by validation.

    Args:
        recipe: `runs.DETECTOR`.
        ds: the images.
        manifest: as `make_split` returns it.
        patches: patches with masks; None trains on labels alone.
        folder: for checkpoints.
        seed: of batches and initial weights.
        weights: what the backbone starts from, one of `config.WEIGHTS`.
        steps: batches to train on.

    Raises:
        CrackutilsError: a part of the split without images, or training images of one class.
    """
    labels = ds.index["label"].to_numpy()
    rows, images = training.split_rows(manifest, labels)["train"], ds.pixels(PATCH)
    model = build_detector(replace(recipe, size=CROP), weights, seed)
    start = models.weights_facts(recipe.backbone, CROP, weights)
    # everything that the bytes of a checkpoint depend on
    split = "".join(manifest["label"].astype(str) + manifest["split"])
    masks = hashlib.sha256(patches.masks).hexdigest() if patches is not None else ""
    parts = [recipe.as_dict(), ds.sha256, split, masks, seed, start["weights"], start["sha256"], steps]
    parts += [provenance.code_hash(), provenance.versions()]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def batches(first: int, last: int) -> Any:
        shapes = [tf.TensorSpec((None, side, side, n), tf.float32) for side, n in ((CROP, 3), (GRID, 1))]
        fixed, centred = (recipe, images, labels, rows, patches), ds.profile.source in CENTRED
        made = (make_batch(*fixed, (seed, step), centred) for step in range(first, last))
        return tf.data.Dataset.from_generator(lambda: made, output_signature=tuple(shapes)).prefetch(4)

    chunks = _fit_chunks(_compile_cells(model, recipe, steps), batches, folder, key, steps)
    whole = build_detector(recipe, weights, seed, load=False)
    whole.set_weights(model.get_weights())
    name, loss = recipe.stages[0].name, chunks["loss"].iloc[-1]
    stages = [{"name": name, "steps": steps, "loss": loss, "kept": True}]
    return training.Trained(whole, start, chunks[["step", "loss"]], stages, {name: chunks["seconds"].sum()})


def _compile_cells(model: Any, recipe: Recipe, steps: int) -> Any:
    """Return the model up to its map, all layers but BatchNorm trainable, with warm-up and cosine decay."""
    trunk = models.backbone_of(model)
    models.unfreeze_top(trunk, len(trunk.layers))
    net = keras.Model(model.input, model.get_layer("cells").output)
    top, warm = recipe.stages[0].learning_rate, min(_WARM_UP, steps // 2)
    decay = {"alpha": 0.01, "warmup_target": top, "warmup_steps": warm}
    rate = keras.optimizers.schedules.CosineDecay(top / 20, max(steps - warm, 1), **decay)
    net.compile(keras.optimizers.Adam(rate, clipnorm=1.0), cell_loss(recipe.cells))
    net.optimizer.build(net.trainable_variables)  # so that a checkpoint can be loaded
    return net


def _fit_chunks(net: Any, batches: Callable[[int, int], Any], folder: Path, key: str, steps: int) -> pd.DataFrame:
    """Fit until `steps`, from the last checkpoint with the same key; return a row per chunk: step, loss, seconds."""
    file = folder / "done.json"
    record = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if record.get("key") == key:
        done = record["steps"][-1]["step"]
        net.load_weights(folder / f"step-{done}.weights.h5")
        print(f"going on after step {done:,} of {steps:,}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        record, done = {"key": key, "steps": []}, 0
    for begin in range(done, steps, CHUNK):
        began, end = time.perf_counter(), min(begin + CHUNK, steps)
        fitted = net.fit(batches(begin, end), steps_per_epoch=end - begin, shuffle=False, verbose=0)
        loss, seconds = float(fitted.history["loss"][0]), time.perf_counter() - began
        net.save_weights(folder / f"step-{end}.weights.h5")  # with the optimizer's state
        record["steps"].append({"step": end, "loss": round(loss, 5), "seconds": round(seconds, 2)})
        write_atomically(file, json.dumps(record))
        (folder / f"step-{begin}.weights.h5").unlink(missing_ok=True)
        left = math.ceil(seconds / (end - begin) * (steps - end) / 60)
        print(f"step {end:,} of {steps:,}: loss {loss:.4f}, about {left} min left", flush=True)
    return pd.DataFrame(record["steps"])
