"""Recipes: everything that defines a training run, ours and nine published ones, with what their authors found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from crackutils import config
from crackutils.published import CORRECTED_IN_ALL, PUBLISHED, published_result

OWN_BACKBONE = "mobilenetv2"  # the only one that WEIGHTS=crackutils exist for
_AVERAGE = "GlobalAveragePooling2D"
Layers = tuple[tuple[str, dict[str, Any]], ...]  # classes of keras.layers by name, each with its arguments


@dataclass(frozen=True)
class Stage:
    """One call of fit.

    Attributes:
        name: shown in tables and curves.
        epochs: upper bound; early stopping on the validation loss may end it sooner. With L-BFGS, of its iterations.
        learning_rate: of the optimizer, at the first step; L-BFGS finds its own.
        unfreeze: number of backbone layers, counted from the output, that are trained; BatchNorm stays frozen.
        optimizer: "Adam" or "RMSprop"; or "L-BFGS", which fits a linear head to convergence, on features of the frozen
            backbone that are computed once, without augmentation.
        decay: whether the learning rate falls to zero along a half cosine over `epochs`, or stays as it is.
    """

    name: str
    epochs: int
    learning_rate: float = 0.0
    unfreeze: int = 0
    optimizer: str = "Adam"
    decay: bool = True


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a training run.

    Attributes:
        name: what the user writes after `RECIPE=`, and the name of the results folder.
        title: one line for people.
        family: "transfer" (notebook 03) or "cnn" (notebook 04).
        size: side of the square input, pixels.
        batch: images per step.
        stages: calls of fit, in order.
        backbone: entry of `models.BACKBONES`; empty for a CNN from scratch.
        body: layers of a CNN from scratch, behind the rescaling; empty with a backbone.
        head: layers before the last one.
        units: of the last layer: 1 with a sigmoid, or 2 with a softmax, whose second is the crack.
        augment: layers that act during training only.
        patience: epochs without a better validation loss before a stage ends.
        label_smoothing: share of the label that is spread over both classes, in [0, 1); with one unit only.
        averaging: momentum of a moving average of the weights over the steps, which replaces them; 0 for none.
        flips: whether predictions are means over the image and its three mirror images.
        cells: share of the image's cells, those most like a crack, whose mean decides; 0 for recipes without cells.
    """

    name: str
    title: str
    family: str
    size: int
    batch: int
    stages: tuple[Stage, ...]
    backbone: str = ""
    body: Layers = ()
    head: Layers = (("GlobalAveragePooling2D", {}), ("Dropout", {"rate": 0.2}))
    units: int = 1
    augment: Layers = (("RandomFlip", {"mode": "horizontal_and_vertical"}), ("RandomRotation", {"factor": 0.05}))
    patience: int = 3
    label_smoothing: float = 0.0
    averaging: float = 0.0
    flips: bool = False
    cells: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no loss of Keras can do, and L-BFGS where no head is linear; CrackutilsError."""
        if self.label_smoothing and self.units != 1:
            raise config.CrackutilsError(f"RECIPE={self.name}: label_smoothing needs units=1.")
        later = any(stage.optimizer == "L-BFGS" for stage in self.stages[1:])
        layers = [kind for kind, _ in self.head if kind != "Dropout"]
        if later or (self.linear and not (self.backbone and self.units == 1 and layers == [_AVERAGE])):
            raise config.CrackutilsError(
                f"RECIPE={self.name}: L-BFGS works in the first stage only, on a backbone with {_AVERAGE} and one unit."
            )
        ignored = {name: getattr(self, name) for name in ("label_smoothing", "averaging", "flips")}
        ignored |= {"augment": self.augment} if self.on_features else {}
        if self.linear and any(ignored.values()):
            names = ", ".join(name for name, value in ignored.items() if value)
            raise config.CrackutilsError(f"RECIPE={self.name}: L-BFGS knows no {names}; leave it out.")

    @property
    def linear(self) -> bool:
        """Whether it begins with a linear head on features that are computed once."""
        return self.stages[0].optimizer == "L-BFGS"

    @property
    def on_features(self) -> bool:
        """Whether such a head is all there is."""
        return self.linear and len(self.stages) == 1

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain lists and dictionaries, for `metrics.json`."""
        return {name: value for name, value in asdict(self).items() if name != "cells" or value}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """Return the recipe that `as_dict` described, also after a way through JSON; TypeError for unknown fields."""
        layers = {
            name: tuple((kind, options) for kind, options in fields[name]) for name in ("body", "head", "augment")
        }
        return cls(**fields | layers | {"stages": tuple(Stage(**stage) for stage in fields["stages"])})


