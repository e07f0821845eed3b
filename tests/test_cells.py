"""The network of cells: its training images with their masks, its loss, going on after a kill, and its recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crackutils import config, datasets, models, training
from crackutils.detector.data import (
    _DRAWN,
    _VARIED,
    CROP,
    EACH,
    PHOTO_SEED,
    SIDE,
    SOMEWHERE,
    UNKNOWN,
    _turned,
    count_training,
    labelled_example,
    load_patches,
    make_batch,
    masked_example,
)
from crackutils.detector.last_layer import fit_last_layer
from crackutils.detector.maps import cell_maps
from crackutils.detector.runs import DETECTOR
from crackutils.detector.training import _key, cell_loss, train_detector
from crackutils.detector.variation import VARIATIONS
from crackutils.models import keras
from crackutils.recipes import RECIPES, Recipe
from crackutils.synthetic.store import Store

tf = config.tensorflow()
GRID = CROP // 16
SEED, STEPS = 7, 4
RECIPE = dataclasses.replace(DETECTOR, size=64, batch=4)
BRIGHT, DARK = 200, 30


# ---------------------------------------------------------------- helpers


def painted(count: int = 12, seed: int = 0) -> Store:
    """Return bright patches with thick dark lines, and their masks; the first shows none."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, SIDE // 4, SIDE // 4), np.uint8)
    for mask in masks[1:]:
        for _ in range(2):
            at, begin, end = rng.integers(0, 54), rng.integers(0, 20), rng.integers(36, 56)
            turned = mask if rng.random() < 0.5 else mask.T
            turned[at : at + 2, begin:end] = 255
    fine = masks.repeat(4, 1).repeat(4, 2)
    images = np.repeat(np.where(fine > 0, DARK, BRIGHT).astype(np.uint8)[..., None], 3, 3)
    facts = {"photo": np.arange(count) // 2, "label": masks.any((1, 2)).astype(int)}
    return Store(images, masks, pd.DataFrame(facts))


def darkest(image: np.ndarray) -> np.ndarray:
    """Return the darkest value of each cell."""
    return image[..., 1].reshape(GRID, 16, GRID, 16).min((1, 3))


def ramp(side: int) -> np.ndarray:
    """Return an image whose red is its column and whose green is its row."""
    column = np.arange(side, dtype=np.uint8)
    return np.stack(
        [np.tile(column, (side, 1)), np.tile(column[:, None], (1, side)), np.zeros((side, side), np.uint8)], 2
    )


def cut_out(image: np.ndarray) -> tuple[float, float, float]:
    """Return side and middle (two coordinates) of the piece of a ramp that an image shows."""
    lows, highs = image[..., :2].min((0, 1)).astype(float), image[..., :2].max((0, 1)).astype(float)
    side = (highs - lows + 1).mean()
    return side, *sorted((lows + highs) / 2)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], float]]:
    """Switch the variations off; what they were asked for is listed."""
    asked = []

    def vary(image: np.ndarray, rng: Any, kinds: Any, share: float = 1.0) -> np.ndarray:
        asked.append((tuple(kinds), share))
        return image

    monkeypatch.setattr(pipelines, "vary", vary)
    return asked


# ---------------------------------------------------------------- training images


def test_a_patch_and_its_mask_are_cut_and_turned_together(plain: list[Any]) -> None:
    kept, rng = painted(), np.random.default_rng(3)
    seen = np.zeros(3, int)
    for k in list(range(12)) * 8:
        image, found = masked_example(kept.images[k], kept.masks[k], rng)
        assert (image.shape, image.dtype, found.shape) == ((CROP, CROP, 3), np.uint8, (GRID, GRID))
        assert set(np.unique(found)) <= {1.0, 0.0, UNKNOWN}
        assert k or not found.any()
        dark = darkest(image)
        assert (dark[found == 1] < 130).all()
        assert (dark[found == 0] > 100).all()  # less than half of a pixel
        wholly = image[..., 1].reshape(GRID, 16, GRID, 16) < DARK + 30
        assert (found[wholly.sum((1, 3)) >= 30] == 1).all()  # what shows much of a crack is marked, not unknown
        seen += [(found == v).sum() for v in (1, 0, UNKNOWN)]
    assert seen[0] > 500 and seen[1] > 3000
    assert 0 < seen[2] < 0.2 * seen[0]
    assert len(plain) == 96 and len(set(plain)) == 1
    kinds, share = plain[0]
    assert set(kinds) == set(VARIATIONS) - {"scale"}  # which would move the mask
    assert share == _VARIED


