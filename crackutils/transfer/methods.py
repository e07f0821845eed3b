"""What a model is worth on other people's concrete, what helps it there, and what breaks it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets, models, provenance
from crackutils.detector.data import SIDE
from crackutils.detector.features import features_of_run
from crackutils.detector.maps import cell_maps
from crackutils.detector.pooling import top_mean
from crackutils.detector.runs import DETECTOR
from crackutils.detector.variation import VARIATIONS, vary
from crackutils.files import progress, save_array
from crackutils.images import resize
from crackutils.inference.engines import run_stream
from crackutils.inference.features import features_engine, frozen_features
from crackutils.linear import LinearHead, fit_linear_head
from crackutils.metrics import ranking_metrics
from crackutils.models import keras
from crackutils.recipes import OWN_BACKBONE
from crackutils.synthetic.scene import PATCH
from crackutils.synthetic.store import Store
from crackutils.transfer.corruptions import mix_textures
from crackutils.transfer.evaluation import auroc_gain, minimum_errors, score_ranking
from crackutils.transfer.targets import photo_of_image, tuning_images

FINE_TUNED = ("fine-tuned on labels", "fine-tuned on labels and masks")  # networks that notebook 08 trains
SAVED = f"{FINE_TUNED[1]}, last layer fitted to both"  # as it is saved and scores
_SIZE = 160  # side of the input of frozen features, pixels
_FINE = 256
_WINDOW = 5 / 8  # of the side: four of them cover an image twice at its middle
_CELLS = 60_000  # that a frozen network's cell head is fitted to


@dataclass(frozen=True)
class Method:
    """A way to score images of the target.

    Attributes:
        name: what is done.
        score: from rows of the target to scores (n,), the higher the more like a crack; it sees no label.
        source: the same for rows of the source; None where what is done makes no sense at home.
    """

    name: str
    score: Callable[[np.ndarray], np.ndarray]
    source: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass
class TransferStudy:
    """What methods are tried on. What takes long is kept in `folder`, and found there after a kill.

    Attributes:
        source: the images with labels.
        manifest: their split; training images fit heads, validation images choose penalties.
        target: the images to be scored; their labels are never read here.
        kept: patches with masks.
        weights: what the frozen backbone has, "imagenet" or "crackutils".
        engine: one of `config.ENGINES`.
        folder: for what is kept.
        saved: run folder of the network that scores as `SAVED`; None for none.
        few: training images, and a quarter as many validation images, that methods work with.
        seed: of all draws.
    """

    source: datasets.Dataset
    manifest: pd.DataFrame
    target: datasets.Dataset
    kept: Store
    weights: str
    engine: str
    folder: Path
    saved_network: Path | None = None
    few: int = 3000
    seed: int = config.DEFAULT_SEED
    trained: dict[str, Any] = field(default_factory=dict)

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of the source of one part of the split, at most `few` (val: a quarter), drawn by seed."""
        rows = np.flatnonzero(self.manifest["split"] == part)
        count = self.few if part == "train" else self.few // 4
        return np.sort(np.random.default_rng(self.seed).permutation(rows)[:count])

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the source, int (n,)."""
        return self.source.index["label"].to_numpy()

    def features(self, ds: datasets.Dataset, rows: np.ndarray, size: int = _SIZE) -> np.ndarray:
        """Return frozen features, float32 (n, dimensions)."""
        return frozen_features(ds, rows, OWN_BACKBONE, size, self.weights, self.engine).x

    def of_images(self, name: str, of: str, items: list[Any], read: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Return frozen features of made-up images, uint8 (160, 160, 3) each, kept in a file called by name.

        `of` tells what they were made of.
        """

        def compute() -> np.ndarray:
            running, _ = features_engine(OWN_BACKBONE, _SIZE, self.weights, self.engine)
            return stack_outputs(progress(run_stream(running, items, read), name, len(items)))

        key = (of, self.weights, self.engine, self.seed, items)
        return cached_array(self.folder, name, key, compute)

    def varied(self, kind: str) -> np.ndarray:
        """Return features of the training images, each as one of `pipelines.VARIATIONS`, or "texture", changes it."""
        rows = self.rows("train")
        free = rows[self.labels[rows] == 0]

        def read(row: int) -> np.ndarray:
            rng, image = np.random.default_rng((self.seed, row)), self.source.read(row, PATCH)
            if kind == "texture":
                other = self.source.read(rng.choice(free), PATCH)
                return resize(mix_textures(image, other), _SIZE)
            return resize(vary(image, rng, (kind,)), _SIZE)

        return self.of_images(f"varied {kind}", self.source.sha256, rows.tolist(), read)

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of patches of the photos with masks, half as many as there are training images."""
        rows = np.random.default_rng(self.seed).permutation(len(self.kept.images))[: self.few // 2]
        x = self.of_images("photos", "kept", rows.tolist(), lambda row: resize(self.kept.images[row], _SIZE))
        return x, self.kept.facts["label"].to_numpy()[rows]

    def windows(self, ds: datasets.Dataset, rows: np.ndarray) -> np.ndarray:
        """Return features of four overlapping windows of each image, float32 (n, 4, dimensions)."""

        def read(item: tuple[int, int]) -> np.ndarray:
            image = ds.read(item[0])
            side = int(_WINDOW * min(image.shape[:2]))
            y, x = (item[1] // 2) * (image.shape[0] - side), (item[1] % 2) * (image.shape[1] - side)
            return resize(image[y : y + side, x : x + side], _SIZE)

        items = [(int(row), k) for row in rows for k in range(4)]
        return self.of_images(f"windows {ds.profile.name}", ds.sha256, items, read).reshape(len(rows), 4, -1)


def cached_array(folder: Path, name: str, key: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array that is computed once for its key and this code, and found again after a kill."""
    text = repr((key, provenance.code_hash(), provenance.versions()))
    named = f"{name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npy"
    if not (folder / named).is_file():
        save_array(folder / named, compute())
    return np.load(folder / named)


