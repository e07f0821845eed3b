"""The series is run by the runner and, in the slow tests, once more by nbval, from empty folders, and compared.

The first run makes executed copies. nbval then computes every cell of these copies anew, in new kernels, with other
(empty) folders for images and results, and compares every output but those tagged as progress or timing. What both
runs wrote is compared as well: nbval itself looks at no pictures and no files.
"""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import nbformat
import pandas as pd
import pytest
from PIL import Image

from crackutils import config
from crackutils.runs import SCHEMA, read_predictions, read_run, score_parts
from crackutils.stages import SOLVERS
from tools.reference import TIMED

SANITIZER = Path(__file__).with_name("nbval.cfg")
NOTEBOOKS = sorted(path.stem for path in config.NOTEBOOKS.glob("*.ipynb"))
TRAINED = {"03_transfer_learning": "mobilenetv2-linear", "04_simple_cnn": "simple-cnn"}
SAVED = TRAINED | {"08_cross_dataset": "mobilenetv2-cells"}
RUNS = [f"{stem}/{SAVED.get(stem, 'default')}" for stem in NOTEBOOKS]


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
    """Home of the first run, done by `python -m tools run`."""
    home = tmp_path_factory.mktemp("first")
    done = call(home, "tools", "run", "all", "PROFILE=smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == ""
    assert len(re.findall(r"^\[\d+/10\] \d\d_\w+ \(smoke\): done in ", done.stdout, re.M)) == 10, done.stdout
    return home


@pytest.fixture(scope="module")
def validated(first: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Home and outcome of the second run, done by nbval on the copies that the first one made."""
    home = tmp_path_factory.mktemp("second")
    return home, nbval(home, first / "results" / "smoke" / "notebooks")


def test_every_notebook_leaves_a_clean_copy(first: Path) -> None:
    base = first / "results" / "smoke"
    assert sorted(path.stem for path in (base / "notebooks").iterdir()) == NOTEBOOKS
    for stem in NOTEBOOKS:
        cells = nbformat.read(base / "notebooks" / f"{stem}.ipynb", as_version=4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        # warnings and progress bars of libraries
        assert [output.text for output in outputs if output.get("name") == "stderr"] == [], stem
        told = "".join(map(str, outputs))
        assert str(first) not in told and str(config.ROOT) not in told, stem
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        assert {"image/png", "text/markdown"} <= kinds, stem  # the latter is the conclusion


@pytest.mark.parametrize("run", RUNS)
def test_metrics_hold_what_was_run(run: str, first: Path) -> None:
    folder = first / "results" / "smoke" / run
    found = read_run(folder)
    assert (found["schema"], f"{found['notebook']}/{found['run']}") == (SCHEMA, run)
    profile = config.profile("smoke")
    settings, data = found["settings"], found["data"]
    assert (settings["profile"], settings["split"], settings["threads"]) == ("smoke", profile.split, profile.threads)
    assert (settings["seed"], settings["split_seed"]) == (config.DEFAULT_SEED, config.DEFAULT_SEED)
    assert data["source"] == profile.source and re.fullmatch("[0-9a-f]{64}", data["sha256"])
    parts = [data[part] for part in ("train", "val", "test")]
    assert sum(part["images"] for part in parts) == data["images"] and all(part["images"] for part in parts)
    assert sum(part["positive"] for part in parts) == data["positive"]
    assert set(found["run_json"]) == {"versions", "machine", "timings"}
    assert {"tensorflow", "numpy", "python"} <= set(found["run_json"]["versions"])
    assert list((folder / "figures").glob("*.png"))


@pytest.mark.parametrize(("notebook", "name"), TRAINED.items())
def test_training_leaves_scores_predictions_history_and_model(notebook: str, name: str, first: Path) -> None:
    folder = first / "results" / "smoke" / notebook / name
    found, model, rows = read_run(folder), folder / "model", read_predictions(folder)
    epochs = pd.read_csv(folder / "history.csv")
    assert found["settings"]["recipe"]["name"] == name
    assert list(rows) == ["file", "split", "label", "p_crack"] and rows["file"].is_unique
    assert (rows["label"] == rows["file"].str.split("/").str[0].map(config.CLASSES.index)).all()
    assert {part: found[part] for part in ("val", "test")} == score_parts(rows)
    for part, scores in (("test", "before"), ("val", "val"), ("test", "test")):
        counts = found[scores]["n"], found[scores]["tp"] + found[scores]["fn"]
        assert counts == (found["data"][part]["images"], found["data"][part]["positive"])
    assert set(found["test"]) - set(found["before"]) == {"brier", "ece"}
    assert found["before"]["loss"] != found["test"]["loss"]  # something was trained
    linear = found["settings"]["recipe"]["stages"][0]["optimizer"] in SOLVERS
    measured = ["loss", "accuracy", "val_loss", "val_accuracy"]
    columns = ["C", "iterations", *measured] if linear else [*measured, "learning_rate"]
    assert list(epochs) == ["stage", "epoch", *columns]
    stages = found["training"]["stages"]
    assert epochs["stage"].tolist() == [stage["name"] for stage in stages for _ in range(stage["epochs"])]
    assert linear or all(stage["epochs"] <= config.profile("smoke").max_epochs for stage in stages)

    assert {path.name for path in model.iterdir()} == {"model.weights.h5", "model.keras", "README.md", "summary.txt"}
    assert found["model"]["bytes"] == (model / "model.weights.h5").stat().st_size
    card = (model / "README.md").read_text("utf-8")
    assert f"{found['test']['errors']} errors in {found['test']['n']:,} images" in card
    assert not (folder / "checkpoints").exists()
    assert linear != bool(list((folder / "tensorboard").rglob("events.out.tfevents.*")))  # it has no epochs to log


def test_comparison_repeats_the_runs_own_numbers(first: Path) -> None:
    base = first / "results" / "smoke"
    rows = read_run(base / "05_comparison" / "default")["runs"]
    for row, (notebook, name) in zip(rows, TRAINED.items(), strict=True):
        test = read_run(base / notebook / name)["test"]
        assert row["run"] == name
        assert all(row[key] == test[key] for key in ("n", "errors", "accuracy", "auroc"))
        assert row["low"] < row["accuracy"] < row["high"] or row["accuracy"] in (row["low"], row["high"])


@pytest.mark.slow
def test_outputs_come_again_when_everything_is_computed_anew(
    validated: tuple[Path, subprocess.CompletedProcess[str]], first: Path
) -> None:
    _, done = validated
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    copies = (first / "results" / "smoke" / "notebooks").iterdir()
    cells = sum(c.cell_type == "code" for path in copies for c in nbformat.read(path, as_version=4).cells)
    assert f"{cells} passed" in done.stdout


def content(file: Path) -> Any:
    """Return what must come again: pixels of a picture, arrays of weights, bytes of any other file."""
    if file.suffix == ".png":
        with Image.open(file) as image:
            return image.size, image.convert("RGB").tobytes()
    if file.suffix != ".h5":
        return file.read_bytes()
    arrays: dict[str, Any] = {}
    with h5py.File(file) as handle:
        handle.visititems(lambda path, item: arrays.update({path: item}))
        arrays = {path: item[()].tobytes() for path, item in arrays.items() if isinstance(item, h5py.Dataset)}
    assert len(arrays) > 10
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_files_come_again_byte_for_byte_and_figures_pixel_for_pixel(run: str, first: Path, validated: Any) -> None:
    one, other = (home / "results" / "smoke" / run for home in (first, validated[0]))
    names = ["metrics.json"]
    names += ["predictions.csv"] if run.split("/")[0] in TRAINED else []
    names += ["history.csv", "model/README.md", "model/model.weights.h5"] if run.split("/")[0] in SAVED else []
    figures = [sorted(f"figures/{path.name}" for path in (home / "figures").iterdir()) for home in (one, other)]
    assert figures[0] and figures[0] == figures[1]
    for name in names + [figure for figure in figures[0] if not Path(figure).name.startswith(TIMED)]:
        assert content(one / name) == content(other / name), name


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


@pytest.mark.slow
def test_one_other_digit_is_noticed(first: Path, tmp_path: Path) -> None:
    """Of two copies, cut after the comparison's table, one has another digit: nbval fails there only."""
    nb = nbformat.read(first / "results" / "smoke" / "notebooks" / "05_comparison.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(nb.cells) if "summarize_runs(runs)" in cell.source)
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
