"""The training loops of notebooks 03 and 04: kills, the best weights, equal bytes, saving and loading."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from crackutils import config, datasets, models, training
from crackutils.config import keras
from crackutils.linear import fit_linear_head
from crackutils.recipes import RECIPES
from crackutils.runs import Run, read_predictions
from crackutils.stages import Recipe, Stage

SEED = 7
Task = tuple[datasets.Dataset, pd.DataFrame]


def tiny(seed: int) -> Any:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.Rescaling(1 / 255)(x)
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x)))
    x = keras.layers.Dropout(0.2, seed=seed)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(x))


def transfer(seed: int, weights: str, units: int = 2) -> Any:
    x = inner = keras.Input((32, 32, 3))
    for k in (1, 2, 3):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name=f"conv_{k}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"norm_{k}")(x))
    base = keras.Model(inner, x)
    base.trainable = False
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.RandomFlip("horizontal", seed=seed)(inputs)
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(base(keras.layers.Rescaling(1 / 127.5, offset=-1)(x)))
    x = keras.layers.Dropout(0.2, seed=seed)(x)
    return keras.Model(inputs, keras.layers.Dense(units, "softmax" if units == 2 else "sigmoid")(x))


CNN = Recipe("tiny", "Tiny", "cnn", 32, 8, (Stage("first", 1, 2e-3), Stage("second", 3, 1e-3)), tiny)
ONE = dataclasses.replace(CNN, stages=CNN.stages[:1])
STAGES = (
    Stage("frozen", 1, 1e-2),
    Stage("unfrozen", 3, 1e-2, unfreeze=4, optimizer="RMSprop", decay=False),  # conv_3, norm_3 and two ReLUs
    Stage("frozen again", 2, 1e-2, optimizer="RMSprop"),
)
RECORD = {"stage-1.json", "stage-1.weights.h5"}
THREE = Recipe("three", "Three", "transfer", 32, 8, STAGES, transfer, "mobilenetv2", units=2)
# what a child process does: train on so many cores, and die while the file of a name is written, if one is given
CHILD = """
import os, pathlib, pickle, sys
tests, cores, name, folder = sys.argv[1:]
if cores != "all":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
from crackutils import config
config.start("smoke")
sys.path.insert(0, tests)
from test_training import THREE, breaking, keras, train, weights_of
if name:
    keras.Model.save_weights = breaking(name, lambda: os._exit(9))
trained = train(pickle.load(sys.stdin.buffer), pathlib.Path(folder), THREE)
print("weights", *weights_of(trained.model))
"""


@pytest.fixture(scope="module")
def task(smoke: datasets.Dataset) -> Task:
    """A third of the smoke images, and a split of them: 32 train, 8 val and 8 test, of both classes alike."""
    rows = np.concatenate([np.flatnonzero(smoke.index["label"] == k)[:24] for k in (0, 1)])
    index = smoke.index.iloc[rows].reset_index(drop=True)
    ds = dataclasses.replace(smoke, index=index, grey=np.array(smoke.grey[rows]), colour=np.array(smoke.colour[rows]))
    split = np.array((["train"] * 16 + ["val"] * 4 + ["test"] * 4) * 2)
    return ds, index[["file", "label"]].assign(split=split, group=np.arange(len(index)))


def open_run(folder: Path, recipe: Recipe = CNN, seed: int = SEED) -> Run:
    settings = {"profile": "smoke", "split": "copy-safe", "split_seed": 1, "seed": seed, "recipe": recipe.as_dict()}
    settings["weights"] = "crackutils" if recipe.linear else "random"
    return Run("04_simple_cnn", recipe.name, settings, folder)


def cells(notebook: str, *marks: str) -> list[str]:
    """Return the source of the code cells that hold one of the marks."""
    nb = nbformat.read(next(config.NOTEBOOKS.glob(f"{notebook}_*.ipynb")), as_version=4)
    return [c.source for c in nb.cells if c.cell_type == "code" and any(mark in c.source for mark in marks)]


def begin(task: Task, folder: Path, recipe: Recipe = CNN, seed: int = SEED, facts: Any = None) -> dict[str, Any]:
    """Return a model and its `Training`, before the first stage."""
    model = recipe.build(seed)
    return {"model": model, "fit": training.Training(model, recipe, *task, open_run(folder, recipe, seed), facts)}


def train(task: Task, folder: Path, recipe: Recipe = CNN, seed: int = SEED, features: Any = None) -> training.Trained:
    """Train as the notebook of the recipe's family does, by its own cells."""
    names = begin(task, folder, recipe, seed, features.facts if features else None)
    keras.utils.set_random_seed(int.from_bytes(os.urandom(2)))  # what draws between the cells changes nothing
    names |= {"recipe": recipe, "features": features, "fit_linear_head": fit_linear_head}
    names |= {"keras": keras, "models": models, "np": np}
    number, *marks = ("04", "fit.stages()") if recipe.family == "cnn" else ("03", "def fit_", "fit.stages()")
    for source in cells(number, *marks):
        exec(source, names)
    return names["trained"]