def stack_outputs(found: Iterable[tuple[Any, np.ndarray | None, str]]) -> np.ndarray:
    rows = []
    for item, one, problem in found:
        if one is None:
            raise config.CrackutilsError(f"Image {item} {problem}.")
        rows.append(one)
    return np.stack(rows)


def saved_network(b: TransferStudy) -> Method:
    """Return the network as it is saved, with its last layer."""

    def odds(ds: datasets.Dataset) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: features_of_run(ds, rows, b.saved, b.engine).x[:, 0]

    return Method(SAVED, odds(b.target), odds(b.source))


def methods(b: TransferStudy) -> Iterator[Method]:
    """Yield the ways to score the target, one after the other: frozen features, frozen cells, fine-tuned networks.

    `b.trained` holds fine-tuned networks by name.
    """
    train, val = b.rows("train"), b.rows("val")
    y, val_x, val_y = b.labels[train], b.features(b.source, val), b.labels[val]
    x = b.features(b.source, train)

    def head(*more: tuple[np.ndarray, np.ndarray]) -> LinearHead:
        parts = [(x, y), *more]
        stacked = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        return fit_linear_head(*stacked, val_x, val_y, 1000)

    def plain(name: str, fitted: LinearHead, size: int = _SIZE) -> Method:
        return Method(name, *(_scorer(b, ds, fitted, size) for ds in (b.target, b.source)))

    usual = head()
    yield plain("frozen features, linear head", usual)
    varied = [(b.varied(kind), y) for kind in (*VARIATIONS, "texture")]
    for kind, more in zip((*VARIATIONS, "texture"), varied, strict=True):
        yield plain(f"+ {kind} varied in training", head(more))
    drawn = b.drawn()
    yield plain("+ sample photos with thin cracks", head(drawn))
    everything = head(*varied, drawn)
    yield plain("+ all of these", everything)
    fine = [b.features(b.source, rows, _FINE) for rows in (train, val)]
    yield plain("finer resolution (256 pixels)", fit_linear_head(fine[0], y, fine[1], val_y, 1000), _FINE)

    def windowed(ds: datasets.Dataset) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: (b.windows(ds, rows) @ usual.weights).max(1) + usual.bias

    yield Method("overlapping windows, the highest counts", windowed(b.target), windowed(b.source))

    def standardised(fitted: LinearHead) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: _aligned(b.features(b.target, rows), photo_of_image(b.target)[rows], x) @ fitted.weights

    yield Method("batch statistics of each photo", standardised(usual))
    yield Method("+ all of these, and batch statistics of each photo", standardised(everything))

    def coral(rows: np.ndarray) -> np.ndarray:
        there = b.features(b.target, rows)
        moved = align_covariance(x, there, np.concatenate([x, val_x]))
        return fit_linear_head(moved[: len(x)], y, moved[len(x) :], val_y, 1000).chances(there)

    yield Method("features aligned without labels (CORAL)", coral)
    yield from _of_cells("frozen network, head on masks", b, _cell_head(b))
    for name, model in b.trained.items():
        yield from _of_cells(name, b, model)
    if b.trained:
        name, model = list(b.trained.items())[-1]
        finer = _mapped(b, model, 320)
        yield Method(f"{name}, at 320 pixels", *(_pooled(finer, ds) for ds in (b.target, b.source)))
    if b.saved is not None:
        yield saved_network(b)


