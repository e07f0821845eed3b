"""The training loops of notebooks 03 and 04: kills, the best weights, equal bytes, saving and loading."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

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
RECORDS = {f"stage-{k}.{ending}" for k in (1, 2) for ending in ("json", "weights.h5")}
THREE = Recipe("three", "Three", "transfer", 32, 8, STAGES, transfer, "mobilenetv2", units=2)
# what a child process does: train on one core, where a process can be bound, and die while the third stage is written
CHILD = """
import os, pathlib, pickle, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from crackutils import config
sys.path.insert(0, "tests")
from test_training import THREE, keras, train
save = keras.Model.save_weights
def half(model, file):
    save(model, file)
    if "stage-3" in file.name:
        os.truncate(file, file.stat().st_size // 2)
        os._exit(9)
keras.Model.save_weights = half
train(pickle.load(sys.stdin.buffer), pathlib.Path(sys.argv[1]), THREE)
"""


@pytest.fixture(scope="module")
def task(smoke: datasets.Dataset) -> tuple[datasets.Dataset, pd.DataFrame]:
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


def begin(task: Any, folder: Path, recipe: Recipe = CNN, seed: int = SEED, facts: Any = None) -> dict[str, Any]:
    """Return a model and its `Training`, before the first stage."""
    model = recipe.build(seed)
    return {"model": model, "fit": training.Training(model, recipe, *task, open_run(folder, recipe, seed), facts)}


def train(task: Any, folder: Path, recipe: Recipe = CNN, seed: int = SEED, features: Any = None) -> training.Trained:
    """Train as the notebook of the recipe's family does, by its own cells."""
    names = begin(task, folder, recipe, seed, features.facts if features else None)
    keras.utils.set_random_seed(int.from_bytes(os.urandom(2)))  # what draws between the cells changes nothing
    names |= {"recipe": recipe, "features": features, "fit_linear_head": fit_linear_head}
    names |= {"keras": keras, "models": models, "np": np}
    number, *marks = ("04", "fit.stages()") if recipe.family == "cnn" else ("03", "def fit_", "fit.stages()")
    for source in cells(number, *marks):
        exec(source, names)
    return names["trained"]


def predictions(model: Any, task: Any) -> pd.DataFrame:
    scored = task[1][task[1]["split"] != "train"]
    p, _ = training.predict_rows(model, task[0], scored.index)
    return scored[["file", "split", "label"]].assign(p_crack=p).reset_index(drop=True)


def weights_of(model: Any) -> list[bytes]:
    return [np.array(w).tobytes() for w in model.weights]


def from_file(file: Path) -> list[bytes]:
    model = (THREE if "three" in file.parts else CNN).build(1)
    model.load_weights(file)
    return weights_of(model)


def val_scores(model: Any, task: Any) -> tuple[float, float]:
    """Return loss and accuracy of the validation images."""
    table = predictions(model, task).query("split == 'val'").astype({"p_crack": float})
    label, p = table["label"], table["p_crack"]
    return -np.log(np.where(label == 1, p, 1 - p)).mean(), ((p >= 0.5) == label).mean()


@pytest.fixture(scope="module")
def whole(task: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[training.Trained, Path, list[Any]]:
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


def test_a_training_leaves_history_checkpoints_and_logs_and_trains_what_it_unfreezes(whole: Any, task: Any) -> None:
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
    assert RECORDS | {f"stage-3.{ending}" for ending in ("json", "weights.h5")} < files and len(files) == 7
    logs = sorted((folder / "tensorboard").iterdir())
    assert [p.name for p in logs] == [f"{k}-{name}" for k, name in enumerate(names, 1)]
    assert all(any(log.rglob("events*")) for log in logs)
    # the scores of its epochs are those of the second of two units
    best = trained.history.query(f"stage == '{names[-1]}'").iloc[trained.stages[-1]["best_epoch"] - 1]
    assert val_scores(trained.model, task) == pytest.approx((best["val_loss"], best["val_accuracy"]), abs=1e-5)
    # stages train the head and what they unfreeze, and no batch normalization
    *stages, start = sorted(folder.glob("checkpoints/*.weights.h5"))
    states, layers = [from_file(f) for f in (start, *stages)], [w.path.split("/")[0] for w in trained.model.weights]
    changed = [{x for x, a, b in zip(layers, *states[k : k + 2], strict=True) if a != b} for k in range(3)]
    head = trained.model.layers[-1].name
    assert [stage["kept"] for stage in trained.stages] == [True] * 3 and changed == [{head}, {head, "conv_3"}, {head}]
    assert states[3] == weights_of(trained.model)
    moving = [w for w in trained.model.weights if "moving_mean" in w.path]
    assert len(moving) == 3 and all(np.array(w).any() for w in moving)  # the random backbone was settled
    assert {w.path.split("/")[0] for w in trained.model.trainable_weights} == {head, "conv_3"}  # of the stages kept


def test_training_images_alone_are_shuffled_and_settle_a_backbone(task: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(models, "settle", settle := Mock())
    fit = begin(task, tmp_path, THREE)["fit"]
    next(fit.stages())
    images = task[0].pixels(32)[:].astype(np.float32)
    # 32 training images are fewer than 128: all of them
    np.testing.assert_allclose(settle.call_args.args[1], images[fit.rows["train"]] / 127.5 - 1, atol=1e-6)
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


def test_a_split_that_cannot_be_trained_on_is_refused(task: Any, tmp_path: Path) -> None:
    few = ["train"] * 40 + ["test"] * 8, r"^48 images leave none for val\. Use more"
    for split, said in (few, (["train"] * 24 + ["val", "test"] * 12, "all of one class")):
        with pytest.raises(config.CrackutilsError, match=said):
            begin((task[0], task[1].assign(split=split)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_linear_head_is_fitted_to_features(task: Any, tmp_path: Path, capsys: Any) -> None:
    stages = (Stage("linear head", 1000, optimizer="Newton-CG", decay=False),)
    recipe = dataclasses.replace(THREE, stages=stages, units=1, network=lambda seed, weights: transfer(seed, "", 1))
    model = recipe.build(SEED)
    pooled = keras.Model(model.input, model.get_layer("pooled").output)
    x = pooled.predict_on_batch(task[0].pixels(32)[:].astype(np.float32))
    features = SimpleNamespace(x=x, facts={"engine": "litert"}, seconds=np.full(len(x), 1.0))
    trained = train(task, tmp_path, recipe, features=features)
    assert "up to 1,000 iterations" in capsys.readouterr().out
    assert trained.stages[0]["best_val_loss"] == pytest.approx(val_scores(trained.model, task)[0], abs=1e-5)
    assert trained.history["stage"].tolist() == ["linear head"] * 6 and trained.seconds["linear head"] > len(x)
    assert "penalty C = " in training.describe_stages(trained.stages)


def test_a_training_killed_on_one_core_ends_alike_on_all(whole: Any, task: Any, tmp_path: Path, capsys: Any) -> None:
    folder, checkpoints = tmp_path / "three", tmp_path / "three" / "checkpoints"
    command, data = [sys.executable, "-c", CHILD, str(folder)], pickle.dumps(task)
    done = subprocess.run(command, cwd=config.ROOT, input=data, capture_output=True, timeout=300)
    assert done.returncode == 9, done.stderr
    assert {p.name for p in checkpoints.glob("*stage*")} == {*RECORDS, "part-stage-3.weights.h5"}
    trained = train(task, folder, THREE)
    said = capsys.readouterr().out
    assert "stage frozen: finished before, loaded from its checkpoint" in said
    assert said.count("finished before") == 2 and "stage frozen again: up to 2 epochs" in said
    assert weights_of(trained.model) == weights_of(whole[0].model)
    assert trained.history.to_csv() == whole[0].history.to_csv() and trained.stages == whole[0].stages
    assert not list(checkpoints.glob("part-*"))
    events = {len(list((home / "tensorboard").rglob("events*"))) for home in (folder, whole[1])}
    assert len(events) == 1  # nothing of the stage that was killed


def test_checkpoints_of_other_seeds_are_not_used(task: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    right, taken = weights_of(train(task, tmp_path, ONE).model), "loaded from its checkpoint"
    assert taken not in capsys.readouterr().out
    assert weights_of(train(task, tmp_path, ONE).model) == right and taken in capsys.readouterr().out
    with monkeypatch.context() as patch:  # killed between weights and their record: weights of 8, record of 7
        patch.setattr(training, "write_atomically", Mock(side_effect=KeyboardInterrupt))
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

    others = [key(task=fewer), key(task=(ds, swapped)), key(seed=2), key(facts={"engine": "tensorflow"})]
    reseeded = {"network": lambda seed: tiny(seed + 1)}  # other seeds of its random layers
    for change in ({"batch": 16}, {"stages": CNN.stages[:1]}, {"network": other_network}, reseeded):
        others.append(key(dataclasses.replace(CNN, **change)))
    for name, value in (
        ("crackutils.models.weights_facts", {"sha256": "2"}),
        ("crackutils.provenance.code_hash", "other code"),
        ("crackutils.provenance.versions", {"keras": "4"}),
        ("keras.utils.set_random_seed", None),  # so the first weights are others
        ("keras.config.dtype_policy", SimpleNamespace(name="mixed_bfloat16")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, lambda *_, value=value: value)
            others.append(key())
    assert len({key(), key(), *others}) == 14


def test_the_epoch_of_the_lowest_loss_is_kept(task: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2 * 4 - 1], [2e-3, 5.0])  # four steps an epoch
    monkeypatch.setattr(keras.optimizers.schedules, "CosineDecay", lambda *_: rate)
    starts, fit = [], keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda m, *a, **k: (starts.append(weights_of(m)), fit(m, *a, **k))[1])
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
    assert "stage bad: validation loss did not improve; its weights are dropped" in capsys.readouterr().out
    assert "worse: epoch 1 of 1 (dropped)" in training.describe_stages(trained.stages)
    diverged = training.Training.__new__(training.Training)
    diverged.keep(stages[0], {k: [0.7, 0.6, np.nan] for k in ("loss", "accuracy", "val_accuracy", "val_loss")})
    assert diverged._record["best_epoch"] == 2
    left = from_file(tmp_path / "checkpoints" / "stage-1.weights.h5")
    # a dropped stage is no start for the next one
    assert starts[0] != left and starts[1:] == [left] * 2 and weights_of(trained.model) == left
    assert from_file(tmp_path / "checkpoints" / "stage-2.weights.h5") != left


def test_test_images_choose_nothing(whole: Any, task: Any, tmp_path: Path) -> None:
    ds, manifest = task
    test = np.flatnonzero(manifest["split"] == "test")
    index = ds.index.copy()
    index.loc[test, "label"] = 1 - index.loc[test, "label"]
    changed = dataclasses.replace(ds, index=index)
    pixels = ds.pixels(32)[:]
    pixels[test] = 255 - pixels[test]
    (file,) = ds.cache.glob("pixels-32.*")
    np.save(file, pixels)
    np.testing.assert_array_equal(changed.pixels(32)[:], pixels)
    trained = train((changed, manifest), tmp_path / "run", THREE)
    assert weights_of(trained.model) == weights_of(whole[0].model) and trained.history.equals(whole[0].history)


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


def test_a_network_that_the_user_changed_is_loaded_and_computes_in_float32(tmp_path: Path, request: Any) -> None:
    (source,) = cells("04", "keras.layers.Conv2D")
    assert source.count("(16, 32, 64, 128)") == 1  # one more block
    found = []
    for precision in ("float32", "bfloat16"):
        models.set_precision(precision)
        request.addfinalizer(lambda: models.set_precision("float32"))
        names, rng = {"SEED": SEED, "keras": keras}, np.random.default_rng(0)
        exec(source.replace("(16, 32, 64, 128)", "(16, 32, 64, 128, 128)"), names)
        found.append(model := names["model"])
        model.set_weights([w * rng.uniform(0.8, 1.2, w.shape) for w in model.get_weights()])
    open_run(tmp_path, RECIPES["simple-cnn"]).begin()
    training.save(model, tmp_path, "card")
    loaded, _ = training.load(tmp_path)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"  # what the user has chosen stays
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    x = np.random.default_rng(0).uniform(0, 255, (8, 112, 112, 3)).astype(np.float32)
    plain, half, p = (m.predict_on_batch(x) for m in (*found, loaded))
    np.testing.assert_array_equal(p, plain)
    assert not np.array_equal(half, plain)


def replace(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")


def rewrite(run: Path, module: str, name: str, registered: str | None = None) -> None:
    """Make the last layer of a saved model an object of another kind."""
    file = run / "model" / "model.keras"
    with zipfile.ZipFile(file) as parts:
        content = {part: parts.read(part) for part in parts.namelist()}
    architecture = json.loads(content["config.json"])
    architecture["config"]["layers"][-1] |= {"module": module, "class_name": name, "registered_name": registered}
    with zipfile.ZipFile(file, "w") as parts:
        for part, data in (content | {"config.json": json.dumps(architecture).encode()}).items():
            parts.writestr(part, data)


UNUSABLE, OLD = r"holds no usable model.*FORCE=1", r"was made by another version of crackutils\. Run .* with FORCE=1"
NONE = r"holds no finished training run\. Give a folder with metrics\.json and model/"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (shutil.rmtree, NONE),
    "no training": (lambda run: (run / "metrics.json").write_text('{"settings": {}}'), NONE),
    "no weights": (lambda run: (run / "model" / "model.weights.h5").unlink(), UNUSABLE),
    "other weights": (lambda run: CNN.build(1).save_weights(run / "model" / "model.weights.h5"), UNUSABLE),
    "half of the weights": (lambda run: os.truncate(run / "model" / "model.weights.h5", 3000), UNUSABLE),
    "half of the model": (lambda run: os.truncate(run / "model" / "model.keras", 3000), UNUSABLE),
    "code in a layer": (lambda run: rewrite(run, "keras.layers", "Lambda"), "its layer Lambda contains code"),
    "foreign code": (lambda run: rewrite(run, "subprocess", "Popen"), "its part subprocess.Popen is not one that this"),
    "code under our name": (lambda run: rewrite(run, "os", "Model", "crackutils>Evil"), "its part os.Model is not"),
    "no batch": (lambda run: replace(run / "metrics.json", '"batch": 8', '"batches": 8'), OLD),
    "a stage of the future": (lambda run: replace(run / "metrics.json", '"unfreeze"', '"warmup": 3, "unfreeze"'), OLD),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras has one for each layer that does not fit
@pytest.mark.parametrize("what", DAMAGES)
def test_a_folder_without_a_usable_run_is_told_in_one_sentence(what: str, saved: Path) -> None:
    damage, said = DAMAGES[what]
    damage(saved)
    with pytest.raises(config.CrackutilsError, match=rf"{said}.*\.$") as caught:
        training.load(saved)
    text = str(caught.value)
    assert str(saved) in text and "\n" not in text and len(text) < 500
