"""The series is run twice, by the runner and by nbval, from empty folders: both must come to the same.

The first run makes executed copies. nbval then computes every cell of these copies anew, in new kernels, with other
(empty) folders for images and results, and compares every output but those tagged as progress or timing. What both
runs wrote is compared as well: nbval itself looks at no pictures and no files.
"""

from __future__ import annotations

import configparser
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import nbformat
import numpy as np
import pytest
from PIL import Image

from crackutils import config
from crackutils.runs import SCHEMA
from tools.reference import TIMED

pytestmark = pytest.mark.slow

SANITIZER = Path(__file__).with_name("nbval.cfg")
TRAINED = {"03_transfer_learning": "mobilenetv2-linear", "04_simple_cnn": "simple-cnn"}
SAVED = TRAINED | {"08_cross_dataset": "mobilenetv2-cells"}
RUNS = [
    "01_eda/default",
    "02_augmentation/default",
    *(f"{n}/{r}" for n, r in TRAINED.items()),
    "05_comparison/default",
    "06_pitfalls/default",
    "07_data_audit/default",
    "08_cross_dataset/mobilenetv2-cells",
    "09_inspect_photos/default",
]
COUNTS = ("n", "tn", "fp", "fn", "tp", "errors")
FRACTIONS = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision")


