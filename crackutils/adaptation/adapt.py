"""Fit the last layer of a trained network to one site, with the labels of its user, and say what that is worth."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets, provenance
from crackutils.adaptation.curve import SCORES, describe_gain, try_learning_curve
from crackutils.adaptation.labels import _refuse, photos_of_tiles, read_labels
from crackutils.detector.features import features_of_run
from crackutils.detector.head import fit_head
from crackutils.detector.runs import find_detector_run
from crackutils.files import write_atomically
from crackutils.recipes import Recipe
from crackutils.runs import read_recipe


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
        raise config.CrackutilsError(f"{out} exists already; give a folder that does not.")
    if model is None:
        model = find_detector_run()
        print(f"model: {config.display_path(model)}")
    model = Path(model)
    base = _base(model)
    ds = datasets.from_files(labels.parent, table["file"].tolist(), table["label"].tolist())
    unusable = ds.left_out["file"] + " " + ds.left_out["reason"]
    _refuse(labels, table, unusable, "the image cannot be used", "correct it, or leave it out")
    copies = ds.index[ds.index["sha256"].duplicated()]
    originals = ds.index.drop_duplicates("sha256").set_index("sha256")["file"]
    again = copies["file"] + " is " + copies["sha256"].map(originals)
    _refuse(labels, table, again, "the picture stood in a row before", "list each picture once")
    photos, told_by = photos_of_tiles(table)
    with _beside(out) as work:
        found = features_of_run(ds, np.arange(len(table)), model, engine)
        y = table["label"].to_numpy()
        curve, why = try_learning_curve(found.x, y, photos, draws=draws)
        weights, bias, penalty = fit_head(found.x, y, photos)
        facts = {
            "model": config.display_path(model),
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
        verdict = why or describe_gain(curve)
        _write(work, model, base | {"run": out.name}, curve, weights, bias, verdict, time.perf_counter() - began)
    if len(curve):
        print(curve.round(4).to_string(index=False))
    print(verdict)
    print(f"the adapted model is in {config.display_path(out)}")
    return curve


def _base(folder: Path) -> dict[str, Any]:
    """Return what an adapted run takes over from the metrics of the run that it began with."""
    read_recipe(folder)
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    if adapted := found["settings"].get("adapted"):
        raise config.CrackutilsError(f"{folder} was adapted already; give the run it began with, {adapted['model']}.")
    return {name: found[name] for name in ("schema", "notebook", "settings") if name in found}


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give a hidden folder that becomes `out` once the block has ended without an error."""
    work = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise config.CrackutilsError(f"{out} cannot be written ({error.strerror}); give another folder.") from error
    try:
        yield work
        try:
            if out.is_dir():
                out.rmdir()  # Windows renames onto no folder, not even an empty one
            os.replace(work, out)
        except OSError as error:
            raise config.CrackutilsError(f"{out} cannot be written ({error.strerror}); give another folder.") from error
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
    write_atomically(folder / "model" / "README.md", _card(recipe, content["settings"]["adapted"], curve, verdict))
    if len(curve):
        import matplotlib.pyplot as plt

        from crackutils.adaptation import figures

        write_atomically(folder / "learning_curve.csv", curve.to_csv(index=False, lineterminator="\n"))
        (folder / "figures").mkdir()
        figure = figures.learning_curve(curve)
        figure.savefig(
            folder / "figures" / "learning_curve.png", dpi=120, bbox_inches="tight", metadata={"Software": None}
        )
        plt.close(figure)
    content = content | {"learning_curve": curve.round(6).to_dict("records"), "verdict": verdict}
    facts = {
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "timings": {"seconds": round(seconds, 2)},
    }
    write_atomically(folder / "run.json", json.dumps(facts, indent=1) + "\n")
    write_atomically(folder / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _card(recipe: Recipe, facts: dict[str, Any], curve: pd.DataFrame, verdict: str) -> str:
    photos = {"column": "by the CSV's column", "names": "by the files' names", "nothing": "each file taken for one"}
    fitted = "slope and offset of the network's own log-odds only"
    if facts["penalty"] is not None:
        fitted = f"weights of the features too, penalty {facts['penalty']:g}"
    lines = [
        f"# {recipe.title}, adapted to one site",
        "",
        "- Task: does a square concrete patch show a crack?",
        f"- Input: RGB {recipe.size}x{recipe.size}, values 0-255. Output: probability of `{config.CLASSES[1]}`.",
        f"- Began with the run `{facts['model']}` (SHA-256 of its weights {facts['model_sha256'][:12]}); only the last"
        " layer was fitted.",
        f"- Adapted on {facts['labels']:,} labelled tiles, {facts['positives']:,} of them `{config.CLASSES[1]}`, of"
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
            for score in SCORES:
                gain, low, high = (row[f"{score}_gain{part}"] for part in ("", "_low", "_high"))
                cells += [f"{row[score]:.4f}", f"{gain:+.4f} ({low:+.4f} to {high:+.4f})" if row["n"] else "-"]
            lines.append(f"| {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
