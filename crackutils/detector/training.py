"""Train the detector on labelled images and photos with masks, then fit its last layer."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import models, provenance
from crackutils.config import ENGINES, keras, tf
from crackutils.datasets import Dataset
from crackutils.detector.data import CENTRED, CROP, GRID, SOMEWHERE, Labelled, count_training, make_batch
from crackutils.detector.head import PENALTIES, fit_head
from crackutils.detector.network import build_detector, hash_weights, output_engine
from crackutils.files import write_atomically
from crackutils.images import resize
from crackutils.inference.features import cached_outputs
from crackutils.linear import class_weights
from crackutils.stages import Recipe
from crackutils.synthetic.scene import PATCH
from crackutils.synthetic.store import Photos, Store
from crackutils.training import Trained, split_rows

CHUNK = 100  # steps between two checkpoints
_WARM_UP = 50  # steps
_SMALL = (1e1, 3.0)  # penalties for thousands of images, too weak for a few tiles of a site


def pixel_loss(y: Any, z: Any) -> Any:
    """Return the loss of pixels, (n,): cross-entropy, plus one minus the soft Dice of images with a crack.

    Takes targets as `data` makes them and logits, both (n, size, size, 1). Dice: Milletari, Navab, Ahmadi 2016.
    """
    y, z = (tf.reshape(part, (-1, CROP * CROP)) for part in (y, z))
    known, crack = tf.cast(y > -0.5, tf.float32), tf.cast(y > 0.5, tf.float32)
    entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(crack, z) * known * (1 + crack), 1)
    p, count = tf.sigmoid(z) * known, tf.reduce_sum(crack, 1)
    dice = 1 - (2 * tf.reduce_sum(p * crack, 1) + 1) / (tf.reduce_sum(p, 1) + count + 1)
    return 4 * entropy + 0.5 * dice * tf.cast(count > 0, tf.float32)


def kind_loss(y: Any, z: Any) -> Any:
    """Return the cross-entropy of the known joints and lines, (n,); both are (n, size / 2, size / 2, 2)."""
    kind, known = tf.cast(y > 0.5, tf.float32), tf.cast(y > -0.5, tf.float32)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(kind, z) * known * (1 + kind), (1, 2, 3))


def cell_loss(share: float) -> Any:
    """Return a loss for maps of logits: cross-entropy of the known cells, plus that of the image by its top cells.

    The second part is multiple-instance learning: an image is cracked if some of its cells are (Dietterich, Lathrop,
    Lozano-Perez 1997). The loss takes targets as `data` makes them and logits, both (n, 14, 14, 1), and returns (n,).
    """
    top = models.top_count(share, GRID**2)

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
    ds: Dataset | None,
    manifest: pd.DataFrame | None,
    masked: Sequence[tuple[Photos, float]],
    folder: Path,
    seed: int,
    weights: str,
    steps: int,
    before: Any = None,
) -> Trained:
    """Train all layers but BatchNorm on the train part of a split and on photos with masks, with warm-up and decay.

    A checkpoint is saved in `folder` every 100 steps; after a kill, the same call continues and gives the same bytes.
    The weights are those after the last of `steps` batches; validation chooses nothing. `manifest` is as `make_split`
    returns it, `weights` one of `config.WEIGHTS`. `masked` are photos, each with its share of a batch; without them,
    only labels are learnt; without `ds`, only masks, whose shares add up to 1. `seed` draws batches and first weights.
    `before` is a detector to continue from. Raises CrackutilsError for a part of the split without images, and for a
    single class in training.
    """
    labelled, known = (None, []) if ds is None else _labelled(ds, manifest)
    net, model, fresh = _compiled(recipe, weights, seed, steps)
    model.set_weights(fresh if before is None else before.get_weights())
    start = {"weights": "a detector", "file": "", "sha256": hash_weights(model)}
    start = models.weights_facts(recipe.backbone, CROP, weights) if before is None else start
    # everything that the bytes of a checkpoint depend on
    parts = [recipe.as_dict(), *known]
    for photos, share in masked:
        digest = hashlib.sha256()
        for picture in chain(photos.images, photos.targets):  # one at a time in memory
            digest.update(np.ascontiguousarray(picture))
        parts.append([digest.hexdigest(), share])
    parts += [seed, start["weights"], start["sha256"], steps, provenance.code_hash(), provenance.versions()]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def batches(first: int, last: int) -> Any:
        spec = {"pixels": (CROP, CROP, 1), "kinds": (CROP // 2, CROP // 2, 2), "cells": (GRID, GRID, 1)}
        spec = {name: tf.TensorSpec((None, *shape), tf.float32) for name, shape in spec.items()}
        made = (make_batch(recipe.batch, labelled, masked, (seed, step)) for step in range(first, last))
        images = tf.TensorSpec((None, CROP, CROP, 3), tf.uint8)  # a quarter of the memory while they wait
        waiting = tf.data.Dataset.from_generator(lambda: made, output_signature=(images, spec)).prefetch(2)
        (options := tf.data.Options()).autotune.enabled = False  # as in `make_batches`
        return waiting.map(lambda x, y: (tf.cast(x, tf.float32), y)).with_options(options)

    for variable in net.optimizer.variables:  # of an earlier training
        variable.assign(tf.zeros_like(variable))
    chunks = _fit_chunks(net, batches, folder, key, steps)
    whole = build_detector(recipe, weights, seed, load=False)
    whole.set_weights(model.get_weights())
    name, history = recipe.stages[0].name, chunks[["step", "loss"]]
    stages = [{"name": name, "steps": steps, "loss": history["loss"].iloc[-1], "kept": True}]
    return Trained(whole, start, history, stages, {name: chunks["seconds"].sum()})


def _labelled(ds: Dataset, manifest: pd.DataFrame) -> tuple[Labelled, list[str]]:
    """Return the training images of a split, both classes equally often, and what identifies them."""
    labels = ds.index["label"].to_numpy()
    rows = split_rows(manifest, labels)["train"]
    rare = class_weights(labels[rows])
    odds = np.vectorize(rare.get)(labels[rows]) / len(rows) if rare else None
    read = lru_cache(512)(partial(ds.read, size=PATCH))  # large pictures decode slowly; 512 of this size take 80 MB
    labelled = Labelled(read, labels, rows, ds.profile.source in CENTRED, odds)
    return labelled, [ds.sha256, "".join(manifest["label"].astype(str) + manifest["split"])]


@lru_cache(1)
def _compiled(recipe: Recipe, weights: str, seed: int, steps: int) -> tuple[Any, Any, list[np.ndarray]]:
    """Return a network to train, the detector that shares its layers, and its first weights; slow, hence cached."""
    model = build_detector(replace(recipe, size=CROP), weights, seed)
    fresh = model.get_weights()
    trunk, top, warm = models.backbone_of(model), recipe.stages[0].learning_rate, min(_WARM_UP, steps // 2)
    models.unfreeze_top(trunk, len(trunk.layers))
    losses = {"pixels": pixel_loss, "kinds": kind_loss, "cells": cell_loss(recipe.cells)}
    net = keras.Model(model.input, {name: model.get_layer(name).output for name in losses})
    decay = {"alpha": 0.01, "warmup_target": top, "warmup_steps": warm}
    rate = keras.optimizers.schedules.CosineDecay(top / 20, max(steps - warm, 1), **decay)
    net.compile(keras.optimizers.Adam(rate, clipnorm=1.0), losses)
    net.optimizer.build(net.trainable_variables)  # so that a checkpoint can be loaded
    return net, model, fresh


def fit_last_layer(
    trained: Trained,
    recipe: Recipe,
    ds: Dataset,
    manifest: pd.DataFrame,
    patches: Store,
    folder: Path,
    seed: int,
    most: int | None = None,
) -> dict[str, Any]:
    """Fit the last layer of a trained network to training images and to patches with masks.

    Before this, only the mean of the top cells decides, which transfers to other cameras. The features separate
    scratches from cracks in-domain. Validation images, and patches of other photos, choose the penalty. The arguments
    are those of `train_detector`, whose result is `trained`; `seed` draws `most` images, by default twice `budget.few`,
    and at most `budget.few` patches; features are cached in `folder`. Returns penalty (None for infinity), images and
    patches.
    """
    net, weights = output_engine(trained.model, "features", ENGINES[0]), hash_weights(trained.model)
    rng, first, few = np.random.default_rng(seed), count_training(patches), ds.profile.budget.few
    masked = {"train": np.arange(first)[:few], "val": np.arange(first, len(patches.images))[: few // 4]}
    most, x, y = most or 2 * few, {}, {}
    for part, limit in (("train", most), ("val", most // 4)):
        rows = np.sort(rng.permutation(np.flatnonzero(manifest["split"] == part))[:limit])
        many = rows.tolist(), masked[part].tolist()
        images = cached_outputs(
            folder, f"images, {part}", (weights, ds.sha256), net, many[0], lambda row: ds.read(row, recipe.size)
        )
        key, read = (weights, ds.profile.cells), lambda k: resize(patches.images[k], recipe.size)
        x[part] = np.concatenate([images, cached_outputs(folder, f"patches, {part}", key, net, many[1], read)])
        y[part] = np.append(ds.index["label"].to_numpy()[rows], patches.facts["label"].to_numpy()[masked[part]])
    held, penalties = (x["val"], y["val"]), (*PENALTIES, *_SMALL)
    kernel, bias, penalty = fit_head(x["train"], y["train"], seed=seed, held=held, penalties=penalties)
    trained.model.get_layer("p_crack").set_weights([kernel[:, None].astype(np.float32), np.float32([bias])])
    _compiled.cache_clear()  # the last training is over; its graph holds 100 MB
    count = len(masked["train"])
    return {"penalty": penalty if np.isfinite(penalty) else None, "images": len(y["train"]) - count, "patches": count}


def _fit_chunks(net: Any, batches: Callable[[int, int], Any], folder: Path, key: str, steps: int) -> pd.DataFrame:
    """Fit until `steps`, from the last checkpoint with the same key; return a row per chunk: step, loss, seconds."""
    file = folder / "done.json"
    record = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if record.get("key") == key:
        done = record["steps"][-1]["step"]
        net.load_weights(folder / f"step-{done}.weights.h5")
        print(f"continuing after step {done:,} of {steps:,}")
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
