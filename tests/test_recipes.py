"""The recipes: networks and settings as published and as the notebooks show them, and their way through JSON."""

import dataclasses
import functools
import inspect
import json
import re
from typing import Any

import nbformat
import numpy as np
import pytest

from crackutils import config, models
from crackutils.config import keras
from crackutils.detector.runs import DETECTOR
from crackutils.published import CORRECTED_IN_ALL, PUBLISHED
from crackutils.recipes import RECIPES, choose_recipe, describe_recipe
from crackutils.stages import Recipe, Stage

OURS = ("mobilenetv2-linear", "mobilenetv2", "simple-cnn")
NAMED = RECIPES | {DETECTOR.name: DETECTOR}


@functools.cache
def built(name: str) -> Any:
    """Return the model of a recipe; tests must leave it as it is."""
    return RECIPES[name].build(1)


def as_words(layer: Any) -> str:
    """Return the class of a layer and what decides its output."""
    names = ("filters", "units", "kernel_size", "pool_size", "strides", "padding", "activation")
    names += ("rate", "mode", "factor")  # of dropout, flips and rotations
    own = layer.get_config()
    return " ".join([type(layer).__name__, *(str(own[name]).replace(" ", "") for name in names if name in own)])


FLIPS, VALID, POOLED = "RandomFlip horizontal_and_vertical", "(3,3) (1,1) valid relu", "MaxPooling2D (2,2) (2,2) valid"
QUARTER, FLAT = f"{FLIPS} | RandomRotation (-0.25,0.25)", "RandomFlip horizontal | RandomRotation (-0.2,0.2)"
BASE = "Rescaling | Functional | GlobalAveragePooling2D"
BARE = " | ".join(["Rescaling", *(f"Conv2D {filters} (3,3) (1,1) same relu" for filters in (32, 16, 8))])
BARE += " | GlobalAveragePooling2D | Flatten | Dense 32 relu | Dense 16 relu | Dense 2 softmax"
# as published, but for our own, which no notebook shows; settings are those of the committed references, below
LAYERS = {
    "mobilenetv2": f"{FLIPS} | RandomRotation (-0.05,0.05) | {BASE} | Dropout 0.2 | Dense 1 sigmoid",
    "chernxi-mobilenetv3small": f"{QUARTER} | Functional | GlobalAveragePooling2D | Dense 128 relu | Dense 64 relu"
    " | Dense 32 relu | Dense 16 relu | Dense 2 softmax",
    "chernxi-mobilenetv2": f"{QUARTER} | {BASE} | Dense 128 relu | Dense 64 relu | Dense 2 softmax",
    "bitterfrown-mobilenetv2": f"{BASE} | Dense 2 softmax",
    "imranismael-mobilenetv2": f"{FLAT} | {BASE} | Dropout 0.3 | Dense 2 softmax",
    "splitfolders-mobilenetv2": f"{FLAT} | {BASE} | Dropout 0.3 | Dense 2 softmax",
    "marzed7-mobilenetv2": f"{BASE} | Dropout 0.3 | Dense 1 sigmoid",
    "chernxi-cnn-120": BARE,
    "chernxi-cnn-80": f"{QUARTER} | {BARE}",
    "marzed7-cnn-256": f"Rescaling | Conv2D 16 {VALID} | {POOLED} | Conv2D 32 {VALID} | {POOLED} | Dropout 0.1"
    f" | Conv2D 32 {VALID} | {POOLED} | Dropout 0.3 | Flatten | Dense 256 relu | Dense 1 sigmoid",
}
V2, V3 = 2_257_984, 939_120  # parameters of the backbones, as keras.applications says
CNN = 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 4 * (16 + 32 + 64 + 128) + 128 + 1
# parameters in all, and of them those that are trained while the backbone is frozen
PARAMETERS = {
    "mobilenetv2-linear": (V2 + 1_281, 1_281),
    "mobilenetv2": (V2 + 1_281, 1_281),
    "simple-cnn": (CNN, CNN - 480),  # without the moving means and variances
    "chernxi-mobilenetv3small": (V3 + 84_754, 84_754),
    "chernxi-mobilenetv2": (V2 + 172_354, 172_354),
    "bitterfrown-mobilenetv2": (V2 + 2_562, 2_562),
    "imranismael-mobilenetv2": (V2 + 2_562, 2_562),
    "splitfolders-mobilenetv2": (V2 + 2_562, 2_562),
    "marzed7-mobilenetv2": (V2 + 1_281, 1_281),
    "chernxi-cnn-120": (7_530, 7_530),
    "chernxi-cnn-80": (7_530, 7_530),
    "marzed7-cnn-256": (7_387_649, 7_387_649),
}


