"""The command `adapt --masks`: train the whole detector on a few photos with masks, and measure the gain."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from crackutils import config
from crackutils.adaptation.adapt import read_base, refuse_out, write_run
from crackutils.config import DEFAULT_SEED, CrackutilsError, display_path
from crackutils.detector.data import PHOTO_SEED
from crackutils.detector.runs import SHIPPED, read_detector_run
from crackutils.detector.training import train_detector
from crackutils.files import explain_write_errors, progress, replacing_folder, sha256
from crackutils.inspection.labelled import Shot
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.tiling import load_detector, map_photo
from crackutils.inspection.truth import compare_masks, score_counts
from crackutils.synthetic.scene import CRACK, UNSURE
from crackutils.synthetic.store import Photos, find_anchors, load_photos

STEPS = 400  # batches of each training
DRAWN, SIDE = 120, 512  # number of synthetic photos, so that the detector forgets less, and their side in pixels
SHARES = (0.6, 0.4)  # of a batch: photos with masks, and synthetic ones
_SLOWER = 0.5  # the learning rate, as a share of that of the first training
_HELD_OUT = 3  # one photo in so many judges
_SCORES = ("iou", "line_f1", "line_precision", "line_recall")


def adapt_to_masks(
    shots: Iterable[Shot],
    out: str | Path,
    model: str | Path | None = None,
    engine: str = config.ENGINES[0],
    force: bool = False,
) -> pd.DataFrame:
    """Train all layers of a run of `DETECTOR` on photos with masks, and write the result as a new run.

    A first training run leaves out a third of the photos with cracks and of those without, which judge it; the second,
    whose result is kept, takes all. In both, two fifths of a batch are synthetic photos. After a kill, the same call
    continues. The new run inspects photos like the original one; tiles are scored by its cells alone. It is written
    whole or not at all.

    `shots` are those of `corrected_photos`; `out`, `model`, `engine` and `force` are as in `adapt`. Returns the scores
    of the photos left out, a row each before and after: photos, iou, line_f1, line_precision, line_recall,
    average_precision (of pixels); without rows for fewer than three photos with cracks. Raises CrackutilsError where
    photos, run, folder or engine cannot be used.
    """
    out, model, began = Path(out).resolve(), Path(model or SHIPPED), time.perf_counter()
    refuse_out(out, force)
    _, _, run = read_base(model)
    load_detector(model, engine)  # an engine that is missing is told before the training
    home = config.data_dir() / "cache" / f"adapt-{hashlib.sha256(str(out).encode()).hexdigest()[:12]}"
    photos = _store(shots, home / "photos")
    if not (photos.anchors[:, 0] >= 0).any():
        shutil.rmtree(home, ignore_errors=True)
        raise CrackutilsError("No photo has a crack in its mask. Give photos with cracks too.")

    def train(some: np.ndarray, name: str) -> Any:
        print(f"training on {len(some):,} photos with masks", flush=True)
        return train_on_masks(_select(photos, some), model, home / name)

    facts = {"model": display_path(model), "model_sha256": sha256(model / "model" / "model.weights.h5")}
    facts |= {"masks": len(photos.images), "steps": STEPS, "shares": SHARES, "seed": DEFAULT_SEED}
    content = {"schema": run["schema"], "notebook": run["notebook"], "settings": run["settings"] | {"adapted": facts}}
    content |= {"run": out.name}

    def write(folder: Path, trained: Any, table: pd.DataFrame, verdict: str) -> None:
        found = {"held_out": json.loads(table.to_json(orient="records")), "verdict": verdict}  # null for NaN
        write_run(folder, trained, "masks.md.j2", facts | found, content | found, time.perf_counter() - began)

    order, table = np.random.default_rng(DEFAULT_SEED).permutation(len(photos.images)), pd.DataFrame()
    cracked = (photos.anchors[order, 0, 0, 0] >= 0).astype(int)
    held = [some[: len(some) // _HELD_OUT] for some in (order[cracked == 1], order[cracked == 0])]
    verdict = "Fewer than three photos with cracks: the gain was not measured."
    if len(held[0]):
        held = np.sort(np.concatenate(held))
        write(home / "judged", train(np.setdiff1d(order, held), "without"), table, "")
        judge = partial(_score, _select(photos, held), engine=engine)
        table = pd.DataFrame({"before": judge(model), "after": judge(home / "judged")}).T.rename_axis("detector")
        verdict = _describe(table)
        table = table.round(6).reset_index()
        print(table.round(3).to_string(index=False))
    trained = train(np.sort(order), "all")
    with explain_write_errors(out, "Give another folder."), replacing_folder(out) as work:
        write(work, trained, table, verdict)
    shutil.rmtree(home, ignore_errors=True)
    print(f"{verdict}\nthe adapted model is in {display_path(out)}")
    return table


def train_on_masks(photos: Photos, model: Path, folder: Path) -> Any:
    """Return the network of a run, trained further on photos with masks and on synthetic ones.

    Checkpoints lie in `folder`; after a kill, the same call continues.
    """
    net, recipe, _ = read_base(model)
    stage = recipe.stages[0]
    slower = replace(recipe, stages=(replace(stage, learning_rate=_SLOWER * stage.learning_rate),))
    masked = list(zip((photos, load_photos(PHOTO_SEED, DRAWN, SIDE)), SHARES, strict=True))
    start = read_detector_run(model)[1]
    trained = train_detector(slower, None, None, masked, folder, DEFAULT_SEED, start, STEPS, net).model
    head = trained.get_layer("p_crack")
    kernel, bias = head.get_weights()
    head.set_weights([np.eye(*kernel.shape, dtype=np.float32), 0 * bias])  # it was fitted to other features
    return trained


def _store(shots: Iterable[Shot], folder: Path) -> Photos:
    """Write photos and targets into a folder, because many large photos do not fit into memory."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng, images, targets, anchors = np.random.default_rng(DEFAULT_SEED), [], [], []
    for k, (_, image, cracked, possible) in enumerate(shots):
        target = np.where(cracked, CRACK, np.where(possible, UNSURE, 0)).astype(np.uint8)
        for kept, name, values in ((images, "image", image), (targets, "target", target)):
            np.save(file := folder / f"{k}-{name}.npy", values)
            kept.append(np.load(file, mmap_mode="r"))
        anchors.append(find_anchors(target, rng))
    if not images:
        shutil.rmtree(folder.parent, ignore_errors=True)
        raise CrackutilsError("No photo was corrected. Confirm, paint or reject cracks in some, or give masks.")
    return Photos(images, targets, np.stack(anchors))