def _blocks(*filters: int) -> Layers:
    """Convolution, BatchNorm and pooling, once for each number of filters."""
    # a moving average of about ten batches: short runs end with statistics that fit the weights
    return tuple(
        layer
        for n in filters
        for layer in (
            ("Conv2D", {"filters": n, "kernel_size": 3, "padding": "same", "use_bias": False}),
            ("BatchNormalization", {"momentum": 0.9}),
            ("ReLU", {}),
            ("MaxPooling2D", {}),
        )
    )


def _dense(*units: int) -> Layers:
    return tuple(("Dense", {"units": n, "activation": "relu"}) for n in units)


def _conv(filters: int, padding: str) -> Layers:
    return (("Conv2D", {"filters": filters, "kernel_size": 3, "padding": padding, "activation": "relu"}),)


_POOL: Layers = (("GlobalAveragePooling2D", {}),)
_POOL_DROPOUT: Layers = (*_POOL, ("Dropout", {"rate": 0.3}))
_FLIP_ROTATE: Layers = (("RandomFlip", {"mode": "horizontal"}), ("RandomRotation", {"factor": 0.2}))
_ALL_FLIPS_QUARTER: Layers = (
    ("RandomFlip", {"mode": "horizontal_and_vertical"}),
    ("RandomRotation", {"factor": 0.25}),
)
_WITHOUT_POOLING: Layers = (*_conv(32, "same"), *_conv(16, "same"), *_conv(8, "same"))
_FOUR_DENSE: Layers = (*_POOL, *_dense(128, 64, 32, 16))


def _constant(epochs: int, learning_rate: float) -> tuple[Stage, ...]:
    return (Stage("fit", epochs, learning_rate, decay=False),)


def _three_stages(unfreeze: int) -> tuple[Stage, ...]:
    return (
        Stage("frozen", 1, 1e-4),
        Stage("unfrozen", 1, 1e-5, unfreeze=unfreeze, optimizer="RMSprop"),
        Stage("frozen again", 1, 1e-5, optimizer="RMSprop"),
    )


_ALL: tuple[Recipe, ...] = (
    Recipe(
        name="mobilenetv2-linear",
        title="MobileNetV2 at 160 px, frozen: a linear head on features computed once",
        family="transfer",
        size=160,
        batch=32,
        backbone="mobilenetv2",
        head=_POOL,
        augment=(),
        stages=(Stage("linear head", 1000, optimizer="L-BFGS", decay=False),),
    ),
    Recipe(
        name="mobilenetv2",
        title="MobileNetV2 at 160 px: a linear head first, then the top 54 layers fine-tuned",
        family="transfer",
        size=160,
        batch=32,
        backbone="mobilenetv2",
        stages=(Stage("head", 1, 1e-3), Stage("fine-tune", 3, 1e-4, unfreeze=54)),  # as benchmarks/recipe.py found
    ),
    Recipe(
        name="simple-cnn",
        title="Four conv-BatchNorm-pool blocks and global pooling at 112 px, from scratch",
        family="cnn",
        size=112,
        batch=32,
        body=_blocks(16, 32, 64, 128),
        stages=(Stage("scratch", 8, 2e-3),),
        augment=(("RandomFlip", {"mode": "horizontal_and_vertical"}),),
        patience=4,
    ),
    # ---- as published, but for the corrections in PUBLISHED
    Recipe(
        name="chernxi-mobilenetv3small",
        title="MobileNetV3Small at 120 px, dense layers of 128, 64, 32 and 16, in three stages",
        family="transfer",
        size=120,
        batch=16,
        backbone="mobilenetv3small",
        head=_FOUR_DENSE,
        units=2,
        augment=_ALL_FLIPS_QUARTER,
        # Keras 2 counted 229 layers and froze 120, up to the depthwise convolution of block 6; what follows are here 71
        stages=_three_stages(unfreeze=71),
    ),
    Recipe(
        name="chernxi-mobilenetv2",
        title="MobileNetV2 at 120 px, dense layers of 128 and 64, in three stages",
        family="transfer",
        size=120,
        batch=16,
        backbone="mobilenetv2",
        head=(*_POOL, *_dense(128, 64)),
        units=2,
        augment=_ALL_FLIPS_QUARTER,
        stages=_three_stages(unfreeze=24),  # 154 layers, 130 of them frozen
    ),
    Recipe(
        name="bitterfrown-mobilenetv2",
        title="MobileNetV2 at 160 px, frozen, in batches of 16",
        family="transfer",
        size=160,
        batch=16,
        backbone="mobilenetv2",
        head=_POOL,
        units=2,
        augment=(),
        stages=_constant(10, 1e-4),
        patience=5,
    ),
    Recipe(
        name="imranismael-mobilenetv2",
        title="MobileNetV2 at 227 px, frozen, flips and rotations",
        family="transfer",
        size=227,
        batch=32,
        backbone="mobilenetv2",
        head=_POOL_DROPOUT,
        units=2,
        augment=_FLIP_ROTATE,
        stages=_constant(3, 1e-4),
    ),
    Recipe(
        name="splitfolders-mobilenetv2",
        title="MobileNetV2 at 160 px, frozen, flips and rotations",
        family="transfer",
        size=160,
        batch=32,
        backbone="mobilenetv2",
        head=_POOL_DROPOUT,
        units=2,
        augment=_FLIP_ROTATE,
        stages=_constant(5, 1e-4),
        patience=5,
    ),
    Recipe(
        name="marzed7-mobilenetv2",
        title="MobileNetV2 at 160 px, frozen, one sigmoid unit",
        family="transfer",
        size=160,
        batch=10,
        backbone="mobilenetv2",
        head=_POOL_DROPOUT,
        augment=(),
        stages=_constant(3, 1e-4),
    ),
    Recipe(
        name="chernxi-cnn-120",
        title="Three convolutions without pooling at 120 px",
        family="cnn",
        size=120,
        batch=32,
        body=_WITHOUT_POOLING,
        head=(*_POOL, ("Flatten", {}), *_dense(32, 16)),
        units=2,
        augment=(),
        stages=_constant(14, 1e-3),
        patience=14,
    ),
    Recipe(
        name="chernxi-cnn-80",
        title="Three convolutions without pooling at 80 px, flips and rotations",
        family="cnn",
        size=80,
        batch=32,
        body=_WITHOUT_POOLING,
        head=(*_POOL, ("Flatten", {}), *_dense(32, 16)),
        units=2,
        augment=_ALL_FLIPS_QUARTER,
        stages=_constant(9, 1e-3),
        patience=9,
    ),
    Recipe(
        name="marzed7-cnn-256",
        title="Three conv-pool blocks and a dense layer of 256 on the flattened map, at 256 px",
        family="cnn",
        size=256,
        batch=32,
        body=(
            *_conv(16, "valid"),
            ("MaxPooling2D", {}),
            *_conv(32, "valid"),
            ("MaxPooling2D", {}),
            ("Dropout", {"rate": 0.1}),
            *_conv(32, "valid"),
            ("MaxPooling2D", {}),
            ("Dropout", {"rate": 0.3}),
        ),
        head=(("Flatten", {}), *_dense(256)),
        augment=(),
        stages=_constant(3, 1e-3),
        patience=2,
    ),
)
RECIPES: dict[str, Recipe] = {r.name: r for r in _ALL}


