"""Logits and features of images from a saved detector, cached."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import config, training
from crackutils.config import keras
from crackutils.datasets import Dataset
from crackutils.detector.runs import read_detector_run
from crackutils.files import sha256
from crackutils.inference.engines import program_file, start_engine
from crackutils.inference.features import Features, cached_features


def features_of_run(ds: Dataset, rows: np.ndarray, folder: Path, engine: str = config.ENGINES[0]) -> Features:
    """Return the logits of some images by a run of `DETECTOR`, x[:, 0], and the features that its last layer sees.

    x[:, 1:] is the layer `features` without its first value, the mean of the top cells. Arguments, cache and errors are
    those of `frozen_features`. Where the network was converted before, TensorFlow does not start.
    """
    recipe, start, file = read_detector_run(folder)
    weights = sha256(file)
    made_from = {"model": weights, "start": start, "recipe": recipe.as_dict(), "layer": "features"}
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]

    def build() -> Any:
        model, _ = training.load(folder)
        features, last = model.get_layer("features").output, keras.layers.Dense(1, dtype="float32")
        logits = last(features)
        last.set_weights(model.get_layer("p_crack").get_weights())
        return keras.Model(model.input, keras.layers.Concatenate()([logits, features[:, 1:]]))

    program = program_file(f"{recipe.name}-features-{recipe.size}-{key}")
    net = start_engine(engine, program, build)
    made_from["converted"] = program.name  # by which TensorFlow and Keras
    facts = net.facts | {"model": weights, "size": recipe.size}
    return cached_features(ds, rows, net, f"{recipe.name}-{recipe.size}-{engine}", facts, made_from)