def predictions(model: Any, task: Task) -> pd.DataFrame:
    scored = task[1][task[1]["split"] != "train"]
    p, _ = training.predict_rows(model, task[0], scored.index)
    return scored[["file", "split", "label"]].assign(p_crack=p).reset_index(drop=True)


def weights_of(model: Any) -> list[str]:
    return [np.array(w).tobytes().hex() for w in model.weights]


def from_file(file: Path) -> list[str]:
    model = (THREE if "three" in file.parts else CNN).build(1)
    model.load_weights(file)
    return weights_of(model)


def val_scores(model: Any, task: Task) -> tuple[float, float]:
    """Return loss and accuracy of the validation images."""
    table = predictions(model, task).query("split == 'val'").astype({"p_crack": float})
    label, p = table["label"], table["p_crack"]
    return -np.log(np.where(label == 1, p, 1 - p)).mean(), ((p >= 0.5) == label).mean()


def child(folder: Path, task: Task, name: str = "", cores: str = "all") -> subprocess.CompletedProcess:
    """Train `THREE` in another process."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), cores, name, str(folder)]
    return subprocess.run(command, cwd=config.ROOT, input=pickle.dumps(task), capture_output=True, timeout=300)


def breaking(name: str, end: Callable[[], Any]) -> Callable[..., None]:
    """Return a `save_weights` that leaves half a file and ends everything, as a kill does, when `name` is written."""
    save = keras.Model.save_weights

    def half(model: Any, file: Path, **options: Any) -> None:
        save(model, file, **options)
        if name in file.name:
            os.truncate(file, file.stat().st_size // 2)
            end()

    return half


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def bfloat16() -> Iterator[None]:
    models.set_precision("bfloat16")
    try:
        yield
    finally:
        models.set_precision("float32")


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[training.Trained, Path, list[Any]]:
    """An uninterrupted training of `THREE`, its folder, and the optimizer and its rate after each stage."""
    folder, fit, used = tmp_path_factory.mktemp("whole") / "three", keras.Model.fit, []

    def watched(model: Any, *args: Any, **options: Any) -> Any:
        history = fit(model, *args, **options)
        used.append((type(model.optimizer).__name__, pytest.approx(float(model.optimizer.learning_rate))))
        return history

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRACKUTILS_DATA_DIR", str(folder.parent / "data"))
        patch.setattr(keras.Model, "fit", watched)
        return train(task, folder, THREE), folder, used


# ---------------------------------------------------------------- what training leaves


def test_a_training_leaves_history_checkpoints_and_logs(whole: Any, task: Any) -> None:
    trained, folder, used = whole
    names = [stage.name for stage in STAGES]
    assert trained.history["stage"].tolist() == [stage.name for stage in STAGES for _ in range(stage.epochs)]
    assert trained.history["epoch"].tolist() == [1, 1, 2, 3, 1, 2]
    assert trained.history.drop(columns="stage").map(np.isfinite).all(axis=None)
    # the half cosine ends at zero, and half-way stands at half the rate
    np.testing.assert_allclose(trained.history["learning_rate"], [0, 0.01, 0.01, 0.01, 0.005, 0], atol=1e-9)
    assert used == [("Adam", 0), ("RMSprop", 0.01), ("RMSprop", 0)]
    assert [s["name"] for s in trained.stages] == list(trained.seconds) == names
    files = {p.name for p in (folder / "checkpoints").iterdir()}
    assert {f"stage-{k}.{ending}" for k in (1, 2, 3) for ending in ("json", "weights.h5")} < files
    assert len(files) == 7
    logs = sorted((folder / "tensorboard").iterdir())
    assert [p.name for p in logs] == [f"{k}-{name}" for k, name in enumerate(names, 1)]
    assert all(any(log.rglob("events*")) for log in logs)
    # the scores of its epochs are those of the second of two units
    kept = [stage for stage in trained.stages if stage["kept"]][-1]
    best = trained.history.query(f"stage == '{kept['name']}'").iloc[kept["best_epoch"] - 1]
    assert val_scores(trained.model, task) == pytest.approx((best["val_loss"], best["val_accuracy"]), abs=1e-5)


def test_stages_train_the_head_and_what_they_unfreeze_and_no_batchnorm(whole: Any) -> None:
    trained, checkpoints = whole[0], whole[1] / "checkpoints"
    files = [*checkpoints.glob("start-*.weights.h5"), *sorted(checkpoints.glob("stage-*.weights.h5"))]
    states, layers = [from_file(file) for file in files], [w.path.split("/")[0] for w in trained.model.weights]
    changed = [{x for x, a, b in zip(layers, *states[k : k + 2], strict=True) if a != b} for k in range(3)]
    head = trained.model.layers[-1].name
    assert [stage["kept"] for stage in trained.stages] == [True] * 3
    assert changed == [{head}, {head, "conv_3"}, {head}]
    assert states[3] == weights_of(trained.model)
    moving = [w for w in trained.model.weights if "moving_mean" in w.path]
    assert len(moving) == 3 and all(np.array(w).any() for w in moving)  # the random backbone was settled
    assert {w.path.split("/")[0] for w in trained.model.trainable_weights} == {head, "conv_3"}  # of the stages kept


def test_training_images_are_shuffled_and_no_others(task: Any, tmp_path: Path) -> None:
    fit = begin(task, tmp_path)["fit"]
    next(fit.stages())
    images = task[0].pixels(32).astype(np.float32)
    for data, part in zip(fit.batches(), ("train", "val"), strict=True):
        expected = [(images[row].tobytes(), fit.labels[row]) for row in fit.rows[part]]
        passes = [[(x.tobytes(), y[0]) for x, y in data.unbatch().as_numpy_iterator()] for _ in range(2)]
        assert [sorted(p) for p in passes] == [sorted(expected)] * 2
        assert (passes[0] == expected, passes[0] == passes[1]) == ((part == "val"),) * 2


def test_predictions_are_of_the_rows_asked_for_in_their_order(whole: Any, task: Any) -> None:
    ds, manifest = task
    rows = np.random.default_rng(0).permutation(len(manifest))[:20]
    p, rate = training.predict_rows(whole[0].model, ds, rows)
    x = np.stack([ds.read(row, 32) for row in rows]).astype(np.float32)
    np.testing.assert_allclose(p, whole[0].model.predict_on_batch(x)[:, 1], atol=1e-6)
    assert p.dtype == np.float32 and np.ptp(p) > 0 and rate > 0
    scores = training.score_untrained(ds.index["label"].to_numpy()[rows], p)
    assert scores["n"] == 20 and not {"brier", "ece"} & set(scores)


SPLITS = {
    r"no image for val: 48 images are too few\.$": ["train"] * 40 + ["test"] * 8,
    "all of one class": ["train"] * 24 + ["val", "test"] * 12,
}


@pytest.mark.parametrize("said", SPLITS)
def test_a_split_that_cannot_be_trained_on_is_refused(said: str, task: Any, tmp_path: Path) -> None:
    with pytest.raises(config.CrackutilsError, match=said):
        begin((task[0], task[1].assign(split=SPLITS[said])), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_linear_head_is_fitted_to_features_and_goes_on(task: Any, tmp_path: Path, capsys: Any) -> None:
    stages = (Stage("linear head", 1000, optimizer="L-BFGS", decay=False),)
    recipe = dataclasses.replace(THREE, stages=stages, units=1, network=lambda seed, weights: transfer(seed, "", 1))
    model = recipe.build(SEED)
    pooled = keras.Model(model.input, model.get_layer("pooled").output)
    x = pooled.predict_on_batch(task[0].pixels(32).astype(np.float32))
    features = SimpleNamespace(x=x, facts={"engine": "litert"}, seconds=np.full(len(x), 1.0))
    found = [train(task, tmp_path, recipe, features=features) for _ in range(2)]
    assert "up to 1,000 iterations" in capsys.readouterr().out
    trained = found[1]  # taken from its checkpoint
    assert trained.stages == found[0].stages and trained.history.equals(found[0].history)
    (stage,) = trained.stages
    best = trained.history["val_loss"].argmin()
    assert (stage["best_epoch"], stage["C"]) == (best + 1, trained.history["C"][best])
    assert stage["best_val_loss"] == pytest.approx(val_scores(trained.model, task)[0], abs=1e-5)
    assert trained.history["stage"].tolist() == ["linear head"] * 6 and trained.seconds["linear head"] > len(x)
    assert "penalty C = " in training.describe_stages(trained.stages)


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    whole: Any, task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoints = tmp_path / "three", tmp_path / "three" / "checkpoints"
    assert child(folder, task, "stage-2").returncode == 9
    assert {p.name for p in checkpoints.glob("*stage*")} == {*RECORD, "part-stage-2.weights.h5"}
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", breaking("stage-3", interrupt))
        with pytest.raises(KeyboardInterrupt):
            train(task, folder, THREE)
    assert "stage frozen: finished before, taken from its checkpoint" in capsys.readouterr().out
    second = {name.replace("1", "2") for name in RECORD}
    assert {p.name for p in checkpoints.glob("*stage*")} == {*RECORD, *second, "part-stage-3.weights.h5"}
    trained = train(task, folder, THREE)
    said = capsys.readouterr().out
    assert said.count("finished before") == 2 and "stage frozen again: up to 2 epochs" in said
    assert weights_of(trained.model) == weights_of(whole[0].model)
    assert trained.history.to_csv() == whole[0].history.to_csv() and trained.stages == whole[0].stages
    assert not list(checkpoints.glob("part-*"))
    events = [len(list((home / "tensorboard").rglob("events*"))) for home in (folder, whole[1])]
    assert events[0] == events[1]  # nothing of the stages that were killed


def test_checkpoints_of_other_seeds_are_not_used(
    task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, taken = weights_of(train(task, tmp_path, ONE).model), "taken from its checkpoint"
    assert taken not in capsys.readouterr().out
    assert weights_of(train(task, tmp_path, ONE).model) == right and taken in capsys.readouterr().out
    with monkeypatch.context() as patch:  # killed between weights and their record: weights of 8, record of 7
        patch.setattr(training, "write_atomically", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(task, tmp_path, ONE, seed=8)
    assert weights_of(train(task, tmp_path, ONE).model) == right
    assert weights_of(train(task, tmp_path, ONE, seed=8).model) != right
    monkeypatch.setenv("CRACKUTILS_FORCE", "1")
    train(task, tmp_path, ONE, seed=8)
    assert taken not in capsys.readouterr().out


def test_a_checkpoint_is_of_all_that_its_bytes_depend_on(task: Any, tmp_path: Path, monkeypatch: Any) -> None:
    ds, manifest = task
    swapped = manifest.assign(split=manifest["split"].to_numpy()[::-1].copy())
    swapped.loc[0, "split"] = "val"
    fewer = dataclasses.replace(ds, index=ds.index.iloc[:-1]), manifest[:-1]

    def key(recipe: Recipe = CNN, task: Any = task, seed: int = 1, **options: Any) -> str:
        begin(task, tmp_path, recipe, seed, **options)
        (file,) = (tmp_path / "checkpoints").glob("start-*.weights.h5")
        file.unlink()
        return file.name

    def other_network(seed: int) -> Any:
        model = tiny(seed)
        model.layers[-2].rate = 0.3
        return model

    first = key()
    assert key() == first
    others = [key(task=fewer), key(task=(ds, swapped)), key(seed=2), key(facts={"engine": "tensorflow"})]
    for change in (
        *({"batch": 16}, {"stages": CNN.stages[:1]}, {"network": other_network}),
        {"network": lambda seed: tiny(seed + 1)},  # other seeds of its random layers
    ):
        others.append(key(dataclasses.replace(CNN, **change)))
    with bfloat16():
        others.append(key())
    for name, value in (
        ("crackutils.models.weights_facts", {"sha256": "2"}),
        ("crackutils.provenance.code_hash", "other code"),
        ("crackutils.provenance.versions", {"keras": "4"}),
        ("keras.utils.set_random_seed", None),  # so the first weights are others
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, lambda *_, value=value: value)
            others.append(key())
    assert len({first, *others}) == 14


def test_the_best_epoch_of_the_stages_that_lower_the_validation_loss_is_kept(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2 * 4 - 1], [2e-3, 5.0])  # four steps an epoch
    monkeypatch.setattr(keras.optimizers.schedules, "CosineDecay", lambda *_: rate)
    starts, fit = [], keras.Model.fit
    monkeypatch.setattr(
        keras.Model, "fit", lambda model, *a, **k: (starts.append(weights_of(model)), fit(model, *a, **k))[1]
    )
    stages = (Stage("first", 3, 2e-3), Stage("bad", 20, 9.0, decay=False), Stage("worse", 1, 20.0, decay=False))
    trained = train(task, tmp_path, dataclasses.replace(CNN, stages=stages, patience=1))
    losses = {name: rows["val_loss"].tolist() for name, rows in trained.history.groupby("stage")}
    assert list(losses) == ["bad", "first", "worse"]  # the curves show those that were dropped as well
    best = min(losses["first"])
    assert len(losses["first"]) == 3 and losses["first"][2] > 1.5 * best  # the last epoch is much worse
    first, bad, _ = trained.stages
    assert (first["best_epoch"], first["best_val_loss"]) == (losses["first"].index(best) + 1, best)
    assert val_scores(trained.model, task)[0] == pytest.approx(best, abs=1e-5)
    assert bad["epochs"] == len(losses["bad"]) < 20 and losses["bad"][-1] >= losses["bad"][-2]  # out of patience
    assert [stage["kept"] for stage in trained.stages] == [True, False, False]
    assert "stage bad: validation loss did not get better; its weights are dropped" in capsys.readouterr().out
    assert "worse: epoch 1 of 1 (dropped)" in training.describe_stages(trained.stages)
    left = from_file(tmp_path / "checkpoints" / "stage-1.weights.h5")
    # a dropped stage is no start for the next one
    assert starts[0] != left and starts[1:] == [left] * 2 and weights_of(trained.model) == left
    assert from_file(tmp_path / "checkpoints" / "stage-2.weights.h5") != left


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
def test_one_visible_core_gives_the_same_weights_as_all(whole: Any, task: Any, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only one core here")
    done = child(tmp_path / "three", task, cores="1")
    assert done.returncode == 0, done.stderr
    (line,) = (x for x in done.stdout.decode().splitlines() if x.startswith("weights "))
    assert line.split()[1:] == weights_of(whole[0].model)


def test_test_images_choose_nothing(whole: Any, task: Any, tmp_path: Path) -> None:
    """Neither the labels nor the pixels of test images reach the trained weights."""
    ds, manifest = task
    test = np.flatnonzero(manifest["split"] == "test")
    index = ds.index.copy()
    index.loc[test, "label"] = 1 - index.loc[test, "label"]
    changed = dataclasses.replace(ds, index=index)
    pixels = np.array(ds.pixels(32))
    pixels[test] = 255 - pixels[test]
    (file,) = ds.cache.glob("pixels-32.*")
    np.save(file, pixels)
    np.testing.assert_array_equal(changed.pixels(32), pixels)
    trained = train((changed, manifest), tmp_path / "run", THREE)
    assert weights_of(trained.model) == weights_of(whole[0].model)
    assert trained.history.equals(whole[0].history)


def test_a_random_backbone_settles_on_training_images_only(task: Any, tmp_path: Path, monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr(models, "settle", lambda base, images: seen.append(images))
    begin(task, tmp_path, THREE)
    rows = np.flatnonzero(task[1]["split"] == "train")
    expected = task[0].pixels(32)[rows].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)  # 32 images are fewer than 128: all of them


@pytest.fixture
def saved(whole: Any, task: Any, tmp_path: Path) -> Path:
    """A run that was finished as the notebooks do it."""
    run = open_run(tmp_path / "finished", THREE)
    run.checkpoints().mkdir(parents=True)
    scores = run.write_predictions(predictions(whole[0].model, task))
    sizes = training.save(whole[0].model, run.folder, training.model_card(THREE, run, scores["test"], whole[0]))
    assert sizes == {name: (run.folder / "model" / name).stat().st_size for name in sizes}
    run.finish(*task, scores, {})
    return run.folder


def test_a_loaded_model_predicts_the_same(whole: Any, task: Any, saved: Path) -> None:
    model, recipe = training.load(saved)
    assert recipe == dataclasses.replace(THREE, network=None)
    pd.testing.assert_frame_equal(predictions(model, task), read_predictions(saved), check_exact=True)
    kept = keras.models.load_model(saved / "model" / "model.keras")
    assert weights_of(model) == weights_of(kept) == weights_of(whole[0].model)
    assert not hasattr(kept, "optimizer")  # its state would double the file
    card = (saved / "model" / "README.md").read_text("utf-8")
    errors = json.loads((saved / "metrics.json").read_text("utf-8"))["test"]["errors"]
    assert f"{errors} errors in 8 images" in card and "frozen 1 epochs; unfrozen 3 epochs" in card
    assert whole[0].model.layers[-1].name in (saved / "model" / "summary.txt").read_text("utf-8")
    assert not (saved / "checkpoints").exists()


def rewrite(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change every dictionary in the architecture of a saved model."""
    file = folder / "model" / "model.keras"
    with zipfile.ZipFile(file) as parts:
        found = {name: parts.read(name) for name in parts.namelist()}
    content = json.loads(found["config.json"], object_hook=change)
    with zipfile.ZipFile(file, "w") as parts:
        for name, data in (found | {"config.json": json.dumps(content).encode()}).items():
            parts.writestr(name, data)


