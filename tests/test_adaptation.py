"""Adaptation to a site: the fitted head, the learning curve, the user's labels, and the run that is written."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from crackutils import config, datasets, training
from crackutils.adaptation import masks
from crackutils.adaptation.adapt import adapt
from crackutils.adaptation.curve import SCORES, describe_gain, learning_curve, plot_learning_curve
from crackutils.adaptation.labels import photos_of_tiles, read_labels
from crackutils.cli import main
from crackutils.config import CrackutilsError, keras
from crackutils.detector.head import PENALTIES, fit_head
from crackutils.detector.network import build_detector
from crackutils.detector.runs import DETECTOR, features_of_run, is_adapted
from crackutils.files import sha256
from crackutils.userfiles.write import writing

matplotlib.use("Agg")

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
TINY = dataclasses.replace(DETECTOR, size=64)
ONE, TWO = "tiles/7000-0.png,0,photo 0", "tiles/7000-1.png,1,photo 0"


def site(tiles: int = 400, photos: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which the network's own logits say little, one of the others much."""
    rng = np.random.default_rng(0)
    y, groups = rng.permutation(tiles) % 2, rng.permutation(tiles) % photos
    x = rng.normal(0, 1, (tiles, 31)).astype(np.float32)
    x[:, 0] = 3 * (x[:, 0] + 0.5 * y) - 4
    x[:, 7] = 0.2 * (x[:, 7] + 2.5 * y) + 5
    return x, y, groups


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Any]) -> Path:
    untrained(folder := tmp_path_factory.mktemp("run") / TINY.name)
    return folder


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """48 tiles of 24 photos, every second one with a dark line, and a CSV file of their labels."""
    folder, text = tmp_path / "my site", "file,label,photo\n"
    (folder / "tiles").mkdir(parents=True)
    images = np.random.default_rng(0).integers(120, 200, (48, 48, 48, 3), np.uint8)
    images[1::2, :, 20:25] //= 5
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / (name := f"tiles/{7000 + i // 2}-{i}.png"))
        text += f"{name},{i % 2},photo {i // 2}\n"
    (folder / "labels.csv").write_text(text, "utf-8")
    return folder / "labels.csv"


def labelled(tiles: Path) -> tuple[datasets.Dataset, pd.DataFrame]:
    table = read_labels(tiles)
    return datasets.from_files(tiles.parent, table["file"].tolist(), table["label"].tolist()), table


def edited(file: Path, *changes: tuple[str, str]) -> Path:
    for old, new in changes:
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new), "utf-8")
    return file


def test_the_penalty_pulls_to_the_unadapted_head(monkeypatch: Patch) -> None:
    x, y, groups = site()
    weights, bias, penalty = fit_head(x, y, groups)
    assert np.isfinite(penalty) and np.argmax(np.abs(weights[1:] * x[:, 1:].std(0))) == 6
    monkeypatch.setattr("crackutils.detector.head.PENALTIES", (float("inf"),))
    strict, offset, penalty = fit_head(x, y, groups)
    assert penalty == float("inf") and not strict[1:].any() and strict[0] > 0
    z = x @ strict + offset
    assert expit(z).mean() == pytest.approx(y.mean(), abs=1e-3)  # calibrated
    assert np.abs(x @ weights + bias - z).max() > 1


@pytest.mark.parametrize("tiles", [60, 300])  # fewer tiles than features, and more
def test_the_head_is_the_minimum_of_its_loss(tiles: int, monkeypatch: Patch) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(tiles, 101))
    x = (x - x.mean(0)) / x.std(0)
    y = (x[:, 0] + x[:, 3] + rng.normal(size=tiles) > 0).astype(int)
    monkeypatch.setattr("crackutils.detector.head.PENALTIES", (30.0,))
    monkeypatch.setattr("crackutils.detector.head._WEAK", 0.0)
    weights, bias, _ = fit_head(x, y, np.arange(tiles))
    big = np.concatenate([x[:, :1] * 1e4, x[:, 1:]], 1)  # where a column is large its weight costs nothing
    theirs = LogisticRegression(C=1 / 30, tol=1e-10, max_iter=10_000, solver="newton-cholesky").fit(big, y)
    np.testing.assert_allclose(x @ weights + bias, theirs.decision_function(big), atol=2e-3)


