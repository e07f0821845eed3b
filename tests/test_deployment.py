"""Exported models: equal to Keras, refused where they are not, and run without this package."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from crackutils import config, training
from crackutils.cli import main
from crackutils.config import keras
from crackutils.datasets import Dataset
from crackutils.deployment import export
from crackutils.deployment.runtimes import FORMATS, NEEDED, open_exported
from crackutils.stages import Recipe, Stage
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import THIN
from tools.benchmarks import formats

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
TINY = Recipe("tiny", "Tiny", "cnn", 32, 8, (Stage("scratch", 1),), units=2)


def needs(form: str) -> pytest.MarkDecorator:
    missing = [name for name in NEEDED.get(form, ()) if importlib.util.find_spec(name) is None]
    told = f"{', '.join(missing)} not installed: pip install crackutils[export]"
    return pytest.mark.skipif(bool(missing), reason=told)


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x))
    steep = keras.initializers.RandomNormal(stddev=9.0, seed=6)
    return keras.Model(inputs, keras.layers.Dense(2, "softmax", kernel_initializer=steep)(x))


@pytest.fixture
def run(tmp_path: Path, model: Any, smoke: Dataset, smoke_home: Path, monkeypatch: Patch) -> Path:
    """A run folder of the smoke profile, whose model has learnt nothing but depends on the image."""
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(smoke_home))
    monkeypatch.chdir(tmp_path)
    training.save(model, folder := tmp_path / "run", "card")
    settings = {"recipe": TINY.as_dict(), "weights": "random", "profile": "smoke"}
    settings |= {"split": "copy-safe", "split_seed": config.DEFAULT_SEED}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, "test": {}}))
    (folder / "run.json").write_text("{}")
    return folder


@pytest.mark.parametrize("form", [pytest.param(form, marks=needs(form)) for form in FORMATS])
def test_a_format_gives_what_keras_gives_and_its_card_says_so(
    form: str, run: Path, model: Any, capsys: Capture
) -> None:
    out = Path(f"made{FORMATS[form]}")
    assert main(["export", str(run), "--format", form, "--out", str(out)]) == 0
    card = json.loads(Path(f"{out}.json").read_text("utf-8"))
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    found = np.concatenate([open_exported(out, form, 1)(one[None])["p_crack"] for one in x])
    assert found.shape == (3, 1) and found.dtype == np.float32
    assert np.allclose(found[:, 0], model(x.astype(np.float32))[:, 1], atol=0.05 if form == "litert-int8" else 1e-5)
    rows = 1 if form.startswith("litert") else "n"
    assert card["input"] == f"uint8 ({rows}, 32, 32, 3), RGB 0-255"
    assert card["outputs"] == {"p_crack": f"float32 ({rows}, 1)"}
    assert card["bytes"] == sum((Path() / name).stat().st_size for name in card["sha256"])
    assert (card["threshold"], card["labels"]["1"]) == (0.5, "Positive") and card["accuracy"]["n"] > 0
    assert "largest difference from Keras" in capsys.readouterr().out
    # once more replaces what it wrote, but not what the user has changed
    assert main(["export", str(run), "--format", form, "--out", str(out)]) == 0
    changed = next(path for path in map(Path, card["sha256"]))
    changed.write_bytes(b"mine")
    assert main(["export", str(run), "--format", form, "--out", str(out)]) == 2
    assert changed.read_bytes() == b"mine" and "changed since it was written" in capsys.readouterr().err


def test_what_came_after_the_training_is_no_test(run: Path, smoke: Dataset, capsys: Capture) -> None:
    files = smoke.index["file"].to_numpy()
    table = pd.DataFrame({"file": files[:8], "split": ["val", "test"] * 4, "label": 0, "p_crack": 0.5})
    table.to_csv(run / "predictions.csv", index=False)
    assert main(["export", str(run), "--format", "litert", "--out", "made.tflite"]) == 0
    assert json.loads(Path("made.tflite.json").read_text("utf-8"))["accuracy"]["n"] == 4
    table.assign(file="gone/" + table["file"]).to_csv(run / "predictions.csv", index=False)
    assert main(["export", str(run), "--format", "litert", "--out", "other.tflite"]) == 2
    assert "no longer has the test images of" in capsys.readouterr().err


def test_what_differs_from_keras_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(export, "_FLOAT", -1.0)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(config.CrackutilsError, match=r"litert differs from Keras on \d+ validation images: difference"):
        export.export_model(str(run), "litert", Path("made.tflite"))
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before and path.suffix != ".lock"] == []
    assert export._iou(np.zeros(4, bool), np.zeros(4, bool)) == 1  # no crack in either map


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "coreml", "--out", "a.mlmodel"], "coreml"),
        (["--format", "litert", "--out", "a.onnx"], "a.onnx is no name for the format litert. Give the name of a file"),
        (["--format", "saved_model", "--out", "a.onnx"], "Give the name of a folder."),
        (["--format", "litert", "--out", "a.tflite", "--images", "none"], "--images none is not a folder"),
        (["--format", "litert", "--out", "a.tflite", "--images", "run"], "holds no picture that can be read"),
    ],
)
def test_a_mistake_ends_in_one_line(arguments: list[str], says: str, run: Path, capsys: Capture) -> None:
    assert main(["export", str(run), *arguments]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not Path("a.tflite").exists()


def test_a_missing_package_is_named(run: Path, monkeypatch: Patch, capsys: Capture) -> None:
    really = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else really(name))
    assert main(["export", str(run), "--format", "onnx", "--out", "a.onnx"]) == 2
    assert "pip install" in (told := capsys.readouterr().err) and "tf2onnx" in told


def test_a_detector_gives_the_map_that_inspect_uses(
    untrained: Callable[..., Any], tmp_path: Path, monkeypatch: Patch
) -> None:
    from crackutils.detector.runs import photo_network

    monkeypatch.setattr(export, "_PHOTOS", 2)
    untrained(tmp_path / "run", adapted=True)
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos" / "a.png")
    card = export.export_model(str(tmp_path / "run"), "litert", tmp_path / "a.tflite", tmp_path / "photos")
    assert card["compared_with_keras"]["on"] == "1 given photos" and 0 <= card["accuracy"]["iou"] <= 1
    found = open_exported(tmp_path / "a.tflite", "litert", 1)(image[None])
    taken, *logits = photo_network(tmp_path / "run", 64)
    maps = keras.Model(taken, logits)(image[None].astype(np.float32))
    for name, z in zip(("p_cells", "p_pixels"), maps, strict=True):
        assert np.allclose(found[name].ravel(), 1 / (1 + np.exp(-np.asarray(z).ravel())), atol=1e-4)


EXAMPLES = re.findall(r"```python\n(.*?)```", formats.PAGE.read_text("utf-8"), re.S)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        pytest.param(*pair, marks=needs(pair[0]))
        for pair in zip(("onnx", "litert", "openvino"), EXAMPLES[:3], strict=True)
    ],
)
def test_the_examples_of_the_docs_run_without_the_package(form: str, code: str, run: Path, model: Any) -> None:
    assert "crackutils" not in code and len(code.strip().split("\n")) <= 12
    export.export_model(str(run), form, Path(f"patches{FORMATS[form]}"))
    image = np.full((64, 64, 3), (200, 90, 30), np.uint8)
    Image.fromarray(image).save("patch.jpg", quality=100)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    expected = float(model(np.asarray(Image.open("patch.jpg").resize((32, 32)), np.float32)[None])[0, 1])
    assert abs(float(done.stdout.split(":")[1]) - expected) < 0.001, done.stderr


STAND_IN = """class Interpreter:
    def __init__(self, file): pass
    def get_signature_runner(self): return Runner()
