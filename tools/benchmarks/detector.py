"""Scores of a detector on hand-drawn masks, labels of tiles, and synthetic photos.

    .venv/bin/python -m tools.benchmarks.detector [RUN] MASKED=uav/val WALLS=sdnet PHOTOS=photos METU=metu-half DRAWN=1

For the detector of the package, it writes detector.json beside itself, and the model card; UNMASKED is then the run
trained without hand-drawn masks. Each part is measured if its data are given: MASKED, a folder with images/ and masks/;
WALLS, SDNET2018's tiles in Negative/ and Positive/; PHOTOS, whole photos with a tiles.csv; METU, a profile. CLEANED is
a table of other labels for WALLS, with the columns file and crack_cleaned; CRACKPOT is the network of crackpot 2.0, an
alternative program (my_model.keras in its wheel; MIT licence).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from crackutils import config, datasets, training
from crackutils.config import CrackutilsError, keras
from crackutils.detector.runs import SHIPPED, features_of_run
from crackutils.files import progress, render_template, write_atomically
from crackutils.images import read_image
from crackutils.inspection.calibration import rank_tiles, read_tile_labels
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.tiling import Detector, load_detector, map_photo, tile_probabilities
from crackutils.inspection.truth import compare_masks, compare_with_truth, score_counts
from crackutils.splits.make import make_split
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import CRACK, THIN, UNSURE
from crackutils.synthetic.store import target_of
from crackutils.transfer.targets import load_target, photo_of_image, tuning_images
from tools.detector import read_masked

OUT = Path(__file__).with_suffix(".json")
DRAWN, RICH = 909, 911  # seeds of synthetic photos that were not used for training
_SCORES = ["iou", "line_precision", "line_recall", "line_f1"]
FIRST, FEW = 40, 16  # photos full of joints, and of thin cracks, with which trainings were compared
_THRESHOLDS = np.round(np.arange(0.1, 0.95, 0.05), 2)


def measure_masked(find: Callable[[np.ndarray], np.ndarray], folder: Path) -> dict[str, Any]:
    """Return scores over all photos of a folder with hand-drawn masks; `find` returns the mask of a photo."""
    photos, rows, began = read_masked(folder), [], time.perf_counter()
    found = [find(image) for image in progress(photos.images, "masks", unit="photo")]
    seconds = (time.perf_counter() - began) / len(found)
    rows = [compare_masks(mask, target == CRACK) for mask, target in zip(found, photos.targets, strict=True)]
    scores = score_counts(pd.DataFrame(rows).sum().to_frame().T)[_SCORES].iloc[0]
    return {"photos": len(rows)} | scores.round(4).to_dict() | {"seconds": round(seconds, 3)}


def mask_of(net: Detector, threshold: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that finds the mask of a photo, bool (h, w)."""

    def find(image: np.ndarray) -> np.ndarray:
        seen = map_photo(image, net)
        return crack_mask(seen.pixels, threshold, seen.cells)

    return find


