"""Our recipes, as plain Keras functions with their settings, and the list of all recipes, ours and published.

Notebooks 03 and 04 show the networks of the two default recipes in a cell of their own; a test compares both.
"""

from dataclasses import replace
from typing import Any

from crackutils import models, published
from crackutils.config import CrackutilsError, Profile, choose, keras
from crackutils.stages import SOLVERS, Recipe, Stage, recipe


@recipe(
    "MobileNetV2 at 160 px, frozen: a linear head on features computed once",
    family="transfer", size=160, batch=32, backbone="mobilenetv2",
    stages=(Stage("linear head", 1000, optimizer="Newton-CG", decay=False),),
)  # fmt: skip
def mobilenetv2_linear(seed: int, weights: str) -> Any:
    """A frozen MobileNetV2 and one sigmoid unit on the average of its last map."""
    base = models.build_backbone("mobilenetv2", 160, weights)
    base.trainable = False
    inputs = keras.Input((160, 160, 3), name="rgb_0_255")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(1, "sigmoid", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="mobilenetv2_linear")


@recipe(
    "MobileNetV2 at 160 px: a linear head first, then the top 54 layers fine-tuned",
    family="transfer", size=160, batch=32, backbone="mobilenetv2",
    stages=(Stage("head", 1, 1e-3), Stage("fine-tune", 3, 1e-4, unfreeze=54)),  # chosen in tools/benchmarks/recipe.json
)  # fmt: skip
def mobilenetv2(seed: int, weights: str) -> Any:
    """MobileNetV2 with augmentation in front and dropout before its one sigmoid unit."""
    base = models.build_backbone("mobilenetv2", 160, weights)
    base.trainable = False
    inputs = keras.Input((160, 160, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.05, seed=seed + 1)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2, seed=seed)(x)
    outputs = keras.layers.Dense(1, "sigmoid", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="mobilenetv2")


@recipe(
    "Four conv-BatchNorm-pool blocks and global pooling at 112 px, from scratch",
    family="cnn", size=112, batch=32, stages=(Stage("scratch", 8, 2e-3),), patience=4,
)  # fmt: skip
def simple_cnn(seed: int) -> Any:
    """Four blocks of convolution, BatchNorm and pooling, from scratch."""
    inputs = keras.Input((112, 112, 3), name="rgb_0_255")
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.Rescaling(1 / 255)(x)
    for filters in (16, 32, 64, 128):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        # 0.9: an average over about ten batches, so that short runs end with fitting statistics
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2, seed=seed)(x)
    outputs = keras.layers.Dense(1, "sigmoid", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="simple_cnn")


OURS = (mobilenetv2_linear, mobilenetv2, simple_cnn)
RECIPES: dict[str, Recipe] = {found.name: found for found in (*OURS, *published.RECIPES)}


def choose_recipe(name: str, family: str, profile: Profile, epochs: int = 0, weights: str = "") -> Recipe:
    """Return a recipe of a family by name, with the epochs that a profile allows.

    `epochs` also limits the epochs of each stage, 0 for no limit; empty `weights` are the profile's. Raises
    CrackutilsError for an unknown name, negative epochs, any for a linear head, or weights that do not exist.
    """
    found = RECIPES[choose("RECIPE", name, [r.name for r in RECIPES.values() if r.family == family])]
    if epochs < 0:
        raise CrackutilsError(f"EPOCHS={epochs} is negative. Give 0 (no limit) or more.")
    if epochs and found.linear:
        raise CrackutilsError(f"EPOCHS={epochs} has no effect on RECIPE={name}, which has none. Leave EPOCHS out.")
    own = models.OWN_BACKBONE
    if found.backbone not in ("", own) and (weights or profile.weights) == "crackutils":
        usual = "" if weights else f", which PROFILE={profile.name} takes,"
        why = f"WEIGHTS=crackutils{usual} exist for {own} only, not for RECIPE={name}"
        raise CrackutilsError(f"{why}. Choose WEIGHTS=imagenet or random.")
    if found.linear and (weights or profile.weights) == "random":
        raise CrackutilsError(f"RECIPE={name} needs a pretrained backbone. Leave WEIGHTS=random out.")
    bound = min(e for e in (epochs, profile.max_epochs, 10**6) if e)
    stages = tuple(
        # a linear head has no epochs, and must converge
        s if s.optimizer in SOLVERS else replace(s, epochs=min(s.epochs * profile.epochs, bound))
        for s in found.stages
    )
    return replace(found, stages=stages)


def describe_recipe(name: str) -> str:
    """Return the source of a recipe, its published result and our corrections, as Markdown."""
    found, source = RECIPES[name], published.PUBLISHED.get(name)
    if source is None:
        return f"`{name}`: {found.title}. A recipe of this project."
    text = f"`{name}`: {found.title}. Source: {source.source}. Published: {published.published_result(source)};"
    text += f" {source.caveat}.\n\nCorrected here:\n" + "".join(f"\n- {line}" for line in source.corrections)
    return f"{text}\n\nand, as in all recipes, {'; '.join(published.CORRECTED_IN_ALL)}."
