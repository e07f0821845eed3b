"""Backbones and their weights, seeds, precision, the detector's network, and where a network looks."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crackutils import config, models
from crackutils.config import keras
from crackutils.detector.network import build_detector, top_mean
from crackutils.detector.runs import DETECTOR
from crackutils.files import sha256
from crackutils.inspection.attention import grad_cam, mass_on_mask
from crackutils.recipes import RECIPES

MAP = dataclasses.replace(DETECTOR, size=96)


def pictures(count: int, size: int) -> np.ndarray:
    """Return float32 noise with values 0-255, of another brightness and contrast in each picture."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, size, size, 3)) * rng.uniform(0.1, 0.9, (count, 1, 1, 1))
    return np.clip(noise + rng.uniform(0, 60, (count, 1, 1, 3)), 0, 255).astype(np.float32)


def arrays(variables: Any) -> list[np.ndarray]:
    return [np.array(v) for v in variables]


def all_equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def norms(base: Any) -> list[Any]:
    return [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_a_model_is_described_in_numbers_and_in_a_plain_table_of_layers() -> None:
    model = RECIPES["mobilenetv2-linear"].build(1)
    found, text = models.describe_model(model), models.layer_table(model)
    layers = len(model.layers) - 1 + len(models.backbone_of(model).layers)
    assert found == {"parameters": 2_259_265, "trainable": 1281, "layers": layers}
    assert all(layer.name[:20] in text for layer in model.layers)
    assert "2,259,265" in text and "1,281" in text and "\x1b" not in text
    assert [line for line in text.split("\n") if line != line.rstrip()] == []


def test_settle_makes_random_features_tell_inputs_apart() -> None:
    keras.utils.set_random_seed(0)
    base, x = models.build_backbone("mobilenetv2", 64, "random"), pictures(24, 64) / 127.5 - 1
    base.trainable = False

    def spread() -> float:
        return float(np.asarray(base(x, training=False)).mean((1, 2)).std(0).mean())

    momenta, kernels = [norm.momentum for norm in norms(base)], [w for w in base.weights if "moving" not in w.path]
    before, dull = arrays(kernels), spread()
    models.settle(base, x)
    assert dull < 1e-3 and spread() > 0.05
    assert [norm.momentum for norm in norms(base)] == momenta
    assert all_equal(before, arrays(kernels))
    assert not base.trainable_weights


@pytest.mark.parametrize("name", ["simple-cnn", "chernxi-mobilenetv3small"])
def test_the_seed_decides_the_initial_weights_and_all_that_is_random(name: str) -> None:
    a, b, c = (arrays(RECIPES[name].build(seed).variables) for seed in (5, 5, 6))
    assert all_equal(a, b)
    random = [(x, y) for x, y in zip(a, c, strict=True) if x.ndim > 1 or x.dtype.kind != "f"]  # kernels and seeds
    assert {x.dtype.kind for x, _ in random} == {"f", "i"}
    assert not any(np.array_equal(x, y) for x, y in random)


def test_augmentation_and_dropout_act_in_training_only() -> None:
    model, x = RECIPES["mobilenetv2"].build(1), pictures(4, 160)
    assert {type(layer).__name__ for layer in model.layers} >= {"RandomFlip", "Dropout"}
    models.settle(models.backbone_of(model), x / 127.5 - 1)
    first = model.predict_on_batch(x)
    np.testing.assert_array_equal(first, model.predict_on_batch(x))
    drawn = [np.asarray(model(x, training=True)) for _ in range(2)]
    assert len({d.tobytes() for d in (*drawn, first)}) == 3  # else the equality above would say nothing
    plain = models.without_augmentation(model)
    assert not [layer for layer in plain.layers if type(layer).__name__.startswith("Random")]
    np.testing.assert_array_equal(plain.predict_on_batch(x), first)


def test_bfloat16_computes_in_it_and_keeps_weights_and_probabilities_in_float32() -> None:
    try:
        models.set_precision("bfloat16")
        half = RECIPES["simple-cnn"].build(1)
        with models.in_float32():
            whole = RECIPES["simple-cnn"].build(1)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        models.set_precision("float32")
    for model, dtype in ((half, "bfloat16"), (whole, "float32")):
        inner = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        assert {layer.compute_dtype for layer in inner} == {dtype}
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    a, b = (model.predict_on_batch(pictures(8, 112)) for model in (half, whole))
    assert a.dtype == np.float32 and not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.02)
    with pytest.raises(config.CrackutilsError, match="PRECISION=float16 is unknown"):
        models.set_precision("float16")


KERAS_NAME = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{}_no_top.h5"
OUR_NAME = "mobilenet_v2_1.0_no_top.weights.h5"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", str(tmp_path))
    return tmp_path


