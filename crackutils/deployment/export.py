"""Export a trained model: write it in another format, compare it with Keras on images, and write its card."""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crackutils import config, datasets, models, provenance, training
from crackutils.config import CrackutilsError, display_path, keras, tf
from crackutils.deployment.runtimes import Run, check_format, open_exported
from crackutils.detector.network import CELL
from crackutils.detector.runs import SHIPPED, WINDOW, is_adapted, photo_network
from crackutils.files import sha256
from crackutils.folders import find_pictures
from crackutils.images import ImageError, read_image
from crackutils.inference.engines import cores
from crackutils.metrics import score_predictions
from crackutils.runs import read_predictions, read_recipe
from crackutils.splits.make import make_split
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import THIN
from crackutils.userfiles.write import refuse_foreign, write_own, writing

THRESHOLD = 0.5
_CALIBRATE, _COMPARE, _PHOTOS = 100, 200, 16  # images for int8 and for the comparison; photos of the detector's
_FLOAT = 1e-3  # largest difference of a probability that a float format may have from Keras
_INT8 = {"images": 0.01, "crack pixels": 0.2}  # share that may come out on the other side of the threshold
_LABELS = {"0": config.CLASSES[0], "1": config.CLASSES[1]}


@dataclass(frozen=True)
class _Case:
    """A model to export, with images that it is calibrated on, compared on and tested on, uint8 (n, size, size, 3)."""

    name: str
    model: Any  # keras.Model from uint8 (n, size, size, 3) RGB to probabilities by name
    output: str  # which of them is compared
    values: str  # what it has a probability for, "images" or "crack pixels"
    calibrate: np.ndarray
    compare: np.ndarray
    source: str  # of the images that are compared, in words
    test: Callable[[Run], dict[str, Any]]  # how good the outputs are


