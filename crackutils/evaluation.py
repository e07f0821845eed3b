"""Metrics, intervals and tests, all from labels and probabilities."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd

from crackutils.config import CrackutilsError

EPS = 1e-7  # probabilities are kept this far from 0 and 1 in the loss, as Keras does


def metrics(labels: np.ndarray, p_crack: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
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
        "accuracy": _share(tn + tp, len(labels)),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        **ranked(labels, p),
        "loss": round(_loss(labels, p), 6),
        "brier": round(float(np.square(p - labels).mean()), 6),
        "ece": round(_ece(reliability(labels, p)), 6),
    }


def ranked(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
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


def drawn_auroc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, draws: int = 1000) -> np.ndarray:
    """Return AUROCs of draws of whole groups with replacement, float64 (<= draws,): those that hold both classes.

    Args:
        labels: int (n,), 0 or 1.
        scores: (n,), the higher the more like a crack.
        groups: (n,), what is drawn as a whole.
        draws: how often.
    """
    from scipy.stats import rankdata

    rng, rows = np.random.default_rng(0), [np.flatnonzero(groups == g) for g in np.unique(groups)]
    ranks, found = rankdata(scores, "dense"), []  # small whole numbers rank faster than floats
    for _ in range(draws):
        some = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        cracked = labels[some] == 1
        n1, n0 = int(cracked.sum()), int((~cracked).sum())
        if n1 and n0:  # the Mann-Whitney statistic is the AUROC (Hanley, McNeil 1982)
            found.append((rankdata(ranks[some])[cracked].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    return np.array(found)


def top_count(share: float, count: int) -> int:
    """Return how many of the `count` cells of an image decide."""
    return max(2, round(share * count))


def top_mean(maps: np.ndarray, share: float) -> np.ndarray:
    """Return what a network of cells makes of its maps (n, h, w): the mean of the most crack-like cells, (n,)."""
    flat = np.sort(maps.reshape(len(maps), -1), 1)
    return flat[:, -top_count(share, flat.shape[1]) :].mean(1)


def fewest_errors(labels: np.ndarray, scores: np.ndarray) -> int:
    """Return the wrong images at the threshold that is best for these very images; arguments as for `ranked`."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    labels = np.asarray(labels, int)[order]
    called = np.append(np.diff(np.asarray(scores)[order]) != 0, True)  # a threshold lies between unequal scores only
    missed, alarms = labels.sum() - np.cumsum(labels), np.cumsum(1 - labels)
    return int(min(labels.sum(), (missed + alarms)[called].min()))


def reliability(labels: np.ndarray, p_crack: np.ndarray, bins: int = 15) -> pd.DataFrame:
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


def _loss(labels: np.ndarray, p: np.ndarray) -> float:
    return float(-np.log(np.clip(np.where(labels == 1, p, 1 - p), EPS, 1 - EPS)).mean())


def _ece(table: pd.DataFrame) -> float:
    return float(np.average((table["p"] - table["share"]).abs(), weights=table["n"]))


def temperature(labels: np.ndarray, p_crack: np.ndarray) -> float:
    """Return the temperature that makes the loss of `tempered` probabilities lowest (Guo et al. 2017).

    To be fitted on validation images. Above 1 the model was too sure, below 1 not sure enough; it is searched between
    0.05 and 20.
    """
    from scipy.optimize import minimize_scalar

    labels = np.asarray(labels, int)

    def loss(log_t: float) -> float:
        return _loss(labels, tempered(p_crack, float(np.exp(log_t))))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def tempered(p_crack: np.ndarray, t: float) -> np.ndarray:
    """Return probabilities with their log-odds divided by a temperature; their order stays."""
    from scipy.special import expit, logit

    return expit(logit(np.clip(np.asarray(p_crack, np.float64), EPS, 1 - EPS)) / t)


def threshold_for(labels: np.ndarray, p_crack: np.ndarray, recall: float = 0.999) -> float:
    """Return the highest threshold at which at least this share of the cracks is called one.

    To be chosen on validation images. With fewer than 1 / (1 - recall) cracks none may be missed.
    """
    cracks = np.sort(np.asarray(p_crack)[np.asarray(labels) == 1])
    if not len(cracks):
        raise CrackutilsError("A threshold for a recall needs images with cracks; there are none.")
    return float(cracks[int((1 - recall) * len(cracks) + 1e-9)])


def look_band(labels: np.ndarray, p_crack: np.ndarray, alpha: float) -> tuple[float, float]:
    """Return the probabilities from which and up to which a person should look, by split conformal prediction.

    Of new images like these, of either class, at most the share `alpha` is on the wrong side of the band (Vovk,
    Gammerman, Shafer 2005, conditional on the class). To be fitted on validation images; with fewer than 1 / alpha - 1
    of a class the band holds all probabilities.

    Returns:
        low and high: below low no crack, above high a crack, from low to high a person looks.
    """
    labels, p = np.asarray(labels), np.asarray(p_crack, np.float64)
    none, cracks = np.sort(p[labels == 0]), np.sort(p[labels == 1])[::-1]
    bounds = []
    for values, otherwise in ((none, 1.0), (cracks, 0.0)):
        rank = int(np.ceil((len(values) + 1) * (1 - alpha) - 1e-9))
        bounds.append(float(values[rank - 1]) if rank <= len(values) else otherwise)
    return min(bounds), max(bounds)