def refused(name: str, size: int, weights: str = "imagenet") -> str:
    with pytest.raises(config.CrackutilsError) as caught:
        models.build_backbone(name, size, weights)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text and text.endswith(".") and len(text) < 500
    assert caught.value._render_traceback_() == [f"CrackutilsError: {text}"]
    return text


@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras has one for each layer that does not fit
def test_missing_damaged_and_unknown_weights_are_named_and_never_replaced(folder: Path) -> None:
    text = refused("mobilenetv2", 96)
    assert all(word in text for word in (str(folder), OUR_NAME, KERAS_NAME.format(96)))
    damaged = folder / "mobilenet_v3_small_1.0_no_top.weights.h5"
    damaged.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert str(damaged) in refused("mobilenetv3small", 32)
    models.build_backbone("mobilenetv3small", 32, "random").save_weights(folder / OUR_NAME)  # of another network
    assert str(folder / OUR_NAME) in refused("mobilenetv2", 96)
    assert "WEIGHTS=imagnet is unknown (did you mean imagenet?)" in refused("mobilenetv2", 32, "imagnet")
    assert "WEIGHTS=crackutils exist for mobilenetv2 only" in refused("mobilenetv3small", 32, "crackutils")


def test_weights_are_found_by_any_of_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / KERAS_NAME.format(160)).touch()
    assert models.find_weights("mobilenetv2", 160) == folder / KERAS_NAME.format(160)
    with pytest.raises(config.CrackutilsError):  # made for another input size
        models.find_weights("mobilenetv2", 96)
    (folder / OUR_NAME).touch()
    assert models.find_weights("mobilenetv2", 96) == folder / OUR_NAME
    monkeypatch.setattr(config, "ROOT", folder.parent)
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", folder.name)
    monkeypatch.chdir(config.NOTEBOOKS)  # a relative folder counts from the project
    assert models.find_weights("mobilenetv2", 96) == (folder / OUR_NAME).resolve()
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR")
    assert models.find_weights("mobilenetv2", 96) is None


def test_an_impossible_download_is_told_and_never_replaced_by_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_network(weights: str | None, **options: Any) -> Any:
        asked.append(weights)
        raise Exception("URL fetch failure on https://storage.googleapis.com/x.h5: None -- \n[Errno -2]")

    monkeypatch.setattr(keras.applications, "MobileNetV2", no_network)
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR", raising=False)
    text = refused("mobilenetv2", 32)
    assert asked == ["imagenet"]
    assert all(word in text for word in ("could not be downloaded", "CRACKUTILS_WEIGHTS_DIR", "WEIGHTS=crackutils"))
    assert "{size}" not in text
    monkeypatch.setattr(keras.applications, "MobileNetV3Small", no_network)
    text = refused("mobilenetv3small", 32)
    assert "WEIGHTS=random" in text and "WEIGHTS=crackutils" not in text


def test_what_a_backbone_starts_from_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = tmp_path / "models" / KERAS_NAME.format(224)
    file.parent.mkdir()
    file.write_bytes(b"weights")  # as Keras has downloaded them; for 112 px it takes those made for 224
    facts = {"weights": "imagenet", "file": file.name, "sha256": sha256(file)}
    assert models.weights_facts("mobilenetv2", 112, "imagenet") == facts
    own = {"weights": "crackutils", "file": models.OWN_FILE.name, "sha256": sha256(models.OWN_FILE)}
    assert models.weights_facts("mobilenetv2", 112, "crackutils") == own
    for name, weights in (("mobilenetv2", "random"), ("", "imagenet")):
        assert models.weights_facts(name, 112, weights) == {"weights": "random", "file": "", "sha256": ""}


def test_without_loading_the_network_is_the_same_and_no_weights_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [arrays(models.build_backbone("mobilenetv2", 32, "crackutils").weights) for _ in range(2)]
    assert all_equal(*found)  # from the file
    monkeypatch.setattr(models, "read_own", None)
    own = models.build_backbone("mobilenetv2", 32, "crackutils", load=False)
    assert [w.shape for w in own.weights] == [w.shape for w in found[0]]
    assert not all_equal(arrays(own.weights), found[0])
    wide = models.build_backbone("mobilenetv2", 32, "imagenet", load=False)  # the folder holds none
    assert own.count_params() < 0.2 * wide.count_params()


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("CRACKUTILS_WEIGHTS_DIR"), reason="CRACKUTILS_WEIGHTS_DIR is not set")
@pytest.mark.parametrize("name", models.BACKBONES)
def test_real_imagenet_weights_load(name: str) -> None:
    bases = [models.build_backbone(name, 96, "imagenet") for _ in range(2)]
    assert models.weights_facts(name, 96, "imagenet")["sha256"] == sha256(models.find_weights(name, 96))
    assert all_equal(*(arrays(base.weights) for base in bases))  # from the file
    scale, offset = models.BACKBONES[name].rescaling or (1, 0)
    features = bases[0].predict_on_batch(pictures(8, 96) * np.float32(scale) + np.float32(offset)).mean((1, 2))
    assert features.std(0).mean() > 0.05
    assert all(np.asarray(norm.moving_mean).any() for norm in norms(bases[0]))  # none left as Keras initialises it


