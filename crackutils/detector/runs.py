"""The detector's recipe, and its runs: find the one to use, and read one."""

from pathlib import Path

from crackutils.config import CrackutilsError, display_path, results_dir
from crackutils.runs import read_recipe
from crackutils.stages import Recipe, Stage

# Learns from patches with masks besides the images of a profile, so notebook 08 trains it and 03 cannot.
DETECTOR = Recipe(
    name="mobilenetv2-cells",
    title="MobileNetV2 up to a stride of 16, a crack probability for each cell of 16 pixels",
    family="cells",
    size=256,
    batch=32,
    backbone="mobilenetv2",
    cells=0.06,
    stages=(Stage("cells", 1, 3e-4),),  # its steps are those of the profile
)


def find_detector_run() -> Path:
    """Return the folder of the run of `DETECTOR` on the largest METU profile that has one, else on the sample.

    Only runs with the usual settings count. Raises CrackutilsError where there is none.
    """
    for profile in ("metu", "metu-half", "metu-tenth", "metu-mini", "sample"):
        home = results_dir() / profile / "08_cross_dataset"
        # where it was tested does not change the network
        for folder in (home / DETECTOR.name, *sorted(home.glob(f"{DETECTOR.name}--target-*"))):
            finished = (folder / "run.json").is_file() and (folder / "model" / "model.weights.h5").is_file()
            if finished and "--" not in folder.name.removeprefix(DETECTOR.name).removeprefix("--target-"):
                return folder
    raise CrackutilsError(
        f"No finished run of notebook 08 is in {display_path(results_dir())};"
        " run make run-08 PROFILE=metu-half first, or give a run's folder as --model."
    )


def read_detector_run(folder: Path) -> tuple[Recipe, str, Path]:
    """Return the recipe of a run of `DETECTOR`, what its backbone started from, and the file of its weights.

    Raises CrackutilsError for any other folder.
    """
    recipe, start = read_recipe(folder)
    file = folder / "model" / "model.weights.h5"
    if not recipe.cells:
        raise CrackutilsError(
            f"{folder} holds a {recipe.name}, which has no cells of its own; give a run of notebook 08."
        )
    if not file.is_file():
        raise CrackutilsError(f"{file.parent} holds no model.weights.h5; run the notebook again with FORCE=1.")
    return recipe, start, file