def _select(photos: Photos, some: np.ndarray) -> Photos:
    return Photos([photos.images[k] for k in some], [photos.targets[k] for k in some], photos.anchors[some])


def _score(photos: Photos, model: Path, engine: str) -> dict[str, float]:
    """Return the scores of a run on photos with masks, over all their pixels; pixels in doubt do not count."""
    net, rows, levels = load_detector(model, engine), [], np.zeros((2, 256))
    for image, target in progress(zip(photos.images, photos.targets, strict=True), "judging", len(photos.images)):
        seen, sure, crack = map_photo(np.asarray(image), net), target != UNSURE, target == CRACK
        rows.append(compare_masks(crack_mask(seen.pixels, 0.5, seen.cells) & sure, crack))
        levels += [np.bincount(seen.pixels[sure & (crack == kind)], minlength=256) for kind in (False, True)]
    score = score_counts(pd.DataFrame(rows).sum().to_frame().T).iloc[0]
    truth, p = np.repeat([0, 1], 256), np.tile(np.arange(256), 2)
    average = average_precision_score(truth, p, sample_weight=levels.ravel()) if levels[1].any() else np.nan
    return {"photos": len(rows)} | {name: float(score[name]) for name in _SCORES} | {"average_precision": average}


def _describe(table: pd.DataFrame) -> str:
    before, after = table.loc["before"], table.loc["after"]
    names = {"line_f1": "F1 of lines", "iou": "IoU", "average_precision": "average precision of pixels"}
    told = ", ".join(f"{name} {after[key]:.2f} ({before[key]:.2f} before)" for key, name in names.items())
    better = all(after[name] > before[name] for name in ("line_f1", "iou"))  # what `inspect` gives, at 0.5
    what = "a gain" if better else "no clear gain; prefer the unadapted model"
    photos = f"{after['photos']:.0f} photo{'s' if after['photos'] > 1 else ''}"
    return f"On {photos} left out of a training, adaptation brought {what}: {told}."
