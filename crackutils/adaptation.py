"""Fit the last layer of a trained network to one site, with the labels of its user, and say what that is worth."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from crackutils import config, datasets, features, recipes, results
from crackutils.config import CLASSES, CrackutilsError

PENALTIES = (float("inf"), 3e4, 3e3, 3e2, 3e1)  # of the features' weights, in nats; infinite: they stay zero
FEWEST = 10  # labels
_LEAST = 0.05  # slope of the network's own log-odds: a handful of tiles must not turn its opinion round
_WEAK = 0.01  # penalty that keeps slope and offset finite where two numbers can tell all tiles apart
_FOLDS = 5
_LEVEL = 0.95
_LABELS = {"0": 0, "1": 1} | {name.lower(): label for label, name in enumerate(CLASSES)}
_NAMED = re.compile(r"(\d+)-\d+\.\w+")  # PHOTO-TILE.jpg, as SDNET2018 has it


def adapt(
    labels: str | Path, out: str | Path, model: str | Path | None = None, engine: str = "litert", draws: int = 20
) -> pd.DataFrame:
    """Fit the last layer of a run of `recipes.CELLS` to labelled tiles of one site and write it as a run of its own.

    What is written loads and scores like the run it came from, and holds the learning curve beside it. It appears whole
    or not at all. Features are kept: a second call with further labels computes only what is new.

    Args:
        labels: CSV file with the columns file (relative to the CSV's folder, or absolute), label (0 or 1, Negative or
            Positive) and, if it is known, photo: which photo a tile was cut from.
        out: folder to write; it must not exist, or be empty.
        model: the run to begin with; None takes what `best_cells` names.
        engine: one of `config.ENGINES`.
        draws: of `learning_curve`.

    Returns:
        The learning curve; without rows where there can be none, which is printed.

    Raises:
        CrackutilsError: a CSV file that cannot be used, images that cannot be read, no run, an `out` that is not empty
            or cannot be written, an engine that is not to be had.
    """
    labels, out, began = Path(labels), Path(out).resolve(), time.perf_counter()
    table = read_labels(labels)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CrackutilsError(f"{out} exists already; give a folder that does not.")
    if model is None:
        model = best_cells()
        print(f"model: {config.shown(model)}")
    model = Path(model)
    base = _base(model)
    ds = datasets.listed(labels.parent, table["file"].tolist(), table["label"].tolist())
    unusable = ds.left_out["file"] + " " + ds.left_out["reason"]
    _refuse(labels, table, unusable, "the image cannot be used", "correct it, or leave it out")
    copies = ds.index[ds.index["sha256"].duplicated()]
    originals = ds.index.drop_duplicates("sha256").set_index("sha256")["file"]
    again = copies["file"] + " is " + copies["sha256"].map(originals)
    _refuse(labels, table, again, "the picture stood in a row before", "list each picture once")
    photos, told_by = _photos(table)
    with _beside(out) as work:
        found = features.of_run(ds, np.arange(len(table)), model, engine)
        y = table["label"].to_numpy()
        curve, why = tried(found.x, y, photos, draws=draws)
        weights, bias, penalty = fit_head(found.x, y, photos)
        facts = {
            "model": config.shown(model),
            "model_sha256": found.facts["model"],
            "labels": len(y),
            "positives": int(y.sum()),
            "photos": len(np.unique(photos)),
            "photos_told_by": told_by,
            "images_sha256": ds.sha256,
            "penalty": penalty if np.isfinite(penalty) else None,
            "own_weight": round(float(weights[0]), 6),
            "engine": found.facts["engine"],
            "seed": config.DEFAULT_SEED,
        }
        base["settings"]["adapted"] = facts
        verdict = why or judged(curve)
        _write(work, model, base | {"run": out.name}, curve, weights, bias, verdict, time.perf_counter() - began)
    if len(curve):
        print(curve.round(4).to_string(index=False))
    print(verdict)
    print(f"the adapted model is in {config.shown(out)}")
    return curve


def best_cells() -> Path:
    """Return the folder of the run of `recipes.CELLS` on the largest METU profile that has one, else on the sample.

    Only the run with the usual settings counts. Raises CrackutilsError where there is none.
    """
    for profile in ("metu", "metu-half", "metu-tenth", "metu-mini", "sample"):
        home = config.results_dir() / profile / "08_cross_dataset"
        # where it was tested does not change the network
        for folder in (home / recipes.CELLS.name, *sorted(home.glob(f"{recipes.CELLS.name}--target-*"))):
            finished = (folder / "run.json").is_file() and (folder / "model" / "model.weights.h5").is_file()
            if finished and "--" not in folder.name.removeprefix(recipes.CELLS.name).removeprefix("--target-"):
                return folder
    raise CrackutilsError(
        f"No finished run of notebook 08 is in {config.shown(config.results_dir())}; run make run-08 PROFILE=metu-half"
        " first, or give a run's folder as --model."
    )


def _base(folder: Path) -> dict[str, Any]:
    """Return what an adapted run takes over from the metrics of the run that it began with."""
    results.trained_recipe(folder)
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    if adapted := found["settings"].get("adapted"):
        raise CrackutilsError(f"{folder} was adapted already; give the run it began with, {adapted['model']}.")
    return {name: found[name] for name in ("schema", "notebook", "settings") if name in found}


# ---------------------------------------------------------------- the user's labels


def read_labels(file: str | Path) -> pd.DataFrame:
    """Read and check a CSV file of labels, as `adapt` explains it.

    Returns:
        A row per tile: file, label (int, 0 or 1) and, where the CSV has it, photo (text).

    Raises:
        CrackutilsError: it cannot be read, lacks a column, or holds a row that cannot be used; the message counts such
            rows and names the first.
    """
    file = Path(file)
    try:
        with open(file, newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle, strict=True) if row]
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror}); give a CSV file of labels.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CrackutilsError(f"{file} is no CSV file in UTF-8 ({error}); save it as one.") from error
    names = [name.strip().lower() for name in rows[0]] if rows else []
    counts = {name: names.count(name) for name in ("file", "label", "photo")}
    if wrong := [name for name, count in counts.items() if count > 1 or (not count and name != "photo")]:
        raise CrackutilsError(
            f"{file} has not one column {' and '.join(wrong)}; its first line must be file,label or file,label,photo,"
            " with commas."
        )
    table = pd.DataFrame([row for row in rows[1:] if len(row) == len(names)], columns=names, dtype=object)
    cut = [",".join(row) for row in rows[1:] if len(row) != len(names)]
    _refuse(file, rows[1:], cut, "there are more or fewer fields than in the first line", "correct them")
    table = table.loc[:, [name for name in ("file", "label", "photo") if name in names]]
    table = table.apply(lambda column: column.str.strip())
    label, paths = table["label"].str.lower().map(_LABELS), [file.parent / name for name in table["file"]]
    remedy = f"write 0 or 1, or {' or '.join(CLASSES)}"
    _refuse(file, table, (table["file"] + ": " + table["label"])[label.isna()], "the label is none", remedy)
    gone = table["file"][[not path.is_file() for path in paths]]
    _refuse(file, table, gone, "the file does not exist", f"paths begin at {file.parent.absolute()}")
    again = table["file"][pd.Series([path.resolve() for path in paths], dtype=object).duplicated()]
    _refuse(file, table, again, "the file stood in a row before", "list each picture once")
    if "photo" in table:
        unknown = table["file"][table["photo"] == ""]
        _refuse(file, table, unknown, "the photo is missing", "fill it in, or leave the column out")
    table["label"] = label.astype(int)
    if len(table) < FEWEST:
        raise CrackutilsError(f"{file} holds {len(table)} labels; give at least {FEWEST}, better some hundred.")
    if table["label"].nunique() < 2:
        only = CLASSES[table["label"].iloc[0]]
        raise CrackutilsError(f"{file} labels all {len(table)} tiles {only}; give tiles of both classes.")
    return table


def _refuse(file: Path, rows: Sized, wrong: Iterable[str], what: str, remedy: str) -> None:
    """Raise one sentence that counts the wrong ones among rows and names the first, if there are any."""
    if wrong := list(wrong):
        raise CrackutilsError(f"{file}: in {len(wrong)} of {len(rows)} rows {what} (first: {wrong[0]}); {remedy}.")


def _photos(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return which photo each tile is from, int (n,), and what told so: "column", "names" or "nothing"."""
    names = [_NAMED.fullmatch(Path(file).name) for file in table["file"]]
    if "photo" in table:
        photos, told_by = table["photo"], "column"
        print(f"{photos.nunique():,} photos, by the column photo")
    elif all(names):
        photos, told_by = pd.Series([name[1] for name in names]), "names"
        print(f"{photos.nunique():,} photos, by the names PHOTO-TILE")
    else:
        photos, told_by = table["file"], "nothing"
        print(
            "Each file counts as a photo of its own, as there is no column photo: where tiles are of one photo the"
            " intervals below are too narrow and the gains too large."
        )
    return pd.factorize(photos)[0], told_by