@pytest.fixture(scope="module")
def detector() -> Any:
    """The network at 96 px; tests must leave it as it is."""
    return build_detector(MAP, "crackutils", 1)


def maps_of(model: Any, x: np.ndarray) -> np.ndarray:
    return keras.Model(model.input, model.get_layer("cells").output).predict_on_batch(x)[..., 0]


def test_a_cell_is_sixteen_pixels_and_a_mark_shows_in_the_cells_about_it(detector: Any) -> None:
    for size in (64, 160):
        model = build_detector(dataclasses.replace(DETECTOR, size=size), "crackutils", 1, load=False)
        shapes = {name: model.get_layer(name).output.shape[1:] for name in ("cells", "pixels", "kinds")}
        fine = {"pixels": (size, size, 1), "kinds": (size // 2, size // 2, 2)}
        assert shapes == {"cells": (size // 16, size // 16, 1)} | fine
    x = np.full((3, 96, 96, 3), 128, np.float32)
    x[1, 4:12, 4:12], x[2, 84:92, 84:92] = 0, 0
    plain, first, last = maps_of(detector, x)
    assert max(np.unravel_index(np.abs(first - plain).argmax(), (6, 6))) <= 1
    assert min(np.unravel_index(np.abs(last - plain).argmax(), (6, 6))) >= 4


def test_pixels_are_where_they_are_in_the_image(detector: Any) -> None:
    net = keras.Model(detector.input, detector.get_layer("pixels").output)
    x = np.full((4, 96, 96, 3), 128, np.float32)
    for k, (row, column) in enumerate(((32, 32), (32, 33), (33, 32))):
        x[k, row, column] = 0
    *marked, plain = net.predict_on_batch(x)[..., 0]
    one, right, below = (np.abs(found - plain) for found in marked)
    assert np.hypot(*(np.array(np.unravel_index(one.argmax(), one.shape)) - 32)) < 6
    assert not np.allclose(one, right, atol=1e-3 * one.max()) and not np.allclose(one, below, atol=1e-3 * one.max())


def test_the_last_layer_sees_the_most_crack_like_cells_and_mean_and_maximum_of_features(detector: Any) -> None:
    x = pictures(6, 96)
    features = keras.Model(detector.input, detector.get_layer("features").output).predict_on_batch(x)
    found = keras.Model(detector.input, detector.get_layer("found").output).predict_on_batch(x)
    expected = [top_mean(maps_of(detector, x), MAP.cells)[:, None], found.mean((1, 2)), found.max((1, 2))]
    np.testing.assert_allclose(features, np.concatenate(expected, 1), atol=1e-4)


def test_weights_of_the_detector_load_at_another_size(tmp_path: Path, detector: Any) -> None:
    detector.save_weights(tmp_path / "small.weights.h5")
    large = build_detector(dataclasses.replace(DETECTOR, size=160), "crackutils", 2, load=False)
    large.load_weights(tmp_path / "small.weights.h5")
    assert all_equal(arrays(large.weights), arrays(detector.weights))


@pytest.mark.parametrize("units", [1, 2])
def test_grad_cam_points_to_what_speaks_for_a_crack(units: int) -> None:
    """Of a network that counts dark places, in either form of its outputs."""
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
    p, cam = grad_cam(model, x)
    np.testing.assert_allclose(p, model.predict_on_batch(x)[:, -1], atol=1e-6)
    assert cam.shape == (2, 8, 8)
    assert np.unravel_index(cam[0].argmax(), (8, 8)) == (2, 5) and cam[0].max() == 1
    assert (cam >= 0).all() and not cam[1].any()  # all bright: nothing speaks for a crack


def test_the_mass_of_a_heat_map_on_a_mask() -> None:
    mask, heat = np.zeros((40, 60), bool), np.zeros((4, 6), np.float32)
    mask[:, :30] = True
    assert mass_on_mask(heat, mask) is None
    heat[:] = 0.3
    assert mass_on_mask(heat, mask) == pytest.approx(0.5)  # chance
    heat[:, 3:] = 0
    assert 0.8 < mass_on_mask(heat, mask) < 1  # some runs over the edge when it is enlarged