def _scorer(b: TransferStudy, ds: datasets.Dataset, head: LinearHead, size: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: b.features(ds, rows, size) @ head.weights + head.bias


def _aligned(x: np.ndarray, photo: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Give the features of each photo the mean and deviation of `like`.

    After Li, Wang, Shi, Hou, Liu (2018), Adaptive batch normalization, done on the last features only.
    """
    mean, deviation = like.mean(0), like.std(0)
    out = np.empty_like(x)
    for p in np.unique(photo):
        here = x[photo == p]
        out[photo == p] = (here - here.mean(0)) / np.maximum(here.std(0), 0.01 * deviation + 1e-6) * deviation + mean
    return out


def align_covariance(source: np.ndarray, there: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give features of the source the mean and covariance of the target's.

    After Sun, Feng, Saenko (2016), Return of frustratingly easy domain adaptation (CORAL).

    Args:
        source: float32 (n, dimensions), whose mean and covariance are taken off.
        there: float32 (m, dimensions), whose are put on.
        x: float32 (k, dimensions), what is changed.
    """
    parts = []
    for data, power in ((source, -0.5), (there, 0.5)):
        covariance = np.cov(data.T).astype(np.float64)
        covariance += np.eye(len(covariance)) * np.trace(covariance) / len(covariance)  # as CORAL's identity
        values, vectors = np.linalg.eigh(covariance)
        parts.append((vectors * values**power) @ vectors.T)
    return ((x - source.mean(0)) @ parts[0] @ parts[1] + there.mean(0)).astype(np.float32)


def _cell_head(b: TransferStudy) -> Any:
    """Return the network of `CELLS` as it starts, with a cell head fitted to patches with masks."""
    from sklearn.linear_model import LogisticRegression

    small = replace(DETECTOR, size=SIDE)
    model, _ = models.build(small, b.weights, b.seed)
    net = keras.Model(model.input, model.get_layer("cells").input)
    rng, grid = np.random.default_rng(b.seed), SIDE // 16
    chosen = np.sort(rng.permutation(len(b.kept.images))[: b.few // 2])
    xs, ys = [], []
    for begin in progress(range(0, len(chosen), 32), "cells with masks", unit="batch"):
        rows = chosen[begin : begin + 32]
        found = np.asarray(net.predict_on_batch(b.kept.images[rows].astype(np.float32)))
        most = b.kept.masks[rows].reshape(len(rows), grid, 4, grid, 4).max((2, 4)).ravel()
        for part, share in ((np.flatnonzero(most > 100), 0.4), (np.flatnonzero(most < 20), 0.6)):
            take = rng.permutation(part)[: int(share * _CELLS * len(rows) / len(chosen))]
            xs.append(found.reshape(len(most), -1)[take])
            ys.append(most[take] > 100)
    x, y = np.concatenate(xs), np.concatenate(ys)
    mean, scale = x.mean(0), x.std(0) + 1e-3
    fitted = LogisticRegression(C=0.01, max_iter=300).fit((x - mean) / scale, y)
    kernel = (fitted.coef_[0] / scale).astype(np.float32)
    whole, _ = models.build(DETECTOR, b.weights, b.seed)
    bias = np.float32([fitted.intercept_[0] - mean @ kernel])
    whole.get_layer("cells").set_weights([kernel[None, None, :, None], bias])
    return whole


def _mapped(b: TransferStudy, model: Any, size: int) -> Callable[[datasets.Dataset, np.ndarray], np.ndarray]:
    """Return a function from images to their cells; those of images asked for before are remembered."""
    if model.input_shape[1] != size:
        other, _ = models.build(replace(DETECTOR, size=size), b.weights, b.seed, load=False)
        other.set_weights(model.get_weights())
        model = other
    known: dict[tuple[str, int], np.ndarray] = {}

    def find(ds: datasets.Dataset, rows: np.ndarray) -> np.ndarray:
        missing = np.array([row for row in rows if (ds.sha256, row) not in known], int)
        if len(missing):
            known.update(zip(((ds.sha256, row) for row in missing), cell_maps(model, ds, missing, size), strict=True))
        return np.stack([known[ds.sha256, row] for row in rows])

    return find


def _pooled(
    find: Callable[[datasets.Dataset, np.ndarray], np.ndarray], ds: datasets.Dataset
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: top_mean(find(ds, rows), DETECTOR.cells)


def _of_cells(name: str, b: TransferStudy, model: Any) -> Iterator[Method]:
    find = _mapped(b, model, DETECTOR.size)
    yield Method(name, _pooled(find, b.target), _pooled(find, b.source))

    def standardised(rows: np.ndarray) -> np.ndarray:
        found, photo = find(b.target, rows), photo_of_image(b.target)[rows]
        for p in np.unique(photo):
            here = found[photo == p]
            middle = np.median(here)
            found[photo == p] = (here - middle) / (np.median(np.abs(here - middle)) + 1e-6)
        return top_mean(found, DETECTOR.cells)

    yield Method(f"{name}, batch statistics of each photo", standardised)


def compare_methods(b: TransferStudy) -> tuple[pd.DataFrame, dict[str, Method]]:
    """Try all methods on the tuning photos of the target.

    Returns:
        A row per method: method; n, cracked, auroc, auroc_by_photo, average_precision, low, high (as `judge` has them,
        on tuning photos only); home_auroc and home_errors (share) on validation images of the source, the errors at the
        threshold that is best there, because scores have different scales (NaN where the method makes no sense there).
        And the methods by name. Where there are no tuning photos, no rows, and the saved network alone.
    """
    rows, val = np.flatnonzero(tuning_images(b.target)), b.rows("val")
    labels, photo = b.target.index["label"].to_numpy()[rows], photo_of_image(b.target)[rows]
    table, ways = [], {}
    for method in methods(b) if len(rows) else [saved_network(b)]:
        ways[method.name] = method
        if not len(rows):
            continue
        row = {"method": method.name} | score_ranking(labels, method.score(rows), photo)
        print(f"{method.name}: AUROC {row['auroc']:.3f}", flush=True)
        row |= {"home_auroc": np.nan, "home_errors": np.nan}
        if method.source is not None:
            here = method.source(val)
            row["home_auroc"] = ranking_metrics(b.labels[val], here)["auroc"]
            row["home_errors"] = round(minimum_errors(b.labels[val], here) / len(val), 6)
        table.append(row)
    return pd.DataFrame(table), ways


def report_held_out(
    b: TransferStudy, ways: dict[str, Method], chosen: str, guesses: dict[str, np.ndarray]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Judge what was trained at home, the chosen method and the saved network on photos that chose nothing.

    Args:
        b: what they were tried on.
        ways: as `compare` returns them.
        chosen: one of their names.
        guesses: by name, scores of all images of the target, of models trained at home.

    Returns:
        A row each, as `judge` has it, with method and `gain` over the first; and the saved network's log-odds,
        float32 (n,), of these images.
    """
    held = np.flatnonzero(~tuning_images(b.target))
    labels, photo = b.target.index["label"].to_numpy()[held], photo_of_image(b.target)[held]
    scores = {name: p[held] for name, p in guesses.items()}
    scores |= {name: ways[name].score(held) for name in dict.fromkeys([chosen, SAVED])}
    first = next(iter(scores.values()))
    rows = []
    for name, score in scores.items():
        extra = {"gain": None, "gain_low": None, "gain_high": None}
        extra = extra if score is first else auroc_gain(labels, score, first, photo)
        rows.append({"method": name} | score_ranking(labels, score, photo) | extra)
    return rows, scores[SAVED]
