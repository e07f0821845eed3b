"""Features: computed once for each content of a file, equal to what the network gives; and heads fitted to them."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crackutils import config, datasets, models, training
from crackutils.images import read_image
from crackutils.inference.engines import Engine
from crackutils.inference.features import Features, frozen_features
from crackutils.linear import STRENGTHS, choose_penalty, class_weights, fit_linear_head
from crackutils.metrics import score_predictions
from crackutils.recipes import RECIPES
from crackutils.runs import open_run
from crackutils.splits.make import make_split

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
USUAL = {"backbone": "mobilenetv2", "size": 64, "weights": "crackutils"}


@pytest.fixture
def distinct(smoke: datasets.Dataset) -> datasets.Dataset:
    """The first smoke images of different contents."""
    index = smoke.index.drop_duplicates("sha256").head(40)
    pixels = {"grey": smoke.grey[index.index], "colour": smoke.colour[index.index]}
    return dataclasses.replace(smoke, index=index.reset_index(drop=True), **pixels)


def features_of(ds: datasets.Dataset, rows: Any, **options: Any) -> Features:
    return frozen_features(ds, np.asarray(rows), **USUAL | options)


def test_features_are_what_the_backbone_gives(distinct: datasets.Dataset) -> None:
    found = features_of(distinct, range(10))
    base = models.build_backbone("mobilenetv2", 64, "crackutils")
    maps = base.predict_on_batch(distinct.pixels(64)[:10].astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(found.x, maps.mean((1, 2)), atol=1e-4)
    assert found.x.dtype == np.float32
    weights = models.weights_facts("mobilenetv2", 64, "crackutils")["sha256"]
    assert {"engine": "litert", "weights": weights, "size": 64}.items() <= found.facts.items()
    assert (found.seconds > 0).all() and found.rate == pytest.approx(1 / found.seconds.mean())
    with pytest.raises(config.CrackutilsError, match="WEIGHTS=random"):
        features_of(distinct, range(2), weights="random")


def test_an_image_costs_once(distinct: datasets.Dataset, computed: list[int]) -> None:
    first = features_of(distinct, [4, 2, 7])
    again = features_of(distinct, [7, 2, 4])
    assert computed == [4, 2, 7]
    np.testing.assert_array_equal(again.x, first.x[::-1])
    np.testing.assert_array_equal(again.seconds, first.seconds[::-1])  # what they cost when they were computed
    further = features_of(distinct, [2, 9])  # one added
    assert computed == [4, 2, 7, 9]
    np.testing.assert_array_equal(further.x[0], first.x[1])


def test_a_changed_image_costs_itself_and_a_copy_nothing(tree: Any, computed: list[int]) -> None:
    folder, own = tree(datasets.raw_folder("own"), count=4), config.profile("own")
    first = features_of(datasets.load(own), range(8))
    assert computed == list(range(8))
    del computed[:]
    (folder / "Positive" / "00002.jpg").write_bytes((folder / "Negative" / "00001.jpg").read_bytes())
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(folder / "Negative" / "00003.jpg")
    ds = datasets.load(own)
    second = features_of(ds, range(8))
    assert [ds.index["file"].iloc[row] for row in computed] == ["Negative/00003.jpg"]
    assert np.flatnonzero(~np.isclose(second.x, first.x).all(1)).tolist() == [2, 5]
    np.testing.assert_array_equal(second.x[5], second.x[0])
    assert second.seconds[5] == 0 < second.seconds[0]


@pytest.mark.parametrize("other", [{"engine": "tensorflow"}, {"size": 96}, {"scaling": (1 / 255, 0.0)}])
def test_others_are_cached_apart(other: Any, distinct: Any, computed: list[int], monkeypatch: Patch) -> None:
    first = features_of(distinct, range(2))
    if "scaling" in other:
        entry = dataclasses.replace(models.BACKBONES["mobilenetv2"], rescaling=other.pop("scaling"))
        monkeypatch.setitem(models.BACKBONES, "mobilenetv2", entry)
    second = features_of(distinct, range(2), **other)
    assert computed == [0, 1, 0, 1] and not np.array_equal(first.x, second.x)
    assert len(list((config.data_dir() / "cache" / "features").glob("*/made_from.json"))) == 2


def test_a_kill_loses_little(distinct: datasets.Dataset, computed: list[int], monkeypatch: Patch) -> None:
    monkeypatch.setattr("crackutils.inference.features.SHARD", 8)
    last = (distinct.folder / distinct.index["file"].iloc[20]).read_bytes()

    def dies(data: bytes, size: int) -> np.ndarray:
        if data == last:
            raise KeyboardInterrupt
        return read_image(data, size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("crackutils.inference.features.read_image", dies)
        features_of(distinct, range(24))
    del computed[:]
    whole = features_of(distinct, range(24))
    assert computed == list(range(16, 24))
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(config.data_dir() / "other"))
    np.testing.assert_array_equal(features_of(distinct, range(24)).x, whole.x)


def test_damaged_files_are_computed_again(distinct: datasets.Dataset, computed: list[int]) -> None:
    first = features_of(distinct, range(4))
    for length in (0, 100, 5000):
        (file,) = (config.data_dir() / "cache" / "features").rglob("*.npy")
        file.write_bytes(file.read_bytes()[:length])
        np.testing.assert_array_equal(features_of(distinct, range(4)).x, first.x)
    assert computed == [0, 1, 2, 3] * 4


@pytest.mark.parametrize("content", [None, b"other"])
def test_an_image_that_is_not_the_indexed_one_is_named(content: bytes | None, tree: Any) -> None:
    file = tree(datasets.raw_folder("own")) / "Positive" / "00002.jpg"
    ds = datasets.load(config.profile("own"))
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(config.CrackutilsError, match=r"Positive/00002\.jpg has changed since it was indexed; load the"):
        features_of(ds, range(6))


def heaps(n: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Features of two overlapping classes, on very different scales, and one that is constant."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(0, 1, (n, 6)) + np.outer(y, [1.5, 0, 0, 0, 0, 0])
    x = x * [1, 10, 0.01, 1, 1, 0] + [0, 50, 0, -3, 0, 2]
    return x.astype(np.float32), np.where(rng.random(n) < noise, 1 - y, y)


def test_the_head_is_scikit_learns_with_the_scaling_inside() -> None:
    overlapping = *heaps(400, 1, 0.1), *heaps(200, 2, 0.1)
    many = np.random.default_rng(0).normal(size=(600, 100)).astype(np.float32)
    truth = (many[:, 0] + 0.5 * many[:, 1] > 0).astype(int)
    separable = many[:400], truth[:400], many[400:], truth[400:]  # where convergence takes long
    for x, y, val_x, val_y in (overlapping, separable):
        head = fit_linear_head(x, y, val_x, val_y, 1000)
        row = head.tried.iloc[choose_penalty(head.tried["val_loss"])]
        exact = LogisticRegression(C=row["C"], tol=1e-8, max_iter=5000)
        theirs = make_pipeline(StandardScaler(), exact).fit(x.astype(np.float64), y)
        np.testing.assert_allclose(head.probabilities(val_x), theirs.predict_proba(val_x)[:, 1], atol=1e-3)
        loss = score_predictions(val_y, head.probabilities(val_x))["loss"]
        assert row["val_loss"] == loss <= 1.02 * head.tried["val_loss"].min()
        assert list(head.tried["C"]) == list(STRENGTHS) and (head.tried["iterations"] < 1000).all()
    # a feature that fires once does not outweigh the others
    x, y, val_x, val_y = overlapping
    x, val_x = (np.c_[part, np.zeros(len(part), np.float32)] for part in (x, val_x))
    x[7, -1] = 0.01
    assert abs(fit_linear_head(x, y, val_x, val_y, 1000).weights[-1]) < 20  # a value of 1 there decides nothing alone


def test_validation_chooses_the_penalty() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 60)).astype(np.float32)  # more features than images: anything can be learnt by heart
    y, val_x = rng.integers(0, 2, 40), rng.normal(size=(400, 60)).astype(np.float32)
    noise = fit_linear_head(x, y, val_x, rng.integers(0, 2, 400), 1000)
    assert choose_penalty(noise.tried["val_loss"]) == 0  # the strictest
    assert [choose_penalty([0.9, almost, 0.5, 0.5]) for almost in (0.51, 0.511)] == [1, 2]  # within 2 % of the lowest
    with pytest.raises(config.CrackutilsError, match="all of one class"):
        fit_linear_head(x, np.zeros(40, int), x, y, 10)


def test_a_rare_class_counts_as_much_as_the_other() -> None:
    assert class_weights(np.repeat([0, 1], [90, 10])) is None and class_weights(np.zeros(9, int)) is None
    assert class_weights(np.repeat([0, 1], [190, 10])) == {0: 200 / 380, 1: 10.0}
    x, y = np.random.default_rng(0).normal(0, 1, (400, 1)).astype(np.float32), np.repeat([0, 1], [388, 12])
    x[y == 1] += 2
    called = fit_linear_head(x, y, x, y, 1000).probabilities(x) >= 0.5
    assert called[y == 1].mean() > 0.7 and called[y == 0].mean() < 0.3  # without weights next to none is called
    assert choose_penalty(fit_linear_head(*heaps(400, 1, 0.0), *heaps(400, 2, 0.0), 1000).tried["val_loss"]) > 0


def test_a_linear_recipe_from_features_to_pixels(smoke: datasets.Dataset, capsys: Capture) -> None:
    """The head that is fitted to features gives, in the recipe's network, the same probabilities from pixels."""
    recipe, manifest = RECIPES["mobilenetv2-linear"], make_split(smoke, "copy-safe", 1337)
    run = open_run("03_transfer_learning", config.profile("smoke"), recipe=recipe)
    features = frozen_features(smoke, manifest.index, recipe.backbone, recipe.size, "crackutils")

    def train() -> training.Trained:
        model = recipe.build(1337, "crackutils")
        fit = training.Training(model, recipe, smoke, manifest, run, features.facts)
        train, val = fit.rows["train"], fit.rows["val"]
        for stage in fit.stages():
            x, y = features.x, fit.labels
            head = fit_linear_head(x[train], y[train], x[val], y[val], stage.epochs)
            fit.model.layers[-1].set_weights([head.weights[:, None], np.float32([head.bias])])
            fit.keep(stage, head.tried.to_dict("list"), 5.0)
        return fit.result()

    trained, again = train(), train()  # the second takes the checkpoint
    assert "finished before" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again.history, trained.history, check_exact=True)
    assert again.seconds == trained.seconds and trained.seconds["linear head"] > 5
    (stage,) = trained.stages
    best = trained.history.iloc[stage["best_epoch"] - 1]
    assert (stage["best_val_loss"], stage["C"]) == (best["val_loss"], best["C"])
    assert stage["best_epoch"] == 1 + choose_penalty(trained.history["val_loss"])
    rows = np.flatnonzero(manifest["split"].isin(["val", "test"]))
    assert not list(config.data_dir().rglob("pixels-*"))  # nothing was decoded twice
    kernel, bias = again.model.layers[-1].get_weights()
    p = 1 / (1 + np.exp(-features.x[rows] @ kernel[:, 0] - bias[0]))
    np.testing.assert_allclose(training.predict_rows(again.model, smoke, rows)[0], p, atol=1e-4)
    assert p.std() > 0.1


def test_another_version_of_an_engine_is_cached_apart(distinct: Any, computed: list[int], monkeypatch: Patch) -> None:
    features_of(distinct, range(2))
    newer = property(lambda e: {"engine": e.name, "version": "99", "precision": e.precision})
    monkeypatch.setattr(Engine, "facts", newer)
    features_of(distinct, range(2))
    assert computed == [0, 1, 0, 1]
