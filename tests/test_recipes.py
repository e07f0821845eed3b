"""The recipes: published ones layer by layer and setting by setting, what is told of them, their way through JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Any

import pytest

from crackutils import config, models
from crackutils.models import keras
from crackutils.published import CORRECTED_IN_ALL, PUBLISHED
from crackutils.recipes import RECIPES, Recipe, Stage, choose_recipe, describe_recipe

OURS = ("mobilenetv2-linear", "mobilenetv2", "simple-cnn")


@functools.cache
def built(name: str) -> Any:
    """Return the model of a recipe; tests must leave it as it is."""
    return models.build(RECIPES[name], "random", 1)[0]


def as_words(layer: Any) -> str:
    """Return the class of a layer and what decides its output."""
    own = layer.get_config()
    words = {
        "Conv2D": ("filters", "kernel_size", "strides", "padding", "activation", "use_bias"),
        "MaxPooling2D": ("pool_size", "strides"),
        "Dense": ("units", "activation"),
        "Dropout": ("rate",),
        "RandomFlip": ("mode",),
        "RandomRotation": ("factor",),
    }.get(type(layer).__name__, ())
    return " ".join([type(layer).__name__, *(str(own[word]).replace(" ", "") for word in words)])


# ---------------------------------------------------------------- layers as published


WITHOUT_POOLING = """
    Conv2D 32 (3,3) (1,1) same relu True
    Conv2D 16 (3,3) (1,1) same relu True
    Conv2D 8 (3,3) (1,1) same relu True
    GlobalAveragePooling2D
    Flatten
    Dense 32 relu
    Dense 16 relu
    Dense 2 softmax
