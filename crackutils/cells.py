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

import cv2
import numpy as np
import pandas as pd

from crackutils import config, evaluation, models, pipelines, results, synthetic
from crackutils.config import CrackutilsError
from crackutils.datasets import Dataset, resize
from crackutils.models import keras
from crackutils.recipes import Recipe
from crackutils.training import Trained

tf = config.tensorflow()

CROP = 160  # side of the training images, pixels
SIDE = 224  # side of the kept patches with masks, pixels
EACH = 5  # patches of a class from one photo, at most
SEED = 555  # of the photos with masks; no profile has it
SOMEWHERE, UNKNOWN = -1.0, -2.0  # of cells: of an image with a crack that no mask shows; neither crack nor free of it
_STRIDE = 16  # pixels of a cell
_GRID = CROP // _STRIDE
_CHUNK = 100  # steps between two checkpoints
_WARM_UP = 50  # steps
_CENTRED = ("metu", "sample", "smoke")  # sources whose cracks run through the middle of the image
_VARIED = 0.35  # how probable each variation of a training image is
_DRAWN = 0.625  # share of a batch that has masks
_LAST = 6000  # training images, at most, that the last layer is fitted to, and half as many patches with masks


def photos(profile: config.Profile) -> synthetic.Store:
    """Return the patches with masks that a profile trains with: thin and faint cracks more than others."""
    return synthetic.store(SEED, profile.cells[1], EACH, SIDE, thin=True)


def trained_on(kept: synthetic.Store) -> int:
    """Return how many of the kept patches, in their order, are for training: those of nine photos in ten."""
    photo = kept.facts["photo"].to_numpy()
    each = np.unique(photo)
    return int(np.searchsorted(photo, each[int(0.9 * len(each))])) or len(photo)


