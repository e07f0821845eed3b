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

from crackutils import (
    audit,
    cells,
    config,
    datasets,
    engines,
    evaluation,
    features,
    models,
    pipelines,
    results,
    synthetic,
)
from crackutils.config import CrackutilsError
from crackutils.datasets import Dataset
from crackutils.models import keras
from crackutils.recipes import CELLS, OWN_BACKBONE, PUBLISHED, RECIPES

TUNING = (7069, 7078, 7087, 7096, 7105, 7114, 7123, 7132)  # SDNET2018's photos on which methods may be chosen
FINE_TUNED = ("fine-tuned on labels", "fine-tuned on labels and masks")  # networks that notebook 08 trains
SAVED = f"{FINE_TUNED[1]}, last layer fitted to both"  # as it is saved and scores
_SIZE = 160  # side of the input of frozen features, pixels
_FINE = 256
_WINDOW = 5 / 8  # of the side: four of them cover an image twice at its middle
_CELLS = 60_000  # that a frozen network's cell head is fitted to


def about(where: Dataset, home: Dataset) -> str:
    """Return in a sentence what the target is.

    Raises:
        CrackutilsError: images of the target are among those trained on.
    """
    shared = int(where.index["sha256"].isin(home.index["sha256"]).sum())
    if shared:
        raise CrackutilsError(
            f"TARGET={where.profile.name}: {shared:,} of its images are among those of PROFILE={home.profile.name};"
            " name other images."
        )
    told = f"Tested on {where.profile.title} ({len(where.index):,} images)."
    if where.profile.source == "walls":
        told += (
            " The same generator makes the photos with masks that the network learns from: these numbers show that the"
            " notebook works, not what a model is worth elsewhere. For that: make data SOURCE=sdnet FROM=..., or"
            " TARGET=folder."
        )
    return told


