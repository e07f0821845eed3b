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
from tools import reference, spread
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
    content = {"schema": 1, "settings": {"profile": PROFILE, "seed": 1337, "recipe": {"size": 112}}, "model": MODEL}
    write(folder, content | score_parts(predictions) | chosen_metrics(predictions))
    metrics = [json.loads(file.read_text()) for file in sorted(folder.parent.glob("*/metrics.json"))]
    runs = [{"run": run["run"], "errors": run["test"]["errors"]} for run in metrics]
    tests = [{"a": "x", "b": "y", "p_value": sum(run["errors"] for run in runs) / 100}]
    content = {"settings": {"profile": PROFILE}, "runs": runs, "mcnemar": tests}
    write(folder.parents[1] / "05_comparison" / "default", content)
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
    "not finished": ("run.json", Path.unlink, "not finished"),
    "no predictions.csv": ("predictions.csv", Path.unlink, "missing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_verify_is_red_after_any_change(name: str, run: Path, capsys: Any) -> None:
    file, change, reported = CHANGES[name]
    change(run / file)
    assert verify(PROFILE) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(reported in line and "DIFFERENT" in line for line in lines) and "RED" in lines[-1]
    if name in ("digit", "label", "row", "threshold", "no predictions.csv"):  # small enough to pass as drift
        another_cpu()
        assert verify(PROFILE) == 1 and "predictions.csv" in capsys.readouterr().out


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


def test_runs_that_run_all_does_not_make_may_be_missing(run: Path, capsys: Any) -> None:
    for name in ("simple-cnn--split-random", "chernxi-cnn-80"):
        fake_run(name)
    make_reference(PROFILE)
    for name in ("simple-cnn--split-random", "chernxi-cnn-80"):
        shutil.rmtree(run.with_name(name))
    assert verify(PROFILE) == 0
    assert "GREEN: 0 differences in 2 runs; 2 further runs of the reference were not run" in capsys.readouterr().out
    shutil.rmtree(run)
    assert verify(PROFILE) == 1


@pytest.fixture
def moved(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Measure the spread of runs that have two errors more on two types of CPU, and return the file."""

    def fake(_: str, which: list[str], results: Path, data: Path, switches: dict, plain: bool, *more: str) -> None:
        called.append((results.name, which, data == config.data_dir(), bool(switches), plain, more))
        with monkeypatch.context() as patch:
            patch.setenv("CRACKUTILS_RESULTS_DIR", str(results))
            seed = "".join(more).removeprefix("SEED=")
            if seed:
                fake_run(f"simple-cnn--seed-{seed}", 4 + 2 * int(seed))
            else:
                fake_run(wrong=4 if plain else 6, shift=1e-3)

    called: list[Any] = []
    monkeypatch.setattr(spread, "_run", fake)
    spread.measure_spread(PROFILE)
    assert [c[2:] for c in called[:3]] == [(False, True, False, ()), (False, True, False, ()), (False, True, True, ())]
    assert all(c[1] == ["04", "05"] for c in called[:3])  # what the reference holds
    assert called[3:] == [(f"seed-{k}", ["03", "04"], True, False, False, (f"SEED={k}",)) for k in (1, 2, 3, 4)]
    return config.REFERENCE / PROFILE / "spread.json"


def test_the_spread_is_the_most_that_a_kind_of_number_moved(moved: Path) -> None:
    content = json.loads(moved.read_text("utf-8"))
    assert content["how"]["seeds"] == [1337, 1, 2, 3, 4] and set(content["how"]["cpus"]) == set(spread.CPUS)
    found = content["moved"]["04_simple_cnn"]
    assert found["test.errors"] == {"cpus": 2, "seeds": pytest.approx(np.std([4, 6, 8, 10, 12]), rel=1e-2)}
    assert content["times"] == 2  # at least; no kind moved farther on one CPU than on the two others
    entry = {"cpus": dict(zip(spread.CPUS, (9, 3, 2), strict=True)), "seeds": 1}
    assert list(spread._left_out(entry)) == [3, 1 / 3, 2 / 9]
    assert list(spread._left_out(entry | {"seeds": 2})) == [3, 1 / 3]  # seeds explain the others
    note: dict[str, Any] = {}
    spread._note_seeds(note, [{"chosen": name, "run": name, "n": 3} for name in ("a", "b")])
    assert note == {"chosen": None}  # what seeds choose otherwise, a CPU may too
    assert found["test.accuracy"]["cpus"] == pytest.approx(2 / 60, rel=1e-2)
    assert content["moved"]["05_comparison"]["runs.errors"] == {"cpus": 2, "seeds": 0}
    assert not {"schema", "settings.seed", "test.n", "data.images"} & set(found)


@pytest.mark.parametrize(
    ("wrong", "shift", "red"), [(4, 1e-4, 0), (5, 1e-3, 0), (6, 0.0, 0), (12, 0.0, 1), (4, 0.2, 1)]
)
def test_another_cpu_version_gpu_or_start_may_drift_a_little(
    wrong: int, shift: float, red: int, run: Path, moved: Path, capsys: Any
) -> None:
    fake_run(wrong=wrong, shift=shift)
    assert verify(PROFILE) == 1  # not on the same type
    another_cpu()
    assert verify(PROFILE) == red
    for file, path in (("run", "versions.keras"), ("run", "machine.gpu"), ("metrics", "model.start.sha256")):
        fake_run(shift=1e-4)
        put(path, "another")(run / f"{file}.json")
        assert verify(PROFILE) == 0
    fake_run(wrong=20)
    assert verify(PROFILE) == 1
    put("versions.crackutils", "2")(run / "run.json")  # may be meant to give other numbers
    another_cpu()
    put("runs", [])(run.parents[1] / "05_comparison" / "default" / "metrics.json")
    assert verify(PROFILE) == 0 and "from references of another version" in capsys.readouterr().out
    fake_run(shift=1e-4)
    moved.unlink()
    assert verify(PROFILE) == 1  # nothing was measured


def test_on_another_cpu_photos_may_change_places(run: Path) -> None:
    photos = [{"file": "a", "cracks": 9}, {"file": "b", "cracks": 4}]
    for home, rows in ((config.REFERENCE / PROFILE, photos), (run.parents[1], photos[::-1])):
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
    bounds = {"times": 2, "moved": {"04_simple_cnn": {"data.sha256": None}}}  # as measured on images made by code
    (config.REFERENCE / PROFILE / "spread.json").write_text(json.dumps(bounds))
    another_cpu()
    assert verify(PROFILE) == 0
    put(path, lambda old: old + ("e" if path == "data.sha256" else 1))(run / "metrics.json")
    made_here = source == "sample" and path == "data.sha256"  # with other low bits on each machine
    assert verify(PROFILE) == int(not made_here)


BOUNDS = {"test.loss": 0.03, ".loss": 3, ".method": None, "errors": 2, "report.auroc": None}
BOUNDS |= dict.fromkeys(("target.n", "check.n"), 27)


@pytest.mark.parametrize(
    ("path", "want", "have", "downloaded", "synthetic"),
    [
        ("test.loss", 0.1, 0.129, True, True),
        ("test.loss", 0.1, 0.131, False, False),
        ("test.loss", 0.1, None, False, False),
        ("errors", 4, 6, True, True),
        ("errors", 4, 7, False, False),
        ("report[3].auroc", 0.9, None, True, True),
        ("report.other", 0.9, 0.8, False, False),
        ("report.loss", 0.9, 3.9, True, True),  # did not move: as others of that name
        ("settings.loss", 0.9, 3.9, False, False),
        ("other[1].method", "a", "b", True, True),
        ("target.n", 400, 390, False, True),
        ("check.n", 400, 390, False, True),
        ("model.start.sha256", "a", "b", True, True),
    ],
)
def test_numbers_may_move_as_far_as_was_measured(
    path: str, want: Any, have: Any, downloaded: bool, synthetic: bool
) -> None:
    assert [is_close(BOUNDS, path, want, have, made) for made in (False, True)] == [downloaded, synthetic]


def test_the_spread_of_a_notebook_that_was_not_measured_is_that_of_the_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "REFERENCE", tmp_path)
    for name, measured, far in (("sample", "123", 1), ("metu-mini", "23", 2), ("metu-half", "3", 3)):
        (tmp_path / name).mkdir()
        kinds = {"test.loss": {"cpus": far, "seeds": 0}, "val.loss": {"cpus": 4, "seeds": 20 * far - 20}}
        kinds |= {"val.low": None, "before.loss": None}
        content = {"times": 5, "moved": {k.zfill(2): kinds for k in measured}}
        (tmp_path / name / "spread.json").write_text(json.dumps(content))
    for notebook, far, seeds in (("01", 1, 0), ("02", 2, 20), ("03", 3, 40)):
        found = reference.read_spread("metu-half", notebook)
        assert found["test.loss"] == pytest.approx(5 * far, rel=0.01) and found["val.low"] is found[".low"] is None
        assert found["val.loss"] == found[".loss"] == pytest.approx(max(5 * 4, seeds), rel=0.01)
    assert reference.read_spread("sdnet", "03")["test.loss"] == pytest.approx(5, rel=0.01)
    with pytest.raises(config.CrackutilsError, match=r"reference/walls is empty.*make reference"):
        spread.measure_spread("walls")


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
