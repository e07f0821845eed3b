"""What a model is worth on other people's concrete, what helps it there, and what breaks it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import audit, cells, config, datasets, engines, evaluation, features, models, pipelines, synthetic
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


def usual(profile: config.Profile) -> str:
    """Return where a profile's models are tested if nothing else is asked for: SDNET2018's walls, or walls by code."""
    return "sdnet" if profile.source == "metu" else "walls"


def chosen_target(name: str, profile: config.Profile) -> str:
    """Return `name`, or the `usual` one where it is empty; where that is not here, walls made by code, and say so."""
    if name or all((datasets.raw_folder(usual(profile)) / kind).is_dir() for kind in config.CLASSES):
        return name or usual(profile)
    if usual(profile) == "sdnet":
        print("SDNET2018's walls are not here (make data SOURCE=sdnet FROM=...): tested on walls made by code.")
    return "walls"


def target(name: str) -> Dataset:
    """Return the images to test on: those of a profile, or of a folder with Negative/ and Positive/.

    Raises:
        CrackutilsError: neither a profile nor such a folder; what `datasets.load` raises.
    """
    if name in config.PROFILES:
        return datasets.load(config.profile(name))
    folder = Path(name).expanduser()
    folder = folder if folder.is_absolute() else config.ROOT / folder
    if not folder.is_dir():
        raise CrackutilsError(
            f"TARGET={name} is neither a profile ({', '.join(config.PROFILES)}) nor a folder; name a folder with"
            " Negative/ and Positive/ in it."
        )
    if not all((folder / kind).is_dir() for kind in config.CLASSES):
        raise CrackutilsError(
            f"TARGET={name} holds no Negative/ and Positive/, so nothing can be counted there; to score images without"
            f" labels run python -m crackutils score {name} --out scores.csv."
        )
    return datasets.at(folder)


def compared(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the runs that are tested elsewhere, by name: of our recipes, and the best published by validation loss."""
    usual_runs = {run["run"]: run for run in runs if run["run"] in RECIPES}
    published = [run for name, run in usual_runs.items() if name in PUBLISHED]
    best = min(published, key=lambda run: (run["val"]["loss"], run["run"]), default=None)
    return {name: run for name, run in usual_runs.items() if name not in PUBLISHED or run is best}


def photos(ds: Dataset) -> np.ndarray:
    """Return which photo each image was cut from, int (n,); images whose photo is not known get one of their own."""
    found = ds.cuts["photo"].to_numpy()
    return np.where(found >= 0, found, -1 - np.arange(len(found)))