def choose_recipe(name: str, family: str, profile: config.Profile, epochs: int = 0, weights: str = "") -> Recipe:
    """Return a recipe by name, with the epochs that a profile allows.

    Args:
        name: a key of `RECIPES`.
        family: what the notebook trains; a recipe of another family is refused.
        profile: its factor on epochs and its bound apply.
        epochs: further upper bound on the epochs of each stage; 0 for none.
        weights: what the backbone starts from; empty takes the profile's.

    Raises:
        CrackutilsError: unknown name, with the names that exist; negative epochs; weights that its backbone has not.
    """
    found = RECIPES[config.choose("RECIPE", name, [r.name for r in RECIPES.values() if r.family == family])]
    if epochs < 0:
        raise config.CrackutilsError(f"EPOCHS={epochs} must be 0 (no bound) or more.")
    if found.backbone not in ("", OWN_BACKBONE) and (weights or profile.weights) == "crackutils":
        raise config.CrackutilsError(
            f"RECIPE={name} needs WEIGHTS=imagenet or random here: WEIGHTS=crackutils, which PROFILE={profile.name}"
            f" takes, exist for {OWN_BACKBONE} only."
            if not weights
            else f"RECIPE={name} cannot start from WEIGHTS=crackutils, which exist for {OWN_BACKBONE} only; choose"
            " imagenet or random."
        )
    if found.linear and (weights or profile.weights) == "random":
        raise config.CrackutilsError(f"RECIPE={name} needs a backbone that has learnt something, not WEIGHTS=random.")
    bound = min(e for e in (epochs, profile.max_epochs, 10**6) if e)
    stages = tuple(
        # L-BFGS has no epochs, and a head that has not converged is none
        s if s.optimizer == "L-BFGS" else replace(s, epochs=min(s.epochs * profile.epochs, bound))
        for s in found.stages
    )
    return replace(found, stages=stages)


def describe_recipe(name: str) -> str:
    """Return, as Markdown, where a recipe comes from, what was published of it and what is corrected here."""
    found, published = RECIPES[name], PUBLISHED.get(name)
    if published is None:
        return f"`{name}`: {found.title}. A recipe of this project."
    corrected = "".join(f"\n- {line}" for line in published.corrections)
    return (
        f"`{name}`: {found.title}. Source: {published.source}. Published: {published_result(published)}; {published.caveat}."
        f"\n\nCorrected here:\n{corrected}\n\nand, as in all recipes, {'; '.join(CORRECTED_IN_ALL)}."
    )
