"""The detector in Keras, and its outputs for images."""

import hashlib
from typing import Any

import numpy as np

from crackutils import models
from crackutils.config import keras
from crackutils.inference.engines import Engine, program_file, start_engine
from crackutils.stages import Recipe

CELL = 16  # side of a cell, pixels
KINDS = ("joint", "line")  # distinguished from cracks: joints and seams; hairs, wires, scratches, marks
_SKIPS = ("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add")  # at strides of 2, 4, 8 and 16
_WIDTHS = (64, 48, 32, 24)  # channels of the decoder at strides of 16, 8, 4 and 2


def build_detector(recipe: Recipe, weights: str, seed: int, load: bool = True) -> Any:
    """Build the network: MobileNetV2 up to a stride of 16, and a decoder back to a stride of 2.

    Its layer `pixels` gives a logit of a crack for each pixel, (n, size, size, 1): the decoder's last map has four, as
    a hairline is thinner than the stride. `kinds` gives logits of `KINDS`, (n, size / 2, size / 2, 2), and `cells` one
    of a crack in each cell of 16x16 pixels, (n, size / 16, size / 16, 1). The last layer takes the mean of the highest
    cell logits, and then mean and maximum of each feature over the cells. The features' weights are zero
    until `fit_last_layer` or `adapt` fits them. The model takes float32 (n, size, size, 3) RGB 0-255 and returns the
    probability of a crack, (n, 1); `weights` and `load` are those of `build_backbone`. The decoder is a U-Net's
    (Ronneberger, Fischer, Brox 2015) of separable convolutions.
    """
    keras.utils.set_random_seed(seed)
    from crackutils.layers import TopMean  # starts TensorFlow

    layers, inputs, size = keras.layers, keras.Input((recipe.size, recipe.size, 3), name="rgb_0_255"), recipe.size
    base = models.build_backbone(recipe.backbone, size, weights, load)
    trunk = keras.Model(base.input, [base.get_layer(name).output for name in _SKIPS], name=recipe.backbone)
    scaled = models.rescale_input(recipe.backbone, inputs)
    *skips, deep = trunk(scaled)

    def conv(x: Any, channels: int, side: int = 1, strides: int = 1) -> Any:
        return layers.Conv2D(channels, side, strides, padding="same", activation="relu")(x)

    def separable(x: Any, channels: int, dilation: int = 1) -> Any:
        return conv(layers.DepthwiseConv2D(3, padding="same", dilation_rate=dilation)(x), channels)

    context = x = separable(separable(conv(deep, _WIDTHS[0]), _WIDTHS[0], 2), _WIDTHS[0])
    for skip, channels in zip(skips[::-1], _WIDTHS[1:], strict=True):
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        x = separable(separable(layers.Concatenate()([x, conv(skip, channels)]), channels), channels)
    x = separable(layers.Concatenate()([x, conv(scaled, 16, 4, 2)]), _WIDTHS[-1])  # the backbone's stem blurs pixels
    rare, half = keras.initializers.Constant(-3.0), size // 2
    kinds = layers.Conv2D(len(KINDS), 1, bias_initializer=rare, name="kinds")(x)
    four = layers.Reshape((half, half, 2, 2))(layers.Conv2D(4, 1, bias_initializer=rare, name="four")(x))
    pixels = layers.Reshape((size, size, 1), name="pixels")(layers.Permute((1, 3, 2, 4))(four))
    most = layers.MaxPooling2D(CELL)(pixels), layers.AveragePooling2D(8)(kinds)
    found = layers.Concatenate(name="found")([deep, context, *most])
    top = TopMean(recipe.cells, name="top_mean")(layers.Conv2D(1, 1, bias_initializer=rare, name="cells")(found))
    rest = [layers.GlobalAveragePooling2D(name="mean")(found), layers.GlobalMaxPooling2D(name="largest")(found)]
    last = layers.Concatenate(name="features")([top, *rest])
    outputs = layers.Dense(1, "sigmoid", name="p_crack", dtype="float32")(last)
    model = keras.Model(inputs, outputs, name=recipe.name.replace("-", "_"))
    kernel = np.eye(last.shape[-1], 1, dtype=np.float32)  # the top cells alone decide
    model.get_layer("p_crack").set_weights([kernel, np.zeros(1, np.float32)])
    return model


def hash_weights(model: Any) -> str:
    """Return the SHA-256 of all weights of a model."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(w) for w in model.get_weights())).hexdigest()


def output_engine(model: Any, layer: str, engine: str) -> Engine:
    """Return an engine, one of `config.ENGINES`, that runs a detector up to a layer; outputs are flattened."""

    def build() -> Any:
        return keras.Model(model.input, keras.layers.Flatten()(model.get_layer(layer).output))

    file = program_file(f"{model.name}-{layer}-{model.input_shape[1]}-{hash_weights(model)[:12]}")
    return start_engine(engine, file, build)


def top_mean(maps: np.ndarray, share: float) -> np.ndarray:
    """Return the mean of the highest values of maps (n, h, w), as `layers.TopMean` does: (n,)."""
    flat = np.sort(maps.reshape(len(maps), -1), 1)
    return flat[:, -models.top_count(share, flat.shape[1]) :].mean(1)