def test_a_few_labels_do_not_invert_the_ranking_and_cross_validation_keeps_photos_together() -> None:
    x, y, groups = site(20, 10)
    x[:, 0] = -x[:, 0] - 3 * y
    assert fit_head(x, y, groups)[0][0] == pytest.approx(0.05)
    with pytest.raises(CrackutilsError, match="all of one class"):
        fit_head(x, np.zeros(20, int), groups)
    rng, photos = np.random.default_rng(3), np.repeat(np.arange(30), 10)
    y = (rng.permutation(30) % 2)[photos]
    appearance = rng.normal(size=(30, 300))[photos] + rng.normal(0, 0.05, (300, 300))  # shows the photo, not the crack
    x = np.concatenate([(y + rng.normal(0, 1, 300))[:, None], appearance], 1)
    assert fit_head(x, y, np.arange(300))[2] == min(PENALTIES) < fit_head(x, y, photos)[2]
    assert fit_head(x[:40], y[:40], np.zeros(40))[2] == float("inf")  # nothing to choose by


def test_other_tiles_may_choose_the_penalty_instead(monkeypatch: Patch) -> None:
    x, y, _ = site(800)
    found = []
    for some in (PENALTIES, *((one,) for one in PENALTIES)):
        monkeypatch.setattr("crackutils.detector.head.PENALTIES", some)
        weights, bias, penalty = fit_head(x[:400], y[:400], held=(x[400:], y[400:]))
        z = x[400:] @ weights + bias
        found.append((np.logaddexp(0, np.where(y[400:] == 1, -z, z)).mean(), penalty))
    (least, penalty), *alone = found
    assert (pytest.approx(least, rel=1e-3), penalty) == min(alone) and penalty != float("inf")


def test_the_curve_rises_with_what_the_features_hold_and_its_figure_shows_it() -> None:
    x, y, groups = site()
    curve = learning_curve(x, y, groups, draws=8)
    assert curve["n"].tolist() == [0, 20, 50, 100]  # half of 400 tiles hold no 500
    last = curve.iloc[-1]
    assert last["auroc_gain_low"] > 0.1 and last["auroc"] > 0.85
    for score in ("auroc", "average_precision"):
        assert last[score] - curve[score].iloc[0] == pytest.approx(last[f"{score}_gain"])
        assert curve[[f"{score}_gain_low", f"{score}_gain", f"{score}_gain_high"]].diff(axis=1).min(None) >= 0
    said = describe_gain(curve)
    assert "AUROC: a reliable gain from" in said and "average precision: a reliable gain from" in said
    pd.testing.assert_frame_equal(curve, learning_curve(x, y, groups, draws=8), check_exact=True)
    left, right = plot_learning_curve(curve).axes
    np.testing.assert_array_equal(left.lines[1].get_ydata(), curve["auroc"].iloc[1:])
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["20", "50", "100"]
    assert len(left.figure.legends[0].get_texts()) == 4
    noise = np.random.default_rng(5).normal(size=x.shape)
    noise[:, 0] = x[:, 0]
    said = describe_gain(learning_curve(noise, y, groups, ns=(20, 50), draws=8))
    assert said.count("no reliable gain; with 50 labels") == 2 and said.endswith("Prefer the unadapted model.")