"""
FROZEN = "GlobalAveragePooling2D \n Dropout 0.3 \n Dense 2 softmax"
# what follows the rescaling or the backbone
LAYERS = {
    "chernxi-mobilenetv3small": """
        GlobalAveragePooling2D
        Dense 128 relu
        Dense 64 relu
        Dense 32 relu
        Dense 16 relu
        Dense 2 softmax
    """,
    "chernxi-mobilenetv2": """
        GlobalAveragePooling2D
        Dense 128 relu
        Dense 64 relu
        Dense 2 softmax
    """,
    "bitterfrown-mobilenetv2": "GlobalAveragePooling2D \n Dense 2 softmax",
    "imranismael-mobilenetv2": FROZEN,
    "splitfolders-mobilenetv2": FROZEN,
    "marzed7-mobilenetv2": "GlobalAveragePooling2D \n Dropout 0.3 \n Dense 1 sigmoid",
    "chernxi-cnn-120": WITHOUT_POOLING,
    "chernxi-cnn-80": WITHOUT_POOLING,
    "marzed7-cnn-256": """
        Conv2D 16 (3,3) (1,1) valid relu True
        MaxPooling2D (2,2) (2,2)
        Conv2D 32 (3,3) (1,1) valid relu True
        MaxPooling2D (2,2) (2,2)
        Dropout 0.1
        Conv2D 32 (3,3) (1,1) valid relu True
        MaxPooling2D (2,2) (2,2)
        Dropout 0.3
        Flatten
        Dense 256 relu
        Dense 1 sigmoid
    """,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_published_ones(name: str) -> None:
    model = built(name)
    kinds = [type(layer).__name__ for layer in model.layers]
    first = kinds.index("Functional" if RECIPES[name].backbone else "Rescaling") + 1
    assert [as_words(layer) for layer in model.layers[first:]] == [
        line.strip() for line in LAYERS[name].strip().split("\n")
    ]


# parameters in all, of which trained while the backbone is frozen
PARAMETERS = {
    "chernxi-mobilenetv3small": (939_120 + 84_754, 84_754),
    "chernxi-mobilenetv2": (2_257_984 + 172_354, 172_354),
    "bitterfrown-mobilenetv2": (2_257_984 + 2_562, 2_562),
    "imranismael-mobilenetv2": (2_257_984 + 2_562, 2_562),
    "splitfolders-mobilenetv2": (2_257_984 + 2_562, 2_562),
    "marzed7-mobilenetv2": (2_257_984 + 1_281, 1_281),
    "chernxi-cnn-120": (7_530, 7_530),
    "chernxi-cnn-80": (7_530, 7_530),
    "marzed7-cnn-256": (7_387_649, 7_387_649),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    found = models.describe_model(built(name))
    assert (found["parameters"], found["trainable"]) == PARAMETERS[name]


# ---------------------------------------------------------------- settings as published


THREE_STAGES = [(1, "Adam", 1e-4, "decay"), (1, "RMSprop", 1e-5, "decay"), (1, "RMSprop", 1e-5, "decay")]
ALL_FLIPS_QUARTER = ["RandomFlip horizontal_and_vertical", "RandomRotation (-0.25,0.25)"]
FLIP_ROTATE = ["RandomFlip horizontal", "RandomRotation (-0.2,0.2)"]
# size, batch, stages (epochs, optimizer, learning rate and whether it falls), augmentation
SETTINGS: dict[str, tuple[int, int, list[tuple[int, str, float, str]], list[str]]] = {
    "chernxi-mobilenetv3small": (120, 16, THREE_STAGES, ALL_FLIPS_QUARTER),
    "chernxi-mobilenetv2": (120, 16, THREE_STAGES, ALL_FLIPS_QUARTER),
    "bitterfrown-mobilenetv2": (160, 16, [(10, "Adam", 1e-4, "constant")], []),
    "imranismael-mobilenetv2": (227, 32, [(3, "Adam", 1e-4, "constant")], FLIP_ROTATE),
    "splitfolders-mobilenetv2": (160, 32, [(5, "Adam", 1e-4, "constant")], FLIP_ROTATE),
    "marzed7-mobilenetv2": (160, 10, [(3, "Adam", 1e-4, "constant")], []),
    "chernxi-cnn-120": (120, 32, [(14, "Adam", 1e-3, "constant")], []),
    "chernxi-cnn-80": (80, 32, [(9, "Adam", 1e-3, "constant")], ALL_FLIPS_QUARTER),
    "marzed7-cnn-256": (256, 32, [(3, "Adam", 1e-3, "constant")], []),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_published_ones(name: str) -> None:
    recipe, model = RECIPES[name], built(name)
    size, batch, stages, augmentation = SETTINGS[name]
    assert recipe.name == name
    assert recipe.family == ("cnn" if "cnn" in name else "transfer")
    assert model.input_shape == (None, size, size, 3)
    assert recipe.batch == batch
    assert [
        (s.epochs, s.optimizer, s.learning_rate, "decay" if s.decay else "constant") for s in recipe.stages
    ] == stages
    assert [as_words(layer) for layer in model.layers if type(layer).__name__.startswith("Random")] == augmentation
    # nobody published these, and none of them may come in by a changed default
    assert (recipe.label_smoothing, recipe.averaging, recipe.flips) == (0, 0, False)


@pytest.mark.parametrize(
    ("name", "frozen", "first"),
    [
        ("chernxi-mobilenetv3small", 86, "expanded_conv_6_squeeze_excite_conv"),
        ("chernxi-mobilenetv2", 130, "block_14_project"),
    ],
)
def test_the_second_of_three_stages_trains_the_top_and_the_third_none_of_it(name: str, frozen: int, first: str) -> None:
    base = models.backbone_of(built(name))
    opened = [stage.unfreeze for stage in RECIPES[name].stages]
    assert opened == [0, len(base.layers) - frozen, 0]
    try:
        models.unfreeze_top(base, opened[1])
        trained = [layer for layer in base.layers if layer.trainable_weights]
    finally:
        models.unfreeze_top(base, 0)
    assert trained[0].name == first
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in trained)


def test_the_other_published_recipes_leave_the_backbone_frozen() -> None:
    names = [name for name in PUBLISHED if len(RECIPES[name].stages) == 1]
    assert len(names) == 7
    assert [name for name in names if RECIPES[name].stages[0].unfreeze] == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_rescales_exactly_once(name: str) -> None:
    base = models.backbone_of(built(name))
    layers = [*built(name).layers, *(base.layers if base else ())]
    found = [layer for layer in layers if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)]
    assert [(layer.scale, layer.offset) for layer in found] == [
        (pytest.approx(1 / 127.5), -1) if base else (pytest.approx(1 / 255), 0)
    ]


# ---------------------------------------------------------------- what was published


def test_every_recipe_that_is_not_ours_says_where_it_comes_from() -> None:
    assert set(PUBLISHED) == set(RECIPES) - set(OURS) == set(LAYERS) == set(SETTINGS) == set(PARAMETERS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_result_is_one_number_told_in_two_ways(name: str) -> None:
    published = PUBLISHED[name]
    assert re.match(r"[\w.-]+/[\w.-]+$|unnamed", published.source)
    assert published.measured in ("notebook output", "figure", "README only", "nobody")
    assert published.corrections and all(line.strip() for line in published.corrections)
    assert published.caveat
    if published.accuracy is None:
        assert (published.test_images, published.errors, published.measured) == (0, 0, "nobody")
    else:
        assert published.measured != "nobody"
        assert published.accuracy == pytest.approx(1 - published.errors / published.test_images, abs=5e-5)


def test_what_is_told_of_a_recipe() -> None:
    assert describe_recipe("simple-cnn").endswith("A recipe of this project.")
    text = describe_recipe("marzed7-cnn-256")
    published = PUBLISHED["marzed7-cnn-256"]
    assert published.source in text
    assert "65 errors in 4,000 (accuracy 0.9838; notebook output)" in text
    assert published.caveat in text
    assert [line[2:] for line in text.split("\n") if line.startswith("- ")] == list(published.corrections)
    assert all(line in text for line in CORRECTED_IN_ALL)
    assert "Published: no result that can be read;" in describe_recipe("bitterfrown-mobilenetv2")


# ---------------------------------------------------------------- JSON, profiles and refusals


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name: str) -> None:
    fields = json.loads(json.dumps(RECIPES[name].as_dict()))
    found = Recipe.from_dict(fields)
    assert found == RECIPES[name]
    assert found.as_dict() == RECIPES[name].as_dict()
    with pytest.raises(TypeError):
        Recipe.from_dict(fields | {"blocks": [16, 32]})


@pytest.mark.parametrize(
    ("profile", "bound", "epochs"),
    [
        ("metu-half", 0, [1, 3]),
        ("metu-mini", 0, [2, 6]),
        ("metu-mini", 4, [2, 4]),
        ("metu-half", 9, [1, 3]),
        ("smoke", 0, [1, 1]),
        ("smoke", 5, [1, 1]),
    ],
)
def test_a_profile_and_the_user_bound_the_epochs(
    profile: str, bound: int, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(RECIPES["mobilenetv2"], stages=(Stage("head", 1, 1e-3), Stage("fine-tune", 3, 1e-4, 54)))
    monkeypatch.setitem(RECIPES, "mobilenetv2", own)
    found = choose_recipe("mobilenetv2", "transfer", config.profile(profile), bound)
    assert found == dataclasses.replace(
        own, stages=tuple(dataclasses.replace(s, epochs=n) for s, n in zip(own.stages, epochs, strict=True))
    )
    linear = choose_recipe("mobilenetv2-linear", "transfer", config.profile(profile), bound)
    assert linear == RECIPES["mobilenetv2-linear"]  # L-BFGS has no epochs


def test_no_recipe_has_two_stages_of_one_name() -> None:
    for recipe in RECIPES.values():  # seconds and what was kept are told by name
        assert len({stage.name for stage in recipe.stages}) == len(recipe.stages), recipe.name


V3 = "chernxi-mobilenetv3small"


@pytest.mark.parametrize(
    ("name", "profile", "options", "says"),
    [
        ("mobilnetv2", "metu", {}, "did you mean mobilenetv2?"),
        ("simple-cnn", "metu", {}, "RECIPE=simple-cnn is unknown"),  # of another family
        ("mobilenetv2", "metu", {"epochs": -1}, "EPOCHS=-1 must be 0 (no bound) or more"),
        (V3, "sample", {}, "WEIGHTS=crackutils, which PROFILE=sample takes, exist for mobilenetv2 only"),
        (V3, "metu", {"weights": "crackutils"}, "cannot start from WEIGHTS=crackutils"),
    ],
)
def test_refuses(name: str, profile: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(config.CrackutilsError) as told:
        choose_recipe(name, "transfer", config.profile(profile), **options)
    assert says in str(told.value)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_weights_of_our_own_are_asked_of_recipes_with_another_backbone_only() -> None:
    sample = config.profile("sample")
    assert choose_recipe(V3, "transfer", sample, weights="random").name == V3
    assert choose_recipe("chernxi-mobilenetv2", "transfer", sample).backbone == "mobilenetv2"
    assert choose_recipe("chernxi-cnn-80", "cnn", sample).backbone == ""