def open_crackpot(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that finds masks with crackpot's network, which resizes every photo to 256x256 pixels."""
    model = keras.models.load_model(file, compile=False)

    def find(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        p = np.asarray(model.predict_on_batch(small[None]))[0, ..., -1]
        return cv2.resize(p, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5

    return find


def measure_walls(run: Path, folder: Path, cleaned: Path | None) -> dict[str, Any]:
    """Return the AUROC of SDNET2018's tiles, of held-out photos and of tuning photos."""
    ds = load_target(str(folder))
    x, labels = features_of_run(ds, np.arange(len(ds.index)), run).x[:, 0], ds.index["label"].to_numpy()
    tuned, names = tuning_images(ds), ds.index["file"].str.split("/").str[-1]
    found = {"photos": len(np.unique(photo_of_image(ds)[~tuned])), "tiles": int((~tuned).sum())}
    found |= {"published": _auroc(labels[~tuned], x[~tuned]), "tuning": _auroc(labels[tuned], x[tuned])}
    if cleaned:
        other = names.map(pd.read_csv(cleaned).set_index("file")["crack_cleaned"])
        if other.isna().any():
            raise CrackutilsError(f"{cleaned} lacks {names[other.isna()].iloc[0]}. Give labels of all tiles.")
        found["cleaned"] = _auroc(other.to_numpy(int)[~tuned], x[~tuned])
    return found


def _auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    return round(float(roc_auc_score(labels, scores)), 4)


def measure_photos(net: Detector, folder: Path) -> dict[str, Any]:
    """Return scores of the ranking of tiles of whole photos."""
    labels, tiles = read_tile_labels(folder / "tiles.csv"), []
    names = sorted(labels["photo"].unique())
    for name in progress(names, "photos", len(names), "photo"):
        cells = map_photo(read_image(folder / name), net).cells
        tiles.append(tile_probabilities(cells, net.share).assign(file=name))
    row = rank_tiles(pd.concat(tiles), labels).set_index("photo").loc["all"]
    return {"photos": len(names)} | {k: round(float(row[k]), 4) for k in ("auroc", "average_precision")}


def measure_metu(run: Path, profile: config.Profile) -> dict[str, Any]:
    """Return the errors on the copy-safe test part of a profile at 0.5, by given and by corrected labels."""
    ds = datasets.load(profile)
    test = np.flatnonzero(make_split(ds, "copy-safe", config.DEFAULT_SEED)["split"] == "test")
    x, labels = features_of_run(ds, test, run).x[:, 0], ds.index["label"].to_numpy()[test]
    corrected = datasets.load(profile, config.LABELS[1]).index["label"].to_numpy()[test]
    errors = {"errors": int(((x > 0) != labels).sum()), "errors_corrected": int(((x > 0) != corrected).sum())}
    return {"images": len(test)} | errors | {"auroc": _auroc(labels, x)}


def measure_drawn(net: Detector, threshold: float, count: int = 160) -> dict[str, Any]:
    """Return medians over synthetic photos of thin cracks: IoU, and length error of all photos and of hairlines."""
    rows = []
    for k in progress(range(count), "drawn", count, "photo"):
        shot = make_photo(DRAWN, k, 1536, 1152, THIN)
        rows.append(compare_with_truth(shot, mask_of(net, threshold)(shot.image)))
    table = score_counts(pd.DataFrame(rows))
    table["length_error"] = table["length_error"].abs()

    def medians(table: pd.DataFrame) -> dict[str, float]:
        thin = table[table["style"] == "hairline"]["length_error"]
        found = {"iou": table["iou"], "length_error": table["length_error"], "length_error_hairlines": thin}
        return {name: round(float(values.median()), 4) for name, values in found.items()}

    return {"photos": count} | medians(table) | {f"of the first {FEW}": medians(table[:FEW])}


def measure_lines(net: Detector, count: int = 160) -> dict[str, Any]:
    """Return precision and recall of lines by threshold, in synthetic photos full of joints and other lines.

    Invisible cracks, and joints or lines across a crack, do not count. The precision at a recall of 0.8 has a 95 %
    interval, from drawing whole photos with replacement, because a few photos decide it; draws that never reach this
    recall are left out.
    """
    rows = []
    for k in progress(range(count), "joints", count, "photo"):
        shot = make_photo(RICH, k, 768, 768, THIN, rich=True)
        seen, target = map_photo(shot.image, net), target_of(shot)
        near, near_crack = (cv2.dilate((target == kind).astype(np.uint8), np.ones((9, 9))) for kind in (UNSURE, CRACK))
        unsure = (near > 0) & (near_crack == 0)
        for t in _THRESHOLDS:
            mask = crack_mask(seen.pixels, t, seen.cells) & ~unsure
            rows.append({"t": t} | compare_masks(mask, target == CRACK))
    names = list(rows[0])[1:]
    counts = pd.DataFrame(rows)[names].to_numpy(float).reshape(count, len(_THRESHOLDS), -1)

    def scores(photos: Any) -> pd.DataFrame:
        table = score_counts(pd.DataFrame(counts[photos].sum(0), columns=names))
        return table[["line_precision", "line_recall"]].set_axis([f"{t:g}" for t in _THRESHOLDS])

    def precision(photos: Any) -> float:
        table = scores(photos)
        return float(table["line_precision"].where(table["line_recall"] >= 0.8).max())  # NaN: never that recall

    rng = np.random.default_rng(0)
    low, high = np.nanquantile([precision(rng.integers(0, count, count)) for _ in range(1000)], (0.025, 0.975))
    found = {"precision_at_recall_0.8": precision(slice(None)), "low": low, "high": high}
    found |= {f"of the first {FIRST}": precision(slice(FIRST))}
    found = {name: round(float(value), 4) for name, value in found.items()}
    return {"photos": count} | found | scores(slice(None)).round(4).T.to_dict("list")


def write_card(found: dict[str, Any], run: Path) -> str:
    """Return the model card of a run with the measurements, as Markdown."""
    model, recipe = training.load(run)
    settings = json.loads((run / "metrics.json").read_text("utf-8"))["settings"]
    facts = {"recipe": recipe, "parameters": model.count_params(), "settings": settings}
    return render_template(OUT.with_suffix(".md.j2"), found | facts)


def main(words: list[str]) -> None:
    """Measure the parts named in `words`, and write the results."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    run = Path(next((word for word in words if "=" not in word), SHIPPED))
    config.start(given.get("METU", config.DEFAULT_PROFILE))
    threshold, net = float(given.get("THRESHOLD", 0.5)), load_detector(run)
    path = lambda name: Path(given[name]) if name in given else None  # noqa: E731
    found: dict[str, Any] = {"threshold": threshold}
    if folder := path("MASKED"):
        found["masked"] = measure_masked(mask_of(net, threshold), folder)
        if file := path("CRACKPOT"):
            found["crackpot"] = measure_masked(open_crackpot(file), folder)
    if folder := path("WALLS"):
        found["walls"] = measure_walls(run, folder, path("CLEANED"))
    if folder := path("PHOTOS"):
        found["whole"] = measure_photos(net, folder)
    if folder := path("UNMASKED"):
        found["unmasked"] = measure_masked(mask_of(load_detector(folder), threshold), Path(given["MASKED"]))
    if "METU" in given:
        found["metu"] = measure_metu(run, config.profile(given["METU"]))
    if "DRAWN" in given:
        found["drawn"], found["joints"] = measure_drawn(net, threshold), measure_lines(net)
    text = json.dumps(found, indent=1)
    print(text)
    if run == SHIPPED:
        write_atomically(OUT, text + "\n")
        write_atomically(run / "model" / "README.md", write_card(json.loads(text), run))


if __name__ == "__main__":
    main(sys.argv[1:])
