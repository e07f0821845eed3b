"""Features: computed once for each content of a file, equal to what the network gives, and the head fitted to them."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config, datasets, models, training
from crackutils.batches import make_batches, predict
from crackutils.inference.features import VIEWS, Features, frozen_features, turned
from crackutils.linear import _TOLERANCE, STRENGTHS, fit_linear_head
from crackutils.metrics import score_predictions
from crackutils.recipes import RECIPES, Recipe, Stage, choose_recipe
from crackutils.runs import Run, open_run
from crackutils.splits.make import make_split

LINEAR = dataclasses.replace(RECIPES["mobilenetv2-linear"], size=64)


@pytest.fixture
def distinct(smoke: datasets.Dataset) -> datasets.Dataset:
    """The first smoke images of different contents."""
    index = smoke.index.drop_duplicates("sha256").head(40)
    rows = index.index.to_numpy()
    grey, colour = smoke.grey[rows], smoke.colour[rows]
    return dataclasses.replace(smoke, index=index.reset_index(drop=True), grey=grey, colour=colour)


def of(ds: datasets.Dataset, rows: Any, **options: Any) -> Features:
    return frozen_features(ds, np.asarray(rows), "mobilenetv2", 64, "crackutils", **options)


def test_features_are_what_the_backbone_gives(distinct: datasets.Dataset) -> None:
    found = of(distinct, range(10))
    base, loaded = models.build_backbone("mobilenetv2", 64, "crackutils")
    maps = base.predict_on_batch(distinct.pixels(64)[:10].astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(found.x, maps.mean((1, 2)), atol=1e-4)
    assert found.x.dtype == np.float32
    assert found.facts["weights"] == loaded["sha256"]
    assert found.facts["engine"] == "litert"
    assert (found.seconds > 0).all()
    assert found.rate == pytest.approx(1 / found.seconds.mean())


def test_an_image_costs_once(distinct: datasets.Dataset, computed: list[int]) -> None:
    first = of(distinct, [4, 2, 7])
    assert computed == [4, 2, 7]
    again = of(distinct, [7, 2, 4])
    assert computed == [4, 2, 7]
    np.testing.assert_array_equal(again.x, first.x[::-1])
    np.testing.assert_array_equal(again.seconds, first.seconds[::-1])  # what they cost when it was done
    further = of(distinct, [2, 9])  # one added
    assert computed == [4, 2, 7, 9]
    np.testing.assert_array_equal(further.x[0], first.x[1])


def test_a_changed_image_costs_itself_and_a_copy_nothing(tree: Any, computed: list[int]) -> None:
    folder = tree(datasets.raw_folder("own"), count=4)
    own = config.profile("own")
    first = of(datasets.load(own), range(8))
    assert computed == list(range(8))
    del computed[:]
    (folder / "Positive" / "00002.jpg").write_bytes((folder / "Negative" / "00001.jpg").read_bytes())
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(folder / "Negative" / "00003.jpg")
    ds = datasets.load(own)
    second = of(ds, range(8))
    assert [ds.index["file"].iloc[row] for row in computed] == ["Negative/00003.jpg"]
    same = np.isclose(second.x, first.x).all(1)
    assert same.tolist() == [True, True, False, True, True, False, True, True]
    np.testing.assert_array_equal(second.x[5], second.x[0])
    assert second.seconds[5] == 0 < second.seconds[0]


@pytest.mark.parametrize(
    "other",
    [
        {"view": 3},
        {"engine": "tensorflow"},
        {"size": 96},
        {"scaling": (1 / 255, 0.0)},
    ],
)
def test_other_circumstances_are_kept_apart(
    other: dict[str, Any], distinct: datasets.Dataset, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"backbone": "mobilenetv2", "size": 64, "weights": "crackutils"}
    first = frozen_features(distinct, np.arange(2), **usual)
    if "scaling" in other:
        entry = dataclasses.replace(models.BACKBONES["mobilenetv2"], rescaling=other.pop("scaling"))
        monkeypatch.setitem(models.BACKBONES, "mobilenetv2", entry)
    second = frozen_features(distinct, np.arange(2), **usual | other)
    assert computed == [0, 1, 0, 1]
    assert not np.array_equal(first.x, second.x)
    folders = list((config.data_dir() / "cache" / "features").iterdir())
    assert len(folders) == 2
    assert all((folder / "made_with.json").is_file() for folder in folders)


def test_a_kill_loses_little(distinct: datasets.Dataset, computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_SHARD", 8)
    decode, last = features.read_image, distinct.folder / distinct.index["file"].iloc[20]

    def dies(data: bytes, size: int) -> np.ndarray:
        if data == last.read_bytes():
            raise KeyboardInterrupt
        return decode(data, size)

    with monkeypatch.context() as patch:
        patch.setattr(features, "read_image", dies)
        with pytest.raises(KeyboardInterrupt):
            of(distinct, range(24))
    del computed[:]
    whole = of(distinct, range(24))
    assert computed == list(range(16, 24))
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(config.data_dir() / "other"))
    np.testing.assert_array_equal(of(distinct, range(24)).x, whole.x)


@pytest.mark.parametrize("what", ["keys cut", "features cut", "features gone"])
def test_damaged_files_are_computed_again(what: str, distinct: datasets.Dataset, computed: list[int]) -> None:
    first = of(distinct, range(4))
    (keys,) = (config.data_dir() / "cache" / "features").rglob("*.keys.npy")
    x = keys.with_name(keys.name.replace(".keys.", ".x."))
    if what == "features gone":
        x.unlink()
    else:
        file = keys if what == "keys cut" else x
        file.write_bytes(file.read_bytes()[:100])
    del computed[:]
    np.testing.assert_array_equal(of(distinct, range(4)).x, first.x)
    assert computed == [0, 1, 2, 3]


CHILD = """
import pickle, sys
from crackutils import config
config.start("smoke")
from crackutils import features
features._SHARD = 4
ds, rows = pickle.load(open(sys.argv[1], "rb"))
sys.stdin.readline()
print("sum", features.of(ds, rows, "mobilenetv2", 64, "crackutils").x.sum(dtype=float))
"""


def test_two_processes_at_once_do_each_other_no_harm(distinct: datasets.Dataset, tmp_path: Path) -> None:
    task = tmp_path / "task.pickle"
    task.write_bytes(pickle.dumps((distinct, np.arange(20))))
    command = [sys.executable, "-c", CHILD, str(task)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [subprocess.Popen(command, cwd=config.ROOT, text=True, **pipes) for _ in range(2)]
    told = [child.communicate("go\n", timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    sums = {line for out, _ in told for line in out.splitlines() if line.startswith("sum")}
    assert len(sums) == 1
    assert not list((config.data_dir() / "cache").rglob("*.part"))


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_an_image_that_is_not_the_indexed_one_is_named(what: str, tree: Any) -> None:
    folder = tree(datasets.raw_folder("own"))
    ds = datasets.load(config.profile("own"))
    file = folder / "Positive" / "00002.jpg"
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes((folder / "Positive" / "00001.jpg").read_bytes())
    with pytest.raises(
        config.CrackutilsError, match=r"Positive/00002\.jpg is not the file that was indexed; load the images"
    ):
        of(ds, range(6))


def test_random_weights_have_no_features(distinct: datasets.Dataset) -> None:
    with pytest.raises(config.CrackutilsError, match="WEIGHTS=random"):
        frozen_features(distinct, np.arange(2), "mobilenetv2", 64, "random")
    with pytest.raises(config.CrackutilsError, match="RECIPE=mobilenetv2-linear needs a backbone that has learnt"):
        choose_recipe("mobilenetv2-linear", "transfer", config.profile("smoke"), weights="random")


def test_views_turn_and_mirror() -> None:
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    views = [turned(image, view) for view in range(VIEWS)]
    assert len({view.tobytes() for view in views}) == VIEWS
    np.testing.assert_array_equal(views[0], image)
    np.testing.assert_array_equal(views[2], image[::-1, ::-1])
    np.testing.assert_array_equal(views[4], image[:, ::-1])
    assert all(sorted(view.ravel()) == sorted(image.ravel()) for view in views)


def test_a_view_that_is_none_is_refused(distinct: datasets.Dataset) -> None:
    with pytest.raises(config.CrackutilsError, match="view=8 must be 0 to 7"):
        of(distinct, [0], view=8)


# ---------------------------------------------------------------- linear head


def heaps(n: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Features of two overlapping classes, on very different scales, and one that says nothing."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(0, 1, (n, 6)) + np.outer(y, [1.5, 0, 0, 0, 0, 0])
    x = x * [1, 10, 0.01, 1, 1, 0] + [0, 50, 0, -3, 0, 2]
    flipped = rng.random(n) < noise
    return x.astype(np.float32), np.where(flipped, 1 - y, y)


def test_the_head_is_scikit_learns_with_the_scaling_inside() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (val_x, val_y) = heaps(400, 1, 0.1), heaps(200, 2, 0.1)
    head = fit_linear_head(x, y, val_x, val_y, 1000)
    row = head.tried.iloc[head.best]
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=row["C"], tol=1e-8)).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(head.chances(val_x), theirs.predict_proba(val_x)[:, 1], atol=1e-3)
    assert row["val_loss"] == head.tried["val_loss"].min()
    assert row["val_loss"] == score_predictions(val_y, head.chances(val_x))["loss"]
    assert list(head.tried["C"]) == list(STRENGTHS)
    assert (head.tried["iterations"] < 1000).all()


def test_the_head_is_fitted_to_convergence_where_classes_are_separable(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 100)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int)
    found = fit_linear_head(x[:400], y[:400], x[400:], y[400:], 1000)
    weights = np.linalg.norm(found.weights)
    monkeypatch.setattr(features, "_TOLERANCE", _TOLERANCE / 100)
    tighter = fit_linear_head(x[:400], y[:400], x[400:], y[400:], 5000)
    np.testing.assert_allclose(found.tried["val_loss"], tighter.tried["val_loss"], atol=2e-4)
    np.testing.assert_allclose(weights, np.linalg.norm(tighter.weights), rtol=0.01)


def test_a_feature_that_fires_once_does_not_outweigh_the_others() -> None:
    x, y = heaps(400, 1, 0.1)
    x = np.c_[x, np.zeros(400, np.float32)]
    x[7, -1] = 0.01
    val_x, val_y = heaps(200, 2, 0.1)
    head = fit_linear_head(x, y, np.c_[val_x, np.zeros(200, np.float32)], val_y, 1000)
    assert abs(head.weights[-1]) * 1.0 < 20  # a test image with 1.0 there is not decided by it alone


def test_one_class_is_refused() -> None:
    x = np.ones((5, 3), np.float32)
    with pytest.raises(config.CrackutilsError, match="all of one class"):
        fit_linear_head(x, np.zeros(5, int), x, np.zeros(5, int), 10)


def test_validation_chooses_the_penalty() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 60)).astype(np.float32)  # more features than images: anything can be learnt by heart
    y, val_x = rng.integers(0, 2, 40), rng.normal(size=(400, 60)).astype(np.float32)
    noise = fit_linear_head(x, y, val_x, rng.integers(0, 2, 400), 1000)
    assert noise.best == 0  # the strictest
    signal = fit_linear_head(*heaps(400, 1, 0.0), *heaps(400, 2, 0.0), 1000)
    assert signal.best > 0


# ---------------------------------------------------------------- the recipe


def prepared(smoke: datasets.Dataset, chosen: Recipe = LINEAR, **options: Any) -> tuple[Any, pd.DataFrame, Run]:
    profile = dataclasses.replace(config.profile("smoke"), max_epochs=0)
    manifest = make_split(smoke, "copy-safe", 1337)
    run = open_run("03_transfer_learning", profile, recipe=chosen, **options)
    training.prepare(chosen, smoke, manifest, run)
    return training.train(chosen, smoke, manifest, run, 1337, "crackutils"), manifest, run


def test_features_and_pixels_give_the_same_predictions(smoke: datasets.Dataset) -> None:
    trained, manifest, _ = prepared(smoke)
    table, rate = training.evaluate(trained, LINEAR, smoke, manifest)
    rows = np.flatnonzero(manifest["split"].isin(["val", "test"]))
    data = make_batches(smoke.pixels(64), smoke.index["label"].to_numpy(), rows, 64)
    labels, chances = predict(trained.model, data)
    np.testing.assert_array_equal(table["label"], labels)
    np.testing.assert_allclose(table["p_crack"], chances, atol=1e-4)
    assert rate > 0
    assert table["p_crack"].std() > 0.1
    assert trained.engine["engine"] == "litert"
    stage = trained.stages[0]
    assert stage["best_val_loss"] == trained.history["val_loss"].min()
    assert stage["C"] == trained.history["C"].iloc[stage["best_epoch"] - 1]


def test_a_linear_recipe_decodes_nothing_twice_and_goes_on(smoke: datasets.Dataset, computed: list[int]) -> None:
    trained, manifest, _ = prepared(smoke)
    assert not list(config.data_dir().rglob("pixels-*"))
    parts = manifest["split"].isin(["train", "val", "test"])
    assert len(computed) == smoke.index.loc[parts, "sha256"].nunique()
    del computed[:]
    again, _, _ = prepared(smoke)  # its checkpoint is there
    assert computed == []
    pd.testing.assert_frame_equal(again.history, trained.history, check_exact=True)
    assert again.seconds == trained.seconds


def test_an_engine_other_than_the_usual_one_is_part_of_the_runs_name(smoke: datasets.Dataset) -> None:
    trained, _, run = prepared(smoke, engine="tensorflow")
    assert run.name == "mobilenetv2-linear--engine-tensorflow"
    assert run.settings["engine"] == trained.engine["engine"] == "tensorflow"


@pytest.mark.parametrize(
    "wrong",
    [
        {"units": 2},
        {"backbone": "", "head": ()},
        {"head": (("Flatten", {}),)},
        {"stages": (Stage("first", 1, 1e-3), *LINEAR.stages)},
        {"flips": True},
        {"augment": RECIPES["mobilenetv2"].augment},
        {"label_smoothing": 0.1},
    ],
)
def test_a_linear_head_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(config.CrackutilsError, match=r"L-BFGS (works in the first stage only|knows no)"):
        dataclasses.replace(LINEAR, **wrong)


def test_a_linear_head_may_be_followed_by_fine_tuning(smoke: datasets.Dataset) -> None:
    both = dataclasses.replace(
        LINEAR, name="both", stages=(*LINEAR.stages, Stage("fine-tune", 1, 1e-5, unfreeze=5)), batch=16
    )
    trained, manifest, _ = prepared(smoke, both)
    assert not both.on_features
    assert [stage["name"] for stage in trained.stages] == ["linear head", "fine-tune"]
    table, _ = training.evaluate(trained, both, smoke, manifest)
    val = table[table["split"] == "val"]
    best = min(stage["best_val_loss"] for stage in trained.stages)
    assert score_predictions(val["label"], val["p_crack"])["loss"] == pytest.approx(best, abs=1e-3)