@pytest.mark.parametrize("name", RECIPES)
def test_networks_are_those_that_were_published(name: str) -> None:
    recipe, model = RECIPES[name], built(name)
    found = models.describe_model(model)
    assert (found["parameters"], found["trainable"]) == PARAMETERS[name]
    assert (model.input_shape[1:], model.output_shape[1:]) == ((recipe.size, recipe.size, 3), (recipe.units,))
    assert name not in LAYERS or " | ".join(as_words(layer) for layer in model.layers[1:]) == LAYERS[name]
    assert (recipe.name, recipe.family) == (name, "cnn" if "cnn" in name else "transfer")
    assert len({stage.name for stage in recipe.stages}) == len(recipe.stages)  # seconds and what was kept go by name


@pytest.mark.parametrize(
    ("name", "first"),
    [("chernxi-mobilenetv3small", "expanded_conv_6_squeeze_excite_conv"), ("chernxi-mobilenetv2", "block_14_project")],
)
def test_the_second_of_three_stages_trains_the_top_from_the_published_layer_on(name: str, first: str) -> None:
    opened = models.backbone_of(built(name)).layers[-RECIPES[name].stages[1].unfreeze :]
    norms = keras.layers.BatchNormalization
    assert next(layer.name for layer in opened if layer.weights and not isinstance(layer, norms)) == first


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_rescales_exactly_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first convolution gets -1 to 1 in a backbone, 0 to 1 in a CNN from scratch."""
    model, base = built(name), models.backbone_of(built(name))
    layers = [*model.layers, *(base.layers if base else ())]
    kinds = keras.layers.Rescaling | keras.layers.Normalization
    assert sum(isinstance(layer, kinds) for layer in layers) == 1
    first, entering = next(layer for layer in layers if isinstance(layer, keras.layers.Conv2D)), []
    call = first.call
    monkeypatch.setattr(first, "call", lambda x: (entering.append(np.asarray(x)), call(x))[1])
    size = RECIPES[name].size
    model(np.stack([np.full((size, size, 3), value, np.float32) for value in (0, 255)]), training=False)
    inside = entering[0][:, 5, 5]  # away from the border, which may be padded
    np.testing.assert_allclose(inside, [[-1 if base else 0] * 3, [1] * 3], atol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_source_that_notebooks_print_is_the_whole_network(name: str) -> None:
    source, names = inspect.getsource(RECIPES[name].network), {"keras": keras, "models": models, "Any": Any}
    exec(source[source.index("def ") :], names)  # a helper of the module would be a NameError
    printed = names[name.replace("-", "_")](1, *["random"] * bool(RECIPES[name].backbone))
    assert list(map(as_words, printed.layers)) == list(map(as_words, built(name).layers))


@pytest.mark.parametrize(
    ("notebook", "name", "shown"),
    [("03_transfer_learning", "mobilenetv2-linear", "Dense("), ("04_simple_cnn", "simple-cnn", "Conv2D(")],
)
def test_a_notebook_shows_the_network_that_the_recipe_builds(notebook: str, name: str, shown: str) -> None:
    cells = nbformat.read(config.NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    (network,) = (c.source for c in cells if c.cell_type == "code" and shown in c.source)
    names = {"SEED": 5, "weights": "random", "keras": keras, "models": models}
    exec(network, names)
    pair = [names["model"], RECIPES[name].build(5, "random")]

    def configs(model: Any) -> list[Any]:
        base = models.backbone_of(model)
        chain = [layer for layer in [*model.layers, *(base.layers if base else ())] if layer is not base]
        return [(type(layer), layer.get_config() | {"name": ""}) for layer in chain]

    assert configs(pair[0]) == configs(pair[1])
    variables = [[np.array(v) for v in model.variables] for model in pair]  # with the seeds of random layers
    assert len(variables[0]) == len(variables[1]) and all(map(np.array_equal, *variables))
    x = np.random.default_rng(0).uniform(0, 255, (2, *pair[0].input_shape[1:])).astype(np.float32)
    np.testing.assert_array_equal(*(model.predict_on_batch(x) for model in pair))


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(OURS)))
def test_a_published_result_is_one_number_told_in_two_ways(name: str) -> None:
    assert len(PUBLISHED) == 9
    published = PUBLISHED[name]
    assert re.match(r"[\w.-]+/[\w.-]+$|unnamed", published.source)
    assert published.measured in ("notebook output", "figure", "README only", "not available")
    assert published.corrections and all(line.strip() for line in published.corrections)
    assert published.caveat
    if published.accuracy is None:
        assert (published.test_images, published.errors, published.measured) == (0, 0, "not available")
    else:
        assert published.measured != "not available"
        assert published.accuracy == pytest.approx(1 - published.errors / published.test_images, abs=5e-5)


def test_what_is_told_of_a_recipe() -> None:
    assert describe_recipe("simple-cnn").endswith("A recipe of this project.")
    text, published = describe_recipe("marzed7-cnn-256"), PUBLISHED["marzed7-cnn-256"]
    assert published.source in text and published.caveat in text
    assert "65 errors in 4,000 (accuracy 0.9838; notebook output)" in text
    assert [line[2:] for line in text.split("\n") if line.startswith("- ")] == list(published.corrections)
    assert all(line in text for line in CORRECTED_IN_ALL)
    assert "Published: no result that can be read;" in describe_recipe("bitterfrown-mobilenetv2")


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_comes_back_from_json(name: str) -> None:
    fields = json.loads(json.dumps(NAMED[name].as_dict()))
    assert Recipe.from_dict(fields) == dataclasses.replace(NAMED[name], network=None)
    older = {"body": [["ReLU", {}]], "label_smoothing": 0.0, "flips": False}
    assert Recipe.from_dict(fields | older) == Recipe.from_dict(fields)
    del fields["stages"][0]["epochs"]
    with pytest.raises(TypeError):
        Recipe.from_dict(fields)


def test_recipes_of_the_committed_references_are_read() -> None:
    files = sorted(config.REFERENCE.glob("*/0[348]*/*/metrics.json"))
    assert len(files) > 50
    for file in files:
        settings = json.loads(file.read_text("utf-8"))["settings"]
        found, profile = Recipe.from_dict(settings["recipe"]), config.profile(settings["profile"])
        known = choose_recipe(found.name, found.family, profile, 0, "imagenet") if found.name in RECIPES else DETECTOR
        if known is DETECTOR and found.title != DETECTOR.title:  # as it was before it gave a probability for each pixel
            known = dataclasses.replace(DETECTOR, title=found.title, batch=found.batch, stages=found.stages)
        assert found == dataclasses.replace(known, network=None), file


@pytest.mark.parametrize(
    ("profile", "bound", "epochs"),
    [
        *[("metu-half", 0, [1, 3]), ("metu-mini", 0, [2, 6]), ("metu-mini", 4, [2, 4])],
        *[("metu-half", 9, [1, 3]), ("smoke", 0, [1, 1]), ("smoke", 5, [1, 1])],
    ],
)
def test_a_profile_and_the_user_bound_the_epochs(
    profile: str, bound: int, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(RECIPES["mobilenetv2"], stages=(Stage("head", 1, 1e-3), Stage("fine-tune", 3, 1e-4, 54)))
    monkeypatch.setitem(RECIPES, "mobilenetv2", own)
    stages = tuple(dataclasses.replace(s, epochs=n) for s, n in zip(own.stages, epochs, strict=True))
    found = choose_recipe("mobilenetv2", "transfer", config.profile(profile), bound)
    assert found == dataclasses.replace(own, stages=stages)
    linear = choose_recipe("mobilenetv2-linear", "transfer", config.profile(profile))
    assert linear == RECIPES["mobilenetv2-linear"]  # its solver has no epochs


SMALL = "chernxi-mobilenetv3small"


@pytest.mark.parametrize(
    ("name", "profile", "options", "says"),
    [
        ("mobilnetv2", "metu", {}, "did you mean mobilenetv2?"),
        ("simple-cnn", "metu", {}, "RECIPE=simple-cnn is unknown"),  # of another family
        ("mobilenetv2", "metu", {"epochs": -1}, "EPOCHS=-1 is negative. Give 0"),
        ("mobilenetv2-linear", "metu", {"epochs": 2}, "EPOCHS=2 has no effect on RECIPE=mobilenetv2-linear"),
        (SMALL, "sample", {}, "WEIGHTS=crackutils, which PROFILE=sample takes, exist for mobilenetv2 only"),
        (SMALL, "metu", {"weights": "crackutils"}, "WEIGHTS=crackutils exist for mobilenetv2 only, not for RECIPE"),
        ("mobilenetv2-linear", "metu", {"weights": "random"}, "needs a pretrained backbone"),
    ],
)
def test_refuses(name: str, profile: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(config.CrackutilsError) as caught:
        choose_recipe(name, "transfer", config.profile(profile), **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_weights_of_our_own_are_asked_of_recipes_with_another_backbone_only() -> None:
    sample = config.profile("sample")
    assert choose_recipe(SMALL, "transfer", sample, weights="random").name == SMALL
    assert choose_recipe("chernxi-mobilenetv2", "transfer", sample).backbone == "mobilenetv2"
    assert choose_recipe("chernxi-cnn-80", "cnn", sample).backbone == ""
