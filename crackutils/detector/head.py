"""Fit the last layer of a trained network to one site, with the labels of its user, and say what that is worth."""

from __future__ import annotations

import warnings

import numpy as np
from threadpoolctl import threadpool_limits

from crackutils import config

PENALTIES = (float("inf"), 3e4, 3e3, 3e2, 3e1)  # of the features' weights, in nats; infinite: they stay zero
_LEAST = 0.05  # slope of the network's own log-odds: a handful of tiles must not turn its opinion round
_WEAK = 0.01  # penalty that keeps slope and offset finite where two numbers can tell all tiles apart
_FOLDS = 5


def fit_head(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = config.DEFAULT_SEED,
    held: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, float, float]:
    """Fit log-odds a x own + b + w . f, with a penalty that pulls to the unadapted head: a = 1, w = 0.

    a is at least 0.05, and the features are standardised. Cross-validation over whole groups chooses the penalty on w
    among `PENALTIES`, by the mean cross-entropy; equals go to the stricter. With tiles of a single group there is
    nothing to choose by, and w stays zero.

    Args:
        x: (n, 1 + features): the network's own log-odds, then the features.
        y: int (n,), 0 or 1, both present.
        groups: (n,), photos: tiles of one are never on both sides; None with `held`.
        seed: of the folds.
        held: x and y of other tiles, which choose the penalty instead of cross-validation.

    Returns:
        weights, float64 (1 + features,), and bias: the log-odds are x @ weights + bias; and the penalty chosen, where
        infinity means that the network was only calibrated anew (a and b).

    Raises:
        CrackutilsError: all tiles are of one class.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, int)
    if len(np.unique(y)) < 2:
        raise config.CrackutilsError("The labelled tiles are all of one class; an adapted head needs both.")
    own, mean = x[:, 0], x[:, 1:].mean(0)
    center, spread = own.mean(), own.std() or 1.0
    deviation = x[:, 1:].std(0)
    # a feature that is nearly silent in a few tiles may be loud in the next
    floor = 0.1 * np.median(deviation[deviation > 0]) if (deviation > 0).any() else 1.0
    scale = np.maximum(deviation, floor)
    standard, turn = (x[:, 1:] - mean) / scale, None
    if len(x) < standard.shape[1]:
        # the penalty does not see turns: as many directions as tiles hold all there is to fit
        values, vectors = np.linalg.eigh(standard @ standard.T)
        kept = values > 1e-10 * max(values[-1], 1e-300)
        roots = np.sqrt(values[kept])
        turn = standard.T @ (vectors[:, kept] / roots)
        standard = vectors[:, kept] * roots
    given = ((own - center) / spread, standard, y, spread, center)

    def whole(slope: float, offset: float, w: np.ndarray) -> tuple[np.ndarray, float]:
        w = (w if turn is None else turn @ w) / scale
        weights = np.concatenate([[slope / spread], w])
        return weights, float(offset - weights @ np.concatenate([[center], mean]))

    if held is None:
        with threadpool_limits(1):  # for matrices this small, threads cost more than they bring
            penalty = _penalty(given, np.unique(groups, return_inverse=True)[1], seed)
            return *whole(*_fitted(given, penalty)), penalty
    losses, last, heads = [], None, []
    for penalty in PENALTIES:
        last = _fitted(given, penalty, last, 1e-6)
        heads.append(whole(*last))
        z = held[0] @ heads[-1][0] + heads[-1][1]
        losses.append(np.logaddexp(0, np.where(held[1] == 1, -z, z)).mean())
    best = int(np.argmin(losses))
    return *heads[best], PENALTIES[best]


_Given = tuple[np.ndarray, np.ndarray, np.ndarray, float, float]  # own (standardised), features, y, spread and center


def _penalty(given: _Given, groups: np.ndarray, seed: int) -> float:
    """Choose among `PENALTIES` by cross-validation."""
    from sklearn.model_selection import StratifiedGroupKFold

    own, standard, y, *prior = given
    count = min(_FOLDS, groups.max() + 1, np.bincount(y).max())
    if count < 2:
        return PENALTIES[0]
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    losses = np.zeros(len(PENALTIES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class is rarer than there are folds: then some lack it
        parts = [(train, test) for train, test in folds.split(standard, y, groups) if len(train) and len(test)]
    for train, test in parts:
        part, last = (own[train], standard[train], y[train], *prior), None
        for k, penalty in enumerate(PENALTIES):
            last = _fitted(part, penalty, last, 1e-5)
            z = last[0] * own[test] + last[1] + standard[test] @ last[2]
            losses[k] += np.logaddexp(0, np.where(y[test] == 1, -z, z)).sum()
    return PENALTIES[int(np.argmin(losses))]


def _fitted(
    given: _Given, penalty: float, start: tuple[float, float, np.ndarray] | None = None, tolerance: float = 1e-9
) -> tuple[float, float, np.ndarray]:
    """Return slope (of the standardised own log-odds), offset and weights of the features."""
    from scipy.optimize import minimize
    from scipy.special import expit

    own, standard, y, spread, center = given
    before = np.array([spread, center])  # the head as it was: own * spread + center are its log-odds
    free = np.isfinite(penalty)
    first = np.zeros(2 + standard.shape[1] * free)
    first[:2] = before
    if start is not None:
        first[:2], first[2:] = start[:2], start[2] if free else 0

    def loss(v: np.ndarray, held: bool) -> tuple[float, np.ndarray]:
        z = v[0] * own + v[1] + (standard @ v[2:] if free else 0)
        off, away = expit(z) - y, v[:2] - before
        value = np.logaddexp(0, np.where(y == 1, -z, z)).sum() + 0.5 * _WEAK * (away @ away)
        slope = np.array([off @ own, off.sum()]) + _WEAK * away
        if free:
            value += 0.5 * penalty * (v[2:] @ v[2:])
            slope = np.concatenate([slope, off @ standard + penalty * v[2:]])
        slope[0] *= not held
        return value, slope

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": tolerance, "gtol": tolerance}
    v = minimize(loss, first, (False,), jac=True, method="L-BFGS-B", options=options).x
    if v[0] < _LEAST * spread:  # the loss is convex: then its minimum lies on the bound
        v[0] = _LEAST * spread
        v = minimize(loss, v, (True,), jac=True, method="L-BFGS-B", options=options).x
    return v[0], v[1], v[2:] if free else np.zeros(standard.shape[1])
