"""Scores of rankings on a target: AUROC with intervals over photos, gains, and AUROC by kind of crack."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_curve

from crackutils.config import CrackutilsError
from crackutils.datasets import Dataset
from crackutils.metrics import ranking_metrics, score_predictions
from crackutils.published import PUBLISHED
from crackutils.recipes import RECIPES
from crackutils.slices import measure_images
from crackutils.transfer.targets import photo_of_image


def select_models(runs: list[dict[str, Any]], seed: int, weights: str) -> dict[str, dict[str, Any]]:
    """Return the runs to test on a target, by recipe: ours, and the best published one by validation loss.

    Only runs with this seed, these weights if they have a backbone, and otherwise default settings count, all of one
    split. Raises CrackutilsError if there is none.
    """
    unusual = ("--epochs", "--engine", "--precision", "--labels")
    own = [run for run in runs if "recipe" in run["settings"]]  # entered models have only predictions
    usual = [run["settings"] | {"of": run} for run in own if not any(setting in run["run"] for setting in unusual)]
    usual = (s for s in usual if s["weights"] == weights or not s["recipe"]["backbone"])
    found = {s["recipe"]["name"]: s["of"] for s in usual if s["seed"] == seed}
    if not found:
        asked = f"SEED={seed} WEIGHTS={weights}"
        raise CrackutilsError(f"No finished run has {asked} and otherwise default settings. Run notebooks 03 and 04.")
    published = [name for name in found if name in PUBLISHED]
    best = min(published, key=lambda name: (found[name]["val"]["loss"], name), default="")
    return {name: found[name] for name in RECIPES if name in found and (name not in PUBLISHED or name == best)}


def evaluate_on_target(runs: dict[str, Any], p_crack: dict[str, np.ndarray], target: Dataset) -> list[dict[str, Any]]:
    """Return a row per run: run, home_errors (error rate in-domain), `score_ranking`, and f1 (threshold 0.5).

    `p_crack` holds the probabilities of all images of the target by run.
    """
    labels, photo = target.index["label"].to_numpy(), photo_of_image(target)
    rows = []
    for name, p in p_crack.items():
        row = {"run": name, "home_errors": runs[name]["test"]["errors"] / runs[name]["test"]["n"]}
        rows.append(row | score_ranking(labels, p, photo) | {"f1": score_predictions(labels, p)["f1"]})
    return rows


def find_extremes(labels: np.ndarray, scores: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Return the most confident hits and errors of a ranking: by kind, at most `most` positions, best first.

    find: cracks with the highest scores; missed: cracks with the lowest; false alarm: highest scores without a crack.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    cracked, free = (order[np.asarray(labels)[order] == label] for label in (1, 0))
    return {"find": cracked[:most], "missed": cracked[::-1][:most], "false alarm": free[:most]}


def score_ranking(labels: np.ndarray, scores: np.ndarray, photo: np.ndarray) -> dict[str, Any]:
    """Score a ranking of images: labels 0 or 1, scores of any scale (high for cracks), and photos, each (n,).

    Returns n, cracked; auroc over all images; low and high, its 95 % interval by a bootstrap over photos;
    average_precision; auroc_by_photo, the mean over the photos with both classes. Values are None if they are
    undefined: for a single class, and low and high for a single photo.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    each = [ranking_metrics(labels[photo == p], scores[photo == p])["auroc"] for p in np.unique(photo)]
    each = [value for value in each if value is not None]
    low, high = _interval(bootstrap_auroc(labels, scores, photo))
    ranked, by_photo = ranking_metrics(labels, scores), round(float(np.mean(each)), 6) if each else None
    found = {"n": len(labels), "cracked": int(labels.sum()), "auroc": ranked["auroc"], "low": low, "high": high}
    return found | ranked | {"auroc_by_photo": by_photo}


def auroc_gain(labels: np.ndarray, scores: np.ndarray, before: np.ndarray, photo: np.ndarray) -> dict[str, Any]:
    """Return the difference in AUROC between two rankings: gain; gain_low and gain_high, its 95 % interval.

    Both are scored on the same bootstrap draws of photos. Arguments and None as for `score_ranking`.
    """
    new, old = (ranking_metrics(labels, s)["auroc"] for s in (scores, before))
    low, high = _interval(bootstrap_auroc(labels, scores, photo) - bootstrap_auroc(labels, before, photo))
    return {"gain": None if new is None else round(new - old, 6), "gain_low": low, "gain_high": high}


def _interval(drawn: np.ndarray) -> list[float | None]:
    return [round(float(v), 6) for v in np.quantile(drawn, (0.025, 0.975))] if len(drawn) else [None, None]


def bootstrap_auroc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, draws: int = 1000) -> np.ndarray:
    """Return AUROCs of draws of whole groups with replacement, float64 (<= draws,): those that hold both classes.

    A single group gives none. By hand, because scikit-learn takes five times as long.
    """
    rng, rows = np.random.default_rng(0), [np.flatnonzero(groups == g) for g in np.unique(groups)]
    ranks, found = rankdata(scores, "dense"), []  # small whole numbers rank faster than floats
    for _ in range(draws if len(rows) > 1 else 0):
        some = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        cracked = labels[some] == 1
        n1, n0 = int(cracked.sum()), int((~cracked).sum())
        if n1 and n0:  # the Mann-Whitney statistic is the AUROC (Hanley, McNeil 1982)
            found.append((rankdata(ranks[some])[cracked].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    return np.array(found)


def auroc_text(row: dict[str, Any]) -> str:
    """Return the AUROC of a row of `score_ranking` as text, with its interval if there is one."""
    if row["auroc"] is None:
        return "not defined"
    return f"{row['auroc']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else "")


def auroc_by_measure(ds: Dataset, rows: np.ndarray, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return AUROC by thirds of width, darkness and sharpness; `scores` holds scores (n,) by run.

    A row holds run, measure (width and darkness of the cracks; sharpness of all images), third (0 the thinnest,
    faintest, most blurred), cracked, auroc. Cracks of a third are compared with all images without a crack; for
    sharpness, with those of the same third. No rows if the images are of one class.
    """
    m, labels = measure_images(ds).iloc[rows], ds.index["label"].to_numpy()[rows]
    cracked, table = labels == 1, []
    columns = {"width": "width", "darkness": "depth", "sharpness": "sharpness"} if len(np.unique(labels)) == 2 else {}
    for measure, column in columns.items():
        value = m[column].to_numpy()
        edges = [-np.inf, *np.quantile(value if measure == "sharpness" else value[cracked], [1 / 3, 2 / 3]), np.inf]
        for third in range(3):
            inside = (value > edges[third]) & (value <= edges[third + 1])
            among = inside if measure == "sharpness" else inside & cracked | ~cracked
            for name, score in scores.items():
                auroc = ranking_metrics(labels[among], score[among])["auroc"]
                table.append([name, measure, third, int((among & cracked).sum()), auroc])
    return pd.DataFrame(table, columns=["run", "measure", "third", "cracked", "auroc"])


def minimum_errors(labels: np.ndarray, scores: np.ndarray) -> int:
    """Return the number of errors at the best threshold; arguments as for `score_ranking`."""
    if not 0 < (cracks := np.sum(labels)) < len(labels):
        return 0
    alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)  # shares, from no alarm at all on
    return round(float(np.min((1 - hits) * cracks + alarms * (len(labels) - cracks))))
