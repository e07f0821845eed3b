"""Backbones with their preprocessing exactly once, heads, and CNNs from scratch. Models take raw RGB values 0-255."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from crackutils import config
from crackutils.detector.network import build_detector
from crackutils.files import sha256
from crackutils.recipes import OWN_BACKBONE, Recipe

tf = config.tensorflow()


@dataclass(frozen=True)
class Backbone:
    """A network without top, and how its input is scaled.

    Attributes:
        build: function of keras.applications.
        files: names under which its ImageNet weights may lie in `CRACKUTILS_WEIGHTS_DIR`; {size} is filled in.
        rescaling: (scale, offset) applied to 0-255 input; None where the network rescales by itself.
        arguments: further arguments of `build`.
    """

    build: Callable[..., Any]
    files: tuple[str, ...]
    rescaling: tuple[float, float] | None
    arguments: dict[str, Any]


BACKBONES: dict[str, Backbone] = {
    "mobilenetv2": Backbone(
        keras.applications.MobileNetV2,
        (
            "mobilenet_v2_1.0_no_top.weights.h5",
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5",
        ),
        (1 / 127.5, -1.0),
        {"alpha": 1.0},
    ),
    "mobilenetv3small": Backbone(
        keras.applications.MobileNetV3Small,
        ("mobilenet_v3_small_1.0_no_top.weights.h5", "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"),
        None,
        {"alpha": 1.0, "include_preprocessing": True},
    ),
}


@dataclass(frozen=True)
class Own:
    """The backbone in this package: which architecture it is, what that is built with, and its float16 weights."""

    backbone: str
    arguments: dict[str, Any]
    file: Path


OWN = Own(OWN_BACKBONE, {"alpha": 0.35}, config.PACKAGE / "backbone" / "mobilenetv2_035.npz")


def write_own(base: Any, file: Path) -> None:
    """Write a backbone's weights as float16 arrays, in the order of `base.weights`; equal weights give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}")
    with open(part, "wb") as handle:
        np.savez(handle, *(np.asarray(w).astype(np.float16) for w in base.weights))
    os.replace(part, file)


def read_own(base: Any, file: Path = OWN.file) -> None:
    """Load what `write_own` wrote into a backbone of the same architecture; CrackutilsError if it cannot be read."""
    try:
        with np.load(file) as arrays:
            base.set_weights([arrays[f"arr_{i}"].astype(np.float32) for i in range(len(arrays.files))])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise config.CrackutilsError(
            f"{config.display_path(file)} is missing or damaged ({type(error).__name__}); install the package again, or"
            " make it again with make pretrain."
        ) from error


def find_weights(backbone: str, size: int) -> Path | None:
    """Return the file with ImageNet weights in `CRACKUTILS_WEIGHTS_DIR`, or None where that is not set.

    Raises:
        CrackutilsError: the variable names a folder that does not hold the weights.
    """
    folder = os.environ.get("CRACKUTILS_WEIGHTS_DIR")
    if not folder:
        return None
    names = _file_names(backbone, size)
    # notebooks run in their own folder, so a relative path is also tried from the project's
    for base in (Path(folder).expanduser(), config.ROOT / folder):
        for name in names:
            if (base / name).is_file():
                return (base / name).resolve()
    raise config.CrackutilsError(
        f"CRACKUTILS_WEIGHTS_DIR={folder} holds no weights for {backbone}; it needs {' or '.join(names)}."
    )


def _file_names(backbone: str, size: int) -> list[str]:
    trained_at = size if size in (96, 128, 160, 192, 224) else 224  # as keras.applications chooses for other sizes
    return [name.format(size=trained_at) for name in BACKBONES[backbone].files]


