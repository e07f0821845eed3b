"""Fit the last layer of a trained network to one site, with the labels of its user, and say what that is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crackutils import config
from crackutils.recipes import OWN_BACKBONE, Recipe, Stage
from crackutils.runs import read_recipe


def find_detector_run() -> Path:
    """Return the folder of the run of `recipes.CELLS` on the largest METU profile that has one, else on the sample.

    Only the run with the usual settings counts. Raises CrackutilsError where there is none.
    """
    for profile in ("metu", "metu-half", "metu-tenth", "metu-mini", "sample"):
        home = config.results_dir() / profile / "08_cross_dataset"
        # where it was tested does not change the network
        for folder in (home / DETECTOR.name, *sorted(home.glob(f"{DETECTOR.name}--target-*"))):
            finished = (folder / "run.json").is_file() and (folder / "model" / "model.weights.h5").is_file()
            if finished and "--" not in folder.name.removeprefix(DETECTOR.name).removeprefix("--target-"):
                return folder
    raise config.CrackutilsError(
        f"No finished run of notebook 08 is in {config.display_path(config.results_dir())}; run make run-08 PROFILE=metu-half"
        " first, or give a run's folder as --model."
    )


# Learns from pictures with masks besides the images of a profile, so notebook 08 trains it and 03 cannot.
DETECTOR = Recipe(
    name="mobilenetv2-cells",
    title="MobileNetV2 up to a stride of 16, a crack probability for each cell of 16 pixels",
    family="cells",
    size=256,
    batch=32,
    backbone=OWN_BACKBONE,
    head=(),
    augment=(),
    cells=0.06,
    stages=(Stage("cells", 1, 3e-4),),  # its steps are those of the profile
)


def read_detector_run(folder: Path) -> tuple[Any, str, Path]:
    """Return the recipe of a run of `recipes.CELLS`, what its backbone started from, and the file of its weights.

    Raises CrackutilsError for any other folder.
    """
    recipe, start = read_recipe(folder)
    file = folder / "model" / "model.weights.h5"
    if not recipe.cells:
        raise config.CrackutilsError(
            f"{folder} holds a {recipe.name}, which has no cells of its own; give a run of notebook 08."
        )
    if not file.is_file():
        raise config.CrackutilsError(
            f"{folder / 'model'} holds no model.weights.h5; run the notebook again with FORCE=1."
        )
    return recipe, start, file