def calibration(val_y: np.ndarray, val_p: np.ndarray, test_y: np.ndarray, test_p: np.ndarray) -> dict[str, Any]:
    """Fit a temperature on validation images and say what it does to the test images' probabilities.

    Returns:
        temperature, and brier, ece and loss of the test images after it; all None where validation images without a
        single error do not determine it: the lower, the better would their loss be.
    """
    called = np.asarray(val_p) >= 0.5
    if (called == np.asarray(val_y)).all() or len(np.unique(val_y)) < 2:
        return dict.fromkeys(("temperature", "brier", "ece", "loss"))
    t = temperature(val_y, val_p)
    after = metrics(test_y, tempered(test_p, t))
    return {"temperature": round(t, 4)} | {name: after[name] for name in ("brier", "ece", "loss")}


_BAND = ("errors_inside", "error_rate_inside", "errors_outside", "error_rate_outside")


def decision(
    val_y: np.ndarray, val_p: np.ndarray, test_y: np.ndarray, test_p: np.ndarray, recall: float = 0.999
) -> dict[str, Any]:
    """Choose on validation images where to decide, and say what comes of it on the test images.

    Returns:
        recall_wanted; threshold; fn, fp, recall and false_alarms (share of the images without a crack) at it on the
        test images; precision at the prevalence of the test images, 1 in 10, 1 in 100 and 1 in 1,000; and band: alpha
        (0.001, or 0.01 where validation holds fewer than 999 of a class), low, high, share of the test images in it,
        errors and error_rate inside, errors and error_rate outside. All None where validation or test images lack a
        class.
    """
    test_y, test_p = np.asarray(test_y, int), np.asarray(test_p, np.float64)
    if len(np.unique(val_y)) < 2 or len(np.unique(test_y)) < 2:
        band = dict.fromkeys(("alpha", "low", "high", "share", *_BAND))
        precision = dict.fromkeys(("test", "0.1", "0.01", "0.001"))
        none = dict.fromkeys(("threshold", "fn", "fp", "recall", "false_alarms"))
        return {"recall_wanted": recall} | none | {"precision_at_prevalence": precision, "band": band}
    threshold = threshold_for(val_y, val_p, recall)
    found = metrics(test_y, test_p, threshold)
    alarms = found["fp"] / (found["fp"] + found["tn"])
    alpha = 0.001 if np.bincount(np.asarray(val_y, int)).min() >= 999 else 0.01
    low, high = look_band(val_y, val_p, alpha)
    inside = (test_p >= low) & (test_p <= high)
    wrong = (test_p >= 0.5) != test_y
    band = {"alpha": alpha, "low": low, "high": high, "share": round(float(inside.mean()), 6)}
    for name, part in (("inside", inside), ("outside", ~inside)):
        # outside the band its side decides, not 0.5
        bad = wrong if name == "inside" else (test_p > high) != test_y
        band[f"errors_{name}"] = int(bad[part].sum())
        band[f"error_rate_{name}"] = _share(int(bad[part].sum()), int(part.sum()))
    precision = {"test": found["precision"]}
    for name, prevalence in (("0.1", 0.1), ("0.01", 0.01), ("0.001", 0.001)):
        value = precision_at(prevalence, found["recall"], alarms)
        precision[name] = None if value is None else round(value, 6)
    return {
        "recall_wanted": recall,
        "threshold": threshold,
        **{name: found[name] for name in ("fn", "fp", "recall")},
        "false_alarms": round(alarms, 6),
        "precision_at_prevalence": precision,
        "band": band,
    }


def precision_at(prevalence: float, recall: float, false_alarms: float) -> float | None:
    """Return what the precision is where a share `prevalence` of all images is cracked; None where nothing is called.

    Args:
        prevalence: share of cracked images.
        recall: share of these that are called a crack.
        false_alarms: share of the others that are.
    """
    called = prevalence * recall + (1 - prevalence) * false_alarms
    return prevalence * recall / called if called else None


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


def mass_on_mask(heat: np.ndarray, mask: np.ndarray) -> float | None:
    """Return the share of a heat map's mass that lies on a mask; None for a map that is 0 everywhere.

    Args:
        heat: (h, w), not below 0; enlarged to the mask's size.
        mask: bool (height, width). By chance the share would be the mask's own share of the image, `mask.mean()`.
    """
    large = cv2.resize(np.asarray(heat, np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return float(large[mask].sum() / large.sum()) if large.sum() > 0 else None


def darkness(image: np.ndarray) -> float:
    """Return how far the darkest 2 % of an image lie below its median, in grey levels (0-255).

    A simple measure of how clearly a dark crack stands out: what an augmentation does to it, it does to the crack.
    """
    grey = np.asarray(image, np.float64).mean(-1)
    return float(np.median(grey) - np.quantile(grey, 0.02))
