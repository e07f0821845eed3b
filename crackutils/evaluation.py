"""Metrics, intervals and tests, all from labels and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

EPS = 1e-7  # probabilities are kept this far from 0 and 1 in the loss, as Keras does


def metrics(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score predictions; Positive (crack) is the class that precision and recall speak of.

    Args:
        labels: int (n,), 0 or 1.
        p_crack: (n,), probabilities in [0, 1].
        threshold: a crack is called at or above it.

    Returns:
        n, tn, fp, fn, tp, errors; accuracy, precision, recall, f1, auroc, average_precision as fractions in [0, 1]
        (None where a class is missing and they are undefined); loss, the mean cross-entropy in nats.
    """
    from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

    labels, p = np.asarray(labels, int), np.asarray(p_crack, np.float64)
    tn, fp, fn, tp = (int(v) for v in confusion_matrix(labels, p >= threshold, labels=[0, 1]).ravel())
    both = 0 < labels.sum() < len(labels)
    q = np.clip(np.where(labels == 1, p, 1 - p), EPS, 1 - EPS)
    return {
        "n": len(labels),
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
        "errors": fp + fn,
        "accuracy": _share(tn + tp, len(labels)),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "auroc": round(float(roc_auc_score(labels, p)), 6) if both else None,
        "average_precision": round(float(average_precision_score(labels, p)), 6) if both else None,
        "loss": round(float(-np.log(q).mean()), 6),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def wilson(good: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927) as fractions."""
    from scipy.stats import binomtest

    interval = binomtest(good, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(labels: np.ndarray, p_a: np.ndarray, p_b: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Compare two models on the same images with the exact McNemar test (McNemar 1947).

    Returns:
        only_a_wrong, only_b_wrong, both_wrong, and p_value of "both err equally often".
    """
    from scipy.stats import binomtest

    labels = np.asarray(labels)
    wrong_a = (np.asarray(p_a) >= threshold) != labels
    wrong_b = (np.asarray(p_b) >= threshold) != labels
    a, b = int((wrong_a & ~wrong_b).sum()), int((wrong_b & ~wrong_a).sum())
    p = binomtest(a, a + b).pvalue if a + b else 1.0
    return {
        "only_a_wrong": a,
        "only_b_wrong": b,
        "both_wrong": int((wrong_a & wrong_b).sum()),
        "p_value": float(f"{p:.3g}"),
    }


def report(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """Return the classification report: precision, recall, f1 and support per class, as fractions."""
    from sklearn.metrics import classification_report

    from crackutils.config import CLASSES

    called = (np.asarray(p_crack) >= threshold).astype(int)
    table = classification_report(
        labels, called, labels=[0, 1], target_names=CLASSES, output_dict=True, zero_division=0
    )
    frame = pd.DataFrame({name: table[name] for name in CLASSES}).T.rename(columns={"f1-score": "f1"})
    return frame.astype({"support": int})


def darkness(image: np.ndarray) -> float:
    """Return how far the darkest 2 % of an image lie below its median, in grey levels (0-255).

    A simple measure of how clearly a dark crack stands out: what an augmentation does to it, it does to the crack.
    """
    grey = np.asarray(image, np.float64).mean(-1)
    return float(np.median(grey) - np.quantile(grey, 0.02))
