"""The reference, and the comparison of results with it."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crackutils import config
from crackutils.decisions import chosen_metrics
from crackutils.runs import read_predictions, score_parts
from tools import reference
from tools.reference import is_close, make_reference, verify

PROFILE = "metu-half"
IMAGES = 180  # 60 of them in the test
DATA = {"source": "metu", "sha256": "d" * 64, "images": IMAGES, "test": {"images": 60}}
FACTS = {"versions": {"keras": "3"}, "machine": {"cpu": "this", "gpu": None}, "timings": {"train": 60.0}}
MODEL = {"parameters": 98289, "start": {"sha256": "a" * 64}}


def write(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content |= {"notebook": folder.parent.name, "run": folder.name, "data": DATA}
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "run.json").write_text(json.dumps(FACTS))


def fake_run(name: str = "simple-cnn", wrong: int = 4, shift: float = 0.0) -> Path:
    """Write a run whose first `wrong` test images are misclassified, and a comparison of all runs."""
    folder = config.results_dir() / PROFILE / "04_simple_cnn" / name
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    p = np.random.default_rng(0).uniform(0.01, 0.2, IMAGES) + shift
    p = np.where(np.arange(IMAGES) % 2 ^ (np.arange(IMAGES) < wrong), 1 - p, p).astype(np.float32)
    p[-1] = 0.75
    lines = [f"{i:05d}.jpg,{'test' if i < 60 else 'val'},{i % 2},{p[i]}\n" for i in range(IMAGES)]
    (folder / "predictions.csv").write_text("file,split,label,p_crack\n" + "".join(lines))
    (folder / "history.csv").write_text(f"stage,epoch,loss\nscratch,1,0.5\nscratch,2,{0.25 + shift}\n")
    for figure in ("example", "timing_bars"):
        Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)).save(folder / f"figures/{figure}.png")
    predictions = read_predictions(folder)
    content = {"schema": 1, "settings": {"seed": 1337, "recipe": {"size": 112}}, "model": MODEL}
    write(folder, content | score_parts(predictions) | chosen_metrics(predictions))
    metrics = [json.loads(file.read_text()) for file in sorted(folder.parent.glob("*/metrics.json"))]
    runs = [{"run": run["run"], "errors": run["test"]["errors"]} for run in metrics]
    tests = [{"a": "x", "b": "y", "p_value": sum(run["errors"] for run in runs) / 100}]
    write(folder.parents[1] / "05_comparison" / "default", {"settings": {}, "runs": runs, "mcnemar": tests})
    return folder


def put(path: str, value: Any) -> Callable[[Path], None]:
    """Return a change of a JSON file: the value at `path`, or if it can be called what it returns of the old one."""

    def change(file: Path) -> None:
        *parts, name = path.split(".")
        inner = functools.reduce(dict.get, parts, content := json.loads(file.read_text()))
        inner[name] = value(inner[name]) if callable(value) else value
        file.write_text(json.dumps(content))

    return change


def swap(old: str, new: str) -> Callable[[Path], Any]:
    return lambda file: file.write_text(file.read_text().replace(old, new, 1))


def another_cpu() -> None:
    for file in (config.results_dir() / PROFILE).glob("*/*/run.json"):
        put("machine.cpu", "another")(file)


def one_pixel(file: Path) -> None:
    pixels = np.array(Image.open(file))
    pixels[10, 10, 0] ^= 1
    Image.fromarray(pixels).save(file)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(reference, "PICTURES", {PROFILE: ("04_simple_cnn/simple-cnn/figures/example.png",)})
    folder = fake_run()
    make_reference(PROFILE)
    return folder


CHANGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "digit": ("metrics.json", put("test.accuracy", lambda old: round(old + 1e-6, 6)), "test.accuracy"),
    "key": ("metrics.json", put("more", 1), "more"),
    "setting": ("metrics.json", put("settings.seed", 1338), "settings.seed"),
    "recipe": ("metrics.json", put("settings.recipe.size", 9), "settings.recipe.size"),
    "threshold": ("metrics.json", put("decision.threshold", 0.9), "decision.threshold from predictions.csv"),
    "last digit": ("predictions.csv", swap("0.75\n", "0.75000006\n"), "predictions.csv"),  # the next float32
    "label": ("predictions.csv", swap("test,0", "test,1"), "test.accuracy from predictions.csv"),
    "row": ("predictions.csv", swap("00179.jpg,val,1,0.75\n", ""), "val.n from"),
    "history.csv": ("history.csv", swap("0.25", "0.26"), "history.csv"),
    "no history.csv": ("history.csv", Path.unlink, "missing"),
    "pixel": ("figures/example.png", one_pixel, "figures/example.png"),
    "not run": ("metrics.json", Path.unlink, "not run"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_verify_is_red_after_any_change(name: str, run: Path, capsys: Any) -> None:
    file, change, reported = CHANGES[name]
    change(run / file)
    assert verify(PROFILE) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(reported in line and "DIFFERENT" in line for line in lines) and "RED" in lines[-1]
    if name in ("digit", "label", "row", "threshold"):  # small enough to pass as drift, but for the predictions
        another_cpu()
        assert verify(PROFILE) == 1 and "from predictions.csv" in capsys.readouterr().out


def test_verify_is_green_on_the_same_results(run: Path, capsys: Any) -> None:
    assert verify(PROFILE) == 0 and "GREEN: 0 differences in 2 runs" in capsys.readouterr().out
    shutil.rmtree(run)
    fake_run()  # made again from nothing
    assert verify(PROFILE) == 0
    one_pixel(run / "figures" / "timing_bars.png")  # timings are left out
    put("timings.train", 1.0)(run / "run.json")
    with Image.open(run / "figures" / "example.png") as image:
        image.save(image.filename, compress_level=0)  # another library's way to write the same pixels
    assert verify(PROFILE) == 0
    fake_run("mobilenetv2", wrong=2)  # a further run
    assert verify(PROFILE) == 0 and "not compared: other runs" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "shift", "red"), [(4, 1e-4, 0), (5, 1e-3, 0), (20, 0.0, 1), (4, 0.2, 1)])
def test_another_cpu_version_gpu_or_start_may_drift_a_little(wrong: int, shift: float, red: int, run: Path) -> None:
    fake_run(wrong=wrong, shift=shift)
    assert verify(PROFILE) == 1  # not on the same type
    another_cpu()
    assert verify(PROFILE) == red
    for file, path in (("run", "versions.keras"), ("run", "machine.gpu"), ("metrics", "model.start.sha256")):
        fake_run(shift=1e-4)
        put(path, "another")(run / f"{file}.json")
        assert verify(PROFILE) == 0


def test_on_another_cpu_photos_may_change_places(run: Path) -> None:
    photos, homes = (
        [{"file": "a", "cracks": 9}, {"file": "b", "cracks": 4}],
        (config.REFERENCE / PROFILE, run.parents[1]),
    )
    for home, rows in zip(homes, (photos, photos[::-1]), strict=True):
        put("photos", rows)(home / "04_simple_cnn" / "simple-cnn" / "metrics.json")
    assert verify(PROFILE) == 1
    another_cpu()
    assert verify(PROFILE) == 0
    put("photos", [photos[1], {"file": "a", "cracks": 4}])(run / "metrics.json")
    assert verify(PROFILE) == 1


@pytest.mark.parametrize("path", ["settings.seed", "data.images", "data.sha256", "model.parameters", "schema"])
@pytest.mark.parametrize("source", ["metu", "sample"])
def test_another_cpu_explains_no_other_settings_or_data(source: str, path: str, run: Path) -> None:
    for folder in (config.REFERENCE / PROFILE / "04_simple_cnn" / "simple-cnn", run):
        put("data.source", source)(folder / "metrics.json")
    another_cpu()
    assert verify(PROFILE) == 0
    put(path, lambda old: old + ("e" if path == "data.sha256" else 1))(run / "metrics.json")
    made_here = source == "sample" and path == "data.sha256"  # with other low bits on each machine
    assert verify(PROFILE) == int(not made_here)


@pytest.mark.parametrize(
    ("path", "want", "have", "downloaded", "synthetic"),
    [
        ("two_passes.two.accuracy", 0.50, 0.53, True, True),
        ("axes.missed", 25, 40, False, False),
        ("report[0].auroc", 0.9, 0.85, True, True),
        ("report[0].auroc", 0.9, None, False, False),
        ("home.test.accuracy", 0.99, 0.97, False, False),
        ("home.test.recall", 0.99, 0.97, True, True),
        ("photos[0].cracks", 3, 8, False, False),
        ("quality.rate", 0.10, 0.12, False, False),
        ("made[0].iou", 0.5, 0.7, False, False),
        ("val.loss", 0.1, 0.16, False, False),
        ("target.held", 400, 390, False, True),
        ("target.sha256", "a", "b", False, True),
        ("share_with_copy", 0.4, 0.41, False, True),
        ("ranks_of_wrong_labels[0]", 3, 4000, True, True),
        ("chosen", "a", "b", True, True),
        ("mcnemar[0].verdict", "a", "b", True, True),
        ("methods", [1], [], False, False),
        ("unheard_of", 1.0, 1.001, False, False),
    ],
)
def test_each_part_has_its_tolerance(path: str, want: Any, have: Any, downloaded: bool, synthetic: bool) -> None:
    assert [is_close(path, want, have, 200, made) for made in (False, True)] == [downloaded, synthetic]


def test_make_reference_replaces_what_was_there(run: Path, capsys: Any) -> None:
    with pytest.raises(config.CrackutilsError, match=r"reference/sample is empty.*make reference"):
        verify("sample")
    old = config.REFERENCE / PROFILE / "04_simple_cnn" / "of-long-ago"
    old.mkdir()
    make_reference(PROFILE)
    assert not old.exists()
    home = config.REFERENCE / PROFILE / "04_simple_cnn" / "simple-cnn"
    assert (home / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    marks = json.loads((home / "fingerprints.json").read_text("utf-8"))
    assert set(marks) == {"predictions.csv", "history.csv", "figures/example.png"}  # no timings
    assert (home / "example.png").is_file()  # a picture that the docs show
    (run / "figures" / "example.png").unlink()
    make_reference(PROFILE)
    assert "example.png, which is missing" in capsys.readouterr().out
    standard = ["default", "mobilenetv2--labels-corrected", "simple-cnn", "simple-cnn--split-random--split-seed-3"]
    others = ["simple-cnn--seed-2", "simple-cnn--split-seed-3--epochs-1", "mobilenetv2--weights-random"]
    for name in (*standard[1:], *others):
        fake_run(name)
    make_reference(PROFILE)
    assert sorted(file.parent.name for file in config.REFERENCE.rglob("metrics.json")) == standard