def test_patches_with_masks_are_cut_larger_and_smaller_from_everywhere(plain: list[Any]) -> None:
    rng, mask = np.random.default_rng(1), np.zeros((56, 56), np.uint8)
    found = np.array([cut_out(masked_example(ramp(SIDE), mask, rng)[0]) for _ in range(300)])
    assert 108 <= found[:, 0].min() < 120  # 160 / 1.4
    assert 190 < found[:, 0].max() <= 202  # 160 / 0.8
    assert found[:, 1:].min() < 75 and found[:, 1:].max() > 149
    assert plain


def test_all_eight_ways_to_turn_an_image_occur() -> None:
    rng, marked = np.random.default_rng(0), np.zeros((4, 4), int)
    marked[0, 1], marked[0, 2] = 1, 2
    ways = []
    for _ in range(200):
        one, two = _turned(rng, marked, marked.repeat(2, 0).repeat(2, 1))
        np.testing.assert_array_equal(one.repeat(2, 0).repeat(2, 1), two)
        assert one.flags.c_contiguous
        ways.append(one.tobytes())
    assert len(set(ways)) == 8
    assert min(ways.count(way) for way in set(ways)) > 8


@pytest.mark.parametrize("centred", [True, False])
def test_images_without_a_mask_are_cut_alike_whatever_their_label(centred: bool, plain: list[Any]) -> None:
    rng, side = np.random.default_rng(2), 227
    boxes: dict[int, Any] = {0: [], 1: []}
    for label, value in ((0, 0.0), (1, SOMEWHERE)):
        for _ in range(300):
            image, found = labelled_example(ramp(side), label, centred, rng)
            assert (image.shape, image.dtype) == ((CROP, CROP, 3), np.uint8)
            np.testing.assert_array_equal(found, np.full((GRID, GRID), value))
            boxes[label].append(cut_out(image))
        boxes[label] = np.array(boxes[label])
    assert set(plain) == {(VARIATIONS, _VARIED)}
    if not centred:  # a crack in a corner must not be cut off
        assert min(found[:, 0].min() for found in boxes.values()) > side - 4
        return
    for found in boxes.values():
        assert 0.625 * side - 4 <= found[:, 0].min() < 0.625 * side + 12
        assert 0.2 < (found[:, 0] > side - 3).mean() < 0.45
    sides = [np.sort(found[:, 0]) for found in boxes.values()]
    assert np.abs(sides[0] - sides[1]).max() < 0.08 * side  # sharpness and size tell no label
    off = [np.abs(found[:, 1:] - (side - 1) / 2).max() for found in boxes.values()]
    assert off[1] < 0.19 * side  # cracks are in the middle


def test_variations_reach_the_images() -> None:
    kept = painted()
    one, two = (masked_example(kept.images[0], kept.masks[0], np.random.default_rng(k))[0] for k in (0, 1))
    assert one.mean() != pytest.approx(two.mean(), abs=0.5)  # both were of one colour
    one, two = (labelled_example(kept.images[0], 1, True, np.random.default_rng(k))[0] for k in (0, 1))
    assert one.mean() != pytest.approx(two.mean(), abs=0.5)


# ---------------------------------------------------------------- batches


