"""Engines: the same network gives the same numbers in each, and images stream through them in order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from crackutils import config, datasets
from crackutils.images import ImageError
from crackutils.inference.engines import Engine, convert, cores, flipped, run_stream, start_engine
from crackutils.inference.features import features_engine
from crackutils.models import keras

# features lie between 0 and about 6
TOLERANCE = {"litert": 1e-4, "openvino": 1e-4}
OTHERS = [name for name in config.ENGINES if name != "tensorflow"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    """A small network and its program."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    program = tmp_path_factory.mktemp("engine") / "small.tflite"
    convert(model, program)
    return program, model


def pictures(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def run(engine: Engine, images: np.ndarray) -> np.ndarray:
    return np.stack([out for _, out, _ in run_stream(engine, range(len(images)), lambda i: images[i])])


def agree(weights: str, name: str, images: np.ndarray) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    size = images.shape[1]
    truth = run(features_engine("mobilenetv2", size, weights, "tensorflow")[0], images)
    found = run(features_engine("mobilenetv2", size, weights, name)[0], images)
    assert truth.shape == (len(images), 1280)
    assert truth.max() > 1
    if name in TOLERANCE:
        assert np.abs(found - truth).max() < TOLERANCE[name]
    else:  # features of their own
        assert 0.8 < np.corrcoef(found.ravel(), truth.ravel())[0, 1] < 0.99999


@pytest.mark.parametrize("name", OTHERS)
def test_engines_agree_with_tensorflow_on_our_own_weights(name: str, smoke: datasets.Dataset) -> None:
    agree("crackutils", name, smoke.pixels(64)[:20])


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("CRACKUTILS_WEIGHTS_DIR"), reason="CRACKUTILS_WEIGHTS_DIR is not set")
@pytest.mark.parametrize("name", OTHERS)
def test_engines_agree_with_tensorflow_on_imagenet_weights(name: str, smoke: datasets.Dataset) -> None:
    agree("imagenet", name, smoke.pixels(96)[:20])


def test_a_program_once_made_needs_no_model(small: tuple[Path, keras.Model]) -> None:
    program, model = small
    images = pictures(5)
    found = run(start_engine("litert", program, lambda: pytest.fail("built again")), images)
    np.testing.assert_allclose(found, model.predict_on_batch(images.astype(np.float32)), atol=1e-6)
    assert [p.name for p in program.parent.iterdir()] == ["small.tflite"]  # nothing half written is left


def test_an_image_gives_the_same_bytes_whatever_runs_beside_it(small: tuple[Path, keras.Model]) -> None:
    engine, images = start_engine("litert", small[0], lambda: None), pictures(27)
    whole = run(engine, images)
    np.testing.assert_array_equal(run(engine, images[3:4])[0], whole[3])
    np.testing.assert_array_equal(run(engine, images[::-1]), whole[::-1])


@pytest.mark.parametrize("name", ["litert", "tensorflow"])
def test_what_results_depend_on_is_told(name: str, small: tuple[Path, keras.Model]) -> None:
    package = {"litert": "ai-edge-litert", "tensorflow": "tensorflow"}[name]
    facts = start_engine(name, small[0], lambda: small[1]).facts
    assert facts == {"engine": name, "version": metadata.version(package), "precision": "float32"}


def test_wrong_engines_are_refused_in_a_sentence(small: tuple[Path, keras.Model], tmp_path: Path) -> None:
    with pytest.raises(config.CrackutilsError, match=r"ENGINE=litter is unknown \(did you mean litert\?\)"):
        start_engine("litter", small[0], lambda: None)
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(small[0].read_bytes()[:500])
    with pytest.raises(config.CrackutilsError, match=r"damaged\.tflite cannot be read \(.*\); remove it"):
        start_engine("litert", damaged, lambda: None).worker()


def test_an_engine_that_is_not_installed_is_told(
    small: tuple[Path, keras.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(engines.metadata, "version", version)
    with pytest.raises(
        config.CrackutilsError, match=r"ENGINE=openvino needs the package openvino, which is not installed"
    ):
        start_engine("openvino", small[0], lambda: None)


def test_flips_are_averaged(small: tuple[Path, keras.Model]) -> None:
    program, model = small
    images = pictures(3)
    found = run(flipped(start_engine("litert", program, lambda: None)), images)
    views = [images, images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]]
    expected = np.mean([model.predict_on_batch(view.astype(np.float32)) for view in views], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---------------------------------------------------------------- streaming

SUMS = Engine("litert", "0", "float32", lambda: lambda x: x.sum((1, 2)))


def test_broken_images_keep_their_place() -> None:
    images = pictures(40)

    def read(i: int) -> np.ndarray:
        if i % 7 == 0 or 16 <= i < 24:  # a whole batch among them
            raise ImageError(f"is number {i}")
        return images[i]

    found = list(run_stream(SUMS, range(40), read))
    assert [item for item, _, _ in found] == list(range(40))
    for i, out, problem in found:
        if i % 7 == 0 or 16 <= i < 24:
            assert out is None
            assert problem == f"is number {i}"
        else:
            np.testing.assert_array_equal(out, images[i].sum((0, 1)))
            assert problem == ""


def test_few_images_are_read_ahead() -> None:
    image, read = pictures(1)[0], []

    def take(i: int) -> np.ndarray:
        read.append(i)
        return image

    found = run_stream(SUMS, range(10**9), take)
    for i, _, _ in found:
        if i == 500:
            break
    found.close()  # neither hangs nor goes on
    assert len(read) < 500 + 8 * (2 * cores() + 2)


def test_a_worker_stays_in_its_thread() -> None:
    made, used = set(), set()

    def worker():
        me = threading.get_ident()
        made.add(me)

        def run(x: np.ndarray) -> np.ndarray:
            used.add((me, threading.get_ident()))
            return x.sum((1, 2))

        return run

    list(run_stream(dataclasses.replace(SUMS, worker=worker), range(400), lambda i: pictures(1)[0]))
    assert used == {(thread, thread) for thread in made}
    assert len(made) <= cores()


def test_what_a_network_is_made_from_is_done_once_and_late(small: tuple[Path, keras.Model]) -> None:
    built = []
    engine = start_engine("tensorflow", small[0], lambda: built.append(1) or small[1])
    assert not built
    run(engine, pictures(40))
    assert len(built) == 1


def test_no_image_at_all() -> None:
    assert list(run_stream(SUMS, [], lambda i: pictures(1)[0])) == []


@pytest.mark.parametrize("where", ["read", "engine", "consumer"])
def test_an_error_ends_the_stream_and_leaves_no_thread(where: str) -> None:
    before = threading.active_count()

    def read(i: int) -> np.ndarray:
        if where == "read" and i == 30:
            raise RuntimeError("read")
        return pictures(1)[0]

    def worker():
        if where == "engine":
            raise config.CrackutilsError("engine")
        return lambda x: x.sum((1, 2))

    found = run_stream(dataclasses.replace(SUMS, worker=worker), range(10**9), read)
    with pytest.raises((RuntimeError, config.CrackutilsError), match=where), contextlib.closing(found):
        for i, _, _ in found:
            if where == "consumer" and i == 10:
                raise RuntimeError("consumer")
    assert threading.active_count() <= before
