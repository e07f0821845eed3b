"""Backbones and their weights, freezing, numerical precision, and descriptions of models."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import config
from crackutils.config import PRECISIONS, WEIGHTS, CrackutilsError, choose, display_path, keras
from crackutils.files import sha256


@dataclass(frozen=True)
class Backbone:
    """A network without top, and the scaling of its input."""

    application: str  # its name in keras.applications
    files: tuple[str, ...]  # of its ImageNet weights in `CRACKUTILS_WEIGHTS_DIR`; {size} is filled in
    rescaling: tuple[float, float] | None  # (scale, offset) for 0-255 input; None: the network does it
    arguments: dict[str, Any]  # further arguments of the application


_V2 = ("mobilenet_v2_1.0_no_top.weights.h5", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5")
_V3 = ("mobilenet_v3_small_1.0_no_top.weights.h5", "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5")
BACKBONES: dict[str, Backbone] = {
    "mobilenetv2": Backbone("MobileNetV2", _V2, (1 / 127.5, -1.0), {"alpha": 1.0}),
    "mobilenetv3small": Backbone("MobileNetV3Small", _V3, None, {"alpha": 1.0, "include_preprocessing": True}),
}


# the backbone in this package: its name, its arguments, and its weights in float16
OWN_BACKBONE, OWN_ARGUMENTS = "mobilenetv2", {"alpha": 0.35}
OWN_FILE = config.PACKAGE / "backbone" / "mobilenetv2_035.npz"


def read_own(base: Any, file: Path = OWN_FILE) -> None:
    """Load weights, as `tools.pretraining` wrote them, into a backbone; CrackutilsError if they cannot be read."""
    try:
        with np.load(file) as arrays:
            base.set_weights([arrays[f"arr_{i}"].astype(np.float32) for i in range(len(arrays.files))])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        remedy = "Install the package again, or train the backbone with make pretrain."
        why = f"{display_path(file)} is missing or damaged ({type(error).__name__})"
        raise CrackutilsError(f"{why}. {remedy}") from error


def find_weights(backbone: str, size: int) -> Path | None:
    """Return the file with ImageNet weights in `CRACKUTILS_WEIGHTS_DIR`, or None if it is not set.

    Raises CrackutilsError if the variable names a folder that does not hold the weights.
    """
    folder = os.environ.get("CRACKUTILS_WEIGHTS_DIR")
    if not folder:
        return None
    names = _file_names(backbone, size)
    # notebooks run in their own folder, so a relative path is also tried from the project's
    files = (base / name for base in (Path(folder).expanduser(), config.ROOT / folder) for name in names)
    if found := next(filter(Path.is_file, files), None):
        return found.resolve()
    why = f"CRACKUTILS_WEIGHTS_DIR={folder} holds no weights for {backbone}"
    raise CrackutilsError(f"{why}. It needs {' or '.join(names)}.")


def _file_names(backbone: str, size: int) -> list[str]:
    trained_at = size if size in (96, 128, 160, 192, 224) else 224  # as keras.applications chooses for other sizes
    return [name.format(size=trained_at) for name in BACKBONES[backbone].files]


def build_backbone(name: str, size: int, weights: str, load: bool = True) -> Any:
    """Build a backbone of `BACKBONES` without top, from rescaled images (n, size, size, 3) to its last feature map.

    `weights` are "imagenet" (from `CRACKUTILS_WEIGHTS_DIR`, else Keras's cache or download), "crackutils" (our own, in
    this package: a narrower MobileNetV2) or "random". Without `load` the network keeps random weights, for weights that
    are loaded later. Raises CrackutilsError for weights that are not available; random ones never replace them.
    """
    choose("WEIGHTS", weights, WEIGHTS)
    own = weights == "crackutils"
    if own and name != OWN_BACKBONE:
        remedy = f"Choose a recipe with {OWN_BACKBONE}, or WEIGHTS=imagenet or random."
        raise CrackutilsError(f"WEIGHTS=crackutils exist for {OWN_BACKBONE} only, not for {name}. {remedy}")
    build = getattr(keras.applications, BACKBONES[name].application)
    shape = {"include_top": False, "input_shape": (size, size, 3), "name": name}
    shape |= OWN_ARGUMENTS if own else BACKBONES[name].arguments
    if own or weights == "random" or not load:
        base = build(weights=None, **shape)
        if own and load:
            read_own(base)
        return base
    file = find_weights(name, size)
    try:
        return build(weights=str(file) if file else "imagenet", **shape)
    except Exception as error:  # Keras raises bare Exception when a download fails
        where = f"could not be read from {file}" if file else "could not be downloaded"
        files = " or ".join(_file_names(name, size))
        instead = "crackutils (in the package)" if name == OWN_BACKBONE else "random"
        remedy = f"Choose WEIGHTS={instead}, or set CRACKUTILS_WEIGHTS_DIR to a folder with {files}."
        raise CrackutilsError(f"The ImageNet weights of {name} {where} ({type(error).__name__}). {remedy}") from error


def weights_file(name: str, size: int, weights: str) -> Path | None:
    """Return the file that `build_backbone` reads; None for random weights, and before a download."""
    if not name or weights == "random":
        return None
    return OWN_FILE if weights == "crackutils" else find_weights(name, size) or _keras_cache_file(name, size)


def weights_facts(name: str, size: int, weights: str) -> dict[str, str]:
    """Return a backbone's initial weights for `metrics.json`: weights, file (name) and sha256, empty for random."""
    file = weights_file(name, size, weights)
    facts = {"weights": weights if name else "random", "file": file.name if file else ""}
    return facts | {"sha256": sha256(file) if file else ""}


