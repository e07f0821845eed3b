"""Tests of what models are worth on other people's concrete: rankings, choices, alignment, corruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config
from crackutils.detector.network import TopMean
from crackutils.detector.pooling import top_mean
from crackutils.detector.runs import DETECTOR
from crackutils.inference.engines import Engine
from crackutils.transfer.card import write_card
from crackutils.transfer.corruptions import CORRUPTIONS
from crackutils.transfer.evaluation import (
    auroc_by_measure,
    auroc_gain,
    auroc_text,
    evaluate_on_target,
    find_extremes,
    score_ranking,
    select_models,
)
from crackutils.transfer.methods import (
    SAVED,
    Method,
    TransferStudy,
    _aligned,
    align_covariance,
    compare_methods,
    report_held_out,
)
from crackutils.transfer.robustness import measure_robustness, score_images
from crackutils.transfer.targets import (
    TUNING,
    default_target,
    describe_target,
    load_target,
    photo_of_image,
    tuning_images,
)

RNG = np.random.default_rng(0)


def dataset(source: str, photo: list[int], label: list[int] | None = None) -> Any:
    """What the functions read of a Dataset."""
    index = pd.DataFrame({"label": label if label is not None else [0, 1] * (len(photo) // 2)})
    profile = SimpleNamespace(name=source, source=source)
    return SimpleNamespace(profile=profile, index=index, cuts=pd.DataFrame({"photo": photo}), sha256=source)


# ---------------------------------------------------------------- the target


def test_the_usual_target_is_real_for_metu_where_it_is_here(data_dir: Path) -> None:
    metu = config.profile("metu-half")
    assert default_target(metu) == default_target(config.profile("sample")) == "walls"
    for name in config.CLASSES:
        (data_dir / "raw" / "sdnet" / name).mkdir(parents=True)
    assert default_target(metu) == "sdnet"
    assert default_target(config.profile("sample")) == "walls"


def test_a_target_made_by_the_same_code_or_trained_on_is_told() -> None:
    home, there = (SimpleNamespace(index=pd.DataFrame({"sha256": list(w)}), profile=None) for w in ("abc", "def"))
    home.profile = SimpleNamespace(name="home", title="Home", source="metu")
    there.profile = SimpleNamespace(name="walls", title="Walls", source="walls")
    assert "same generator" in describe_target(there, home)
    there.profile.source = "sdnet"
    assert "same generator" not in describe_target(there, home)
    there.index = pd.DataFrame({"sha256": ["c", "x"]})
    with pytest.raises(config.CrackutilsError, match="1 of its images are among those of PROFILE=home"):
        describe_target(there, home)


def test_a_folder_is_a_target_and_tells_photos_by_its_names(data_dir: Path, tmp_path: Path) -> None:
    for k, name in enumerate(config.CLASSES):
        (tmp_path / "site" / name).mkdir(parents=True)
        for photo in (7, 12):
            pixels = RNG.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "site" / name / f"{photo}-{k + 1}.png")
    ds = load_target(str(tmp_path / "site"))
    assert ds.index["label"].tolist() == [0, 0, 1, 1]
    assert photo_of_image(ds).tolist() == [7, 12, 7, 12]
    assert ds.read(0).shape == (64, 64, 3)
    Image.fromarray(pixels).save(tmp_path / "site" / "Positive" / "other.png")
    assert (load_target(str(tmp_path / "site")).cuts["photo"] == -1).all()  # one name tells none


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ((), "is neither a profile"),
        (("Positive",), "python -m crackutils score"),
        (("Positive", "Negative"), "holds no usable image"),
    ],
)
def test_a_target_that_cannot_be_used_is_told(
    make: tuple[str, ...], words: str, data_dir: Path, tmp_path: Path
) -> None:
    for name in make:
        (tmp_path / "there" / name).mkdir(parents=True)
    with pytest.raises(config.CrackutilsError, match=words):
        load_target(str(tmp_path / "there"))


def test_methods_are_chosen_on_named_photos_or_on_a_third() -> None:
    named = [*TUNING, 7072, 7072]
    for source in ("sdnet", "folder-abc"):  # by whatever name
        assert tuning_images(dataset(source, named)).tolist() == [True] * 8 + [False] * 2
    assert not tuning_images(dataset("walls", [1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1, 0])).any()  # one class only
    assert tuning_images(dataset("walls", [5, 1, 1, 9, 3, 7])).tolist() == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert not tuning_images(dataset("own", [-1, -1, -1, -1])).any()
    assert len(set(photo_of_image(dataset("own", [-1, -1, 3, 3])))) == 3  # unknown ones are alone


# ---------------------------------------------------------------- judging


def test_judge_counts_pairs_and_draws_photos() -> None:
    labels, scores = np.array([0, 0, 1, 1, 0, 1]), np.array([1.0, 2, 3, 4, 10, 11])
    photo = np.array([1, 1, 1, 1, 2, 2])
    found = score_ranking(labels, scores, photo)
    assert found["auroc"] == pytest.approx(7 / 9, abs=1e-6)  # photo 2 is brighter, and its image without a crack too
    assert found["auroc_by_photo"] == 1.0
    assert found["low"] <= found["auroc"] <= found["high"]
    alone = score_ranking(labels[:4], scores[:4], photo[:4])
    assert (alone["low"], alone["high"]) == (None, None)  # one photo tells nothing of the next


def test_runs_are_judged_abroad_beside_their_errors_at_home() -> None:
    target = dataset("walls", [1, 1, 2, 2], [0, 1, 0, 1])
    runs = {"ours": {"test": {"errors": 3, "n": 12}}, "theirs": {"test": {"errors": 0, "n": 12}}}
    guesses = {"ours": np.array([0.1, 0.9, 0.6, 0.7]), "theirs": np.array([0.1, 0.2, 0.3, 0.4])}
    ours, theirs = evaluate_on_target(runs, guesses, target)
    assert (ours["run"], ours["home_errors"], ours["auroc"], ours["f1"]) == ("ours", 0.25, 1.0, 0.8)
    assert (theirs["home_errors"], theirs["auroc"], theirs["f1"]) == (0, 0.75, 0)


def test_extremes_are_the_ends_of_a_ranking() -> None:
    labels, scores = np.array([1, 0, 1, 0, 1]), np.array([0.2, 0.7, 0.9, 0.1, 0.5])
    found = {kind: where.tolist() for kind, where in find_extremes(labels, scores, 2).items()}
    assert found == {"find": [2, 4], "missed": [0, 4], "false alarm": [1, 3]}
    assert all(not len(where) for where in find_extremes(labels[:0], scores[:0], 2).values())


def test_compare_shows_methods_the_tuning_photos_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    target = dataset("walls", [1] * 4 + [2, 2, 3, 3])
    source = SimpleNamespace(index=pd.DataFrame({"label": [0, 1, 0, 1]}), sha256="s")
    manifest = pd.DataFrame({"split": ["val"] * 4})
    bench = TransferStudy(source, manifest, target, None, "imagenet", "litert", Path(), few=16)
    seen: list[list[int]] = []

    def score(rows: np.ndarray) -> np.ndarray:
        seen.append(rows.tolist())
        return np.array([0.0, 1, 2, 3])

    ours = Method("ours", score, lambda rows: np.array([1.0, 2, 3, 4]))
    away = Method("away", score)
    monkeypatch.setattr(cross_dataset, "methods", lambda b: iter([ours, away]))
    monkeypatch.setattr(cross_dataset, "saved", lambda b: Method(SAVED, score))
    table, ways = compare_methods(bench)
    assert seen == [[0, 1, 2, 3]] * 2 and list(ways) == ["ours", "away"]
    assert table.loc[0, ["method", "n", "auroc", "home_auroc", "home_errors"]].tolist() == ["ours", 4, 0.75, 0.75, 0.25]
    assert np.isnan(table.loc[1, "home_errors"])  # nothing at home that it could be measured on
    seen.clear()
    table, ways = compare_methods(replace(bench, target=dataset("own", [-1] * 4)))
    assert not len(table) and list(ways) == [SAVED] and not seen
    # reported on the other photos, of which two images each have a crack and none
    scored = np.array([9, 9, 9, 9, 0, 1, 0, 1.0])
    ways = {name: Method(name, lambda rows: scored[rows]) for name in ("ours", SAVED)}
    rows, odds = report_held_out(bench, ways, "ours", {"home": np.array([5, 5, 5, 5, 1, 0, 1, 0.0])})
    assert [(r["method"], r["n"], r["auroc"], r["gain"]) for r in rows] == [
        ("home", 4, 0.0, None),
        ("ours", 4, 1.0, 1.0),
        (SAVED, 4, 1.0, 1.0),
    ]
    assert odds.tolist() == [0, 1, 0, 1]


def test_a_gain_is_drawn_with_the_same_photos() -> None:
    labels, photo = RNG.integers(0, 2, 200), np.repeat(np.arange(10), 20)
    scores = labels + RNG.normal(0, 1, 200)
    same = auroc_gain(labels, scores * 3, scores, photo)
    assert same == {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    better = auroc_gain(labels, labels.astype(float), scores, photo)
    assert 0 < better["gain_low"] < better["gain"] < better["gain_high"]
    assert auroc_gain(labels, scores, scores, np.zeros(200))["gain_low"] is None


def test_an_auroc_is_told_as_far_as_it_is_known() -> None:
    assert auroc_text({"auroc": 0.9, "low": 0.85, "high": 0.95}) == "0.900 (0.850 to 0.950)"
    assert auroc_text({"auroc": 0.9, "low": None, "high": None}) == "0.900"
    assert auroc_text({"auroc": None, "low": None, "high": None}) == "not defined"


# ---------------------------------------------------------------- alignment


def test_recoloured_features_have_the_targets_mean_and_covariance() -> None:
    source = (RNG.normal(size=(4000, 3)) @ np.array([[3, 0, 0], [1, 1, 0], [0, 2, 1]])).astype(np.float32)
    there = (RNG.normal(size=(4000, 3)) @ np.array([[1, 0, 2], [0, 4, 0], [0, 0, 1]]) + 7).astype(np.float32)
    moved = align_covariance(source, there, source)
    np.testing.assert_allclose(moved.mean(0), there.mean(0), atol=0.2)
    before, after = (np.abs(np.cov(x.T) - np.cov(there.T)).max() for x in (source, moved))
    assert after < 0.6 * before  # not zero: as much identity is added as there is variance


def test_each_photo_gets_the_statistics_of_the_source() -> None:
    like = RNG.normal(5, 2, (500, 4)).astype(np.float32)
    photo = np.repeat([1, 2], 300)
    x = (RNG.normal(size=(600, 4)) * np.where(photo == 1, 1, 9)[:, None] + 30 * photo[:, None]).astype(np.float32)
    found = _aligned(x, photo, like)
    for p in (1, 2):
        np.testing.assert_allclose(found[photo == p].mean(0), like.mean(0), rtol=1e-3)
        np.testing.assert_allclose(found[photo == p].std(0), like.std(0), rtol=1e-3)


def test_top_mean_is_what_the_network_does() -> None:
    maps = RNG.normal(size=(3, 16, 16)).astype(np.float32)
    layer = TopMean(DETECTOR.cells)
    np.testing.assert_allclose(top_mean(maps, DETECTOR.cells), np.asarray(layer(maps[..., None]))[:, 0], rtol=1e-5)


# ---------------------------------------------------------------- where it fails, what breaks it


def test_thirds_hold_the_cracks_that_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [1] * 6 + [0] * 6
    width = [1.0, 2, 3, 4, 5, 6] + [9.0] * 6
    sharp = list(np.linspace(0, 1, 12))
    monkeypatch.setattr(
        audit, "measures", lambda ds: pd.DataFrame({"width": width, "depth": width, "sharpness": sharp})
    )
    score = np.array([-1, -1, 1, 1, 1, 1] + [0] * 6, float)  # the thinnest are missed
    table = auroc_by_measure(dataset("sdnet", [1] * 12, labels), np.arange(12), {"run": score})
    thin = table[table["measure"] == "width"].set_index("third")
    assert thin["cracked"].tolist() == [2, 2, 2]
    assert thin["auroc"].tolist() == [0.0, 1.0, 1.0]
    assert table[table["measure"] == "sharpness"]["cracked"].tolist() == [4, 2, 0]


def test_robustness_corrupts_as_asked_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    ds = SimpleNamespace(index=pd.DataFrame({"label": [1, 0]}), read=lambda row, size: image, sha256="ds")

    def brightness() -> Any:
        return lambda x: (x.mean((1, 2, 3)) / 255)[:, None].astype(np.float32)

    running = Engine("litert", "0", "float32", brightness)
    monkeypatch.setattr(scoring, "engine_of", lambda folder, engine: (running, replace(DETECTOR, size=32), ""))
    table = measure_robustness(ds, np.arange(2), {"run": Path("x")}, "litert", 0, tmp_path)
    assert len(table) == 1 + 5 * len(CORRUPTIONS)
    got = table.set_index(["corruption", "strength"])["errors"]
    assert got["none", 0] == 1  # both are called cracked, at 128 of 255
    assert [got["darker", s] for s in range(1, 6)] == [1] * 5  # both are called free of cracks
    assert (table["n"] == 2).all()


def test_runs_that_are_tested_elsewhere() -> None:
    def run(name: str, loss: float, extra: str = "", seed: int = 1) -> dict[str, Any]:
        return {"run": name + extra, "val": {"loss": loss}, "settings": {"recipe": {"name": name}, "seed": seed}}

    runs = [run("chernxi-cnn-80", 0.2), run("imranismael-mobilenetv2", 0.1), run("simple-cnn", 9, "--split-seed-3")]
    runs += [run("mobilenetv2", 0, "--weights-random"), run("mobilenetv2-linear", 0, "--seed-2", 2)]
    assert list(select_models(runs, 1)) == ["simple-cnn", "imranismael-mobilenetv2"]
    assert list(select_models(runs, 2)) == ["mobilenetv2-linear"]
    with pytest.raises(config.CrackutilsError, match="SEED=3"):
        select_models(runs, 3)


def test_scored_images_come_in_the_order_asked_for_and_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ds = SimpleNamespace(read=lambda row: np.full((40, 50, 3), row * 10, np.uint8), sha256="ds")
    running = Engine("litert", "0", "float32", lambda: lambda x: x[:, 0, 0, :1] / 255)
    monkeypatch.setattr(scoring, "engine_of", lambda folder, engine: (running, replace(DETECTOR, size=32), ""))
    found = score_images(ds, np.array([3, 0, 20]), Path("x"), "litert", tmp_path)
    np.testing.assert_allclose(found, np.array([30, 0, 200]) / 255, rtol=1e-6)
    ds.read = None  # after a kill nothing is read again
    np.testing.assert_array_equal(score_images(ds, np.array([3, 0, 20]), Path("x"), "litert", tmp_path), found)


def test_the_card_says_where_it_works_and_where_not() -> None:
    row = {"method": SAVED, "n": 100, "cracked": 20, "auroc": 0.9, "average_precision": 0.7}
    thirds = [
        {"run": DETECTOR.name, "measure": m, "third": k, "auroc": 0.6 + 0.1 * k}
        for m in ("width", "contrast", "sharpness")
        for k in range(3)
    ]
    broken = [{"run": DETECTOR.name, "corruption": "blur", "strength": 3, "error_rate": 0.31}]
    metrics = {
        "settings": {"profile": "metu-half"},
        "data": {"train": {"images": 14000}},
        "model": {"start": {"weights": "imagenet"}, "parameters": 123},
        "stages": [{"steps": 10}],
        "target": {"name": "sdnet", "tuning_photos": 8, "made": False},
        "thresholds": [{"threshold": 0.5, "recall": 0.8, "precision": 0.6, "f1": None}],
        "home": {"test": {"errors": 3, "n": 1989, "auroc": 0.9999}},
        "report": [row | {"low": 0.85, "high": 0.93}],
        "by_measure": thirds,
        "robustness": broken,
    }
    text = write_card(metrics, DETECTOR)
    for words in (
        "3 errors in 1,989",
        "AUROC 0.900 (0.850 to 0.930)",
        "blur 31%",
        "threshold 0.5: recall 0.800, precision 0.600, F1 0.000",
    ):
        assert words in text
    assert "By width of the longest dark thing: AUROC 0.600 on the narrowest third, 0.800 on the widest." in text
    assert "no evidence" not in text
    metrics["target"]["made"] = True
    assert "no evidence" in write_card(metrics, DETECTOR)
    metrics["report"][0] |= {"low": None, "high": None}
    assert "AUROC 0.900, average" in write_card(metrics, DETECTOR)


def test_windows_cover_the_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each corner of an image lies in one window, its middle in all of them."""
    image = np.zeros((256, 256, 3), np.uint8)
    image[:16, :16], image[-16:, -16:] = 255, 128
    seen: list[np.ndarray] = []
    bench = TransferStudy(None, None, dataset("x", [1, 1]), None, "crackutils", "litert", tmp_path)

    def of_images(self: Any, name: str, of: str, items: list[Any], read: Any) -> np.ndarray:
        seen.extend(read(item) for item in items)
        return np.zeros((len(items), 5), np.float32)

    monkeypatch.setattr(TransferStudy, "of_images", of_images)
    ds = SimpleNamespace(read=lambda row: image, profile=SimpleNamespace(name="x"), sha256="x")
    assert bench.windows(ds, np.array([0])).shape == (1, 4, 5)
    assert [w.max() > 200 for w in seen] == [True, False, False, False]
    assert [100 < w.max() < 200 for w in seen] == [False, False, False, True]


def test_kept_features_of_made_up_images_are_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running = Engine("litert", "0", "float32", lambda: lambda x: x.mean((1, 2)))
    monkeypatch.setattr(models, "features_engine", lambda *args: (running, {}))
    ds = dataset("x", [1, 1])
    bench = TransferStudy(ds, None, ds, None, "crackutils", "litert", tmp_path)
    calls: list[int] = []

    def read(row: int) -> np.ndarray:
        calls.append(row)
        return np.full((160, 160, 3), row, np.uint8)

    first = bench.of_images("some", "x", [1, 2, 3], read)
    np.testing.assert_array_equal(first, np.repeat([[1.0], [2], [3]], 3, 1))
    np.testing.assert_array_equal(bench.of_images("some", "x", [1, 2, 3], read), first)
    assert sorted(calls) == [1, 2, 3]
    assert bench.of_images("some", "x", [4], read)[0, 0] == 4  # other images are not mistaken for these
