"""Engines: the same network gives the same numbers in each, and images stream through them in order."""

import contextlib
import dataclasses
import os
import threading
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from crackutils import config, datasets
from crackutils.config import keras
from crackutils.images import ImageError
from crackutils.inference.engines import Engine, convert, cores, run_stream, start_engine
from crackutils.inference.features import features_engine

Patch = pytest.MonkeyPatch
OTHERS = [name for name in config.ENGINES if name != "tensorflow"]
SUMS = Engine("litert", "0", "float32", lambda: lambda x: x.sum((1, 2)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
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


IMAGENET = pytest.mark.skipif(not os.environ.get("CRACKUTILS_WEIGHTS_DIR"), reason="CRACKUTILS_WEIGHTS_DIR is not set")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("weights", "size"), [("crackutils", 64), pytest.param("imagenet", 96, marks=[pytest.mark.real, IMAGENET])]
)
def test_engines_agree_with_tensorflow(name: str, weights: str, size: int, smoke: datasets.Dataset) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    images = smoke.pixels(size)[:20]
    truth, found = (run(features_engine("mobilenetv2", size, weights, e)[0], images) for e in ("tensorflow", name))
    assert truth.shape == (20, 1280)
    assert truth.max() > 1  # features lie between 0 and about 6
    if name == "openvino-bf16":
        assert 0.8 < np.corrcoef(found.ravel(), truth.ravel())[0, 1] < 0.99999
    else:
        assert np.abs(found - truth).max() < 1e-4


def test_a_converted_network_needs_no_model_and_another_is_built_once(small: tuple[Path, Any]) -> None:
    (program, model), images = small, pictures(5)
    found = run(start_engine("litert", program, lambda: pytest.fail("built again")), images)
    np.testing.assert_allclose(found, model.predict_on_batch(images.astype(np.float32)), atol=1e-6)
    assert [p.name for p in program.parent.iterdir()] == ["small.tflite"]  # nothing half written is left

    for name, package in (("litert", "ai-edge-litert"), ("tensorflow", "tensorflow")):
        facts = {"engine": name, "version": metadata.version(package), "precision": "float32"}
        assert start_engine(name, *small).facts == facts
    built = []
    engine = start_engine("tensorflow", program, lambda: built.append(1) or model)
    assert not built
    run(engine, pictures(40))
    assert len(built) == 1


def test_an_image_gives_the_same_bytes_whatever_runs_beside_it(small: tuple[Path, Any]) -> None:
    engine, images = start_engine("litert", small[0], lambda: None), pictures(27)
    whole = run(engine, images)
    np.testing.assert_array_equal(run(engine, images[3:4])[0], whole[3])
    np.testing.assert_array_equal(run(engine, images[::-1]), whole[::-1])


def test_unknown_missing_and_damaged_engines(small: tuple[Path, Any], tmp_path: Path, monkeypatch: Patch) -> None:
    with pytest.raises(config.CrackutilsError, match=r"ENGINE=litter is unknown \(did you mean litert\?\)"):
        start_engine("litter", *small)
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(small[0].read_bytes()[:500])
    with pytest.raises(config.CrackutilsError, match=r"damaged\.tflite cannot be read \(.*\)\. Delete it"):
        start_engine("litert", damaged, lambda: None).worker()

    missing = Mock(side_effect=metadata.PackageNotFoundError)
    monkeypatch.setattr("crackutils.inference.engines.metadata.version", missing)
    with pytest.raises(config.CrackutilsError, match="ENGINE=openvino needs the package openvino, which is not inst"):
        start_engine("openvino", *small)


def test_broken_images_keep_their_place() -> None:
    images, broken = pictures(40), {*range(0, 40, 7), *range(16, 24)}  # a whole batch among them

    def read(i: int) -> np.ndarray:
        if i in broken:
            raise ImageError(f"is number {i}")
        return images[i]

    for row, (item, out, problem) in enumerate(run_stream(SUMS, range(40), read)):
        assert item == row and problem == (f"is number {row}" if row in broken else "")
        assert out is None if row in broken else np.array_equal(out, images[row].sum((0, 1)))
    assert row == 39 and list(run_stream(SUMS, [], read)) == []


def test_few_images_are_read_ahead_and_a_worker_stays_in_its_thread() -> None:
    image, read = pictures(1)[0], []
    found = run_stream(SUMS, range(10**9), lambda i: read.append(i) or image)
    next(item for item, _, _ in found if item == 500)
    found.close()  # neither hangs nor goes on
    assert len(read) < 500 + 8 * (2 * cores() + 2)
    made, used = set(), set()

    def worker() -> Any:
        me = threading.get_ident()
        made.add(me)
        return lambda x: used.add((me, threading.get_ident())) or x.sum((1, 2))

    list(run_stream(dataclasses.replace(SUMS, worker=worker), range(400), lambda i: image))
    assert used == {(thread, thread) for thread in made} and len(made) <= cores()


@pytest.mark.parametrize("where", ["read", "engine", "consumer"])
def test_an_error_ends_the_stream_and_leaves_no_thread(where: str) -> None:
    before = threading.active_count()

    def fail(here: str, number: int = 0) -> None:
        if where == here and number in (0, 10, 30):
            raise RuntimeError(here)

    engine = dataclasses.replace(SUMS, worker=lambda: fail("engine") or SUMS.worker())
    found = run_stream(engine, range(1, 10**9), lambda i: fail("read", i) or pictures(1)[0])
    with pytest.raises(RuntimeError, match=where), contextlib.closing(found):
        for i, _, _ in found:
            fail("consumer", i)
    assert threading.active_count() <= before