def greys(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return images that are as bright as their number, and labels."""
    level = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(level, (count, 64, 64, 3)).copy(), np.arange(count) % 3 % 2


@pytest.mark.usefixtures("plain")
def test_part_of_a_batch_has_masks_and_the_rest_is_of_the_rows_that_were_asked_for() -> None:
    images, labels = greys()
    rows, kept = np.arange(5, 35), painted()
    used, marked, made = set(), 0, round(_DRAWN * 4)
    assert 0 < made < 4
    kept.images[count_training(kept) :] = 0  # photos that are not for training
    for seed in range(20):
        x, y = make_batch(RECIPE, images, labels, rows, kept, (1, seed))
        assert (x.shape, x.dtype) == ((4, CROP, CROP, 3), np.float32)
        assert (y.shape, y.dtype) == ((4, GRID, GRID, 1), np.float32)
        assert (x[:made].max((1, 2, 3)) > 150).all()  # patches with masks come first
        marked += (y[:made] == 1).sum()
        assert not (y[:made] == SOMEWHERE).any()
        for image, found in zip(x[made:], y[made:], strict=True):
            row = int(image[0, 0, 0])
            assert (image == row).all()
            assert (found == (SOMEWHERE if labels[row] else 0)).all()
            used.add(row)
    assert marked > 100
    assert used <= set(rows) and len(used) > 15


@pytest.mark.usefixtures("plain")
def test_without_patches_all_of_a_batch_are_labelled_images() -> None:
    x, y = make_batch(dataclasses.replace(RECIPE, batch=7), *greys(), np.arange(40), None, 3)
    assert (x.shape, y.shape) == ((7, CROP, CROP, 3), (7, GRID, GRID, 1))
    assert x.max() < 40
    assert set(np.unique(y)) == {SOMEWHERE, 0.0}


def test_nine_photos_in_ten_are_for_training() -> None:
    kept = painted(6)
    for photos, count in (([0, 0, 1, 2, 2, 2], 3), ([*range(0, 40, 2)], 18), ([0] * 5 + [1] * 7 + [*range(2, 20)], 28)):
        facts = pd.DataFrame({"photo": photos})
        found = count_training(dataclasses.replace(kept, facts=facts))
        assert found == count
        assert not set(photos[:found]) & set(photos[found:])


def test_the_seed_decides_a_batch() -> None:
    kept, (images, labels) = painted(), greys()

    def bytes_of(seed: Any) -> list[bytes]:
        return [part.tobytes() for part in make_batch(RECIPE, images, labels, np.arange(40), kept, seed)]

    first = bytes_of((SEED, 3))
    assert bytes_of((SEED, 3)) == first
    for other in ((SEED, 4), (SEED + 1, 3)):
        assert all(a != b for a, b in zip(bytes_of(other), first, strict=True))


def test_what_is_drawn_for_training_is_of_no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(synthetic, "store", lambda *args, **options: asked.append((args, options)))
    load_patches(config.profile("smoke"))
    assert asked == [((PHOTO_SEED, config.profile("smoke").cells[1], EACH, SIDE), {"thin": True})]
    from tools.pretraining import Schedule

    used = {entry["seed"] for entry in datasets.sources().values() if "seed" in entry}
    assert used and PHOTO_SEED not in used | {Schedule().seed}


# ---------------------------------------------------------------- the loss


def losses(y: np.ndarray, z: np.ndarray, share: float = 0.06) -> np.ndarray:
    shape = (-1, GRID, GRID, 1)
    y, z = (tf.constant(np.asarray(part, np.float32).reshape(shape)) for part in (y, z))
    return np.asarray(cell_loss(share)(y, z))


def slopes(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the gradient of the loss of one image in its cells."""
    z = tf.constant(np.asarray(z, np.float32).reshape(1, GRID, GRID, 1))
    with tf.GradientTape() as tape:
        tape.watch(z)
        found = cell_loss(0.06)(tf.constant(np.asarray(y, np.float32).reshape(z.shape)), z)
    return np.asarray(tape.gradient(found, z)).reshape(-1)


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def test_the_loss_is_that_computed_by_hand() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (5, 100))
    y = np.zeros((5, 100))
    y[1] = SOMEWHERE
    y[2, :10], y[2, 10:20] = 1, UNKNOWN
    y[3, :3] = 1
    y[4, :5] = UNKNOWN
    top = np.sort(z, 1)[:, -6:].mean(1)
    expected = [
        softplus(z[0]).mean() + 0.5 * softplus(top[0]),
        0.5 * softplus(-top[1]),
        (3 * softplus(-z[2, :10]).sum() + softplus(z[2, 20:]).sum()) / 100 + 0.5 * softplus(-top[2]),
        (3 * softplus(-z[3, :3]).sum() + softplus(z[3, 3:]).sum()) / 100,  # six cells would decide, three are cracked
        softplus(z[4, 5:]).sum() / 100,  # neither cracked nor free of cracks
    ]
    np.testing.assert_allclose(losses(y, z), expected, rtol=1e-5)
    y, z = np.full((1, 100), SOMEWHERE), np.arange(100) / 10
    np.testing.assert_allclose(losses(y, z, 0.5), 0.5 * softplus(-z[50:].mean()), rtol=1e-5)


