"""Recipes, which define a training run, and their stages."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from crackutils.config import keras

SOLVERS = ("Newton-CG", "L-BFGS")  # of a linear head on features of the frozen backbone; the second in older runs


@dataclass(frozen=True)
class Stage:
    """One call of fit."""

    name: str  # shown in tables and curves
    epochs: int  # upper limit, of iterations for `SOLVERS`; early stopping may end the stage sooner
    learning_rate: float = 0.0  # of the optimizer, at the first step; `SOLVERS` find their own
    unfreeze: int = 0  # number of backbone layers, counted from the output, that are trained; BatchNorm stays frozen
    optimizer: str = "Adam"  # or "RMSprop", or one of `SOLVERS`
    decay: bool = True  # whether the learning rate falls to zero along a half cosine over `epochs`, or is constant


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a training run."""

    name: str  # what the user writes after `RECIPE=`, and the name of the results folder
    title: str  # one line
    family: str  # "transfer" (notebook 03), "cnn" (notebook 04) or "cells" (the detector of notebook 08)
    size: int  # side of the square input, pixels
    batch: int  # images per step
    stages: tuple[Stage, ...]  # calls of fit, in order
    network: Callable[..., Any] | None = None  # builds the model from seed, with a backbone from seed and weights
    backbone: str = ""  # entry of `models.BACKBONES`; empty for a CNN from scratch
    units: int = 1  # of the last layer: 1 with a sigmoid, or 2 with a softmax, the second for crack
    patience: int = 3  # epochs without a better validation loss before a stage ends
    cells: float = 0.0  # share of the most crack-like cells whose mean decides; 0 for recipes without cells

    @property
    def linear(self) -> bool:
        """Whether it is a linear head on features that are computed once."""
        return self.stages[0].optimizer in SOLVERS

    def build(self, seed: int, weights: str = "random") -> Any:
        """Build the model from float32 (n, size, size, 3) RGB 0-255 to float32 (n, units), probabilities.

        The same seed gives the same initial weights, dropout and augmentation. `weights`, one of `config.WEIGHTS`, are
        those of the backbone. Raises CrackutilsError if they are not available.
        """
        keras.utils.set_random_seed(seed)
        return self.network(seed, weights) if self.backbone else self.network(seed)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields but `network` as plain lists and dictionaries, for `metrics.json`."""
        skipped = {"network"} | ({"cells"} if not self.cells else set())
        return {name: value for name, value in asdict(self).items() if name not in skipped}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the recipe that `as_dict` described, without its network; fields of older versions are dropped.

        Raises TypeError or KeyError where a field is missing.
        """
        known = {field.name for field in fields(cls)} - {"network", "stages"}
        stages = tuple(Stage(**stage) for stage in values["stages"])
        return cls(**{name: value for name, value in values.items() if name in known}, stages=stages)


def recipe(title: str, **settings: Any) -> Callable[[Callable[..., Any]], Recipe]:
    """Return a decorator that makes a `Recipe` of a function that builds a network; `settings` are its other fields."""
    return lambda network: Recipe(network.__name__.replace("_", "-"), title, network=network, **settings)
