"""Scoring a folder: every file in order, at an engine's speed, continued after a kill."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config, training
from crackutils.cli import main
from crackutils.config import keras
from crackutils.images import Picture, decode_image, read_image
from crackutils.runs import find_best_run
from crackutils.scoring import score
from crackutils.stages import Recipe, Stage

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
FOLDER, MODEL, OUT = Path("photos"), Path("finished"), Path("out.csv")


def finished(folder: Path, units: int = 1, augment: bool = False, loss: float = 0.1) -> Path:
    """A run folder with a model that has learnt nothing, but whose output depends on the image."""
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(keras.layers.RandomFlip(seed=1)(x) if augment else x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x))
    steep = keras.initializers.RandomNormal(stddev=3.0, seed=6)
    x = keras.layers.Dense(units, "sigmoid" if units == 1 else "softmax", kernel_initializer=steep)(x)
    training.save(keras.Model(inputs, x), folder, "card")
    recipe = Recipe("tiny", "Tiny", "cnn", 32, 8, (Stage("scratch", 1),), units=units)
    content = {"settings": {"recipe": recipe.as_dict(), "weights": "random"}, "val": {"loss": loss}}
    (folder / "metrics.json").write_text(json.dumps(content | {"run": folder.name, "test": {}}))
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    finished(MODEL)
    FOLDER.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8) // (i % 5 + 1)).save(FOLDER / f"{i:04d}.png")


def refused(*arguments: Any) -> str:
    with pytest.raises(config.CrackutilsError) as told:
        score(*arguments)
    return str(told.value)


def rows_of(file: Path = OUT) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(newline="", encoding="utf-8-sig")))


def test_score_lists_every_file_in_order(capsys: Capture) -> None:
    folder, out = Path("mixed"), Path("deep/scores.csv")
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colour, deep = rng.integers(0, 256, (50, 70, 3), np.uint8), (rng.random((40, 40)) * 65535).astype(np.uint16)
    for name, pixels in (("b/colour.png", colour), ("a 16 bit, grey.png", deep), ("broken.jpg", colour)):
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "broken.jpg").read_bytes()[:900])
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes((folder / "b" / "colour.png").read_bytes())
    score(folder, out, MODEL)
    rows = rows_of(out)
    assert [r["file"] for r in rows] == ["a 16 bit, grey.png", "broken.jpg", "b/colour.png"]
    assert list(rows[0]) == ["file", "p_crack", "problem"] and not rows[1]["p_crack"]
    assert [r["problem"].split(":")[0] for r in rows] == ["", "is cut short", ""]
    images = [read_image(folder / r["file"], 32) for r in rows[::2]]
    grey = np.asarray(Image.fromarray(np.rint(deep / 257).astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[0], np.repeat(grey[..., None], 3, 2))  # scaled, not clipped to white
    expected = training.load(MODEL)[0].predict_on_batch(np.stack(images).astype(np.float32))[:, 0]
    np.testing.assert_allclose([np.float32(r["p_crack"]) for r in rows[::2]], expected, atol=1e-5)
    cracks = f"{(expected >= 0.5).sum()} of 3 pictures show a crack at the threshold 0.5, 1 could not be read"
    said = capsys.readouterr().out
    assert cracks in said and "hidden: 1 (.hidden.png); not a picture by name or content: 1 (notes.txt)" in said
    assert sorted(p.name for p in out.parent.iterdir()) == [".scores.csv.sha256", "scores.csv"]
    score(folder, folder / "scores.csv", MODEL)  # the file that is written is not counted
    score(folder, folder / "scores.csv", MODEL)
    assert capsys.readouterr().out.count("not a picture by name or content: 1 (notes.txt)\n") == 2


def test_a_file_of_the_users_is_not_replaced(capsys: Capture) -> None:
    OUT.write_text("my notes")
    assert main(["score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL)]) == 2
    assert "out.csv exists and was not written by this command. Move it" in capsys.readouterr().err
    assert OUT.read_text() == "my notes"
    assert main(["score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL), "--force"]) == 0
    score(FOLDER, OUT, MODEL)  # its own
    table = pd.read_csv(OUT)
    assert list(table["file"]) == sorted(os.listdir(FOLDER))
    table.assign(remark="look here").to_csv(OUT, index=False)
    assert "out.csv has been changed since it was written" in refused(FOLDER, OUT, MODEL)
    assert "look here" in OUT.read_text()


def kill() -> Path:
    """Score the folder, but for the last step; return the unfinished file."""

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with Patch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("crackutils.scoring.write_own", dies)
        score(FOLDER, OUT, MODEL)
    (part,) = Path().glob(f".{OUT}.*.part")
    return part


@pytest.fixture
def seen(monkeypatch: Patch) -> list[str]:
    names: list[str] = []
    noted = lambda file, *size: names.append(file.name) or decode_image(file, *size)  # noqa: E731
    monkeypatch.setattr("crackutils.scoring.decode_image", noted)
    return names


@pytest.mark.parametrize(("whole", "more"), [(0, 0), (0, 10), (7, 0), (8, 20), (59, 30), (60, 0)])
def test_a_killed_scoring_continues(whole: int, more: int, seen: list[str], capsys: Capture) -> None:
    (FOLDER / "0007.png").write_bytes(b"broken")
    score(FOLDER, uncut := Path("uncut.csv"), MODEL)
    summary = capsys.readouterr().out.strip().splitlines()[-1].split(" -> ")[0]
    rows = (part := kill()).read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(rows[:whole]) + b"".join(rows[whole:])[:more])
    seen.clear()
    score(FOLDER, OUT, MODEL)
    assert OUT.read_bytes() == uncut.read_bytes()
    assert sorted(seen) == sorted(path.name for path in FOLDER.iterdir())[whole:]
    assert capsys.readouterr().out.strip().splitlines()[-1].split(" -> ")[0] == summary
    assert not list(Path().glob(".out.csv.*.part"))


def test_another_model_or_changed_files_are_scored_again(seen: list[str]) -> None:
    kill()
    seen.clear()
    score(FOLDER, OUT, finished(Path("other"), units=2))
    assert len(seen) == 60
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(FOLDER / "0012.png")
    seen.clear()
    score(FOLDER, OUT, MODEL)  # what the kill left
    assert sorted(seen) == [f"{i:04d}.png" for i in range(12, 60)]
    score(FOLDER, fresh := Path("fresh.csv"), MODEL)
    assert OUT.read_bytes() == fresh.read_bytes()


def test_two_at_once_do_not_write_the_same_file(monkeypatch: Patch) -> None:
    told = []

    def read(file: Path, size: int) -> Picture:
        if file.name == "0003.png":  # while the first is at work
            told.append(refused(FOLDER, OUT, MODEL))
        return decode_image(file, size)

    monkeypatch.setattr("crackutils.scoring.decode_image", read)
    Path(f".{OUT}.lock").touch()  # as a killed process leaves it
    score(FOLDER, OUT, MODEL)
    assert told == [f"Another process is writing {OUT.absolute()}. Wait for it, or give another name."]
    assert len(rows_of()) == 60


def test_what_cannot_work_is_refused_before_the_work(seen: list[str]) -> None:
    Path("empty").mkdir()
    for says, *arguments in (
        ("is not a folder", Path("none"), OUT, MODEL),
        ("holds no pictures", Path("empty"), OUT, MODEL),
        ("photos is a folder. Give the name of a CSV file", FOLDER, FOLDER, MODEL),
        ("out.csv cannot be written", FOLDER, FOLDER / "0000.png" / "out.csv", MODEL),
        ("ENGINE=fast is unknown", FOLDER, OUT, MODEL, "fast"),
        ("give a run's folder as --model", FOLDER, OUT),
    ):
        assert says in refused(*arguments)
    Path("other").mkdir()
    Path("other/metrics.json").write_text("[]")  # of another program
    assert "holds no finished training run. Give a folder" in refused(FOLDER, OUT, Path("other"))
    for name in ("model.weights.h5", "model.keras"):
        (MODEL / "model" / name).rename(name)
        assert "holds no usable model.keras and model.weights.h5. Run its" in refused(FOLDER, OUT, MODEL)
        Path(name).rename(MODEL / "model" / name)
    with zipfile.ZipFile(MODEL / "model" / "model.keras", "w") as parts:
        parts.writestr("config.json", "[1]")
    assert "holds no usable model.keras and model.weights.h5 (" in refused(FOLDER, OUT, MODEL)
    assert not seen and not OUT.exists()


def test_a_drive_that_goes_away_stops_the_work_which_then_continues(monkeypatch: Patch) -> None:
    score(FOLDER, whole := Path("whole.csv"), MODEL)

    def read(file: Path, size: int) -> Picture:
        if file.name == "0040.png" and not Path("away").exists():
            FOLDER.rename("away")
            FOLDER.mkdir()  # where it was mounted
        return decode_image(file, size)

    with monkeypatch.context() as patch:
        patch.setattr("crackutils.scoring.decode_image", read)
        assert "photos is gone; perhaps its drive or network share was removed. Re" in refused(FOLDER, OUT, MODEL)
    assert not OUT.exists()
    FOLDER.rmdir()
    Path("away").rename(FOLDER)
    score(FOLDER, OUT, MODEL)
    assert OUT.read_bytes() == whole.read_bytes()


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


FAULTS = [
    ("os.replace", no_room, "cannot be written (No space left on device). Free disk"),
    ("crackutils.scoring.find_pictures", Mock(side_effect=MemoryError), "there is not enough memory. Close other"),
    ("crackutils.scoring.find_pictures", Mock(side_effect=no_room), "No space left on device. Check the disk or"),
]


@pytest.mark.parametrize(("where", "fault", "says"), FAULTS)
def test_a_fault_from_outside_ends_in_one_line(
    where: str, fault: Any, says: str, monkeypatch: Patch, capsys: Capture
) -> None:
    command = ["score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL)]
    with monkeypatch.context() as patch:
        patch.setattr(where, fault)
        assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and says in told and told.count("\n") == 1
    assert main(command) == 0 and len(rows_of()) == 60 and not list(Path().glob(".*.part"))


def test_a_picture_too_large_for_the_memory_is_told(monkeypatch: Patch) -> None:
    monkeypatch.setattr("crackutils.images._to_rgb", Mock(side_effect=MemoryError))
    score(FOLDER, OUT, MODEL)
    assert {row["problem"] for row in rows_of()} == {"needs more memory than there is"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_signal_to_end_leaves_no_half_file(monkeypatch: Patch, capsys: Capture) -> None:
    replace = os.replace

    def end(source: Any, target: Any) -> None:
        if Path(target).name == OUT.name:
            os.kill(os.getpid(), signal.SIGTERM)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", end)
        assert main(["score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL)]) == 130
    assert "the same command continues" in capsys.readouterr().err
    left = [path.name for path in Path().glob(".*out.csv*") if not path.name.endswith(".sha256")]
    assert not OUT.exists() and len(left) == 1 and left[0].endswith(".part")  # the rows that are done


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
def test_odd_files_are_listed_passed_over_or_refused(seen: list[str]) -> None:
    photos = os.listdir(FOLDER)
    (FOLDER / ".git").mkdir()
    odd = ["a,b.png", "Icon\r", "line\nbreak.png", 'quote".png']
    for name in (*odd, ".git/0000.png"):
        (FOLDER / name).write_bytes((FOLDER / "0000.png").read_bytes())
    os.mkfifo(FOLDER / "pipe.png")
    os.symlink("0001.png", FOLDER / "link.png")
    os.symlink("nowhere", FOLDER / "lost.png")
    kill()
    seen.clear()
    score(FOLDER, OUT, MODEL)
    assert seen == []  # these names were found again
    rows = {row["file"]: row["problem"] for row in rows_of()}
    assert list(rows) == sorted([*odd, *photos, "link.png", "lost.png"]) and rows["lost.png"] == "does not exist"
    if os.geteuid():  # root may list everything
        (FOLDER / "closed").mkdir(mode=0)
        assert "closed cannot be listed" in refused(FOLDER, OUT, MODEL)
        (FOLDER / "closed").chmod(0o700)


def test_scores_are_those_of_keras_with_every_engine() -> None:
    run = finished(Path("two"), units=2, augment=True)
    images = np.stack([read_image(p, 32) for p in sorted(FOLDER.iterdir())]).astype(np.float32)
    wanted = training.load(run)[0].predict_on_batch(images)[:, 1]
    assert np.std(wanted) > 0.01
    for engine in ("litert", "tensorflow"):
        score(FOLDER, OUT, run, engine)
        np.testing.assert_allclose([float(row["p_crack"]) for row in rows_of()], wanted, atol=1e-5)


def test_without_a_model_the_best_run_on_metu_scores_and_the_second_time_without_tensorflow(capsys: Capture) -> None:
    home = config.results_dir() / "metu-half" / "04_simple_cnn"
    for name, loss in (("worse", 0.2), ("better", 0.1), ("better--split-random", 0.0)):
        finished(home / name, loss=loss)
    assert find_best_run() == home / "better"
    score(FOLDER, OUT)
    assert "04_simple_cnn/better" in capsys.readouterr().out
    code = "import sys, crackutils.scoring as s; s.score(*sys.argv[1:]); assert 'tensorflow' not in sys.modules"
    files = FOLDER.resolve(), Path("second.csv").resolve()
    subprocess.run([sys.executable, "-c", code, *files], cwd=config.ROOT, check=True)
    assert files[1].read_bytes() == OUT.read_bytes()
