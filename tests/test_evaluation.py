"""Metrics, intervals and tests against numbers worked out by hand or published."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from crackutils import config
from crackutils.augment import crack_darkness
from crackutils.decisions import (
    apply_temperature,
    calibration_metrics,
    fit_temperature,
    precision_at_prevalence,
    review_band,
    threshold_for_recall,
    threshold_metrics,
)
from crackutils.inspection.attention import mass_on_mask
from crackutils.metrics import (
    classification_table,
    group_interval,
    holm,
    mcnemar,
    ranking_metrics,
    reliability_table,
    score_predictions,
    wilson,
)
from crackutils.transfer.evaluation import bootstrap_auroc, minimum_errors

LABELS = np.array([0, 0, 0, 1, 1, 1, 1])
P = np.array([0.1, 0.6, 0.5, 0.9, 0.4, 0.5, 0.8], np.float32)


def test_metrics_worked_out_by_hand() -> None:
    found = score_predictions(LABELS, P)
    # called a crack: 0.6 and 0.5 of the three without, 0.9, 0.5 and 0.8 of the four with one
    assert [found[k] for k in ("n", "tn", "fp", "fn", "tp", "errors")] == [7, 1, 2, 1, 3, 3]
    assert found["accuracy"] == round(4 / 7, 6)
    assert found["precision"] == 0.6
    assert found["recall"] == 0.75
    assert found["f1"] == round(2 * 0.6 * 0.75 / (0.6 + 0.75), 6)
    # of 12 pairs 0.9 and 0.8 win 3 each, 0.4 wins 1, 0.5 wins 1 and draws 1
    assert found["auroc"] == round(8.5 / 12, 6)
    # steps of recall 1/4 at 0.9, 0.8, 0.5 (3 of 5 right) and 0.4 (4 of 6 right)
    assert found["average_precision"] == round((1 + 1 + 3 / 5 + 4 / 6) / 4, 6)
    right = (0.9, 0.4, 0.5, 0.9, 0.4, 0.5, 0.8)  # probability given to what is true
    assert found["loss"] == pytest.approx(-sum(map(math.log, right)) / 7, abs=1e-6)
    assert list(found)[:6] == ["n", "tn", "fp", "fn", "tp", "errors"]


def test_metrics_are_plain_numbers_of_any_input_type() -> None:
    found = score_predictions(LABELS.astype(np.float32), P)
    assert found == score_predictions(LABELS.tolist(), P.tolist())
    assert all(type(v) in (int, float) for v in found.values())


@pytest.mark.parametrize(("threshold", "called"), [(0.5, 1), (0.5000001, 0)])
def test_a_probability_at_the_threshold_is_a_crack(threshold: float, called: int) -> None:
    p = np.array([0.5], np.float32)
    assert score_predictions([1], p, threshold)["tp"] == called
    assert score_predictions([0], p, threshold)["fp"] == called
    assert mcnemar([0], p, np.zeros(1), threshold)["only_a_wrong"] == called
    assert classification_table([1], p, threshold).loc["Positive", "recall"] == called


def test_another_threshold_moves_counts_but_not_areas() -> None:
    found, usual = score_predictions(LABELS, P, 0.7), score_predictions(LABELS, P)
    assert [found[k] for k in ("tn", "fp", "fn", "tp")] == [3, 0, 2, 2]
    assert [found[k] for k in ("auroc", "average_precision", "loss")] == [
        usual[k] for k in ("auroc", "average_precision", "loss")
    ]


def test_perfect_predictions() -> None:
    found = score_predictions([0, 1, 0, 1, 1], [0.0, 1.0, 0.0, 1.0, 1.0])
    names = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision")
    assert [found[k] for k in names] == [1.0] * 6
    assert found["errors"] == 0
    assert str(found["loss"]) == "0.0"  # and not -0.0


def test_certain_and_wrong_is_a_finite_loss() -> None:
    assert score_predictions([0, 1], [1.0, 0.0])["loss"] == pytest.approx(-math.log(1e-7), abs=1e-6)


def test_one_class_only_leaves_the_undefined_out() -> None:
    none = score_predictions([0, 0, 0], [0.1, 0.2, 0.3])
    assert [none[k] for k in ("tn", "fp", "fn", "tp")] == [3, 0, 0, 0]
    assert none["accuracy"] == 1
    assert [none[k] for k in ("precision", "recall", "f1", "auroc", "average_precision")] == [None] * 5
    every = score_predictions([1, 1], [0.9, 0.2])
    assert [every[k] for k in ("precision", "recall", "f1")] == [1.0, 0.5, round(2 / 3, 6)]
    assert [every[k] for k in ("auroc", "average_precision")] == [None, None]
    silent = score_predictions([0, 1], [0.1, 0.2])
    assert silent["precision"] is None  # nothing was called a crack
    assert [silent["recall"], silent["f1"]] == [0, 0]


# Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3
@pytest.mark.parametrize(
    ("good", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_intervals(good: int, n: int, low: float, high: float) -> None:
    assert wilson(good, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_against_its_formula() -> None:
    assert wilson(0, 10) == pytest.approx((0, 1.959964**2 / (10 + 1.959964**2)), abs=1e-6)
    assert wilson(5, 4000) == pytest.approx((0.000534, 0.002923), abs=1e-6)
    assert wilson(3995, 4000) == pytest.approx(tuple(1 - v for v in wilson(5, 4000)[::-1]), abs=1e-12)
    assert all(0 <= v <= 1 for v in wilson(10, 10))
    wide, narrow = wilson(5, 100, 0.99), wilson(5, 100, 0.9)
    assert wide[0] < narrow[0] < 0.05 < narrow[1] < wide[1]


def two_models(only_a: int, only_b: int, both: int, none: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and probabilities of two models that are wrong together and alone as often as asked."""
    wrong_a = np.repeat([True, False, True, False], [only_a, only_b, both, none])
    wrong_b = np.repeat([False, True, True, False], [only_a, only_b, both, none])
    labels = np.arange(len(wrong_a)) % 2
    return labels, *(np.where(wrong != labels.astype(bool), 0.8, 0.3) for wrong in (wrong_a, wrong_b))


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [(1, 5, 14 / 64), (0, 6, 2 / 64), (3, 3, 1.0), (0, 0, 1.0), (2, 10, 2 * binom.cdf(2, 12, 0.5))],
)
def test_mcnemar_against_exact_values(a: int, b: int, p: float) -> None:
    found = mcnemar(*two_models(a, b, 2, 30))
    assert found == {"only_a_wrong": a, "only_b_wrong": b, "both_wrong": 2, "p_value": float(f"{p:.3g}")}


