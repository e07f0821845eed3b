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

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn; a small C is a strong penalty
ENDED = "(?i)(the )?line search|newton-cg failed"  # warnings where iterations or, with few images, rounding end a fit
_RARE = 0.1  # share of a class below which classes are weighted
_TOLERANCE = 1e-6  # of the gradient; at scikit-learn's default, fits with weak penalties stop too early


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
    """Return weights that balance the classes in training, None if neither class is rare.

    Labels are int (n,), 0 or 1. With weights, the threshold 0.5 is that of equally frequent classes.
    """
    counts = np.bincount(labels, minlength=2)
    if not 0 < counts.min() < _RARE * len(labels):
        return None
    return {label: float(len(labels) / (2 * count)) for label, count in enumerate(counts)}


def fit_linear_head(
    x: np.ndarray, y: np.ndarray, val_x: np.ndarray, val_y: np.ndarray, iterations: int, strengths: Sequence = STRENGTHS
) -> LinearHead:
    """Fit logistic regression with an L2 penalty to standardised features; validation loss chooses its strength.

    Features are float32 (n, dimensions), labels int (n,), 0 or 1. `strengths` are the values of C to try, in rising
    order. Each fit starts from the previous one and takes at most `iterations` of Newton-CG, which converges six times
    as fast as scikit-learn's default, L-BFGS. If a class is rare, training and validation loss use the `class_weights`
    of the training images. Raises CrackutilsError if all training images are of one class.
    """
    if len(np.unique(y)) < 2:
        raise CrackutilsError("The training images are all of one class. Add images of the other.")
    mean, scale = x.mean(0, dtype=np.float64), _deviation(x)
    # a feature that is active in a single image must not dominate
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
    """Return the index of the strongest penalty (the first) whose validation loss is within 2 % of the lowest."""
    # the lowest itself may depend on rounding, which differs between types of CPU
    return int(np.argmax(np.asarray(val_loss) <= 1.02 * np.min(val_loss)))


def _deviation(x: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column in float64, without a second array of that size."""
    mean, total = x.mean(0, dtype=np.float64), np.zeros(x.shape[1])
    for begin in range(0, len(x), 4096):
        total += np.square(x[begin : begin + 4096] - mean).sum(0)
    return np.sqrt(total / len(x))
