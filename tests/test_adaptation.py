"""Adaptation to a site: the head, what labels are worth, and a run folder that loads and scores as it should."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config, datasets, models, training
from crackutils.adaptation import figures
from crackutils.adaptation.adapt import adapt
from crackutils.adaptation.curve import _halves, learning_curve, verdict
from crackutils.adaptation.labels import photos_of_tiles, read_labels
from crackutils.detector.features import features_of_run
from crackutils.detector.head import PENALTIES, fit_head
from crackutils.detector.runs import DETECTOR, find_detector_run
from crackutils.files import sha256
from crackutils.models import keras
from tools.commands import main

matplotlib.use("Agg")


TINY = dataclasses.replace(DETECTOR, size=64)


def site(tiles: int = 400, photos: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which the network's own log-odds say little, one of the others much."""
    rng = np.random.default_rng(seed)
    y, groups = rng.permutation(tiles) % 2, rng.permutation(tiles) % photos
    x = rng.normal(0, 1, (tiles, 31)).astype(np.float32)
    x[:, 0] = 3 * (x[:, 0] + 0.5 * y) - 4
    x[:, 7] = 0.2 * (x[:, 7] + 2.5 * y) + 5
    return x, y, groups


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("run") / TINY.name
    untrained(folder)
    return folder


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """48 tiles of 24 photos, every second one with a dark line, and a CSV file of their labels."""
    folder, rows = tmp_path / "my site", []
    (folder / "tiles").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(48):
        image = rng.integers(120, 200, (48, 48, 3), np.uint8)
        if i % 2:
            image[:, 20:25] //= 5
        name = f"tiles/{7000 + i // 2}-{i}.png"
        Image.fromarray(image).save(folder / name)
        rows.append(f"{name},{i % 2},photo {i // 2}")
    (folder / "labels.csv").write_text("file,label,photo\n" + "\n".join(rows) + "\n", "utf-8")
    return folder / "labels.csv"


# ---------------------------------------------------------------- the head