def _keras_cache_file(backbone: str, size: int) -> Path | None:
    # Keras has no public name for its folder; it takes the second if the first is not writable
    homes = (Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras"), Path("/tmp/.keras"))
    found = [home / "models" / name for home in homes for name in _file_names(backbone, size)]
    return next((f for f in found if f.is_file()), None)


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Build models in float32 during the block, whatever `set_precision` has set."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def unfreeze_top(base: Any, layers: int) -> None:
    """Make the last `layers` layers of a backbone trainable, except BatchNorm; 0 freezes all layers.

    Calling the backbone with training=False does not keep BatchNorm's statistics in Keras 3 under fit;
    `trainable=False` on each of its layers does. Compile the model after this.
    """
    base.trainable = layers > 0
    first = len(base.layers) - layers
    for i, layer in enumerate(base.layers if layers else ()):
        layer.trainable = i >= first and not isinstance(layer, keras.layers.BatchNormalization)


def settle(base: Any, images: Any) -> None:
    """Set the BatchNorm statistics of a random backbone to those of one batch of training images.

    Without it the signal of an untrained MobileNetV2 vanishes within its 50 layers. The batch is float32
    (n, size, size, 3), rescaled for the backbone. After Mishkin and Matas (2016), All you need is a good init.
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


def set_precision(precision: str) -> None:
    """Build all further models in float32, or in bfloat16 with weights in float32.

    In bfloat16, CPUs with AVX512_BF16 or AMX train CNNs without BatchNorm faster (`make bench` measures it), other CPUs
    slower. The last layer stays in float32. Raises CrackutilsError for another precision.
    """
    choose("PRECISION", precision, PRECISIONS)
    keras.config.set_dtype_policy("float32" if precision == "float32" else "mixed_bfloat16")


def rescale_input(backbone: str, x: Any) -> Any:
    """Return a tensor of RGB 0-255 rescaled for a backbone."""
    rescaling = BACKBONES[backbone].rescaling
    return keras.layers.Rescaling(rescaling[0], offset=rescaling[1], name="rescaling")(x) if rescaling else x


def without_augmentation(model: Any) -> Any:
    """Return the model without its augmentation layers, with shared weights, for prediction."""
    # they have no public base class in Keras
    layers = [layer for layer in model.layers if not type(layer).__name__.startswith("Random")]
    if len(layers) == len(model.layers):
        return model
    x = inputs = keras.Input(model.input_shape[1:], name="rgb_0_255")
    for layer in layers[1:]:
        x = layer(x)
    return keras.Model(inputs, x)


def backbone_of(model: Any) -> Any | None:
    """Return the backbone inside a model, None for a CNN from scratch."""
    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)


def describe_model(model: Any) -> dict[str, int]:
    """Return the number of parameters, in all and trainable, and of layers, the backbone's included."""
    base = backbone_of(model)
    count = len(model.layers) + (len(base.layers) - 1 if base else 0)
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    return {"parameters": model.count_params(), "trainable": trainable, "layers": count}


def top_count(share: float, count: int) -> int:
    """Return how many of the `count` cells of an image decide whether it shows a crack; `share` is `Recipe.cells`."""
    return max(2, round(share * count))


def layer_table(model: Any) -> str:
    """Return the table of layers that Keras prints, the backbone as one of them, as text without colours."""
    lines: list[str] = []
    model.summary(show_trainable=True, print_fn=lambda text, **_: lines.append(text))
    return "\n".join(line.rstrip() for line in "\n".join(lines).strip().split("\n"))
