"""The detector: its training examples, loss, training, last layer and saved runs."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from crackutils import config, datasets, models, training
from crackutils.config import keras, tf
from crackutils.detector import data
from crackutils.detector import training as detector_training
from crackutils.detector.data import (
    CROP,
    GRID,
    SIDE,
    SOMEWHERE,
    UNKNOWN,
    Labelled,
    labelled_example,
    make_batch,
    masked_example,
)
from crackutils.detector.network import CELL, build_detector, output_engine, top_mean
from crackutils.detector.runs import DETECTOR
from crackutils.detector.training import cell_loss, fit_last_layer, kind_loss, pixel_loss, train_detector
from crackutils.images import resize
from crackutils.inference.engines import run_stream
from crackutils.inspection.attention import attend, attention_on_cracks
from crackutils.stages import Recipe
from crackutils.synthetic import patches as synthetic
from crackutils.synthetic.scene import CRACK, JOINT, LINE, UNSURE
from crackutils.synthetic.store import Photos, Store, find_anchors
from tools.pretraining import Schedule

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
RECIPE = dataclasses.replace(DETECTOR, size=64, batch=4)
BRIGHT, DARK = 200, 30


def painted(seed: int = 0) -> Store:
    """Return 12 bright patches with thick dark lines, and their masks; the first shows none."""
    rng, masks = np.random.default_rng(seed), np.zeros((12, SIDE // 4, SIDE // 4), np.uint8)
    for mask in masks[1:]:
        for _ in range(2):
            at, begin, end = rng.integers(0, 54), rng.integers(0, 20), rng.integers(36, 56)
            (mask if rng.random() < 0.5 else mask.T)[at : at + 2, begin:end] = 255
    images = np.repeat(np.where(masks.repeat(4, 1).repeat(4, 2) > 0, DARK, BRIGHT).astype(np.uint8)[..., None], 3, 3)
    return Store(images, masks, pd.DataFrame({"photo": np.arange(12) // 2, "label": masks.any((1, 2)).astype(int)}))


def lined(seed: int = 0) -> Photos:
    """Return 6 bright photos with dark bands: cracks, unsure ones, joints and lines; the first shows none."""
    rng, targets = np.random.default_rng(seed), np.zeros((6, 400, 400), np.uint8)
    for target in targets[1:]:
        for value in (JOINT, LINE, UNSURE, CRACK, CRACK):
            at = rng.integers(0, 390)
            (target if rng.random() < 0.5 else target.T)[at : at + 6] = value
    images = np.repeat(np.where(targets == CRACK, DARK, BRIGHT).astype(np.uint8)[..., None], 3, 3)
    return Photos(images, targets, np.stack([find_anchors(target, rng) for target in targets]))


def ramp(side: int) -> np.ndarray:
    """Return an image whose red is its column and whose green is its row."""
    return np.stack([*np.mgrid[:side, :side][::-1], np.zeros((side, side))], 2).astype(np.uint8)


def crop_of(image: np.ndarray) -> tuple[float, float, float]:
    """Return side and middle (two coordinates) of the piece of a ramp that an image shows."""
    lows, highs = image[..., :2].min((0, 1)).astype(float), image[..., :2].max((0, 1)).astype(float)
    return (highs - lows + 1).mean(), *sorted((lows + highs) / 2)


@pytest.fixture
def plain(monkeypatch: Patch) -> Mock:
    """Switch the variations off; the mock knows what they were asked for."""
    monkeypatch.setattr("crackutils.detector.data.vary", vary := Mock(side_effect=lambda image, *_: image))
    return vary


def test_a_photo_and_its_mask_are_cropped_and_rotated_together(plain: Mock) -> None:
    photos, rng, counts = lined(), np.random.default_rng(3), np.zeros(3, int)
    for k in list(range(6)) * 8:
        image, found = masked_example(photos, k, rng)
        assert (image.shape, image.dtype) == ((CROP, CROP, 3), np.uint8)
        pixels, kinds, cells = (found[name] for name in ("pixels", "kinds", "cells"))
        assert {part.dtype for part in found.values()} == {np.dtype(np.float32)}
        assert (pixels.shape, kinds.shape, cells.shape) == ((CROP, CROP, 1), (112, 112, 2), (GRID, GRID, 1))
        grey = image[..., 1:2]
        assert (grey[pixels == 1] < 160).all() and (grey[pixels != 1] > 60).all()  # at most half a pixel off
        counts += [(pixels == v).sum() for v in (1, 0, UNKNOWN)]
        assert (kinds.any(2) & (pixels[::2, ::2, 0] == 1)).mean() < 0.01 and (k or not kinds.any())  # at their edges
        dark = (pixels[..., 0] == 1).reshape(GRID, CELL, GRID, CELL).sum((1, 3))
        assert (dark[cells[..., 0] == 1] >= 8).all() and not dark[cells[..., 0] == 0].any()
    assert counts[0] > 20_000 and counts[1] > 10 * counts[0] and counts[2] > 1000
    # a change of scale would move the mask
    assert {args[2:] for args, _ in plain.call_args_list} == {(data.VARIATIONS[1:], data.VARIED)}
    assert data.VARIATIONS[0] == "scale"


def test_photos_are_cropped_larger_and_smaller_half_of_them_on_a_crack_in_all_orientations(plain: Mock) -> None:
    rng, empty = np.random.default_rng(1), Photos([ramp(255)], [np.zeros((255, 255), np.uint8)], lined().anchors[:1])
    wide = np.zeros((2, 40_000), np.uint8)
    wide[:, -9:] = CRACK
    assert find_anchors(wide, rng)[0, :, 1].min() >= 39_991  # more than 16 bits
    found = np.array([crop_of(masked_example(empty, 0, rng)[0]) for _ in range(300)])
    assert 125 <= found[:, 0].min() < 145  # 224 / 1.7
    assert found[:, 0].max() > 250
    photos = lined()
    on = np.mean([(masked_example(photos, 1, rng)[1]["pixels"] == 1).any() for _ in range(60)])
    assert on > 0.6
    rng = np.random.default_rng(0)
    images = [labelled_example(ramp(CROP), 0, False, rng)[0] for _ in range(200)]
    ways = [(image[[0, 0, -1], [0, -1, 0], :2] > CROP // 2).tobytes() for image in images]
    assert len(set(ways)) == 8 and min(ways.count(way) for way in set(ways)) > 8
    assert all(image.flags.c_contiguous for image in images)


@pytest.mark.parametrize("centred", [True, False])
def test_images_without_a_mask_are_cropped_alike_whatever_their_label(centred: bool, plain: Mock) -> None:
    rng, side, boxes = np.random.default_rng(2), 227, []
    for label, value, pixel in ((0, 0.0, 0.0), (1, SOMEWHERE, UNKNOWN)):
        examples = [labelled_example(ramp(side), label, centred, rng) for _ in range(300)]
        for image, found in examples:
            assert (image.shape, image.dtype) == ((CROP, CROP, 3), np.uint8)
            assert (found["cells"] == value).all() and found["cells"].shape == (GRID, GRID, 1)
            assert (found["pixels"] == pixel).all() and (found["kinds"] == UNKNOWN).all()
        boxes.append(np.array([crop_of(image) for image, _ in examples]))
    assert {args[2:] for args, _ in plain.call_args_list} == {(data.VARIATIONS, data.VARIED)}
    if not centred:  # a crack in a corner must not be cut off
        assert min(found[:, 0].min() for found in boxes) > side - 4
        return
    for found in boxes:
        assert 0.625 * side - 4 <= found[:, 0].min() < 0.625 * side + 12
        assert 0.2 < (found[:, 0] > side - 3).mean() < 0.45
    sides = [np.sort(found[:, 0]) for found in boxes]
    assert np.abs(sides[0] - sides[1]).max() < 0.08 * side  # sharpness and size do not predict the label
    assert np.abs(boxes[1][:, 1:] - (side - 1) / 2).max() < 0.19 * side  # cracks are in the middle


def test_variations_reach_the_images() -> None:
    photos = Photos([np.full((300, 300, 3), 90, np.uint8)], [np.zeros((300, 300), np.uint8)], lined().anchors[:1])
    for make in (
        lambda rng: masked_example(photos, 0, rng),
        lambda rng: labelled_example(photos.images[0], 1, True, rng),
    ):
        one, two = (make(np.random.default_rng(k))[0].mean() for k in (0, 1))
        assert one != pytest.approx(two, abs=0.5)


def greys(rows: np.ndarray) -> Labelled:
    """Return 40 images that are as bright as their number."""
    return Labelled(lambda row: np.full((64, 64, 3), row, np.uint8), np.arange(40) % 3 % 2, rows, True)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("masked", [2, 0])
def test_part_of_a_batch_has_masks_and_the_rest_is_of_the_rows_that_were_asked_for(masked: int) -> None:
    labelled, photos, used, marked = greys(np.arange(5, 35)), lined(), set(), 0
    for seed in range(20):
        x, y = make_batch(4, labelled, [(photos, 0.5)] if masked else [], (1, seed))
        assert (x.shape, x.dtype, y["pixels"].shape) == ((4, CROP, CROP, 3), np.uint8, (4, CROP, CROP, 1))
        marked += (y["pixels"][:masked] == 1).sum()  # photos with masks come first
        assert (x[:masked].max((1, 2, 3)) > 150).all() and not (y["cells"][:masked] == SOMEWHERE).any()
        for image, cells in zip(x[masked:], y["cells"][masked:], strict=True):
            row = int(image[0, 0, 0])
            assert (image == row).all() and (cells == (SOMEWHERE if labelled.labels[row] else 0)).all()
            used.add(row)
    assert marked > 1000 or not masked
    assert used <= set(range(5, 35)) and len(used) > 15


def test_the_seed_decides_a_batch_and_nine_photos_in_ten_are_for_training() -> None:
    batches = [make_batch(4, greys(np.arange(40)), [(lined(), 0.5)], seed) for seed in ((7, 3), (7, 3), (7, 4), (8, 3))]
    first, again, *others = ([x.tobytes(), *(y[k].tobytes() for k in ("pixels", "kinds"))] for x, y in batches)
    assert again == first and all(other[0] != first[0] for other in others)
    for photos, count in (([0, 0, 1, 2, 2, 2], 3), ([*range(0, 40, 2)], 18), ([0] * 5 + [1] * 7 + [*range(2, 20)], 28)):
        found = data.count_training(dataclasses.replace(painted(), facts=pd.DataFrame({"photo": photos})))
        assert found == count and not set(photos[:found]) & set(photos[found:])


def test_the_photos_with_masks_belong_to_no_data_set(monkeypatch: Patch) -> None:
    monkeypatch.setattr("crackutils.detector.data.load_store", load := Mock())
    data.load_patches(config.profile("smoke"))
    load.assert_called_once_with(data.PHOTO_SEED, config.profile("smoke").cells[1], data.EACH, SIDE, thin=True)
    monkeypatch.setattr("crackutils.detector.data.load_photos", photos := Mock())
    data.draw_photos(config.profile("smoke"))
    photos.assert_called_once_with(data.PHOTO_SEED, config.profile("smoke").cells[1] // 4, 512)
    used = {entry["seed"] for entry in datasets.sources().values() if "seed" in entry}
    assert used and data.PHOTO_SEED not in used | {Schedule().seed}


@pytest.mark.parametrize("count", [1, 3, 5, 12, 40])  # of cracked cells; twelve of 196 decide
def test_the_loss_of_cells_is_that_computed_by_hand(count: int) -> None:
    softplus, n = partial(np.logaddexp, 0), GRID**2
    z, y = np.random.default_rng(0).normal(0, 2, (5, n)), np.zeros((5, n))
    y[1] = SOMEWHERE
    y[2:4, :count], y[2, count : count + 10] = 1, UNKNOWN
    y[4, :count] = UNKNOWN
    top = np.sort(z, 1)[:, -12:].mean(1)
    image = 0.5 * softplus(-top) * (count >= 12)
    expected = [
        softplus(z[0]).mean() + 0.5 * softplus(top[0]),
        0.5 * softplus(-top[1]),
        (3 * softplus(-z[2, :count]).sum() + softplus(z[2, count + 10 :]).sum()) / n + image[2],
        (3 * softplus(-z[3, :count]).sum() + softplus(z[3, count:]).sum()) / n + image[3],
        softplus(z[4, count:]).sum() / n,  # neither cracked nor free of cracks
    ]
    targets, maps = (tf.constant(part.reshape(5, GRID, GRID, 1), tf.float32) for part in (y, z))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        found = cell_loss(0.06)(targets, maps)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    free, somewhere = tape.gradient(found, maps).numpy().reshape(5, n)[:2]
    assert (free > 0).all() and ((somewhere < 0) == (z[1] >= np.sort(z[1])[-12])).all()  # the top cells are pulled up


def test_the_losses_of_pixels_and_kinds_are_those_computed_by_hand() -> None:
    softplus, rng = partial(np.logaddexp, 0), np.random.default_rng(0)
    z, y = rng.normal(0, 2, (3, CROP, CROP, 1)), rng.choice([0.0, 1.0, UNKNOWN], (3, CROP, CROP, 1), p=(0.8, 0.1, 0.1))
    y[1][y[1] == 1] = 0  # no crack: no Dice
    y[2] = UNKNOWN
    entropy = np.where(y == 1, 2 * softplus(-z), np.where(y == 0, softplus(z), 0)).mean((1, 2, 3))
    p = np.where(y == UNKNOWN, 0, 1 / (1 + np.exp(-z)))
    dice = 1 - (2 * p[0][y[0] == 1].sum() + 1) / (p[0].sum() + (y[0] == 1).sum() + 1)
    found = pixel_loss(*(tf.constant(part, tf.float32) for part in (y, z)))
    np.testing.assert_allclose(found, 4 * entropy + 0.5 * np.array([dice, 0, 0]), rtol=1e-4)
    np.testing.assert_allclose(kind_loss(*(tf.constant(part, tf.float32) for part in (y, z))), entropy, rtol=1e-4)


def test_maps_are_what_the_probability_is_made_of(smoke: datasets.Dataset) -> None:
    network = build_detector(dataclasses.replace(DETECTOR, size=96), "crackutils", 1)
    rows = np.random.default_rng(0).permutation(len(smoke.index))[:35]  # a whole batch and a part of one
    engine = output_engine(network, "cells", "litert")
    found = np.stack([flat for _, flat, _ in run_stream(engine, rows.tolist(), lambda row: smoke.read(row, 96))])
    assert (found.shape, found.dtype) == ((35, 36), np.float32)
    p = network.predict_on_batch(np.stack([smoke.read(row, 96) for row in rows]).astype(np.float32))[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-top_mean(found, DETECTOR.cells))), p, atol=1e-5)
    assert p.std() > 0.001


@pytest.fixture
def task(smoke: datasets.Dataset, monkeypatch: Patch) -> tuple[datasets.Dataset, pd.DataFrame, Any]:
    """Twenty of the smoke images, of which twelve are for training, and photos with masks."""
    monkeypatch.setattr("crackutils.provenance.code_hash", lambda: "code")
    rows = np.concatenate([np.flatnonzero(smoke.index["label"] == k)[:10] for k in (0, 1)])
    index = smoke.index.iloc[rows].reset_index(drop=True)
    split = np.array((["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 2)
    return dataclasses.replace(smoke, index=index), index[["file", "label"]].assign(split=split), [(lined(), 0.5)]


@pytest.fixture
def tiny(monkeypatch: Patch) -> None:
    """Train a network of few layers, which takes a second."""

    def build(recipe: Recipe, weights: str, seed: int, load: bool = True) -> Any:
        keras.utils.set_random_seed(seed)
        layers, inputs = keras.layers, keras.Input((recipe.size, recipe.size, 3))
        trunk = keras.Sequential([layers.Conv2D(4, CELL, CELL), layers.BatchNormalization(), layers.ReLU()])
        x = layers.Rescaling(1 / 255)(inputs)
        pixels = layers.Conv2D(1, 3, padding="same", name="pixels")(x)
        kinds = layers.Conv2D(2, 3, padding="same", name="kinds")(layers.AveragePooling2D(2)(x))
        cells = layers.Conv2D(1, 1, name="cells")(trunk(x))
        most = [layers.GlobalMaxPooling2D()(part) for part in (cells, pixels, kinds)]
        return keras.Model(inputs, layers.Concatenate()(most))

    monkeypatch.setattr("crackutils.detector.training.build_detector", build)
    compiled = lru_cache(1)(detector_training._compiled.__wrapped__)  # no other test may train this one
    monkeypatch.setattr(detector_training, "_compiled", compiled)


def train(task: Any, folder: Path, recipe: Recipe = RECIPE, seed: int = 7, steps: int = 4, before: Any = None) -> Any:
    return train_detector(recipe, *task, folder, seed, "crackutils", steps, before)


def weights_of(model: Any) -> list[bytes]:
    return [np.array(w).tobytes() for w in model.weights]


def test_a_training_gives_the_network_at_the_size_of_the_recipe(task: Any, tmp_path: Path) -> None:
    trained = train(task, tmp_path / "run")
    model, start = trained.model, build_detector(RECIPE, "crackutils", 7)
    assert model.input_shape == (None, 64, 64, 3)
    assert trained.start == models.weights_facts("mobilenetv2", CROP, "crackutils")
    for a, b in zip(models.backbone_of(start).layers, models.backbone_of(model).layers, strict=True):
        same = [np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True)]
        assert all(same) if isinstance(a, keras.layers.BatchNormalization) else not any(same), a.name
    kernel, bias = model.get_layer("p_crack").get_weights()
    assert (kernel[0, 0], bias[0]) == (1, 0) and not kernel[1:].any()
    assert not np.array_equal(*(m.get_layer("cells").get_weights()[0] for m in (start, model)))
    assert list(trained.history["step"]) == [4]
    loss = trained.history["loss"].iloc[-1]
    assert np.isfinite(loss) and trained.stages == [{"name": "cells", "steps": 4, "loss": loss, "kept": True}]
    assert trained.seconds["cells"] > 0


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("when", ["fit", "save_weights"])
def test_a_killed_training_goes_on(when: str, task: Any, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    whole = train(task, tmp_path / "whole")
    monkeypatch.setattr("crackutils.detector.training.CHUNK", 2)
    folder, inner = tmp_path / "run", getattr(keras.Model, when)

    def dies(*args: Any, **options: Any) -> Any:
        """Die in the second of two chunks, with a file half written."""
        if not (folder / "done.json").exists():
            return inner(*args, **options)
        if when == "save_weights":
            args[1].write_bytes((folder / "step-2.weights.h5").read_bytes()[:5000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.Model, when, dies)
        train(task, folder)
    expected = {"done.json", "step-2.weights.h5"} | ({"step-4.weights.h5"} if when == "save_weights" else set())
    assert {p.name for p in folder.iterdir()} == expected
    capsys.readouterr()
    trained, out = train(task, folder), capsys.readouterr().out
    assert "continuing after step 2 of 4" in out and "step 4 of 4: loss" in out and "step 2 of 4: loss" not in out
    assert weights_of(trained.model) == weights_of(whole.model) and list(trained.history["step"]) == [2, 4]
    assert trained.history["loss"].mean() == pytest.approx(whole.history["loss"].iloc[0], abs=1e-4)
    assert {p.name for p in folder.iterdir()} == {"done.json", "step-4.weights.h5"}
    assert weights_of(train(task, tmp_path / "other", seed=8).model) != weights_of(whole.model)
    rest = train(task, folder)  # there is nothing left to do
    assert "after step 4 of 4" in capsys.readouterr().out and weights_of(rest.model) == weights_of(whole.model)


def test_it_trains_without_photos(task: Any, tiny: None, tmp_path: Path, monkeypatch: Patch) -> None:
    ds, manifest, _ = task
    monkeypatch.setattr("crackutils.detector.training.make_batch", made := Mock(side_effect=make_batch))
    trained = train((ds, manifest, []), tmp_path / "run", steps=2)
    rows = np.flatnonzero(manifest["split"] == "train").tolist()
    asked = [(args[1].rows.tolist(), args[1].centred, *args[2:]) for args, _ in made.call_args_list]
    assert asked == [(rows, True, [], (7, 0)), (rows, True, [], (7, 1))] and np.isfinite(trained.stages[0]["loss"])
    monkeypatch.setattr("crackutils.detector.training.class_weights", lambda labels: {0: 0.5, 1: 1.5})
    train((ds, manifest, []), tmp_path / "lopsided", steps=1)  # as if three in four were Negative
    odds = made.call_args[0][1].odds
    assert odds[manifest["label"][rows] == 1] == pytest.approx(3 * odds[manifest["label"][rows] == 0].mean())
    few = manifest.assign(split=manifest["split"].where(manifest["label"] == 1, "test"))
    with pytest.raises(config.CrackutilsError, match=r"^The training images are all of one class\. Add images"):
        train((ds, few, []), tmp_path / "one class")
    assert not (tmp_path / "one class").exists()


@pytest.mark.usefixtures("tiny")
def test_a_checkpoint_counts_only_where_nothing_changed(task: Any, tmp_path: Path, monkeypatch: Patch) -> None:
    ds, manifest, masked = task
    monkeypatch.setattr(keras.Model, "fit", Mock(return_value=Mock(history={"loss": [0.5]})))

    def key(name: str = "", value: Any = None, parts: Any = task, **options: Any) -> str:
        facts = {"weights": "crackutils", "file": "a.npz", "sha256": "1"} | {name: value}
        with monkeypatch.context() as patch:
            patch.setattr("crackutils.models.weights_facts", lambda *args: facts)
            if name in ("code_hash", "versions"):
                patch.setattr(f"crackutils.provenance.{name}", lambda: value)
            train(parts, tmp_path, **{"steps": 1} | options)
        return json.loads((tmp_path / "done.json").read_text("utf-8"))["key"]

    first = key()
    assert key("file", "b.npz") == first  # the same bytes under another name
    moved = manifest.assign(split=manifest["split"].iloc[::-1].to_numpy())
    others = [key(recipe=dataclasses.replace(RECIPE, **change)) for change in ({"batch": 16}, {"cells": 0.1})]
    others += [key(name, "2") for name in ("sha256", "weights", "code_hash", "versions")]
    darker = dataclasses.replace(lined(), images=[image // 2 for image in lined().images])
    changed = [], [(lined(seed=1), 0.5)], [(lined(), 0.25)], [(darker, 0.5)]
    others += [key(parts=(ds, manifest, other)) for other in changed]
    others += [key(parts=(ds, other, masked)) for other in (moved, manifest.assign(label=1 - manifest["label"]))]
    others += [key(parts=(dataclasses.replace(ds, index=ds.index.iloc[:-1]), manifest, masked))]
    others += [key(seed=8), key(steps=2), key(before=train(task, tmp_path / "before", steps=1).model)]
    assert len({first, *others}) == 17


def test_the_last_layer_is_fitted_and_found_again(task: Any, tmp_path: Path, monkeypatch: Patch) -> None:
    (ds, manifest, _), patches = task, painted()
    model = build_detector(RECIPE, "crackutils", 7)
    trained, last = training.Trained(model, {}, pd.DataFrame(), []), model.get_layer("p_crack")
    rows = np.flatnonzero(manifest["split"] == "train")
    y, x = ds.index["label"].to_numpy()[rows], np.stack([ds.read(row, 64) for row in rows]).astype(np.float32)
    loss = lambda: float(keras.losses.BinaryCrossentropy()(y[:, None], model.predict_on_batch(x)))  # noqa: E731
    before = loss()
    facts = fit_last_layer(trained, RECIPE, ds, manifest, patches, tmp_path, 7)
    assert (facts["images"], facts["patches"]) == (len(rows), data.count_training(patches)) and loss() < before
    fitted = last.get_weights()
    last.set_weights([np.eye(len(fitted[0]), 1, dtype=np.float32), np.zeros(1, np.float32)])
    monkeypatch.setattr("crackutils.inference.features.run_stream", None)  # after a kill nothing is computed again
    fit_last_layer(trained, RECIPE, ds, manifest, patches, tmp_path, 7)
    np.testing.assert_array_equal(last.get_weights()[0], fitted[0])


def test_runs_of_the_flat_package_and_of_another_keras_load(tmp_path: Path, untrained: Callable[..., Any]) -> None:
    model, file = untrained(tmp_path), tmp_path / "model" / "model.keras"
    with zipfile.ZipFile(file) as saved:
        architecture = saved.read("config.json").decode()
    known = '"class_name": "GlorotUniform", "config": {'
    changes = {known: f'{known}"axes_of_the_future": null, ', '"crackutils.layers"': '"crackutils.models"'}
    for new, old in (changes | {'"TopMean"': '"_TopMean"'}).items():
        assert new in architecture
        architecture = architecture.replace(new, old)
    with zipfile.ZipFile(file, "w") as saved:
        saved.writestr("config.json", architecture)
    with pytest.raises(TypeError, match="axes_of_the_future"):
        keras.models.load_model(file)
    x = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = "import sys, numpy as np; from crackutils import training; folder = sys.argv[1]\n"
    code += "p = training.load(folder)[0].predict_on_batch(np.load(f'{folder}/x.npy')); np.save(f'{folder}/p.npy', p)"
    # in a process that has not imported the detector
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=config.ROOT, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), model.predict_on_batch(x))
    assert training.load(tmp_path)[1] == dataclasses.replace(DETECTOR, size=64)


def test_attention_on_cracks_is_compared_with_chance(tmp_path: Path, untrained: Any) -> None:
    model = untrained(tmp_path / "run")
    mask = np.zeros((227, 227), np.uint8)
    mask[:, 100:110] = 255
    walls = [np.random.default_rng(k).normal(170, 3, (227, 227, 1)).repeat(3, axis=2) for k in range(18)]
    images = [np.where(mask[..., None] * (k % 2) > 0, 40, wall).astype(np.uint8) for k, wall in enumerate(walls)]
    patches = [synthetic.Patch(image, mask * (k % 2), k % 2, 0, 0, {}) for k, image in enumerate(images)]
    look = attend(tmp_path / "run", [patch.image for patch in patches])  # more than a batch
    assert look.p.shape == (18,) and look.heat.shape == (18, 4, 4)
    x = np.stack([resize(patch.image, 64) for patch in patches]).astype(np.float32)
    np.testing.assert_allclose(look.p, model.predict_on_batch(x)[:, 0], atol=1e-5)
    summary = attention_on_cracks(look, patches)
    assert attention_on_cracks(look, patches[:10])["cracked"] == 5  # images after the patches do not count
    assert summary["cracked"] == 9 and summary["found"] == pytest.approx((look.p[1::2] >= 0.5).mean())
    assert 0 <= summary["blank"] < 9 and summary["chance"] == pytest.approx(10 / 227)
    assert summary["ratio"] == pytest.approx(summary["mass"] / summary["chance"]) and 0 < summary["mass"] < 1
