"""Scoring a folder: every file in order, at an engine's speed, continued after a kill."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crackutils import config, training
from crackutils.config import keras
from crackutils.files import write_atomically
from crackutils.images import read_image
from crackutils.runs import find_best_run
from crackutils.scoring import score
from crackutils.stages import Recipe, Stage


def finished(folder: Path, size: int = 32, units: int = 1, augment: bool = False, loss: float = 0.1) -> Path:
    """A run folder with a model that has learnt nothing, but whose output depends on the image."""
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((size, size, 3))
    x = keras.layers.RandomFlip(seed=1)(x) if augment else x
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    steep = keras.initializers.RandomNormal(stddev=3.0, seed=6)
    x = keras.layers.Dense(units, "sigmoid" if units == 1 else "softmax", kernel_initializer=steep)(x)
    training.save(keras.Model(inputs, x), folder, "card")
    recipe = Recipe("tiny", "Tiny", "cnn", size, 8, (Stage("scratch", 1),), units=units)
    settings = {"recipe": recipe.as_dict(), "weights": "random"}
    content = {"settings": settings, "run": folder.name, "test": {}, "val": {"loss": loss}}
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return finished(tmp_path / "finished")


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8) // (i % 5 + 1)).save(folder / f"{i:04d}.png")
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(newline="", encoding="utf-8")))


def test_score_lists_every_file_in_order(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "deep" / "scores.csv"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(colour).save(folder / "b" / "colour.png")
    deep = (rng.random((40, 40)) * 65535).astype(np.uint16)
    Image.fromarray(deep).save(folder / "a 16 bit, grey.png")
    Image.fromarray(colour).save(folder / "broken.jpg")
    (folder / "broken.jpg").write_bytes((folder / "broken.jpg").read_bytes()[:900])
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes((folder / "b" / "colour.png").read_bytes())
    score(folder, out, saved)
    rows = rows_of(out)
    assert [r["file"] for r in rows] == ["a 16 bit, grey.png", "broken.jpg", "notes.txt", "b/colour.png"]
    assert list(rows[0]) == ["file", "p_crack", "problem"]
    assert [bool(r["p_crack"]) for r in rows] == [True, False, False, True]
    assert [r["problem"].split(" (")[0] for r in rows] == ["", "is truncated or damaged", "is not an image", ""]
    images = [read_image(folder / r["file"], 32) for r in rows[::3]]
    grey = np.asarray(Image.fromarray(np.rint(deep / 257).astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[0], np.repeat(grey[..., None], 3, 2))  # scaled, not clipped to white
    model, _ = training.load(saved)
    expected = model.predict_on_batch(np.stack(images).astype(np.float32))[:, 0]
    np.testing.assert_allclose([np.float32(r["p_crack"]) for r in rows[::3]], expected, atol=1e-5)
    said = f"{(expected >= 0.5).sum()} of 4 files show a crack at the threshold 0.5, 2 could not be read"
    assert said in capsys.readouterr().out
    assert [p.name for p in out.parent.iterdir()] == ["scores.csv"]


def kill(folder: Path, out: Path, model: Path) -> Path:
    """Score a folder, but for the last step; return the unfinished file."""

    def dies(path: Path, content: Any) -> None:
        if path == out:
            raise KeyboardInterrupt
        write_atomically(path, content)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("crackutils.scoring.write_atomically", dies)
        score(folder, out, model)
    (part,) = out.parent.glob(f".{out.name}.*")
    return part


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []
    read = "crackutils.scoring.read_image"
    monkeypatch.setattr(read, lambda file, size: (names.append(file.name), read_image(file, size))[1])
    return names


@pytest.mark.parametrize(("whole", "more"), [(0, 0), (0, 10), (7, 0), (8, 20), (59, 30), (60, 0)])
def test_a_killed_scoring_continues(
    whole: int, more: int, saved: Path, tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uncut, out = photos(tmp_path / "photos", 60), tmp_path / "uncut.csv", tmp_path / "cut.csv"
    (folder / "0007.png").write_bytes(b"broken")
    score(folder, uncut, saved)
    summary = capsys.readouterr().out.strip().splitlines()[-1].split(" -> ")[0]
    part = kill(folder, out, saved)
    rows = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(rows[:whole]) + b"".join(rows[whole:])[:more])
    seen.clear()
    score(folder, out, saved)
    assert out.read_bytes() == uncut.read_bytes()
    assert sorted(seen) == sorted(path.name for path in folder.iterdir())[whole:]
    assert capsys.readouterr().out.strip().splitlines()[-1].split(" -> ")[0] == summary
    assert not list(tmp_path.glob(".cut.csv.*"))


def test_files_that_changed_since_the_kill_are_scored_again(saved: Path, tmp_path: Path, seen: list[str]) -> None:
    folder, out = photos(tmp_path / "photos", 20), tmp_path / "out.csv"
    kill(folder, out, saved)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "0012.png")
    seen.clear()
    score(folder, out, saved)
    assert sorted(seen) == [f"{i:04d}.png" for i in range(12, 20)]
    score(folder, tmp_path / "fresh.csv", saved)
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_another_model_does_not_continue_where_the_first_stopped(saved: Path, tmp_path: Path, seen: list[str]) -> None:
    folder, out = photos(tmp_path / "photos", 12), tmp_path / "out.csv"
    kill(folder, out, saved)
    seen.clear()
    score(folder, out, finished(tmp_path / "other", units=2))
    assert len(seen) == 12


def test_two_at_once_do_not_write_the_same_file(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out, told = photos(tmp_path / "photos", 20), tmp_path / "out.csv", []

    def read(file: Path, size: int) -> np.ndarray:
        if file.name == "0003.png":  # while the first is at work
            with pytest.raises(config.CrackutilsError) as refused:
                score(folder, out, saved)
            told.append(str(refused.value))
        return read_image(file, size)

    monkeypatch.setattr("crackutils.scoring.read_image", read)
    score(folder, out, saved)
    assert told == [f"Another process is writing {out}. Wait for it, or give another file."]
    assert len(rows_of(out)) == 20


def test_what_cannot_work_is_refused_before_the_work(saved: Path, tmp_path: Path, seen: list[str]) -> None:
    def refuse(says: str, *arguments: Any) -> None:
        with pytest.raises(config.CrackutilsError, match=says):
            score(*arguments)

    folder, out = photos(tmp_path / "photos", 2), tmp_path / "out.csv"
    (tmp_path / "empty").mkdir()
    refuse("is not a folder", tmp_path / "none", out, saved)
    refuse("holds no files", tmp_path / "empty", out, saved)
    refuse(r"photos is a folder\. Give the name of a CSV file", folder, folder, saved)
    refuse(r"out\.csv cannot be written", folder, folder / "0000.png" / "out.csv", saved)
    refuse("ENGINE=fast is unknown", folder, out, saved, "fast")
    refuse("No finished run on METU is in .* give a run's folder as --model", folder, out)
    for name in ("model.weights.h5", "model.keras"):
        (saved / "model" / name).rename(tmp_path / name)
        refuse(r"holds no usable model\.keras and model\.weights\.h5\. Run its", folder, out, saved)
        (tmp_path / name).rename(saved / "model" / name)
    assert not seen and not out.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
def test_odd_files_are_listed_passed_over_or_refused(saved: Path, tmp_path: Path, seen: list[str]) -> None:
    folder, out = photos(tmp_path / "photos", 2), tmp_path / "out.csv"
    odd = ["a,b.png", "Icon\r", "line\nbreak.png", 'quote".png']
    for name in odd:
        (folder / name).write_bytes((folder / "0000.png").read_bytes())
    os.mkfifo(folder / "pipe.png")
    os.symlink(folder / "0001.png", folder / "link.png")
    os.symlink("nowhere", folder / "lost.png")
    (folder / ".git").mkdir()
    (folder / ".git" / "0000.png").write_bytes((folder / "0000.png").read_bytes())
    kill(folder, out, saved)
    seen.clear()
    score(folder, out, saved)
    assert seen == []  # these names were found again
    rows = {row["file"]: row["problem"] for row in rows_of(out)}
    assert list(rows) == sorted([*odd, "0000.png", "0001.png", "link.png", "lost.png"])
    assert rows["lost.png"] == "does not exist"
    if os.geteuid():  # root may list everything
        (folder / "closed").mkdir(mode=0)
        with pytest.raises(config.CrackutilsError, match=r"closed cannot be listed"):
            score(folder, out, saved)
        (folder / "closed").chmod(0o700)


def test_scores_are_those_of_keras_with_every_engine(tmp_path: Path) -> None:
    run, folder = finished(tmp_path / "two", units=2, augment=True), photos(tmp_path / "photos", 20)
    images = np.stack([read_image(p, 32) for p in sorted(folder.iterdir())]).astype(np.float32)
    wanted = training.load(run)[0].predict_on_batch(images)[:, 1]
    assert np.std(wanted) > 0.01
    for engine in ("litert", "tensorflow"):
        score(folder, tmp_path / "out.csv", run, engine)
        found = [float(row["p_crack"]) for row in rows_of(tmp_path / "out.csv")]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_file_that_is_written_is_not_scored_and_no_image_need_be_usable(saved: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 0)
    (folder / "a.txt").write_text("x")
    for _ in range(2):
        score(folder, folder / "scores.csv", saved)
        assert (folder / "scores.csv").read_text("utf-8") == "file,p_crack,problem\na.txt,,is not an image\n"


def test_without_a_model_the_best_run_on_metu_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "photos", 3)
    home = config.results_dir() / "metu-half" / "04_simple_cnn"
    for name, loss in (("worse", 0.2), ("better", 0.1), ("better--split-random", 0.0)):
        finished(home / name, loss=loss)
    assert find_best_run() == home / "better"
    score(folder, tmp_path / "out.csv")
    assert "04_simple_cnn/better" in capsys.readouterr().out


def test_a_second_scoring_does_not_start_tensorflow(saved: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    score(folder, tmp_path / "first.csv", saved)
    code = (
        "import sys; from crackutils.scoring import score; score(*sys.argv[1:]); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, folder, tmp_path / "second.csv", saved], cwd=config.ROOT, check=True)
    assert (tmp_path / "second.csv").read_bytes() == (tmp_path / "first.csv").read_bytes()
