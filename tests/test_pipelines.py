"""Batches in order, shuffled batches, and predictions that belong to their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crackutils.augment import augmentation, blur, draw_augmented, fade
from crackutils.batches import make_batches, predict
from crackutils.detector.variation import VARIATIONS, shrink, vary
from crackutils.models import keras
from crackutils.recipes import RECIPES
from crackutils.transfer.corruptions import CORRUPTIONS, corrupt, mix_textures

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
    data = make_batches(IMAGES, LABELS, rows, BATCH)
    for _ in range(2):
        got, labels = one_pass(data)
        assert got == rows.tolist()
        assert labels == LABELS[rows].tolist()


def test_values_types_and_shapes() -> None:
    data = make_batches(IMAGES, LABELS, np.arange(N), BATCH)
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
    (x, _), *_ = make_batches(mapped, LABELS, np.array([7, 3, 3]), BATCH)
    np.testing.assert_array_equal(x, IMAGES[[7, 3, 3]].astype(np.float32))


def test_shuffled_batches_give_every_row_once_in_another_order_each_epoch() -> None:
    keras.utils.set_random_seed(1)
    data = make_batches(IMAGES, LABELS, np.arange(N), BATCH, seed=11)
    epochs = [one_pass(data) for _ in range(3)]
    for rows, labels in epochs:
        assert sorted(rows) == list(range(N))
        assert labels == LABELS[rows].tolist()  # labels move with their images
    assert len({tuple(rows) for rows, _ in epochs} | {tuple(range(N))}) == 4


def test_the_seed_decides_the_order() -> None:
    def orders(seed: int) -> list[list[int]]:
        keras.utils.set_random_seed(1)
        data = make_batches(IMAGES, LABELS, np.arange(N), BATCH, seed=seed)
        return [one_pass(data)[0] for _ in range(2)]

    first = orders(11)
    assert orders(11) == first
    assert orders(12) != first


def test_shuffling_reaches_over_the_whole_set() -> None:
    """A small shuffle buffer would leave the sorted classes apart: all Negative first, then all Positive."""
    images = np.zeros((400, 2, 2, 3), np.uint8)
    labels = np.repeat([0, 1], 200)
    _, seen = one_pass(make_batches(images, labels, np.arange(400), 40, seed=1))
    assert 0.3 < np.mean(seen[:200]) < 0.7


@pytest.mark.parametrize("batch", [8, 37, 64])
def test_predict_returns_the_labels_of_its_probabilities(batch: int) -> None:
    rows = np.random.default_rng(6).permutation(N)
    labels, chances = predict(Perfect(), make_batches(IMAGES, LABELS, rows, batch))
    np.testing.assert_array_equal(labels, LABELS[rows])
    np.testing.assert_array_equal(chances, LABELS[rows])
    assert labels.dtype.kind == "i"
    assert chances.dtype == np.float32


def test_predict_holds_even_on_shuffled_batches() -> None:
    """Labels and probabilities come from one pass: collected in two, a perfect classifier would score by chance."""
    labels, chances = predict(Perfect(), make_batches(IMAGES, LABELS, np.arange(N), BATCH, seed=1))
    np.testing.assert_array_equal(labels, chances)
    assert len(labels) == N


def test_predict_with_a_keras_model_equals_its_own_prediction() -> None:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Rescaling(1 / 255)])
    model.add(keras.layers.Dense(1, "sigmoid"))
    _, chances = predict(model, make_batches(IMAGES, LABELS, np.arange(N), BATCH))
    whole = np.asarray(model(IMAGES.astype(np.float32)))[:, 0]
    np.testing.assert_allclose(chances, whole, atol=1e-6)
    assert chances.std() > 0.01


def test_of_two_units_the_second_is_the_crack() -> None:
    class Two:
        def predict_on_batch(self, x: Any) -> np.ndarray:
            p = Perfect().predict_on_batch(x)
            return np.concatenate([1 - 0.75 * p, 0.75 * p], axis=1)

    labels, chances = predict(Two(), make_batches(IMAGES, LABELS, np.arange(N), BATCH))
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
    data = make_batches(IMAGES, LABELS, np.arange(N), BATCH)
    labels, chances = predict(Corner(), data, flips=True)
    np.testing.assert_allclose(chances, corners.mean(1), atol=1e-6)
    np.testing.assert_array_equal(labels, LABELS)
    assert chances.shape == (N,) and chances.dtype == np.float32
    np.testing.assert_allclose(predict(Corner(), data)[1], corners[:, 0], atol=1e-6)


def test_augmentation_layers_follow_the_recipe_and_the_seed() -> None:
    recipe = RECIPES["mobilenetv2"]
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)

    def draws(seed: int) -> np.ndarray:
        layers = augmentation(recipe, seed)
        assert [type(layer).__name__ for layer in layers] == [name for name, _ in recipe.augment]
        return np.stack([np.stack(draw_augmented(layer, image, 4)) for layer in layers])

    first = draws(1)
    np.testing.assert_array_equal(first, draws(1))
    assert not np.array_equal(first, draws(2))
    assert first.dtype == np.uint8
    assert first.shape == (2, 4, 16, 16, 3)
    flips = {x.tobytes() for x in (image, image[::-1], image[:, ::-1], image[::-1, ::-1])}
    assert {x.tobytes() for x in first[0]} <= flips  # a flip only moves pixels


def test_blur_and_fade() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    blurred, faded = blur(image, 2), fade(image, 0.25)
    assert blurred.dtype == faded.dtype == np.uint8
    assert blurred.std() < image.std() / 3
    np.testing.assert_allclose(faded.mean((0, 1)), image.mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(faded.std(), image.std() / 4, rtol=0.02)
    np.testing.assert_array_equal(fade(image, 1), image)
    grey = np.full((8, 8, 3), (10, 100, 200), np.uint8)
    np.testing.assert_array_equal(blur(grey, 3), grey)  # colours do not run into each other


# ---------------------------------------------------------------- as another camera might have taken it

SQUARE = 96
ONE_BY_ONE = [(kind,) for kind in VARIATIONS]
MONOTONE = ("blur", "noise", "darker", "brighter", "JPEG", "scale")


def surface(line: int = 0, side: int = SQUARE, seed: int = 0) -> np.ndarray:
    """Return a grey, slightly rough surface, with an upright dark line of so many pixels in the middle."""
    rng = np.random.default_rng(seed)
    grey = 150 + 20 * np.sin(np.arange(side) / 30)[:, None] + rng.normal(0, 3, (side, side))
    left = (side - line) // 2
    grey[:, left : left + line] = 40
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)


def dark(image: np.ndarray, row: int) -> np.ndarray:
    """Return the columns of a row that are dark."""
    return np.flatnonzero(image[row, :, 1] < 95)


@pytest.mark.parametrize("kinds", [(), *ONE_BY_ONE, VARIATIONS])
def test_varied_images_keep_their_shape_and_follow_the_seed(kinds: tuple[str, ...]) -> None:
    image = surface(6)
    before = image.copy()

    def draws(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        found = [vary(image, rng, kinds) for _ in range(4)]
        assert all((x.shape, x.dtype) == (image.shape, np.uint8) for x in found)
        return [x.tobytes() for x in found]

    first = draws(1)
    assert draws(1) == first
    np.testing.assert_array_equal(image, before)
    if not kinds:
        assert set(first) == {image.tobytes()}
        return
    assert len({image.tobytes(), *first}) == 5  # each is another, and none is as it was
    assert not set(draws(2)) & set(first)


def test_the_share_says_how_often_a_kind_of_variation_happens() -> None:
    image, rng = surface(6), np.random.default_rng(0)
    for kind, often in (("blur", 0.3), ("scale", 0.3), ("exposure and noise", 0.51)):  # either or both
        for share, expected in ((0.0, 0.0), (0.3, often)):
            changed = [not np.array_equal(vary(image, rng, (kind,), share), image) for _ in range(200)]
            assert np.mean(changed) == pytest.approx(expected, abs=0.1)
            assert share or not any(changed)
    for kind in ("contrast", "jpeg and tint"):  # light and colour are never quite the same
        assert not np.array_equal(vary(image, rng, (kind,), 0.0), image)


def test_each_kind_of_variation_does_what_its_name_says() -> None:
    image, rng = surface(6), np.random.default_rng(4)

    def many(kind: str) -> np.ndarray:
        return np.stack([vary(image, rng, (kind,)) for _ in range(60)]).astype(float)

    contrast = many("contrast")
    spread, level = contrast.std((1, 2, 3)) / image.std(), contrast.mean((1, 2, 3)) / image.mean()
    assert spread.min() < 0.7 and spread.max() > 1.2
    assert level.min() < 0.85 and level.max() > 1.1
    blurred = many("blur")
    assert (np.abs(np.diff(blurred, axis=2)).max((1, 2, 3)) < np.abs(np.diff(image.astype(float), axis=1)).max()).all()
    np.testing.assert_allclose(blurred.mean((1, 2, 3)), image.mean(), atol=1.5)
    exposed = many("exposure and noise")
    level, rough = exposed.mean((1, 2, 3)) / image.mean(), np.abs(np.diff(exposed[:, :, :30], axis=2)).mean((1, 2, 3))
    assert level.min() < 0.3 and 1.2 < level.max() < 1.7
    assert rough.max() > 4 * np.abs(np.diff(image.astype(float), axis=1)[:, :29]).mean()
    tinted = many("jpeg and tint").mean((1, 2))
    assert 3 < np.std(tinted - tinted.mean(1, keepdims=True)) < 9


def test_to_shrink_makes_a_line_thinner_and_mirrors_what_lies_around() -> None:
    image = surface(12)
    small = shrink(image, 0.5)
    assert (small.shape, small.dtype) == (image.shape, np.uint8)
    row = SQUARE // 2
    middle = dark(small, row)
    middle = middle[np.abs(middle - SQUARE / 2) < SQUARE / 4]
    assert 5 <= len(middle) <= 7  # 12 before
    assert middle.mean() == pytest.approx((SQUARE - 1) / 2, abs=1)
    quarter = SQUARE // 4
    np.testing.assert_array_equal(small[:, :quarter], small[:, quarter : 2 * quarter][:, ::-1])
    np.testing.assert_array_equal(small[-quarter:], small[-2 * quarter : -quarter][::-1])
    np.testing.assert_array_equal(shrink(image, 1.0), image)
    drawn = [vary(image, np.random.default_rng(k), ("scale",)) for k in range(20)]
    runs = [np.diff(np.flatnonzero(np.diff(np.pad((x[row, :, 1] < 95).astype(int), 1)))).min() for x in drawn]
    assert max(runs) <= 12
    assert min(runs) <= 7
    places = {dark(shrink(image, 0.5, np.random.default_rng(k)), row)[0] for k in range(12)}
    assert len(places) > 4  # anywhere


def test_textures_are_mixed_so_that_a_crack_stays_where_it_was() -> None:
    image, other = surface(4), np.full((SQUARE, SQUARE, 3), (200, 160, 120), np.uint8)
    other[: SQUARE // 2] -= 40
    mixed = mix_textures(image, other)
    assert (mixed.shape, mixed.dtype) == (image.shape, np.uint8)
    assert np.abs(mixed[:, :30].astype(int) - other[:, :30]).mean() < 8  # the other surface, where there is no crack
    line = slice((SQUARE - 4) // 2, (SQUARE + 4) // 2)
    share = mixed[:, line].astype(float) / other[:, line]
    assert share.max() < 0.6
    beside = np.delete(np.arange(SQUARE), np.arange(line.start - 2, line.stop + 2))
    assert (mixed[:, beside].astype(float) / other[:, beside]).min() > 0.8
    even = np.full_like(image, 90)
    assert np.abs(mix_textures(even, other).astype(int) - other).max() <= 1  # nothing to add


# ---------------------------------------------------------------- corruptions


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_keep_shape_and_follow_the_seed(kind: str) -> None:
    image = surface(6)
    before = image.copy()
    assert len(CORRUPTIONS[kind]) == 5
    np.testing.assert_array_equal(corrupt(image, kind, 0, np.random.default_rng(0)), image)
    for strength in range(1, 6):
        one, two, other = (corrupt(image, kind, strength, np.random.default_rng(k)) for k in (1, 1, 2))
        assert (one.shape, one.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(one, two)
        assert np.array_equal(one, other) == (kind != "noise")
        assert not np.array_equal(one, image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", MONOTONE)
def test_a_stronger_corruption_changes_more(kind: str) -> None:
    image = surface(6).astype(int)
    errors = [
        np.abs(corrupt(image.astype(np.uint8), kind, strength, np.random.default_rng(0)) - image).mean()
        for strength in range(6)
    ]
    assert errors[0] == 0
    assert (np.diff(errors) > 0).all(), errors


def test_corruptions_are_as_strong_as_they_say() -> None:
    flat, rng = np.full((SQUARE, SQUARE, 3), 100, np.uint8), np.random.default_rng(0)
    for strength in range(1, 6):
        value = {kind: values[strength - 1] for kind, values in CORRUPTIONS.items()}
        assert corrupt(flat, "noise", strength, rng).std() == pytest.approx(value["noise"], rel=0.1)
        darker, brighter = (corrupt(flat, kind, strength, rng) for kind in ("darker", "brighter"))
        np.testing.assert_array_equal(darker, round(100 * 2 ** -value["darker"]))
        np.testing.assert_array_equal(brighter, round(100 * 2 ** value["brighter"]))
        for kind in ("blur", "rotation", "scale"):
            np.testing.assert_allclose(corrupt(flat, kind, strength, rng), flat, atol=1)
        turned = corrupt(surface(4), "rotation", strength, rng)[..., 1] < 95
        y, x = np.nonzero(turned[20:-20, 20:-20])
        angle = np.degrees(np.arctan2(*np.linalg.eigh(np.cov(x, y))[1][::-1, -1]))
        assert abs(90 - angle % 180) == pytest.approx(value["rotation"], abs=2)
