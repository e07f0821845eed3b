"""Recipes: everything that defines a training run, and the results that others have published."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from crackutils.config import CrackutilsError, Profile, choose


@dataclass(frozen=True)
class Stage:
    """One call of fit.

    Attributes:
        name: shown in tables and curves.
        epochs: upper bound; early stopping on the validation loss may end it sooner.
        learning_rate: of Adam, decayed to zero along a half cosine over `epochs`.
        unfreeze: number of backbone layers, counted from the output, that are trained; BatchNorm stays frozen.
    """

    name: str
    epochs: int
    learning_rate: float
    unfreeze: int = 0


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
        backbone: entry of `models.BACKBONES`; empty for the simple CNN.
        blocks: filters of the simple CNN's conv-BatchNorm-pool blocks.
        dropout: rate before the last layer.
        augment: Keras layers by name with their arguments, applied in the model during training only.
        patience: epochs without a better validation loss before a stage ends.
    """

    name: str
    title: str
    family: str
    size: int
    batch: int
    stages: tuple[Stage, ...]
    backbone: str = ""
    blocks: tuple[int, ...] = ()
    dropout: float = 0.2
    augment: tuple[tuple[str, dict[str, Any]], ...] = field(
        default=(("RandomFlip", {"mode": "horizontal_and_vertical"}), ("RandomRotation", {"factor": 0.05}))
    )
    patience: int = 3

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain lists and dictionaries, for `metrics.json`."""
        return asdict(self)


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(
            name="mobilenetv2",
            title="MobileNetV2 at 160 px: a linear head first, then the top 54 layers fine-tuned",
            family="transfer",
            size=160,
            batch=32,
            backbone="mobilenetv2",
            stages=(Stage("head", 2, 1e-3), Stage("fine-tune", 2, 1e-4, unfreeze=54)),
        ),
        Recipe(
            name="mobilenetv2-frozen",
            title="MobileNetV2 at 160 px, frozen: only a linear head is trained",
            family="transfer",
            size=160,
            batch=32,
            backbone="mobilenetv2",
            stages=(Stage("head", 5, 1e-3),),
        ),
        Recipe(
            name="mobilenetv3small",
            title="MobileNetV3Small at 224 px: a linear head first, then the top 40 layers fine-tuned",
            family="transfer",
            size=224,
            batch=32,
            backbone="mobilenetv3small",
            stages=(Stage("head", 2, 1e-3), Stage("fine-tune", 2, 1e-4, unfreeze=40)),
        ),
        Recipe(
            name="simple-cnn",
            title="Four conv-BatchNorm-pool blocks and global pooling at 112 px, from scratch",
            family="cnn",
            size=112,
            batch=32,
            blocks=(16, 32, 64, 128),
            stages=(Stage("scratch", 8, 2e-3),),
            augment=(("RandomFlip", {"mode": "horizontal_and_vertical"}),),
            patience=4,
        ),
    )
}


def recipe(name: str, family: str, profile: Profile, epochs: int = 0) -> Recipe:
    """Return a recipe by name, with the epochs that a profile allows.

    Args:
        name: a key of `RECIPES`.
        family: what the notebook trains; a recipe of another family is refused.
        profile: its factor on epochs and its bound apply.
        epochs: further upper bound on the epochs of each stage; 0 for none.

    Raises:
        CrackutilsError: unknown name, with the names that exist; negative epochs.
    """
    found = RECIPES[choose("RECIPE", name, [r.name for r in RECIPES.values() if r.family == family])]
    if epochs < 0:
        raise CrackutilsError(f"EPOCHS={epochs} must be 0 (no bound) or more.")
    bound = min(e for e in (epochs, profile.max_epochs, 10**6) if e)
    stages = (replace(s, epochs=min(s.epochs * profile.epochs, bound)) for s in found.stages)
    return replace(found, stages=tuple(stages))


@dataclass(frozen=True)
class Published:
    """A result that others have published on METU.

    Attributes:
        source: repository, where its name is known.
        model: what was trained.
        test_images: images it was tested on.
        errors: wrong ones; from the published accuracy where no count is given.
        accuracy: fraction; as published, or from errors.
        measured: "notebook output", "figure" or "README only".
        caveat: what keeps it from being comparable.
    """

    source: str
    model: str
    test_images: int
    errors: int
    accuracy: float
    measured: str
    caveat: str


# Read from the projects' own notebooks, figures and READMEs.
PUBLISHED: tuple[Published, ...] = (
    Published(
        "ChernXi/AI07_Project_3-Image-Classification", "MobileNetV3Small, 4 dense layers, 120 px", 1600, 5, 0.996875,
        "notebook output", "random split leaks copies; learning rate had decayed to zero",
    ),
    Published(
        "ChernXi/AI07_Project_3-Image-Classification", "CNN without pooling, 120 px", 1600, 4, 0.9975,
        "notebook output", "random split leaks copies; 4 h 19 min of training",
    ),
    Published(
        "M-ImranIsmael/Concrete-Crack-Image-Classification", "MobileNetV2, 227 px", 4000, 17, 0.99575,
        "figure", "validation and test are the same images",
    ),
    Published(
        "unnamed (script exported from Colab)", "MobileNetV2, 160 px, 5 epochs", 1600, 4, 0.9975,
        "README only", "random split leaks copies; its test folder was never used",
    ),
    Published(
        "marzed7/Capstone-Project-3-Image-Classification", "MobileNetV2, one sigmoid unit, 160 px", 40000, 2668, 0.9333,
        "notebook output", "tested on its training images; inputs rescaled twice",
    ),
    Published(
        "marzed7/Capstone-Project-3-Image-Classification", "CNN with flatten, 256 px", 4000, 65, 0.98375,
        "notebook output", "random split leaks copies; last epoch instead of the best",
    ),
)  # fmt: skip
