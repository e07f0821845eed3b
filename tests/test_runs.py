"""Run folders: their names, files that read back exactly, and what is read of them."""

import itertools
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from crackutils import config
from crackutils.decisions import chosen_metrics
from crackutils.detector.runs import DETECTOR
from crackutils.metrics import score_predictions
from crackutils.recipes import RECIPES
from crackutils.runs import Run, collect_runs, open_run, read_predictions, read_recipe, read_run, score_parts

PROFILE = config.profile("metu-half")
N, TEST = 600, 60  # images of the fake data: every tenth is test, two tenths are val
MANIFEST = pd.DataFrame(
    {
        "file": [f"{config.CLASSES[i % 2]}/{i // 2 + 1:05d}.jpg" for i in range(N)],
        "label": np.arange(N) % 2,
        "split": ["test" if i % 20 < 2 else "val" if i % 20 < 6 else "train" for i in range(N)],
        "group": np.arange(N),
    }
)
INDEX = MANIFEST[["file", "label"]]
DS = SimpleNamespace(profile=PROFILE, sha256="d" * 64, index=INDEX, left_out=INDEX[:0], labels="given")


def fake_predictions(wrong: int, shift: float = 0.0) -> pd.DataFrame:
    """Return predictions for val and test; the first `wrong` test images are on the wrong side."""
    table = MANIFEST[MANIFEST["split"] != "train"].reset_index(drop=True)
    p = np.random.default_rng(0).uniform(0.01, 0.2, len(table)) + shift
    p = np.where(table["label"] == 1, 1 - p, p)
    bad = table.index[table["split"] == "test"][:wrong]
    p[bad] = 1 - p[bad]
    return table[["file", "split", "label"]].assign(p_crack=p.astype(np.float32))


def fake_run(recipe: str = "simple-cnn", wrong: int = 4, shift: float = 0.0, **options: Any) -> Run:
    """Write all files of a finished training run."""
    notebook = "03_transfer_learning" if RECIPES[recipe].backbone else "04_simple_cnn"
    run, table = open_run(notebook, PROFILE, recipe=RECIPES[recipe], **options), fake_predictions(wrong, shift)
    scores = run.write_predictions(table)
    run.write_history(pd.DataFrame({"stage": ["scratch"] * 2, "epoch": [1, 2], "loss": [0.5, 0.25 + shift]}))
    figure, axes = plt.subplots(1, 2, figsize=(2, 1))
    axes[0].set_title("given\nlabels")
    axes[1].set_ylabel("number")
    run.show(figure, "example")
    found = scores | chosen_metrics(table) | {"model": {"parameters": 98289, "bytes": 451152}}
    run.finish(DS, MANIFEST, found, {"train scratch": 60.0, "images_per_second": 100.0})
    return run


def test_predictions_read_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    special = [0, 1, 0.1, 0.5, 1 / 3, 1e-7, 1e-20, np.nextafter(np.float32(1), np.float32(0)), 1e-38, 1e-40, 1e-45]
    bits = rng.integers(0, np.float32(1).view(np.uint32), 3000, np.uint32).view(np.float32)  # any float32 from 0 to 1
    p = np.concatenate([np.array(special, np.float32), bits, rng.random(1000, np.float32)])
    assert (p > 0).sum() == len(p) - 1  # the smallest ones are no zeros
    names = [f"Negative/{i:05d}.jpg" for i in range(len(p))]
    names[3] = 'Positive/a, "b".jpg'
    table = pd.DataFrame({"file": names, "split": "test", "label": np.arange(len(p)) % 2, "p_crack": p})
    run = Run("04_simple_cnn", "x", {}, tmp_path / "run")
    run.write_predictions(table)
    back = read_predictions(run.folder)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    np.testing.assert_array_equal(back["p_crack"].to_numpy().view(np.uint32), p.view(np.uint32))
    text = (run.folder / "predictions.csv").read_bytes()
    assert b"\r" not in text
    assert text.splitlines()[3] == b"Negative/00002.jpg,test,0,0.1"  # the shortest text, not 0.10000000149