def test_mcnemar_is_symmetric_and_blind_to_what_both_get_right_or_wrong() -> None:
    for a, b in itertools.product(range(6), repeat=2):
        labels, p_a, p_b = two_models(a, b, 1, 9)
        one, other = mcnemar(labels, p_a, p_b), mcnemar(labels, p_b, p_a)
        assert one["p_value"] == other["p_value"] == mcnemar(*two_models(a, b, 0, 400))["p_value"]
        assert one["only_a_wrong"] == other["only_b_wrong"] == a
    assert mcnemar(labels, p_a, p_a)["p_value"] == 1


def test_report_agrees_with_metrics() -> None:
    table, found = classification_table(LABELS, P), score_predictions(LABELS, P)
    assert list(table.index) == ["Negative", "Positive"]
    assert list(table.columns) == ["precision", "recall", "f1", "support"]
    for name in ("precision", "recall", "f1"):
        assert table.loc["Positive", name] == pytest.approx(found[name], abs=1e-6)
    assert table.loc["Negative", "recall"] == pytest.approx(1 / 3)
    assert table["support"].tolist() == [3, 4]
    assert classification_table([0, 0], [0.1, 0.2]).loc["Positive"].tolist() == [0, 0, 0, 0]


def test_darkness_measures_how_far_a_crack_stands_out() -> None:
    image = np.full((100, 100, 3), 180, np.uint8)
    assert crack_darkness(image) == 0
    image[:, 40:45] = 60  # a crack over 5 % of the picture
    assert crack_darkness(image) == 120
    assert crack_darkness(image[::-1].astype(np.float32)) == 120
    assert crack_darkness(np.clip(image.astype(int) + 40, 0, 255)) == 120  # brightness alone changes nothing
    image[:, 40:45] = 180
    image[:, 40] = 60  # 1 %: thinner than what the measure sees
    assert crack_darkness(image) == 0
    assert crack_darkness(255 - image) == 0  # light lines are no cracks


