"""The linear head that is fitted to features of a frozen backbone."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from crackutils.config import CrackutilsError
from crackutils.metrics import log_loss, score_predictions

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, small is strict
ENDED = "(?i)(the )?line search|newton-cg failed"  # warnings where iterations or, with few images, rounding end a fit
_RARE = 0.1  # share of a class below which classes are weighted
_TOLERANCE = 1e-6  # of the gradient; at scikit-learn's own weak penalties stop long before they make a difference


@dataclass(frozen=True)
class LinearHead:
    """A linear head: the crack probability is the sigmoid of x @ weights + bias."""

    weights: np.ndarray  # float32 (dimensions,)
    bias: float
    tried: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row per penalty, with C and scores

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return the crack probabilities, float32 (n,), of features (n, dimensions)."""
        return expit(x @ self.weights + np.float32(self.bias)).astype(np.float32)


def class_weights(labels: np.ndarray) -> dict[int, float] | None:
    """Return the weight of each class that lets both count alike in training, None where neither is rare.

    Labels are int (n,), 0 or 1. At weights the threshold 0.5 is that of equally frequent classes.
    """
    counts = np.bincount(labels, minlength=2)
    if not 0 < counts.min() < _RARE * len(labels):
        return None
    return {label: float(len(labels) / (2 * count)) for label, count in enumerate(counts)}


def fit_linear_head(
    x: np.ndarray, y: np.ndarray, val_x: np.ndarray, val_y: np.ndarray, iterations: int, strengths: Sequence = STRENGTHS
) -> LinearHead:
    """Fit logistic regression with an L2 penalty to standardised features; validation loss chooses its strength.

    Features are float32 (n, dimensions), labels int (n,), 0 or 1. `strengths` are the C to try, in rising order; each
    takes at most `iterations` of Newton-CG, which converges in a sixth of the time of scikit-learn's usual L-BFGS, and
    begins where the stricter one ended. Where a class is rare, `class_weights` of the training images hold for its loss
    and the validation loss. Raises CrackutilsError where all training images are of one class.
    """
    if len(np.unique(y)) < 2:
        raise CrackutilsError("The training images are all of one class. Add images of the other.")
    mean, scale = x.mean(0, dtype=np.float64), _deviation(x)
    # one image in which a feature fires that is silent in all others must not outweigh them
    scale = np.maximum(scale, 0.01 * np.median(scale))
    standard = x - mean.astype(np.float32)
    standard /= scale.astype(np.float32)
    weights_of = class_weights(y)
    options = {"max_iter": iterations, "warm_start": True, "tol": _TOLERANCE, "solver": "newton-cg"}
    model = LogisticRegression(class_weight=weights_of, **options)
    heads, rows = [], []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ENDED)  # the iterations are in the table
            model.set_params(C=strength).fit(standard, y)
        weights = model.coef_[0] / scale
        head = LinearHead(weights.astype(np.float32), float(model.intercept_[0] - weights @ mean))
        heads.append(head)
        row = {"C": strength, "iterations": int(model.n_iter_[0])}
        for name, those, truth in (("", x, y), ("val_", val_x, val_y)):
            scores = score_predictions(truth, head.probabilities(those))
            if weights_of:
                weight = np.vectorize(weights_of.get)(truth)
                scores["loss"] = round(log_loss(truth, head.probabilities(those), weight), 6)
            row |= {f"{name}loss": scores["loss"], f"{name}accuracy": scores["accuracy"]}
        rows.append(row)
    best = choose_penalty([row["val_loss"] for row in rows])
    return LinearHead(heads[best].weights, heads[best].bias, pd.DataFrame(rows))


def choose_penalty(val_loss: Sequence[float]) -> int:
    """Return the strictest penalty, the first, whose validation loss is within 2 % of the lowest."""
    # the lowest itself may be decided by digits that depend on the type of CPU
    return int(np.argmax(np.asarray(val_loss) <= 1.02 * np.min(val_loss)))


def _deviation(x: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column in float64, without a second array of that size."""
    mean, total = x.mean(0, dtype=np.float64), np.zeros(x.shape[1])
    for begin in range(0, len(x), 4096):
        total += np.square(x[begin : begin + 4096] - mean).sum(0)
    return np.sqrt(total / len(x))