def test_metrics_come_from_the_file_and_equal_those_of_the_arrays(tmp_path: Path) -> None:
    table = fake_predictions(5).sample(frac=1, random_state=1)
    run = Run("04_simple_cnn", "x", {}, tmp_path / "run")
    found = run.write_predictions(table)
    assert list(found) == ["val", "test"]
    for part in found:
        rows = table[table["split"] == part]
        assert found[part] == score_predictions(rows["label"].to_numpy(), rows["p_crack"].to_numpy())
    assert (found["test"]["errors"], found["test"]["n"]) == (5, TEST)
    assert score_parts(read_predictions(run.folder)) == found
    assert list(score_parts(table[table["split"] == "test"])) == ["test"]


def test_metrics_json_holds_nothing_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(time.time(), 1000.0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    first = fake_run()
    texts = {f.name: f.read_bytes() for f in first.folder.rglob("*") if f.is_file()}
    shutil.rmtree(first.folder)
    monkeypatch.setattr("crackutils.provenance.versions", lambda: {"keras": "9"})
    monkeypatch.setattr("crackutils.provenance.machine", lambda: {"cpu": "another"})
    again = {f.name: f.read_bytes() for f in fake_run().folder.rglob("*") if f.is_file()}
    assert [name for name in texts if texts[name] != again[name]] == ["run.json"]
    assert {"metrics.json", "run.json", "predictions.csv", "history.csv", "example.png"} == set(texts)
    facts = read_run(first.folder)["run_json"]
    assert (facts["machine"], facts["versions"]) == ({"cpu": "another"}, {"keras": "9"})
    assert facts["timings"]["notebook_seconds"] > 0


def test_metrics_json_describes_data_and_settings() -> None:
    run = fake_run(seed=5)
    (run.folder / "checkpoints").mkdir()
    found = {"é": [np.float32(1.5), (np.int64(2), np.nan)], 3: np.inf}
    content = run.finish(DS, MANIFEST.assign(group=-1), found, {})
    assert json.loads(json.dumps(content)) == json.loads((run.folder / "metrics.json").read_text("utf-8"))
    assert [content["é"], content["3"]] == [[1.5, [2, None]], None]
    assert (content["notebook"], content["run"]) == ("04_simple_cnn", "simple-cnn--seed-5")
    data = content["data"]
    assert (data["images"], data["positive"], data["left_out"]) == (N, N // 2, 0)
    assert data["test"] == {"images": TEST, "positive": TEST // 2, "groups": TEST}  # -1: nothing was grouped
    assert sum(data[part]["images"] for part in ("train", "val", "test")) == N
    assert (content["settings"]["seed"], content["settings"]["recipe"]["name"]) == (5, "simple-cnn")
    assert not (run.folder / "checkpoints").exists()  # they are for interrupted runs


def test_a_figure_is_shown_as_saved_and_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", shown := Mock())
    file = fake_run().folder / "figures" / "example.png"
    picture = shown.call_args.args[0]
    assert picture.data == file.read_bytes()
    width, alt = picture.width, "Figure example: given labels; number"
    assert (width, picture.alt) == (round(Image.open(file).width * plt.rcParams["figure.dpi"] / 120), alt)


def test_a_figure_of_an_earlier_run_goes() -> None:
    folder = fake_run().folder / "figures"
    (folder / "old.png").write_bytes(b"")
    os.utime(folder / "old.png", (1e9, 1e9))
    fake_run()
    assert [file.name for file in folder.iterdir()] == ["example.png"]


def test_an_unfinished_run_has_settings_and_no_old_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run("08_cross_dataset", PROFILE, recipe=DETECTOR)
    (run.folder / "model").mkdir(parents=True)
    for old in ("run.json", "metrics.json", "model/model.weights.h5"):
        (run.folder / old).write_text("{}")
    run.begin()
    assert not (run.folder / "run.json").exists() and not (run.folder / "model" / "model.weights.h5").exists()
    assert read_recipe(run.folder) == (DETECTOR, PROFILE.weights)
    with pytest.raises(config.CrackutilsError, match="no finished training run"):
        collect_runs(PROFILE.name, trained=False)  # it does not count as a run
    (run.folder / "checkpoints").mkdir()
    assert run.checkpoints().is_dir()
    monkeypatch.setenv("CRACKUTILS_FORCE", "1")
    assert not run.checkpoints().exists()


def test_runs_are_collected_in_order() -> None:
    with pytest.raises(config.CrackutilsError, match="Run notebooks 03 and 04 first"):
        collect_runs(PROFILE.name)
    fake_run()
    fake_run("mobilenetv2", split="random")
    fake_run("mobilenetv2")
    open_run("01_eda", PROFILE).finish(DS, MANIFEST, {}, {})
    names = [run["run"] for run in collect_runs(PROFILE.name, trained=False)]
    assert names == ["default", "mobilenetv2", "mobilenetv2--split-random", "simple-cnn"]
    assert [run["run"] for run in collect_runs(PROFILE.name)] == names[1:]


UNUSUAL = {"split": "random", "split_seed": 2, "seed": 3, "weights": "random", "epochs": 4}
USUAL = {"split": "copy-safe", "split_seed": 1337, "seed": 1337, "weights": "imagenet", "epochs": 0}


@pytest.mark.parametrize(
    ("recipe", "options", "shown"),
    [
        *(("mobilenetv2", options, "") for options in ({}, USUAL)),
        *(("mobilenetv2", {k: v}, f"--{k.replace('_', '-')}-{v}") for k, v in UNUSUAL.items()),
        ("mobilenetv2", UNUSUAL, "--split-random--split-seed-2--seed-3--weights-random--epochs-4"),
        ("mobilenetv2-linear", {"engine": "litert"}, ""),
        ("mobilenetv2-linear", {"engine": "openvino"}, "--engine-openvino"),
        ("simple-cnn", {"engine": "litert", "precision": "float32", "labels": "given"}, ""),
        ("simple-cnn", {"precision": "bfloat16"}, "--precision-bfloat16"),
        ("simple-cnn", {"labels": "corrected"}, "--labels-corrected"),
        ("simple-cnn", {"image": "Positive/00001.jpg"}, "--image-Positive-00001.jpg"),
        ("simple-cnn", {"target": "sdnet"}, "--target-sdnet"),
        ("simple-cnn", {"target": "my site/walls"}, "--target-my-site-walls-[0-9a-f]{8}"),
    ],
)
def test_a_run_is_named_by_its_recipe_and_by_what_is_not_usual(recipe: str, options: Any, shown: str) -> None:
    run = open_run("n", PROFILE, recipe=RECIPES[recipe], **options)
    assert re.fullmatch(recipe + shown, run.name)
    assert run.folder == config.results_dir() / "metu-half" / "n" / run.name
    usual = USUAL | ({} if RECIPES[recipe].backbone else {"weights": "random"})
    assert {k: run.settings[k] for k in USUAL} == usual | {k: v for k, v in options.items() if k in USUAL}
    assert run.settings.get("engine") == (options.get("engine") if "linear" in recipe else None)
    assert ("precision" in run.settings, "labels" in run.settings) == ("bfloat16" in shown, "corrected" in shown)


def test_our_own_weights_are_usual_where_the_profile_takes_them() -> None:
    for weights, name in (("", "mobilenetv2"), ("imagenet", "mobilenetv2--weights-imagenet")):
        run = open_run("n", config.profile("sample"), recipe=RECIPES["mobilenetv2"], weights=weights)
        assert (run.name, run.settings["weights"]) == (name, weights or "crackutils")
    assert open_run("01_eda", PROFILE).name == "default"


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        *((None, {k: "rnadom"}, f"{k.upper()}=rnadom is unknown") for k in ("split", "weights", "precision", "labels")),
        ("mobilenetv2-linear", {"engine": "openvin"}, "ENGINE=openvin is unknown"),
        ("simple-cnn", {"engine": "openvino"}, "ENGINE=openvino has no effect on RECIPE=simple-cnn"),
    ],
)
def test_settings_that_mean_nothing_are_refused(recipe: str | None, options: dict[str, str], said: str) -> None:
    with pytest.raises(config.CrackutilsError, match=said):
        open_run("n", PROFILE, recipe=recipe and RECIPES[recipe], **options)


def test_a_run_is_logged_where_mlflow_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "log").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert fake_run().folder.joinpath("metrics.json").is_file()  # the run is there all the same
    assert "note: the run was not logged to MLflow (import of mlflow halted" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "mlflow")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    run = fake_run(wrong=3)
    (logged,) = mlflow.search_runs(experiment_names=["crackutils metu-half"], output_format="list")
    assert logged.data.metrics["test.errors"] == 3 and logged.data.metrics["seconds.images_per_second"] == 100
    assert logged.data.params["recipe.name"] == "simple-cnn"
    kept = Path(logged.info.artifact_uri.removeprefix("file://"))
    assert (kept / "predictions.csv").read_bytes() == (run.folder / "predictions.csv").read_bytes()