# ---------------------------------------------------------------- calibration and decisions


def draws(n: int, t: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that would be right at temperature `t`."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    return labels, 1 / (1 + np.exp(-logit * t))


def test_brier_and_ece_worked_out_by_hand() -> None:
    found = score_predictions(LABELS, P)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01 + 0.36 + 0.25 + 0.04) / 7, abs=1e-6)
    # each probability has a bin of its own but for 0.5, which comes with and without a crack
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 2 * 0 + 0.1 + 0.6 + 0.2) / 7, abs=1e-6)


def test_reliability_has_a_row_for_each_bin_that_holds_something() -> None:
    table = reliability_table(np.array([0, 0, 1, 1, 1]), np.array([0.0, 0.1, 0.15, 0.95, 1.0]), 10)
    assert table["n"].tolist() == [1, 2, 2]
    assert table["low"].tolist() == [0, 0.1, 0.9] and table["high"].tolist() == [0.1, 0.2, 1]
    assert table["p"].tolist() == pytest.approx([0, 0.125, 0.975])
    assert table["share"].tolist() == [0, 0.5, 1]
    assert (table["share_low"].iloc[1], table["share_high"].iloc[1]) == wilson(1, 2)


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_temperature_is_found_and_mends_the_calibration(t: float) -> None:
    labels, p = draws(20_000, t, 1)
    found = fit_temperature(labels, p)
    assert found == pytest.approx(t, rel=0.05)
    better = apply_temperature(p, found)
    assert score_predictions(labels, better)["loss"] <= score_predictions(labels, p)["loss"]
    assert score_predictions(labels, better)["ece"] < 0.01
    assert (np.diff(better[np.argsort(p)]) >= 0).all()


def test_certain_probabilities_can_be_tempered() -> None:
    found = apply_temperature(np.array([0.0, 0.5, 1.0]), 2.0)
    assert found[1] == 0.5 and 0 < found[0] < 0.001 and 0.999 < found[2] < 1


def test_a_threshold_misses_as_many_cracks_as_allowed_and_no_more() -> None:
    labels, p = np.repeat([0, 1], [100, 2000]), np.random.default_rng(2).random(2100)
    threshold = threshold_for_recall(labels, p, 0.999)
    assert score_predictions(labels, p, threshold)["fn"] == 2
    assert score_predictions(labels, p, np.nextafter(threshold, 1))["fn"] == 3
    assert threshold_for_recall(LABELS, P, 0.999) == np.float32(0.4)  # four cracks: none may be missed
    assert threshold_for_recall(LABELS, P, 0.75) == 0.5
    with pytest.raises(config.CrackutilsError, match="there are none"):
        threshold_for_recall(np.zeros(3, int), np.zeros(3))


def test_the_band_keeps_its_promise_on_new_images() -> None:
    wrong = []
    for seed in range(40):
        labels, p = draws(1000, 1.0, seed)
        low, high = review_band(labels[:500], p[:500], 0.05)
        assert low <= high
        missed = ((p[500:] < low) & (labels[500:] == 1)).sum() / (labels[500:] == 1).sum()
        alarms = ((p[500:] > high) & (labels[500:] == 0)).sum() / (labels[500:] == 0).sum()
        wrong.append((missed, alarms))
    assert (np.mean(wrong, axis=0) < 0.055).all()
    assert (np.mean(wrong, axis=0) > 0.035).all()  # and is not wider than it must be


def test_a_band_of_few_images_holds_everything() -> None:
    assert review_band(LABELS, P, 0.05) == (0, 1)


def test_precision_where_cracks_are_rare() -> None:
    assert precision_at_prevalence(0.01, 0.99, 0.01) == pytest.approx(0.5)
    assert precision_at_prevalence(0.5, 0.99, 0.01) == pytest.approx(0.99)
    assert precision_at_prevalence(0.01, 0.0, 0.0) is None