# ---------------------------------------------------------------- the head


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
        raise CrackutilsError("The labelled tiles are all of one class; an adapted head needs both.")
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


# ---------------------------------------------------------------- what labels are worth

_SCORES = ("auroc", "average_precision")
_CURVE = ["n", "draws", *(f"{score}{part}" for score in _SCORES for part in ("", "_gain", "_gain_low", "_gain_high"))]


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
    for label, name in enumerate(CLASSES):
        if (count := len(np.unique(photos[labels == label]))) < 2:
            raise CrackutilsError(
                f"There is no learning curve: {name} tiles come from {count} photo{'s' * (count != 1)}, and both halves"
                " of the photos need some; label tiles of further photos."
            )
    if photos.max() < 3:
        raise CrackutilsError(
            f"There is no learning curve: the tiles come from {photos.max() + 1} photos, and half of them must be two,"
            " or nothing could choose the penalty; label tiles of at least 4 photos."
        )
    halves = [_halves(labels, photos, np.random.default_rng([seed, draw])) for draw in range(draws)]
    room = min(len(order) for order, _ in halves)
    fitting = [n for n in sorted(set(ns)) if n <= room]
    if not fitting:
        raise CrackutilsError(
            f"There is no learning curve: half of the photos hold as few as {room} labelled tiles, and it begins at"
            f" {min(ns)}; label more."
        )
    found = np.zeros((draws, 1 + len(fitting), len(_SCORES)))
    steps = config.progress(range(draws), "learning curve", unit="draw")
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
        for s, score in enumerate(_SCORES):
            parts = (found[:, k, s].mean(), gains[:, k, s].mean(), low[k, s], high[k, s])
            row |= dict(zip((score, f"{score}_gain", f"{score}_gain_low", f"{score}_gain_high"), parts, strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=_CURVE)


def tried(
    x: np.ndarray, labels: np.ndarray, photos: np.ndarray, draws: int = 20, seed: int = config.DEFAULT_SEED
) -> tuple[pd.DataFrame, str]:
    """Return `learning_curve` and an empty text; or one without rows, and why there is none."""
    try:
        return learning_curve(x, labels, photos, draws=draws, seed=seed), ""
    except CrackutilsError as error:
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


def judged(curve: pd.DataFrame) -> str:
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


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give a hidden folder that becomes `out` once the block has ended without an error."""
    work = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise CrackutilsError(f"{out} cannot be written ({error.strerror}); give another folder.") from error
    try:
        yield work
        try:
            if out.is_dir():
                out.rmdir()  # Windows renames onto no folder, not even an empty one
            os.replace(work, out)
        except OSError as error:
            raise CrackutilsError(f"{out} cannot be written ({error.strerror}); give another folder.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(
    folder: Path,
    model: Path,
    content: dict[str, Any],
    curve: pd.DataFrame,
    weights: np.ndarray,
    bias: float,
    verdict: str,
    seconds: float,
) -> None:
    from crackutils import training

    net, recipe = training.load(model)
    kernel, offset = net.get_layer("p_crack").get_weights()
    # what was fitted multiplies the log-odds of the last layer as it was, and adds to them
    kernel = weights[0] * kernel[:, 0] + np.concatenate([[0.0], weights[1:]])
    last = [kernel[:, None].astype(np.float32), np.float32([weights[0] * offset[0] + bias])]
    net.get_layer("p_crack").set_weights(last)
    (folder / "model").mkdir()
    net.save_weights(folder / "model" / "model.weights.h5")
    config.write_atomically(
        folder / "model" / "README.md", _card(recipe, content["settings"]["adapted"], curve, verdict)
    )
    if len(curve):
        import matplotlib.pyplot as plt

        from crackutils import plots

        config.write_atomically(folder / "learning_curve.csv", curve.to_csv(index=False, lineterminator="\n"))
        (folder / "figures").mkdir()
        figure = plots.learning_curve(curve)
        figure.savefig(
            folder / "figures" / "learning_curve.png", dpi=120, bbox_inches="tight", metadata={"Software": None}
        )
        plt.close(figure)
    content = content | {"learning_curve": curve.round(6).to_dict("records"), "verdict": verdict}
    facts = {"versions": results.versions(), "machine": results.machine(), "timings": {"seconds": round(seconds, 2)}}
    config.write_atomically(folder / "run.json", json.dumps(facts, indent=1) + "\n")
    config.write_atomically(folder / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _card(recipe: recipes.Recipe, facts: dict[str, Any], curve: pd.DataFrame, verdict: str) -> str:
    photos = {"column": "by the CSV's column", "names": "by the files' names", "nothing": "each file taken for one"}
    fitted = "slope and offset of the network's own log-odds only"
    if facts["penalty"] is not None:
        fitted = f"weights of the features too, penalty {facts['penalty']:g}"
    lines = [
        f"# {recipe.title}, adapted to one site",
        "",
        "- Task: does a square concrete patch show a crack?",
        f"- Input: RGB {recipe.size}x{recipe.size}, values 0-255. Output: probability of `{CLASSES[1]}`.",
        f"- Began with the run `{facts['model']}` (SHA-256 of its weights {facts['model_sha256'][:12]}); only the last"
        " layer was fitted.",
        f"- Adapted on {facts['labels']:,} labelled tiles, {facts['positives']:,} of them `{CLASSES[1]}`, of"
        f" {facts['photos']:,} photos ({photos[facts['photos_told_by']]}): {fitted}, chosen by cross-validation over"
        " photos.",
        f"- {verdict}",
        '- Load: `crackutils.training.load("<this folder>")`; score: `python -m crackutils score IMAGES --out out.csv'
        " --model <this folder>`.",
        "- Limits: fitted to one site and one camera. On further photos of them expect what the curve says; on another"
        " site nothing was measured, and the unadapted network may be the better one. Probabilities are those of a site"
        f" with {facts['positives'] / facts['labels']:.0%} of tiles cracked.",
    ]
    if len(curve):
        lines += [
            "",
            f"Halves of the photos, {curve['draws'].iloc[0]} draws; differences from the unadapted network (0 labels)"
            " on the same test halves, with the middle 95 % of the draws. The draws share photos: the intervals are"
            " approximate.",
            "",
            "| Labelled tiles | AUROC | Difference | Average precision | Difference |",
            "|---|---|---|---|---|",
        ]
        for row in curve.to_dict("records"):
            cells = []
            for score in _SCORES:
                gain, low, high = (row[f"{score}_gain{part}"] for part in ("", "_low", "_high"))
                cells += [f"{row[score]:.4f}", f"{gain:+.4f} ({low:+.4f} to {high:+.4f})" if row["n"] else "-"]
            lines.append(f"| {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