def test_unknown_cells_do_not_count() -> None:
    y, z = np.zeros(100), np.random.default_rng(1).normal(size=100)
    y[:3], y[3:30] = 1, UNKNOWN
    other = z.copy()
    other[3:30] += 5
    assert losses(y, other) == losses(y, z)
    assert not slopes(y, z)[3:30].any()
    other[30] += 1
    assert losses(y, other) != losses(y, z)


def test_somewhere_pulls_the_top_cells_up_and_a_free_image_all_cells_down() -> None:
    z = np.random.default_rng(2).normal(size=100)
    top = np.zeros(100, bool)
    top[np.argsort(z)[-6:]] = True
    found = slopes(np.full(100, SOMEWHERE), z)
    assert (found[top] < 0).all()
    assert not found[~top].any()
    found = slopes(np.zeros(100), z)
    assert (found > 0).all()
    assert found[top].min() > found[~top].max()


@pytest.mark.parametrize(("count", "with_image"), [(1, False), (5, False), (6, True), (40, True)])
def test_an_image_counts_as_cracked_where_enough_of_its_cells_are(count: int, with_image: bool) -> None:
    y, z = np.zeros(100), np.random.default_rng(3).normal(size=100)
    y[:count] = 1
    cell = (3 * softplus(-z[:count]).sum() + softplus(z[count:]).sum()) / 100
    image = 0.5 * softplus(-np.sort(z)[-6:].mean())
    np.testing.assert_allclose(losses(y, z), cell + image * with_image, rtol=1e-5)


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def task(smoke: datasets.Dataset) -> tuple[datasets.Dataset, pd.DataFrame, Store]:
    """Twenty of the smoke images, of which twelve are for training, and patches with masks."""
    rows = np.concatenate([np.flatnonzero(smoke.index["label"] == k)[:10] for k in (0, 1)])
    index = smoke.index.iloc[rows].reset_index(drop=True)
    ds = dataclasses.replace(smoke, index=index, grey=np.array(smoke.grey[rows]), colour=np.array(smoke.colour[rows]))
    split = np.array((["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 2)
    return ds, index[["file", "label"]].assign(split=split, group=np.arange(len(index))), painted()


def train(task: Any, folder: Path, recipe: Recipe = RECIPE, seed: int = SEED, steps: int = STEPS) -> Any:
    return train_detector(recipe, *task, folder, seed, "crackutils", steps)


def weights_of(model: Any) -> list[bytes]:
    return [np.array(w).tobytes() for w in model.weights]


@pytest.fixture(scope="module")
def whole(task: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An uninterrupted training, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRACKUTILS_DATA_DIR", str(folder.parent / "data"))
        return train(task, folder), folder


def test_a_training_gives_the_network_at_the_size_of_the_recipe(whole: Any) -> None:
    trained, folder = whole
    model = trained.model
    assert model.input_shape == (None, 64, 64, 3)
    start, loaded = models.build(RECIPE, "crackutils", SEED)
    assert trained.loaded == loaded
    norms = keras.layers.BatchNormalization
    for a, b in zip(models.backbone_of(start).layers, models.backbone_of(model).layers, strict=True):
        same = [np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True)]
        assert all(same) if isinstance(a, norms) else not any(same), a.name
    kernel, bias = model.get_layer("p_crack").get_weights()
    assert (kernel[0, 0], bias[0]) == (1, 0)
    assert not kernel[1:].any()
    assert not np.array_equal(*(m.get_layer("cells").get_weights()[0] for m in (start, model)))
    assert list(trained.history["step"]) == [STEPS]
    (stage,) = trained.stages
    assert (stage["name"], stage["steps"], stage["kept"]) == ("cells", STEPS, True)
    assert np.isfinite(stage["loss"])
    assert stage["loss"] == trained.history["loss"].iloc[-1]
    assert trained.seconds["cells"] > 0
    assert {p.name for p in folder.iterdir()} == {"done.json", f"step-{STEPS}.weights.h5", "final.weights.h5"}


def test_the_same_training_again_gives_the_same_bytes_and_another_seed_others(
    whole: Any, task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = train(task, tmp_path / "run")
    assert weights_of(again.model) == weights_of(whole[0].model)
    assert again.history.equals(whole[0].history)
    capsys.readouterr()
    rest = train(task, tmp_path / "run")  # there is nothing left to do
    assert f"going on after step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert weights_of(rest.model) == weights_of(again.model)
    other = train(task, tmp_path / "run", seed=SEED + 1)  # finds the checkpoint of the first one, and leaves it
    assert "going on" not in capsys.readouterr().out
    assert weights_of(other.model) != weights_of(again.model)
    assert json.loads((tmp_path / "run" / "done.json").read_text("utf-8"))["steps"][0]["step"] == STEPS


def killed(task: Any, folder: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until a kill in the second of two chunks."""
    calls: list[int] = []

    def second(inner: Callable[..., Any], half_written: bool = False) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                if half_written:
                    inner(*args, **options)
                    file = Path(args[1])
                    file.write_bytes(file.read_bytes()[:5000])
                raise KeyboardInterrupt
            return inner(*args, **options)

        return wrapped

    with monkeypatch.context() as patch:
        if when == "in training":
            patch.setattr(keras.Model, "fit", second(keras.Model.fit))
        else:
            patch.setattr(keras.Model, "save_weights", second(keras.Model.save_weights, half_written=True))
        with pytest.raises(KeyboardInterrupt):
            train(task, folder)
    assert len(calls) == 2


@pytest.mark.parametrize("when", ["in training", "in writing"])
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    when: str,
    whole: Any,
    task: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "_CHUNK", 2)
    folder = tmp_path / "run"
    killed(task, folder, when, monkeypatch)
    expected = {"done.json", "step-2.weights.h5"} | ({"step-4.weights.h5"} if when != "in training" else set())
    assert {p.name for p in folder.iterdir()} == expected
    capsys.readouterr()
    trained = train(task, folder)
    said = capsys.readouterr().out
    assert "going on after step 2 of 4" in said
    assert "step 4 of 4: loss" in said and "step 2 of 4: loss" not in said
    assert weights_of(trained.model) == weights_of(whole[0].model)
    assert list(trained.history["step"]) == [2, 4]
    assert trained.history["loss"].mean() == pytest.approx(whole[0].history["loss"].iloc[0], abs=1e-4)
    assert {p.name for p in folder.iterdir()} == {"done.json", "step-4.weights.h5", "final.weights.h5"}


def test_it_trains_without_patches_and_not_on_test_images(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, manifest, _ = task
    asked, batch = [], make_batch

    def watched(recipe: Recipe, images: Any, labels: Any, rows: Any, kept: Any, seed: Any, centred: bool) -> Any:
        asked.append((rows.tolist(), kept, seed, centred))
        return batch(recipe, images, labels, rows, kept, seed, centred)

    monkeypatch.setattr(cells, "batch", watched)
    trained = train((ds, manifest, None), tmp_path / "run", steps=2)
    rows = np.flatnonzero(manifest["split"] == "train").tolist()
    assert asked == [(rows, None, (SEED, 0), True), (rows, None, (SEED, 1), True)]
    assert np.isfinite(trained.stages[0]["loss"])


def test_one_class_is_not_enough(task: Any, tmp_path: Path) -> None:
    ds, manifest, kept = task
    few = manifest.assign(split=manifest["split"].where(manifest["label"] == 1, "test"))
    with pytest.raises(config.CrackutilsError, match=r"^The training images are all of one class; .* both\.$"):
        train((ds, few, kept), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_key_of_a_checkpoint_holds_all_that_its_bytes_depend_on(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, manifest, kept = task
    loaded = {"weights": "crackutils", "file": "a.npz", "sha256": "1" * 64}

    def key(
        recipe: Recipe = RECIPE, ds: Any = ds, table: Any = manifest, kept: Any = kept, seed: int = 1, steps: int = 4,
        **changed: str,
    ) -> str:  # fmt: skip
        return _key(recipe, ds, table, kept, seed, loaded | changed, steps)

    first = key()
    assert key() == first
    assert key(file="b.npz") == first  # the same bytes under another name
    moved = manifest.assign(split=manifest["split"].replace("val", "train"))
    others = [
        key(dataclasses.replace(RECIPE, batch=16)),
        key(dataclasses.replace(RECIPE, cells=0.1)),
        key(ds=dataclasses.replace(ds, index=ds.index.iloc[:-1])),
        key(table=moved),
        key(table=manifest.assign(label=1 - manifest["label"])),
        key(kept=None),
        key(kept=painted(seed=1)),
        key(seed=2),
        key(steps=5),
        key(sha256="2" * 64),
        key(weights="random"),
    ]
    for name, value in (("code_hash", "other code"), ("versions", {"keras": "4"})):
        with monkeypatch.context() as patch:
            patch.setattr(results, name, lambda value=value: value)
            others.append(key())
    assert len({first, *others}) == 14


# ---------------------------------------------------------------- maps


@pytest.fixture
def network() -> Any:
    return models.build(dataclasses.replace(DETECTOR, size=96), "crackutils", 1)[0]


def test_maps_are_what_the_probability_is_made_of(smoke: datasets.Dataset, network: Any) -> None:
    rows = np.random.default_rng(0).permutation(len(smoke.index))[:35]  # a whole batch and a part of one
    found = cell_maps(network, smoke, rows, 96)
    assert (found.shape, found.dtype) == ((35, 6, 6), np.float32)
    x = np.stack([smoke.read(row, 96) for row in rows]).astype(np.float32)
    p = network.predict_on_batch(x)[:, 0]
    top = np.sort(found.reshape(35, -1), 1)[:, -2:].mean(1)
    np.testing.assert_allclose(1 / (1 + np.exp(-top)), p, atol=1e-5)
    assert p.std() > 0.01


# ---------------------------------------------------------------- the recipe


def test_the_last_layer_is_fitted_to_home_and_patches_and_found_again(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, manifest, kept = task
    model, loaded = models.build(RECIPE, "crackutils", SEED)
    trained = training.Trained(model, loaded, pd.DataFrame(), [], {})
    rows = np.flatnonzero(manifest["split"] == "train")
    y = ds.index["label"].to_numpy()[rows]

    x = np.stack([ds.read(row, RECIPE.size) for row in rows]).astype(np.float32)

    def loss() -> float:
        p = np.clip(np.asarray(model.predict_on_batch(x))[:, 0].astype(float), 1e-7, 1 - 1e-7)
        return float(-np.log(np.where(y == 1, p, 1 - p)).mean())

    before = loss()
    told = fit_last_layer(trained, RECIPE, ds, manifest, kept, tmp_path, SEED)
    assert told["images"] == len(rows) and told["patches"] == count_training(kept)
    assert loss() < before
    fitted = model.get_layer("p_crack").get_weights()
    model.get_layer("p_crack").set_weights([np.eye(len(fitted[0]), 1, dtype=np.float32), np.zeros(1, np.float32)])
    monkeypatch.setattr(cells, "_seen", None)  # what was computed before a kill is not computed again
    fit_last_layer(trained, RECIPE, ds, manifest, kept, tmp_path, SEED)
    np.testing.assert_array_equal(model.get_layer("p_crack").get_weights()[0], fitted[0])


def test_recipes_without_cells_are_told_as_before() -> None:
    for recipe in RECIPES.values():
        assert "cells" not in recipe.as_dict()  # metrics.json of earlier runs compare equal
        assert recipe.cells == 0
        assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_the_recipe_comes_back_from_json_and_is_of_no_other_notebook() -> None:
    told = DETECTOR.as_dict()
    assert told["cells"] == DETECTOR.cells > 0
    assert Recipe.from_dict(json.loads(json.dumps(told))) == DETECTOR
    assert {f.name for f in dataclasses.fields(DETECTOR)} == set(told)
    assert DETECTOR.name not in RECIPES
    assert DETECTOR.family not in {r.family for r in RECIPES.values()}
    assert DETECTOR.size % 16 == 0
    assert DETECTOR.batch % 2 == 0
