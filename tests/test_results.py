"""Run folders, files that read back exactly, the reference and its comparison, the README's tables."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from crackutils import config
from crackutils.compare import (
    best_by_validation,
    compare_pairwise,
    compare_seeds,
    compare_splits,
    cost_table,
    decision_metrics,
    decision_table,
    select_comparable,
    select_standard,
    shared_mistakes,
    split_table,
    summarize_runs,
)
from crackutils.detector.runs import DETECTOR
from crackutils.files import write_atomically
from crackutils.metrics import holm, score_predictions, wilson
from crackutils.recipes import RECIPES
from crackutils.runs import Run, collect_runs, open_run, read_predictions, read_recipe, score_parts
from crackutils.slices import SLICES
from tools.readme import README_PROFILE, SPLITS_PROFILE, update_readme
from tools.reference import _close, make_reference, verify

PROFILE = config.profile("metu-half")
N = 600  # images of the fake data: every tenth is test, two tenths are val
TEST = 60
MANIFEST = pd.DataFrame(
    {
        "file": [f"{config.CLASSES[i % 2]}/{i // 2 + 1:05d}.jpg" for i in range(N)],
        "label": np.arange(N) % 2,
        "split": ["test" if i % 20 < 2 else "val" if i % 20 < 6 else "train" for i in range(N)],
        "group": np.arange(N),
    }
)
DS = SimpleNamespace(
    profile=PROFILE, sha256="d" * 64, index=MANIFEST[["file", "label"]], left_out=MANIFEST[:0], labels="given"
)


@pytest.fixture(autouse=True)
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake data have no pictures to measure: every third is dark, every seventh thin."""
    held = {name: np.arange(N) % step == 0 for name, step in (("dark", 3), ("thin", 7))}
    monkeypatch.setattr(audit, "slices", lambda ds: pd.DataFrame(dict.fromkeys(SLICES, np.zeros(N, bool)) | held))


# ---------------------------------------------------------------- a fake results tree


