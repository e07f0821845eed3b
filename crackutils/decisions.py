"""Calibration, threshold and review band: chosen on validation images, measured on test images."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from crackutils.config import CrackutilsError
from crackutils.datasets import Dataset
from crackutils.metrics import EPS, fraction, group_interval, log_loss, score_predictions, wilson
from crackutils.slices import score_slices


def fit_temperature(labels: np.ndarray, p_crack: np.ndarray) -> float:
    """Return the temperature, 0.05 to 20, with the lowest loss on validation images; above 1 for overconfident models.

    After Guo et al. (2017), On calibration of modern neural networks.
    """

    def loss(log_t: float) -> float:
        return log_loss(np.asarray(labels, int), apply_temperature(p_crack, float(np.exp(log_t))))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def apply_temperature(p_crack: np.ndarray, t: float) -> np.ndarray:
    """Return probabilities with their logits divided by a temperature, which keeps their order."""
    return expit(logit(np.clip(np.asarray(p_crack, np.float64), EPS, 1 - EPS)) / t)


def threshold_for_recall(labels: np.ndarray, p_crack: np.ndarray, recall: float = 0.999) -> float:
    """Return the highest threshold with at least this recall on validation images.

    With fewer than 1 / (1 - recall) cracks, no crack may be missed.
    """
    cracks = np.sort(np.asarray(p_crack)[np.asarray(labels) == 1])
    if not len(cracks):
        raise CrackutilsError("No validation image has a crack, so the recall is undefined. Add cracked images.")
    return float(cracks[int((1 - recall) * len(cracks) + 1e-9)])


def review_band(labels: np.ndarray, p_crack: np.ndarray, alpha: float) -> tuple[float, float]:
    """Return the probabilities (low, high) between which an image needs review, by split conformal prediction.

    At most a share `alpha` of new images of each class, from the same distribution, lies on the wrong side of the band
    (Vovk, Gammerman, Shafer 2005, conditional on the class). The band is fitted on validation images; with fewer than
    1 / alpha - 1 images of a class, it covers all probabilities on that side.
    """
    labels, p = np.asarray(labels), np.asarray(p_crack, np.float64)
    none, cracks = np.sort(p[labels == 0]), np.sort(p[labels == 1])[::-1]
    bounds = []
    for values, otherwise in ((none, 1.0), (cracks, 0.0)):
        rank = int(np.ceil((len(values) + 1) * (1 - alpha) - 1e-9))
        bounds.append(float(values[rank - 1]) if rank <= len(values) else otherwise)
    return min(bounds), max(bounds)


def calibration_metrics(val_y: np.ndarray, val_p: np.ndarray, test_y: np.ndarray, test_p: np.ndarray) -> dict[str, Any]:
    """Fit a temperature on validation images and score the test images' probabilities with it.

    Returns temperature, and brier, ece and loss of the test images after scaling. All are None if the temperature is
    undetermined: no validation image is wrong, or a class is missing.
    """
    called = np.asarray(val_p) >= 0.5
    if (called == np.asarray(val_y)).all() or len(np.unique(val_y)) < 2:
        return dict.fromkeys(("temperature", "brier", "ece", "loss"))
    t = fit_temperature(val_y, val_p)
    after = score_predictions(test_y, apply_temperature(test_p, t))
    return {"temperature": round(t, 4)} | {name: after[name] for name in ("brier", "ece", "loss")}


def threshold_metrics(
    val_y: np.ndarray, val_p: np.ndarray, test_y: np.ndarray, test_p: np.ndarray, recall: float = 0.999
) -> dict[str, Any]:
    """Choose a threshold and a review band on validation images, and score them on test images.

    Returns recall_wanted; threshold; fn, fp, recall and false_alarms (share of the images without a crack) at it on the
    test images; precision at the prevalence of the test images, 1 in 10, 1 in 100 and 1 in 1,000; and band: alpha
    (0.001, or 0.01 where validation holds fewer than 999 of a class), low, high, share of the test images in it, errors
    and error_rate inside and outside. All None where validation or test images lack a class.
    """
    test_y, test_p = np.asarray(test_y, int), np.asarray(test_p, np.float64)
    if len(np.unique(val_y)) < 2 or len(np.unique(test_y)) < 2:
        parts = (f"{value}_{part}" for part in ("inside", "outside") for value in ("errors", "error_rate"))
        band = dict.fromkeys(("alpha", "low", "high", "share", *parts))
        precision = dict.fromkeys(("test", "0.1", "0.01", "0.001"))
        none = dict.fromkeys(("threshold", "fn", "fp", "recall", "false_alarms"))
        return {"recall_wanted": recall} | none | {"precision_at_prevalence": precision, "band": band}
    threshold = threshold_for_recall(val_y, val_p, recall)
    found = score_predictions(test_y, test_p, threshold)
    alarms = found["fp"] / (found["fp"] + found["tn"])
    alpha = 0.001 if np.bincount(np.asarray(val_y, int)).min() >= 999 else 0.01
    low, high = review_band(val_y, val_p, alpha)
    inside = (test_p >= low) & (test_p <= high)
    wrong = (test_p >= 0.5) != test_y
    band = {"alpha": alpha, "low": low, "high": high, "share": round(float(inside.mean()), 6)}
    for name, part in (("inside", inside), ("outside", ~inside)):
        # outside the band, the side decides, not the threshold 0.5
        bad = wrong if name == "inside" else (test_p > high) != test_y
        band[f"errors_{name}"] = int(bad[part].sum())
        band[f"error_rate_{name}"] = fraction(int(bad[part].sum()), int(part.sum()))
    rare = {name: precision_at_prevalence(float(name), found["recall"], alarms) for name in ("0.1", "0.01", "0.001")}
    rare = {name: None if value is None else round(value, 6) for name, value in rare.items()}
    precision = {"test": found["precision"]} | rare
    scores = {name: found[name] for name in ("fn", "fp", "recall")} | {"false_alarms": round(alarms, 6)}
    chosen = {"recall_wanted": recall, "threshold": threshold}
    return chosen | scores | {"precision_at_prevalence": precision, "band": band}


def precision_at_prevalence(prevalence: float, recall: float, false_alarms: float) -> float | None:
    """Return the precision where a share `prevalence` of all images is cracked, all fractions; None without alarms."""
    called = prevalence * recall + (1 - prevalence) * false_alarms
    return prevalence * recall / called if called else None


def decision_metrics(table: pd.DataFrame, ds: Dataset, manifest: pd.DataFrame) -> dict[str, Any]:
    """Return calibration, decision, intervals and slices of the predictions of a run (`read_predictions`).

    These are calibration (`calibration_metrics`), decision (`threshold_metrics`), intervals of the test error rate
    (Wilson, and bootstrap over groups) and slices of the test images, the lowest accuracy first.
    """
    test = table[table["split"] == "test"]
    wrong = ((test["p_crack"] >= 0.5) != test["label"]).to_numpy()
    group = test[["file"]].merge(manifest[["file", "group"]], how="left", on="file")["group"].to_numpy()
    intervals = {"error_rate": round(float(wrong.mean()), 6)}
    intervals["wilson"] = [round(v, 6) for v in wilson(int(wrong.sum()), len(wrong))]
    if group.min() >= 0:  # a random split has no groups
        intervals["groups"] = [round(v, 6) for v in group_interval(wrong, group)]
    return chosen_metrics(table) | {"intervals": intervals, "slices": score_slices(ds, test)}


def chosen_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Return calibration and decision: chosen on the val rows of predictions, measured on the test rows."""
    val, test = (table[table["split"] == part] for part in ("val", "test"))
    pair = [column.to_numpy() for part in (val, test) for column in (part["label"], part["p_crack"])]
    return {"calibration": calibration_metrics(*pair), "decision": threshold_metrics(*pair)}
