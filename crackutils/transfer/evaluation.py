"""What a model is worth on other people's concrete, what helps it there, and what breaks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets
from crackutils.metrics import ranking_metrics, score_predictions
from crackutils.published import PUBLISHED
from crackutils.recipes import RECIPES
from crackutils.slices import measure_images
from crackutils.transfer.targets import photo_of_image


def select_models(runs: list[dict[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    """Return the runs that are tested elsewhere, by recipe: ours, and the best published one by validation loss.

    Args:
        runs: of one split, as `results.comparable` returns them.
        seed: of their training.

    Raises:
        CrackutilsError: none has this seed and otherwise usual settings.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = run["settings"]
        unusual = [k for k in ("--epochs", "--weights", "--engine", "--precision", "--labels") if k in run["run"]]
        if settings["seed"] == seed and not unusual:
            found[settings["recipe"]["name"]] = run
    if not found:
        raise config.CrackutilsError(
            f"No finished run has SEED={seed} and otherwise usual settings; run notebooks 03 and 04."
        )
    published = [name for name in found if name in PUBLISHED]
    best = min(published, key=lambda name: (found[name]["val"]["loss"], name), default="")
    return {name: found[name] for name in RECIPES if name in found and (name not in PUBLISHED or name == best)}


def evaluate_on_target(
    runs: dict[str, dict[str, Any]], guesses: dict[str, np.ndarray], target: datasets.Dataset
) -> list[dict[str, Any]]:
    """Return a row per run of `compared`: run, home_errors (share of its own test images), `judge`'s values, and f1.

    `guesses` are by run the probabilities of all images of the target; f1 is at the threshold 0.5.
    """
    labels, photo = target.index["label"].to_numpy(), photo_of_image(target)
    rows = []
    for name, p in guesses.items():
        home = runs[name]["test"]
        row = {"run": name, "home_errors": home["errors"] / home["n"]} | score_ranking(labels, p, photo)
        rows.append(row | {"f1": score_predictions(labels, p)["f1"]})
    return rows


def find_extremes(labels: np.ndarray, scores: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Return where a ranking is most right and most wrong: by kind, at most so many places in it, the clearest first.

    find: cracks with the highest scores; missed: cracks with the lowest; false alarm: highest scores without a crack.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    cracked = order[np.asarray(labels)[order] == 1]
    free = order[np.asarray(labels)[order] == 0]
    return {"find": cracked[:most], "missed": cracked[::-1][:most], "false alarm": free[:most]}


def score_ranking(labels: np.ndarray, scores: np.ndarray, photo: np.ndarray) -> dict[str, Any]:
    """Score a ranking.

    Args:
        labels: int (n,), 0 or 1.
        scores: (n,), the higher the more like a crack; of any scale.
        photo: int (n,), which photo each image is from.

    Returns:
        n, cracked; auroc and average_precision over all images; auroc_by_photo, the mean over the photos that hold
        both classes; low and high, the 95 % interval of auroc from drawing whole photos with replacement.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    found = {name: ranking_metrics(labels, scores)[name] for name in ("auroc", "average_precision")}
    each = [ranking_metrics(labels[photo == p], scores[photo == p])["auroc"] for p in np.unique(photo)]
    each = [value for value in each if value is not None]
    found["auroc_by_photo"] = round(float(np.mean(each)), 6) if each else None
    several = len(np.unique(photo)) > 1  # one photo tells nothing of the next
    drawn = bootstrap_auroc(labels, scores, photo) if several else ()
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (None, None)
    found |= {"low": None if low is None else round(low, 6), "high": None if high is None else round(high, 6)}
    return {"n": len(labels), "cracked": int(labels.sum())} | found


def auroc_gain(
    labels: np.ndarray, scores: np.ndarray, before: np.ndarray, photo: np.ndarray
) -> dict[str, float | None]:
    """Return how much more AUROC one ranking has than another: gain, and gain_low and gain_high, its 95 % interval.

    The same photos are drawn for both; arguments are those of `judge`. With a single photo there is no interval.
    """
    pair = [ranking_metrics(labels, s)["auroc"] for s in (scores, before)]
    found = {"gain": None if None in pair else round(pair[0] - pair[1], 6), "gain_low": None, "gain_high": None}
    if len(np.unique(photo)) > 1:
        drawn = [bootstrap_auroc(labels, s, photo) for s in (scores, before)]
        if len(drawn[0]):
            low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
            found |= {"gain_low": round(float(low), 6), "gain_high": round(float(high), 6)}
    return found


def auroc_text(row: dict[str, Any]) -> str:
    """Return an AUROC with its interval, as far as there is one."""
    if row["auroc"] is None:
        return "not defined"
    return f"{row['auroc']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else "")


def auroc_by_measure(ds: datasets.Dataset, rows: np.ndarray, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return how well cracks of several kinds are told from images without a crack.

    Args:
        ds: the images.
        rows: which of them.
        scores: by name, (n,) for these rows.

    Returns:
        A row per name, measure and third: run, measure (width and contrast of the cracks; sharpness of all images),
        third (0 the thinnest, faintest, most blurred), cracked, auroc.
        Cracks of a third are set against all images without a crack; for sharpness against those of the same third.
    """
    m, labels = measure_images(ds).iloc[rows], ds.index["label"].to_numpy()[rows]
    table = []
    if len(np.unique(labels)) < 2:
        return pd.DataFrame(columns=["run", "measure", "third", "cracked", "auroc"])
    for measure, column in (("width", "width"), ("contrast", "depth"), ("sharpness", "sharpness")):
        value, cracked = m[column].to_numpy(), labels == 1
        edges = np.quantile(value if measure == "sharpness" else value[cracked], [0, 1 / 3, 2 / 3, 1])
        edges[0], edges[-1] = -np.inf, np.inf
        for third in range(3):
            inside = (value > edges[third]) & (value <= edges[third + 1])
            among = inside if measure == "sharpness" else inside & cracked | ~cracked
            for name, score in scores.items():
                auroc = ranking_metrics(labels[among], score[among])["auroc"]
                row = {"run": name, "measure": measure, "third": third}
                table.append(row | {"cracked": int((among & cracked).sum()), "auroc": auroc})
    return pd.DataFrame(table)


def bootstrap_auroc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, draws: int = 1000) -> np.ndarray:
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


def minimum_errors(labels: np.ndarray, scores: np.ndarray) -> int:
    """Return the wrong images at the threshold that is best for these very images; arguments as for `ranked`."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    labels = np.asarray(labels, int)[order]
    called = np.append(np.diff(np.asarray(scores)[order]) != 0, True)  # a threshold lies between unequal scores only
    missed, alarms = labels.sum() - np.cumsum(labels), np.cumsum(1 - labels)
    return int(min(labels.sum(), (missed + alarms)[called].min()))
