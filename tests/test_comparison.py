"""Runs side by side: which can be compared, tables over them, and tests between them."""

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_runs import DS, MANIFEST, PROFILE, TEST, N, fake_predictions, fake_run

from crackutils import config
from crackutils.comparison import tables
from crackutils.comparison.significance import compare_pairwise, compare_splits, holm
from crackutils.decisions import decision_metrics
from crackutils.metrics import wilson
from crackutils.runs import collect_runs
from crackutils.slices import SLICES

SEED = config.DEFAULT_SEED


def runs() -> list[dict[str, Any]]:
    return collect_runs(PROFILE.name)


def test_tables_of_several_runs() -> None:
    fake_run("simple-cnn", wrong=9)
    fake_run("mobilenetv2", wrong=1)
    fake_run("mobilenetv2", wrong=2, split="random")
    chosen = tables.select_comparable(runs(), DS, "copy-safe", SEED)
    assert [run["run"] for run in chosen] == ["mobilenetv2", "simple-cnn"]
    table = tables.summarize_runs(chosen)
    assert table["errors"].tolist() == [1, 9]
    assert (table["low"] < table["accuracy"]).all() and (table["accuracy"] < table["high"]).all()
    assert table["megabytes"].tolist() == [0.451152] * 2 and table["parameters"].tolist() == [98289] * 2
    assert tables.cost_table(chosen)["minutes"].tolist() == [1, 1]
    (pair,) = compare_pairwise(chosen).to_dict("records")
    assert [pair[k] for k in ("only_a_wrong", "only_b_wrong", "both_wrong")] == [0, 8, 1]
    assert pair["p_value"] == pair["p_holm"] == float(f"{2 / 256:.3g}")  # one test needs no correction
    assert pair["verdict"] == "mobilenetv2 makes fewer errors"
    wrong = tables.shared_mistakes(chosen)
    assert wrong["wrong"].tolist() == [2] + [1] * 8
    assert wrong["by"].tolist() == ["mobilenetv2, simple-cnn"] + ["simple-cnn"] * 8


def test_verdicts_follow_the_corrected_p_value() -> None:
    for recipe, wrong in (("mobilenetv2", 1), ("simple-cnn", 8), ("marzed7-cnn-256", 9)):
        fake_run(recipe, wrong)
    table = compare_pairwise(runs()).set_index(["a", "b"])
    assert (table["p_value"] <= 0.05).sum() == 2
    np.testing.assert_allclose(table["p_holm"], holm(table["p_value"]), rtol=0.01)
    different = table["verdict"] != "not distinguishable"
    assert different.equals(table["p_holm"] < 0.05)
    assert 0 < different.sum() < len(different)


def test_decisions_in_numbers_and_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {name: np.arange(N) % step == 0 for name, step in (("dark", 3), ("thin", 7))}
    slices = pd.DataFrame(dict.fromkeys(SLICES, np.zeros(N, bool)) | held)
    monkeypatch.setattr("crackutils.slices.hard_slices", lambda ds: slices)
    fake_run("mobilenetv2", 3)
    (run,) = runs()
    found = decision_metrics(fake_predictions(3), DS, MANIFEST)
    assert found["intervals"]["error_rate"] == pytest.approx(3 / TEST, abs=1e-6)
    for low, high in (found["intervals"]["wilson"], found["intervals"]["groups"]):
        assert low <= 3 / TEST <= high
    assert {row["slice"] for row in found["slices"]} == {"dark", "thin"}
    test = fake_predictions(3).query("split == 'test'")
    dark = test["file"].isin(DS.index["file"][::3]).to_numpy()
    errors = ((test["p_crack"] >= 0.5) != test["label"])[dark]
    (row,) = (row for row in found["slices"] if row["slice"] == "dark")
    assert (row["n"], row["errors"]) == (dark.sum(), errors.sum())
    assert {k: run[k] for k in ("calibration", "decision")} == {k: found[k] for k in ("calibration", "decision")}
    table = tables.decision_table([run]).loc["mobilenetv2"]
    assert (table["missed"], table["false_alarms"]) == (found["decision"]["fn"], found["decision"]["fp"])
    assert (table["brier"], table["band_low"]) == (run["test"]["brier"], found["decision"]["band"]["low"])
    assert np.isnan(table["temperature"])  # no error in validation determines it
    ungrouped = decision_metrics(fake_predictions(3), DS, MANIFEST.assign(group=-1))
    assert set(ungrouped["intervals"]) == {"error_rate", "wilson"}


