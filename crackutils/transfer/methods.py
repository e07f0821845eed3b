"""Methods that may improve scores on a target, their comparison, the report on held-out photos, and the card."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from crackutils import config, models
from crackutils.config import keras
from crackutils.datasets import Dataset
from crackutils.detector.data import SIDE, VARIATIONS, vary
from crackutils.detector.network import CELL, build_detector, hash_weights, output_engine, top_mean
from crackutils.detector.runs import DETECTOR, features_of_run
from crackutils.files import progress, render_template
from crackutils.images import resize
from crackutils.inference.features import cached_outputs, features_engine, frozen_features
from crackutils.linear import LinearHead, class_weights, fit_linear_head
from crackutils.metrics import ranking_metrics
from crackutils.stages import Recipe
from crackutils.synthetic.scene import MASK_BLOCK, PATCH
from crackutils.synthetic.store import Store
from crackutils.transfer.evaluation import auroc_gain, auroc_text, minimum_errors, score_ranking
from crackutils.transfer.robustness import mix_textures
from crackutils.transfer.targets import photo_of_image, tuning_images

FINE_TUNED = ("fine-tuned on labels", "fine-tuned on labels and masks")  # networks that notebook 08 trains
SAVED = f"{FINE_TUNED[1]}, last layer fitted to both"  # the saved network
FROZEN = "frozen network, head on masks"  # the network of `fit_cell_head`
_PER_PHOTO = "batch statistics of each photo"
_SIZE = 160  # side of the input of frozen features, pixels
_WINDOW = 5 / 8  # of the side: four of them cover the middle of an image twice
_CELLS = 40_000  # to which a cell head is fitted


@dataclass
class TransferStudy:
    """The images and networks with which methods are compared; labels of the target are never read."""

    source: Dataset  # the images with labels
    manifest: pd.DataFrame  # their split; training images fit heads, validation images choose penalties
    target: Dataset  # the images to score
    patches: Store  # synthetic ones with masks
    weights: str  # of the frozen backbone, "imagenet" or "crackutils"
    engine: str  # one of `config.ENGINES`
    folder: Path  # for cached features
    saved_run: Path  # run folder of the network of `SAVED`
    few: int  # training images, and a quarter as many validation images, that methods work with
    seed: int = config.DEFAULT_SEED  # of all draws
    networks: dict[str, Any] = field(default_factory=dict)  # detectors by name, `FROZEN` first
    _known: dict[Any, Any] = field(default_factory=dict)  # heads and maps

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of the source of one part of the split, at most `few` (val: a quarter), drawn by seed.

        A rare class gives all its images, up to half.
        """
        rows = np.flatnonzero(self.manifest["split"] == part)
        count = self.few if part == "train" else self.few // 4
        rows = np.random.default_rng(self.seed).permutation(rows)
        if weights := class_weights(labels := self.source.index["label"].to_numpy()[rows]):
            rare = rows[labels == max(weights, key=weights.get)][: count // 2]
            rows = np.append(rare, rows[~np.isin(rows, rare)])
        return np.sort(rows[:count])

    def features(self, ds: Dataset, rows: np.ndarray, size: int = _SIZE) -> np.ndarray:
        """Return frozen features of some images, float32 (n, dimensions)."""
        return frozen_features(ds, rows, models.OWN_BACKBONE, size, self.weights, self.engine).x

    def part(self, name: str, size: int = _SIZE) -> tuple[np.ndarray, np.ndarray]:
        """Return frozen features and labels of the rows of one part of the split."""
        rows = self.rows(name)
        return self.features(self.source, rows, size), self.source.index["label"].to_numpy()[rows]

    def _features_of(self, name: str, made_of: str, items: list[Any], read: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Return frozen features of images outside data sets, cached by `cached_outputs`."""
        engine, _ = features_engine(models.OWN_BACKBONE, _SIZE, self.weights, self.engine)
        key = (made_of, self.weights, self.engine, self.seed)
        return cached_outputs(self.folder, name, key, engine, items, lambda item: resize(read(item), _SIZE))

    def varied(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of the training images, each changed by one of `VARIATIONS`, or by "texture"."""
        rows, labels = self.rows("train"), self.source.index["label"].to_numpy()
        free = rows[labels[rows] == 0]

        def read(row: int) -> np.ndarray:
            rng, image = np.random.default_rng((self.seed, row)), self.source.read(row, PATCH)
            if kind == "texture":
                return mix_textures(image, self.source.read(rng.choice(free), PATCH))
            return vary(image, rng, (kind,))

        return self._features_of(f"varied {kind}", self.source.sha256, rows.tolist(), read), labels[rows]

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of synthetic patches, half as many as there are training images."""
        rows = np.random.default_rng(self.seed).permutation(len(self.patches.images))[: self.few // 2]
        x = self._features_of("photos", "patches", rows.tolist(), lambda row: self.patches.images[row])
        return x, self.patches.facts["label"].to_numpy()[rows]

    def windows(self, ds: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return features of four overlapping windows of each image, float32 (n, 4, dimensions)."""

        def read(item: tuple[int, int]) -> np.ndarray:
            image = ds.read(item[0])
            side = int(_WINDOW * min(image.shape[:2]))
            y, x = (item[1] // 2) * (image.shape[0] - side), (item[1] % 2) * (image.shape[1] - side)
            return image[y : y + side, x : x + side]

        items = [(int(row), k) for row in rows for k in range(4)]
        return self._features_of(f"windows {ds.profile.name}", ds.sha256, items, read).reshape(len(rows), 4, -1)

    def head(self, extra: tuple[str, ...] = (), size: int = _SIZE) -> LinearHead:
        """Return a linear head on the training images and on `extra` ones: "drawn", or kinds of `varied`."""
        if (extra, size) not in self._known:
            more = (self.drawn() if kind == "drawn" else self.varied(kind) for kind in extra)  # not kept in memory
            x, y = (np.concatenate(some) for some in zip(self.part("train", size), *more, strict=True))
            self._known[extra, size] = fit_linear_head(x, y, *self.part("val", size), 1000)
        return self._known[extra, size]

    def maps(self, ds: Dataset, rows: np.ndarray, name: str, size: int = DETECTOR.size) -> np.ndarray:
        """Return the cells' logits by one of `networks`, float32 (n, side, side)."""
        key = (ds.sha256, rows.tobytes(), name, size)
        if key not in self._known:
            model = self.networks[name]
            if size != DETECTOR.size:
                model = build_detector(replace(DETECTOR, size=size), self.weights, self.seed, load=False)
                model.set_weights(self.networks[name].get_weights())
            net = output_engine(model, "cells", self.engine)
            made_of = ds.sha256, hash_weights(model), size, self.engine
            items, side = rows.tolist(), size // CELL
            flat = cached_outputs(self.folder, f"cells, {name}", made_of, net, items, lambda row: ds.read(row, size))
            self._known[key] = flat.reshape(-1, side, side)
        return self._known[key]


def fit_cell_head(patches: Store, count: int, weights: str, seed: int) -> Any:
    """Return an untrained detector whose cell head is fitted by logistic regression to some patches with masks.

    `seed` draws at most `count` patches, and `_CELLS` of their cells, 40 % with a crack; `weights` are the backbone's.
    """
    model = build_detector(replace(DETECTOR, size=SIDE), weights, seed)
    net = keras.Model(model.input, model.get_layer("cells").input)
    rng, shape, ys, n = np.random.default_rng(seed), (SIDE // CELL, CELL // MASK_BLOCK), [], 0
    chosen = np.sort(rng.permutation(len(patches.images))[:count])
    x = np.empty((_CELLS, net.output_shape[-1]), np.float32)  # filled and changed in place, because it is large
    for begin in progress(range(0, len(chosen), 8), "cells with masks", unit="batch"):
        rows = chosen[begin : begin + 8]
        most = patches.masks[rows].reshape(len(rows), *shape, *shape).max((2, 4)).ravel()
        features = np.asarray(net.predict_on_batch(patches.images[rows].astype(np.float32))).reshape(len(most), -1)
        for part, share in ((np.flatnonzero(most > 100), 0.4), (np.flatnonzero(most < 20), 0.6)):
            take = rng.permutation(part)[: int(share * _CELLS * len(rows) / len(chosen))]
            x[n : n + len(take)] = features[take]
            ys.append(most[take] > 100)
            n += len(take)
    x = x[:n]
    mean, scale = x.mean(0), x.std(0) + 1e-3
    x -= mean
    x /= scale
    fitted = LogisticRegression(C=0.01, solver="newton-cg").fit(x, np.concatenate(ys))
    kernel = (fitted.coef_[0] / scale).astype(np.float32)
    model = build_detector(DETECTOR, weights, seed)
    bias = np.float32([fitted.intercept_[0] - mean @ kernel])
    model.get_layer("cells").set_weights([kernel[None, None, :, None], bias])
    return model


class Method(NamedTuple):
    """A method that scores images without labels of the target."""

    name: str
    score: Callable[[TransferStudy, Dataset, np.ndarray], np.ndarray]  # from a data set and its rows to scores (n,)
    in_domain: bool = True  # whether it is meaningful in-domain too


def list_methods(study: TransferStudy) -> list[Method]:
    """Return all methods, on frozen features first; all computation is in their scoring."""
    kinds = (*VARIATIONS, "texture")
    methods = [
        Method("frozen features, linear head", _linear),
        *(Method(f"+ {kind} varied in training", partial(_linear, extra=(kind,))) for kind in kinds),
        Method("+ sample photos with thin cracks", partial(_linear, extra=("drawn",))),
        Method("+ all of these", partial(_linear, extra=(*kinds, "drawn"))),
        Method("finer resolution (256 pixels)", partial(_linear, size=256)),
        Method("overlapping windows, the highest counts", _highest_window),
        Method(_PER_PHOTO, _linear_per_photo, False),
        Method(f"+ all of these, and {_PER_PHOTO}", partial(_linear_per_photo, extra=(*kinds, "drawn")), False),
        Method("features aligned without labels (CORAL)", _coral, False),
    ]
    for name in study.networks:
        methods.append(Method(name, partial(_network, name=name)))
        methods.append(Method(f"{name}, {_PER_PHOTO}", partial(_network, name=name, per_photo=True), False))
    for name in list(study.networks)[-1:]:
        methods.append(Method(f"{name}, at 320 pixels", partial(_network, name=name, size=320)))
    saved = Method(SAVED, lambda study, ds, rows: features_of_run(ds, rows, study.saved_run, study.engine).x[:, 0])
    return [*methods, saved]


def _linear(study: TransferStudy, ds: Dataset, rows: np.ndarray, extra: tuple = (), size: int = _SIZE) -> np.ndarray:
    head = study.head(extra, size)
    return study.features(ds, rows, size) @ head.weights + head.bias


def _highest_window(study: TransferStudy, ds: Dataset, rows: np.ndarray) -> np.ndarray:
    return (study.windows(ds, rows) @ study.head().weights).max(1) + study.head().bias


def _linear_per_photo(study: TransferStudy, ds: Dataset, rows: np.ndarray, extra: tuple = ()) -> np.ndarray:
    x = align_photos(study.features(ds, rows), photo_of_image(ds)[rows], study.part("train")[0])
    return x @ study.head(extra).weights


def _coral(study: TransferStudy, ds: Dataset, rows: np.ndarray) -> np.ndarray:
    (train, y), (val, val_y), x = study.part("train"), study.part("val"), study.features(ds, rows)
    moved = align_covariance(train, x, np.concatenate([train, val]))
    return fit_linear_head(moved[: len(y)], y, moved[len(y) :], val_y, 1000).probabilities(x)


def _network(
    study: TransferStudy, ds: Dataset, rows: np.ndarray, name: str, size: int = DETECTOR.size, per_photo: bool = False
) -> np.ndarray:
    maps, photo = study.maps(ds, rows, name, size).copy(), photo_of_image(ds)[rows]
    for p in np.unique(photo) if per_photo else ():
        off = maps[photo == p] - np.median(maps[photo == p])
        maps[photo == p] = off / (np.median(np.abs(off)) + 1e-6)
    return top_mean(maps, DETECTOR.cells)


def align_photos(x: np.ndarray, photo: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return features x, float32 (n, dimensions), with the mean and deviation of `source` within each photo.

    After Li, Wang, Shi, Hou, Liu (2018), Adaptive batch normalization, applied to the last features only.
    """
    mean, deviation = source.mean(0), source.std(0)
    out = np.empty_like(x)
    for p in np.unique(photo):
        here = x[photo == p]
        out[photo == p] = (here - here.mean(0)) / np.maximum(here.std(0), 0.01 * deviation + 1e-6) * deviation + mean
    return out


def align_covariance(source: np.ndarray, target: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return features x of the source with the mean and covariance of the target's, all float32 (any, dimensions).

    After Sun, Feng, Saenko (2016), Return of frustratingly easy domain adaptation (CORAL).
    """
    parts = []
    for data, power in ((source, -0.5), (target, 0.5)):
        covariance = np.cov(data.T).astype(np.float64)
        covariance += np.eye(len(covariance)) * np.trace(covariance) / len(covariance)  # as CORAL's identity
        values, vectors = np.linalg.eigh(covariance)
        parts.append((vectors * values**power) @ vectors.T)
    return ((x - source.mean(0)) @ parts[0] @ parts[1] + target.mean(0)).astype(np.float32)


def compare_methods(study: TransferStudy) -> pd.DataFrame:
    """Score all methods on the tuning photos of the target, if any, and in-domain if that is meaningful.

    A row holds method; the values of `score_ranking`; home_auroc and home_least_errors (error rate at the best
    threshold) on validation images of the source, or NaN.
    """
    rows, val = np.flatnonzero(tuning_images(study.target)), study.rows("val")
    labels, photo = study.target.index["label"].to_numpy()[rows], photo_of_image(study.target)[rows]
    val_labels, table = study.source.index["label"].to_numpy()[val], []
    for method in list_methods(study) if len(rows) else ():
        row = {"method": method.name} | score_ranking(labels, method.score(study, study.target, rows), photo)
        print(f"{method.name}: AUROC {row['auroc']:.3f}", flush=True)
        row |= {"home_auroc": np.nan, "home_least_errors": np.nan}
        if method.in_domain:
            scores = method.score(study, study.source, val)
            row["home_auroc"] = ranking_metrics(val_labels, scores)["auroc"]
            row["home_least_errors"] = round(minimum_errors(val_labels, scores) / len(val), 6)
        table.append(row)
    return pd.DataFrame(table)


def report_held_out(study: TransferStudy, chosen: str, p_crack: dict[str, np.ndarray]) -> tuple[list[Any], np.ndarray]:
    """Score trained models, the method called `chosen` and the saved network on the held-out photos of the target.

    `p_crack` holds the probabilities of these images by name of a trained model. Returns a row each (method, the values
    of `score_ranking`, `auroc_gain` over the first) and the saved network's logits, float32 (n,).
    """
    held = np.flatnonzero(~tuning_images(study.target))
    labels, photo = study.target.index["label"].to_numpy()[held], photo_of_image(study.target)[held]
    scores, rows = dict(p_crack), []
    score = {method.name: method.score for method in list_methods(study)}
    scores |= {name: score[name](study, study.target, held) for name in dict.fromkeys([chosen, SAVED])}
    first = next(iter(scores.values()))
    for name, found in scores.items():
        gain = auroc_gain(labels, found, first, photo) if rows else dict.fromkeys(("gain", "gain_low", "gain_high"))
        rows.append({"method": name} | score_ranking(labels, found, photo) | gain)
    return rows, scores[SAVED]


def write_card(metrics: dict[str, Any], recipe: Recipe) -> str:
    """Return the model card, Markdown, of the network of notebook 08; `metrics` are from `Run.finish`."""
    thirds = {(r["measure"], r["third"]): r["auroc"] for r in metrics["by_measure"] if r["run"] == recipe.name}
    shown = metrics | {"recipe": recipe, "saved": SAVED, "auroc_text": auroc_text, "thirds": thirds}
    return render_template(Path(__file__).with_name("card.md.j2"), shown)
