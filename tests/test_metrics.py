"""Metrics, intervals, tests and decisions against numbers worked out by hand or published."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from crackutils import config, decisions
from crackutils.comparison.significance import holm, mcnemar
from crackutils.metrics import classification_table, group_interval, reliability_table, score_predictions, wilson

LABELS = np.array([0, 0, 0, 1, 1, 1, 1])
P = np.array([0.1, 0.6, 0.5, 0.9, 0.4, 0.5, 0.8], np.float32)
AREAS = ("auroc", "average_precision")


def test_metrics_worked_out_by_hand() -> None:
    found = score_predictions(LABELS, P)
    # called a crack: 0.6 and 0.5 of the three without, 0.9, 0.5 and 0.8 of the four with one
    assert list(found.items())[:6] == [("n", 7), ("tn", 1), ("fp", 2), ("fn", 1), ("tp", 3), ("errors", 3)]
    assert [found[k] for k in ("accuracy", "precision", "recall")] == [round(4 / 7, 6), 0.6, 0.75]
    assert found["f1"] == round(2 * 0.6 * 0.75 / (0.6 + 0.75), 6)
    # of 12 pairs 0.9 and 0.8 win 3 each, 0.4 wins 1, 0.5 wins 1 and draws 1
    assert found["auroc"] == round(8.5 / 12, 6)
    # steps of recall 1/4 at 0.9, 0.8, 0.5 (3 of 5 right) and 0.4 (4 of 6 right)
    assert found["average_precision"] == round((1 + 1 + 3 / 5 + 4 / 6) / 4, 6)
    right = (0.9, 0.4, 0.5, 0.9, 0.4, 0.5, 0.8)  # probability given to what is true
    assert found["loss"] == pytest.approx(-sum(map(math.log, right)) / 7, abs=1e-6)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01 + 0.36 + 0.25 + 0.04) / 7, abs=1e-6)
    # each probability has a bin of its own but for 0.5, which comes with and without a crack
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 2 * 0 + 0.1 + 0.6 + 0.2) / 7, abs=1e-6)
    assert found == score_predictions(LABELS.astype(np.float32), P) == score_predictions(LABELS.tolist(), P.tolist())
    assert all(type(v) in (int, float) for v in found.values())


@pytest.mark.parametrize(("probability", "called"), [(0.5, 1), (0.4999999, 0)])
def test_a_probability_at_the_threshold_is_a_crack(probability: float, called: int) -> None:
    p = np.array([probability], np.float32)
    assert score_predictions([1], p)["tp"] == called
    assert score_predictions([0], p)["fp"] == called
    assert mcnemar([0], p, np.zeros(1))["only_a_wrong"] == called
    assert classification_table([1], p).loc["Positive", "recall"] == called


def test_another_threshold_moves_counts_but_not_areas() -> None:
    found, usual = score_predictions(LABELS, P, 0.7), score_predictions(LABELS, P)
    assert [found[k] for k in ("tn", "fp", "fn", "tp")] == [3, 0, 2, 2]
    assert [found[k] for k in (*AREAS, "loss")] == [usual[k] for k in (*AREAS, "loss")]


def test_the_ends_of_the_scale() -> None:
    found = score_predictions([0, 1, 0, 1, 1], [0.0, 1.0, 0.0, 1.0, 1.0])
    assert [found[k] for k in ("errors", "accuracy", "precision", "recall", "f1", *AREAS)] == [0, *[1.0] * 6]
    assert str(found["loss"]) == "0.0"  # and not -0.0
    assert score_predictions([0, 1], [1.0, 0.0])["loss"] == pytest.approx(-math.log(1e-7), abs=1e-6)


def test_one_class_only_leaves_the_undefined_out() -> None:
    none = score_predictions([0, 0, 0], [0.1, 0.2, 0.3])
    assert [none[k] for k in ("tn", "fp", "fn", "tp", "accuracy")] == [3, 0, 0, 0, 1]
    assert [none[k] for k in ("precision", "recall", "f1", *AREAS)] == [None] * 5
    every = score_predictions([1, 1], [0.9, 0.2])
    assert [every[k] for k in ("precision", "recall", "f1", *AREAS)] == [1.0, 0.5, round(2 / 3, 6), None, None]
    silent = score_predictions([0, 1], [0.1, 0.2])  # nothing was called a crack
    assert [silent[k] for k in ("precision", "recall", "f1")] == [None, 0, 0]


def test_the_report_agrees_with_the_metrics() -> None:
    table, found = classification_table(LABELS, P), score_predictions(LABELS, P)
    assert list(table.index) == ["Negative", "Positive"]
    assert list(table.columns) == ["precision", "recall", "f1", "support"]
    for name in ("precision", "recall", "f1"):
        assert table.loc["Positive", name] == pytest.approx(found[name], abs=1e-6)
    assert table.loc["Negative", "recall"] == pytest.approx(1 / 3)
    assert table["support"].tolist() == [3, 4]
    assert classification_table([0, 0], [0.1, 0.2]).loc["Positive"].tolist() == [0, 0, 0, 0]


def test_reliability_has_a_row_for_each_bin_that_holds_something() -> None:
    table = reliability_table(np.array([0, 0, 1, 1, 1]), np.array([0.0, 0.1, 0.15, 0.95, 1.0]), 10)
    assert table["n"].tolist() == [1, 2, 2]
    assert table["low"].tolist() == [0, 0.1, 0.9] and table["high"].tolist() == [0.1, 0.2, 1]
    assert table["p"].tolist() == pytest.approx([0, 0.125, 0.975])
    assert table["share"].tolist() == [0, 0.5, 1]
    assert (table["share_low"].iloc[1], table["share_high"].iloc[1]) == wilson(1, 2)


# Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3; then by the formula
@pytest.mark.parametrize(
    ("good", "n", "low", "high"),
    [
        *[(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
        *[(0, 10, 0, 1.959964**2 / (10 + 1.959964**2)), (5, 4000, 0.000534, 0.002923)],
    ],
)
def test_wilson_against_published_intervals(good: int, n: int, low: float, high: float) -> None:
    assert wilson(good, n) == pytest.approx((low, high), abs=5e-5 if n < 4000 else 1e-6)
    assert wilson(n - good, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_groups_make_an_interval_wider() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 20)
    alike = (rng.random(60) < 0.2)[groups].astype(int)
    alone = (rng.random(1200) < 0.2).astype(int)
    spread = [high - low for low, high in (group_interval(v, groups) for v in (alike, alone))]
    assert spread[0] > 3 * spread[1]
    assert group_interval(alone, np.arange(1200)) == pytest.approx(wilson(int(alone.sum()), 1200), abs=0.004)
    assert group_interval(alike, groups) == group_interval(alike, groups)


def two_models(only_a: int, only_b: int, both: int, none: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and probabilities of two models that are wrong together and alone as often as asked."""
    counts = [only_a, only_b, both, none]
    wrong_a, wrong_b = (np.repeat(wrong, counts) for wrong in ([True, False, True, False], [False, True, True, False]))
    labels = np.arange(sum(counts)) % 2
    return labels, *(np.where(wrong != labels.astype(bool), 0.8, 0.3) for wrong in (wrong_a, wrong_b))


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [(1, 5, 14 / 64), (0, 6, 2 / 64), (3, 3, 1.0), (0, 0, 1.0), (10, 2, 2 * binom.cdf(2, 12, 0.5))],
)
def test_mcnemar_against_exact_values(a: int, b: int, p: float) -> None:
    found = mcnemar(*two_models(a, b, 2, 30))
    assert found == {"only_a_wrong": a, "only_b_wrong": b, "both_wrong": 2, "p_value": float(f"{p:.3g}")}


