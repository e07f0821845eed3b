"""The command `adapt`: from site labels to a run folder with the adapted detector and its learning curve."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from crackutils import config, datasets, provenance, training
from crackutils.adaptation.curve import describe_gain, plot_learning_curve, try_learning_curve
from crackutils.adaptation.labels import photos_of_tiles, read_labels
from crackutils.config import CrackutilsError, display_path
from crackutils.detector.head import fit_head
from crackutils.detector.runs import SHIPPED, features_of_run, is_adapted
from crackutils.files import explain_write_errors, name_some, render_template, replacing_folder, write_atomically
from crackutils.folders import SYSTEM
from crackutils.stages import Recipe
from crackutils.userfiles.read import refuse_rows
from crackutils.userfiles.write import table_bytes

_WRITTEN = {f"model/{name}" for name in ("README.md", "model.keras", "model.weights.h5", "summary.txt")}
_WRITTEN |= {"metrics.json", "run.json", "learning_curve.csv", "figures/learning_curve.png"}


def adapt(
    labels: str | Path, out: str | Path, model: str | Path | None = None, engine: str = "litert", force: bool = False
) -> pd.DataFrame:
    """Fit the last layer of a run of `DETECTOR` to labelled tiles of one site and write the result as a new run.

    The new run loads and scores like the original one, and holds the learning curve. It is written whole or not at all.
    Features are cached: a second call with more labels computes only the new ones. Returns the learning curve, without
    rows if it cannot be measured; the reason is printed.

    `labels` is a CSV file or a spreadsheet with the columns file (relative to the table's folder, or absolute), label
    or crack (0 or 1, or what `class_of` knows) and, if it is known, photo: the photo that a tile was cut from. The
    folder `out` must not exist, or be empty, or hold an adapted model, which `force` replaces. `model` None takes the
    network of the package; `engine` is one of `config.ENGINES`. Raises CrackutilsError where labels, images, run,
    folder or engine cannot be used.
    """
    labels, out, began = Path(labels), Path(out).resolve(), time.perf_counter()
    table = read_labels(labels)
    refuse_out(out, force)
    model = Path(model or SHIPPED)
    net, recipe, run = read_base(model)
    ds, y = _read_tiles(labels, table), table["label"].to_numpy()
    photos, source = photos_of_tiles(table)
    writing = partial(explain_write_errors, out, "Give another folder.")
    with writing():  # fails now rather than after the work
        out.parent.mkdir(parents=True, exist_ok=True)
    found = features_of_run(ds, np.arange(len(table)), model, engine)
    curve, why = try_learning_curve(found.x, y, photos)
    weights, bias, penalty = fit_head(found.x, y, photos)
    kernel, offset = net.get_layer("p_crack").get_weights()  # the head was fitted to the logits of these
    kernel = weights[0] * kernel[:, 0] + np.append(0.0, weights[1:])
    offset = np.float32([weights[0] * offset[0] + bias])
    net.get_layer("p_crack").set_weights([kernel[:, None].astype(np.float32), offset])
    facts = {"model": display_path(model), "model_sha256": found.facts["model"]}
    facts |= {"labels": len(y), "positives": int(y.sum()), "photos": len(np.unique(photos)), "photos_told_by": source}
    facts |= {"images_sha256": ds.sha256, "penalty": penalty if np.isfinite(penalty) else None}
    facts |= {"own_weight": round(float(weights[0]), 6), "engine": found.facts["engine"], "seed": config.DEFAULT_SEED}
    verdict = why or describe_gain(curve)
    content = {"schema": run["schema"], "notebook": run["notebook"], "settings": run["settings"] | {"adapted": facts}}
    content |= {"run": out.name, "learning_curve": curve.round(6).to_dict("records"), "verdict": verdict}
    with writing(), replacing_folder(out) as work:
        shown = facts | {"recipe": recipe, "curve": curve.to_dict("records"), "verdict": verdict}
        write_run(work, net, "card.md.j2", shown, content, time.perf_counter() - began)
        if len(curve):
            write_atomically(work / "learning_curve.csv", table_bytes(curve))
            (work / "figures").mkdir()
            figure, file = plot_learning_curve(curve), work / "figures" / "learning_curve.png"
            figure.savefig(file, dpi=120, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
    if len(curve):
        print(curve.round(4).to_string(index=False))
    print(f"{verdict}\nthe adapted model is in {display_path(out)}")
    return curve


def read_base(model: Path) -> tuple[Any, Recipe, dict[str, Any]]:
    """Return network, recipe and metrics of a run to adapt; CrackutilsError if it was adapted, or cannot be read."""
    net, recipe = training.load(model)
    run = json.loads((model / "metrics.json").read_text("utf-8"))
    if adapted := run["settings"].get("adapted"):
        raise CrackutilsError(f"{model} was adapted already. Give the run before adaptation, {adapted['model']}.")
    return net, recipe, run


def refuse_out(out: Path, force: bool) -> None:
    """Raise CrackutilsError for a folder that is not empty, unless it is an adapted model and `force` is set.

    Files of others beside the model are refused too.
    """
    adapted = is_adapted(out, "model")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (adapted and force):
        more = ", or replace this adapted model with --force" if adapted else ""
        raise CrackutilsError(f"{out} exists already. Give a new folder{more}.")
    files = sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if not file.is_dir())
    system = (".", *SYSTEM)  # beginnings of the names of files that operating systems write
    if lost := [n for n in files if n not in _WRITTEN and not n.rpartition("/")[2].lower().startswith(system)]:
        raise CrackutilsError(f"{out} also holds other files ({name_some(lost)}). Move them elsewhere.")


def _read_tiles(labels: Path, table: pd.DataFrame) -> datasets.Dataset:
    """Return the labelled tiles; CrackutilsError if one cannot be read, or occurs under two names."""
    ds = datasets.from_files(labels.parent, table["file"].tolist(), table["label"].tolist())
    unusable = ds.left_out["file"] + " " + ds.left_out["reason"]
    refuse_rows(labels, len(table), unusable, "the image cannot be used", "Correct it, or leave it out")
    copies = ds.index[ds.index["sha256"].duplicated()]
    originals = ds.index.drop_duplicates("sha256").set_index("sha256")["file"]
    again = copies["file"] + " is " + copies["sha256"].map(originals)
    refuse_rows(labels, len(table), again, "the picture is a duplicate", "List each picture once")
    return ds


def write_run(folder: Path, net: Any, card: str, shown: dict[str, Any], content: dict, seconds: float) -> None:
    """Write an adapted network into a folder, with the template `card` filled from `shown`, and metrics and run."""
    training.save(net, folder, render_template(Path(__file__).with_name(card), shown))
    timings = {"seconds": round(seconds, 2)}
    facts = {"versions": provenance.versions(), "machine": provenance.machine(), "timings": timings}
    write_atomically(folder / "run.json", json.dumps(facts, indent=1) + "\n")
    write_atomically(folder / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