def test_photos_are_never_in_both_halves(monkeypatch: Patch) -> None:
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 9, 200)
    y = ((photos % 3 > 0) & (rng.random(200) < 0.3)).astype(int)
    x = np.stack([photos, np.arange(200)], 1).astype(float)
    fit, auroc = Mock(return_value=(np.array([1.0, 0.0]), 0.0, 1.0)), Mock(side_effect=roc_auc_score)
    monkeypatch.setattr("crackutils.adaptation.curve.fit_head", fit)
    monkeypatch.setattr("crackutils.adaptation.curve.SCORES", SCORES | {"auroc": auroc})
    curve = learning_curve(x, y, photos, ns=(20, 40), draws=6)
    tested = [args for args, _ in auroc.call_args_list]  # labels, and photos as logits
    assert fit.call_count == 12 and len(tested) == 18 and len({tuple(np.unique(z)) for _, z in tested}) > 1
    for k, ((train, labels, groups, _), _) in enumerate(fit.call_args_list):
        assert not set(train[:, 0]) & set(tested[k // 2 * 3][1]) and len(train) == (20, 40)[k % 2]
        assert set(zip(train[:, 0], groups, strict=True)) == set(zip(groups, groups, strict=True))
        assert 0 < labels.sum() < len(labels) / 2  # stratified
    # the first row is the network as it was, on the same halves
    expected = np.mean([[score(*args) for score in SCORES.values()] for args in tested[::3]], 0)
    np.testing.assert_allclose(curve[list(SCORES)].iloc[0], expected)
    assert not curve.filter(like="_gain").iloc[0].any()


def test_where_there_is_no_curve_the_reason_is_given() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.repeat([0, 1], 10)
    for photos, why in (
        ([0] * 10 + list(range(10)), "Negative tiles come from 1 photo, and both halves"),
        (list(range(10)) + [3] * 10, "Positive tiles come from 1 photo"),
        ([0, 1, 2, 0, 1] * 4, "from 3 photos.* at least 4 photos"),
        (list(range(20)), "may hold only 10 labelled tiles, and it needs 20"),
    ):
        with pytest.raises(CrackutilsError, match=f"There is no learning curve: .*{why}"):
            learning_curve(x, y, np.array(photos), (50, 20))
    assert len(learning_curve(x, y, np.arange(20) % 4, (5,), draws=2)) == 2  # four photos are enough


def test_a_gain_counts_where_further_labels_keep_it() -> None:
    curve = pd.DataFrame({"n": [0, 20, 50, 100], "auroc": [0.7, 0.8, 0.8, 0.8], "auroc_gain": [0, 0.1, 0.1, 0.1]})
    curve = curve.assign(**{f"average_precision{part}": 0.0 for part in ("", "_gain", "_gain_low", "_gain_high")})
    for lows, message in (
        ([0.1, 0.1, 0.1], "a reliable gain from 20 labels on, the fewest tried, 0.800 against 0.700 unadapted"),
        ([-0.1, 0.1, 0.2], "AUROC: a reliable gain from 50 labels on, "),
        ([0.1, -0.1, 0.2], "a reliable gain from 100 labels on"),
        ([0.1, 0.1, 0.0], "AUROC: no reliable gain; with 100 labels"),
    ):
        assert message in describe_gain(curve.assign(auroc_gain_low=[0, *lows], auroc_gain_high=[0, 0.3, 0.3, 0.3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("file,label,photo", "name,label,photo"), r"has not one column file\. Its first line must be file,label"),
        (("file,label,photo", "a;b"), r"has not one column file and label"),
        (("file,label,photo", "file,label,file"), r"has not one column file"),
        ((ONE, ONE[:-8]), r"in 1 of 48 rows there are more or fewer fields .* \(first: tiles/7000-0"),
        ((",0,", ",1,"), r"labels all 48 tiles Positive\. Give both classes"),
        (("/7001-", "/none-"), r"in 2 of 48 rows the file does not exist \(first: tiles/none-2\.png, .*-3\.png\)\. Pa"),
        ((TWO, "tiles/../" + ONE), r"in 1 of 48 rows the file is a duplicate \(first: tiles/\.\./tiles/7000-0"),
        (("photo 0", " "), r"in 2 of 48 rows the photo is missing \(first: tiles/7000-0\.png, .*\)\. Fill it in"),
        (b"", "has not one column file and label"),
        (b"file,label\n", "holds 0 labels. Give at least 10"),
        (b"file,label\ntiles/7000-0.png,0\ntiles/7000-1.png,1\n", "holds 2 labels. Give at least 10"),
        (b"file,label\n\xff\xfe,1\n", r"in 1 of 1 rows the file does not exist \(first: ÿþ\)"),
        (None, "cannot be read"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(change: Any, message: str, tiles: Path) -> None:
    if isinstance(change, tuple):
        edited(tiles, change)
    else:
        tiles.write_bytes(change) if change is not None else tiles.unlink()
    with pytest.raises(CrackutilsError, match=rf"labels\.csv:? {message}") as raised:
        adapt(tiles, tiles.parent / "out", tiles.parent)
    assert "\n" not in str(raised.value) and not (tiles.parent / "out").exists()


def test_pictures_that_cannot_be_used_are_refused(tiles: Path, base: Path, tmp_path: Path) -> None:
    first, second = (tiles.parent / "tiles" / name for name in ("7000-0.png", "7000-1.png"))
    damaged = r"in 1 of 48 rows the image cannot be used \(first: tiles/7000-0\.png is t"
    again = r"is a duplicate \(first: tiles/7000-1\.png is tiles/7000-0\.png\)"
    for content, message in ((first.read_bytes()[:200], damaged), (second.read_bytes(), again)):
        first.write_bytes(content)
        with pytest.raises(CrackutilsError, match=message):
            adapt(tiles, tmp_path / "out", base)
    assert not (tmp_path / "out").exists()


def test_photos_words_spaces_and_absolute_paths_are_understood(tiles: Path, capsys: Capture) -> None:
    table = read_labels(tiles)
    for given, expected in ((table, "column"), (table.drop(columns="photo"), "names")):
        photos, source = photos_of_tiles(given)
        assert (source, photos.tolist()) == (expected, [i // 2 for i in range(48)])
    assert "intervals below are too narrow" not in capsys.readouterr().out
    table["file"] = table["file"].replace("tiles/7000-0.png", "tiles/wall-0.png")
    single, source = photos_of_tiles(table.drop(columns="photo"))
    assert (source, len(set(single))) == ("nothing", 48) and "intervals below are too narrow" in capsys.readouterr().out
    absolute, names = str(tiles.parent / "tiles" / "7000-0.png"), ("file,label,photo", "\ufeffFile,label, photo")
    table = read_labels(edited(tiles, (ONE, f'"{absolute}", negative ,a'), (",1,", ",Positive,"), names))
    assert table["label"].tolist() == [0, 1] * 24 and table.iloc[0].tolist() == [absolute, 0, "a"]


def test_features_are_what_the_last_layer_sees(tiles: Path, base: Path, tmp_path: Path, computed: list[int]) -> None:
    (ds, _), (model, _) = labelled(tiles), training.load(base)
    x = features_of_run(ds, np.arange(6), base).x
    images = np.stack([ds.read(row, 64) for row in range(6)]).astype(np.float32)
    features = keras.Model(model.input, model.get_layer("features").output).predict_on_batch(images)
    kernel, bias = model.get_layer("p_crack").get_weights()
    np.testing.assert_allclose(x[:, 1:], features[:, 1:], atol=1e-3)
    np.testing.assert_allclose(x[:, 0], features @ kernel[:, 0] + bias[0], atol=1e-3)
    features_of_run(ds, np.arange(8), base)
    assert computed == list(range(8))
    # other weights have other features
    (other := tmp_path / "other").mkdir()
    (other / "metrics.json").write_bytes((base / "metrics.json").read_bytes())
    with pytest.raises(CrackutilsError, match=r"holds no model\.weights\.h5"):
        features_of_run(ds, np.arange(2), other)
    training.save(build_detector(TINY, "crackutils", 6), other, "")
    second = features_of_run(ds, np.arange(2), other).x
    assert computed == [*range(8), 0, 1] and x[0, 0] != second[0, 0]
    np.testing.assert_allclose(x[:2, 1:33], second[:, 1:33], atol=1e-5)  # the backbone is the same, the decoder is not
    edited(other / "metrics.json", ('"cells": 0.06', '"cells": 0'))
    with pytest.raises(CrackutilsError, match=r"not a detector\. Give a run of notebook 08"):
        features_of_run(ds, np.arange(2), other)
    code = f"""import sys, pathlib
from crackutils import datasets
from crackutils.adaptation.adapt import features_of_run, read_labels, try_learning_curve
table, folder = read_labels({str(tiles)!r}), pathlib.Path({str(tiles.parent)!r})
ds = datasets.from_files(folder, table["file"].tolist(), table["label"].tolist())
x = features_of_run(ds, table.index.to_numpy(), pathlib.Path({str(base)!r})).x
assert len(try_learning_curve(x, table["label"].to_numpy(), table["photo"].to_numpy(), draws=1)[0])
assert "tensorflow" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, check=True, stdout=subprocess.DEVNULL)


def test_the_command(tiles: Path, base: Path, tmp_path: Path, computed: list[int], capsys: Capture) -> None:
    out, before = tmp_path / "deep" / "adapted", sorted(base.rglob("*"))
    assert main(["adapt", "--labels", str(tiles), "--out", str(out), "--model", str(base)]) == 0
    printed = capsys.readouterr().out
    assert "24 photos, by the column photo" in printed
    assert "AUROC: " in printed and "average_precision_gain_low" in printed
    assert sorted(base.rglob("*")) == before and sorted(computed) == list(range(48))
    written = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    model_files = {f"model/{name}" for name in ("model.weights.h5", "model.keras", "summary.txt", "README.md")}
    names = {"metrics.json", "run.json", "learning_curve.csv", "figures/learning_curve.png"}
    assert set(written) == names | model_files and [path.name for path in out.parent.iterdir()] == ["adapted"]
    metrics, before = (json.loads((run / "metrics.json").read_text("utf-8")) for run in (out, base))
    facts = metrics["settings"].pop("adapted")
    assert metrics["settings"] == before["settings"] and metrics["run"] == "adapted"
    assert [facts[k] for k in ("labels", "positives", "photos", "photos_told_by")] == [48, 24, 24, "column"]
    assert facts["model_sha256"] == sha256(base / "model" / "model.weights.h5")
    assert pd.read_csv(out / "learning_curve.csv")["n"].tolist() == [row["n"] for row in metrics["learning_curve"]]
    card = written["model/README.md"].decode()
    assert [row["n"] for row in metrics["learning_curve"]] == [0, 20] and "48 labelled tiles, 24 of them" in card
    assert card.count("\n| ") == 3 and "\n| 20 | " in card and metrics["verdict"] in card
    # it scores by the fitted head, not as the network did
    ds, table = labelled(tiles)
    x, y = features_of_run(ds, np.arange(48), base).x, table["label"].to_numpy()
    weights, bias, _ = fit_head(x, y, table["photo"].to_numpy())
    expected = expit(x @ weights + bias)
    assert ((expected >= 0.5) == y).mean() > 0.9
    assert main(["score", str(tiles.parent / "tiles"), "--out", str(tmp_path / "p.csv"), "--model", str(out)]) == 0
    scored = pd.read_csv(tmp_path / "p.csv").set_index("file")["p_crack"]
    np.testing.assert_allclose(scored[[Path(file).name for file in table["file"]]], expected, atol=1e-4)
    # a second call computes and overwrites nothing, and an adapted run cannot be adapted
    del computed[:]
    command = ["adapt", "--labels", str(tiles), "--model", str(base), "--out"]
    assert main([*command, str(tmp_path / "again")]) == 0 and computed == []
    capsys.readouterr()
    assert main([*command, str(out)]) == 2
    assert "Give a new folder, or replace this adapted model with --force" in capsys.readouterr().err
    assert written == {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "tiles").mkdir()
    (out / "tiles" / "mine.jpg").write_text("mine")
    assert main([*command, str(out), "--force"]) == 2 and (out / "tiles" / "mine.jpg").read_text() == "mine"
    assert "also holds other files (tiles/mine.jpg). Move them elsewhere" in capsys.readouterr().err
    assert main([*command[:3], "--model", str(out), "--out", str(tmp_path / "third")]) == 2
    assert "was adapted already. Give the run before adaptation" in capsys.readouterr().err
    assert main(command[:3]) == 2 and "--out" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half(tiles: Path, base: Path, tmp_path: Path, capsys: Capture) -> None:
    resource = pytest.importorskip("resource")
    command = ["adapt", "--labels", str(tiles), "--model", str(base), "--out"]
    assert main([*command, str(tmp_path / "first")]) == 0  # what is cached takes no room now
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # a file that is full, for there is no such disk
    try:
        assert main([*command, str(tmp_path / "second")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "model.weights.h5 cannot be written (File too large" in capsys.readouterr().err
    assert not list(tmp_path.glob("*second*"))
    with pytest.raises(CrackutilsError, match=r"denied\). Choose a folder that you may"), writing(tmp_path / "third"):
        raise PermissionError(13, "Permission denied")


def test_few_tiles(tiles: Path, base: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    tiles.write_text("\n".join(tiles.read_text("utf-8").splitlines()[:25]) + "\n", "utf-8")
    out = tmp_path / "out"
    out.mkdir()  # an empty one is as good as none
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("crackutils.provenance.versions", Mock(side_effect=KeyboardInterrupt))
        adapt(tiles, out, base)
    assert not any(out.iterdir()) and not list(tmp_path.glob(".out*")) and len(adapt(tiles, out, base)) == 0
    why = "There is no learning curve: half of the photos may hold only 12 labelled tiles"
    assert why in capsys.readouterr().out and why in (out / "model" / "README.md").read_text("utf-8")
    assert not (out / "learning_curve.csv").exists() and not (out / "figures").exists()
    training.load(out)
    assert len(adapt(tiles, out, base, force=True)) == 0
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "metrics.json").write_text("{}")
    for place, message in (("file", "exists already"), ("file/below", r"cannot be written"), ("folder", r"folder\.$")):
        with pytest.raises(CrackutilsError, match=message):
            adapt(tiles, tmp_path / place, base, force=True)
    assert (tmp_path / "file").read_text() == "mine" and len(list((tmp_path / "folder").iterdir())) == 1


@pytest.mark.slow
def test_masks_train_the_whole_detector(tmp_path: Path, untrained: Any, monkeypatch: Patch, capsys: Capture) -> None:
    for name, value in {"DRAWN": 4, "SIDE": 320, "STEPS": 2}.items():
        monkeypatch.setattr(masks, name, value)
    untrained(base := tmp_path / "run")
    for k in range(4):
        image = np.random.default_rng(k).integers(150, 180, (300, 340, 3), np.uint8)
        image[:, 100 : 104 + k] = 40 if k < 3 else image[0, 0]  # one photo has no crack, and judges nothing
        Image.fromarray(image).save(tmp_path / f"{k}.png")
        Image.fromarray((image[..., 0] < 100).astype(np.uint8) * 255).save(tmp_path / f"{k}_mask.png")
    command = ["adapt", "--masks", str(tmp_path), "--model", str(base), "--out", str(out := tmp_path / "new" / "run")]
    fits = []
    whole = masks.train_detector
    monkeypatch.setattr(masks, "train_detector", lambda *args: fits.append(len(args[3][0][0].images)) or whole(*args))
    assert main(command) == 0
    assert fits == [3, 4] and "On 1 photo left out of a training, adaptation brought" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    before, after = metrics["held_out"]
    assert (before["detector"], after["detector"], after["photos"]) == ("before", "after", 1)
    assert metrics["settings"]["adapted"]["masks"] == 4
    assert metrics["verdict"] in (out / "model" / "README.md").read_text()
    old, new = (training.load(folder)[0] for folder in (base, out))
    assert (old.get_layer("four").get_weights()[0] != new.get_layer("four").get_weights()[0]).any()
    kernel, bias = new.get_layer("p_crack").get_weights()
    assert kernel[0] == 1 and not kernel[1:].any() and not bias.any() and not is_adapted(out)
    assert not list((config.data_dir() / "cache").glob("adapt-*"))
    assert main(["inspect", str(tmp_path / "0.png"), "--out", str(tmp_path / "report"), "--model", str(out)]) == 0
    assert main(command) == 2 and "Give a new folder, or replace this adapted model" in capsys.readouterr().err


def test_adapt_wants_labels_or_masks(tmp_path: Path, tiles: Path, untrained: Any, capsys: Capture) -> None:
    untrained(base := tmp_path / "run")
    rest = ["--model", str(base), "--out", str(tmp_path / "new")]
    for given in ([], ["--labels", str(tiles), "--masks", str(tmp_path)]):
        assert main(["adapt", *given, *rest]) == 2 and "Give --labels" in capsys.readouterr().err
    (plain := tmp_path / "plain.zip").write_bytes(b"PK\5\6" + bytes(18))
    assert main(["adapt", "--labels", str(plain), *rest]) == 2 and "is not a session: it" in capsys.readouterr().err
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / "wall.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "wall_mask.png")
    assert main(["adapt", "--masks", str(tmp_path), *rest]) == 2
    assert "No photo has a crack in its mask. Give photos with cracks too." in capsys.readouterr().err
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "wall_mask.png")
    assert main(["adapt", "--masks", str(tmp_path), "--engine", "none", *rest]) == 2  # before it trains
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and not list((config.data_dir() / "cache").glob("adapt-*"))
