"""Fit the last layer of a trained network to one site, with the labels of its user, and say what that is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from crackutils import config
from crackutils.detector.head import fit_head
from crackutils.files import progress

_LEVEL = 0.95
SCORES = ("auroc", "average_precision")
_CURVE = ["n", "draws", *(f"{score}{part}" for score in SCORES for part in ("", "_gain", "_gain_low", "_gain_high"))]


def learning_curve(
    x: np.ndarray,
    labels: np.ndarray,
    photos: np.ndarray,
    ns: Sequence[int] = (20, 50, 100, 500),
    draws: int = 20,
    seed: int = config.DEFAULT_SEED,
) -> pd.DataFrame:
    """Say what an adapted head would be worth on other photos of the site, by how many tiles were labelled.

    Each draw divides the photos into two halves. Of one, n tiles are drawn, stratified by label, and a head is fitted
    to them (`fit_head`); the other half tests it, and the unadapted network too. An interval holds the middle 95 % of
    the draws' differences from the unadapted network. The draws share photos, so it is approximate: it tells how much
    depends on which photos and tiles one happens to label, and it is too narrow for what a further site would bring.

    Args:
        x: (tiles, 1 + features), as in `fit_head`.
        labels: int (tiles,), 0 or 1.
        photos: (tiles,), what must not be on both sides.
        ns: numbers of labelled tiles; those that do not fit into half of the photos in every draw are left out.
        draws: how often.
        seed: of the draws.

    Returns:
        A row per n, n = 0 (unadapted) first: n, draws; auroc and average_precision, means over the draws; and of both
        _gain, the mean difference from unadapted, with _gain_low and _gain_high.

    Raises:
        CrackutilsError: fewer than four photos, or none can be halved with both classes on both sides; or no n fits.
    """
    x, labels = np.asarray(x), np.asarray(labels, int)
    photos = np.unique(photos, return_inverse=True)[1]
    for label, name in enumerate(config.CLASSES):
        if (count := len(np.unique(photos[labels == label]))) < 2:
            raise config.CrackutilsError(
                f"There is no learning curve: {name} tiles come from {count} photo{'s' * (count != 1)}, and both halves"
                " of the photos need some; label tiles of further photos."
            )
    if photos.max() < 3:
        raise config.CrackutilsError(
            f"There is no learning curve: the tiles come from {photos.max() + 1} photos, and half of them must be two,"
            " or nothing could choose the penalty; label tiles of at least 4 photos."
        )
    halves = [_halves(labels, photos, np.random.default_rng([seed, draw])) for draw in range(draws)]
    room = min(len(order) for order, _ in halves)
    fitting = [n for n in sorted(set(ns)) if n <= room]
    if not fitting:
        raise config.CrackutilsError(
            f"There is no learning curve: half of the photos hold as few as {room} labelled tiles, and it begins at"
            f" {min(ns)}; label more."
        )
    found = np.zeros((draws, 1 + len(fitting), len(SCORES)))
    steps = progress(range(draws), "learning curve", unit="draw")
    for draw in steps:
        order, test = halves[draw]
        found[draw, 0] = _scores(labels[test], x[test, 0])
        for k, n in enumerate(fitting, 1):
            rows = _stratified(order, labels, n)
            weights, bias, _ = fit_head(x[rows], labels[rows], photos[rows], seed)
            found[draw, k] = _scores(labels[test], x[test] @ weights + bias)
    gains = found - found[:, :1]
    low, high = np.quantile(gains, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    rows = []
    for k, n in enumerate([0, *fitting]):
        row = {"n": n, "draws": draws}
        for s, score in enumerate(SCORES):
            parts = (found[:, k, s].mean(), gains[:, k, s].mean(), low[k, s], high[k, s])
            row |= dict(zip((score, f"{score}_gain", f"{score}_gain_low", f"{score}_gain_high"), parts, strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=_CURVE)


def try_learning_curve(
    x: np.ndarray, labels: np.ndarray, photos: np.ndarray, draws: int = 20, seed: int = config.DEFAULT_SEED
) -> tuple[pd.DataFrame, str]:
    """Return `learning_curve` and an empty text; or one without rows, and why there is none."""
    try:
        return learning_curve(x, labels, photos, draws=draws, seed=seed), ""
    except config.CrackutilsError as error:
        return pd.DataFrame(columns=_CURVE), str(error)


def _halves(labels: np.ndarray, photos: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one half of the photos, in random order, and those of the other; both hold both classes."""
    while True:  # two photos of each class are enough for a half to be found before long
        order = rng.permutation(photos.max() + 1)
        half = np.isin(photos, order[: (len(order) + rng.integers(2)) // 2])
        if all(len(np.unique(labels[side])) == 2 for side in (half, ~half)):
            return rng.permutation(np.flatnonzero(half)), np.flatnonzero(~half)


def _stratified(order: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """Return the first n rows of an order whose shares of classes are those of all; a few are among more."""
    cracks, others = (order[labels[order] == label] for label in (1, 0))
    count = int(np.clip(round(n * len(cracks) / len(order)), max(1, n - len(others)), min(n - 1, len(cracks))))
    return np.concatenate([cracks[:count], others[: n - count]])


def _scores(labels: np.ndarray, z: np.ndarray) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    return roc_auc_score(labels, z), average_precision_score(labels, z)


def describe_gain(curve: pd.DataFrame) -> str:
    """Say in a sentence from how many labels on a learning curve's interval of the AUROC's gain lies above 0."""
    before, rows = curve.iloc[0], curve.iloc[1:]
    never = np.flatnonzero(rows["auroc_gain_low"] <= 0)
    after = rows.iloc[never[-1] + 1 :] if len(never) else rows  # from here on all of them
    if not len(after):
        return (
            f"On these tiles labelling was not worth it: with {rows['n'].iloc[-1]:.0f} labels the AUROC differs from"
            f" the unadapted {before['auroc']:.3f} by {_gain(rows.iloc[-1])}, which is not surely above 0;"
            " prefer the unadapted model."
        )
    row = after.iloc[0]
    return (
        f"On these tiles labelling was worth it from {row['n']:.0f} labels on{', the fewest tried' * (not len(never))}:"
        f" AUROC {row['auroc']:.3f} against {before['auroc']:.3f} unadapted, a gain of {_gain(row)}."
    )


def _gain(row: pd.Series) -> str:
    low, high = row["auroc_gain_low"], row["auroc_gain_high"]
    return f"{row['auroc_gain']:+.3f} (95 % of the draws {low:+.3f} to {high:+.3f})"
