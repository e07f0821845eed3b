"""Training in stages: going on after a kill, the best weights, reproducibility, loading and scoring."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crackutils import config, datasets, models, training
from crackutils.batches import make_batches, predict
from crackutils.models import keras
from crackutils.recipes import RECIPES, Recipe, Stage
from crackutils.runs import Run, read_predictions

SEED = 7
RECIPE = dataclasses.replace(
    RECIPES["simple-cnn"],
    name="tiny",
    size=32,
    batch=8,
    body=(
        ("Conv2D", {"filters": 4, "kernel_size": 3, "padding": "same", "use_bias": False}),
        ("BatchNormalization", {"momentum": 0.9}),
        ("ReLU", {}),
        ("MaxPooling2D", {}),
    )
    * 2,
    stages=(Stage("first", 1, 2e-3), Stage("second", 3, 1e-3)),
)
ONE = dataclasses.replace(RECIPE, stages=RECIPE.stages[:1])
TWO = dataclasses.replace(
    RECIPE, name="two", units=2, stages=(Stage("first", 2, 1e-3, optimizer="RMSprop", decay=False),)
)
# what a child process does: train the pickled task, with a pause before the weights of a stage are written if asked
CHILD = """
import os, pickle, sys, time
cores, pause, task = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from crackutils import config
config.start("smoke")
from crackutils import training
recipe, ds, manifest, run, seed = pickle.load(open(task, "rb"))
write = training._save
def save(model, file):
    if file.name == pause:
        time.sleep(120)
    return write(model, file)
training._save = save
trained = training.train(recipe, ds, manifest, run, seed, "random")
print("hash", *(w.numpy().tobytes().hex() for w in trained.model.weights), sep=" ")
"""


# ---------------------------------------------------------------- helpers


@pytest.fixture(scope="module")
def task(smoke: datasets.Dataset) -> tuple[datasets.Dataset, pd.DataFrame]:
    """A third of the smoke images, and a split of them: 32 train, 8 val and the rest test, of both classes alike."""
    rows = np.concatenate([np.flatnonzero(smoke.index["label"] == k)[:24] for k in (0, 1)])
    index = smoke.index.iloc[rows].reset_index(drop=True)
    ds = dataclasses.replace(smoke, index=index, grey=np.array(smoke.grey[rows]), colour=np.array(smoke.colour[rows]))
    split = np.array((["train"] * 16 + ["val"] * 4 + ["test"] * 4) * 2)
    return ds, index[["file", "label"]].assign(split=split, group=np.arange(len(index)))


def open_run(folder: Path, recipe: Recipe = RECIPE, seed: int = SEED) -> Run:
    settings = {"profile": "smoke", "split": "copy-safe", "split_seed": 1, "seed": seed, "weights": "random"}
    settings |= {"recipe": recipe.as_dict()}
    return Run("04_simple_cnn", recipe.name, settings, folder)


def train(task: tuple[datasets.Dataset, pd.DataFrame], folder: Path, recipe: Recipe = RECIPE, seed: int = SEED) -> Any:
    ds, manifest = task
    return training.train(recipe, ds, manifest, open_run(folder, recipe, seed), seed, "random")


def written(
    trained: training.Trained, task: tuple[datasets.Dataset, pd.DataFrame], folder: Path
) -> tuple[bytes, bytes]:
    """Return the bytes of predictions.csv and history.csv of a training."""
    run = open_run(folder)
    run.write_predictions(training.evaluate(trained, RECIPE, *task)[0])
    run.write_history(trained.history)
    return tuple((folder / name).read_bytes() for name in ("predictions.csv", "history.csv"))


def weights_of(model: Any) -> list[str]:
    return [np.array(w).tobytes().hex() for w in model.weights]


def from_file(file: Path, recipe: Recipe = RECIPE) -> list[str]:
    model, _ = models.build(recipe, "random", 1)
    model.load_weights(file)
    return weights_of(model)


def val_loss(model: Any, task: tuple[datasets.Dataset, pd.DataFrame]) -> float:
    ds, manifest = task
    rows = np.flatnonzero(manifest["split"] == "val")
    data = make_batches(ds.pixels(RECIPE.size), ds.index["label"].to_numpy(), rows, 64)
    labels, p = (np.asarray(a, np.float64) for a in predict(model, data))
    return float(-np.mean(np.log(np.where(labels == 1, p, 1 - p))))


def child(
    folder: Path, task: tuple[datasets.Dataset, pd.DataFrame], cores: int = 0, pause: str = "-"
) -> subprocess.Popen:
    """Start the training of `RECIPE` in another process."""
    pickled = folder.parent / "task.pickle"
    pickled.parent.mkdir(parents=True, exist_ok=True)
    pickled.write_bytes(pickle.dumps((RECIPE, *task, open_run(folder), SEED)))
    command = [sys.executable, "-u", "-c", CHILD, str(cores), pause, str(pickled)]
    return subprocess.Popen(
        command, cwd=config.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ)
    )


@pytest.fixture(scope="module")
def whole(
    task: tuple[datasets.Dataset, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[training.Trained, Path, tuple[bytes, bytes]]:
    """An uninterrupted training of `RECIPE`: the result, its folder, and the bytes that it writes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRACKUTILS_DATA_DIR", str(folder.parent / "data"))
        trained = train(task, folder)
        return trained, folder, written(trained, task, folder)