def environment(home: Path) -> dict[str, str]:
    """Environment of a run: folders of its own, nothing that the user, make or pytest has set for other purposes."""
    ours = re.compile("CRACKUTILS_|JUPYTER|IPYTHON|MAKE|MFLAGS|MPLBACKEND|PYTEST|PROFILE$|FORCE$|TF_|OMP_|KERAS_")
    env = {name: value for name, value in os.environ.items() if not ours.match(name)}
    path = os.pathsep.join([str(config.ROOT), *filter(None, [env.get("PYTHONPATH")])])
    folders = {name: str(home / name.lower()) for name in ("DATA", "RESULTS")}
    env |= {f"CRACKUTILS_{name}_DIR": folder for name, folder in folders.items()}
    return env | {"PYTHONPATH": path, "IPYTHONDIR": str(home / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}


def call(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=config.ROOT, env=environment(home), capture_output=True, text=True, encoding="utf-8", timeout=1200
    )


def nbval(home: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Execute the notebooks of a folder in order and compare their outputs strictly."""
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(SANITIZER), "-p", "no:cacheprovider"]
    return call(home, "pytest", *options, "--color=no", "-rf", "--rootdir", str(folder), str(folder))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of the first run, done by `python -m crackutils run`."""
    home = tmp_path_factory.mktemp("first")
    done = call(home, "crackutils", "run", "all", "PROFILE=smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == ""
    assert len(re.findall(r"^\[\d/9\] \d\d_\w+ \(smoke\): done in ", done.stdout, re.M)) == 9, done.stdout
    return home


@pytest.fixture(scope="module")
def validated(first: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Home and outcome of the second run, done by nbval on the copies that the first one made."""
    home = tmp_path_factory.mktemp("second")
    return home, nbval(home, first / "results" / "smoke" / "notebooks")


@pytest.fixture(scope="module")
def second(validated: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return validated[0]


def outputs(nb: nbformat.NotebookNode) -> Iterator[tuple[nbformat.NotebookNode, nbformat.NotebookNode]]:
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            yield cell, output


# ---------------------------------------------------------------- the first run


def test_every_notebook_leaves_a_clean_copy_and_a_page(first: Path) -> None:
    base = first / "results" / "smoke"
    stems = sorted(path.stem for path in config.NOTEBOOKS.glob("*.ipynb"))
    assert sorted(path.name for path in (base / "notebooks").iterdir()) == [f"{stem}.ipynb" for stem in stems]
    assert sorted(path.name for path in (base / "report").iterdir()) == [*(f"{s}.html" for s in stems), "index.html"]
    for stem in stems:
        nb = nbformat.read(base / "notebooks" / f"{stem}.ipynb", as_version=4)
        assert all(cell.execution_count for cell in nb.cells if cell.cell_type == "code")
        # warnings and progress bars of libraries
        noise = [(cell.source, output.text) for cell, output in outputs(nb) if output.get("name") == "stderr"]
        assert noise == [], stem
        told = "".join(str(output) for _, output in outputs(nb))
        assert str(first) not in told and str(config.ROOT) not in told, stem
        assert any("image/png" in output.get("data", {}) for _, output in outputs(nb)), stem
        assert any("text/markdown" in output.get("data", {}) for _, output in outputs(nb)), stem  # the conclusion


@pytest.mark.parametrize("run", RUNS)
def test_metrics_hold_what_was_run(run: str, first: Path) -> None:
    folder = first / "results" / "smoke" / run
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    notebook, name = run.split("/")
    assert (found["schema"], found["notebook"], found["run"]) == (SCHEMA, notebook, name)
    profile = config.profile("smoke")
    settings, data = found["settings"], found["data"]
    assert (settings["profile"], settings["split"], settings["threads"]) == ("smoke", profile.split, profile.threads)
    assert (settings["seed"], settings["split_seed"]) == (config.DEFAULT_SEED, config.DEFAULT_SEED)
    assert data["source"] == profile.source and re.fullmatch("[0-9a-f]{64}", data["sha256"])
    parts = [data[part] for part in ("train", "val", "test")]
    assert sum(part["images"] for part in parts) == data["images"] and all(part["images"] for part in parts)
    assert sum(part["positive"] for part in parts) == data["positive"]
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    assert set(facts) == {"versions", "machine", "timings"}
    assert {"tensorflow", "numpy", "python"} <= set(facts["versions"])
    assert list((folder / "figures").glob("*.png"))


@pytest.mark.parametrize(("notebook", "name"), TRAINED.items())
def test_training_leaves_scores_predictions_history_and_model(notebook: str, name: str, first: Path) -> None:
    folder = first / "results" / "smoke" / notebook / name
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    for part in ("before", "val", "test"):
        scores = found[part]
        believed = set() if part == "before" else {"brier", "ece"}
        assert set(scores) == {*COUNTS, *FRACTIONS, "loss"} | believed
        assert all(0 <= scores[key] <= 1 for key in believed)
        assert all(isinstance(scores[key], int) for key in COUNTS)
        assert scores["n"] == scores["tn"] + scores["fp"] + scores["fn"] + scores["tp"]
        assert scores["errors"] == scores["fp"] + scores["fn"]
        assert all(scores[key] is None or 0 <= scores[key] <= 1 for key in FRACTIONS), scores
        assert scores["accuracy"] == round(1 - scores["errors"] / scores["n"], 6)
        assert scores["loss"] > 0
        assert scores["n"] == found["data"]["test" if part == "before" else part]["images"]
        assert scores["tp"] + scores["fn"] == found["data"]["test" if part == "before" else part]["positive"]
    assert found["before"]["loss"] != found["test"]["loss"]  # something was trained
    assert found["settings"]["recipe"]["name"] == name

    with open(folder / "predictions.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["file", "split", "label", "p_crack"]
    assert len(rows) == found["val"]["n"] + found["test"]["n"] and {row["split"] for row in rows} == {"val", "test"}
    assert all(0 <= float(row["p_crack"]) <= 1 for row in rows)
    assert all(row["label"] == str(config.CLASSES.index(row["file"].split("/")[0])) for row in rows)
    assert len({row["file"] for row in rows}) == len(rows)

    with open(folder / "history.csv", encoding="utf-8", newline="") as handle:
        epochs = list(csv.DictReader(handle))
    linear = found["settings"]["recipe"]["stages"][0]["optimizer"] == "L-BFGS"
    scores = ["loss", "accuracy", "val_loss", "val_accuracy"]
    wanted = ["C", "iterations", *scores] if linear else [*scores, "learning_rate"]
    assert list(epochs[0]) == ["stage", "epoch", *wanted]
    stages = found["training"]["stages"]
    assert [row["stage"] for row in epochs] == [stage["name"] for stage in stages for _ in range(stage["epochs"])]
    assert linear or all(stage["epochs"] <= config.profile("smoke").max_epochs for stage in stages)

    saved = {"model.weights.h5", "model.keras", "README.md", "summary.txt"}
    assert {path.name for path in (folder / "model").iterdir()} == saved
    assert "p_crack (Dense)" in (folder / "model" / "summary.txt").read_text("utf-8")
    assert found["model"]["bytes"] == (folder / "model" / "model.weights.h5").stat().st_size
    assert f"{found['test']['errors']} errors in {found['test']['n']:,} images" in (
        folder / "model" / "README.md"
    ).read_text("utf-8")
    assert not (folder / "checkpoints").exists()
    assert linear != bool(list((folder / "tensorboard").rglob("events.out.tfevents.*")))  # it has no epochs to log


def test_comparison_repeats_the_runs_own_numbers(first: Path) -> None:
    base = first / "results" / "smoke"
    found = json.loads((base / "05_comparison" / "default" / "metrics.json").read_text("utf-8"))
    for row, (notebook, name) in zip(found["runs"], TRAINED.items(), strict=True):
        test = json.loads((base / notebook / name / "metrics.json").read_text("utf-8"))["test"]
        assert row["run"] == name
        assert {key: row[key] for key in ("n", "errors", "accuracy", "auroc")} == {
            key: test[key] for key in ("n", "errors", "accuracy", "auroc")
        }
        assert row["low"] < row["accuracy"] < row["high"] or row["accuracy"] in (row["low"], row["high"])


# ---------------------------------------------------------------- the second run


def test_outputs_come_again_when_everything_is_computed_anew(
    validated: tuple[Path, subprocess.CompletedProcess[str]], first: Path
) -> None:
    _, done = validated
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    copies = (first / "results" / "smoke" / "notebooks").iterdir()
    cells = sum(c.cell_type == "code" for path in copies for c in nbformat.read(path, as_version=4).cells)
    assert f"{cells} passed" in done.stdout


@pytest.mark.parametrize("run", RUNS)
def test_files_come_again_byte_for_byte(run: str, first: Path, second: Path) -> None:
    one, other = (home / "results" / "smoke" / run for home in (first, second))
    names = ["metrics.json"]
    names += ["predictions.csv"] if run.split("/")[0] in TRAINED else []
    names += ["history.csv", "model/README.md"] if run.split("/")[0] in SAVED else []
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("run", RUNS)
def test_figures_come_again_pixel_for_pixel(run: str, first: Path, second: Path) -> None:
    one, other = (home / "results" / "smoke" / run / "figures" for home in (first, second))
    names = sorted(path.name for path in one.iterdir())
    assert names and names == sorted(path.name for path in other.iterdir())
    for name in names:
        if not name.startswith(TIMED):
            with Image.open(one / name) as a, Image.open(other / name) as b:
                assert a.size == b.size, name
                assert np.array_equal(np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))), name


@pytest.mark.parametrize(("notebook", "name"), SAVED.items())
def test_weights_come_again_bit_for_bit(notebook: str, name: str, first: Path, second: Path) -> None:
    def weights(home: Path) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}

        def keep(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[path] = item[()]

        with h5py.File(home / "results" / "smoke" / notebook / name / "model" / "model.weights.h5") as file:
            file.visititems(keep)
        return found

    one, other = weights(first), weights(second)
    assert len(one) > 10 and list(one) == list(other)
    assert [path for path in one if not np.array_equal(one[path], other[path])] == []


# ---------------------------------------------------------------- the comparison itself


def test_nothing_but_the_timing_of_keras_is_sanitized() -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(SANITIZER.read_bytes().decode("ascii"))
    (section,) = parser.sections()
    line = "3/3 - 12s - 4s/step - accuracy: 0.5312 - loss: 0.6931 - val_accuracy: 0.5000 - val_loss: 0.6930\n"
    for timing in ("3/3 - 12s - 4s/step", "1/38 - 0s - 13ms/step", "100/100 - 0s - 900us/step"):
        seen = re.sub(parser[section]["regex"], parser[section]["replace"], line.replace("3/3 - 12s - 4s/step", timing))
        assert seen == line.replace("3/3 - 12s - 4s/step", "TIMING")
    table = "errors  3 of 14  0.214286  1/2 - 3 s"
    assert re.sub(parser[section]["regex"], "", table) == table


def other_digit(text: str) -> str:
    """Return the text with its last digit replaced by another one."""
    at = [found.start() for found in re.finditer(r"\d", text)][-1]
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


def test_one_other_digit_is_noticed(first: Path, tmp_path: Path) -> None:
    """Of two copies, cut after the comparison's table, one has another digit: nbval fails there only."""
    nb = nbformat.read(first / "results" / "smoke" / "notebooks" / "05_comparison.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(nb.cells) if "results.summary(runs)" in cell.source)
    nb.cells = nb.cells[: last + 1]
    nbformat.write(nb, tmp_path / "right.ipynb")
    (shown,) = nb.cells[last].outputs
    before = shown.data["text/plain"]
    shown.data["text/plain"] = other_digit(before)
    assert sum(a != b for a, b in zip(before, shown.data["text/plain"], strict=True)) == 1
    nbformat.write(nb, tmp_path / "wrong.ipynb")
    done = nbval(first, tmp_path)  # the comparison needs the results of the trainings; it writes none before its end
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.M)
    assert done.returncode == 1 and len(failed) == 1, done.stdout[-3000:]
    assert failed[0].startswith("wrong.ipynb") or "/wrong.ipynb" in failed[0]
    assert "Cell outputs differ" in done.stdout
