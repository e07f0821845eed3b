"""Features of a frozen backbone, computed once per image and kept, and the linear head that is fitted to them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL

from crackutils import config, engines, evaluation
from crackutils.config import CrackutilsError
from crackutils.datasets import DECODING, Dataset, ImageError, read_image

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, small is strict
VIEWS = 8  # the quarter turns of an image, and of its mirror image
_TOLERANCE = 1e-6  # of the gradient; at scikit-learn's own weak penalties stop long before they make a difference
_SHARD = 1024  # images per file: a kill loses at most what these took


@dataclass(frozen=True)
class Features:
    """Features of some images.

    Attributes:
        x: float32 (n, dimensions), a row per image.
        seconds: float64 (n,), wall time that each took when it was computed; 0 for an exact copy of one before it.
        facts: what they were computed with.
    """

    x: np.ndarray
    seconds: np.ndarray
    facts: dict[str, Any]

    @property
    def rate(self) -> float:
        """Images per second when they were computed, decoding included."""
        return float(1 / self.seconds[self.seconds > 0].mean())


def of(
    ds: Dataset, rows: np.ndarray, backbone: str, size: int, weights: str, engine: str = "litert", view: int = 0
) -> Features:
    """Return the features of some images: what the backbone's last map holds, averaged over its area.

    They are kept in `data/cache/features`, a folder for each set of circumstances and a row for each content of a file,
    so that changed or further images cost only themselves. Files appear there by atomic renaming: a kill loses
    little, and two processes do each other no harm.

    Args:
        ds: the images.
        rows: which, in the order wanted; at least one.
        backbone: a key of `models.BACKBONES`.
        size: side of the input, pixels.
        weights: "imagenet" or "crackutils".
        engine: one of `config.ENGINES`.
        view: 0 for the image as it is, 1-3 for its quarter turns, 4-7 for its mirror image and that one's.

    Raises:
        CrackutilsError: weights or an engine that are not to be had; an image that has changed since it was indexed.
    """
    from crackutils import models

    if view not in range(VIEWS):
        raise CrackutilsError(f"view={view} must be 0 to {VIEWS - 1}.")
    running, made_with = models.features_engine(backbone, size, weights, engine)
    facts = running.facts | {"backbone": backbone, "weights": made_with["sha256"], "size": size, "view": view}
    return _of(ds, rows, running, f"{backbone}-{size}-{engine}", made_with, facts, view)


def of_run(ds: Dataset, rows: np.ndarray, folder: Path, engine: str = "litert") -> Features:
    """Return what a run of `recipes.CELLS` makes of some images: its log-odds of a crack, and features of its map.

    They are kept as those of `of`. Where the network was converted before, TensorFlow does not start.

    Args:
        ds: the images.
        rows: which, in the order wanted; at least one.
        folder: the run. x[:, 0] are its log-odds, by its last layer; x[:, 1:] what its layer `features` holds after the
            first value.
        engine: one of `config.ENGINES`.

    Raises:
        CrackutilsError: no such run; an engine that is not to be had; an image that has changed since it was indexed.
    """
    from crackutils import results

    recipe, start, file = results.cells_run(folder)
    weights = config.sha256(file)
    made_with = {"model": weights, "start": start, "recipe": recipe.as_dict(), "layer": "features"}
    key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:12]

    def build() -> Any:
        from crackutils import training

        model, _ = training.load(folder)
        found, layers = model.get_layer("features").output, training.keras.layers
        last = layers.Dense(1, dtype="float32")
        odds = last(found)
        last.set_weights(model.get_layer("p_crack").get_weights())
        return training.keras.Model(model.input, layers.Concatenate()([odds, found[:, 1:]]))

    program = engines.program(f"{recipe.name}-features-{recipe.size}-{key}")
    running = engines.start(engine, program, build)
    facts = running.facts | {"model": weights, "size": recipe.size}
    made_with["converted"] = program.name  # by which TensorFlow and Keras
    return _of(ds, rows, running, f"{recipe.name}-{recipe.size}-{engine}", made_with, facts)


def _of(
    ds: Dataset,
    rows: np.ndarray,
    running: engines.Engine,
    name: str,
    made_with: dict[str, Any],
    facts: dict[str, Any],
    view: int = 0,
) -> Features:
    made_with = made_with | facts | {"decoding": f"{DECODING}, pillow {PIL.__version__}"}
    text = json.dumps(made_with, indent=1, sort_keys=True) + "\n"
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = config.data_dir() / "cache" / "features" / f"{name}-{key}"
    if not (folder / "made_with.json").is_file():
        config.write_atomically(folder / "made_with.json", text)
    rows = np.asarray(rows)
    contents = ds.index["sha256"].to_numpy("S64")[rows]
    while True:
        kept = _kept(folder)
        missing = np.flatnonzero(~np.isin(contents, kept[0]))
        if not len(missing):
            return Features(*_gather(*kept, contents), facts)
        _, first = np.unique(contents[missing], return_index=True)  # an exact copy costs nothing
        _compute(ds, rows[missing[np.sort(first)]], folder, running, facts["size"], view)


def turned(image: np.ndarray, view: int) -> np.ndarray:
    """Return a (size, size, 3) image as `of` sees it in one of the `VIEWS`; no pixel is interpolated."""
    return np.rot90(image[:, ::-1] if view >= 4 else image, view % 4)


def _compute(ds: Dataset, rows: np.ndarray, folder: Path, running: engines.Engine, size: int, view: int) -> None:
    contents = ds.index["sha256"].to_numpy("S64")

    def read(row: int) -> np.ndarray:
        file = ds.folder / ds.index["file"].iloc[row]
        data = file.read_bytes() if file.is_file() else b""
        # features are found by the content of the index: these must be its own
        if hashlib.sha256(data).hexdigest().encode() != contents[row]:
            raise ImageError("is not the file that was indexed; load the images again")
        return turned(read_image(data, size), view)

    running.worker()  # where the network has to be converted first, images are not to pay for it
    x, began = [], time.perf_counter()
    with contextlib.closing(engines.stream(running, rows.tolist(), read)) as found:
        for done, (row, one, problem) in enumerate(config.progress(found, f"features at {size} px", len(rows)), 1):
            if one is None:
                raise CrackutilsError(f"{config.shown(ds.folder / ds.index['file'].iloc[row])} {problem}.")
            x.append(one)
            if len(x) == _SHARD or done == len(rows):
                spent = time.perf_counter() - began
                _write(folder, contents[rows[done - len(x) : done]], np.stack(x), spent / len(x))
                x, began = [], time.perf_counter()


def _write(folder: Path, contents: np.ndarray, x: np.ndarray, seconds: float) -> None:
    keys = np.zeros(len(x), [("content", "S64"), ("seconds", "<f8")])
    keys["content"], keys["seconds"] = contents, seconds
    name = uuid.uuid4().hex
    # the keys last: a reader looks for them only, and then finds the features there
    for kind, array in (("x", x), ("keys", keys)):
        config.save_array(folder / f"{name}.{kind}.npy", array)


def _kept(folder: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return contents and seconds of all images kept, file after file, and the memory-mapped features of each file."""
    keys, maps = [np.zeros(0, [("content", "S64"), ("seconds", "<f8")])], []
    for file in sorted(folder.glob("*.keys.npy")):
        other = file.with_name(file.name.replace(".keys.", ".x."))
        try:
            key, x = np.load(file), np.load(other, mmap_mode="r")
            if len(key) != len(x):
                raise ValueError
        except (OSError, ValueError, EOFError):  # after a power cut: to be computed again
            for damaged in (file, other):
                damaged.unlink(missing_ok=True)
            continue
        keys.append(key)
        maps.append(x)
    joined = np.concatenate(keys)
    return joined["content"], joined["seconds"], maps