def build_backbone(name: str, size: int, weights: str, load: bool = True) -> tuple[Any, dict[str, str]]:
    """Build a backbone without top.

    Args:
        name: a key of `BACKBONES`.
        size: side of the input, pixels.
        weights: "imagenet" (from `CRACKUTILS_WEIGHTS_DIR`, else Keras's cache or download), "crackutils" (our own, in
            this package: a narrower MobileNetV2) or "random".
        load: False builds the same network and leaves its weights random, for weights that are loaded afterwards.

    Returns:
        The model, and what was loaded: {"weights", "file", "sha256"}.

    Raises:
        CrackutilsError: weights that are nowhere to be had; they are never replaced by random ones.
    """
    config.choose("WEIGHTS", weights, config.WEIGHTS)
    entry = BACKBONES[name]
    own = weights == "crackutils"
    if own and name != OWN.backbone:
        raise config.CrackutilsError(
            f"WEIGHTS=crackutils exist for {OWN.backbone} only, not for {name};"
            f" choose a recipe with {OWN.backbone}, or WEIGHTS=imagenet or random."
        )
    shape = {"include_top": False, "input_shape": (size, size, 3), "name": name}
    shape |= OWN.arguments if own else entry.arguments
    if weights == "random" or not load:
        return entry.build(weights=None, **shape), {"weights": "random", "file": "", "sha256": ""}
    if own:
        base = entry.build(weights=None, **shape)
        read_own(base)
        return base, weights_facts(weights, OWN.file)
    file = find_weights(name, size)
    try:
        base = entry.build(weights=str(file) if file else "imagenet", **shape)
    except Exception as error:  # Keras raises bare Exception when a download fails
        where = f"could not be read from {file}" if file else "could not be downloaded"
        one_of = ", ".join(_file_names(name, size))
        raise config.CrackutilsError(
            f"The ImageNet weights of {name} {where} ({type(error).__name__}); put one of {one_of} in a folder"
            " and set CRACKUTILS_WEIGHTS_DIR to it, or choose WEIGHTS=random."
        ) from error
    return base, weights_facts(weights, file or keras_cache_file(name, size))


def weights_facts(weights: str, file: Path | None) -> dict[str, str]:
    return {
        "weights": weights,
        "file": file.name if file else "",
        "sha256": sha256(file) if file else "",
    }