def export_model(source: str, form: str, out: Path, images: Path | None = None, force: bool = False) -> dict[str, Any]:
    """Write the model of a run folder, or the package's "detector", in one of `FORMATS`, and its card beside it.

    The exported model takes RGB as uint8 (n, size, size, 3); all preprocessing but the resizing is inside. That of a
    classifier gives p_crack, float32 (n, 1). That of a detector gives p_pixels, (n, size, size), and p_cells, (n,
    size / 16, size / 16). LiteRT takes one image at a time, the others any number. Integers of litert-int8 are
    calibrated on training images; its inputs and outputs stay as they are.

    Its outputs are compared with those of Keras on validation images of the run's profile, and for a detector on
    synthetic photos; or on the pictures of the folder `images`. The card, `out` + ".json", which is returned, holds
    format, input, output, labels, threshold, accuracy, comparison, bytes, images per second and SHA-256.

    Raises CrackutilsError for a format whose packages are missing; an `out` that is the user's, unless `force`; a
    source that holds no model; images that are not at hand; and a difference from Keras beyond tolerance, which is
    0.001 for float formats, and for int8 a share of 0.01 of the images, or 0.2 of the crack pixels, that change sides
    at the threshold. Then nothing is written.
    """
    check_format(form, out)
    card_file = out.with_name(f"{out.name}.json")
    inside = [path for path in out.rglob("*") if path.is_file() and (path.name[0], path.suffix) != (".", ".sha256")]
    existing = inside if out.is_dir() else [out]
    existing += [out.with_suffix(".bin")] if form == "openvino" else []
    for path in (card_file, *existing):
        refuse_foreign(path, force)
    case = _open_case(source, images)
    with writing(out), tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".export-") as place:
        made = Path(place) / out.name
        _write(case, form, made)
        files = sorted(path for path in Path(place).rglob("*") if path.is_file())
        run = open_exported(made, form, cores())
        expected, found, rate = _predict(case, run)
        compared = _compare(case, form, expected, found)
        size, rows, outputs = case.compare.shape[1], 1 if form.startswith("litert") else "n", case.model.output
        card = {
            "model": case.name,
            "format": form,
            "input": f"uint8 ({rows}, {size}, {size}, 3), RGB 0-255",
            "outputs": {k: f"float32 ({', '.join(map(str, (rows, *v.shape[1:])))})" for k, v in outputs.items()},
            "labels": _LABELS,
            "threshold": THRESHOLD,
            "accuracy": case.test(run),
            "compared_with_keras": compared,
            "images_per_second": round(rate, 1),
            "threads": cores(),
            "bytes": sum(path.stat().st_size for path in files),
            "sha256": {path.relative_to(place).as_posix(): sha256(path) for path in files},
            "versions": provenance.versions(),
        }
        del run  # before its file goes, as Windows demands
        for path in files:
            target = out.parent / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_own(target, path.read_bytes())
        write_own(card_file, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return card


def _open_case(source: str, images: Path | None) -> _Case:
    """Return what is exported, and its images."""
    folder = SHIPPED if source == "detector" else Path(source)
    recipe, _ = read_recipe(folder)
    settings = json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
    if recipe.cells:
        size = recipe.size if is_adapted(folder) else max(recipe.size, WINDOW)
        shots = [make_photo(config.DEFAULT_SEED, k, size, size, THIN) for k in range(2 * _PHOTOS)]
        drawn = np.stack([shot.image for shot in shots])
        masks = np.stack([shot.mask for shot in shots[:_PHOTOS]])

        def overlap(run: Run) -> dict[str, Any]:
            found = np.concatenate([run(x[None])["p_pixels"] for x in drawn[:_PHOTOS]]) >= THRESHOLD
            return {"on": f"{_PHOTOS} synthetic photos with exact masks", "iou": _iou(found, masks > 0)}

        given = None if images is None else _read_folder(images, lambda file: _window(read_image(file), size))
        compare = drawn[:_PHOTOS] if given is None else given
        described = f"{len(compare)} {'synthetic photos' if given is None else 'given photos'}"
        model = _detector_model(folder, size)
        name = f"{recipe.name} of {'the package' if folder == SHIPPED else display_path(folder)}"
        return _Case(name, model, "p_pixels", "crack pixels", drawn[_PHOTOS:], compare, described, overlap)
    ds = datasets.load(config.profile(settings["profile"]), settings.get("labels", config.LABELS[0]))
    manifest = make_split(ds, settings["split"], settings["split_seed"])
    if (folder / "predictions.csv").is_file():  # images, or their photos, may have come since: its own test is unseen
        parts = read_predictions(folder).set_index("file")["split"]
        manifest["split"] = manifest["file"].map(parts).fillna("train")
        if not {"val", "test"} <= {*manifest["split"]}:
            why = f"PROFILE={settings['profile']} no longer has the test images of {display_path(folder)}"
            raise CrackutilsError(f"{why}. Restore them, or train the model again.")
    rows = {part: np.flatnonzero(manifest["split"] == part) for part in ("train", "val", "test")}
    pixels, rng = ds.pixels(recipe.size), np.random.default_rng(config.DEFAULT_SEED)
    few = [np.sort(rng.permutation(rows[part])[:n]) for part, n in (("train", _CALIBRATE), ("val", _COMPARE))]
    described, compare = f"{len(few[1])} validation images", pixels[few[1]]
    if images is not None:
        compare = _read_folder(images, lambda file: read_image(file, recipe.size))
        described = f"{len(compare)} given pictures"

    def errors(run: Run) -> dict[str, Any]:
        test, labels = rows["test"], ds.index["label"].to_numpy()
        parts = np.array_split(test, len(test) // 64 + 1)
        p = np.concatenate([run(pixels[part])["p_crack"][:, 0] for part in parts])
        scores = score_predictions(labels[test], p)
        shown = {name: scores[name] for name in ("n", "errors", "accuracy", "auroc")}
        return {"on": f"test images of {ds.profile.name}"} | shown

    model = models.without_augmentation(training.load(folder)[0])
    inputs = keras.Input((recipe.size, recipe.size, 3), dtype="uint8", name="rgb")
    (p,) = keras.tree.flatten(model(keras.ops.cast(inputs, "float32")))  # a model that was read may return a list
    model = keras.Model(inputs, {"p_crack": p[:, -1:]})  # of the only unit, or of the second of two classes
    return _Case(display_path(folder), model, "p_crack", "images", pixels[few[0]], compare, described, errors)


def _detector_model(folder: Path, size: int) -> Any:
    inputs, layers = keras.Input((size, size, 3), dtype="uint8", name="rgb"), keras.layers
    taken, cells, pixels = photo_network(folder, size)
    cells, pixels = keras.Model(taken, [cells, pixels])(keras.ops.cast(inputs, "float32"))
    shapes = {"p_pixels": (pixels, size), "p_cells": (cells, size // CELL)}
    outputs = {name: layers.Reshape((side, side))(keras.ops.sigmoid(x)) for name, (x, side) in shapes.items()}
    return keras.Model(inputs, outputs)


def _window(image: np.ndarray, size: int) -> np.ndarray:
    """Return the middle of a photo, uint8 (size, size, 3); beyond its border its mirror image goes on."""
    top, left = (max(0, n - size) // 2 for n in image.shape[:2])
    part = image[top:, left:][:size, :size]
    beyond = [size - n for n in part.shape[:2]]
    return cv2.copyMakeBorder(part, 0, beyond[0], 0, beyond[1], cv2.BORDER_REFLECT)


def _read_folder(folder: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray:
    if not folder.is_dir():
        raise CrackutilsError(f"--images {folder} is not a folder. Give one that holds pictures.")
    pictures = []
    for file in find_pictures(folder)[0]:
        with contextlib.suppress(ImageError):
            pictures.append(read(file))
        if len(pictures) == _COMPARE:
            break
    if not pictures:
        raise CrackutilsError(f"--images {folder} holds no picture that can be read. Give a folder that holds some.")
    return np.stack(pictures)


def _write(case: _Case, form: str, made: Path) -> None:
    """Write the model by Keras's own exporters."""
    case.model(case.compare[:1])  # they refuse a model that was never called
    options: dict[str, Any] = {"format": "tf_saved_model" if form == "saved_model" else form.partition("-")[0]}
    if options["format"] == "litert":  # some layers run slowly where the number of images is open
        options["input_signature"] = [keras.InputSpec("uint8", (1, *case.compare.shape[1:]), name="rgb")]
    if form == "litert-int8":
        options |= {"optimizations": [tf.lite.Optimize.DEFAULT]}
        options |= {"representative_dataset": lambda: ([x[None]] for x in case.calibrate)}
    with config.silent_stderr(), contextlib.redirect_stdout(None):
        case.model.export(str(made), verbose=False, **options)


def _predict(case: _Case, run: Run) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the outputs of Keras and of the exported model for the images that are compared, and images per second."""
    run(case.compare[:1])  # the first call prepares
    expected, found, seconds = [], [], 0.0
    for x in case.compare:
        began = time.perf_counter()
        found.append(run(x[None])[case.output])
        seconds += time.perf_counter() - began
        expected.append(np.asarray(case.model.predict_on_batch(x[None])[case.output]))
    return np.concatenate(expected), np.concatenate(found), len(found) / seconds


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    either = (one | other).sum()
    return round(float((one & other).sum() / either), 4) if either else 1.0  # no crack in either: they agree


def _compare(case: _Case, form: str, expected: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Return how far outputs are from Keras's; CrackutilsError beyond tolerance."""
    largest, sides = float(np.abs(found - expected).max()), (expected >= THRESHOLD, found >= THRESHOLD)
    changed = float((sides[0] != sides[1]).mean()) if case.values == "images" else 1 - _iou(*sides)
    tolerance = _INT8[case.values] if form == "litert-int8" else _FLOAT
    measured = changed if form == "litert-int8" else largest
    if not measured <= tolerance:
        what = f"share of {case.values} on the other side of the threshold" if form == "litert-int8" else "difference"
        why = f"The model in {form} differs from Keras on {case.source}: {what} {measured:.3g}, allowed {tolerance:g}"
        raise CrackutilsError(f"{why}. Nothing was written. Choose another format.")
    return {"on": case.source, "largest_difference": round(largest, 6), "changed_sides": round(changed, 6)}