def fake_predictions(wrong: int, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Return predictions for val and test; the first `wrong` test images are on the wrong side."""
    table = MANIFEST[MANIFEST["split"] != "train"].reset_index(drop=True)
    p = np.random.default_rng(seed).uniform(0.01, 0.2, len(table)) + shift
    p = np.where(table["label"] == 1, 1 - p, p)
    bad = table.index[table["split"] == "test"][:wrong]
    p[bad] = 1 - p[bad]
    return table[["file", "split", "label"]].assign(p_crack=p.astype(np.float32))


def picture(value: int = 0) -> Any:
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.imshow(np.arange(4).reshape(2, 2) + value, vmin=0, vmax=9)
    return figure


def fake_run(
    recipe: str = "simple-cnn",
    wrong: int = 4,
    shift: float = 0.0,
    profile: config.Profile = PROFILE,
    **options: Any,
) -> Run:
    """Write all files of a finished training run."""
    notebook = "03_transfer_learning" if RECIPES[recipe].backbone else "04_simple_cnn"
    run = open_run(notebook, profile, recipe=RECIPES[recipe], **options)
    scores = run.write_predictions(fake_predictions(wrong, shift))
    run.write_history(pd.DataFrame({"stage": ["scratch"] * 2, "epoch": [1, 2], "loss": [0.5, 0.25 + shift]}))
    run.show(picture(), "example")
    run.show(picture(), "timing_bars")
    found = {
        "before": scores["test"],
        **scores,
        "training": {"stages": [{"name": "scratch", "epochs": 2, "best_val_loss": 0.25 + shift, "kept": True}]},
        "model": {"parameters": 98289, "bytes": 451152},
    }
    ds = SimpleNamespace(**(vars(DS) | {"profile": profile}))
    run.finish(ds, MANIFEST, found, {"train scratch": 60.0, "images_per_second": 100.0})
    return run


def fake_comparison(runs: list[dict[str, Any]], profile: config.Profile = PROFILE) -> Run:
    """Write what notebook 05 writes: lists of rows."""
    run = open_run("05_comparison", profile)
    usual = select_standard(runs, SimpleNamespace(**(vars(DS) | {"profile": profile})))
    one = [
        r for r in usual if r["settings"]["split_seed"] == config.DEFAULT_SEED and r["settings"]["split"] == "copy-safe"
    ]
    found = {
        "runs": summarize_runs(one).reset_index().to_dict("records"),
        "by_split": split_table(usual).to_dict("records"),
        "over_splits": compare_splits(usual, "copy-safe").to_dict("records"),
        "best_by_validation": best_by_validation(one),
        "mcnemar": compare_pairwise(one).to_dict("records"),
        "wrong_by_several": 4,
    }
    run.finish(DS, MANIFEST, found, {})
    return run


def fake_eda() -> Run:
    run = open_run("01_eda", PROFILE)
    leaked = {"random": 30, "copy-safe": 0}
    check = {"images_with_copy": 1, "images_asked": 180}
    found = {
        "groups_of_positive": {"test": 8},
        "share_with_copy": 0.25,
        "test_images_with_copy_in_train": leaked,
        "check": check,
    }
    run.finish(DS, MANIFEST, found, {})
    return run


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A finished run, and a reference made from it."""
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    run = fake_run()
    make_reference(PROFILE.name)
    capsys.readouterr()
    return run


def another_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all results look as if they came from another type of CPU."""
    other = {"cpu": "another", "gpu": False, "cores": 2, "system": "Linux"}
    monkeypatch.setattr(results, "machine", lambda: other)
    for file in (config.results_dir() / PROFILE.name).glob("*/*/run.json"):
        edit(file, lambda facts: facts.update(machine=other))


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


# ---------------------------------------------------------------- what is written reads back


def test_predictions_read_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    special = [0, 1, 0.1, 0.5, 1 / 3, 1e-7, 1e-20, np.nextafter(np.float32(1), np.float32(0)), 1e-38, 1e-40, 1e-45]
    bits = rng.integers(0, np.float32(1).view(np.uint32), 3000, np.uint32).view(np.float32)  # any float32 from 0 to 1
    p = np.concatenate([np.array(special, np.float32), bits, rng.random(1000, np.float32)])
    assert (p > 0).sum() == len(p) - 1  # the smallest ones are no zeros
    names = [f"Negative/{i:05d}.jpg" for i in range(len(p))]
    names[3] = 'Positive/a, "b".jpg'
    table = pd.DataFrame({"file": names, "split": "test", "label": np.arange(len(p)) % 2, "p_crack": p})
    run = Run("04_simple_cnn", "x", {}, tmp_path / "run")
    run.write_predictions(table)
    back = read_predictions(run.folder)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    np.testing.assert_array_equal(back["p_crack"].to_numpy().view(np.uint32), p.view(np.uint32))
    text = (run.folder / "predictions.csv").read_bytes()
    assert b"\r" not in text
    assert text.splitlines()[3] == b"Negative/00002.jpg,test,0,0.1"  # the shortest text, not 0.10000000149


def test_metrics_come_from_the_file_and_equal_those_of_the_arrays(tmp_path: Path) -> None:
    table = fake_predictions(5).sample(frac=1, random_state=1)
    run = Run("04_simple_cnn", "x", {}, tmp_path / "run")
    found = run.write_predictions(table)
    assert list(found) == ["val", "test"]
    for part in found:
        rows = table[table["split"] == part]
        assert found[part] == score_predictions(rows["label"].to_numpy(), rows["p_crack"].to_numpy())
    assert found["test"]["errors"] == 5
    assert found["test"]["n"] == TEST
    assert score_parts(read_predictions(run.folder)) == found
    assert list(score_parts(table[table["split"] == "test"])) == ["test"]


def test_metrics_json_holds_nothing_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(time.time(), 1000.0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    first = fake_run()
    texts = {f.name: f.read_bytes() for f in first.folder.rglob("*") if f.is_file()}
    shutil.rmtree(first.folder)
    monkeypatch.setattr(results, "versions", lambda: {"keras": "9"})
    another_cpu(monkeypatch)
    again = {f.name: f.read_bytes() for f in fake_run().folder.rglob("*") if f.is_file()}
    assert [name for name in texts if texts[name] != again[name]] == ["run.json"]
    assert {"metrics.json", "run.json", "predictions.csv", "history.csv", "example.png"} <= set(texts)
    facts = json.loads(again["run.json"])
    assert facts["machine"]["cpu"] == "another"
    assert facts["timings"]["notebook_seconds"] > 0


def test_metrics_json_describes_data_and_settings() -> None:
    run = fake_run(seed=5)
    (run.folder / "checkpoints").mkdir()
    content = run.finish(DS, MANIFEST, {"answer": {"é": 1.5}}, {})
    assert json.loads(json.dumps(content)) == json.loads((run.folder / "metrics.json").read_text("utf-8"))
    assert content["data"]["images"] == N
    assert content["data"]["test"] == {"images": TEST, "positive": TEST // 2, "groups": TEST}
    assert sum(content["data"][part]["images"] for part in ("train", "val", "test")) == N
    assert content["settings"]["seed"] == 5
    assert content["settings"]["recipe"]["name"] == "simple-cnn"
    assert not (run.folder / "checkpoints").exists()  # they are for interrupted runs


# ---------------------------------------------------------------- names


def test_a_run_with_usual_settings_is_named_by_its_recipe() -> None:
    recipe = RECIPES["mobilenetv2"]
    run = open_run("03_transfer_learning", PROFILE, recipe=recipe)
    assert run.name == "mobilenetv2"
    assert run.folder == config.results_dir() / "metu-half" / "03_transfer_learning" / "mobilenetv2"
    said = {"split": "copy-safe", "split_seed": 1337, "seed": 1337, "weights": "imagenet", "epochs": 0}
    assert open_run("03_transfer_learning", PROFILE, recipe=recipe, **said).name == "mobilenetv2"
    assert open_run("01_eda", PROFILE).name == "default"
    assert run.settings["weights"] == "imagenet"
    sample = open_run("03_transfer_learning", config.profile("sample"), recipe=recipe)
    assert sample.name == "mobilenetv2"  # our own weights are usual there
    assert sample.settings["weights"] == "crackutils"
    other = open_run("03_transfer_learning", config.profile("sample"), recipe=recipe, weights="imagenet")
    assert other.name == "mobilenetv2--weights-imagenet"


UNUSUAL = {"split": "random", "split_seed": 2, "seed": 3, "weights": "random", "epochs": 4}


@pytest.mark.parametrize("name", UNUSUAL)
def test_each_unusual_setting_shows_in_the_name(name: str) -> None:
    run = open_run("n", PROFILE, recipe=RECIPES["mobilenetv2"], **{name: UNUSUAL[name]})
    assert run.name == f"mobilenetv2--{name.replace('_', '-')}-{UNUSUAL[name]}"
    assert run.settings[name] == UNUSUAL[name]


def test_no_two_settings_share_a_folder() -> None:
    folders = []
    for recipe, profile in itertools.product(RECIPES.values(), ("sample", "metu-half")):
        usual = {"weights": config.profile(profile).weights if recipe.backbone else "random"}
        other = UNUSUAL | {"weights": next(w for w in config.WEIGHTS if w != usual["weights"])}
        for size in range(len(other) + 1):
            for names in itertools.combinations(other, size):
                settings = {k: other[k] for k in names}
                folders.append(open_run("n", config.profile(profile), recipe=recipe, **settings).folder)
    # numbers of one setting are not taken for those of another
    for settings in ({"seed": 2}, {"split_seed": 3}, {"seed": 1, "split_seed": 1}, {"seed": 11}, {"epochs": 11}):
        folders.append(open_run("n", PROFILE, recipe=RECIPES["simple-cnn"], **settings).folder)
    assert len(folders) == len(RECIPES) * 2 * 32 + 5
    assert len({str(f).lower() for f in folders}) == len(folders)  # on macOS and Windows case does not count


def test_engine_and_precision_show_in_the_name_where_they_are_not_usual() -> None:
    linear, cnn = RECIPES["mobilenetv2-linear"], RECIPES["simple-cnn"]
    usual = open_run("n", PROFILE, recipe=linear, engine="litert")
    assert (usual.name, usual.settings["engine"]) == ("mobilenetv2-linear", "litert")
    assert open_run("n", PROFILE, recipe=linear).settings["engine"] == "litert"
    other = open_run("n", PROFILE, recipe=linear, engine="openvino")
    assert (other.name, other.settings["engine"]) == ("mobilenetv2-linear--engine-openvino", "openvino")
    half = open_run("n", PROFILE, recipe=cnn, precision="bfloat16")
    assert (half.name, half.settings["precision"]) == ("simple-cnn--precision-bfloat16", "bfloat16")
    plain = open_run("n", PROFILE, recipe=cnn, engine="litert", precision="float32")
    assert plain.name == "simple-cnn"
    assert not {"engine", "precision"} & set(plain.settings)
    for setting in ({"engine": "openvin"}, {"precision": "float16"}):
        with pytest.raises(config.CrackutilsError, match="is unknown"):
            open_run("n", PROFILE, recipe=linear, **setting)
    with pytest.raises(config.CrackutilsError, match="ENGINE=openvino means nothing to RECIPE=simple-cnn"):
        open_run("n", PROFILE, recipe=cnn, engine="openvino")


@pytest.mark.parametrize(("setting", "said"), [({"split": "rnadom"}, "SPLIT=rnadom"), ({"weights": "x"}, "WEIGHTS=x")])
def test_unknown_settings_are_refused(setting: dict[str, str], said: str) -> None:
    with pytest.raises(config.CrackutilsError, match=said):
        open_run("n", PROFILE, **setting)


# ---------------------------------------------------------------- tables of several runs


def test_tables_of_several_runs() -> None:
    fake_run("simple-cnn", wrong=9)
    fake_run("mobilenetv2", wrong=1)
    fake_run("mobilenetv2", wrong=2, split="random")
    open_run("01_eda", PROFILE).finish(DS, MANIFEST, {}, {})
    runs = collect_runs(PROFILE.name)
    assert [r["run"] for r in runs] == ["mobilenetv2", "mobilenetv2--split-random", "simple-cnn"]
    assert len(collect_runs(PROFILE.name, trained=False)) == 4
    runs = select_comparable(runs, DS, "copy-safe", config.DEFAULT_SEED)
    assert [r["run"] for r in runs] == ["mobilenetv2", "simple-cnn"]
    table = summarize_runs(runs)
    assert table["errors"].tolist() == [1, 9]
    assert (table["low"] < table["accuracy"]).all()
    assert (table["accuracy"] < table["high"]).all()
    assert cost_table(runs)["minutes"].tolist() == [1, 1]
    (pair,) = compare_pairwise(runs).to_dict("records")
    assert [pair[k] for k in ("only_a_wrong", "only_b_wrong", "both_wrong")] == [0, 8, 1]
    assert pair["p_value"] == float(f"{2 / 256:.3g}")
    assert pair["p_holm"] == pair["p_value"]  # one test needs no correction
    assert pair["verdict"] == "mobilenetv2 makes fewer errors"
    wrong = shared_mistakes(runs)
    assert wrong["wrong"].tolist() == [2] + [1] * 8
    assert wrong["by"].tolist() == ["mobilenetv2, simple-cnn"] + ["simple-cnn"] * 8


def test_verdicts_follow_the_corrected_p_value() -> None:
    fake_run("mobilenetv2", 1)
    fake_run("simple-cnn", 8)
    fake_run("marzed7-cnn-256", 9)
    table = compare_pairwise(collect_runs(PROFILE.name)).set_index(["a", "b"])
    assert (table["p_value"] <= 0.05).sum() == 2
    np.testing.assert_allclose(table["p_holm"], holm(table["p_value"]), rtol=0.01)
    told = table["verdict"] != "not distinguishable"
    assert told.equals(table["p_holm"] < 0.05)
    assert 0 < told.sum() < len(told)


def test_metrics_tell_calibration_decision_intervals_and_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    fake_run("mobilenetv2", 3)
    (run,) = collect_runs(PROFILE.name)
    assert run["test"]["brier"] > 0 and run["test"]["ece"] > 0
    assert run["intervals"]["error_rate"] == pytest.approx(3 / TEST, abs=1e-6)
    for low, high in (run["intervals"]["wilson"], run["intervals"]["groups"]):
        assert low <= 3 / TEST <= high
    assert {row["slice"] for row in run["slices"]} == {"dark", "thin"}
    assert [row["accuracy"] for row in run["slices"]] == sorted(row["accuracy"] for row in run["slices"])
    table = decision_table([run])
    assert table.loc["mobilenetv2", "missed"] == run["decision"]["fn"]
    assert np.isnan(table.loc["mobilenetv2", "temperature"])  # no error in validation determines it
    changed = json.loads((run["folder"] / "metrics.json").read_text("utf-8"))
    changed["decision"]["threshold"] += 0.01
    make_reference(PROFILE.name)
    write_atomically(run["folder"] / "metrics.json", json.dumps(changed))
    assert verify(PROFILE.name) == 1


def test_a_split_without_groups_has_no_interval_over_groups() -> None:
    table = fake_predictions(2)
    ungrouped = decision_metrics(table, DS, MANIFEST.assign(group=-1))
    assert set(ungrouped["intervals"]) == {"error_rate", "wilson"}


def test_runs_on_other_images_are_not_comparable() -> None:
    fake_run()
    runs = collect_runs(PROFILE.name)
    other = SimpleNamespace(**(vars(DS) | {"sha256": "e" * 64}))
    corrected = SimpleNamespace(**(vars(DS) | {"labels": "corrected"}))
    with pytest.raises(config.CrackutilsError, match="No finished run"):
        select_comparable(runs, corrected, "copy-safe", 1337)
    for ds, split, seed in ((DS, "random", 1337), (DS, "copy-safe", 1), (other, "copy-safe", 1337)):
        with pytest.raises(config.CrackutilsError, match="No finished run"):
            select_comparable(runs, ds, split, seed)


def test_no_run_at_all_is_told() -> None:
    with pytest.raises(config.CrackutilsError, match="run notebooks 03 and 04 first"):
        collect_runs("sample")


# ---------------------------------------------------------------- reference


def test_verify_is_green_on_the_reference_itself(kept: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(PROFILE.name) == 0
    assert "GREEN: 0 differences in 1 runs" in capsys.readouterr().out
    shutil.rmtree(kept.folder)
    fake_run()
    assert verify(PROFILE.name) == 0  # made again from nothing


def accuracy(content: dict[str, Any]) -> None:
    content["test"]["accuracy"] = round(content["test"]["accuracy"] + 1e-6, 6)


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), "utf-8", newline="\n")

    return change


def one_pixel(file: Path) -> None:
    with Image.open(file) as image:
        pixels = np.array(image)
    pixels[10, 10, 0] ^= 1
    Image.fromarray(pixels).save(file)


CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "metrics.json": ("metrics.json", lambda f: edit(f, accuracy), "test.accuracy"),
    "key": ("metrics.json", lambda f: edit(f, lambda c: c.update(more=1)), "more"),
    "setting": ("metrics.json", replaced('"seed": 1337', '"seed": 1338'), "settings.seed"),
    "predictions.csv": ("predictions.csv", replaced(",0,0.1", ",0,0.2"), "predictions.csv"),
    "history.csv": ("history.csv", replaced("0.25", "0.26"), "history.csv"),
    "no history.csv": ("history.csv", Path.unlink, "missing"),
    "pixel": ("figures/example.png", one_pixel, "figures/example.png"),
    "no figure": ("figures/example.png", Path.unlink, "missing"),
    "not run": ("metrics.json", Path.unlink, "not run"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_verify_is_red_after_any_change(name: str, kept: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file, change, said = CHANGES[name]
    change(kept.folder / file)
    assert verify(PROFILE.name) == 1
    out = capsys.readouterr().out
    assert "RED" in out
    assert any(said in line and "DIFFERENT" in line for line in out.splitlines())


def test_verify_reads_pixels_not_bytes_and_leaves_timings_out(kept: Run) -> None:
    one_pixel(kept.folder / "figures" / "timing_bars.png")
    file = kept.folder / "figures" / "example.png"
    before = file.read_bytes()
    with Image.open(file) as image:
        image.save(file, compress_level=0)  # another library's way to write the same pixels
    assert file.read_bytes() != before
    assert verify(PROFILE.name) == 0
    edit(kept.folder / "run.json", lambda c: c["timings"].update({"train scratch": 1.0}))
    assert verify(PROFILE.name) == 0


def test_an_unchanged_digit_beyond_float32_is_still_noticed(kept: Run) -> None:
    """A probability in its last place changes no metric, and is a difference all the same."""
    table = read_predictions(kept.folder)
    table.loc[0, "p_crack"] = np.nextafter(table.loc[0, "p_crack"], np.float32(1))
    kept.write_predictions(table)
    assert verify(PROFILE.name) == 1


def test_a_further_run_does_not_make_the_comparison_red(kept: Run, capsys: pytest.CaptureFixture[str]) -> None:
    fake_comparison(collect_runs(PROFILE.name))
    make_reference(PROFILE.name)
    fake_run("mobilenetv2", wrong=2)
    fake_comparison(collect_runs(PROFILE.name))
    assert verify(PROFILE.name) == 0
    assert "not compared: other runs" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "shift", "red"), [(4, 1e-4, 0), (5, 1e-3, 0), (20, 0.0, 1), (4, 0.2, 1)])
def test_another_cpu_may_drift_a_little(
    wrong: int, shift: float, red: int, kept: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run(wrong=wrong, shift=shift)
    assert verify(PROFILE.name) == 1  # not on the same type
    another_cpu(monkeypatch)
    assert verify(PROFILE.name) == red


@pytest.mark.parametrize(
    ("path", "want", "have", "close"),
    [
        ("two_passes.two.accuracy", 0.50, 0.53, True),
        ("batchnorm.base(x).moving means", 0.02, 0.3, False),
        ("axes.missed", 25, 29, True),
        ("axes.missed", 25, 40, False),
        ("copies_across.head.random.all", 0.05, None, False),
    ],
)
def test_another_cpu_may_move_the_pitfalls_a_little(path: str, want: Any, have: Any, close: bool) -> None:
    assert _close((path, want, have), 200, made=False) is close


def test_another_cpu_may_drift_a_little_in_the_comparison_too(kept: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run("mobilenetv2", wrong=2)
    fake_comparison(collect_runs(PROFILE.name))
    make_reference(PROFILE.name)
    fake_run(wrong=5, shift=1e-3)
    fake_comparison(collect_runs(PROFILE.name))
    assert verify(PROFILE.name) == 1
    another_cpu(monkeypatch)
    assert verify(PROFILE.name) == 0
    fake_run(wrong=25)
    fake_comparison(collect_runs(PROFILE.name))
    assert verify(PROFILE.name) == 1


@pytest.mark.parametrize("path", ["settings.seed", "data.images", "model.parameters"])
def test_another_cpu_explains_no_other_settings_or_data(path: str, kept: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    another_cpu(monkeypatch)
    assert verify(PROFILE.name) == 0
    part, name = path.split(".")
    edit(kept.folder / "metrics.json", lambda c: c[part].update({name: c[part][name] + 1}))
    assert verify(PROFILE.name) == 1


@pytest.mark.parametrize(
    ("source", "path", "red"),
    [
        ("metu", "data.sha256", 1),
        ("sample", "data.sha256", 0),  # made on each machine, in low bits unlike
        ("sample", "data.images", 1),
        ("sample", "settings.seed", 1),
        ("sample", "schema", 1),
    ],
)
def test_another_cpu_may_make_other_pictures_but_not_download_others(
    source: str, path: str, red: int, kept: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = config.REFERENCE / PROFILE.name / kept.notebook / kept.name
    for folder in (reference, kept.folder):
        edit(folder / "metrics.json", lambda c: c["data"].update(source=source))
    another_cpu(monkeypatch)
    assert verify(PROFILE.name) == 0

    def change(content: dict[str, Any]) -> None:
        *parts, name = path.split(".")
        for part in parts:
            content = content[part]
        content[name] = "e" * 64 if name == "sha256" else content[name] + 1

    edit(kept.folder / "metrics.json", change)
    assert verify(PROFILE.name) == red


def test_metrics_must_follow_from_the_predictions_on_any_cpu(
    kept: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    another_cpu(monkeypatch)
    edit(kept.folder / "metrics.json", accuracy)  # small enough to pass as drift
    assert verify(PROFILE.name) == 1
    assert "test.accuracy from predictions.csv" in capsys.readouterr().out


def test_without_a_reference_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    with pytest.raises(config.CrackutilsError) as caught:
        verify("sample")
    assert "reference/sample is empty" in str(caught.value)
    assert "make reference" in str(caught.value)
    with pytest.raises(config.CrackutilsError, match="PROFILE=smpl is unknown"):
        verify("smpl")


def test_make_reference_replaces_what_was_there(kept: Run) -> None:
    old = config.REFERENCE / PROFILE.name / "04_simple_cnn" / "of-long-ago"
    old.mkdir()
    (old / "metrics.json").write_text("{}")
    make_reference(PROFILE.name)
    assert not old.exists()
    home = config.REFERENCE / PROFILE.name / kept.notebook / kept.name
    assert (home / "metrics.json").read_bytes() == (kept.folder / "metrics.json").read_bytes()
    marks = json.loads((home / "fingerprints.json").read_text("utf-8"))
    assert set(marks) == {"predictions.csv", "history.csv", "figures/example.png"}  # no timings


# ---------------------------------------------------------------- recipes over splits


def usual_runs() -> list[dict[str, Any]]:
    return select_standard(collect_runs(PROFILE.name), DS)


def test_recipes_are_compared_over_the_splits_that_all_have_run_with() -> None:
    for seed, wrong in ((1337, 2), (1, 4), (2, 0)):
        fake_run("mobilenetv2", wrong, shift=-0.005, split_seed=seed)
    for seed, wrong in ((1337, 12), (1, 3)):
        fake_run("simple-cnn", wrong, split_seed=seed)
    fake_run("marzed7-cnn-256", 1)  # one split only
    fake_run("simple-cnn", 0, split="random")
    table = compare_splits(usual_runs(), "copy-safe").set_index("recipe")
    assert table.index.tolist() == ["mobilenetv2", "simple-cnn"]
    assert table["against"].tolist() == [None, "mobilenetv2"]  # by validation loss
    assert table["errors"].tolist() == [[4, 2], [3, 12]]  # of the seeds 1 and 1337
    assert table["mean_errors"].tolist() == [3.0, 7.5]
    assert table["n"].tolist() == [2 * TEST] * 2
    low, high = wilson(2 * TEST - 15, 2 * TEST)
    assert table.loc["simple-cnn", ["low", "high"]].tolist() == pytest.approx([low, high], abs=1e-6)
    pair = table.loc["simple-cnn"]
    assert (pair["only_it_wrong"], pair["only_this_wrong"]) == (1, 10)
    assert pair["p_value"] == pytest.approx(0.0117, abs=1e-4)
    assert pair["verdict"] == "mobilenetv2 makes fewer errors"


def test_a_recipe_alone_on_its_splits_is_compared_with_nothing() -> None:
    for seed in (1, 2):
        fake_run("mobilenetv2", 2, split_seed=seed)
    (row,) = compare_splits(usual_runs(), "copy-safe").to_dict("records")
    assert row["errors"] == [2, 2] and row["verdict"] is None and row["against"] is None


def test_without_usual_runs_the_table_is_empty_but_has_its_columns() -> None:
    fake_run("mobilenetv2", epochs=1)
    table = split_table(usual_runs())
    assert table.empty and {"recipe", "split_seed", "errors"} <= set(table)


def test_training_seeds_spread_errors() -> None:
    for seed, wrong in ((config.DEFAULT_SEED, 2), (1, 5), (2, 2)):
        fake_run("simple-cnn", wrong, seed=seed)
    fake_run("simple-cnn", 9, seed=3, split="random")
    fake_run("mobilenetv2", 1)
    runs = collect_runs(PROFILE.name)
    (row,) = compare_seeds(runs, DS, "copy-safe", config.DEFAULT_SEED).to_dict("records")
    assert row["recipe"] == "simple-cnn" and row["n"] == TEST
    assert row["seeds"] == [1, 2, config.DEFAULT_SEED] and row["errors"] == [5, 2, 2]
    assert row["mean_errors"] == 3 and row["deviation"] == pytest.approx(3**0.5, abs=1e-6)


def test_one_split_is_not_several() -> None:
    fake_run("mobilenetv2")
    fake_run("simple-cnn")
    assert compare_splits(usual_runs(), "copy-safe").empty
    assert compare_splits(usual_runs(), "random").empty


def test_only_usual_runs_stand_for_their_recipe() -> None:
    fake_run("mobilenetv2", 2)
    fake_run("mobilenetv2", 3, split="random")
    fake_run("mobilenetv2", 4, seed=2)
    fake_run("mobilenetv2", 5, epochs=1)
    fake_run("mobilenetv2", 6, weights="random")
    fake_run("simple-cnn", 7)
    table = split_table(usual_runs())
    assert sorted(zip(table["recipe"], table["split"], table["errors"], strict=True)) == [
        ("mobilenetv2", "copy-safe", 2),
        ("mobilenetv2", "random", 3),
        ("simple-cnn", "copy-safe", 7),
    ]


def test_the_best_is_chosen_by_validation_not_by_test() -> None:
    fake_run("mobilenetv2", wrong=0, shift=0.05)
    fake_run("simple-cnn", wrong=20)
    assert best_by_validation(collect_runs(PROFILE.name)) == "simple-cnn"


def test_a_reference_keeps_recipes_on_all_splits_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    fake_run("marzed7-cnn-256")
    fake_run("simple-cnn", split="random")
    fake_run("simple-cnn", split="random", split_seed=3)
    fake_run("simple-cnn", seed=2)
    fake_run("simple-cnn", epochs=1, split_seed=3)
    fake_run("mobilenetv2", weights="random")
    fake_eda()
    make_reference(PROFILE.name)
    kept = sorted(file.parent.name for file in config.REFERENCE.rglob("metrics.json"))
    assert kept == ["default", "marzed7-cnn-256", "simple-cnn--split-random", "simple-cnn--split-random--split-seed-3"]


# ---------------------------------------------------------------- README


def raced(name: str, total: float, errors: int, loss: float | None, count: int = 2000) -> dict[str, Any]:
    """A row of the benchmark's race."""
    val = None if loss is None else {"loss": loss, "above": loss - 0.01, "standard_error": 0.002}
    ratio = {"ratio": round(40 / total, 2), "peak_gb": 0.9, "p_value": 1.0}
    return {"run": name, "images": count, "total": total, "errors": errors, "tested": count // 10, "val": val} | ratio


def fake_audit(profile: config.Profile) -> None:
    """Write what notebook 07 writes, as far as the README shows it."""
    heads = [(head, method) for head in ("linear", "dense", "nearest") for method in config.SPLITS]
    rate = {"n": 500, "errors": 3, "error_rate": 0.006, "low": 0.002, "high": 0.01}
    made = {"recall": 0.9, "precision": 0.95, "planted": 20}
    found = {
        "overlaps": 1234,
        "mosaics": {"share": {"Positive": 0.994, "Negative": 0.397}},
        "relatives_in_training": {m: {"test": 60, "with copy": 7, "with overlap": 21} for m in config.SPLITS},
        "leakage": [{"head": head, "method": method} | rate for head, method in heads],
        "leakage_by_relative": [{"head": "linear", "near": "copy", "in_training": t} | rate for t in (False, True)],
        "unread": {"read": 90, "random": 50, "cracks": 2, "unread": 400, "expected": 16}
        | {"expected_low": 4, "expected_high": 54},
        "verdicts": {"crack": 5, "ambiguous": 6},
        "planted_copies": [made],
        "overlaps_found": [made],
        "planted_labels": made,
        "ranks_of_wrong_labels": [1, 3, 4],
        "with_corrections": [
            {"trained_with": name, "errors_given": 4, "errors_corrected": 6, "n": 60} for name in config.LABELS
        ],
        "photos": {"how_good": {"estimated photos": {"recall": 0.31, "precision": 0.2}}},
    }
    open_run("07_data_audit", profile).finish(DS, MANIFEST, found, {})


def fake_cross(profile: config.Profile) -> None:
    """Write what notebook 08 writes, as far as the README shows it."""
    rank = {"auroc": 0.9, "low": 0.85, "high": 0.95, "auroc_by_photo": 0.88, "average_precision": 0.7}
    gain = {"auroc_gain": 0.01, "auroc_gain_low": -0.002, "auroc_gain_high": 0.03}
    none, some = (dict(zip(("gain", "gain_low", "gain_high"), v, strict=True)) for v in ((None,) * 3, (0.2, 0.1, 0.3)))
    found = {
        "target": {"images": 5950, "photos": 24, "cracked": 1378, "tuning_photos": 8, "held": 4032},
        "methods": [{"method": "frozen", "home_errors": 0.002} | rank, {"method": "CORAL", "home_errors": None} | rank],
        "chosen": "the best",
        "report": [{"method": "simple-cnn"} | rank | none, {"method": "the net"} | rank | some],
        "thresholds": [
            {"threshold": 0.5, "recall": 0.6, "precision": 0.9},
            {"threshold": 0.2, "recall": 0.7, "precision": 0.8},
            {"threshold": 0.1, "recall": 0.8, "precision": 0.7},
        ],
        "home": {"test": {"errors": 3, "n": 1989}, "best_run": "mobilenetv2", "best_errors": 1},
        "adaptation": [{"n": n, "draws": 20, "auroc": 0.9} | gain for n in (0, 50)],
        "robustness": [
            {"run": "simple-cnn", "corruption": kind, "n": 240, "error_rate": rate}
            for kind, rate in (("none", 0.004), ("blur", 0.1), ("blur", 0.3), ("noise", 0.5))
        ],
    }
    open_run("08_cross_dataset", profile, recipe=DETECTOR).finish(DS, MANIFEST, found, {})


def fake_inspected(profile: config.Profile) -> None:
    """Write what notebook 09 writes, as far as the README shows it."""
    made = [
        {"style": style, "iou": iou, "true_found": 0.9, "length_error": error}
        for style, iou, error in (("hairline", 0.3, -0.2), ("hairline", 0.5, 0.1), ("wide", 0.8, 0.04))
    ]
    looked = [{"run": "simple-cnn", "ratio": 2.53}, {"run": "mobilenetv2", "ratio": 1.4}]
    found = {"threshold": 0.5, "made": made, "attention": looked}
    open_run("09_inspect_photos", profile).finish(DS, MANIFEST, found, {})


AUDIT_MARKS = "<!-- cross:begin -->\n<!-- cross:end -->\n"
AUDIT_MARKS += "<!-- audit:begin -->\n<!-- audit:end -->\n"
AUDIT_MARKS += "<!-- inspected:begin -->\n<!-- inspected:end -->\n"
SPEED_MARKS = "<!-- speed:begin -->\n<!-- speed:end -->\n"
SPEED = {
    "race": [
        raced("published", 40, 2, None),
        raced("ours", 8, 1, 0.01),
        raced("ours, again", 2, 1, 0.01),
        raced("128 px", 6, 1, 0.011),
    ],
    "chosen": "128 px",
    "scoring": {"of_bound": 0.95, "to_predict": 2.5},
    "series": {
        "wall": 50,
        "start": 1,
        "images": 17,
        "explained": 0.96,
        "notebooks": [{"start": 2, "imports": 4, "stages": 9}] * 2,
    },
    "precision": {"simple-cnn": {"ratio": 1.02}, "marzed7-cnn-256": {"ratio": 1.71}},
    "machine": {"cores": 2, "cpu": "x86_64 avx512_bf16"},
}


def test_update_readme_writes_between_its_marks_only(
    kept: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run("mobilenetv2", wrong=1, shift=-0.005)
    fake_run("marzed7-cnn-256", wrong=9, shift=0.01)
    fake_run("marzed7-cnn-256", wrong=2, split="random")
    fake_comparison(collect_runs(PROFILE.name))
    fake_eda()
    fake_audit(PROFILE)
    fake_cross(PROFILE)
    fake_inspected(PROFILE)
    make_reference(PROFILE.name)
    several = config.profile(SPLITS_PROFILE)
    for seed in (config.DEFAULT_SEED, 1):
        fake_run("mobilenetv2", 1, profile=several, split_seed=seed)
        fake_run("marzed7-cnn-256", 7, shift=0.01, profile=several, split_seed=seed)
    fake_run("chernxi-cnn-80", 3, shift=0.02, profile=several)
    fake_comparison(collect_runs(several.name), several)
    make_reference(several.name)
    sample = config.profile("sample")
    for recipe, wrong in (("mobilenetv2", 3), ("simple-cnn", 11)):
        fake_run(recipe, wrong, profile=sample)
    fake_run("simple-cnn", 5, profile=sample, seed=2)  # of other than the usual settings: not shown
    fake_comparison(collect_runs("sample"), sample)
    fake_audit(sample)
    make_reference("sample")
    fake_audit(config.profile("sdnet"))
    make_reference("sdnet")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    useful = {
        name: {
            target: {"accuracy": start + k / 100, "auroc": start + k / 1000, "average_precision": start}
            for target, start in (("metu_test", 0.9), ("sdnet_test", 0.7))
        }
        for k, name in enumerate(("crackutils", "imagenet"))
    }
    real = {f"{name}_{word}": 0.6 for name in ("metu", "sdnet") for word in ("negative", "positive")}
    versions = [{"realism_auroc": real}, {"realism_auroc": real | {"metu_positive": 0.81}}]
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "sample.json").write_text(
        json.dumps({"versions": versions, "final": {"usefulness": useful}})
    )
    (tmp_path / "benchmarks" / "speed.json").write_text(json.dumps(SPEED))
    readme = tmp_path / "README.md"
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    begin_2, end_2 = "<!-- sample:begin -->", "<!-- sample:end -->"
    before = f"# Title\n\n{begin}\nwas here\n{end}\n{AUDIT_MARKS}\nbetween\n\n{SPEED_MARKS}\n"
    before += f"{begin_2}\nand here\n{end_2}\n\nafter\n"
    readme.write_text(before, "utf-8")
    assert update_readme(check=True) is False
    assert readme.read_text("utf-8") == before  # a check changes nothing
    assert update_readme() is False
    text = readme.read_text("utf-8")
    assert text.startswith(f"# Title\n\n{begin}\n")
    assert "<!-- inspected:end -->\n\nbetween\n\n<!-- speed:begin -->\n" in text
    assert "| hairline | 2 | 0.40 | 90% | 15% | 20% |\n| wide | 1 | 0.80 | 90% | 4% | 4% |\n| all | 3 |" in text
    assert "as chance would: `simple-cnn` 2.5, `mobilenetv2` 1.4." in text
    assert text.endswith(f"{end_2}\n\nafter\n")
    assert "was here" not in text and "and here" not in text
    ours, samples = text.split("between")
    assert "| simple-cnn | 0.900 (0.850-0.950) | 0.880 | - |" in ours
    assert "| the net | 0.900 (0.850-0.950) | 0.880 | +0.200 (+0.100 to +0.300) |" in ours
    assert "On the other 16 (4,032 tiles), with 95 % intervals" in ours
    assert "finds 60% at the threshold 0.5 (90% of its alarms are cracks); 80% at the threshold 0.1 (70% of its" in ours
    assert "| frozen | 0.900 (0.850-0.950) | 0.20% |\n| CORAL | 0.900 (0.850-0.950) | - |" in ours
    assert "it makes 3 errors of 1,989 test images; `mobilenetv2`, the best by validation, makes 1." in ours
    assert "| 0 | 0.900 | - |\n| 50 | 0.900 | +0.010 (-0.002 to +0.030) |" in ours
    assert "| Recipe | untouched | blur | noise |\n|---|---|---|---|\n| `simple-cnn` | 0.4% | 20% | 50% |" in ours
    speed, samples = samples.split("<!-- speed:end -->")
    assert (
        "| 2,000 | 40 s, 2 errors of 200 | 8 s, **5.0 times** as fast, 1 error of 200 (McNemar p = 1) | 2.0 s," in speed
    )
    assert "| 128 px | 6 | 6.7 | 0.0110 | 0.0010 ± 0.0020 | 1 of 200 | 1 | 0.90 GB |" in speed
    assert "| 160 px, as the recipe has it | 8 | 5.0 | 0.0100 | lowest | 1 of 200 | 1 | 0.90 GB |" in speed
    assert "lowest is *128 px*: 6.7 times as fast as the published recipe, 1 error of 200 against 2 errors" in speed
    assert "Scoring runs at 0.95 of" in speed and "2.5 times as fast as Keras's `predict`" in speed
    assert (
        "A run of the first 2 notebooks on the sample takes 50 s: 17 s to make the images, 5 s to start, 8 s to import"
        in speed
    )
    assert "18 s for what the notebooks do; that leaves 4.0% unexplained" in speed
    assert "it trains `simple-cnn` 1.0 times, `marzed7-cnn-256` 1.7 times as fast on this CPU, which has bfl" in speed
    (row,) = (line for line in ours.splitlines() if line.startswith("| `mobilenetv2`: "))
    assert f"| 1 of {TEST} | 0.9833 (" in row
    assert "| - | - | 98,289 |" in row  # not run on a random split, not published
    (row,) = (line for line in ours.splitlines() if line.startswith("| `marzed7-cnn-256`: "))
    assert f"| 9 of {TEST} | 0.8500 (" in row
    assert f"| 2 of {TEST} | 65 of 4,000 |" in row
    assert "- mobilenetv2 makes fewer errors, against `marzed7-cnn-256` (p = 0.023)." in ours
    assert f"| `mobilenetv2` (ours) | 1.0 | 2 of {2 * TEST} (1, 1) |" in ours
    assert f"| `marzed7-cnn-256` | 7.0 | 14 of {2 * TEST} (7, 7) | 0.8833 (" in ours
    assert (
        "Run on one of these splits only: `chernxi-cnn-80`; each makes more errors there than `mobilenetv2` on all 2."
    ) in ours
    assert "| marzed7/Capstone-Project-3-Image-Classification | 65 of 4,000 | 0.9838 | notebook output |" in ours
    assert "| random | 60 | 7 | 21 | 0.60% (0.20%-1.00%) | 0.60%" in ours
    assert "| linear | the same crop | 3 of 500 wrong, 0.60% | 3 of 500 wrong, 0.60% |" in ours
    assert (
        "90 pictures were opened and read; 5 called Negative show a crack, 0 called Positive show none, 6 are" in ours
    )
    assert "Of 50 Negative pictures drawn at random 2 show a crack, so some 16 more (95 % interval 4 to 54)" in ours
    assert "of the 3 labels that are wrong in truth only 2 are among as many first suspects" in ours
    assert (
        "as given 4 errors by the given and 6 by the corrected labels; trained with the corrected ones 4 and 6" in ours
    )
    assert "keeps together 31% on the sample (precision 20%) and 31% on SDNET2018's walls (precision 20%)." in ours
    assert "Of 20 copies planted in the sample it finds 90% (precision 95%)" in ours
    rows = [line for line in samples.splitlines() if line.startswith("| `")]
    assert [row.split("|")[1:3] for row in rows] == [
        [" `mobilenetv2` ", f" 3 of {TEST} "],
        [" `simple-cnn` ", f" 11 of {TEST} "],
    ]
    assert "| METU | 0.9000 | 0.9000 | 0.9000 |" in samples
    assert "| SDNET2018 | 0.7100 | 0.7010 | 0.7000 |" in samples
    assert "without crack 0.600, with crack 0.810," in samples  # of the last version
    assert f"copy-safe splits of {several.title}, in the order of their seeds 1, {config.DEFAULT_SEED}:" in ours
    assert update_readme(check=True) is True
    compared = config.REFERENCE / several.name / "05_comparison" / "default" / "metrics.json"
    kept_text = compared.read_text("utf-8")
    found = json.loads(kept_text)
    (row,) = (row for row in found["by_split"] if row["recipe"] == "chernxi-cnn-80")
    row["errors"] = 2  # no more than ours on both splits: nothing to claim
    compared.write_text(json.dumps(found), "utf-8")
    assert update_readme() is False
    assert "Run on one of these splits only: `chernxi-cnn-80`.\n" in readme.read_text("utf-8")
    compared.write_text(kept_text, "utf-8")
    for old, new in ((f"| 1 of {TEST}", f"| 0 of {TEST}"), (f"| 3 of {TEST}", f"| 0 of {TEST}")):
        readme.write_text(text.replace(old, new, 1), "utf-8")
        assert update_readme(check=True) is False
    for mark, name in ((begin, "results:begin"), (end_2, "sample:begin.*sample:end")):
        readme.write_text(text.replace(mark, ""), "utf-8")
        with pytest.raises(config.CrackutilsError, match=name):
            update_readme()


@pytest.mark.skipif(not (config.REFERENCE / README_PROFILE).is_dir(), reason=f"no reference/{README_PROFILE} yet")
def test_the_readme_shows_the_reference() -> None:
    assert update_readme(check=True), "README.md is not up to date: python -m crackutils readme"


def test_of_other_peoples_concrete_low_digits_may_differ_and_nothing_else() -> None:
    close = _close
    assert close(("report[0].auroc", 0.9, 0.85), 200, False)
    assert close(("chosen", "a", "b"), 200, False)
    assert not close(("report[0].auroc", 0.9, None), 200, False)
    assert not close(("methods", [1], []), 200, False)
    assert not close(("home.test.accuracy", 0.99, 0.95), 200, False)
    assert not close(("target.held", 4032, 4000), 200, False)
    assert not close(("target.sha256", "a", "b"), 200, False)
    assert close(("target.sha256", "a", "b"), 200, True)  # images made by code differ in low bits
    assert close(("target.held", 400, 390), 200, True)


def test_an_unfinished_run_has_settings_and_no_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRACKUTILS_RESULTS_DIR", str(tmp_path))
    run = open_run("08_cross_dataset", PROFILE, recipe=DETECTOR)
    (run.folder / "model").mkdir(parents=True)
    for old in ("run.json", "metrics.json", "model/model.weights.h5"):
        (run.folder / old).write_text("{}")
    run.begin()
    assert not (run.folder / "run.json").exists() and not (run.folder / "model" / "model.weights.h5").exists()
    assert read_recipe(run.folder) == (DETECTOR, PROFILE.weights)
    with pytest.raises(config.CrackutilsError, match="no finished training run"):
        collect_runs(PROFILE.name, trained=False)  # it does not count as a run
    (run.folder / "checkpoints").mkdir()
    assert run.checkpoints().is_dir()
    monkeypatch.setenv("CRACKUTILS_FORCE", "1")
    assert not run.checkpoints().exists()


@pytest.mark.parametrize(("target", "name"), [("sdnet", "sdnet"), ("my site/walls", r"my-site-walls-[0-9a-f]{8}")])
def test_a_run_on_another_target_has_a_name_of_its_own(target: str, name: str) -> None:
    run = open_run("08_cross_dataset", PROFILE, recipe=DETECTOR, target=target)
    assert re.fullmatch(f"mobilenetv2-cells--target-{name}", run.name)
