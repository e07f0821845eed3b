"""The detector's recipe, and its runs: read one, build its network for photos, and compute logits and features."""

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import training
from crackutils.config import DEFAULT_SEED, ENGINES, PACKAGE, CrackutilsError, keras
from crackutils.datasets import Dataset
from crackutils.detector.network import build_detector
from crackutils.files import sha256
from crackutils.inference.engines import program_file, start_engine
from crackutils.inference.features import Features, cached_features
from crackutils.runs import read_recipe
from crackutils.stages import Recipe, Stage

SHIPPED = PACKAGE / "detector" / "shipped"  # the run in this package, the default of `inspect` and `adapt`
WINDOW = 512  # side of the windows of a photo that go through it, pixels
_TITLE = "MobileNetV2 up to a stride of 16 and a decoder back to 2, a crack probability for each pixel"
_STAGES = (Stage("cells", 1, 5e-4),)  # its steps are those of the profile
# It also needs photos with masks, so notebook 08 trains it and 03 cannot.
DETECTOR = Recipe("mobilenetv2-cells", _TITLE, "cells", 256, 12, _STAGES, backbone="mobilenetv2", cells=0.06)


def read_detector_run(folder: Path) -> tuple[Recipe, str, Path]:
    """Return recipe, initial weights and weights file of a run of `DETECTOR`; CrackutilsError for any other."""
    (recipe, start), file = read_recipe(folder), folder / "model" / "model.weights.h5"
    if not recipe.cells:
        raise CrackutilsError(f"{folder} holds a {recipe.name}, not a detector. Give a run of notebook 08.")
    if not file.is_file():
        raise CrackutilsError(f"{file.parent} holds no model.weights.h5. Run the notebook again with FORCE=1.")
    return recipe, start, file


def is_adapted(folder: Path, to: str = "labels") -> bool:
    """Return whether `adapt` fitted the last layer of a run to labels, or all layers to masks; "model" means either."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return to in json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]["adapted"]
    return False


def photo_network(folder: Path, size: int) -> tuple[Any, Any, Any]:
    """Build the network of a run for windows of a photo: its input, and the logits of a crack in cells and in pixels.

    The input is float32 (n, size, size, 3) RGB 0-255, the logits are flat, (n, cells) and (n, pixels). The last layer
    counts only where `adapt` fitted it to a site, to tiles of the recipe's size. Else it adds 0: fitted to patches, it
    separates their scratches from their cracks, but it ranks tiles of other walls no better than the cells alone.
    Raises CrackutilsError as `read_detector_run` does, and for a run of a version with a probability per cell alone.
    """
    recipe, start, _ = read_detector_run(folder)
    model = build_detector(replace(recipe, size=size), start, DEFAULT_SEED, load=False)
    try:
        model.set_weights(training.load(folder)[0].get_weights())
    except ValueError as error:  # its map has a value for each cell
        why = f"{folder} was made by a version without a probability for each pixel"
        raise CrackutilsError(f"{why}. Run notebook 08 again with FORCE=1, or leave --model out.") from error
    last, flat = keras.layers.Dense(1, dtype="float32"), keras.layers.Flatten()
    added = last(model.get_layer("features").output)
    kernel, bias = model.get_layer("p_crack").get_weights()
    kernel[0] -= 1  # the top cells' own logit is not added once more
    last.set_weights([kernel * is_adapted(folder), bias * is_adapted(folder)])
    return model.input, *(flat(model.get_layer(name).output) + added for name in ("cells", "pixels"))


def features_of_run(ds: Dataset, rows: np.ndarray, folder: Path, engine: str = ENGINES[0]) -> Features:
    """Return a detector's logits of some images, x[:, 0], and the features that its last layer takes.

    x[:, 1:] is the layer `features` without its first value, the mean of the top cells. Arguments, cache and errors are
    those of `frozen_features`. If the network was converted before, TensorFlow does not start.
    """
    recipe, start, file = read_detector_run(folder)
    made_from = {"model": sha256(file), "start": start, "recipe": recipe.as_dict(), "layer": "features"}
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]

    def build() -> Any:
        model, _ = training.load(folder)
        features, last = model.get_layer("features").output, keras.layers.Dense(1, dtype="float32")
        logits = last(features)
        last.set_weights(model.get_layer("p_crack").get_weights())
        return keras.Model(model.input, keras.layers.Concatenate()([logits, features[:, 1:]]))

    program = program_file(f"{recipe.name}-features-{recipe.size}-{key}")
    net = start_engine(engine, program, build)
    made_from["converted"] = program.name  # names the versions of TensorFlow and Keras
    facts = net.facts | {"model": made_from["model"], "size": recipe.size}
    return cached_features(ds, rows, net, f"{recipe.name}-{recipe.size}-{engine}", facts, made_from)
