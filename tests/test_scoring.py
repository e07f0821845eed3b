"""Scoring a folder: every file in order, at an engine's speed, going on after a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackutils import config, models, training
from crackutils.images import read_image
from crackutils.recipes import RECIPES, Recipe
from crackutils.runs import find_best_run
from crackutils.scoring import _locked, score

TINY = dataclasses.replace(
    RECIPES["simple-cnn"],
    name="tiny",
    size=32,
    body=(("Conv2D", {"filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"}),),
)


def finished(folder: Path, recipe: Recipe = TINY) -> Path:
    """A run folder with a model that has learnt nothing, but tells pictures apart."""
    model, _ = models.build(recipe, "random", 5)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 3, bias])
    (folder / "model").mkdir(parents=True)
    model.save_weights(folder / "model" / "model.weights.h5")
    settings = {"recipe": recipe.as_dict(), "weights": "random"}
    content = {"settings": settings, "run": folder.name, "test": {}, "val": {"loss": 0.1}}
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


def test_score_takes_the_flips_of_the_recipe(saved: Path, tmp_path: Path) -> None:
    metrics = json.loads((saved / "metrics.json").read_text("utf-8"))
    metrics["settings"]["recipe"]["flips"] = True
    (saved / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "photos").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image[:, :16] //= 4
    Image.fromarray(image).save(tmp_path / "photos" / "a.png")
    score(tmp_path / "photos", tmp_path / "out.csv", saved)
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines())
    model, _ = training.load(saved)
    views = np.stack([image, image[::-1], image[:, ::-1], image[::-1, ::-1]]).astype(np.float32)
    found = model.predict_on_batch(views)[:, 0]
    assert float(row["p_crack"]) == pytest.approx(found.mean(), abs=1e-5)
    assert float(row["p_crack"]) != pytest.approx(found[0], abs=1e-5)


def test_score_lists_every_file_in_order(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "deep" / "scores.csv"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(colour).save(folder / "b" / "colour.png")
    deep = (rng.random((40, 40)) * 65535).astype(np.uint16)
    Image.fromarray(deep).save(folder / "a 16 bit, grey.png")
    whole_jpeg = folder / "whole.jpg"
    Image.fromarray(colour).save(whole_jpeg)
    (folder / "broken.jpg").write_bytes(whole_jpeg.read_bytes()[:900])
    whole_jpeg.unlink()
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes((folder / "b" / "colour.png").read_bytes())
    score(folder, out, saved)
    rows = list(csv.DictReader(out.read_text("utf-8").splitlines()))
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
    cracks = int((expected >= 0.5).sum())
    said = capsys.readouterr().out
    assert f"{cracks} of 4 files show a crack at the threshold 0.5, 2 could not be read" in said
    assert [p.name for p in out.parent.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize(("make", "said"), [(False, "is not a folder"), (True, "holds no files")])
def test_score_says_what_is_missing(make: bool, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    if make:
        folder.mkdir()
    with pytest.raises(config.CrackutilsError, match=said):
        score(folder, tmp_path / "out.csv", tmp_path)
    assert not (tmp_path / "out.csv").exists()


def test_score_without_any_usable_image(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    score(folder, tmp_path / "out.csv", saved)
    assert (tmp_path / "out.csv").read_text("utf-8") == "file,p_crack,problem\na.txt,,is not an image\n"


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def killed(folder: Path, out: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Score a folder, but for the last step; return the unfinished file."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_finish", dies)
        with pytest.raises(KeyboardInterrupt):
            score(folder, out, model)
    (part,) = out.parent.glob(f".{out.name}.*.part")
    return part


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    read, names = read_image, []
    monkeypatch.setattr(scoring, "read_image", lambda file, size: (names.append(file.name), read(file, size))[1])
    return names


@pytest.mark.parametrize("cut", [10, 45, 700, 701, 1500])
def test_a_killed_scoring_goes_on(
    cut: int,
    saved: Path,
    tmp_path: Path,
    seen: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, whole, out = photos(tmp_path / "photos", 60), tmp_path / "whole.csv", tmp_path / "cut.csv"
    (folder / "0007.png").write_bytes(b"broken")
    score(folder, whole, saved)
    summary = capsys.readouterr().out.strip().splitlines()[-1].split(" -> ")[0]
    part = killed(folder, out, saved, monkeypatch)
    part.write_bytes(part.read_bytes()[:cut])  # in the header, at its end, within rows
    kept = max(part.read_bytes().count(b"\n") - 1, 0)
    del seen[:]
    score(folder, out, saved)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(seen) == sorted(path.name for path in folder.iterdir())[kept:]
    assert capsys.readouterr().out.strip().splitlines()[-1].split(" -> ")[0] == summary
    assert not list(tmp_path.glob(".cut.csv.*"))


def test_files_that_changed_since_the_kill_are_scored_again(
    saved: Path, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos(tmp_path / "photos", 20), tmp_path / "out.csv"
    killed(folder, out, saved, monkeypatch)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "0012.png")
    del seen[:]
    score(folder, out, saved)
    assert sorted(seen) == [f"{i:04d}.png" for i in range(12, 20)]
    score(folder, tmp_path / "fresh.csv", saved)
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_another_model_does_not_go_on_where_the_first_stopped(
    saved: Path, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos(tmp_path / "photos", 12), tmp_path / "out.csv"
    killed(folder, out, saved, monkeypatch)
    del seen[:]
    score(folder, out, finished(tmp_path / "other", dataclasses.replace(TINY, size=40)))
    assert len(seen) == 12


def test_two_at_once_do_not_write_the_same_file(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = photos(tmp_path / "photos", 20), tmp_path / "out.csv"
    part = killed(folder, out, saved, monkeypatch)
    before = part.read_bytes()
    with (
        _locked(part, out),
        pytest.raises(config.CrackutilsError, match=r"Another process is writing .*out\.csv; wait for it"),
    ):
        score(folder, out, saved)
    assert part.read_bytes() == before
    score(folder, out, saved)  # once the other has let go
    assert len(rows_of(out)) == 20


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
def test_odd_files_are_listed_passed_over_or_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos(tmp_path / "photos", 2), tmp_path / "out.csv"
    odd = ["a,b.png", "Icon\r", "line\nbreak.png", 'quote".png']
    for name in odd:
        (folder / name).write_bytes((folder / "0000.png").read_bytes())
    os.mkfifo(folder / "pipe.png")
    os.symlink(folder / "0001.png", folder / "link.png")
    os.symlink("nowhere", folder / "lost.png")
    (folder / ".git").mkdir()
    (folder / ".git" / "0000.png").write_bytes((folder / "0000.png").read_bytes())
    part = killed(folder, out, saved, monkeypatch)
    before = part.read_bytes()
    score(folder, out, saved)  # reads these names again
    rows = list(csv.DictReader(out.open(newline="", encoding="utf-8")))
    assert sorted(row["file"] for row in rows) == sorted([*odd, "0000.png", "0001.png", "link.png", "lost.png"])
    assert {row["file"]: row["problem"] for row in rows}["lost.png"] == "does not exist"
    assert out.read_bytes().count(b"\n") == before.count(b"\n")
    if os.geteuid():  # root may list everything
        (folder / "closed").mkdir(mode=0)
        with pytest.raises(config.CrackutilsError, match=r"closed cannot be listed"):
            score(folder, out, saved)
        (folder / "closed").chmod(0o700)


def test_an_impossible_output_is_refused_before_the_work(saved: Path, tmp_path: Path, seen: list[str]) -> None:
    folder = photos(tmp_path / "photos", 2)
    with pytest.raises(config.CrackutilsError, match=r"photos is a folder; give the name of a CSV file"):
        score(folder, folder, saved)
    with pytest.raises(config.CrackutilsError, match=r"out\.csv cannot be written"):
        score(folder, folder / "0000.png" / "out.csv", saved)
    assert not seen


def test_scores_do_not_depend_on_the_engine(saved: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 20)
    for engine in ("litert", "tensorflow"):
        score(folder, tmp_path / f"{engine}.csv", saved, engine)
    a, b = ([float(row["p_crack"]) for row in rows_of(tmp_path / f"{e}.csv")] for e in ("litert", "tensorflow"))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.std(a) > 0.01


def test_two_units_and_augmentation(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, units=2, augment=RECIPES["mobilenetv2"].augment)
    run, folder = finished(tmp_path / "two", recipe), photos(tmp_path / "photos", 9)
    score(folder, tmp_path / "two.csv", run)
    model, _ = training.load(run)
    images = np.stack([read_image(p, 32) for p in sorted(folder.iterdir())]).astype(np.float32)
    found = [float(row["p_crack"]) for row in rows_of(tmp_path / "two.csv")]
    np.testing.assert_allclose(found, model.predict_on_batch(images)[:, 1], atol=1e-5)


def test_the_file_that_is_written_is_not_scored(saved: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    for _ in range(2):
        score(folder, folder / "scores.csv", saved)
    assert [row["file"] for row in rows_of(folder / "scores.csv")] == ["0000.png", "0001.png", "0002.png"]


def test_without_a_model_the_best_run_on_metu_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "photos", 3)
    with pytest.raises(
        config.CrackutilsError, match=r"No finished run on METU is in .* give a run's folder as --model"
    ):
        score(folder, tmp_path / "out.csv")
    home = config.results_dir() / "metu-half" / "04_simple_cnn"
    for name, loss in (("worse", 0.2), ("better", 0.1), ("better--split-random", 0.0)):
        run = finished(home / name)
        content = json.loads((run / "metrics.json").read_text("utf-8"))
        content["val"]["loss"] = loss
        (run / "metrics.json").write_text(json.dumps(content))
    assert find_best_run() == home / "better"
    score(folder, tmp_path / "out.csv")
    assert "04_simple_cnn/better" in capsys.readouterr().out


def test_a_second_scoring_does_not_start_tensorflow(saved: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    score(folder, tmp_path / "first.csv", saved)
    code = f"""
import sys
from crackutils import scoring
scoring.score({str(folder)!r}, {str(tmp_path / "second.csv")!r}, {str(saved)!r})
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "second.csv").read_bytes() == (tmp_path / "first.csv").read_bytes()


def test_a_model_without_weights_is_told(saved: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 1)
    (saved / "model" / "model.weights.h5").unlink()
    with pytest.raises(config.CrackutilsError, match=r"holds no model\.weights\.h5; run the notebook again"):
        score(folder, tmp_path / "out.csv", saved)
    with pytest.raises(config.CrackutilsError, match=r"ENGINE=fast is unknown"):
        score(folder, tmp_path / "out.csv", finished(tmp_path / "another"), "fast")
