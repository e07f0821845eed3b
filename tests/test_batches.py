"""Batches in order, shuffled batches, predictions that belong to their labels, and what augmentation does."""

from typing import Any

import numpy as np
import pytest

from crackutils.augment import crack_darkness, draw_augmented, fade
from crackutils.batches import crack_probabilities, make_batches
from crackutils.config import keras

N, SIDE, BATCH = 37, 6, 8
LABELS = np.random.default_rng(3).integers(0, 2, N)
# pixel (0, 0) of each image holds its row and its label, the rest is noise up to both ends of the range
IMAGES = np.random.default_rng(4).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
IMAGES[:, 0, 0, 0], IMAGES[:, 0, 0, 1], IMAGES[:, 1, 1] = np.arange(N), 255 * LABELS, (0, 255, 128)


def one_pass(data: Any) -> tuple[list[int], list[float]]:
    """Return the rows and the labels that the batches give."""
    found = [(np.asarray(x)[:, 0, 0, 0].astype(int), np.asarray(y)[:, 0]) for x, y in data]
    return np.concatenate([x for x, _ in found]).tolist(), np.concatenate([y for _, y in found]).tolist()


class Perfect:
    """A classifier of one unit or two that reads the label from the picture."""

    def __init__(self, units: int = 1) -> None:
        self.units = units

    def predict_on_batch(self, x: Any) -> np.ndarray:
        p = 0.75 * np.asarray(x)[:, 0, 0, 1:2] / 255
        return np.concatenate([1 - p, p], axis=1)[:, -self.units :]


def test_unshuffled_batches_give_images_and_labels_in_order_over_two_passes(tmp_path: Any) -> None:
    rows = np.random.default_rng(5).permutation(N)[:29]
    np.save(tmp_path / "x.npy", IMAGES)
    for images in (IMAGES, np.load(tmp_path / "x.npy", mmap_mode="r")):
        data = make_batches(images, LABELS, rows, BATCH)
        assert [spec.shape.as_list() for spec in data.element_spec] == [[None, SIDE, SIDE, 3], [None, 1]]
        assert len(data) == 4
        for _ in range(2):
            xs, ys = zip(*((np.asarray(x), np.asarray(y)) for x, y in data), strict=True)
            assert [len(x) for x in xs] == [8, 8, 8, 5]
            assert {values.dtype for values in (*xs, *ys)} == {np.dtype(np.float32)}
            np.testing.assert_array_equal(np.concatenate(xs), IMAGES[rows])
            np.testing.assert_array_equal(np.concatenate(ys), LABELS[rows, None])


def test_shuffled_batches_give_every_row_once_in_an_order_of_epoch_and_seed() -> None:
    def orders(seed: int) -> list[list[int]]:
        keras.utils.set_random_seed(1)
        data = make_batches(IMAGES, LABELS, np.arange(N), BATCH, seed=seed)
        epochs = [one_pass(data) for _ in range(3)]
        assert all(labels == LABELS[rows].tolist() for rows, labels in epochs)  # labels move with their images
        return [rows for rows, _ in epochs]

    first = orders(11)
    assert all(sorted(rows) == list(range(N)) for rows in first)
    assert len({tuple(rows) for rows in [*first, range(N)]}) == 4
    assert orders(11) == first
    assert orders(12) != first


def test_shuffling_reaches_over_the_whole_set() -> None:
    """A small shuffle buffer would leave the sorted classes apart: all Negative first, then all Positive."""
    images, labels = np.zeros((400, 2, 2, 3), np.uint8), np.repeat([0, 1], 200)
    _, seen = one_pass(make_batches(images, labels, np.arange(400), 40, seed=1))
    assert 0.3 < np.mean(seen[:200]) < 0.7


def test_images_carry_the_weights_of_their_classes() -> None:
    batch = next(iter(make_batches(IMAGES, LABELS, np.arange(N), N, weights={0: 0.5, 1: 9.0})))
    np.testing.assert_array_equal(batch[2], np.where(LABELS == 1, 9.0, 0.5)[:, None])


@pytest.mark.parametrize(("batch", "units", "seed"), [(8, 1, None), (37, 2, None), (64, 1, None), (8, 2, 1)])
def test_of_two_units_the_second_is_the_crack(batch: int, units: int, seed: int | None) -> None:
    rows = np.random.default_rng(6).permutation(N)
    found = [(y, crack_probabilities(Perfect(units), x)) for x, y in make_batches(IMAGES, LABELS, rows, batch, seed)]
    labels, p = (np.concatenate(part) for part in zip(*found, strict=True))
    labels = labels[:, 0].astype(int)
    assert seed or labels.tolist() == LABELS[rows].tolist()
    np.testing.assert_array_equal(p, 0.75 * labels)
    assert sorted(labels) == sorted(LABELS)
    assert (labels.dtype.kind, p.dtype) == ("i", np.float32)


def test_augmentation_draws_follow_the_seed_and_a_flip_only_moves_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)

    def draws(seed: int) -> np.ndarray:
        layer = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)
        return np.stack(draw_augmented(layer, image, 6))

    first = draws(1)
    np.testing.assert_array_equal(first, draws(1))
    assert not np.array_equal(first, draws(2))
    assert (first.dtype, first.shape) == (np.uint8, (6, 16, 16, 3))
    flips = {x.tobytes() for x in (image, image[::-1], image[:, ::-1], image[::-1, ::-1])}
    assert {x.tobytes() for x in first} <= flips


def test_fading_multiplies_the_contrast() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    faded = fade(image, 0.25)
    assert faded.dtype == np.uint8
    np.testing.assert_allclose(faded.mean((0, 1)), image.mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(faded.std(), image.std() / 4, rtol=0.02)
    np.testing.assert_array_equal(fade(image, 1), image)


def test_darkness_measures_how_far_a_crack_stands_out() -> None:
    image = np.full((100, 100, 3), 180, np.uint8)
    assert crack_darkness(image) == 0
    image[:, 40:45] = 60  # a crack over 5 % of the picture
    assert crack_darkness(image) == crack_darkness(image[::-1].astype(np.float32)) == 120
    assert crack_darkness(np.clip(image.astype(int) + 40, 0, 255)) == 120  # brightness alone changes nothing
    image[:, 41:45] = 180  # 1 %: thinner than what the measure sees
    assert crack_darkness(image) == 0
    assert crack_darkness(255 - image) == 0  # light lines are no cracks
