"""Metrics, intervals and tests, all from labels and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

EPS = 1e-7  # probabilities are kept this far from 0 and 1 in the loss, as Keras does


def score_predictions(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score predictions; Positive (crack) is the class that precision and recall speak of.

    Args:
        labels: int (n,), 0 or 1.
        p_crack: (n,), probabilities in [0, 1].
        threshold: a crack is called at or above it.

    Returns:
        n, tn, fp, fn, tp, errors; accuracy, precision, recall, f1, auroc, average_precision as fractions in [0, 1]
        (None where a class is missing and they are undefined); loss, the mean cross-entropy in nats; brier, the mean
        squared error of the probabilities (Brier 1950); ece, the mean distance between probabilities and shares of
        cracks in the bins of `reliability`, weighted by their images (Naeini, Cooper, Hauskrecht 2015).
    """
    from sklearn.metrics import confusion_matrix

    labels, p = np.asarray(labels, int), np.asarray(p_crack, np.float64)
    tn, fp, fn, tp = (int(v) for v in confusion_matrix(labels, p >= threshold, labels=[0, 1]).ravel())
    return {
        "n": len(labels),
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
        "errors": fp + fn,
        "accuracy": fraction(tn + tp, len(labels)),
        "precision": fraction(tp, tp + fp),
        "recall": fraction(tp, tp + fn),
        "f1": fraction(2 * tp, 2 * tp + fp + fn),
        **ranking_metrics(labels, p),
        "loss": round(log_loss(labels, p), 6),
        "brier": round(float(np.square(p - labels).mean()), 6),
        "ece": round(_ece(reliability_table(labels, p)), 6),
    }


def ranking_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Return auroc and average_precision, fractions in [0, 1], None where a class is missing.

    Args:
        labels: int (n,), 0 or 1.
        scores: (n,), the higher the more like a crack; of any scale.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels = np.asarray(labels, int)
    if not 0 < labels.sum() < len(labels):
        return {"auroc": None, "average_precision": None}
    found = {"auroc": roc_auc_score(labels, scores), "average_precision": average_precision_score(labels, scores)}
    return {name: round(float(value), 6) for name, value in found.items()}


def reliability_table(labels: np.ndarray, p_crack: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """Set probabilities against shares of cracks, in bins of equal width (DeGroot, Fienberg 1983).

    Args:
        labels: int (n,), 0 or 1.
        p_crack: (n,), probabilities in [0, 1].
        bins: how many; those without images are left out.

    Returns:
        A row per bin: low and high, its bounds; n; p, the mean probability; share of cracks; share_low and share_high,
        its Wilson interval.
    """
    labels, p = np.asarray(labels, int), np.asarray(p_crack, np.float64)
    at = np.minimum((p * bins).astype(int), bins - 1)  # the last bin holds 1
    rows = []
    for k in np.unique(at):
        n, cracks = int((at == k).sum()), int(labels[at == k].sum())
        low, high = wilson(cracks, n)
        row = {"low": k / bins, "high": (k + 1) / bins, "n": n, "p": p[at == k].mean(), "share": cracks / n}
        rows.append(row | {"share_low": low, "share_high": high})
    return pd.DataFrame(rows)


def log_loss(labels: np.ndarray, p: np.ndarray) -> float:
    return float(-np.log(np.clip(np.where(labels == 1, p, 1 - p), EPS, 1 - EPS)).mean())


def _ece(table: pd.DataFrame) -> float:
    return float(np.average((table["p"] - table["share"]).abs(), weights=table["n"]))


def group_interval(
    values: np.ndarray, groups: np.ndarray, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of a mean whose values are alike within groups, by drawing whole groups with replacement.

    Percentile bootstrap of clusters (Davison, Hinkley 1997, section 3.8). With a handful of groups it is too narrow.

    Args:
        values: (n,), for example 1 for an error and 0 for none.
        groups: (n,), what is drawn together, for example photos.
        level: of the interval.
        draws: how often.
        seed: of the draws.
    """
    _, at = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(at, np.asarray(values, np.float64)), np.bincount(at)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), draws)
    low, high = np.quantile((drawn @ sums) / (drawn @ counts), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values corrected for that there are several, in their order (Holm 1979)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    return corrected


def fraction(part: int, whole: int) -> float | None:
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


def classification_table(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """Return the classification report: precision, recall, f1 and support per class, as fractions."""
    from sklearn.metrics import classification_report

    from crackutils import config

    called = (np.asarray(p_crack) >= threshold).astype(int)
    table = classification_report(
        labels, called, labels=[0, 1], target_names=config.CLASSES, output_dict=True, zero_division=0
    )
    frame = pd.DataFrame({name: table[name] for name in config.CLASSES}).T.rename(columns={"f1-score": "f1"})
    return frame.astype({"support": int})