def test_a_model_of_another_keras_is_loaded(task: Any, saved: Path) -> None:
    news: list[str] = []

    def newer(value: dict[str, Any]) -> dict[str, Any]:
        if value.get("module") == "keras.initializers":
            news.append(value["class_name"])
            value["config"] |= {"axes_of_the_future": None}
        return value

    rewrite(saved, newer)
    assert "GlorotUniform" in news
    with pytest.raises(TypeError, match="axes_of_the_future"):
        keras.models.load_model(saved / "model" / "model.keras")
    model, _ = training.load(saved)
    pd.testing.assert_frame_equal(predictions(model, task), read_predictions(saved), check_exact=True)


def test_a_network_that_the_user_changed_is_loaded_and_computes_in_float32(tmp_path: Path) -> None:
    (source,) = cells("04", "keras.layers.Conv2D")
    assert source.count("(16, 32, 64, 128)") == 1  # one more block
    found = []
    for precision in (contextlib.nullcontext(), bfloat16()):
        names = {"SEED": SEED, "keras": keras}
        with precision:
            exec(source.replace("(16, 32, 64, 128)", "(16, 32, 64, 128, 128)"), names)
        rng, model = np.random.default_rng(0), names["model"]
        model.set_weights([w * rng.uniform(0.8, 1.2, w.shape) for w in model.get_weights()])
        found.append(model)
    training.save(model, tmp_path, "card")
    settings = open_run(tmp_path, RECIPES["simple-cnn"]).settings
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": settings}))
    with bfloat16():
        loaded, _ = training.load(tmp_path)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"  # what the user has chosen stays
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    x = np.random.default_rng(0).uniform(0, 255, (8, 112, 112, 3)).astype(np.float32)
    plain, half, p = (m.predict_on_batch(x) for m in (*found, loaded))
    np.testing.assert_array_equal(p, plain)
    assert not np.array_equal(half, plain)


