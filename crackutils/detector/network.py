"""Backbones with their preprocessing exactly once, heads, and CNNs from scratch. Models take raw RGB values 0-255."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from crackutils import models
from crackutils.detector.pooling import top_count
from crackutils.recipes import Recipe


@keras.saving.register_keras_serializable("crackutils")
class TopMean(keras.layers.Layer):
    """The mean of the largest values of a map: (n, h, w, 1) to (n, 1); `share` of the h x w values, at least two."""

    def __init__(self, share: float, **options: Any) -> None:
        super().__init__(**options)
        self.share = share

    def call(self, x: Any) -> Any:
        count = x.shape[1] * x.shape[2]
        flat = keras.ops.reshape(x, (-1, count))
        largest = keras.ops.top_k(flat, top_count(self.share, count))[0]
        return keras.ops.mean(largest, axis=-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"share": self.share}


def build_detector(recipe: Recipe, weights: str, load: bool) -> tuple[Any, dict[str, str]]:
    """Build a network whose layer `cells` gives a crack's log-odds for each cell of 16x16 pixels.

    Its last layer sees the mean of the most crack-like cells and, after it, mean and maximum of each feature over the
    map: the features do not count (their weights are zero) until `cells.fit_last` or `adaptation.adapt` fits them.
    """
    inputs = keras.Input((recipe.size, recipe.size, 3), name="rgb_0_255")
    base, loaded = models.build_backbone(recipe.backbone, recipe.size, weights, load)
    fine, deep = (base.get_layer(f"block_{n}_expand_relu").output for n in (6, 13))  # strides of 8 and 16
    pooled = [keras.layers.AveragePooling2D(2)(fine), keras.layers.MaxPooling2D(2)(fine)]
    trunk = keras.Model(base.input, keras.layers.Concatenate()([*pooled, deep]), name=recipe.backbone)
    found = trunk(models.rescale_input(recipe.backbone, inputs))
    rare = keras.initializers.Constant(-2.0)  # few cells are crossed by a crack
    cells = keras.layers.Conv2D(1, 1, bias_initializer=rare, name="cells")(found)
    parts = [TopMean(recipe.cells, name="top_mean")(cells)]
    parts += [kind(name=name)(found) for name, kind in _POOLED.items()]
    last = keras.layers.Concatenate(name="features")(parts)
    outputs = keras.layers.Dense(1, "sigmoid", name="p_crack", dtype="float32")(last)
    model = keras.Model(inputs, outputs, name=recipe.name.replace("-", "_"))
    kernel = np.zeros((last.shape[-1], 1), np.float32)
    kernel[0] = 1
    model.get_layer("p_crack").set_weights([kernel, np.zeros(1, np.float32)])
    return model, loaded


_POOLED = {"mean": keras.layers.GlobalAveragePooling2D, "largest": keras.layers.GlobalMaxPooling2D}