def test_groups_make_an_interval_wider() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 20)
    alike = (rng.random(60) < 0.2)[groups].astype(int)
    alone = (rng.random(1200) < 0.2).astype(int)
    spread = [high - low for low, high in (group_interval(v, groups) for v in (alike, alone))]
    assert spread[0] > 3 * spread[1]
    low, high = group_interval(alone, np.arange(1200))
    assert (low, high) == pytest.approx(wilson(int(alone.sum()), 1200), abs=0.004)
    assert group_interval(alike, groups) == group_interval(alike, groups)


def test_holm_worked_out_by_hand() -> None:
    found = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert len(holm(np.array([]))) == 0


def test_decision_without_a_class_is_none_and_does_not_fail() -> None:
    y, p = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8])
    told = threshold_metrics(y, p, y[::2], p[::2])
    assert told["threshold"] is None and set(told["band"].values()) == {None}
    assert set(told) == set(threshold_metrics(y, p, y, p))
    assert set(told["band"]) == set(threshold_metrics(y, p, y, p)["band"])
    assert calibration_metrics(y[::2], p[::2], y, p) == dict.fromkeys(("temperature", "brier", "ece", "loss"))


def test_decision_keeps_the_recall_on_validation_and_tells_what_test_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    p = 1 / (1 + np.exp(-rng.normal(4 * (y - 0.5), 1.5)))
    told = threshold_metrics(y[:2000], p[:2000], y[2000:], p[2000:], recall=0.99)
    missed = (p[:2000] < told["threshold"]) & (y[:2000] == 1)
    assert missed.sum() <= 0.01 * (y[:2000] == 1).sum()
    assert told["fn"] == ((p[2000:] < told["threshold"]) & (y[2000:] == 1)).sum()
    rare = told["precision_at_prevalence"]
    assert rare["0.001"] < rare["0.01"] < rare["0.1"] < rare["test"]
    band = told["band"]
    assert band["low"] < band["high"] and 0 < band["share"] < 1
    assert band["error_rate_outside"] < 0.02 < band["error_rate_inside"]


def test_a_temperature_undoes_what_made_the_model_too_sure() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.02, 0.98, 8000)
    y = (rng.random(8000) < p).astype(int)
    told = calibration_metrics(y[:4000], apply_temperature(p, 0.4)[:4000], y[4000:], apply_temperature(p, 0.4)[4000:])
    assert told["temperature"] == pytest.approx(2.5, rel=0.1)
    assert told["ece"] < score_predictions(y[4000:], apply_temperature(p, 0.4)[4000:])["ece"]


def test_drawn_aurocs_spread_about_the_auroc() -> None:
    rng = np.random.default_rng(1)
    labels, groups = rng.integers(0, 2, 400), np.repeat(np.arange(20), 20)
    scores = np.round(labels + rng.normal(0, 1, 400), 1)  # with ties
    drawn = bootstrap_auroc(labels, scores, groups, 300)
    auroc = ranking_metrics(labels, scores)["auroc"]
    assert len(drawn) == 300 and abs(drawn.mean() - auroc) < 0.01 and 0.005 < drawn.std() < 0.1
    one = bootstrap_auroc(labels, scores, np.zeros(400), 2)
    np.testing.assert_allclose(one, auroc, atol=1e-6)  # the one group is all
    assert not len(bootstrap_auroc(np.zeros(4, int), np.arange(4), np.arange(4), 5))


def test_fewest_errors_are_those_of_the_best_threshold() -> None:
    assert minimum_errors([0, 0, 1, 1], [1, 2, 3, 4]) == 0
    assert minimum_errors([0, 1, 0, 1], [1, 2, 3, 4]) == 1
    assert minimum_errors([1, 1, 0], [1, 2, 3]) == 1  # call all of them cracked
    assert minimum_errors([0, 1, 0, 1], [5, 5, 5, 5]) == 2  # no threshold lies between equal scores


def test_the_mass_of_a_heat_map_on_a_mask() -> None:
    mask = np.zeros((40, 60), bool)
    mask[:, :30] = True
    heat = np.zeros((4, 6), np.float32)
    assert mass_on_mask(heat, mask) is None
    heat[:] = 0.3
    assert mass_on_mask(heat, mask) == pytest.approx(0.5)  # chance
    heat[:, 3:] = 0
    assert 0.8 < mass_on_mask(heat, mask) < 1  # some runs over the edge when it is enlarged