def test_the_penalty_pulls_to_the_unadapted_head(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, groups = site()
    weights, bias, penalty = fit_head(x, y, groups)
    assert np.isfinite(penalty)
    assert np.argmax(np.abs(weights[1:] * x[:, 1:].std(0))) == 6
    monkeypatch.setattr(adaptation, "PENALTIES", (float("inf"),))
    strict, offset, penalty = fit_head(x, y, groups)
    assert penalty == float("inf") and not strict[1:].any() and strict[0] > 0
    z = x @ strict + offset
    assert (1 / (1 + np.exp(-z))).mean() == pytest.approx(y.mean(), abs=1e-3)  # calibrated
    assert np.abs(x @ weights + bias - z).max() > 1


@pytest.mark.parametrize("tiles", [60, 300])  # fewer tiles than features, and more
def test_the_head_is_the_minimum_of_its_loss(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    x = rng.normal(size=(tiles, 101))
    x = (x - x.mean(0)) / x.std(0)
    y = (x[:, 0] + x[:, 3] + rng.normal(size=tiles) > 0).astype(int)
    monkeypatch.setattr(adaptation, "PENALTIES", (30.0,))
    monkeypatch.setattr(adaptation, "_WEAK", 0.0)
    weights, bias, _ = fit_head(x, y, np.arange(tiles))
    big = np.concatenate([x[:, :1] * 1e4, x[:, 1:]], 1)  # where a column is large its weight costs nothing
    theirs = LogisticRegression(C=1 / 30, tol=1e-10, max_iter=10_000, solver="newton-cholesky").fit(big, y)
    np.testing.assert_allclose(x @ weights + bias, theirs.decision_function(big), atol=2e-3)


def test_a_handful_of_labels_does_not_turn_the_network_round() -> None:
    x, y, groups = site(20, 10)
    x[:, 0] = -x[:, 0] - 3 * y
    assert fit_head(x, y, groups)[0][0] == pytest.approx(0.05)


def test_cross_validation_keeps_photos_together() -> None:
    rng = np.random.default_rng(3)
    photos = np.repeat(np.arange(30), 10)
    y = (rng.permutation(30) % 2)[photos]
    looks = rng.normal(size=(30, 300))[photos] + rng.normal(0, 0.05, (300, 300))  # tell the photo, not the crack
    x = np.concatenate([(y + rng.normal(0, 1, 300))[:, None], looks], 1)
    alone = fit_head(x, y, np.arange(300))[2]
    together = fit_head(x, y, photos)[2]
    assert alone == min(PENALTIES) < together
    assert fit_head(x[:40], y[:40], np.zeros(40))[2] == float("inf")  # nothing to choose by


def test_other_tiles_may_choose_the_penalty_instead() -> None:
    x, y, _ = site(800)
    held = x[400:], y[400:]
    weights, bias, penalty = fit_head(x[:400], y[:400], held=held)
    losses = {}
    for one in PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(adaptation, "PENALTIES", (one,))
            w, b, _ = fit_head(x[:400], y[:400], held=held)
        z = held[0] @ w + b
        losses[one] = np.logaddexp(0, np.where(held[1] == 1, -z, z)).mean()
    assert penalty == min(losses, key=losses.get) != float("inf")
    z = held[0] @ weights + bias
    assert np.logaddexp(0, np.where(held[1] == 1, -z, z)).mean() == pytest.approx(losses[penalty], rel=1e-3)


def test_one_class_has_no_head() -> None:
    x, _, groups = site(20)
    with pytest.raises(config.CrackutilsError, match="all of one class"):
        fit_head(x, np.zeros(20, int), groups)


# ---------------------------------------------------------------- the curve


def test_labels_are_worth_what_the_features_hold() -> None:
    x, y, groups = site()
    curve = learning_curve(x, y, groups, draws=8)
    assert curve["n"].tolist() == [0, 20, 50, 100]  # half of 400 tiles hold no 500
    last = curve.iloc[-1]
    assert last["auroc_gain_low"] > 0.1 and last["auroc"] > 0.85
    assert last["auroc"] - curve["auroc"].iloc[0] == pytest.approx(last["auroc_gain"])
    assert (curve["auroc_gain_low"] <= curve["auroc_gain"]).all()
    assert (curve["average_precision_gain"] <= curve["average_precision_gain_high"]).all()
    assert "worth it from" in verdict(curve)
    again = learning_curve(x, y, groups, draws=8)
    pd.testing.assert_frame_equal(curve, again, check_exact=True)
    noise = np.random.default_rng(5).normal(size=x.shape)
    noise[:, 0] = x[:, 0]
    useless = learning_curve(noise, y, groups, ns=(20, 50), draws=8)
    assert "was not worth it: with 50 labels" in verdict(useless)


def test_unadapted_rows_are_the_network_as_it_was() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    x, y, groups = site(200, 20)
    curve = learning_curve(x, y, groups, ns=(20,), draws=3, seed=9)
    tests = [_halves(y, groups, np.random.default_rng([9, draw]))[1] for draw in range(3)]
    assert curve["auroc"].iloc[0] == pytest.approx(np.mean([roc_auc_score(y[t], x[t, 0]) for t in tests]))
    expected = np.mean([average_precision_score(y[t], x[t, 0]) for t in tests])
    assert curve["average_precision"].iloc[0] == pytest.approx(expected)
    assert not curve.filter(like="_gain").iloc[0].any()


def test_photos_are_never_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 9, 200)
    y = ((photos % 3 > 0) & (rng.random(200) < 0.3)).astype(int)
    x = np.stack([photos, np.arange(200)], 1).astype(float)
    fitted, tested = [], []

    def fit(part: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Any:
        fitted.append((part[:, 0], labels))
        np.testing.assert_array_equal(np.unique(groups), np.unique(part[:, 0]))
        return np.array([1.0, 0.0]), 0.0, 1.0

    monkeypatch.setattr(adaptation, "fit_head", fit)
    monkeypatch.setattr(adaptation, "_scores", lambda labels, z: (tested.append(z), (0.5, 0.5))[1])
    learning_curve(x, y, photos, ns=(20, 40), draws=6)
    assert len(fitted) == 12 and len(tested) == 18
    for k, (train, labels) in enumerate(fitted):
        test = tested[k // 2 * 3]
        assert not set(train) & set(test)
        assert len(train) == (20, 40)[k % 2]
        assert 0 < labels.sum() < len(labels) / 2  # stratified
    assert len({tuple(np.unique(z)) for z in tested}) > 1


@pytest.mark.parametrize(
    ("photos", "ns", "said"),
    [
        ([0] * 20, (5,), "Negative tiles come from 1 photo, and both halves"),
        ([0] * 10 + list(range(10)), (5,), "Negative tiles come from 1 photo"),
        (list(range(10)) + [3] * 10, (5,), "Positive tiles come from 1 photo"),
        (list(range(20)), (50, 20), "hold as few as 10 labelled tiles, and it begins at 20"),
    ],
)
def test_where_there_is_no_curve_it_says_why(photos: list[int], ns: tuple[int, ...], said: str) -> None:
    y = np.repeat([0, 1], 10)
    with pytest.raises(config.CrackutilsError, match=f"There is no learning curve: .*{said}"):
        learning_curve(np.random.default_rng(0).normal(size=(20, 3)), y, np.array(photos), ns)


@pytest.mark.parametrize(
    ("lows", "said"),
    [
        ([0.1, 0.1, 0.1], "worth it from 20 labels on, the fewest tried: AUROC 0.800 against 0.700 unadapted"),
        ([-0.1, 0.1, 0.2], "worth it from 50 labels on: AUROC"),
        ([0.1, -0.1, 0.2], "worth it from 100 labels on"),
        ([0.1, 0.1, 0.0], "not worth it: with 100 labels the AUROC differs"),
    ],
)
def test_the_verdict_asks_that_further_labels_do_not_spoil_it(lows: list[float], said: str) -> None:
    curve = pd.DataFrame({"n": [0, 20, 50, 100], "auroc": [0.7, 0.8, 0.8, 0.8], "auroc_gain": [0, 0.1, 0.1, 0.1]})
    curve = curve.assign(auroc_gain_low=[0, *lows], auroc_gain_high=[0, 0.3, 0.3, 0.3])
    assert said in verdict(curve)


def test_half_of_the_photos_must_be_able_to_choose_a_penalty() -> None:
    x, y, _ = site(60)
    with pytest.raises(config.CrackutilsError, match=r"from 3 photos.* at least 4 photos"):
        learning_curve(x, y, np.arange(60) % 3)
    assert len(learning_curve(x, y, np.arange(60) % 4, (20,), draws=2)) == 2


def test_the_figure_shows_both_scores_and_their_intervals() -> None:
    curve = learning_curve(*site(200, 20), ns=(20, 50), draws=3)
    figure = figures.learning_curve(curve)
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[1].get_ydata(), curve["auroc"].iloc[1:])
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["20", "50"]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    assert len(figure.legends[0].get_texts()) == 4


# ---------------------------------------------------------------- the user's labels


def edited(file: Path, *changes: tuple[str, str]) -> Path:
    text = file.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text, "utf-8")
    return file


ONE, TWO = "tiles/7000-0.png,0,photo 0", "tiles/7000-1.png,1,photo 0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("file,label,photo", "name,label,photo"), r"has not one column file; its first line must be file,label"),
        (("file,label,photo", "a;b"), r"has not one column file and label"),
        (("file,label,photo", "file,label,file"), r"has not one column file"),
        (
            (ONE, ONE[:-8]),
            r"in 1 of 48 rows there are more or fewer fields than in the first line \(first: tiles/7000-0",
        ),
        ((",0,", ",no,"), r"in 24 of 48 rows the label is none \(first: tiles/7000-0\.png: no\); write 0 or 1, or Neg"),
        ((",0,", ",1,"), r"labels all 48 tiles Positive; give tiles of both classes"),
        (
            ("tiles/7001-", "tiles/none-"),
            r"in 2 of 48 rows the file does not exist \(first: tiles/none-2\.png\); paths",
        ),
        ((TWO, "tiles/../" + ONE), r"in 1 of 48 rows the file stood in a row before \(first: tiles/\.\./tiles/7000-0"),
        (("photo 0", " "), r"in 2 of 48 rows the photo is missing \(first: tiles/7000-0\.png\); fill it in"),
    ],
)
def test_a_csv_that_cannot_be_used_is_told_in_one_sentence(change: tuple[str, str], said: str, tiles: Path) -> None:
    with pytest.raises(config.CrackutilsError, match=rf"labels\.csv:? {said}") as raised:
        adapt(edited(tiles, change), tiles.parent / "out", tiles.parent)
    assert "\n" not in str(raised.value)
    assert not (tiles.parent / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has not one column file and label"),
        (b"file,label\n", "holds 0 labels; give at least 10"),
        (b"file,label\ntiles/7000-0.png,0\ntiles/7000-1.png,1\n", "holds 2 labels; give at least 10"),
        (b"file,label\n\xff\xfe,1\n", "is no CSV file in UTF-8"),
        (b'file,label\n"a,1\n', "is no CSV file in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_of_labels(content: bytes | None, said: str, tiles: Path) -> None:
    tiles.unlink()
    if content is not None:
        tiles.write_bytes(content)
    with pytest.raises(config.CrackutilsError, match=said):
        read_labels(tiles)


def test_words_spaces_and_absolute_paths_are_understood(tiles: Path) -> None:
    absolute = str(tiles.parent / "tiles" / "7000-0.png")
    edited(
        tiles,
        (ONE, f'"{absolute}", negative ,a'),
        (",1,", ",Positive,"),
        ("file,label,photo", "\ufeffFile,label, photo"),
    )
    table = read_labels(tiles)
    assert table["label"].tolist() == [0, 1] * 24
    assert table["file"].iloc[0] == absolute
    assert table["photo"].iloc[0] == "a"


def test_pictures_that_cannot_be_used_are_told(tiles: Path, base: Path, tmp_path: Path) -> None:
    first, second = (tiles.parent / "tiles" / name for name in ("7000-0.png", "7000-1.png"))
    kept = first.read_bytes()
    first.write_bytes(kept[:200])
    with pytest.raises(
        config.CrackutilsError, match=r"in 1 of 48 rows the image cannot be used \(first: tiles/7000-0\.png is t"
    ):
        adapt(tiles, tmp_path / "out", base)
    first.write_bytes(second.read_bytes())
    with pytest.raises(
        config.CrackutilsError, match=r"stood in a row before \(first: tiles/7000-1\.png is tiles/7000-0\.png\)"
    ):
        adapt(tiles, tmp_path / "out", base)
    assert not (tmp_path / "out").exists()


def test_photos_are_told_by_names_or_not_at_all(tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = read_labels(tiles)
    given, how = photos_of_tiles(table)
    assert (how, given.tolist()) == ("column", [i // 2 for i in range(48)])
    named, how = photos_of_tiles(table.drop(columns="photo"))
    assert (how, named.tolist()) == ("names", given.tolist())
    capsys.readouterr()
    table["file"] = table["file"].replace("tiles/7000-0.png", "tiles/wall-0.png")
    single, how = photos_of_tiles(table.drop(columns="photo"))
    assert (how, len(set(single))) == ("nothing", 48)
    assert "intervals below are too narrow" in capsys.readouterr().out


# ---------------------------------------------------------------- the run


def test_features_of_a_run_are_what_its_last_layer_sees(tiles: Path, base: Path, computed: list[int]) -> None:
    table = read_labels(tiles)
    ds = datasets.from_files(tiles.parent, table["file"].tolist(), table["label"].tolist())
    assert ds.index["label"].tolist() == table["label"].tolist() and not len(ds.left_out)
    found = features_of_run(ds, np.arange(6), base)
    model, _ = training.load(base)
    images = np.stack([ds.read(row, 64) for row in range(6)]).astype(np.float32)
    layer = keras.Model(model.input, model.get_layer("features").output)
    seen, (kernel, bias) = layer.predict_on_batch(images), model.get_layer("p_crack").get_weights()
    np.testing.assert_allclose(found.x[:, 1:], seen[:, 1:], atol=1e-3)
    np.testing.assert_allclose(found.x[:, 0], seen @ kernel[:, 0] + bias[0], atol=1e-3)
    own = 1 / (1 + np.exp(-found.x[:, 0]))
    np.testing.assert_allclose(own, model.predict_on_batch(images)[:, 0], atol=1e-5)
    assert computed == list(range(6))
    features_of_run(ds, np.arange(8), base)
    assert computed == list(range(8))
    code = f"""
import sys
import numpy as np
from pathlib import Path
from crackutils import adaptation, datasets, features
folder = Path({str(tiles.parent)!r})
table = adaptation.read_labels(folder / "labels.csv")
ds = datasets.listed(folder, table["file"].tolist(), table["label"].tolist())
x = features.of_run(ds, np.arange(48), Path({str(base)!r})).x
adaptation.learning_curve(x, table["label"].to_numpy(), table["photo"].to_numpy(), draws=1)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, check=True, stdout=subprocess.DEVNULL)


def test_other_weights_have_other_features(tiles: Path, base: Path, tmp_path: Path, computed: list[int]) -> None:
    table = read_labels(tiles)
    ds = datasets.from_files(tiles.parent, table["file"].tolist(), table["label"].tolist())
    first = features_of_run(ds, np.arange(2), base)
    other = tmp_path / "other"
    (other / "model").mkdir(parents=True)
    (other / "metrics.json").write_bytes((base / "metrics.json").read_bytes())
    with pytest.raises(config.CrackutilsError, match=r"holds no model\.weights\.h5"):
        features_of_run(ds, np.arange(2), other)
    model, _ = models.build(TINY, "crackutils", 6)
    model.save_weights(other / "model" / "model.weights.h5")
    second = features_of_run(ds, np.arange(2), other)
    assert computed == [0, 1, 0, 1]
    assert first.x[0, 0] != second.x[0, 0]
    np.testing.assert_allclose(first.x[:, 1:], second.x[:, 1:], atol=1e-5)  # the backbone is the same
    metrics = json.loads((other / "metrics.json").read_text("utf-8"))
    metrics["settings"]["recipe"]["cells"] = 0
    (other / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(config.CrackutilsError, match=r"has no cells of its own; give a run of notebook 08"):
        features_of_run(ds, np.arange(2), other)


def test_the_command_from_labels_to_scores(
    tiles: Path, base: Path, tmp_path: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    home = config.results_dir() / "metu-half" / "08_cross_dataset" / TINY.name
    home.parent.mkdir(parents=True)
    home.symlink_to(base)
    out = tmp_path / "deep" / "adapted"
    before = sorted(base.rglob("*"))
    assert main(["adapt", "--labels", str(tiles), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"08_cross_dataset/{TINY.name}" in said and "24 photos, by the column photo" in said
    assert "On these tiles labelling was" in said and "average_precision_gain_low" in said
    assert sorted(base.rglob("*")) == before
    assert sorted(computed) == list(range(48))
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    names = {"metrics.json", "run.json", "learning_curve.csv", "figures/learning_curve.png"}
    assert written == names | {"model/model.weights.h5", "model/README.md"}
    assert [path.name for path in out.parent.iterdir()] == ["adapted"]
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    adapted = metrics["settings"].pop("adapted")
    assert metrics["settings"] == json.loads((base / "metrics.json").read_text("utf-8"))["settings"]
    assert (adapted["labels"], adapted["positives"], adapted["photos"], adapted["photos_told_by"]) == (
        48,
        24,
        24,
        "column",
    )
    assert adapted["model_sha256"] == sha256(base / "model" / "model.weights.h5")
    curve = pd.read_csv(out / "learning_curve.csv")
    assert curve["n"].tolist() == [0, 20] == [row["n"] for row in metrics["learning_curve"]]
    assert "48 labelled tiles, 24 of them" in (out / "model" / "README.md").read_text("utf-8")
    # it scores as the head says, not as the network did
    table = read_labels(tiles)
    ds = datasets.from_files(tiles.parent, table["file"].tolist(), table["label"].tolist())
    x, y = features_of_run(ds, np.arange(48), base).x, table["label"].to_numpy()
    weights, bias, _ = fit_head(x, y, table["photo"].to_numpy())
    expected = 1 / (1 + np.exp(-(x @ weights + bias)))
    assert ((expected >= 0.5) == y).mean() > 0.9
    model, recipe = training.load(out)
    images = np.stack([ds.read(row, recipe.size) for row in range(48)]).astype(np.float32)
    np.testing.assert_allclose(model.predict_on_batch(images)[:, 0], expected, atol=1e-4)
    assert main(["score", str(tiles.parent / "tiles"), "--out", str(tmp_path / "p.csv"), "--model", str(out)]) == 0
    scored = pd.read_csv(tmp_path / "p.csv").set_index("file")["p_crack"]
    np.testing.assert_allclose(scored[[Path(file).name for file in table["file"]]], expected, atol=1e-4)
    # a second call computes nothing, overwrites nothing, and an adapted run is no beginning
    del computed[:]
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    second = ["adapt", "--labels", str(tiles), "--model", str(base), "--out"]
    assert main([*second, str(tmp_path / "again")]) == 0
    assert computed == []
    again = json.loads((tmp_path / "again" / "metrics.json").read_text("utf-8"))
    assert again["learning_curve"] == metrics["learning_curve"]
    capsys.readouterr()
    assert main([*second, str(out)]) == 2
    assert "adapted exists already; give a folder that does not" in capsys.readouterr().err
    assert kept == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["adapt", "--labels", str(tiles), "--out", str(tmp_path / "third"), "--model", str(out)]) == 2
    assert "was adapted already; give the run it began with" in capsys.readouterr().err


def test_too_few_tiles_for_a_curve_adapt_all_the_same(
    tiles: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles.write_text("\n".join(tiles.read_text("utf-8").splitlines()[:25]) + "\n", "utf-8")
    out = tmp_path / "out"
    out.mkdir()  # an empty one is as good as none

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "_card", dies)
        with pytest.raises(KeyboardInterrupt):
            adapt(tiles, out, base)
    assert not any(out.iterdir()) and not list(tmp_path.glob(".out*"))
    curve = adapt(tiles, out, base)
    assert len(curve) == 0
    why = "There is no learning curve: half of the photos hold as few as 12 labelled tiles"
    assert why in capsys.readouterr().out
    assert why in (out / "model" / "README.md").read_text("utf-8")
    assert not (out / "learning_curve.csv").exists() and not (out / "figures").exists()
    training.load(out)
    (tmp_path / "file").write_text("mine")
    for place, said in (("file", "exists already"), ("file/below", r"cannot be written")):
        with pytest.raises(config.CrackutilsError, match=said):
            adapt(tiles, tmp_path / place, base)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_run_to_begin_with(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(
        config.CrackutilsError, match=r"No finished run of notebook 08 .* run make run-08 PROFILE=metu-half"
    ):
        find_detector_run()
    for profile in ("sample", "metu-tenth", "metu-half"):
        folder = config.results_dir() / profile / "08_cross_dataset" / TINY.name
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.weights.h5").write_bytes(b"")
        if profile != "metu-half":  # one that is not finished
            (folder / "run.json").write_text("{}")
    assert find_detector_run() == config.results_dir() / "metu-tenth" / "08_cross_dataset" / TINY.name
    other = config.results_dir() / "metu-half" / "08_cross_dataset" / f"{TINY.name}--target-walls"
    (other / "model").mkdir(parents=True)
    for name in ("run.json", "model/model.weights.h5"):
        (other / name).write_text("{}")
    assert find_detector_run() == other  # where it was tested does not change the network
    with pytest.raises(config.CrackutilsError, match="holds no finished training run"):
        adapt(tiles, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--labels", "x.csv"], "--out"), (["--labels", "no.csv", "--out", "y"], "no.csv cannot be read")],
)
def test_a_mistake_on_the_command_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["adapt", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and says in told