def test_holm_worked_out_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert len(holm(np.array([]))) == 0


def draws(n: int, t: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that would be right at temperature `t`."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    return labels, 1 / (1 + np.exp(-logit * t))


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_temperature_is_found_and_mends_the_calibration(t: float) -> None:
    labels, p = draws(20_000, t, 1)
    found = decisions.fit_temperature(labels, p)
    assert found == pytest.approx(t, rel=0.05)
    better = decisions.apply_temperature(p, found)
    assert score_predictions(labels, better)["loss"] <= score_predictions(labels, p)["loss"]
    assert score_predictions(labels, better)["ece"] < 0.01
    assert (np.diff(better[np.argsort(p)]) >= 0).all()


def test_certain_probabilities_can_be_tempered() -> None:
    found = decisions.apply_temperature(np.array([0.0, 0.5, 1.0]), 2.0)
    assert found[1] == 0.5 and 0 < found[0] < 0.001 and 0.999 < found[2] < 1


def test_a_threshold_misses_as_many_cracks_as_allowed_and_no_more() -> None:
    labels, p = np.repeat([0, 1], [100, 2000]), np.random.default_rng(2).random(2100)
    threshold = decisions.threshold_for_recall(labels, p, 0.999)
    assert score_predictions(labels, p, threshold)["fn"] == 2
    assert score_predictions(labels, p, np.nextafter(threshold, 1))["fn"] == 3
    assert decisions.threshold_for_recall(LABELS, P, 0.999) == np.float32(0.4)  # four cracks: none may be missed
    assert decisions.threshold_for_recall(LABELS, P, 0.75) == 0.5
    with pytest.raises(config.CrackutilsError, match="No validation image"):
        decisions.threshold_for_recall(np.zeros(3, int), np.zeros(3))


def test_the_band_keeps_its_promise_on_new_images() -> None:
    wrong = []
    for seed in range(40):
        labels, p = draws(1000, 1.0, seed)
        low, high = decisions.review_band(labels[:500], p[:500], 0.05)
        assert low <= high
        truth, new = labels[500:], p[500:]
        wrong.append(((new[truth == 1] < low).mean(), (new[truth == 0] > high).mean()))
    assert (np.mean(wrong, axis=0) < 0.055).all()
    assert (np.mean(wrong, axis=0) > 0.035).all()  # and is not wider than it must be
    assert decisions.review_band(LABELS, P, 0.05) == (0, 1)  # of few images it holds everything


def test_precision_where_cracks_are_rare() -> None:
    assert decisions.precision_at_prevalence(0.01, 0.99, 0.01) == pytest.approx(0.5)
    assert decisions.precision_at_prevalence(0.5, 0.99, 0.01) == pytest.approx(0.99)
    assert decisions.precision_at_prevalence(0.01, 0.0, 0.0) is None


def test_decision_without_a_class_is_none_and_does_not_fail() -> None:
    y, p = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8])
    for found in (decisions.threshold_metrics(y, p, y[::2], p[::2]), decisions.threshold_metrics(y[::2], p[::2], y, p)):
        assert found["threshold"] is None and set(found["band"].values()) == {None}
        assert set(found) == set(decisions.threshold_metrics(y, p, y, p))
        assert set(found["band"]) == set(decisions.threshold_metrics(y, p, y, p)["band"])
    assert decisions.calibration_metrics(y[::2], p[::2], y, p) == dict.fromkeys(("temperature", "brier", "ece", "loss"))