def drawn(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a training image and its cells from a patch with its mask.

    Args:
        image: uint8 (224, 224, 3).
        mask: uint8 (56, 56), as in `synthetic.Store`.
        rng: chooses crop, turn, mirror image, light, sharpness and compression.

    Returns:
        uint8 (160, 160, 3), and float (10, 10): 1 crack, 0 none, `UNKNOWN` where it is between.
    """
    part = min(SIDE, int(CROP / np.exp(rng.uniform(np.log(0.8), np.log(1.4))))) // synthetic.CELL
    top, left = rng.integers(0, SIDE // synthetic.CELL - part + 1, 2)
    y, x, side = (v * synthetic.CELL for v in (top, left, part))
    how = cv2.INTER_AREA if side > CROP else cv2.INTER_CUBIC
    image = cv2.resize(image[y : y + side, x : x + side], (CROP, CROP), interpolation=how)
    fine = cv2.resize(mask[top : top + part, left : left + part], (_GRID * 4, _GRID * 4))
    most = fine.reshape(_GRID, 4, _GRID, 4).max((1, 3))
    cells = np.where(most > 100, 1.0, np.where(most < 20, 0.0, UNKNOWN))
    image, cells = _turned(rng, image, cells)
    return pipelines.vary(image, rng, pipelines.VARIATIONS[1:], _VARIED), cells


def labelled(image: np.ndarray, label: int, centred: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a training image and its cells from an image of which the label is all that is known.

    Images are cut, enlarged and shrunk in the same way whatever their label, so that neither size nor sharpness tells
    it. Only where cracks run through the middle can a cracked one be cut.

    Args:
        image: uint8 (side, side, 3).
        label: 0 or 1.
        centred: whether cracks of these images run through their middle.
        rng: as in `drawn`.

    Returns:
        As `drawn`; all cells are `SOMEWHERE`, or all 0.
    """
    side = len(image)
    part = int(rng.integers(round(0.625 * side), side + 1)) if centred and rng.random() < 0.7 else side
    place = rng.normal((side - part) / 2, 0.05 * side, 2) if label else rng.uniform(0, side - part, 2)
    y, x = np.clip(place, 0, side - part).astype(int)
    how = cv2.INTER_AREA if part > CROP else cv2.INTER_CUBIC
    image = cv2.resize(image[y : y + part, x : x + part], (CROP, CROP), interpolation=how)
    image, cells = _turned(rng, image, np.full((_GRID, _GRID), SOMEWHERE if label else 0.0))
    return pipelines.vary(image, rng, pipelines.VARIATIONS, _VARIED), cells


def _turned(rng: np.random.Generator, *maps: np.ndarray) -> list[np.ndarray]:
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    return [np.ascontiguousarray(np.rot90(m, turns)[:, ::-1] if flip else np.rot90(m, turns)) for m in maps]


def batch(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    kept: synthetic.Store | None,
    seed: Any,
    centred: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one training batch, the same for the same seed: float32 (n, 160, 160, 3) 0-255 and (n, 10, 10, 1) cells.

    Args:
        recipe: tells n.
        images: uint8 (all, side, side, 3), as `Dataset.pixels` gives them.
        labels: int (all,).
        rows: which of them are for training.
        kept: patches with masks, `_DRAWN` of the batch; None for none.
        seed: of this batch.
        centred: as in `labelled`.
    """
    rng = np.random.default_rng(seed)
    count = round(_DRAWN * recipe.batch) if kept is not None else 0
    chosen = rng.integers(0, trained_on(kept), count) if count else ()
    pairs = [drawn(kept.images[i], kept.masks[i], rng) for i in chosen]
    pairs += [labelled(images[i], int(labels[i]), centred, rng) for i in rng.choice(rows, recipe.batch - count)]
    x, cells = (np.stack(part).astype(np.float32) for part in zip(*pairs, strict=True))
    return x, cells[..., None]


def loss(share: float) -> Any:
    """Return a loss for maps of log-odds: cross-entropy of the known cells, and of the image by its top cells.

    The second part is multiple-instance learning: an image is cracked where some of its cells are (Dietterich, Lathrop,
    Lozano-Perez 1997).
    """
    top = evaluation.top_count(share, _GRID**2)

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


def train(
    recipe: Recipe,
    ds: Dataset,
    manifest: pd.DataFrame,
    kept: synthetic.Store | None,
    folder: Path,
    seed: int,
    weights: str,
    steps: int,
) -> Trained:
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
        raise CrackutilsError(f"The split leaves no image for {' and '.join(empty)}: {len(labels)} images are too few.")
    if len(np.unique(labels[rows])) < 2:
        raise CrackutilsError("The training images are all of one class; a classifier needs both.")
    images = ds.pixels(synthetic.PATCH)
    small = replace(recipe, size=CROP)
    model, loaded = models.build(small, weights, seed)
    trunk = models.backbone_of(model)
    models.unfreeze_top(trunk, len(trunk.layers))
    net = keras.Model(model.input, model.get_layer("cells").output)
    top = recipe.stages[0].learning_rate
    warm = min(_WARM_UP, steps // 2)
    decay = {"alpha": 0.01, "warmup_target": top, "warmup_steps": warm}
    rate = keras.optimizers.schedules.CosineDecay(top / 20, max(steps - warm, 1), **decay)
    net.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss(recipe.cells))
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
        config.write_atomically(record, json.dumps(done))
        (folder / f"step-{at}.weights.h5").unlink(missing_ok=True)
        left = spent / (until - at) * (steps - until)
        print(f"step {until:,} of {steps:,}: loss {found:.4f}, about {math.ceil(left / 60)} min left", flush=True)
    whole, _ = models.build(recipe, weights, seed, load=False)
    model.save_weights(folder / "final.weights.h5")
    whole.load_weights(folder / "final.weights.h5")
    history = pd.DataFrame(done["steps"])
    stage = {"name": recipe.stages[0].name, "steps": steps, "loss": done["steps"][-1]["loss"], "kept": True}
    return Trained(whole, loaded, history[["step", "loss"]], [stage], {}, {stage["name"]: history["seconds"].sum()})


def _stream(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    kept: synthetic.Store | None,
    seed: int,
    steps: range,
    centred: bool,
) -> Any:
    shapes = (tf.TensorSpec((None, CROP, CROP, 3), tf.float32), tf.TensorSpec((None, _GRID, _GRID, 1), tf.float32))
    made = (batch(recipe, images, labels, rows, kept, (seed, step), centred) for step in steps)
    return tf.data.Dataset.from_generator(lambda: made, output_signature=shapes).prefetch(4)


def _key(
    recipe: Recipe,
    ds: Dataset,
    manifest: pd.DataFrame,
    kept: synthetic.Store | None,
    seed: int,
    loaded: dict[str, str],
    steps: int,
) -> str:
    rows = "".join(manifest["label"].astype(str) + manifest["split"])
    masks = hashlib.sha256(kept.masks).hexdigest() if kept is not None else ""
    parts = [recipe.as_dict(), ds.sha256, rows, masks, seed, loaded["weights"], loaded["sha256"], steps]
    parts += [results.code_hash(), results.versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fit_last(
    trained: Trained,
    recipe: Recipe,
    ds: Dataset,
    manifest: pd.DataFrame,
    kept: synthetic.Store,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Fit the last layer of a trained network to training images and to patches with masks, from what it was.

    Before, the mean of the top cells decides, whatever the camera; what tells a scratch from a crack at home lies in
    the features. Validation images, and patches of photos that were not trained on, choose the penalty.

    Args:
        trained: as `train` returns it; its model's last layer is replaced.
        recipe: `recipes.CELLS`.
        ds: the images.
        manifest: as `splits.make` returns it.
        kept: patches with masks.
        folder: for features, which are found there after a kill.
        seed: of which images are taken.

    Returns:
        penalty, images, patches.
    """
    from crackutils.adaptation import fit_head

    net = keras.Model(trained.model.input, trained.model.get_layer("features").output)
    rng, labels, split = np.random.default_rng(seed), ds.index["label"].to_numpy(), manifest["split"]
    rows = {}
    for part, most in (("train", _LAST), ("val", _LAST // 4)):
        rows[part] = np.sort(rng.permutation(np.flatnonzero(split == part))[:most])
    made = np.arange(len(kept.images))
    patches = {"train": made[: trained_on(kept)][: _LAST // 2], "val": made[trained_on(kept) :][: _LAST // 8]}
    x, y = {}, {}
    for part in rows:
        kernel = b"".join(w.tobytes() for w in net.get_weights())
        key = hashlib.sha256(kernel + rows[part].tobytes() + ds.sha256.encode()).hexdigest()
        file = folder / f"last-{part}-{key[:12]}.npy"
        if not file.is_file():
            at_home = _seen(net, f"features, {part}", recipe.size, (lambda i: ds.read(i, recipe.size), rows[part]))
            by_code = _seen(net, f"patches, {part}", recipe.size, (lambda i: kept.images[i], patches[part]))
            config.save_array(file, np.concatenate([at_home, by_code]))
        x[part] = np.load(file)
        y[part] = np.concatenate([labels[rows[part]], kept.facts["label"].to_numpy()[patches[part]]])
    weights, bias, penalty = fit_head(x["train"], y["train"], held=(x["val"], y["val"]), seed=seed)
    trained.model.get_layer("p_crack").set_weights([weights[:, None].astype(np.float32), np.float32([bias])])
    told = float(penalty) if np.isfinite(penalty) else None
    return {"penalty": told, "images": len(rows["train"]), "patches": len(patches["train"])}


def _seen(net: Any, what: str, size: int, source: Any) -> np.ndarray:
    """Return the outputs of a network for images that a function reads by row; uint8 of any size."""
    read, rows = source
    found = []
    for begin in config.progress(range(0, len(rows), 32), what, unit="batch"):
        x = np.stack([resize(read(int(row)), size) for row in rows[begin : begin + 32]]).astype(np.float32)
        found.append(np.asarray(net.predict_on_batch(x)))
    return np.concatenate(found)


def maps(model: Any, ds: Dataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Return the cells' log-odds, float32 (n, size / 16, size / 16), of some images."""
    net = keras.Model(model.input, model.get_layer("cells").output)
    return _seen(net, f"cells at {size} px", size, (lambda row: ds.read(row, size), rows))[..., 0]
