"""Backbones, preprocessing, initial weights and what is trained."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crackutils import config, models, training
from crackutils.detector.network import TopMean
from crackutils.detector.pooling import top_count
from crackutils.detector.runs import DETECTOR
from crackutils.files import sha256
from crackutils.inspection.attention import grad_cam
from crackutils.models import keras
from crackutils.recipes import RECIPES, Recipe
from crackutils.scoring import load_scorer

POOL = (("GlobalAveragePooling2D", {}),)
# two of the four convolutions of 16 and 32, each with its BatchNorm, ReLU and pooling
TINY = dataclasses.replace(RECIPES["simple-cnn"], size=32, body=RECIPES["simple-cnn"].body[:8])
NORM = keras.layers.BatchNormalization


def small(name: str, **changes: Any) -> Recipe:
    """Return a transfer recipe at 32 px, the smallest input that its backbone takes."""
    return dataclasses.replace(RECIPES[name], **({"size": 32} | changes))


V3 = small("chernxi-mobilenetv3small", head=POOL, units=1)


def pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Return float32 noise with values 0-255, of another brightness and contrast in each picture."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, size, size, 3)) * rng.uniform(0.1, 0.9, (count, 1, 1, 1))
    return np.clip(noise + rng.uniform(0, 60, (count, 1, 1, 3)), 0, 255).astype(np.float32)


def weights_of(model: Any) -> list[np.ndarray]:
    """Return all weights but the counters of random generators."""
    return [np.array(w) for w in model.weights]


def all_equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def entering(layer: Any, model: Any, x: np.ndarray) -> np.ndarray:
    """Run `model` on `x` and return what reaches `layer` inside it."""
    seen: list[np.ndarray] = []
    inner = layer.call

    def call(inputs: Any, *args: Any, **options: Any) -> Any:
        seen.append(np.asarray(inputs))
        return inner(inputs, *args, **options)

    layer.call = call
    try:
        model(x, training=False)
    finally:
        layer.call = inner
    assert len(seen) == 1
    return seen[0]


@pytest.fixture(scope="module")
def v2() -> Any:
    """MobileNetV2 at 32 px; tests must leave it as it is."""
    return models.build(small("mobilenetv2"), "random", 1)[0]


@pytest.fixture(scope="module")
def v3() -> Any:
    return models.build(V3, "random", 1)[0]


# ---------------------------------------------------------------- what a step of training changes


def test_a_fit_step_leaves_batchnorm_alone_and_trains_only_the_unfrozen_layers() -> None:
    model, _ = models.build(small("mobilenetv2", augment=(), head=POOL), "random", 1)
    base = models.backbone_of(model)
    layers, x = 20, pictures(8, 32)
    models.settle(base, x / 127.5 - 1)  # without it hardly any gradient reaches the backbone
    models.unfreeze_top(base, layers)
    model.compile("sgd", "binary_crossentropy")
    before = {w.path: np.array(w) for w in base.weights}
    head = [np.array(w) for w in model.get_layer("p_crack").weights]
    model.fit(x, np.arange(8)[:, None] % 2, batch_size=8, epochs=1, verbose=0)
    changed = {w.path for w in base.weights if not np.array_equal(before[w.path], np.array(w))}
    first = len(base.layers) - layers
    norms = {w.path for layer in base.layers if isinstance(layer, NORM) for w in layer.weights}
    moving = [p for p in norms if "moving" in p]
    assert len(moving) == 2 * sum(isinstance(layer, NORM) for layer in base.layers) > 0
    assert not changed & norms
    free = {w.path for layer in base.layers[first:] if not isinstance(layer, NORM) for w in layer.weights}
    assert free
    assert changed == free
    assert any("kernel" in p for p in set(before) - free)  # there are frozen kernels at all
    assert not np.array_equal(head[0], np.array(model.get_layer("p_crack").weights[0]))


def test_unfreeze_top_zero_freezes_the_whole_backbone_again(v2: Any) -> None:
    base = models.backbone_of(v2)
    models.unfreeze_top(base, 10)
    assert 0 < len(base.trainable_weights) < len(base.weights)
    models.unfreeze_top(base, 0)
    assert not base.trainable_weights


# ---------------------------------------------------------------- preprocessing


def test_mobilenetv2_gets_values_from_minus_one_to_one(v2: Any) -> None:
    x = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255.0)]).astype(np.float32)
    got = entering(models.backbone_of(v2), v2, x)
    np.testing.assert_allclose(got[0], -1, atol=1e-6)
    np.testing.assert_allclose(got[1], 1, atol=1e-6)


def test_mobilenetv3small_gets_raw_values_and_scales_them_itself(v3: Any) -> None:
    base = models.backbone_of(v3)
    x = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255.0)]).astype(np.float32)
    np.testing.assert_array_equal(entering(base, v3, x), x)
    first = next(layer for layer in base.layers if isinstance(layer, keras.layers.Conv2D))
    inside = entering(first, base, x)[:, 5, 5]  # away from the border, which may be padded
    np.testing.assert_allclose(inside, [[-1] * 3, [1] * 3], atol=1e-6)


def test_the_simple_cnn_gets_values_from_zero_to_one() -> None:
    model, _ = models.build(TINY, "random", 1)
    x = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255.0)]).astype(np.float32)
    got = entering(model.get_layer("conv_1"), model, x)
    np.testing.assert_allclose([got[0].min(), got[0].max(), got[1].min(), got[1].max()], [0, 0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("name", ["v2", "v3", "cnn"])
def test_every_model_rescales_exactly_once(name: str, request: pytest.FixtureRequest) -> None:
    model = models.build(TINY, "random", 1)[0] if name == "cnn" else request.getfixturevalue(name)
    base = models.backbone_of(model)
    layers = [*model.layers, *(base.layers if base else ())]
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    assert sum(isinstance(layer, kinds) for layer in layers) == 1


def test_every_backbone_of_the_recipes_exists() -> None:
    used = {r.backbone for r in RECIPES.values() if r.family == "transfer"}
    assert used == set(models.BACKBONES)
    assert all(bool(r.backbone) != bool(r.body) for r in RECIPES.values())


# ---------------------------------------------------------------- sizes


def test_simple_cnn_parameters() -> None:
    model, _ = models.build(RECIPES["simple-cnn"], "random", 1)
    kernels = 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128)
    norms = 4 * (16 + 32 + 64 + 128)
    dense = 128 + 1
    assert kernels + norms + dense == 98_289
    found = models.describe_model(model)
    assert found["parameters"] == 98_289 < 400_000
    assert found["trainable"] == 98_289 - norms // 2  # all but the moving means and variances
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 1)


def test_transfer_models_train_only_the_head_while_the_backbone_is_frozen(v2: Any, v3: Any) -> None:
    found = models.describe_model(v2)
    assert found["trainable"] == 1280 + 1
    assert found["parameters"] == 2_257_984 + 1281  # the former is MobileNetV2's own number without top
    assert models.describe_model(v3)["trainable"] == 576 + 1
    assert found["layers"] == len(v2.layers) - 1 + len(models.backbone_of(v2).layers)


def test_the_summary_is_plain_text_with_every_layer(v2: Any) -> None:
    text = models.layer_table(v2)
    assert all(layer.name[:20] in text for layer in v2.layers)
    assert "2,259,265" in text and "1,281" in text
    assert "\x1b" not in text
    assert [line for line in text.split("\n") if line != line.rstrip()] == []


def test_two_units_are_the_probabilities_of_the_classes() -> None:
    model, _ = models.build(dataclasses.replace(TINY, units=2), "random", 1)
    found = model.predict_on_batch(pictures(5, 32))
    assert found.shape == (5, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


# ---------------------------------------------------------------- cells

MAP = dataclasses.replace(DETECTOR, size=96)


@pytest.fixture(scope="module")
def cells() -> Any:
    """The network of cells at 96 px; tests must leave it as it is."""
    return models.build(MAP, "crackutils", 1)[0]


def maps_of(model: Any, x: np.ndarray) -> np.ndarray:
    return keras.Model(model.input, model.get_layer("cells").output).predict_on_batch(x)


def top_mean(maps: np.ndarray, count: int) -> np.ndarray:
    return np.sort(maps.reshape(len(maps), -1), axis=1)[:, -count:].mean(1)


@pytest.mark.parametrize(("share", "count"), [(0.0, 2), (0.06, 2), (0.1, 4), (0.5, 18), (1.0, 36)])
def test_the_mean_of_the_largest_values(share: float, count: int) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4, 9, 1)).astype(np.float32)
    layer = TopMean(share)
    assert top_count(share, 36) == count
    found = np.asarray(layer(x))
    assert found.shape == (5, 1)
    np.testing.assert_allclose(found[:, 0], top_mean(x, count), rtol=1e-5)
    again = TopMean.from_config(layer.get_config())
    np.testing.assert_array_equal(np.asarray(again(x)), found)


@pytest.mark.parametrize("size", [64, 96, 160])
def test_a_cell_is_sixteen_pixels(size: int) -> None:
    model, loaded = models.build(dataclasses.replace(DETECTOR, size=size), "crackutils", 1, load=size == 96)
    assert model.get_layer("cells").output.shape == (None, size // 16, size // 16, 1)
    assert model.output_shape == (None, 1)
    assert loaded["weights"] == ("crackutils" if size == 96 else "random")


def test_a_mark_shows_in_the_cells_about_it(cells: Any) -> None:
    x = np.full((3, 96, 96, 3), 128, np.float32)
    x[1, 4:12, 4:12], x[2, 84:92, 84:92] = 0, 0
    plain, first, last = maps_of(cells, x)[..., 0]
    assert np.unravel_index(np.abs(first - plain).argmax(), (6, 6)) < (2, 2)
    y, x = np.unravel_index(np.abs(last - plain).argmax(), (6, 6))
    assert y >= 4 and x >= 4


def test_the_most_crack_like_cells_decide_and_the_features_do_not_count(cells: Any) -> None:
    x = pictures(6, 96)
    maps, p = maps_of(cells, x), cells.predict_on_batch(x)
    assert p.shape == (6, 1)
    expected = 1 / (1 + np.exp(-top_mean(maps, 2)))  # 0.06 of 36 cells
    np.testing.assert_allclose(p[:, 0], expected, atol=1e-6)
    assert np.ptp(p) > 0.01
    features = keras.Model(cells.input, cells.get_layer("features").output).predict_on_batch(x)
    found = models.backbone_of(cells).predict_on_batch(x / 127.5 - 1)
    np.testing.assert_allclose(features[:, 0], top_mean(maps, 2), rtol=1e-5)
    np.testing.assert_allclose(features[:, 1:], np.concatenate([found.mean((1, 2)), found.max((1, 2))], 1), atol=1e-4)
    fitted, _ = models.build(MAP, "crackutils", 1)
    kernel, bias = fitted.get_layer("p_crack").get_weights()
    kernel[1:] = 0.01  # as when they are fitted to a site
    fitted.get_layer("p_crack").set_weights([kernel, bias])
    assert np.abs(fitted.predict_on_batch(x) - p).max() > 0.01


def test_the_network_of_cells_from_training_to_scoring(
    cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = models.build(MAP, "crackutils", 1, load=False)
    rng = np.random.default_rng(2)
    model.set_weights([w * rng.uniform(0.9, 1.1, w.shape).astype(np.float32) for w in cells.get_weights()])
    kernel, bias = model.get_layer("p_crack").get_weights()
    model.get_layer("p_crack").set_weights([kernel + 0.01, bias])
    x = pictures(8, 96)
    p = model.predict_on_batch(x)
    assert np.abs(p - cells.predict_on_batch(x)).max() > 1e-3  # the files must hold the weights
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    model.save_weights(folder / "model.weights.h5")
    model.save(folder / "model.keras")
    settings = {"recipe": MAP.as_dict(), "weights": "crackutils"}
    (folder.parent / "metrics.json").write_text(json.dumps({"settings": settings}))

    loaded, recipe = training.load(folder.parent)
    assert recipe == MAP
    np.testing.assert_array_equal(loaded.predict_on_batch(x), p)
    kept = keras.models.load_model(folder / "model.keras")
    np.testing.assert_array_equal(kept.predict_on_batch(x), p)
    np.testing.assert_array_equal(maps_of(kept, x), maps_of(model, x))

    engine, recipe, _ = load_scorer(folder.parent, "litert")
    assert recipe == MAP
    np.testing.assert_allclose(engine.worker()(x), p, atol=1e-4)


def test_weights_of_cells_load_at_another_size(tmp_path: Path, cells: Any) -> None:
    cells.save_weights(tmp_path / "small.weights.h5")
    large, _ = models.build(dataclasses.replace(DETECTOR, size=160), "crackutils", 2, load=False)
    before = weights_of(large)
    large.load_weights(tmp_path / "small.weights.h5")
    assert all_equal(weights_of(large), weights_of(cells))
    assert not all_equal(before, weights_of(cells))
    x = pictures(2, 160)
    expected = 1 / (1 + np.exp(-top_mean(maps_of(large, x), 6)))
    np.testing.assert_allclose(large.predict_on_batch(x)[:, 0], expected, atol=1e-6)


# ---------------------------------------------------------------- seeds and randomness


@pytest.mark.parametrize("recipe", [TINY, V3], ids=["cnn", "transfer"])
def test_the_seed_decides_the_initial_weights(recipe: Recipe) -> None:
    a, b, c = (weights_of(models.build(recipe, "random", seed)[0]) for seed in (5, 5, 6))
    assert all_equal(a, b)
    kernels = [(x, y) for x, y in zip(a, c, strict=True) if x.ndim > 1]
    assert kernels
    assert not any(np.array_equal(x, y) for x, y in kernels)


def test_augmentation_and_dropout_act_in_training_only() -> None:
    x = pictures(4, 32)
    model, _ = models.build(dataclasses.replace(TINY, head=POOL), "random", 1)
    augmentation = [layer for layer in model.layers if type(layer).__name__.startswith("Random")]
    assert [type(layer).__name__ for layer in augmentation] == [name for name, _ in TINY.augment]
    first, second = model.predict_on_batch(x), model.predict_on_batch(x)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(entering(model.get_layer("rescaling"), model, x), x)
    draws = np.stack([np.asarray(augmentation[0](x, training=True)) for _ in range(4)])
    assert len(np.unique(draws.reshape(4, -1), axis=0)) > 1  # else the equality above would say nothing
    half = dataclasses.replace(TINY, head=(*POOL, ("Dropout", {"rate": 0.5})), augment=())
    dropped, _ = models.build(half, "random", 1)
    np.testing.assert_array_equal(dropped.predict_on_batch(x), dropped.predict_on_batch(x))


# ---------------------------------------------------------------- weights


def one_sentence(error: config.CrackutilsError) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    assert text.endswith(".")
    assert len(text) < 500
    assert error._render_traceback_() == [f"CrackutilsError: {text}"]
    return text


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(config.CrackutilsError) as caught:
        models.build(small("mobilenetv2", size=96), "imagenet", 1)
    text = one_sentence(caught.value)
    assert str(tmp_path) in text
    assert "mobilenet_v2_1.0_no_top.weights.h5" in text
    assert "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5" in text


def test_weights_are_found_by_any_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", str(tmp_path))
    keras_name = tmp_path / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5"
    keras_name.touch()
    assert models.find_weights("mobilenetv2", 160) == keras_name
    with pytest.raises(config.CrackutilsError):  # made for another input size
        models.find_weights("mobilenetv2", 96)
    ours = tmp_path / "mobilenet_v2_1.0_no_top.weights.h5"
    ours.touch()
    assert models.find_weights("mobilenetv2", 96) == ours
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR")
    assert models.find_weights("mobilenetv2", 96) is None


def test_a_relative_weights_folder_counts_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", "w")
    monkeypatch.chdir(config.NOTEBOOKS)
    file = tmp_path / "w" / "mobilenet_v2_1.0_no_top.weights.h5"
    file.parent.mkdir()
    file.touch()
    assert models.find_weights("mobilenetv2", 160) == file.resolve()


def test_a_damaged_weights_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mobilenet_v3_small_1.0_no_top.weights.h5"
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(config.CrackutilsError) as caught:
        models.build(V3, "imagenet", 1)
    assert str(file) in one_sentence(caught.value)


def test_an_impossible_download_is_told_and_never_replaced_by_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_network(weights: str | None, **options: Any) -> Any:
        asked.append(weights)
        raise Exception("URL fetch failure on https://storage.googleapis.com/x.h5: None -- \n[Errno -2]")

    entry = dataclasses.replace(models.BACKBONES["mobilenetv2"], build=no_network)
    monkeypatch.setitem(models.BACKBONES, "mobilenetv2", entry)
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR", raising=False)
    with pytest.raises(config.CrackutilsError) as caught:
        models.build(small("mobilenetv2"), "imagenet", 1)
    text = one_sentence(caught.value)
    assert asked == ["imagenet"]
    assert "mobilenetv2" in text
    assert "could not be downloaded" in text
    assert "CRACKUTILS_WEIGHTS_DIR" in text
    assert "WEIGHTS=random" in text
    assert "{size}" not in text


def test_weights_that_keras_has_downloaded_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(models.BACKBONES["mobilenetv2"], build=lambda weights, **options: weights)
    monkeypatch.setitem(models.BACKBONES, "mobilenetv2", entry)
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    built, loaded = models.build_backbone("mobilenetv2", 112, "imagenet")  # 112: Keras takes those made for 224
    assert built == "imagenet"
    assert loaded == {"weights": "imagenet", "file": file.name, "sha256": sha256(file)}


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(config.CrackutilsError, match=r"WEIGHTS=imagnet is unknown \(did you mean imagenet\?\)"):
        models.build_backbone("mobilenetv2", 32, "imagnet")


def test_without_loading_the_network_is_the_same_and_no_weights_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, v2: Any
) -> None:
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", str(tmp_path))  # holds none
    monkeypatch.setattr(models, "read_own", None)
    own, loaded = models.build_backbone("mobilenetv2", 32, "crackutils", load=False)
    assert loaded == {"weights": "random", "file": "", "sha256": ""}
    narrow = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    assert [w.shape for w in own.weights] == [w.shape for w in narrow.weights]
    assert own.count_params() < 0.2 * models.backbone_of(v2).count_params()
    model, _ = models.build(small("mobilenetv2"), "imagenet", 1, load=False)
    assert all_equal(weights_of(model), weights_of(v2))


def test_settle_makes_random_features_tell_inputs_apart() -> None:
    keras.utils.set_random_seed(0)
    base, loaded = models.build_backbone("mobilenetv2", 64, "random")
    assert loaded == {"weights": "random", "file": "", "sha256": ""}
    base.trainable = False
    x = pictures(24, 64) / 127.5 - 1

    def spread() -> float:
        return float(np.asarray(base(x, training=False)).mean((1, 2)).std(0).mean())

    momenta = [layer.momentum for layer in base.layers if isinstance(layer, NORM)]
    kernels = [np.array(w) for w in base.weights if "moving" not in w.path]
    dull = spread()
    models.settle(base, x)
    lively = spread()
    assert dull < 1e-3
    assert lively > 0.05
    assert [layer.momentum for layer in base.layers if isinstance(layer, NORM)] == momenta
    assert all_equal(kernels, [np.array(w) for w in base.weights if "moving" not in w.path])
    assert not base.trainable_weights


@pytest.mark.real
@pytest.mark.skipif(
    not os.environ.get("CRACKUTILS_WEIGHTS_DIR"), reason="needs ImageNet weights: set CRACKUTILS_WEIGHTS_DIR"
)
@pytest.mark.parametrize("recipe", [small("mobilenetv2", size=96), dataclasses.replace(V3, size=96)])
def test_real_imagenet_weights_load(recipe: Recipe) -> None:
    (a, loaded), (b, _) = (models.build(recipe, "imagenet", seed) for seed in (1, 2))
    file = models.find_weights(recipe.backbone, 96)
    assert loaded == {"weights": "imagenet", "file": file.name, "sha256": sha256(file)}
    assert len(loaded["sha256"]) == 64
    bases = [models.backbone_of(m) for m in (a, b)]
    assert all_equal(weights_of(bases[0]), weights_of(bases[1]))  # from the file, whatever the seed
    x = pictures(8, 96)
    features = keras.Model(a.input, a.get_layer("global_pool_1").output).predict_on_batch(x)
    assert features.std(0).mean() > 0.05
    norms = [layer for layer in bases[0].layers if isinstance(layer, NORM)]
    assert all(np.asarray(layer.moving_mean).any() for layer in norms)  # none left as Keras initialises it


# ---------------------------------------------------------------- precision, prediction


def test_bfloat16_computes_in_it_and_keeps_weights_and_probabilities_in_float32() -> None:
    try:
        models.set_precision("bfloat16")
        half, _ = models.build(TINY, "random", 1)
    finally:
        models.set_precision("float32")
    whole, _ = models.build(TINY, "random", 1)
    inner = [layer for layer in half.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in inner} == {"bfloat16"}
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    x = pictures(8, 32)
    a, b = half.predict_on_batch(x), whole.predict_on_batch(x)
    assert a.dtype == np.float32
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.02)
    with pytest.raises(config.CrackutilsError, match="PRECISION=float16 is unknown"):
        models.set_precision("float16")


@pytest.mark.parametrize("name", ["mobilenetv2", "simple-cnn", DETECTOR.name])
def test_a_model_without_its_augmentation_predicts_the_same(name: str) -> None:
    model, _ = models.build(dataclasses.replace((RECIPES | {DETECTOR.name: DETECTOR})[name], size=32), "random", 1)
    plain = models.without_augmentation(model)
    assert not [layer.name for layer in plain.layers if layer.name.startswith("augment_")]
    x = pictures(3, 32)
    np.testing.assert_array_equal(plain.predict_on_batch(x), model.predict_on_batch(x))


def test_grad_cam_points_to_what_speaks_for_a_crack() -> None:
    """Of a network that counts dark places, in either form of its outputs."""
    keras = keras
    for units in (1, 2):
        inputs = keras.Input((32, 32, 3))
        maps = keras.layers.Conv2D(2, 4, 4, activation="relu", name="maps")(inputs)
        pooled = keras.layers.GlobalAveragePooling2D()(maps)
        model = keras.Model(inputs, keras.layers.Dense(units, "sigmoid" if units == 1 else "softmax")(pooled))
        kernel = np.zeros((4, 4, 3, 2), np.float32)
        kernel[..., 0], kernel[..., 1] = -1 / 48, 1 / 48  # one sees dark places, one bright ones
        model.get_layer("maps").set_weights([kernel, np.float32([200, -100])])
        weights = np.float32([[1], [-1]]) if units == 1 else np.float32([[-1, 1], [1, -1]])
        model.layers[-1].set_weights([weights, np.zeros(units, np.float32)])
        x = np.full((2, 32, 32, 3), 210, np.float32)
        x[0, 8:12, 20:24] = 20
        cam = grad_cam(model, x)
        assert cam.shape == (2, 8, 8)
        assert np.unravel_index(cam[0].argmax(), (8, 8)) == (2, 5) and cam[0].max() == 1
        assert (cam >= 0).all() and not cam[1].any()  # all bright: nothing speaks for a crack