class Runner:
    def get_input_details(self): return {"rgb": {"shape": (1, 512, 512, 3)}}
    def __call__(self, rgb):
        dark = rgb[..., 0] < 100
        cells = dark.reshape(1, 32, 16, 32, 16).any((2, 4))
        return {"p_pixels": dark * 0.98 + 0.01, "p_cells": cells * 0.98 + 0.01}
"""


CRACKS = ((100, 100), (800, 120)), ((50, 500), (60, 590)), ((300, 585), (300, 599))  # the last one is too short


@pytest.mark.parametrize(("lines", "cracks"), [((), 0), (CRACKS, 2)], ids=["a clean wall", "two cracks"])
def test_the_example_for_a_whole_photo_counts_what_is_in_the_photo(lines: Any, cracks: int, tmp_path: Path) -> None:
    wall = Image.new("RGB", (900, 600), (150, 150, 150))
    for line in lines:
        ImageDraw.Draw(wall).line(line, (20, 20, 20), 3)
    wall.save(tmp_path / "photo.jpg", quality=95)
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "__init__.py").touch()
    (tmp_path / "ai_edge_litert" / "interpreter.py").write_text(STAND_IN)
    code = EXAMPLES[3]
    assert len(EXAMPLES) == 4 and "crackutils" not in code and len(code.strip().split("\n")) <= 38
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{cracks} cracks\n", done.stderr
    assert Image.open(tmp_path / "mask.png").size == (900, 600)


@pytest.mark.slow
def test_the_example_for_a_whole_photo_makes_the_mask_of_inspect(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_photo(909, 1, 1300, 900, THIN).image).save("photo.jpg", quality=95)
    assert main(["inspect", "photo.jpg", "--out", "report"]) == 0
    assert main(["export", "detector", "--format", "litert", "--out", "detector.tflite"]) == 0
    subprocess.run([sys.executable, "-c", EXAMPLES[3]], check=True, timeout=120)
    expected, found = (np.array(Image.open(f)) > 0 for f in ("report/photos/photo.jpg/mask.png", "mask.png"))
    near = [(a & (distance_transform_edt(~b) <= 4)).sum() / a.sum() for a, b in permutations((expected, found))]
    assert expected.shape == found.shape and min(near) > 0.9, near


def test_the_table_of_formats_is_the_measured_one() -> None:
    assert formats.write_page(check=True), "docs/export.md is not up to date. Run python -m tools.benchmarks.formats."


def test_what_was_refused_stands_in_the_table() -> None:
    card = {"source": "a", "format": "litert", "images_per_second": 2.0, "bytes": 1_500_000, "threads": 2}
    card |= {"accuracy": {"n": 10, "errors": 1}, "compared_with_keras": {"changed_sides": 0.0}}
    cards = [card, card | {"format": "onnx", "images_per_second": 3.0}, {"source": "a", "format": "x", "refused": "no"}]
    rows = [re.split(r"\s*\|\s*", line) for line in formats.format_table({"profile": "p", "cards": cards}).split("\n")]
    assert rows[3][3:-1] == ["1 of 10", "0.0000", "1.5", "1.50"] and rows[4][3:-1] == ["refused"] * 4