def _gather(
    kept: np.ndarray, seconds: np.ndarray, maps: list[np.ndarray], contents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(kept, kind="stable")
    at = order[np.searchsorted(kept, contents, sorter=order)]
    x, begin = np.empty((len(contents), maps[0].shape[1]), np.float32), 0
    for part in maps:
        here = np.flatnonzero((begin <= at) & (at < begin + len(part)))
        x[here] = part[at[here] - begin]
        begin += len(part)
    _, first = np.unique(contents, return_index=True)
    spent = np.zeros(len(contents))
    spent[first] = seconds[at[first]]
    return x, spent


# ---------------------------------------------------------------- linear head


@dataclass(frozen=True)
class Head:
    """A linear head: the crack probability is the sigmoid of x @ weights + bias.

    Attributes:
        weights: float32 (dimensions,).
        bias: float.
        tried: a row per strength: C, iterations, loss, accuracy, val_loss, val_accuracy.
        best: row of `tried` whose head this is.
    """

    weights: np.ndarray
    bias: float
    tried: pd.DataFrame = field(default_factory=pd.DataFrame)
    best: int = 0

    def chances(self, x: np.ndarray) -> np.ndarray:
        """Return the crack probabilities, float32 (n,), of features (n, dimensions)."""
        from scipy.special import expit

        return expit(x @ self.weights + np.float32(self.bias)).astype(np.float32)


def fit(
    x: np.ndarray,
    y: np.ndarray,
    val_x: np.ndarray,
    val_y: np.ndarray,
    iterations: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Head:
    """Fit logistic regression with an L2 penalty to standardised features; validation loss chooses its strength.

    Args:
        x: float32 (n, dimensions), the training images' features.
        y: int (n,), 0 or 1, both present.
        val_x: as x, of the validation images.
        val_y: as y.
        iterations: upper bound of L-BFGS for each strength; it begins where the stricter one ended.
        strengths: the C to try, in rising order.

    Raises:
        CrackutilsError: all training images are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) < 2:
        raise CrackutilsError("The training images are all of one class; a classifier needs both.")
    mean, scale = x.mean(0, dtype=np.float64), _deviation(x)
    # one image in which a feature fires that is silent in all others must not outweigh them
    scale = np.maximum(scale, 0.01 * np.median(scale))
    standard = x - mean.astype(np.float32)
    standard /= scale.astype(np.float32)
    model = LogisticRegression(max_iter=iterations, warm_start=True, tol=_TOLERANCE)
    heads, rows = [], []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are in the table
            model.set_params(C=strength).fit(standard, y)
        weights = model.coef_[0] / scale
        head = Head(weights.astype(np.float32), float(model.intercept_[0] - weights @ mean))
        heads.append(head)
        row = {"C": strength, "iterations": int(model.n_iter_[0])}
        for name, those, truth in (("", x, y), ("val_", val_x, val_y)):
            scores = evaluation.metrics(truth, head.chances(those))
            row |= {f"{name}loss": scores["loss"], f"{name}accuracy": scores["accuracy"]}
        rows.append(row)
    best = int(np.argmin([row["val_loss"] for row in rows]))
    return Head(heads[best].weights, heads[best].bias, pd.DataFrame(rows), best)


def _deviation(x: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column in float64, without a second array of that size."""
    mean, total = x.mean(0, dtype=np.float64), np.zeros(x.shape[1])
    for begin in range(0, len(x), 4096):
        total += np.square(x[begin : begin + 4096] - mean).sum(0)
    return np.sqrt(total / len(x))