DAMAGES = ["nothing", "eda", "no weights", "other weights", "half of model.weights.h5", "half of model.keras"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras has one for each layer that does not fit
@pytest.mark.parametrize("what", DAMAGES)
def test_a_folder_without_a_usable_run_is_told_in_one_sentence(what: str, saved: Path) -> None:
    weights = saved / "model" / "model.weights.h5"
    if what == "nothing":
        saved = saved.parent / "nowhere"
    elif what == "eda":
        (saved / "metrics.json").write_text('{"settings": {"profile": "smoke"}}')
    elif what == "no weights":
        weights.unlink()
    elif what == "other weights":
        CNN.build(1).save_weights(weights)
    else:
        half = saved / "model" / what.removeprefix("half of ")
        half.write_bytes(half.read_bytes()[:3000])
    with pytest.raises(config.CrackutilsError) as caught:
        training.load(saved)
    text = str(caught.value)
    assert str(saved) in text and ("FORCE=1" in text or "give a folder with metrics.json and model/" in text)
    assert "\n" not in text and text.endswith(".") and len(text) < 500


@pytest.mark.parametrize("what", ["no batch", "a stage of the future"])
def test_a_run_of_another_version_is_told_with_the_remedy(what: str, tmp_path: Path) -> None:
    recipe = CNN.as_dict()
    if what == "no batch":
        del recipe["batch"]
    else:
        recipe["stages"][0]["warmup"] = 3
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": {"recipe": recipe, "weights": "random"}}))
    with pytest.raises(config.CrackutilsError) as caught:
        training.load(tmp_path)
    said = "was made by another version of crackutils; run its notebook again with FORCE=1."
    assert str(caught.value) == f"{tmp_path} {said}"