def compared(runs: list[dict[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
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
        raise CrackutilsError(f"No finished run has SEED={seed} and otherwise usual settings; run notebooks 03 and 04.")
    published = [name for name in found if name in PUBLISHED]
    best = min(published, key=lambda name: (found[name]["val"]["loss"], name), default="")
    return {name: found[name] for name in RECIPES if name in found and (name not in PUBLISHED or name == best)}


def abroad(runs: dict[str, dict[str, Any]], guesses: dict[str, np.ndarray], target: Dataset) -> list[dict[str, Any]]:
    """Return a row per run of `compared`: run, home_errors (share of its own test images), `judge`'s values, and f1.

    `guesses` are by run the probabilities of all images of the target; f1 is at the threshold 0.5.
    """
    labels, photo = target.index["label"].to_numpy(), photos(target)
    rows = []
    for name, p in guesses.items():
        home = runs[name]["test"]
        row = {"run": name, "home_errors": home["errors"] / home["n"]} | judge(labels, p, photo)
        rows.append(row | {"f1": evaluation.metrics(labels, p)["f1"]})
    return rows


def extremes(labels: np.ndarray, scores: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Return where a ranking is most right and most wrong: by kind, at most so many places in it, the clearest first.

    find: cracks with the highest scores; missed: cracks with the lowest; false alarm: highest scores without a crack.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    cracked = order[np.asarray(labels)[order] == 1]
    free = order[np.asarray(labels)[order] == 0]
    return {"find": cracked[:most], "missed": cracked[::-1][:most], "false alarm": free[:most]}


def photos(ds: Dataset) -> np.ndarray:
    """Return which photo each image was cut from, int (n,); images whose photo is not known get one of their own."""
    found = ds.cuts["photo"].to_numpy()
    return np.where(found >= 0, found, -1 - np.arange(len(found)))


def tuning(ds: Dataset) -> np.ndarray:
    """Tell the images, bool (n,), on which methods may be chosen: `TUNING` in SDNET2018, else a third of the photos.

    None where photos are not known, or hold one class only: what is chosen on images cannot be reported on others of
    the same photo.
    """
    found = ds.cuts["photo"].to_numpy()
    if np.isin(TUNING, found).sum() > len(TUNING) // 2:  # SDNET2018, by whatever name
        return np.isin(found, TUNING)
    known = np.unique(found[found >= 0])
    asked, labels = np.isin(found, known[: len(known) // 3]), ds.index["label"].to_numpy()
    both = all(len(np.unique(labels[part])) == 2 for part in (asked, ~asked))
    return asked if both else np.zeros(len(found), bool)


def judge(labels: np.ndarray, scores: np.ndarray, photo: np.ndarray) -> dict[str, Any]:
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
    found = {name: evaluation.ranked(labels, scores)[name] for name in ("auroc", "average_precision")}
    each = [evaluation.ranked(labels[photo == p], scores[photo == p])["auroc"] for p in np.unique(photo)]
    each = [value for value in each if value is not None]
    found["auroc_by_photo"] = round(float(np.mean(each)), 6) if each else None
    several = len(np.unique(photo)) > 1  # one photo tells nothing of the next
    drawn = evaluation.drawn_auroc(labels, scores, photo) if several else ()
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (None, None)
    found |= {"low": None if low is None else round(low, 6), "high": None if high is None else round(high, 6)}
    return {"n": len(labels), "cracked": int(labels.sum())} | found


def gain(labels: np.ndarray, scores: np.ndarray, before: np.ndarray, photo: np.ndarray) -> dict[str, float | None]:
    """Return how much more AUROC one ranking has than another: gain, and gain_low and gain_high, its 95 % interval.

    The same photos are drawn for both; arguments are those of `judge`. With a single photo there is no interval.
    """
    pair = [evaluation.ranked(labels, s)["auroc"] for s in (scores, before)]
    found = {"gain": None if None in pair else round(pair[0] - pair[1], 6), "gain_low": None, "gain_high": None}
    if len(np.unique(photo)) > 1:
        drawn = [evaluation.drawn_auroc(labels, s, photo) for s in (scores, before)]
        if len(drawn[0]):
            low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
            found |= {"gain_low": round(float(low), 6), "gain_high": round(float(high), 6)}
    return found


def told(row: dict[str, Any]) -> str:
    """Return an AUROC with its interval, as far as there is one."""
    if row["auroc"] is None:
        return "not defined"
    return f"{row['auroc']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else "")


# ---------------------------------------------------------------- what helps


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
class Bench:
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

    source: Dataset
    manifest: pd.DataFrame
    target: Dataset
    kept: synthetic.Store
    weights: str
    engine: str
    folder: Path
    saved: Path | None = None
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

    def features(self, ds: Dataset, rows: np.ndarray, size: int = _SIZE) -> np.ndarray:
        """Return frozen features, float32 (n, dimensions)."""
        return features.of(ds, rows, OWN_BACKBONE, size, self.weights, self.engine).x

    def of_images(self, name: str, of: str, items: list[Any], read: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Return frozen features of made-up images, uint8 (160, 160, 3) each, kept in a file called by name.

        `of` tells what they were made of.
        """

        def compute() -> np.ndarray:
            running, _ = models.features_engine(OWN_BACKBONE, _SIZE, self.weights, self.engine)
            return _stacked(config.progress(engines.stream(running, items, read), name, len(items)))

        key = (of, self.weights, self.engine, self.seed, items)
        return _kept(self.folder, name, key, compute)

    def varied(self, kind: str) -> np.ndarray:
        """Return features of the training images, each as one of `pipelines.VARIATIONS`, or "texture", changes it."""
        rows = self.rows("train")
        free = rows[self.labels[rows] == 0]

        def read(row: int) -> np.ndarray:
            rng, image = np.random.default_rng((self.seed, row)), self.source.read(row, synthetic.PATCH)
            if kind == "texture":
                other = self.source.read(rng.choice(free), synthetic.PATCH)
                return datasets.resize(pipelines.mix_textures(image, other), _SIZE)
            return datasets.resize(pipelines.vary(image, rng, (kind,)), _SIZE)

        return self.of_images(f"varied {kind}", self.source.sha256, rows.tolist(), read)

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of patches of the photos with masks, half as many as there are training images."""
        rows = np.random.default_rng(self.seed).permutation(len(self.kept.images))[: self.few // 2]
        x = self.of_images("photos", "kept", rows.tolist(), lambda row: datasets.resize(self.kept.images[row], _SIZE))
        return x, self.kept.facts["label"].to_numpy()[rows]

    def windows(self, ds: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return features of four overlapping windows of each image, float32 (n, 4, dimensions)."""

        def read(item: tuple[int, int]) -> np.ndarray:
            image = ds.read(item[0])
            side = int(_WINDOW * min(image.shape[:2]))
            y, x = (item[1] // 2) * (image.shape[0] - side), (item[1] % 2) * (image.shape[1] - side)
            return datasets.resize(image[y : y + side, x : x + side], _SIZE)

        items = [(int(row), k) for row in rows for k in range(4)]
        return self.of_images(f"windows {ds.profile.name}", ds.sha256, items, read).reshape(len(rows), 4, -1)


def _kept(folder: Path, name: str, key: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array that is computed once for its key and this code, and found again after a kill."""
    text = repr((key, results.code_hash(), results.versions()))
    named = f"{name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npy"
    if not (folder / named).is_file():
        config.save_array(folder / named, compute())
    return np.load(folder / named)


def _stacked(found: Iterable[tuple[Any, np.ndarray | None, str]]) -> np.ndarray:
    rows = []
    for item, one, problem in found:
        if one is None:
            raise CrackutilsError(f"Image {item} {problem}.")
        rows.append(one)
    return np.stack(rows)


def saved(b: Bench) -> Method:
    """Return the network as it is saved, with its last layer."""

    def odds(ds: Dataset) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: features.of_run(ds, rows, b.saved, b.engine).x[:, 0]

    return Method(SAVED, odds(b.target), odds(b.source))


def methods(b: Bench) -> Iterator[Method]:
    """Yield the ways to score the target, one after the other: frozen features, frozen cells, fine-tuned networks.

    `b.trained` holds fine-tuned networks by name.
    """
    train, val = b.rows("train"), b.rows("val")
    y, val_x, val_y = b.labels[train], b.features(b.source, val), b.labels[val]
    x = b.features(b.source, train)

    def head(*more: tuple[np.ndarray, np.ndarray]) -> features.Head:
        parts = [(x, y), *more]
        stacked = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        return features.fit(*stacked, val_x, val_y, 1000)

    def plain(name: str, fitted: features.Head, size: int = _SIZE) -> Method:
        return Method(name, *(_scorer(b, ds, fitted, size) for ds in (b.target, b.source)))

    usual = head()
    yield plain("frozen features, linear head", usual)
    varied = [(b.varied(kind), y) for kind in (*pipelines.VARIATIONS, "texture")]
    for kind, more in zip((*pipelines.VARIATIONS, "texture"), varied, strict=True):
        yield plain(f"+ {kind} varied in training", head(more))
    drawn = b.drawn()
    yield plain("+ sample photos with thin cracks", head(drawn))
    everything = head(*varied, drawn)
    yield plain("+ all of these", everything)
    fine = [b.features(b.source, rows, _FINE) for rows in (train, val)]
    yield plain("finer resolution (256 pixels)", features.fit(fine[0], y, fine[1], val_y, 1000), _FINE)

    def windowed(ds: Dataset) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: (b.windows(ds, rows) @ usual.weights).max(1) + usual.bias

    yield Method("overlapping windows, the highest counts", windowed(b.target), windowed(b.source))

    def standardised(fitted: features.Head) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: _aligned(b.features(b.target, rows), photos(b.target)[rows], x) @ fitted.weights

    yield Method("batch statistics of each photo", standardised(usual))
    yield Method("+ all of these, and batch statistics of each photo", standardised(everything))

    def coral(rows: np.ndarray) -> np.ndarray:
        there = b.features(b.target, rows)
        moved = recoloured(x, there, np.concatenate([x, val_x]))
        return features.fit(moved[: len(x)], y, moved[len(x) :], val_y, 1000).chances(there)

    yield Method("features aligned without labels (CORAL)", coral)
    yield from _of_cells("frozen network, head on masks", b, _cell_head(b))
    for name, model in b.trained.items():
        yield from _of_cells(name, b, model)
    if b.trained:
        name, model = list(b.trained.items())[-1]
        finer = _mapped(b, model, 320)
        yield Method(f"{name}, at 320 pixels", *(_pooled(finer, ds) for ds in (b.target, b.source)))
    if b.saved is not None:
        yield saved(b)


def _scorer(b: Bench, ds: Dataset, head: features.Head, size: int) -> Callable[[np.ndarray], np.ndarray]:
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


def recoloured(source: np.ndarray, there: np.ndarray, x: np.ndarray) -> np.ndarray:
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


def _cell_head(b: Bench) -> Any:
    """Return the network of `CELLS` as it starts, with a cell head fitted to patches with masks."""
    from sklearn.linear_model import LogisticRegression

    small = replace(CELLS, size=cells.SIDE)
    model, _ = models.build(small, b.weights, b.seed)
    net = keras.Model(model.input, model.get_layer("cells").input)
    rng, grid = np.random.default_rng(b.seed), cells.SIDE // 16
    chosen = np.sort(rng.permutation(len(b.kept.images))[: b.few // 2])
    xs, ys = [], []
    for begin in config.progress(range(0, len(chosen), 32), "cells with masks", unit="batch"):
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
    whole, _ = models.build(CELLS, b.weights, b.seed)
    bias = np.float32([fitted.intercept_[0] - mean @ kernel])
    whole.get_layer("cells").set_weights([kernel[None, None, :, None], bias])
    return whole


def _mapped(b: Bench, model: Any, size: int) -> Callable[[Dataset, np.ndarray], np.ndarray]:
    """Return a function from images to their cells; those of images asked for before are remembered."""
    if model.input_shape[1] != size:
        other, _ = models.build(replace(CELLS, size=size), b.weights, b.seed, load=False)
        other.set_weights(model.get_weights())
        model = other
    known: dict[tuple[str, int], np.ndarray] = {}

    def find(ds: Dataset, rows: np.ndarray) -> np.ndarray:
        missing = np.array([row for row in rows if (ds.sha256, row) not in known], int)
        if len(missing):
            known.update(zip(((ds.sha256, row) for row in missing), cells.maps(model, ds, missing, size), strict=True))
        return np.stack([known[ds.sha256, row] for row in rows])

    return find


def _pooled(find: Callable[[Dataset, np.ndarray], np.ndarray], ds: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: evaluation.top_mean(find(ds, rows), CELLS.cells)


def _of_cells(name: str, b: Bench, model: Any) -> Iterator[Method]:
    find = _mapped(b, model, CELLS.size)
    yield Method(name, _pooled(find, b.target), _pooled(find, b.source))

    def standardised(rows: np.ndarray) -> np.ndarray:
        found, photo = find(b.target, rows), photos(b.target)[rows]
        for p in np.unique(photo):
            here = found[photo == p]
            middle = np.median(here)
            found[photo == p] = (here - middle) / (np.median(np.abs(here - middle)) + 1e-6)
        return evaluation.top_mean(found, CELLS.cells)

    yield Method(f"{name}, batch statistics of each photo", standardised)


def compare(b: Bench) -> tuple[pd.DataFrame, dict[str, Method]]:
    """Try all methods on the tuning photos of the target.

    Returns:
        A row per method: method; n, cracked, auroc, auroc_by_photo, average_precision, low, high (as `judge` has them,
        on tuning photos only); home_auroc and home_errors (share) on validation images of the source, the errors at the
        threshold that is best there, because scores have different scales (NaN where the method makes no sense there).
        And the methods by name. Where there are no tuning photos, no rows, and the saved network alone.
    """
    rows, val = np.flatnonzero(tuning(b.target)), b.rows("val")
    labels, photo = b.target.index["label"].to_numpy()[rows], photos(b.target)[rows]
    table, ways = [], {}
    for method in methods(b) if len(rows) else [saved(b)]:
        ways[method.name] = method
        if not len(rows):
            continue
        row = {"method": method.name} | judge(labels, method.score(rows), photo)
        print(f"{method.name}: AUROC {row['auroc']:.3f}", flush=True)
        row |= {"home_auroc": np.nan, "home_errors": np.nan}
        if method.source is not None:
            here = method.source(val)
            row["home_auroc"] = evaluation.ranked(b.labels[val], here)["auroc"]
            row["home_errors"] = round(evaluation.fewest_errors(b.labels[val], here) / len(val), 6)
        table.append(row)
    return pd.DataFrame(table), ways


def report(
    b: Bench, ways: dict[str, Method], chosen: str, guesses: dict[str, np.ndarray]
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
    held = np.flatnonzero(~tuning(b.target))
    labels, photo = b.target.index["label"].to_numpy()[held], photos(b.target)[held]
    scores = {name: p[held] for name, p in guesses.items()}
    scores |= {name: ways[name].score(held) for name in dict.fromkeys([chosen, SAVED])}
    first = next(iter(scores.values()))
    rows = []
    for name, score in scores.items():
        extra = {"gain": None, "gain_low": None, "gain_high": None}
        extra = extra if score is first else gain(labels, score, first, photo)
        rows.append({"method": name} | judge(labels, score, photo) | extra)
    return rows, scores[SAVED]


# ---------------------------------------------------------------- where it fails


def by_measure(ds: Dataset, rows: np.ndarray, scores: dict[str, np.ndarray]) -> pd.DataFrame:
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
    m, labels = audit.measures(ds).iloc[rows], ds.index["label"].to_numpy()[rows]
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
                auroc = evaluation.ranked(labels[among], score[among])["auroc"]
                row = {"run": name, "measure": measure, "third": third}
                table.append(row | {"cracked": int((among & cracked).sum()), "auroc": auroc})
    return pd.DataFrame(table)


# ---------------------------------------------------------------- robustness


def robustness(
    ds: Dataset, rows: np.ndarray, runs: dict[str, Path], engine: str, seed: int, keep: Path
) -> pd.DataFrame:
    """Return the errors of trained models on corrupted images.

    Args:
        ds: the images.
        rows: which of them.
        runs: run folders by name.
        engine: one of `config.ENGINES`.
        seed: of noise.
        keep: folder where what is computed for a run is found after a kill.

    Returns:
        A row per run, corruption and strength (0 to 5): run, corruption, strength, n, errors, error_rate (threshold
        0.5), auroc.
    """
    labels = ds.index["label"].to_numpy()[rows]
    jobs = [("none", 0)] + [(kind, s) for kind in pipelines.CORRUPTIONS for s in range(1, 6)]
    items = [(kind, strength, int(row)) for kind, strength in jobs for row in rows]

    def corrupted(item: tuple[str, int, int]) -> np.ndarray:
        kind, strength, row = item
        image = ds.read(row, synthetic.PATCH)  # strengths are in pixels of a patch
        return pipelines.corrupt(image, kind, strength, np.random.default_rng((seed, row, strength)))

    table = []
    for name, folder in runs.items():
        p = _chances(folder, engine, f"{name}, corrupted", items, corrupted, (ds.sha256, seed), keep)
        for (kind, strength), chances in zip(jobs, p.reshape(len(jobs), len(rows)), strict=True):
            wrong = int(((chances >= 0.5) != labels).sum())
            row = {"run": name, "corruption": kind, "strength": strength, "n": len(rows), "errors": wrong}
            auroc = evaluation.ranked(labels, chances)["auroc"]
            table.append(row | {"error_rate": round(wrong / len(rows), 6), "auroc": auroc})
    return pd.DataFrame(table)


def scored(ds: Dataset, rows: np.ndarray, folder: Path, engine: str, keep: Path) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), that the model of a run gives to images.

    `keep` is the folder where they are found after a kill.
    """
    items = [int(row) for row in rows]
    return _chances(folder, engine, f"{folder.name}, scoring", items, ds.read, ds.sha256, keep)


def _chances(
    folder: Path, engine: str, what: str, items: list[Any], read: Callable[[Any], np.ndarray], data: Any, keep: Path
) -> np.ndarray:
    from crackutils import scoring

    running, recipe, key = scoring.engine_of(folder, engine)

    def compute() -> np.ndarray:
        found = engines.stream(running, items, lambda item: datasets.resize(read(item), recipe.size))
        return _stacked(config.progress(found, what, len(items)))[:, -1].astype(np.float32)

    return _kept(keep, what, (key, data, items), compute)


def card(metrics: dict[str, Any], recipe: Any) -> str:
    """Return the card of the network of notebook 08: what it is, how it was trained, where it works, where not."""
    m, home, where = metrics, metrics["home"]["test"], metrics["target"]
    net = next(row for row in m["report"] if row["method"] == SAVED)
    thirds = {(r["measure"], r["third"]): r["auroc"] for r in m["by_measure"] if r["run"] == recipe.name}
    lines = [
        f"# {recipe.title}",
        "",
        "- Task: does a concrete tile show a crack, and in which cells of 16x16 pixels?",
        f"- Input: RGB {recipe.size}x{recipe.size}, values 0-255. Output: probability of `{config.CLASSES[1]}`. The"
        f" layer `cells` gives log-odds for each of {(recipe.size // 16) ** 2} cells.",
        f"- Trained on `{m['settings']['profile']}` ({m['data']['train']['images']:,} images, of which only the label"
        " is used) and on photos made by code with their masks; from"
        f" {m['model']['start']['weights']} weights, {m['model']['parameters']:,} parameters,"
        f" {m['stages'][0]['steps']:,} steps.",
        f"- At home: {home['errors']} errors in {home['n']:,} test images at the threshold 0.5 (AUROC"
        f" {home['auroc']:.4f}).",
        f"- Elsewhere, `{where['name']}`: AUROC {told(net)}, average precision {net['average_precision'] or 0:.3f} on"
        f" {net['n']:,} images ({net['cracked']:,} with a crack) of photos on which nothing was chosen; no label of"
        f" theirs fitted anything, {where['tuning_photos']} other photos helped to choose the method.",
        *(
            f"- There, at the threshold {at['threshold']}: recall {at['recall'] or 0:.3f}, precision"
            f" {at['precision'] or 0:.3f}, F1 {at['f1'] or 0:.3f}."
            for at in m["thresholds"]
        ),
        "- Choose the threshold at your own site.",
    ]
    if where["made"]:
        lines.append(
            "- Those images were made by the same code as the photos with masks: no evidence of use elsewhere."
        )
    names = {"width": ("width of the longest dark thing", "narrowest", "widest")}
    names |= {"contrast": ("depth of the darkest 2 %", "faintest", "clearest")}
    names |= {"sharpness": ("sharpness", "most blurred", "sharpest")}
    for measure, (what, low, high) in names.items():
        ends = [thirds.get((measure, k)) for k in (0, 2)]
        if None not in ends:
            lines.append(f"- By {what}: AUROC {ends[0]:.3f} on the {low} third, {ends[1]:.3f} on the {high}.")
    rows = [r for r in m["robustness"] if r["run"] == recipe.name and r["strength"] == 3]
    broken = ", ".join(f"{r['corruption']} {r['error_rate']:.0%}" for r in sorted(rows, key=lambda r: -r["error_rate"]))
    lines += [
        f"- Corrupted images of the profile, middle strength, share that is wrong: {broken}.",
        "- Not tested: whole photos squeezed into one tile, other magnifications than those of these images, other"
        " materials than concrete.",
        '- Load: `crackutils.training.load("<this run\'s folder>")`; score: `python -m crackutils score FOLDER --model'
        " <this run's folder> --out scores.csv`; adapt: `python -m crackutils adapt --labels my.csv --out FOLDER`.",
    ]
    return "\n".join(lines) + "\n"
