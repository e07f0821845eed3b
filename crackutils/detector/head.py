"""The last layer fitted to new labels: penalised logistic regression on the network's own logits and its features."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from crackutils.config import DEFAULT_SEED, CrackutilsError
from crackutils.linear import choose_penalty

PENALTIES = (float("inf"), 3e4, 3e3, 3e2, 3e1)  # of the features' weights, in nats; infinite: they stay zero
_LEAST = 0.05  # lower bound of the slope of the network's own logits, so that a few tiles cannot invert the ranking
_WEAK = 0.01  # penalty that keeps slope and offset finite if they separate all tiles


def fit_head(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = DEFAULT_SEED,
    held: tuple | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[np.ndarray, float, float]:
    """Fit logits a x own + b + w . f, with a penalty towards the unadapted head: a = 1, w = 0.

    a is at least 0.05, and the features are standardised. Cross-validation over whole groups chooses the penalty on w
    among `PENALTIES`, by the mean cross-entropy (`choose_penalty`). With a single group, cross-validation is impossible
    and w stays zero. By hand, because scikit-learn penalises all weights towards zero and has no bounds.

    `x`, (n, 1 + features), holds the network's own logits, then the features; `y`, int (n,), is 0 or 1; `groups`, (n,),
    are photos; `seed` draws the folds. With `held`, x and y of other tiles, these choose among `penalties`. Returned
    are weights, float64 (1 + features,), and bias (the logits are x @ weights + bias), and the penalty, infinite where
    only a and b were fitted. Raises CrackutilsError where all tiles are of one class.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, int)
    if len(np.unique(y)) < 2:
        raise CrackutilsError("The labelled tiles are all of one class. Label some of the other.")
    own, mean, deviation = x[:, 0], x[:, 1:].mean(0), x[:, 1:].std(0)
    center, spread = own.mean(), own.std() or 1.0
    # a feature that hardly varies in a few tiles may be large in others
    floor = 0.1 * np.median(deviation[deviation > 0]) if (deviation > 0).any() else 1.0
    scale = np.maximum(deviation, floor)
    features, rotation = _rotate((x[:, 1:] - mean) / scale)
    tiles, before = ((own - center) / spread, features, y), np.array([spread, center])

    def unstandardise(v: np.ndarray) -> tuple[np.ndarray, float]:
        weights = np.append(v[0] / spread, (v[2:] if rotation is None else rotation @ v[2:]) / scale)
        return weights, float(v[1] - weights @ np.append(center, mean))

    if held is None:
        penalty = _cross_validate(tiles, before, np.unique(groups, return_inverse=True)[1], seed)
        return *unstandardise(_fit(tiles, before, penalty)), penalty
    losses, heads, v = [], [], None
    for penalty in penalties:
        v = _fit(tiles, before, penalty, v, 1e-6)
        heads.append(unstandardise(v))
        losses.append(_cross_entropy(held[1], held[0] @ heads[-1][0] + heads[-1][1]).mean())
    best = choose_penalty(losses)
    return *heads[best], penalties[best]


def _rotate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return features in as many directions as there are tiles, and the inverse rotation; it keeps the penalty."""
    if len(x) >= x.shape[1]:
        return x, None
    values, vectors = np.linalg.eigh(x @ x.T)
    large = values > 1e-10 * max(values[-1], 1e-300)
    roots = np.sqrt(values[large])
    return vectors[:, large] * roots, x.T @ (vectors[:, large] / roots)


def _cross_entropy(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, np.where(y == 1, -z, z))


def _cross_validate(tiles: Sequence[np.ndarray], before: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """Return the best of `PENALTIES`."""
    own, features, y = tiles
    count = min(5, groups.max() + 1, np.bincount(y).max())
    if count < 2:
        return PENALTIES[0]
    losses = np.zeros(len(PENALTIES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class may be missing in some folds
        folds = list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(features, y, groups))
    for train, test in (fold for fold in folds if all(map(len, fold))):
        v = None
        for k, penalty in enumerate(PENALTIES):
            v = _fit([part[train] for part in tiles], before, penalty, v, 1e-5)
            losses[k] += _cross_entropy(y[test], v[0] * own[test] + v[1] + features[test] @ v[2:]).sum()
    return PENALTIES[choose_penalty(losses)]


def _fit(
    tiles: Sequence[np.ndarray], before: np.ndarray, penalty: float, start: np.ndarray | None = None, tol: float = 1e-9
) -> np.ndarray:
    """Return slope of the own logits, offset and weights of the features; `before` are the first two, unadapted."""
    own, features, y = tiles
    free = np.isfinite(penalty)
    first = np.append(before, np.zeros(features.shape[1])) if start is None else start
    first = first[: 2 + features.shape[1] * free]

    def loss(v: np.ndarray, bound: bool) -> tuple[float, np.ndarray]:
        z = v[0] * own + v[1] + (features @ v[2:] if free else 0)
        off, away = expit(z) - y, v[:2] - before
        value = _cross_entropy(y, z).sum() + 0.5 * _WEAK * (away @ away)
        slope = np.array([off @ own, off.sum()]) + _WEAK * away
        if free:
            value += 0.5 * penalty * (v[2:] @ v[2:])
            slope = np.concatenate([slope, off @ features + penalty * v[2:]])
        slope[0] *= not bound
        return value, slope

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": tol, "gtol": tol}
    v = minimize(loss, first, (False,), jac=True, method="L-BFGS-B", options=options).x
    if v[0] < _LEAST * before[0]:  # the loss is convex, so its minimum lies on the bound
        v[0] = _LEAST * before[0]
        v = minimize(loss, v, (True,), jac=True, method="L-BFGS-B", options=options).x
    return np.concatenate([v, np.zeros(2 + features.shape[1] - len(v))])
