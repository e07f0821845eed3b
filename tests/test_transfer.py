"""Transfer: targets, rankings and their intervals, methods, robustness, the card."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config
from crackutils.config import CLASSES, CrackutilsError
from crackutils.detector.runs import DETECTOR
from crackutils.inference.engines import Engine
from crackutils.metrics import ranking_metrics
from crackutils.transfer import evaluation, methods, robustness, targets
from crackutils.transfer.methods import write_card
from crackutils.transfer.robustness import CORRUPTIONS

Patch = pytest.MonkeyPatch
RNG = np.random.default_rng(0)


def dataset(source: str, photo: list[int], label: list[int] | None = None) -> Any:
    """What the functions read of a Dataset."""
    index = pd.DataFrame({"label": label if label is not None else [0, 1] * (len(photo) // 2)})
    profile = SimpleNamespace(name=source, source=source, title=source)
    return SimpleNamespace(profile=profile, index=index, cuts=pd.DataFrame({"photo": photo}), sha256=source)


def engine(run: Any) -> Engine:
    return Engine("litert", "0", "float32", lambda: run)


def test_the_usual_target_is_real_for_metu_where_it_is_here(data_dir: Path) -> None:
    metu, sample = config.profile("metu-half"), config.profile("sample")
    assert targets.default_target(metu) == targets.default_target(sample) == "walls"
    for name in CLASSES:
        (data_dir / "raw" / "sdnet" / name).mkdir(parents=True)
    assert (targets.default_target(metu), targets.default_target(sample)) == ("sdnet", "walls")


def test_a_synthetic_target_is_named_so_and_one_that_was_trained_on_is_refused() -> None:
    source, target = dataset("metu", [1, 1]), dataset("walls", [1, 1])
    source.index, target.index = (pd.DataFrame({"sha256": list(hashes)}) for hashes in ("abc", "def"))
    targets.refuse_shared(target, source)
    assert "same generator" in targets.describe_target(target)
    target.profile.source = "sdnet"
    assert "same generator" not in targets.describe_target(target)
    target.index = pd.DataFrame({"sha256": ["c", "x"]})
    with pytest.raises(CrackutilsError, match="1 of its images are among those of PROFILE=metu"):
        targets.refuse_shared(target, source)


def test_a_folder_is_a_target_and_its_names_give_the_photos(tmp_path: Path) -> None:
    site = tmp_path / "site"
    refusals = ("is not a folder and not one of sample, ", "crackutils score", "holds no usable image")
    for name, words in zip(("", "site/Positive", "site/Negative"), refusals, strict=True):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        with pytest.raises(CrackutilsError, match=words):
            targets.load_target(str(site))
    for file in ("Negative/7-1.png", "Negative/12-1.png", "Positive/7-2.png", "Positive/12-2.png"):
        image = Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8))
        image.save(site / file)
    ds = targets.load_target(str(site))
    assert ds.index["label"].tolist() == [0, 0, 1, 1] and targets.photo_of_image(ds).tolist() == [7, 12, 7, 12]
    assert ds.read(0).shape == (64, 64, 3)
    image.save(site / "Positive" / "other.png")
    assert (targets.load_target(str(site)).cuts["photo"] == -1).all()  # one name without a photo


def test_methods_are_chosen_on_named_photos_or_on_a_third() -> None:
    named = [*targets.TUNING, 7072, 7072]
    for source in ("sdnet", "folder-abc"):  # by whatever name
        assert targets.tuning_images(dataset(source, named)).tolist() == [True] * 8 + [False] * 2
    assert not targets.tuning_images(dataset("walls", [1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1, 0])).any()  # one class only
    assert np.flatnonzero(targets.tuning_images(dataset("walls", [5, 1, 1, 9, 3, 7]))).tolist() == [1, 2]
    assert not targets.tuning_images(dataset("own", [-1, -1, -1, -1])).any()
    assert len(set(targets.photo_of_image(dataset("own", [-1, -1, 3, 3])))) == 3  # unknown ones are alone


def test_a_ranking_is_scored_over_all_images_and_within_photos() -> None:
    labels, scores = np.array([0, 0, 1, 1, 0, 1]), np.array([1.0, 2, 3, 4, 10, 11])
    photo = np.array([1, 1, 1, 1, 2, 2])
    found = evaluation.score_ranking(labels, scores, photo)
    assert found["auroc"] == pytest.approx(7 / 9, abs=1e-6)  # photo 2 is brighter, and its image without a crack too
    assert found["auroc_by_photo"] == 1.0 and found["low"] <= found["auroc"] <= found["high"]
    alone = evaluation.score_ranking(labels[:4], scores[:4], photo[:4])
    assert (alone["low"], alone["high"]) == (None, None)  # one photo has no interval


def test_draws_of_groups_scatter_around_the_auroc_and_a_gain_has_the_same() -> None:
    labels, groups = RNG.integers(0, 2, 400), np.repeat(np.arange(40), 10)
    scores = labels + RNG.normal(0, 1, 400)
    drawn, auroc = evaluation.bootstrap_auroc(labels, scores, groups, 300), ranking_metrics(labels, scores)["auroc"]
    assert len(drawn) == 300 and abs(drawn.mean() - auroc) < 0.01 and 0.005 < drawn.std() < 0.1
    twice = evaluation.bootstrap_auroc(np.tile(labels, 2), np.tile(scores, 2), np.repeat([0, 1], 400), 2)
    np.testing.assert_allclose(twice, auroc, atol=1e-6)  # each group is all
    assert not len(evaluation.bootstrap_auroc(labels, scores, np.zeros(400)))  # one photo has no interval
    assert not len(evaluation.bootstrap_auroc(np.zeros(4, int), np.arange(4), np.arange(4), 5))
    same = evaluation.auroc_gain(labels, scores * 3, scores, groups)
    assert same == {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    better = evaluation.auroc_gain(labels, labels.astype(float), scores, groups)
    assert 0 < better["gain_low"] < better["gain"] < better["gain_high"]
    assert evaluation.auroc_gain(labels, scores, scores, np.zeros(400))["gain_low"] is None


def test_runs_are_scored_on_the_target_beside_their_in_domain_errors() -> None:
    target = dataset("walls", [1, 1, 2, 2], [0, 1, 0, 1])
    runs = {"ours": {"test": {"errors": 3, "n": 12}}, "theirs": {"test": {"errors": 0, "n": 12}}}
    p = {"ours": np.array([0.1, 0.9, 0.6, 0.7]), "theirs": np.array([0.1, 0.2, 0.3, 0.4])}
    ours, theirs = evaluation.evaluate_on_target(runs, p, target)
    assert (ours["run"], ours["home_errors"], ours["auroc"], ours["f1"]) == ("ours", 0.25, 1.0, 0.8)
    assert (theirs["home_errors"], theirs["auroc"], theirs["f1"]) == (0, 0.75, 0)
    entered = {"run": "entered", "settings": {"seed": 1}}  # from predictions alone
    with pytest.raises(CrackutilsError, match="No finished run has SEED=1"):
        evaluation.select_models([entered], 1, "imagenet")


def test_extremes_and_fewest_errors_of_a_ranking() -> None:
    # all called cracked is best in the third; no threshold lies between the equal scores of the fourth
    cases = [("0011", "1234", 0), ("0101", "1234", 1), ("110", "123", 1), ("0101", "5555", 2)]
    for labels, scores, errors in (*cases, ("111", "123", 0), ("00", "12", 0)):  # of one class, none need be wrong
        assert evaluation.minimum_errors(*(np.array(list(text), int) for text in (labels, scores))) == errors
    labels, scores = np.array([1, 0, 1, 0, 1]), np.array([0.2, 0.7, 0.9, 0.1, 0.5])
    found = {kind: rows.tolist() for kind, rows in evaluation.find_extremes(labels, scores, 2).items()}
    assert found == {"find": [2, 4], "missed": [0, 4], "false alarm": [1, 3]}
    assert all(not len(rows) for rows in evaluation.find_extremes(labels[:0], scores[:0], 2).values())


def test_thirds_hold_the_cracks_that_they_name(monkeypatch: Patch) -> None:
    labels, width = [1] * 6 + [0] * 6, [1.0, 2, 3, 4, 5, 6] + [9.0] * 6
    measures = pd.DataFrame({"width": width, "depth": width, "sharpness": np.linspace(0, 1, 12)})
    monkeypatch.setattr("crackutils.transfer.evaluation.measure_images", lambda ds: measures)
    score = {"run": np.array([-1, -1, 1, 1, 1, 1] + [0] * 6, float)}  # the thinnest are missed
    table = evaluation.auroc_by_measure(dataset("sdnet", [1] * 12, labels), np.arange(12), score)
    thin = table[table["measure"] == "width"]
    assert (thin["third"].tolist(), thin["cracked"].tolist()) == ([0, 1, 2], [2, 2, 2])
    assert thin["auroc"].tolist() == [0.0, 1.0, 1.0]
    assert table[table["measure"] == "sharpness"]["cracked"].tolist() == [4, 2, 0]
    assert not len(evaluation.auroc_by_measure(dataset("sdnet", [1] * 6, [1] * 6), np.arange(6), score))


def test_the_runs_that_are_tested_on_the_target() -> None:
    def run(name: str, loss: float, extra: str = "", seed: int = 1) -> dict[str, Any]:
        recipe = {"name": name, "backbone": "" if "cnn" in name else "mobilenetv2"}
        start = extra.removeprefix("--weights-") if "weights" in extra else "imagenet"
        settings = {"recipe": recipe, "seed": seed, "weights": start if recipe["backbone"] else "random"}
        return {"run": name + extra, "val": {"loss": loss}, "settings": settings}

    runs = [run("chernxi-cnn-80", 0.2), run("imranismael-mobilenetv2", 0.1), run("simple-cnn", 9, "--split-seed-3")]
    runs += [run("mobilenetv2", 0, "--weights-random"), run("mobilenetv2-linear", 0, "--seed-2", 2)]
    assert list(evaluation.select_models(runs, 1, "imagenet")) == ["simple-cnn", "imranismael-mobilenetv2"]
    assert list(evaluation.select_models(runs, 2, "imagenet")) == ["mobilenetv2-linear"]
    with pytest.raises(CrackutilsError, match="SEED=3"):
        evaluation.select_models(runs, 3, "imagenet")
    runs += [run("mobilenetv2-linear", 0, "--weights-crackutils")]
    assert list(evaluation.select_models(runs, 1, "crackutils"))[:2] == ["mobilenetv2-linear", "simple-cnn"]


def study(target: Any, folder: Path = Path(), source: Any = None, **more: Any) -> methods.TransferStudy:
    manifest = pd.DataFrame({"split": ["val"] * 4})
    return methods.TransferStudy(source, manifest, target, None, "crackutils", "litert", folder, folder, 16, **more)


def test_methods_are_tried_on_tuning_photos_and_reported_on_the_others(monkeypatch: Patch) -> None:
    networks = dict.fromkeys((methods.FROZEN, *methods.FINE_TUNED))
    names = [m.name for m in methods.list_methods(study(None, networks=networks))]
    assert len(names) == len(set(names)) == 22 and names[-1] == methods.SAVED
    assert {"+ texture varied in training", f"{methods.FINE_TUNED[1]}, at 320 pixels"} < set(names)
    target, source = dataset("walls", [1] * 4 + [2, 2, 3, 3]), dataset("source", [1, 1, 1, 1])
    rows_of: list[tuple[str, list[int]]] = []

    def ranking(study: Any, ds: Any, rows: np.ndarray) -> np.ndarray:
        rows_of.append((ds.sha256, rows.tolist()))
        return np.array([0, 1, 2, 3, 0, 1, 0, 1])[rows]

    tried = [methods.Method("ours", ranking), methods.Method("other", ranking, in_domain=False)]
    monkeypatch.setattr(methods, "list_methods", lambda _: [*tried, methods.Method(methods.SAVED, ranking)])
    table = methods.compare_methods(study(target, source=source)).set_index("method")
    assert rows_of[:3] == [("walls", [0, 1, 2, 3]), ("source", [0, 1, 2, 3]), ("walls", [0, 1, 2, 3])]
    assert table.loc["ours", ["n", "auroc", "home_auroc", "home_least_errors"]].tolist() == [4, 0.75, 0.75, 0.25]
    assert np.isnan(table.loc["other", "home_least_errors"])  # makes no sense in-domain
    assert not len(methods.compare_methods(study(dataset("own", [-1] * 4), source=source)))
    rows_of.clear()
    p = {"run": np.array([1, 0, 1, 0.0])}
    rows, logits = methods.report_held_out(study(target, source=source), "ours", p)
    assert rows_of == [("walls", [4, 5, 6, 7])] * 2 and logits.tolist() == [0, 1, 0, 1]
    expected = [("run", 4, 0.0, None), ("ours", 4, 1.0, 1.0), (methods.SAVED, 4, 1.0, 1.0)]
    assert [(r["method"], r["n"], r["auroc"], r["gain"]) for r in rows] == expected


def test_aligned_features_have_the_mean_and_spread_of_the_others() -> None:
    source = (RNG.normal(size=(4000, 3)) @ np.array([[3, 0, 0], [1, 1, 0], [0, 2, 1]])).astype(np.float32)
    target = (RNG.normal(size=(4000, 3)) @ np.array([[1, 0, 2], [0, 4, 0], [0, 0, 1]]) + 7).astype(np.float32)
    moved = methods.align_covariance(source, target, source)
    np.testing.assert_allclose(moved.mean(0), target.mean(0), atol=0.2)
    before, after = (np.abs(np.cov(x.T) - np.cov(target.T)).max() for x in (source, moved))
    assert after < 0.6 * before  # not zero: as much identity is added as there is variance
    # each photo gets the statistics of the source
    source, photo = RNG.normal(5, 2, (500, 4)).astype(np.float32), np.repeat([1, 2], 300)
    x = (RNG.normal(size=(600, 4)) * np.where(photo == 1, 1, 9)[:, None] + 30 * photo[:, None]).astype(np.float32)
    found = methods.align_photos(x, photo, source)
    for part in (found[:300], found[300:]):
        np.testing.assert_allclose(np.stack([part.mean(0), part.std(0)]), [source.mean(0), source.std(0)], rtol=1e-3)


def test_windows_cover_the_image_and_their_features_are_cached(monkeypatch: Patch, tmp_path: Path) -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[:16, :16], image[-16:, -16:] = 255, 128
    reads: list[int] = []
    target = dataset("x", [1, 1])
    target.read = lambda row: (reads.append(row), image // (1 + row))[1]
    brightest = engine(lambda x: x.max((1, 2)))
    monkeypatch.setattr("crackutils.transfer.methods.features_engine", lambda *_: (brightest, {}))
    first = study(target, tmp_path).windows(target, np.array([0]))
    # each corner of an image lies in one window, its middle in all of them
    assert first.shape == (1, 4, 3) and np.digitize(first[0, :, 0], [100, 200]).tolist() == [2, 0, 0, 1]
    np.testing.assert_array_equal(study(target, tmp_path).windows(target, np.array([0])), first)
    assert reads == [0] * 4
    assert study(target, tmp_path).windows(target, np.array([1])).max() < 130  # other images are not mistaken for these


def test_robustness_corrupts_as_asked_and_scores_are_cached(monkeypatch: Patch, tmp_path: Path) -> None:
    ds = dataset("ds", [1, 1], [1, 0])
    ds.read = lambda row, size: np.full((64, 64, 3), 128, np.uint8)
    brightness = engine(lambda x: (x.mean((1, 2, 3)) / 255)[:, None].astype(np.float32))
    monkeypatch.setattr(robustness, "load_scorer", lambda *_: (brightness, SimpleNamespace(size=32), ""))
    rows = robustness.measure_robustness(ds, np.arange(2), {"run": Path("x")}, "litert", 0, tmp_path)
    rows = rows.set_index(["corruption", "strength"])
    assert len(rows) == 1 + 5 * len(CORRUPTIONS) and (rows["n"] == 2).all()
    assert rows.loc[("none", 0), ["errors", "error_rate"]].tolist() == [1, 0.5]  # both called cracked, at 128 of 255
    assert [rows.loc[("darker", s), "errors"] for s in range(1, 6)] == [1] * 5  # both called free of cracks
    # scored images come in their order
    ds = SimpleNamespace(read=lambda row: np.full((40, 50, 3), row * 10, np.uint8), sha256="ds")
    two_classes = engine(lambda x: np.stack([1 - x[:, 0, 0, 0] / 255, x[:, 0, 0, 0] / 255], 1))
    monkeypatch.setattr(robustness, "load_scorer", lambda *_: (two_classes, SimpleNamespace(size=32), ""))
    ask = np.array([3, 0, 20]), Path("x"), "litert", tmp_path
    found = robustness.score_images(ds, *ask)
    np.testing.assert_allclose(found, np.array([30, 0, 200]) / 255, rtol=1e-6)
    ds.read = None  # after a kill nothing is read again
    np.testing.assert_array_equal(robustness.score_images(ds, *ask), found)


def test_the_card_gives_the_scores_in_domain_and_on_the_target() -> None:
    name = DETECTOR.name
    thirds = [{"run": name, "measure": "darkness", "third": k, "auroc": 0.6 + 0.1 * k} for k in range(3)]
    thirds += [{"run": "other", "measure": "width", "third": k, "auroc": 0.5} for k in range(3)]
    broken = [("blur", 3, 0.31), ("noise", 3, 0.5), ("blur", 2, 0.9)]
    net = {"method": methods.SAVED, "n": 100, "cracked": 20, "auroc": 0.9, "average_precision": 0.7}
    metrics: dict[str, Any] = {"settings": {"profile": "metu-half"}, "data": {"train": {"images": 14000}}}
    metrics |= {"model": {"start": {"weights": "imagenet"}, "parameters": 123}, "stages": [{"steps": 10}]}
    metrics |= {"target": {"name": "sdnet", "tuning_photos": 8, "made": False}, "by_measure": thirds}
    metrics |= {"thresholds": [{"threshold": 0.5, "recall": 0.8, "precision": 0.6, "f1": None}]}
    metrics |= {"home": {"test": {"errors": 3, "n": 1989, "auroc": 0.9999}}}
    metrics["report"] = [net | {"low": 0.85, "high": 0.93}]
    metrics["robustness"] = [{"run": name, "corruption": c, "strength": s, "error_rate": e} for c, s, e in broken]
    text = write_card(metrics, DETECTOR)
    assert "3 errors in 1,989" in text and "error rate: noise 50%, blur 31%.\n" in text
    assert "AUROC 0.900 (0.850 to 0.930), average precision 0.700 on 100 images" in text
    assert "threshold 0.5: recall 0.800, precision 0.600, F1 0.000" in text
    assert "By darkness of the crack: AUROC 0.600 on the faintest third, 0.800 on the clearest." in text
    assert "longest dark shape" not in text and "no evidence" not in text and "\n\n-" not in text[100:]
    metrics["target"]["made"] = True
    assert "no evidence" in write_card(metrics, DETECTOR)
    metrics["report"][0] |= {"low": None, "high": None}
    assert "AUROC 0.900, average" in write_card(metrics, DETECTOR)
    metrics["report"][0]["auroc"] = None
    assert "AUROC not defined, average" in write_card(metrics, DETECTOR)