def test_runs_on_other_images_are_not_comparable() -> None:
    fake_run()
    other, corrected = (SimpleNamespace(**(vars(DS) | new)) for new in ({"sha256": "e" * 64}, {"labels": "corrected"}))
    wanted = ((DS, "random", SEED), (DS, "copy-safe", 1), (other, "copy-safe", SEED), (corrected, "copy-safe", SEED))
    for ds, split, seed in wanted:
        with pytest.raises(config.CrackutilsError, match="No finished run"):
            tables.select_comparable(runs(), ds, split, seed)
    assert tables.select_standard(runs(), other) == []


def test_runs_of_an_earlier_split_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    fake_run("simple-cnn")
    old = runs()[0]["folder"]
    fake_run("mobilenetv2")
    table = pd.read_csv(old / "predictions.csv")
    table["file"] = table["file"].where(table["split"] != "test", "Positive/before.jpg")
    table.to_csv(old / "predictions.csv", index=False)
    os.utime(old / "predictions.csv", (1, 1))
    chosen = tables.select_comparable(runs(), DS, "copy-safe", SEED)
    assert [run["run"] for run in chosen] == ["mobilenetv2"]
    assert "the split has changed since: simple-cnn. Run them again." in capsys.readouterr().out


def test_the_best_is_chosen_by_validation_not_by_test() -> None:
    fake_run("mobilenetv2", wrong=0, shift=0.05)
    fake_run("simple-cnn", wrong=20)
    assert tables.best_by_validation(runs()) == "simple-cnn"


def test_only_usual_runs_stand_for_their_recipe() -> None:
    fake_run("simple-cnn", 7)
    fake_run("mobilenetv2", 2)
    others = {"split": "random"}, {"seed": 2}, {"epochs": 1}, {"weights": "random"}, {"labels": "corrected"}
    for wrong, other in enumerate(others, 3):
        fake_run("mobilenetv2", wrong, **other)
    fake_run("mobilenetv2-linear", 8, engine="openvino")
    fake_run("marzed7-cnn-256", 9, precision="bfloat16")
    table = tables.split_table(tables.select_standard(runs(), DS))
    found = list(zip(table["recipe"], table["split"], table["errors"], strict=True))
    # in the order of the recipes, not of the notebooks' names
    assert found == [("mobilenetv2", "copy-safe", 2), ("mobilenetv2", "random", 3), ("simple-cnn", "copy-safe", 7)]
    none = tables.split_table(tables.select_standard(runs(), SimpleNamespace(**(vars(DS) | {"sha256": ""}))))
    assert none.empty and list(none) == list(table)


def test_recipes_are_compared_over_the_splits_that_all_have_run_with() -> None:
    for seed, wrong in ((SEED, 2), (1, 4), (2, 0)):
        fake_run("mobilenetv2", wrong, shift=-0.005, split_seed=seed)
    (row,) = compare_splits(tables.select_standard(runs(), DS), "copy-safe").to_dict("records")
    assert row["errors"] == [4, 0, 2] and row["verdict"] is None and row["against"] is None  # alone
    for seed, wrong in ((SEED, 12), (1, 3)):
        fake_run("simple-cnn", wrong, split_seed=seed)
    fake_run("marzed7-cnn-256", 1)  # one split only
    fake_run("simple-cnn", 0, split="random")
    table = compare_splits(tables.select_standard(runs(), DS), "copy-safe").set_index("recipe")
    assert table.index.tolist() == ["mobilenetv2", "simple-cnn"]
    assert table["against"].tolist() == [None, "mobilenetv2"]  # by validation loss
    assert table["errors"].tolist() == [[4, 2], [3, 12]]  # of the seeds 1 and 1337
    assert table["mean_errors"].tolist() == [3.0, 7.5]
    assert table["n"].tolist() == [2 * TEST] * 2
    interval = wilson(2 * TEST - 15, 2 * TEST)
    assert table.loc["simple-cnn", ["low", "high"]].tolist() == pytest.approx(interval, abs=1e-6)
    pair = table.loc["simple-cnn"]
    assert (pair["only_it_wrong"], pair["only_this_wrong"]) == (1, 10)
    assert pair["p_value"] == pytest.approx(0.0117, abs=1e-4)
    assert pair["verdict"] == "mobilenetv2 makes fewer errors"
    assert compare_splits(tables.select_standard(runs(), DS), "random").empty  # one split is not several


def test_training_seeds_spread_errors() -> None:
    for seed, wrong in ((SEED, 2), (1, 5), (2, 2)):
        fake_run("simple-cnn", wrong, seed=seed)
    fake_run("simple-cnn", 9, seed=3, split="random")
    fake_run("mobilenetv2", 1)
    (row,) = tables.compare_seeds(runs(), DS, "copy-safe", SEED).to_dict("records")
    assert row["recipe"] == "simple-cnn" and row["n"] == TEST
    assert row["seeds"] == [1, 2, SEED] and row["errors"] == [5, 2, 2]
    assert row["mean_errors"] == 3 and row["deviation"] == pytest.approx(3**0.5, abs=1e-6)