def tuning(ds: Dataset) -> np.ndarray:
    """Tell the images, bool (n,), on which methods may be chosen: `TUNING` in SDNET2018, else a third of the photos.

    None where photos are not known: what is chosen on images cannot be reported on others of the same photo.
    """
    found = ds.cuts["photo"].to_numpy()
    if ds.profile.source == "sdnet":
        return np.isin(found, TUNING)
    known = np.unique(found[found >= 0])
    return np.isin(found, known[: len(known) // 3])


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


# ---------------------------------------------------------------- what helps


@dataclass(frozen=True)
class Method:
    """A way to score images of the target.

    Attributes:
        name: what is done.
        score: from rows of the target to scores (n,), the higher the more like a crack; it sees no label.
        source: the same for rows of the source.
    """

    name: str
    score: Callable[[np.ndarray], np.ndarray]
    source: Callable[[np.ndarray], np.ndarray]


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
    few: int = 4000
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

    def of_images(self, name: str, items: list[Any], read: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Return frozen features of made-up images, uint8 (160, 160, 3) each, kept in a file called by name."""
        file = self.folder / f"{name.replace(' ', '-')}-{_hash(self.target.sha256, self.source.sha256, items)}.npy"
        if not file.is_file():
            running, _ = models.features_engine(OWN_BACKBONE, _SIZE, self.weights, self.engine)
            found = config.progress(engines.stream(running, items, read), name, len(items))
            x = np.stack([one for _, one, _ in found])
            config.save_array(file, x)
        return np.load(file)

    def varied(self, kind: str) -> np.ndarray:
        """Return features of the training images, each as one of `pipelines.VARIATIONS`, or "texture", changes it."""
        rows = self.rows("train")
        free = rows[self.labels[rows] == 0]

        def read(row: int) -> np.ndarray:
            rng, image = np.random.default_rng((self.seed, row)), self.source.read(row)
            if kind == "texture":
                other = datasets.resize(self.source.read(rng.choice(free)), len(image))
                return datasets.resize(pipelines.mix_textures(image, other), _SIZE)
            return datasets.resize(pipelines.vary(image, rng, (kind,)), _SIZE)

        return self.of_images(f"varied {kind}", rows.tolist(), read)

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of patches of the photos with masks, half as many as there are training images."""
        rows = np.random.default_rng(self.seed).permutation(len(self.kept.images))[: self.few // 2]
        x = self.of_images("photos", rows.tolist(), lambda row: datasets.resize(self.kept.images[row], _SIZE))
        return x, self.kept.facts["label"].to_numpy()[rows]

    def windows(self, ds: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return features of four overlapping windows of each image, float32 (n, 4, dimensions)."""

        def read(item: tuple[int, int]) -> np.ndarray:
            image = ds.read(item[0])
            side = int(_WINDOW * min(image.shape[:2]))
            y, x = (item[1] // 2) * (image.shape[0] - side), (item[1] % 2) * (image.shape[1] - side)
            return datasets.resize(image[y : y + side, x : x + side], _SIZE)

        items = [(int(row), k) for row in rows for k in range(4)]
        return self.of_images(f"windows {ds.profile.source}", items, read).reshape(len(rows), 4, -1)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


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
    yield plain("+ all of these", head(*varied, drawn))
    fine = [b.features(b.source, rows, _FINE) for rows in (train, val)]
    yield plain("finer resolution (256 pixels)", features.fit(fine[0], y, fine[1], val_y, 1000), _FINE)

    def windowed(ds: Dataset) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: (b.windows(ds, rows) @ usual.weights).max(1) + usual.bias

    yield Method("overlapping windows, the highest counts", windowed(b.target), windowed(b.source))

    def standardised(rows: np.ndarray) -> np.ndarray:
        return _aligned(b.features(b.target, rows), photos(b.target)[rows], x) @ usual.weights

    yield Method("batch statistics of each photo", standardised, _scorer(b, b.source, usual, _SIZE))

    def coral(rows: np.ndarray) -> np.ndarray:
        there = b.features(b.target, rows)
        moved = recoloured(x, there, x), recoloured(x, there, val_x)
        return features.fit(moved[0], y, moved[1], val_y, 1000).chances(there)

    yield Method("features aligned without labels (CORAL)", coral, _scorer(b, b.source, usual, _SIZE))
    yield from _of_cells("frozen network, head on masks", b, _cell_head(b))
    for name, model in b.trained.items():
        yield from _of_cells(name, b, model)
    if b.trained:
        name, model = list(b.trained.items())[-1]
        finer = _mapped(b, model, 320)
        yield Method(f"{name}, at 320 pixels", *(_pooled(finer, ds) for ds in (b.target, b.source)))
        asked = [lambda rows, ds=ds: cells.log_odds(model, ds, rows, CELLS.size) for ds in (b.target, b.source)]
        yield Method(SAVED, *asked)


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

    small = CELLS.from_dict(CELLS.as_dict() | {"size": cells.SIDE})
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
        other, _ = models.build(CELLS.from_dict(CELLS.as_dict() | {"size": size}), b.weights, b.seed, load=False)
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
    return lambda rows: top_mean(find(ds, rows))


def _of_cells(name: str, b: Bench, model: Any) -> Iterator[Method]:
    find = _mapped(b, model, CELLS.size)
    yield Method(name, _pooled(find, b.target), _pooled(find, b.source))

    def standardised(rows: np.ndarray) -> np.ndarray:
        found, photo = find(b.target, rows), photos(b.target)[rows]
        for p in np.unique(photo):
            here = found[photo == p]
            middle = np.median(here)
            found[photo == p] = (here - middle) / (np.median(np.abs(here - middle)) + 1e-6)
        return top_mean(found)

    yield Method(f"{name}, batch statistics of each photo", standardised, _pooled(find, b.source))


def top_mean(found: np.ndarray) -> np.ndarray:
    """Return what the network makes of its cells (n, h, w): the mean of the most crack-like of each image."""
    flat = np.sort(found.reshape(len(found), -1), 1)
    return flat[:, -models.top_count(CELLS.cells, flat.shape[1]) :].mean(1)


def compare(b: Bench, found: Iterable[Method]) -> pd.DataFrame:
    """Return a row per method with what it is worth on the tuning photos of the target, and at home.

    Returns:
        method, auroc, auroc_by_photo, average_precision, low, high (as `judge` has them; on tuning photos only), and
        home_auroc and home_errors (share) on validation images of the source, the errors at the threshold that is best
        there, because scores have different scales.
    """
    rows, val = np.flatnonzero(tuning(b.target)), b.rows("val")
    labels, photo = b.target.index["label"].to_numpy()[rows], photos(b.target)[rows]
    table = []
    for method in found if len(rows) else ():
        scores = judge(labels, method.score(rows), photo)
        here = method.source(val)
        home = {"home_auroc": evaluation.ranked(b.labels[val], here)["auroc"]}
        home["home_errors"] = round(evaluation.fewest_errors(b.labels[val], here) / len(val), 6)
        table.append({"method": method.name} | scores | home)
        print(f"{method.name}: AUROC {scores['auroc']:.3f}", flush=True)
    return pd.DataFrame(table)


# ---------------------------------------------------------------- where it fails


def by_measure(ds: Dataset, rows: np.ndarray, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return how well cracks of several kinds are told from images without a crack.

    Args:
        ds: the images.
        rows: which of them.
        scores: by name, (n,) for these rows.

    Returns:
        A row per name, measure and third: run, measure (width and contrast of the cracks; sharpness of all images),
        third (0 the thinnest, faintest, most blurred), from_, to (values of the measure that bound it), cracked, auroc.
        Cracks of a third are set against all images without a crack; for sharpness against those of the same third.
    """
    m, labels = audit.measures(ds).iloc[rows], ds.index["label"].to_numpy()[rows]
    table = []
    for measure, column in (("width", "width"), ("contrast", "depth"), ("sharpness", "sharpness")):
        value, cracked = m[column].to_numpy(), labels == 1
        edges = np.quantile(value if measure == "sharpness" else value[cracked], [0, 1 / 3, 2 / 3, 1])
        edges[0], edges[-1] = -np.inf, np.inf
        for third in range(3):
            inside = (value > edges[third]) & (value <= edges[third + 1])
            among = inside if measure == "sharpness" else inside & cracked | ~cracked
            bounds = {"from_": edges[third], "to": edges[third + 1]}
            for name, score in scores.items():
                auroc = evaluation.ranked(labels[among], score[among])["auroc"]
                row = {"run": name, "measure": measure, "third": third} | bounds
                table.append(row | {"cracked": int((among & cracked).sum()), "auroc": auroc})
    return pd.DataFrame(table)


# ---------------------------------------------------------------- robustness


def robustness(ds: Dataset, rows: np.ndarray, runs: dict[str, Path], engine: str, seed: int) -> pd.DataFrame:
    """Return the errors of trained models on corrupted images.

    Args:
        ds: the images.
        rows: which of them.
        runs: run folders by name.
        engine: one of `config.ENGINES`.
        seed: of noise.

    Returns:
        A row per run, corruption and strength (0 to 5): run, corruption, strength, n, errors, error_rate (threshold
        0.5), auroc.
    """
    from crackutils import scoring

    labels = ds.index["label"].to_numpy()[rows]
    jobs = [("none", 0)] + [(kind, s) for kind in pipelines.CORRUPTIONS for s in range(1, 6)]
    table = []
    for name, folder in runs.items():
        running, recipe, _ = scoring.engine_of(folder, engine)
        items = [(kind, strength, int(row)) for kind, strength in jobs for row in rows]

        def read(item: tuple[str, int, int], size: int = recipe.size) -> np.ndarray:
            kind, strength, row = item
            image = pipelines.corrupt(ds.read(row), kind, strength, np.random.default_rng((seed, row, strength)))
            return datasets.resize(image, size)

        stream = config.progress(engines.stream(running, items, read), f"{name}, corrupted", len(items))
        p = np.array([chances[-1] for _, chances, _ in stream]).reshape(len(jobs), len(rows))
        for (kind, strength), chances in zip(jobs, p, strict=True):
            wrong = int(((chances >= 0.5) != labels).sum())
            row = {"run": name, "corruption": kind, "strength": strength, "n": len(rows), "errors": wrong}
            auroc = evaluation.ranked(labels, chances)["auroc"]
            table.append(row | {"error_rate": round(wrong / len(rows), 6), "auroc": auroc})
    return pd.DataFrame(table)


def scored(ds: Dataset, rows: np.ndarray, folder: Path, engine: str) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), that the model of a run gives to images."""
    from crackutils import scoring

    running, recipe, _ = scoring.engine_of(folder, engine)
    stream = engines.stream(running, [int(row) for row in rows], lambda row: ds.read(row, recipe.size))
    found = config.progress(stream, f"{folder.name}", len(rows))
    return np.array([chances[-1] for _, chances, _ in found], np.float32)


def card(metrics: dict[str, Any], recipe: Any) -> str:
    """Return the card of the network of notebook 08: what it is, how it was trained, where it works, where not."""
    m, home = metrics, metrics["home"]
    report = {row["method"]: row for row in m["report"]}
    net = report[SAVED]
    thirds = {(r["measure"], r["third"]): r for r in m["by_measure"] if r["run"] == recipe.name}
    lines = [
        f"# {recipe.title}",
        "",
        "- Task: does a concrete tile show a crack, and in which cells of 16x16 pixels?",
        f"- Input: RGB {recipe.size}x{recipe.size}, values 0-255. Output: probability of `{config.CLASSES[1]}`. The"
        f" layer `cells` gives log-odds for each of {(recipe.size // 16) ** 2} cells.",
        f"- Trained on `{m['settings']['profile']}` ({m['data']['train']['images']:,} images, of which only the label"
        " is"
        f" used) and on photos made by code with their masks; from {m['model']['start']['weights']} weights,"
        f" {m['model']['parameters']:,} parameters, {m['stages'][0]['steps']:,} steps. No label of"
        f" `{m['target']['name']}` was used.",
        f"- At home: {home['test']['errors']} errors in {home['test']['n']:,} test images at the threshold 0.5"
        f" (AUROC {home['test']['auroc']:.4f}).",
        f"- Elsewhere, `{m['target']['name']}`, photos on which nothing was chosen ({net['n']:,} images,"
        f" {net['cracked']:,} with a crack): AUROC {net['auroc']:.3f}"
        + (f" (95 % interval over photos {net['low']:.3f} to {net['high']:.3f})" if net["low"] is not None else "")
        + f", average precision {net['average_precision']:.3f}.",
    ]
    for measure, (low, high) in {
        "width": ("thinnest", "widest"),
        "contrast": ("faintest", "clearest"),
        "sharpness": ("most blurred", "sharpest"),
    }.items():
        ends = [thirds[measure, k]["auroc"] for k in (0, 2)]
        if None not in ends:
            lines.append(f"- By {measure}: AUROC {ends[0]:.3f} on the {low} third, {ends[1]:.3f} on the {high}.")
    wrong: dict[str, float] = {}
    for row in m["robustness"]:
        if row["run"] == recipe.name and row["strength"] == 3:
            wrong[row["corruption"]] = row["error_rate"]
    told = ", ".join(f"{kind} {rate:.0%}" for kind, rate in sorted(wrong.items(), key=lambda pair: -pair[1]))
    lines += [
        f"- Corrupted images of the profile, middle strength, share that is wrong: {told}.",
        "- Made for tiles of 200-300 pixels a side and cracks of one pixel and more. Not for whole photos squeezed into"
        " one tile, and untested on other materials than concrete. At another site the ranking holds better than the"
        " threshold 0.5: choose it there, or adapt with labels of your own.",
        '- Load: `crackutils.training.load("<this run\'s folder>")`; score: `python -m crackutils score FOLDER --model'
        " <this run's folder> --out scores.csv`; adapt: `python -m crackutils adapt --labels my.csv --out FOLDER`.",
    ]
    return "\n".join(lines) + "\n"
