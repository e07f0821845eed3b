"""Features of a frozen backbone, computed once per image and kept, and the linear head that is fitted to them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import datasets
from crackutils.files import sha256
from crackutils.inference.engines import program_file, start_engine
from crackutils.inference.features import Features, cached_features


def features_of_run(ds: datasets.Dataset, rows: np.ndarray, folder: Path, engine: str = "litert") -> Features:
    """Return what a run of `recipes.CELLS` makes of some images: its log-odds of a crack, and features of its map.

    They are kept as those of `of`. Where the network was converted before, TensorFlow does not start.

    Args:
        ds: the images.
        rows: which, in the order wanted; at least one.
        folder: the run. x[:, 0] are its log-odds, by its last layer; x[:, 1:] what its layer `features` holds after the
            first value.
        engine: one of `config.ENGINES`.

    Raises:
        CrackutilsError: no such run; an engine that is not to be had; an image that has changed since it was indexed.
    """
    from crackutils.detector.runs import read_detector_run

    recipe, start, file = read_detector_run(folder)
    weights = sha256(file)
    made_with = {"model": weights, "start": start, "recipe": recipe.as_dict(), "layer": "features"}
    key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:12]

    def build() -> Any:
        from crackutils import training
        from crackutils.models import keras

        model, _ = training.load(folder)
        found, layers = model.get_layer("features").output, keras.layers
        last = layers.Dense(1, dtype="float32")
        odds = last(found)
        last.set_weights(model.get_layer("p_crack").get_weights())
        return keras.Model(model.input, layers.Concatenate()([odds, found[:, 1:]]))

    program = program_file(f"{recipe.name}-features-{recipe.size}-{key}")
    running = start_engine(engine, program, build)
    facts = running.facts | {"model": weights, "size": recipe.size}
    made_with["converted"] = program.name  # by which TensorFlow and Keras
    return cached_features(ds, rows, running, f"{recipe.name}-{recipe.size}-{engine}", made_with, facts)
