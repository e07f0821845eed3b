"""Scores and intervals, all from labels and probabilities."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, classification_report, confusion_matrix, roc_auc_score

from crackutils.config import CLASSES

EPS = 1e-7  # probabilities are kept this far from 0 and 1 in the loss, as Keras does


def score_predictions(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score probabilities in [0, 1], (n,), with labels 0 or 1, int (n,); at or above the threshold counts as crack.

    Returns n, tn, fp, fn, tp, errors; accuracy, precision, recall, f1, auroc, average_precision as fractions in [0, 1]
    (of the class Positive; None where a class is missing and they are undefined); loss, the mean cross-entropy in nats;
    brier, the mean squared error of the probabilities (Brier 1950); ece, the mean distance between probabilities and
    shares of cracks in the bins of `reliability_table`, weighted by their images (Naeini, Cooper, Hauskrecht 2015).
    """
    labels, p = np.asarray(labels, int), np.asarray(p_crack, np.float64)
    tn, fp, fn, tp = (int(v) for v in confusion_matrix(labels, p >= threshold, labels=[0, 1]).ravel())
    scores = {"n": len(labels), "tn": tn, "fp": fp, "fn": fn, "tp": tp, "errors": fp + fn}
    scores |= {"accuracy": fraction(tn + tp, len(labels)), "precision": fraction(tp, tp + fp)}
    scores |= {"recall": fraction(tp, tp + fn), "f1": fraction(2 * tp, 2 * tp + fp + fn)} | ranking_metrics(labels, p)
    off = np.abs(np.bincount(np.minimum((p * 15).astype(int), 14), p - labels)).sum()
    others = {"loss": log_loss(labels, p), "brier": np.square(p - labels).mean(), "ece": off / len(labels)}
    return scores | {name: round(float(value), 6) for name, value in others.items()}


def ranking_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Return auroc and average_precision, fractions in [0, 1], None where a class is missing.

    Labels are int (n,), 0 or 1; scores, (n,), are of any scale, the higher the more like a crack.
    """
    labels = np.asarray(labels, int)
    if not 0 < labels.sum() < len(labels):
        return {"auroc": None, "average_precision": None}
    found = {"auroc": roc_auc_score(labels, scores), "average_precision": average_precision_score(labels, scores)}
    return {name: round(float(value), 6) for name, value in found.items()}


def reliability_table(labels: np.ndarray, p_crack: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """Compare probabilities with shares of cracks, in bins of equal width (DeGroot, Fienberg 1983).

    A row per bin that holds images: low and high, its bounds; n; p, the mean probability; share of cracks; share_low
    and share_high, its Wilson interval.
    """
    labels, p = np.asarray(labels, int), np.asarray(p_crack, np.float64)
    at, rows = np.minimum((p * bins).astype(int), bins - 1), []  # the last bin holds 1
    for k in np.unique(at):
        n, cracks = int((at == k).sum()), int(labels[at == k].sum())
        row = {"low": k / bins, "high": (k + 1) / bins, "n": n, "p": p[at == k].mean(), "share": cracks / n}
        rows.append(row | dict(zip(("share_low", "share_high"), wilson(cracks, n), strict=True)))
    return pd.DataFrame(rows)


def log_loss(labels: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean cross-entropy in nats, weighted if weights, (n,), are given."""
    loss = -np.log(np.clip(np.where(labels == 1, p, 1 - p), EPS, 1 - EPS))
    return float(loss.mean() if weights is None else np.average(loss, weights=weights))


def group_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of values (n,) that are correlated within groups (n,).

    Percentile bootstrap over groups (Davison, Hinkley 1997, 3.8). Few groups, or few with errors, make it too narrow.
    """
    _, at = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(at, np.asarray(values, np.float64)), np.bincount(at)
    rng, n = np.random.default_rng(0), len(sums)
    draws = (rng.multinomial(n, np.full(n, 1 / n), 100) for _ in range(100))  # not all 10,000 in memory at once
    means = np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in draws])
    return tuple(np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2]).tolist())


def fraction(part: int, whole: int) -> float | None:
    """Return a share rounded to six digits, None if the whole is 0."""
    return round(part / whole, 6) if whole else None


def wilson(good: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927) as fractions.

    >>> [round(bound, 4) for bound in wilson(1988, 1989)]  # one error in 1,989 test images
    [0.9972, 0.9999]
    """
    return tuple(map(float, binomtest(good, n).proportion_ci(method="wilson")))


def classification_table(labels: np.ndarray, p_crack: np.ndarray) -> pd.DataFrame:
    """Return the classification report: precision, recall, f1 and support per class, as fractions."""
    called = (np.asarray(p_crack) >= 0.5).astype(int)
    options = {"labels": [0, 1], "target_names": CLASSES, "output_dict": True, "zero_division": 0}
    table = pd.DataFrame(classification_report(labels, called, **options))[list(CLASSES)]
    return table.T.rename(columns={"f1-score": "f1"}).astype({"support": int})