def test_decision_keeps_the_recall_on_validation_and_tells_what_test_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    p = 1 / (1 + np.exp(-rng.normal(4 * (y - 0.5), 1.5)))
    found = decisions.threshold_metrics(y[:2000], p[:2000], y[2000:], p[2000:], recall=0.99)
    cracks = p[:2000][y[:2000] == 1]
    assert (cracks < found["threshold"]).sum() <= 0.01 * len(cracks)
    assert found["fn"] == ((p[2000:] < found["threshold"]) & (y[2000:] == 1)).sum()
    rare = found["precision_at_prevalence"]
    assert rare["0.001"] < rare["0.01"] < rare["0.1"] < rare["test"]
    band = found["band"]
    assert band["low"] < band["high"] and 0 < band["share"] < 1
    assert band["error_rate_outside"] < 0.02 < band["error_rate_inside"]
    new, truth = p[2000:] / 2, y[2000:] == 1  # now the band lies below 0.5
    band = decisions.threshold_metrics(y[:2000], p[:2000] / 2, y[2000:], new)["band"]
    assert band["errors_outside"] == (truth & (new < band["low"])).sum() + (~truth & (new > band["high"])).sum() > 0


def test_test_images_choose_neither_temperature_nor_threshold_nor_band() -> None:
    y, p = draws(3000, 2.5, 1)
    table = pd.DataFrame({"split": ["val"] * 1000 + ["test"] * 2000, "label": y, "p_crack": p})
    found = decisions.chosen_metrics(table)
    assert found["calibration"]["temperature"] == pytest.approx(2.5, rel=0.1)
    assert found["calibration"]["ece"] < score_predictions(y[1000:], p[1000:])["ece"]
    assert found["decision"]["threshold"] == decisions.threshold_for_recall(y[:1000], p[:1000])
    table.loc[1000:, "label"] = 1 - table.loc[1000:, "label"]
    other = decisions.chosen_metrics(table)
    assert other["calibration"]["temperature"] == found["calibration"]["temperature"]
    assert other["calibration"]["ece"] > 0.5  # but test images measure
    chosen = [[d["threshold"], d["band"]["low"], d["band"]["high"]] for d in (other["decision"], found["decision"])]
    assert chosen[0] == chosen[1]
