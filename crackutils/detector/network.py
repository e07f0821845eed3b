"""The detector in Keras, and its outputs for images."""

from collections.abc import Callable
from typing import Any

import numpy as np

from crackutils import models
from crackutils.config import keras
from crackutils.datasets import Dataset
from crackutils.files import progress
from crackutils.images import resize
from crackutils.stages import Recipe

CELL = 16  # side of a cell, pixels: the network's map has one value for each square of 16x16


def build_detector(recipe: Recipe, weights: str, seed: int, load: bool = True) -> Any:
    """Build the network; its layer `cells` gives a logit for each cell of 16x16 pixels, (n, size / 16, size / 16, 1).

    The last layer sees the mean of the most crack-like cells and, after it, mean and maximum of each feature over the
    map. The features' weights are zero until `fit_last_layer` or `adapt` fits them. The model takes float32
    (n, size, size, 3) RGB 0-255 and returns the probability of a crack, (n, 1); `weights` and `load` are those of
    `build_backbone`.
    """
    keras.utils.set_random_seed(seed)
    from crackutils.layers import TopMean  # starts TensorFlow

    layers, inputs = keras.layers, keras.Input((recipe.size, recipe.size, 3), name="rgb_0_255")
    base = models.build_backbone(recipe.backbone, recipe.size, weights, load)
    fine, deep = (base.get_layer(f"block_{n}_expand_relu").output for n in (6, 13))  # strides of 8 and 16
    pooled = [layers.AveragePooling2D(2)(fine), layers.MaxPooling2D(2)(fine)]
    trunk = keras.Model(base.input, layers.Concatenate()([*pooled, deep]), name=recipe.backbone)
    found = trunk(models.rescale_input(recipe.backbone, inputs))
    rare = keras.initializers.Constant(-2.0)  # few cells are crossed by a crack
    top = TopMean(recipe.cells, name="top_mean")(layers.Conv2D(1, 1, bias_initializer=rare, name="cells")(found))
    rest = [layers.GlobalAveragePooling2D(name="mean")(found), layers.GlobalMaxPooling2D(name="largest")(found)]
    last = layers.Concatenate(name="features")([top, *rest])
    outputs = layers.Dense(1, "sigmoid", name="p_crack", dtype="float32")(last)
    model = keras.Model(inputs, outputs, name=recipe.name.replace("-", "_"))
    kernel = np.eye(last.shape[-1], 1, dtype=np.float32)  # the top cells alone decide
    model.get_layer("p_crack").set_weights([kernel, np.zeros(1, np.float32)])
    return model


def predict_images(net: Any, what: str, read: Callable[[int], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the outputs of a network for images that `read` gives by row, uint8 (h, w, 3) of any size."""
    outputs, size = [], net.input_shape[1]
    for begin in progress(range(0, len(rows), 8), what, unit="batch"):  # 32 at 320 pixels would take a gigabyte
        x = np.stack([resize(read(int(row)), size) for row in rows[begin : begin + 8]]).astype(np.float32)
        outputs.append(np.asarray(net.predict_on_batch(x)))
    return np.concatenate(outputs)


def cell_maps(model: Any, ds: Dataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Return the cells' logits, float32 (n, size / 16, size / 16), of some images; `size` is the model's input."""
    net = keras.Model(model.input, model.get_layer("cells").output)
    return predict_images(net, f"cells at {size} px", lambda row: ds.read(row, size), rows)[..., 0]


def top_mean(maps: np.ndarray, share: float) -> np.ndarray:
    """Return the mean of the most crack-like cells of maps (n, h, w), as `layers.TopMean` does: (n,)."""
    flat = np.sort(maps.reshape(len(maps), -1), 1)
    return flat[:, -models.top_count(share, flat.shape[1]) :].mean(1)