# ---------------------------------------------------------------- what training leaves


def test_a_training_leaves_history_checkpoints_and_logs(whole: Any) -> None:
    trained, folder, _ = whole
    assert trained.history["stage"].tolist() == ["first", "second", "second", "second"]
    assert trained.history["epoch"].tolist() == [1, 1, 2, 3]
    assert trained.history.drop(columns="stage").map(np.isfinite).all(axis=None)
    # the half cosine ends at zero, and half-way through three epochs stands at half the rate
    rates = trained.history.query("stage == 'second'")["learning_rate"].tolist()
    np.testing.assert_allclose(rates, [0.75e-3, 0.25e-3, 0], atol=1e-9)
    assert [s["name"] for s in trained.stages] == ["first", "second"]
    assert trained.before["n"] == 8
    assert set(trained.seconds) == {"first", "second"}
    names = {p.name for p in (folder / "checkpoints").iterdir()}
    assert {"stage-1.json", "stage-2.json", "stage-1.weights.h5", "stage-2.weights.h5"} < names
    assert len(names) == 5
    assert sorted(p.name for p in (folder / "tensorboard").iterdir()) == ["1-first", "2-second"]
    assert any((folder / "tensorboard" / "2-second").rglob("events*"))


def test_training_changes_the_weights(whole: Any) -> None:
    trained, folder, _ = whole
    (start,) = (folder / "checkpoints").glob("start-*.weights.h5")
    first, end = from_file(start), weights_of(trained.model)
    conv = next(i for i, w in enumerate(trained.model.weights) if w.path == "conv_1/kernel")
    assert first[conv] != end[conv]


def test_evaluate_gives_every_val_and_test_row_once_in_file_order(whole: Any, task: Any) -> None:
    ds, manifest = task
    table, rate = training.evaluate(whole[0], RECIPE, ds, manifest)
    expected = manifest[manifest["split"] != "train"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[["file", "split", "label"]], expected[["file", "split", "label"]])
    assert table["p_crack"].dtype == np.float32
    assert table["p_crack"].between(0, 1).all()
    assert rate > 0
    x = np.stack([ds.read(row, 32) for row in np.flatnonzero(manifest["split"] != "train")]).astype(np.float32)
    np.testing.assert_allclose(table["p_crack"], whole[0].model.predict_on_batch(x)[:, 0], atol=1e-6)


