"""The nine recipes of five published projects, in plain Keras, with what their authors reported on METU.

One function per network, as its project wrote it but for the corrections in `PUBLISHED`. Each is written out, because
notebooks print it. The last layer gives the probabilities of the two classes, or with one unit that of a crack.
"""

import tomllib
from dataclasses import dataclass
from typing import Any

from crackutils import config, models
from crackutils.config import keras
from crackutils.stages import Stage, recipe


def _once(epochs: int, learning_rate: float) -> tuple[Stage, ...]:
    return (Stage("fit", epochs, learning_rate, decay=False),)


def _chernxi_stages(unfreeze: int) -> tuple[Stage, ...]:
    first, last = Stage("frozen", 1, 1e-4), Stage("frozen again", 1, 1e-5, optimizer="RMSprop")
    return first, Stage("unfrozen", 1, 1e-5, unfreeze=unfreeze, optimizer="RMSprop"), last


_TRANSFER: dict[str, Any] = {"family": "transfer", "backbone": "mobilenetv2", "units": 2}
_CNN: dict[str, Any] = {"family": "cnn", "batch": 32, "units": 2}


# Keras 2 counted 229 layers and froze 120, up to the depthwise convolution of block 6; what follows are here 71
@recipe(
    "MobileNetV3Small at 120 px, dense layers of 128, 64, 32 and 16, in three stages",
    **_TRANSFER | {"backbone": "mobilenetv3small"}, size=120, batch=16, stages=_chernxi_stages(unfreeze=71),
)  # fmt: skip
def chernxi_mobilenetv3small(seed: int, weights: str) -> Any:
    """MobileNetV3Small, which rescales by itself, and four dense layers."""
    base = models.build_backbone("mobilenetv3small", 120, weights)
    base.trainable = False
    inputs = keras.Input((120, 120, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.25, seed=seed + 1)(x)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    for units in (128, 64, 32, 16):
        x = keras.layers.Dense(units, "relu")(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="chernxi_mobilenetv3small")


# 154 layers, 130 of them frozen
@recipe(
    "MobileNetV2 at 120 px, dense layers of 128 and 64, in three stages",
    **_TRANSFER, size=120, batch=16, stages=_chernxi_stages(unfreeze=24),
)  # fmt: skip
def chernxi_mobilenetv2(seed: int, weights: str) -> Any:
    """MobileNetV2 and two dense layers."""
    base = models.build_backbone("mobilenetv2", 120, weights)
    base.trainable = False
    inputs = keras.Input((120, 120, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.25, seed=seed + 1)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    for units in (128, 64):
        x = keras.layers.Dense(units, "relu")(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="chernxi_mobilenetv2")


@recipe("Three convolutions without pooling at 120 px", **_CNN, size=120, stages=_once(14, 1e-3), patience=14)
def chernxi_cnn_120(seed: int) -> Any:
    """Three convolutions without pooling, on 120 pixels."""
    inputs = keras.Input((120, 120, 3), name="rgb_0_255")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 16, 8):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Flatten()(x)
    for units in (32, 16):
        x = keras.layers.Dense(units, "relu")(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="chernxi_cnn_120")


@recipe(
    "Three convolutions without pooling at 80 px, flips and rotations",
    **_CNN, size=80, stages=_once(9, 1e-3), patience=9,
)  # fmt: skip
def chernxi_cnn_80(seed: int) -> Any:
    """Three convolutions without pooling, on 80 pixels, behind flips and rotations."""
    inputs = keras.Input((80, 80, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.25, seed=seed + 1)(x)
    x = keras.layers.Rescaling(1 / 255)(x)
    for filters in (32, 16, 8):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Flatten()(x)
    for units in (32, 16):
        x = keras.layers.Dense(units, "relu")(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="chernxi_cnn_80")


@recipe(
    "MobileNetV2 at 160 px, frozen, in batches of 16",
    **_TRANSFER, size=160, batch=16, stages=_once(10, 1e-4), patience=5,
)  # fmt: skip
def bitterfrown_mobilenetv2(seed: int, weights: str) -> Any:
    """A frozen MobileNetV2 and two units."""
    base = models.build_backbone("mobilenetv2", 160, weights)
    base.trainable = False
    inputs = keras.Input((160, 160, 3), name="rgb_0_255")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="bitterfrown_mobilenetv2")


@recipe("MobileNetV2 at 227 px, frozen, flips and rotations", **_TRANSFER, size=227, batch=32, stages=_once(3, 1e-4))
def imranismael_mobilenetv2(seed: int, weights: str) -> Any:
    """A frozen MobileNetV2 on METU's own 227 pixels, behind flips and rotations."""
    base = models.build_backbone("mobilenetv2", 227, weights)
    base.trainable = False
    inputs = keras.Input((227, 227, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.2, seed=seed + 1)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3, seed=seed)(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="imranismael_mobilenetv2")


@recipe(
    "MobileNetV2 at 160 px, frozen, flips and rotations",
    **_TRANSFER, size=160, batch=32, stages=_once(5, 1e-4), patience=5,
)  # fmt: skip
def splitfolders_mobilenetv2(seed: int, weights: str) -> Any:
    """A frozen MobileNetV2 on 160 pixels, behind flips and rotations."""
    base = models.build_backbone("mobilenetv2", 160, weights)
    base.trainable = False
    inputs = keras.Input((160, 160, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.2, seed=seed + 1)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3, seed=seed)(x)
    outputs = keras.layers.Dense(2, "softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="splitfolders_mobilenetv2")


@recipe(
    "MobileNetV2 at 160 px, frozen, one sigmoid unit",
    **_TRANSFER | {"units": 1}, size=160, batch=10, stages=_once(3, 1e-4),
)  # fmt: skip
def marzed7_mobilenetv2(seed: int, weights: str) -> Any:
    """A frozen MobileNetV2, dropout and one sigmoid unit."""
    base = models.build_backbone("mobilenetv2", 160, weights)
    base.trainable = False
    inputs = keras.Input((160, 160, 3), name="rgb_0_255")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3, seed=seed)(x)
    outputs = keras.layers.Dense(1, "sigmoid", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="marzed7_mobilenetv2")


@recipe(
    "Three conv-pool blocks and a dense layer of 256 on the flattened map, at 256 px",
    **_CNN | {"units": 1}, size=256, stages=_once(3, 1e-3), patience=2,
)  # fmt: skip
def marzed7_cnn_256(seed: int) -> Any:
    """Three convolutions with pooling and a dense layer on the flattened map."""
    inputs = keras.Input((256, 256, 3), name="rgb_0_255")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(16, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(32, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Dropout(0.1, seed=seed)(x)
    x = keras.layers.Conv2D(32, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Dropout(0.3, seed=seed + 1)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(256, "relu")(x)
    outputs = keras.layers.Dense(1, "sigmoid", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="marzed7_cnn_256")


RECIPES = (
    chernxi_mobilenetv3small, chernxi_mobilenetv2, bitterfrown_mobilenetv2, imranismael_mobilenetv2,
    splitfolders_mobilenetv2, marzed7_mobilenetv2, chernxi_cnn_120, chernxi_cnn_80, marzed7_cnn_256,
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """The published result of a recipe on METU."""

    source: str  # repository, where its name is known
    test_images: int  # images it was tested on; 0 if no result is known
    errors: int  # wrong ones; from the published accuracy if no count is given
    measured: str  # its source: "notebook output", "figure", "README only" or "not available"
    caveat: str  # why the number is not comparable
    corrections: tuple[str, ...]  # changes in our recipe, a line each
    accuracy: float | None = None  # fraction; as published, or from errors; None if no result is known


_FACTS = tomllib.loads((config.PACKAGE / "published_results.toml").read_text("utf-8"))
CORRECTED_IN_ALL: tuple[str, ...] = tuple(_FACTS["corrected_in_all"])
PUBLISHED: dict[str, Published] = {
    name: Published(**facts | {"corrections": tuple(facts["corrections"])}) for name, facts in _FACTS["recipes"].items()
}


def published_result(published: Published) -> str:
    """Return the published result and its source as text."""
    if published.accuracy is None:
        return "no result that can be read"
    result = f"{published.errors:,} errors in {published.test_images:,}"
    return f"{result} (accuracy {published.accuracy:.4f}; {published.measured})"
