"""Batches in order, shuffled batches, and predictions that belong to their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crackutils import pipelines
from crackutils.models import keras
from crackutils.recipes import RECIPES

N, SIDE, BATCH = 37, 6, 8
LABELS = np.random.default_rng(3).integers(0, 2, N)
# pixel (0, 0) of each image holds its row and its label, the rest is noise up to both ends of the range
IMAGES = np.random.default_rng(4).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
IMAGES[:, 0, 0, 0], IMAGES[:, 0, 0, 1], IMAGES[:, 1, 1] = np.arange(N), 255 * LABELS, (0, 255, 128)


def rows_of(x: Any) -> list[int]:
    return np.asarray(x)[:, 0, 0, 0].astype(int).tolist()


def one_pass(data: Any) -> tuple[list[int], list[float]]:
    rows, labels = [], []
    for x, y in data:
        rows += rows_of(x)
        labels += np.asarray(y)[:, 0].tolist()
    return rows, labels


class Perfect:
    """A classifier that reads the label from the picture."""

    def predict_on_batch(self, x: Any) -> np.ndarray:
        return np.asarray(x)[:, 0, 0, 1:2] / 255


def test_unshuffled_batches_keep_order_and_labels_over_two_passes() -> None:
    rows = np.random.default_rng(5).permutation(N)[:29]
    data = pipelines.batches(IMAGES, LABELS, rows, BATCH)
    for _ in range(2):
        got, labels = one_pass(data)
        assert got == rows.tolist()
        assert labels == LABELS[rows].tolist()


def test_values_types_and_shapes() -> None:
    data = pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH)
    assert data.element_spec[0].shape.as_list() == [None, SIDE, SIDE, 3]
    assert data.element_spec[1].shape.as_list() == [None, 1]
    found = [(np.asarray(x), np.asarray(y)) for x, y in data]
    assert [len(x) for x, _ in found] == [8, 8, 8, 8, 5]
    assert len(data) == 5
    assert all(x.dtype == np.float32 and y.dtype == np.float32 and y.shape == (len(x), 1) for x, y in found)
    whole = np.concatenate([x for x, _ in found])
    np.testing.assert_array_equal(whole, IMAGES.astype(np.float32))
    assert (whole.min(), whole.max()) == (0, 255)


def test_memory_mapped_images_give_the_same_batches(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (x, _), *_ = pipelines.batches(mapped, LABELS, np.array([7, 3, 3]), BATCH)
    np.testing.assert_array_equal(x, IMAGES[[7, 3, 3]].astype(np.float32))


def test_shuffled_batches_give_every_row_once_in_another_order_each_epoch() -> None:
    keras.utils.set_random_seed(1)
    data = pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH, seed=11)
    epochs = [one_pass(data) for _ in range(3)]
    for rows, labels in epochs:
        assert sorted(rows) == list(range(N))
        assert labels == LABELS[rows].tolist()  # labels move with their images
    assert len({tuple(rows) for rows, _ in epochs} | {tuple(range(N))}) == 4


def test_the_seed_decides_the_order() -> None:
    def orders(seed: int) -> list[list[int]]:
        keras.utils.set_random_seed(1)
        data = pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH, seed=seed)
        return [one_pass(data)[0] for _ in range(2)]

    first = orders(11)
    assert orders(11) == first
    assert orders(12) != first


def test_shuffling_reaches_over_the_whole_set() -> None:
    """A small shuffle buffer would leave the sorted classes apart: all Negative first, then all Positive."""
    images = np.zeros((400, 2, 2, 3), np.uint8)
    labels = np.repeat([0, 1], 200)
    _, seen = one_pass(pipelines.batches(images, labels, np.arange(400), 40, seed=1))
    assert 0.3 < np.mean(seen[:200]) < 0.7


@pytest.mark.parametrize("batch", [8, 37, 64])
def test_predict_returns_the_labels_of_its_probabilities(batch: int) -> None:
    rows = np.random.default_rng(6).permutation(N)
    labels, chances = pipelines.predict(Perfect(), pipelines.batches(IMAGES, LABELS, rows, batch))
    np.testing.assert_array_equal(labels, LABELS[rows])
    np.testing.assert_array_equal(chances, LABELS[rows])
    assert labels.dtype.kind == "i"
    assert chances.dtype == np.float32


def test_predict_holds_even_on_shuffled_batches() -> None:
    """Labels and probabilities come from one pass: collected in two, a perfect classifier would score by chance."""
    labels, chances = pipelines.predict(Perfect(), pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH, seed=1))
    np.testing.assert_array_equal(labels, chances)
    assert len(labels) == N


def test_predict_with_a_keras_model_equals_its_own_prediction() -> None:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Rescaling(1 / 255)])
    model.add(keras.layers.Dense(1, "sigmoid"))
    _, chances = pipelines.predict(model, pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH))
    whole = np.asarray(model(IMAGES.astype(np.float32)))[:, 0]
    np.testing.assert_allclose(chances, whole, atol=1e-6)
    assert chances.std() > 0.01


def test_of_two_units_the_second_is_the_crack() -> None:
    class Two:
        def predict_on_batch(self, x: Any) -> np.ndarray:
            p = Perfect().predict_on_batch(x)
            return np.concatenate([1 - 0.75 * p, 0.75 * p], axis=1)

    labels, chances = pipelines.predict(Two(), pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH))
    np.testing.assert_array_equal(chances, 0.75 * LABELS)
    np.testing.assert_array_equal(labels, LABELS)
    assert chances.dtype == np.float32


@pytest.mark.parametrize("units", [1, 2])
def test_flips_give_the_mean_over_four_views(units: int) -> None:
    class Corner:
        """A classifier that looks at the upper left pixel only, which is another one in each view."""

        def predict_on_batch(self, x: Any) -> np.ndarray:
            p = np.asarray(x)[:, 0, 0, 2:] / 255
            return np.concatenate([1 - p, p], axis=1)[:, 2 - units :]

    corners = IMAGES[:, [0, 0, -1, -1], [0, -1, 0, -1], 2] / 255
    data = pipelines.batches(IMAGES, LABELS, np.arange(N), BATCH)
    labels, chances = pipelines.predict(Corner(), data, flips=True)
    np.testing.assert_allclose(chances, corners.mean(1), atol=1e-6)
    np.testing.assert_array_equal(labels, LABELS)
    assert chances.shape == (N,) and chances.dtype == np.float32
    np.testing.assert_allclose(pipelines.predict(Corner(), data)[1], corners[:, 0], atol=1e-6)


def test_augmentation_layers_follow_the_recipe_and_the_seed() -> None:
    recipe = RECIPES["mobilenetv2"]
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)

    def draws(seed: int) -> np.ndarray:
        layers = pipelines.augmentation(recipe, seed)
        assert [type(layer).__name__ for layer in layers] == [name for name, _ in recipe.augment]
        return np.stack([np.stack(pipelines.augmented(layer, image, 4)) for layer in layers])

    first = draws(1)
    np.testing.assert_array_equal(first, draws(1))
    assert not np.array_equal(first, draws(2))
    assert first.dtype == np.uint8
    assert first.shape == (2, 4, 16, 16, 3)
    flips = {x.tobytes() for x in (image, image[::-1], image[:, ::-1], image[::-1, ::-1])}
    assert {x.tobytes() for x in first[0]} <= flips  # a flip only moves pixels


def test_blur_and_fade() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    blurred, faded = pipelines.blur(image, 2), pipelines.fade(image, 0.25)
    assert blurred.dtype == faded.dtype == np.uint8
    assert blurred.std() < image.std() / 3
    np.testing.assert_allclose(faded.mean((0, 1)), image.mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(faded.std(), image.std() / 4, rtol=0.02)
    np.testing.assert_array_equal(pipelines.fade(image, 1), image)
    grey = np.full((8, 8, 3), (10, 100, 200), np.uint8)
    np.testing.assert_array_equal(pipelines.blur(grey, 3), grey)  # colours do not run into each other