def test_a_split_with_an_empty_part_is_told_in_one_sentence(task: Any, tmp_path: Path) -> None:
    ds, manifest = task
    few = manifest.assign(split=manifest["split"].replace("val", "test"))
    with pytest.raises(config.CrackutilsError, match=r"no image for val: 48 images are too few\.$"):
        train((ds, few), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- interruptions


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    whole: Any, task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "killed" / "run"
    checkpoints = folder / "checkpoints"
    process = child(folder, task, pause="stage-2.weights.h5")
    second = False
    for line in process.stdout:
        second = second or line.startswith("stage second")
        if second and line.startswith("Epoch 2/3"):
            break
    assert (checkpoints / "stage-1.json").exists()
    process.kill()
    process.wait()
    process.stdout.close()
    assert second
    assert not (checkpoints / "stage-2.json").exists()

    # the next try is stopped in the middle of writing the second stage's weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", breaking(keras.Model.save_weights, "stage-2"))
        with pytest.raises(KeyboardInterrupt):
            train(task, folder)
    assert "stage first: finished before, taken from its checkpoint" in capsys.readouterr().out
    assert (checkpoints / "part-stage-2.weights.h5").stat().st_size > 0
    assert not (checkpoints / "stage-2.weights.h5").exists()
    assert not (checkpoints / "stage-2.json").exists()

    trained = train(task, folder)
    said = capsys.readouterr().out
    assert "stage first: finished before, taken from its checkpoint" in said
    assert "stage second: up to 3 epochs" in said
    assert weights_of(trained.model) == weights_of(whole[0].model)
    assert written(trained, task, folder) == whole[2]
    assert trained.before == whole[0].before
    assert trained.stages == whole[0].stages
    assert not list(checkpoints.glob("part-*"))


def breaking(save: Callable[..., None], name: str) -> Callable[..., None]:
    """Return a `save_weights` that leaves half a file and ends everything, as a kill does, when `name` is written."""

    def half(model: Any, file: Path, **options: Any) -> None:
        save(model, file, **options)
        if name in Path(file).name:
            with open(file, "r+b") as handle:
                handle.truncate(file.stat().st_size // 2)
            raise KeyboardInterrupt

    return half


def test_a_kill_while_the_start_is_written_does_no_harm(whole: Any, task: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", breaking(keras.Model.save_weights, "start"))
        with pytest.raises(KeyboardInterrupt):
            train(task, tmp_path / "run", ONE)
    (left,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert left.name.startswith("part-")
    train(task, tmp_path / "run", ONE)
    first = whole[1] / "checkpoints" / "stage-1.weights.h5"
    assert from_file(tmp_path / "run" / "checkpoints" / "stage-1.weights.h5") == from_file(first)


def test_a_kill_between_weights_and_record_does_not_pass_off_other_weights(task: Any, tmp_path: Path) -> None:
    """Weights of one seed and the record of another must not be taken for a pair."""
    train(task, tmp_path / "run", ONE)
    right = from_file(tmp_path / "run" / "checkpoints" / "stage-1.weights.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "write_atomically", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(task, tmp_path / "run", ONE, seed=8)
    trained = train(task, tmp_path / "run", ONE)
    assert weights_of(trained.model) == right


# ---------------------------------------------------------------- which checkpoints count


def test_checkpoints_of_another_seed_are_not_used(
    whole: Any, task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(task, tmp_path / "run", ONE)
    capsys.readouterr()
    again = train(task, tmp_path / "run", ONE)
    assert "finished before" in capsys.readouterr().out
    other = train(task, tmp_path / "run", ONE, seed=8)
    assert "finished before" not in capsys.readouterr().out
    assert weights_of(other.model) != weights_of(again.model)
    monkeypatch.setenv("CRACKUTILS_FORCE", "1")
    forced = train(task, tmp_path / "run", ONE, seed=8)
    assert "finished before" not in capsys.readouterr().out
    assert weights_of(forced.model) == weights_of(other.model)


def test_the_key_of_a_checkpoint_holds_all_that_its_bytes_depend_on(task: Any, monkeypatch: Any) -> None:
    ds, manifest = task
    loaded = {"weights": "imagenet", "file": "a.h5", "sha256": "1" * 64}

    def key(
        recipe: Recipe = RECIPE, ds: Any = ds, table: Any = manifest, seed: int = 1, engine: Any = None, **changed: str
    ) -> str:
        return training._key(recipe, ds, table, seed, loaded | changed, engine or {})

    first = key()
    assert key() == first
    assert key(file="b.h5") == first  # the same bytes under another name
    swapped = manifest.assign(split=manifest["split"].to_numpy()[::-1].copy())
    swapped.loc[0, "split"] = "val"
    fewer = dataclasses.replace(ds, index=ds.index.iloc[:-1])
    others = [
        key(dataclasses.replace(RECIPE, batch=16)),
        key(dataclasses.replace(RECIPE, augment=())),
        key(dataclasses.replace(RECIPE, stages=(Stage("first", 1, 1e-3), RECIPE.stages[1]))),
        key(ds=fewer),
        key(table=swapped),
        key(seed=2),
        key(sha256="2" * 64),
        key(weights="random"),
        key(engine={"engine": "tensorflow"}),
    ]
    try:
        models.set_precision("bfloat16")
        others.append(key())
    finally:
        models.set_precision("float32")
    with monkeypatch.context() as patch:
        patch.setattr(results, "code_hash", lambda: "other code")
        others.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(results, "versions", lambda: {"keras": "4"})
        others.append(key())
    assert len({first, *others}) == 13


# ---------------------------------------------------------------- which weights are kept


def test_the_best_epoch_is_kept_not_the_last(task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 4  # per epoch
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2 * steps - 1], [2e-3, 5.0])
    monkeypatch.setattr(keras.optimizers.schedules, "CosineDecay", lambda *_: rate)
    recipe = dataclasses.replace(RECIPE, stages=(Stage("first", 3, 2e-3),))
    trained = train(task, tmp_path / "run", recipe)
    losses = trained.history["val_loss"].tolist()
    best = min(losses)
    assert len(losses) == 3
    assert losses[2] > 1.5 * best  # the construction works: the last epoch is much worse
    assert trained.stages[0]["best_epoch"] == losses.index(best) + 1
    assert trained.stages[0]["best_val_loss"] == best
    assert val_loss(trained.model, task) == pytest.approx(best, abs=1e-5)


def test_a_stage_stops_after_its_patience(task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.optimizers.schedules, "CosineDecay", lambda *_: 5.0)
    recipe = dataclasses.replace(RECIPE, stages=(Stage("first", 20, 5.0),), patience=1)
    trained = train(task, tmp_path / "run", recipe)
    losses = trained.history["val_loss"].tolist()
    assert len(losses) < 20
    assert losses[-1] >= min(losses[:-1])
    assert trained.stages[0]["epochs"] == len(losses)


def test_a_stage_that_makes_validation_worse_is_dropped(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = []
    stage = training._stage

    def watched(recipe: Recipe, stage_: Stage, number: int, start: Path, *rest: Any) -> Any:
        starts.append(start.name)
        return stage(recipe, stage_, number, start, *rest)

    monkeypatch.setattr(training, "_stage", watched)
    bad = (Stage("bad", 1, 9.0), Stage("worse", 1, 20.0))
    trained = train(task, tmp_path / "run", dataclasses.replace(ONE, stages=(*ONE.stages, *bad)))
    assert [s["kept"] for s in trained.stages] == [True, False, False]
    assert "stage bad: validation loss did not get better; its weights are dropped" in capsys.readouterr().out
    assert starts[0].startswith("start-")
    assert starts[1:] == ["stage-1.weights.h5"] * 2  # a dropped stage is no start for the next one
    folder = tmp_path / "run" / "checkpoints"
    assert weights_of(trained.model) == from_file(folder / "stage-1.weights.h5")
    assert weights_of(trained.model) != from_file(folder / "stage-2.weights.h5")
    assert trained.history["stage"].tolist() == ["first", "bad", "worse"]  # the curves still show them
    assert val_loss(trained.model, task) == pytest.approx(trained.stages[0]["best_val_loss"], abs=1e-5)


# ---------------------------------------------------------------- what published recipes need besides


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The model of each stage that is trained, as it was compiled."""
    found, stage = [], training._stage

    def watched(*args: Any) -> Any:
        model, kept = stage(*args)
        found.append(model)
        return model, kept

    monkeypatch.setattr(training, "_stage", watched)
    return found


def kernel(model: Any) -> np.ndarray:
    return np.array(model.get_layer("conv_1").kernel)


def test_a_recipe_of_two_units_from_training_to_loading(task: Any, tmp_path: Path, compiled: list[Any]) -> None:
    trained = train(task, tmp_path / "run", TWO)
    (model,) = compiled
    assert type(model.optimizer).__name__ == "RMSprop"
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert trained.history["learning_rate"].tolist() == [1e-3, 1e-3]
    assert trained.model.output_shape == (None, 2)

    table, _ = training.evaluate(trained, TWO, *task)
    val = table[table["split"] == "val"]
    best = trained.history.iloc[trained.stages[0]["best_epoch"] - 1]
    assert val_loss(trained.model, task) == pytest.approx(best["val_loss"], abs=1e-5)
    assert ((val["p_crack"] >= 0.5) == val["label"]).mean() == pytest.approx(best["val_accuracy"], abs=1e-6)

    folder = finished(trained, task, tmp_path / "finished", TWO)
    loaded, recipe = training.load(folder)
    assert recipe == TWO
    again, _ = training.evaluate(dataclasses.replace(trained, model=loaded), recipe, *task)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert "p_classes" in (folder / "model" / "summary.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "stage", [Stage("first", 1, 2e-3), Stage("first", 20, 5.0, decay=False)], ids=["to the last epoch", "stopped early"]
)
def test_averaged_weights_are_kept_and_are_those_that_validation_saw(
    stage: Stage, whole: Any, task: Any, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, stages=(stage,), averaging=0.9, patience=1)
    trained = train(task, tmp_path / "run", recipe)
    assert trained.stages[0]["best_val_loss"] == trained.history["val_loss"].min()
    assert val_loss(trained.model, task) == pytest.approx(trained.stages[0]["best_val_loss"], abs=1e-5)
    if stage.epochs > 1:
        assert len(trained.history) < stage.epochs
        return
    start, plain = models.build(RECIPE, "random", SEED)[0], models.build(RECIPE, "random", SEED)[0]
    plain.load_weights(whole[1] / "checkpoints" / "stage-1.weights.h5")  # the same steps, not averaged
    assert not np.array_equal(kernel(start), kernel(plain))
    moved = [np.linalg.norm(kernel(model) - kernel(start)) for model in (trained.model, plain)]
    assert 0 < moved[0] < 0.8 * moved[1]  # the average lies between


def test_label_smoothing_reaches_the_loss(task: Any, tmp_path: Path) -> None:
    recipe = dataclasses.replace(ONE, label_smoothing=0.2)
    trained = train(task, tmp_path / "run", recipe)
    table, _ = training.evaluate(trained, recipe, *task)
    val = table[table["split"] == "val"]
    target, p = 0.1 + 0.8 * val["label"], val["p_crack"].astype(float)
    smoothed = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert trained.stages[0]["best_val_loss"] == pytest.approx(smoothed, abs=1e-5)
    assert abs(smoothed - val_loss(trained.model, task)) > 1e-4  # the equality above says something


def test_label_smoothing_is_for_one_unit(task: Any, tmp_path: Path) -> None:
    with pytest.raises(config.CrackutilsError, match=r"^RECIPE=two: label_smoothing needs units=1\.$"):
        train(task, tmp_path / "run", dataclasses.replace(TWO, label_smoothing=0.1))


def test_flips_of_a_recipe_reach_its_predictions(whole: Any, task: Any) -> None:
    ds, manifest = task
    rows = np.flatnonzero(manifest["split"] != "train")
    x = ds.pixels(RECIPE.size)[rows].astype(np.float32)
    views = (x, x[:, ::-1], x[:, :, ::-1], x[:, ::-1, ::-1])
    mean = np.mean([whole[0].model.predict_on_batch(view)[:, 0] for view in views], axis=0)
    table, _ = training.evaluate(whole[0], dataclasses.replace(RECIPE, flips=True), ds, manifest)
    np.testing.assert_allclose(table["p_crack"], mean, atol=1e-6)
    assert not np.allclose(mean, whole[0].model.predict_on_batch(x)[:, 0], atol=1e-6)


# ---------------------------------------------------------------- what results depend on


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
def test_one_visible_core_gives_the_same_weights_as_all(whole: Any, task: Any, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only one core here")
    process = child(tmp_path / "one" / "run", task, cores=1)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0
    (line,) = (x for x in said.splitlines() if x.startswith("hash "))
    assert line.split()[1:] == weights_of(whole[0].model)


def test_test_images_choose_nothing(whole: Any, task: Any, tmp_path: Path) -> None:
    """Neither the labels nor the pixels of test images reach the trained weights."""
    ds, manifest = task
    test = np.flatnonzero(manifest["split"] == "test")
    index = ds.index.copy()
    index.loc[test, "label"] = 1 - index.loc[test, "label"]
    changed = dataclasses.replace(ds, index=index)
    pixels = np.array(ds.pixels(RECIPE.size))
    pixels[test] = 255 - pixels[test]
    (file,) = ds.cache.glob("pixels-32.*")
    np.save(file, pixels)
    np.testing.assert_array_equal(changed.pixels(RECIPE.size), pixels)
    trained = train((changed, manifest), tmp_path / "run")
    assert weights_of(trained.model) == weights_of(whole[0].model)
    assert trained.history.equals(whole[0].history)
    assert trained.before != whole[0].before  # the change did reach the test images


def test_a_random_backbone_settles_on_training_images_only(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenEnoughError(Exception):
        pass

    seen = []

    def settle(base: Any, images: np.ndarray) -> None:
        seen.append(images)
        raise SeenEnoughError

    monkeypatch.setattr(models, "settle", settle)
    ds, manifest = task
    with pytest.raises(SeenEnoughError):
        train(task, tmp_path / "run", dataclasses.replace(RECIPES["mobilenetv2"], size=32))
    rows = np.flatnonzero(manifest["split"] == "train")
    expected = ds.pixels(32)[rows].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)  # 32 images are fewer than 128: all of them


# ---------------------------------------------------------------- saving, loading, scoring


def finished(trained: training.Trained, task: Any, folder: Path, recipe: Recipe = RECIPE) -> Path:
    """Finish a run as the notebooks do, and return its folder with metrics.json and model/."""
    run = open_run(folder, recipe)
    scores = run.write_predictions(training.evaluate(trained, recipe, *task)[0])
    run.write_history(trained.history)
    sizes = training.save(trained, run, training.model_card(recipe, run, scores["test"], trained))
    assert sizes == {name: (run.folder / "model" / name).stat().st_size for name in sizes}
    run.finish(*task, scores, {})
    return run.folder


@pytest.fixture
def saved(whole: Any, task: Any, tmp_path: Path) -> Path:
    return finished(whole[0], task, tmp_path / "finished")


def test_a_loaded_model_predicts_the_same(whole: Any, task: Any, saved: Path) -> None:
    model, recipe = training.load(saved)
    assert recipe == RECIPE
    table, _ = training.evaluate(dataclasses.replace(whole[0], model=model), recipe, *task)
    pd.testing.assert_frame_equal(table, read_predictions(saved), check_exact=True)
    assert weights_of(model) == weights_of(whole[0].model)
    card = (saved / "model" / "README.md").read_text("utf-8")
    errors = json.loads((saved / "metrics.json").read_text("utf-8"))["test"]["errors"]
    assert f"{errors} errors in 8 images" in card
    kept = keras.models.load_model(saved / "model" / "model.keras")
    assert weights_of(kept) == weights_of(model)
    assert not (saved / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras has one for each layer that does not fit
def test_a_model_on_our_own_backbone_is_loaded_as_the_narrower_network(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["mobilenetv2"], size=32, augment=())
    model, _ = models.build(recipe, "crackutils", SEED, load=False)
    (tmp_path / "model").mkdir()
    model.save_weights(tmp_path / "model" / "model.weights.h5")
    settings = {"recipe": recipe.as_dict(), "weights": "crackutils"}
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": settings}))
    loaded, _ = training.load(tmp_path)
    assert weights_of(loaded) == weights_of(model)
    settings["weights"] = "random"  # names the wider network, which these weights do not fit
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(config.CrackutilsError, match=r"holds no usable model\.weights\.h5"):
        training.load(tmp_path)


@pytest.mark.parametrize("what", ["nothing", "eda", "no weights", "half weights"])
def test_a_folder_without_a_usable_run_is_told_in_one_sentence(what: str, saved: Path) -> None:
    weights = saved / "model" / "model.weights.h5"
    if what == "nothing":
        saved = saved.parent / "nowhere"
    elif what == "eda":
        (saved / "metrics.json").write_text('{"settings": {"profile": "smoke"}}')
    elif what == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(config.CrackutilsError) as caught:
        training.load(saved)
    text = str(caught.value)
    assert str(saved) in text
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500


@pytest.mark.parametrize("what", ["blocks instead of body", "a field of the future", "a stage of the future"])
def test_a_run_of_another_version_is_told_with_the_remedy(what: str, tmp_path: Path) -> None:
    recipe = RECIPE.as_dict()
    if what == "blocks instead of body":
        del recipe["body"], recipe["head"]
        recipe |= {"blocks": [4, 4], "dropout": 0.2}
    elif what == "a field of the future":
        recipe["warmup"] = 3
    else:
        recipe["stages"][0]["warmup"] = 3
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": {"recipe": recipe, "weights": "random"}}))
    with pytest.raises(config.CrackutilsError) as caught:
        training.load(tmp_path)
    said = "was made by another version of crackutils; run its notebook again with FORCE=1."
    assert str(caught.value) == f"{tmp_path} {said}"
