"""Recipes: everything that defines a training run, ours and nine published ones, with what their authors found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What others have published of a recipe, on METU.

    Attributes:
        source: repository, where its name is known.
        test_images: images it was tested on; 0 where no result can be read.
        errors: wrong ones; from the published accuracy where no count is given.
        accuracy: fraction; as published, or from errors; None where no result can be read.
        measured: who says so: "notebook output", "figure", "README only" or "nobody".
        caveat: what keeps the number from being comparable.
        corrections: what our recipe does otherwise, a line each.
    """

    source: str
    test_images: int
    errors: int
    accuracy: float | None
    measured: str
    caveat: str
    corrections: tuple[str, ...]


CORRECTED_IN_ALL = (
    "copies of test images are kept out of training (SPLIT=random splits as they did)",
    "training, validation and test images are disjoint, and stay the same from pass to pass",
    "labels and predictions come from one pass over all test images, in order",
    "the epoch with the best validation loss is kept, and a stage only if it lowers that loss",
    "each stage is compiled after `trainable` is set, and a backbone's BatchNorm keeps its statistics",
)
_SEED_0 = "ChernXi/AI07_Project_3-Image-Classification"
_SEED_4 = "marzed7/Capstone-Project-3-Image-Classification"


# Read from the projects' own notebooks, figures and READMEs.
PUBLISHED: dict[str, Published] = {
    "chernxi-mobilenetv3small": Published(
        _SEED_0, 1600, 5, 0.996875, "notebook output",
        "a random split leaks copies; an earlier version had 3 errors, and the README claims about 0.999",
        (
            "the learning rate decays over the whole stage; theirs was zero after 500 of 2,000 steps",
            "all test images are scored; theirs were listed for one batch",
        ),
    ),
    "chernxi-mobilenetv2": Published(
        _SEED_0, 1600, 24, 0.9850, "notebook output", "an older version; a random split leaks copies",
        (
            "the learning rate decays over the whole stage",
            "its later stages are those of the newest version, at 1e-5; older ones had 2e-5 or 3e-5",
        ),
    ),
    "bitterfrown-mobilenetv2": Published(
        "bitterfrown/AI07-Project-3", 0, 0, None, "nobody", "numbers only in images that could not be reached",
        ("the 2,400 test images were validation images as well; ours are not",),
    ),
    "imranismael-mobilenetv2": Published(
        "M-ImranIsmael/Concrete-Crack-Image-Classification", 4000, 17, 0.99575, "figure",
        "validation and test are the same images; the log says 0.99625 of the same model",
        (
            "validation and test were the same 125 batches; ours are not",
            "take and skip on a set that is shuffled anew in each pass mixed training and test images",
            "the confusion matrix names its axes in the order of the classes; theirs swapped them",
            "predictions are shown on their own images; theirs came from another pass",
        ),
    ),
    "splitfolders-mobilenetv2": Published(
        "unnamed (script exported from Colab)", 1600, 4, 0.9975, "README only",
        "the README says 4,000 test images, the code tests 1,600, drawn anew in each pass",
        ("the test part of the split is used; theirs was set aside and never read",),
    ),
    "marzed7-mobilenetv2": Published(
        _SEED_4, 40000, 2668, 0.9333, "notebook output", "tested on its training images",
        (
            "inputs are rescaled once; twice squeezed them to -1 +- 0.008",
            "training, validation and test were all the whole data set; ours are disjoint",
            "a threshold decides, not the argmax over one unit, which is always Negative",
        ),
    ),
    "chernxi-cnn-120": Published(
        _SEED_0, 1600, 4, 0.9975, "notebook output", "a random split leaks copies; 4 h 19 min of training",
        (
            "one call of fit; between their ten calls a new learning rate was set but never compiled in",
            "the confusion matrix counts all test images, not one batch",
        ),
    ),
    "chernxi-cnn-80": Published(
        _SEED_0, 1600, 5, 0.996875, "notebook output",
        "an older version; a random split leaks copies; 1 h 47 min of training",
        ("one call of fit; theirs were nine",),
    ),
    "marzed7-cnn-256": Published(
        _SEED_4, 4000, 65, 0.98375, "notebook output", "a random split leaks copies; 1 h 30 min of training",
        (
            "the best epoch is kept; theirs was the last, which was worse",
            "take and skip on a set that is shuffled anew in each pass mixed training and validation images",
        ),
    ),
}  # fmt: skip


def published_result(published: Published) -> str:
    """Return the published result in a few words, and who says so."""
    if published.accuracy is None:
        return "no result that can be read"
    return (
        f"{published.errors:,} errors in {published.test_images:,} (accuracy {published.accuracy:.4f};"
        f" {published.measured})"
    )