def keras_cache_file(backbone: str, size: int) -> Path | None:
    # Keras has no public name for its folder; where that cannot be written to it takes the second
    homes = (Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras"), Path("/tmp/.keras"))
    found = [home / "models" / name for home in homes for name in _file_names(backbone, size)]
    return next((f for f in found if f.is_file()), None)


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Let models that are built in the block compute in float32, whatever `set_precision` said."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def unfreeze_top(base: Any, layers: int) -> None:
    """Train the last `layers` layers of a backbone, BatchNorm excepted; 0 freezes it whole.

    Calling the backbone with training=False does not keep BatchNorm's statistics in Keras 3 under fit;
    `trainable=False` on each of its layers does. Compile the model after this.
    """
    base.trainable = layers > 0
    first = len(base.layers) - layers
    for i, layer in enumerate(base.layers if layers else ()):
        layer.trainable = i >= first and not isinstance(layer, keras.layers.BatchNormalization)


def settle(base: Any, images: Any) -> None:
    """Set the BatchNorm statistics of a random backbone to those of one batch of training images.

    Without it the signal of an untrained MobileNetV2 dies out on its way through 50 layers. The batch is float32
    (n, size, size, 3), scaled as the backbone wants it. After Mishkin and Matas (2016), All you need is a good init.
    """
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta, was_trainable = [norm.momentum for norm in norms], base.trainable
    base.trainable = True
    for norm in norms:
        norm.momentum = 0.0
    base(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    base.trainable = was_trainable


_SHORT = {
    "Conv2D": "conv",
    "BatchNormalization": "norm",
    "ReLU": "relu",
    "MaxPooling2D": "pool",
    "GlobalAveragePooling2D": "global_pool",
    "Flatten": "flatten",
    "Dropout": "dropout",
    "Dense": "dense",
}  # names of the layers that recipes may hold


def set_precision(precision: str) -> None:
    """Let the models that are built from here on compute in float32, or in bfloat16 with weights in float32.

    CPUs with AVX512_BF16 or AMX train CNNs without BatchNorm faster so (`make bench` tells how much); other CPUs are
    slower. The last layer stays in float32. Raises CrackutilsError for another precision.
    """
    config.choose("PRECISION", precision, config.PRECISIONS)
    keras.config.set_dtype_policy("float32" if precision == "float32" else "mixed_bfloat16")


def build(recipe: Recipe, weights: str, seed: int, load: bool = True) -> tuple[Any, dict[str, str]]:
    """Build the model of a recipe; the same seed gives the same initial weights.

    `weights` and `load` are those of `build_backbone`; they mean nothing to a CNN from scratch.

    Returns:
        A model from float32 (n, size, size, 3) RGB 0-255 to float32 (n, 1), the probability of a crack, or (n, 2), the
        probabilities of the classes; and what weights were loaded.
    """
    from crackutils.augment import augmentation

    keras.utils.set_random_seed(seed)
    if recipe.cells:
        return build_detector(recipe, weights, load)
    inputs = keras.Input((recipe.size, recipe.size, 3), name="rgb_0_255")
    x = inputs
    for layer in augmentation(recipe, seed):
        x = layer(x)
    if recipe.backbone:
        base, loaded = build_backbone(recipe.backbone, recipe.size, weights, load)
        base.trainable = False
        x = base(rescale_input(recipe.backbone, x))
    else:
        loaded = {"weights": "random", "file": "", "sha256": ""}
        x = keras.layers.Rescaling(1 / 255, name="rescaling")(x)
    numbers: dict[str, int] = {}
    for kind, options in recipe.body + recipe.head:
        short = _SHORT[kind]
        numbers[short] = numbers.get(short, 0) + 1
        seeded = {"seed": seed + numbers[short] - 1} if kind == "Dropout" else {}
        # without a name Keras would count on from the models built before
        x = getattr(keras.layers, kind)(name=f"{short}_{numbers[short]}", **seeded, **options)(x)
    name, activation = ("p_crack", "sigmoid") if recipe.units == 1 else ("p_classes", "softmax")
    outputs = keras.layers.Dense(recipe.units, activation, name=name, dtype="float32")(x)
    return keras.Model(inputs, outputs, name=recipe.name.replace("-", "_")), loaded


def rescale_input(backbone: str, x: Any) -> Any:
    if BACKBONES[backbone].rescaling:
        scale, offset = BACKBONES[backbone].rescaling
        x = keras.layers.Rescaling(scale, offset, name="rescaling")(x)
    return x


def without_augmentation(model: Any) -> Any:
    """Return a model of the same layers and weights that takes and gives the same, for prediction only."""
    if not any(layer.name.startswith("augment_") for layer in model.layers):
        return model
    x = inputs = keras.Input(model.input_shape[1:], name="rgb_0_255")
    for layer in model.layers[1:]:
        if not layer.name.startswith("augment_"):
            x = layer(x)
    return keras.Model(inputs, x)


def backbone_of(model: Any) -> Any | None:
    """Return the backbone inside a model made by `build`, None for a CNN from scratch."""
    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)


def describe_model(model: Any) -> dict[str, int]:
    """Return the number of parameters, in all and trainable, and of layers, the backbone's included."""
    base = backbone_of(model)
    count = len(model.layers) + (len(base.layers) - 1 if base else 0)
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    return {"parameters": model.count_params(), "trainable": trainable, "layers": count}


def layer_table(model: Any) -> str:
    """Return the table of layers that Keras prints, the backbone as one of them, as text without colours."""
    lines: list[str] = []
    model.summary(show_trainable=True, print_fn=lambda text, **_: lines.append(text))
    return "\n".join(line.rstrip() for line in "\n".join(lines).strip().split("\n"))
