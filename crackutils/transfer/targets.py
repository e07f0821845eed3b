"""Target images of other sites, and the tuning photos among them, which may choose a method."""

from pathlib import Path
from typing import Any

import numpy as np

from crackutils import datasets
from crackutils.config import CLASSES, PROFILES, ROOT, CrackutilsError, Profile, profile

TUNING = (7069, 7078, 7087, 7096, 7105, 7114, 7123, 7132)  # SDNET2018's photos on which methods may be chosen


def default_target(of: Profile) -> str:
    """Return the default target of a profile: for METU the walls of SDNET2018 if available, else synthetic walls."""
    real = datasets.raw_folder("sdnet")
    return "sdnet" if of.source == "metu" and all((real / name).is_dir() for name in CLASSES) else "walls"


def load_target(name: str) -> datasets.Dataset:
    """Return the images of a profile, or of a folder with Negative/ and Positive/, absolute or below the project.

    Raises CrackutilsError for any other name, and where images are missing.
    """
    if name in PROFILES:
        return datasets.load(profile(name))
    folder, names = ROOT / Path(name).expanduser(), ", ".join(PROFILES)
    if not folder.is_dir():
        remedy = "Name a folder with Negative/ and Positive/."
        raise CrackutilsError(f"TARGET={name} is not a folder and not one of {names}. {remedy}")
    if not all((folder / kind).is_dir() for kind in CLASSES):
        command = f"python -m crackutils score {name} --out scores.csv"
        raise CrackutilsError(f"TARGET={name} holds no Negative/ and Positive/. To score without labels run {command}.")
    return datasets.open_folder(folder)


def refuse_shared(target: datasets.Dataset, source: datasets.Dataset) -> None:
    """Raise CrackutilsError if the target shares images with the source, where models train."""
    if shared := int(target.index["sha256"].isin(source.index["sha256"]).sum()):
        why = f"{shared:,} of its images are among those of PROFILE={source.profile.name}"
        raise CrackutilsError(f"TARGET={target.profile.name}: {why}. Name other images.")


def describe_target(target: datasets.Dataset) -> str:
    """Return a description of the target."""
    text = f"Tested on {target.profile.title} ({len(target.index):,} images)."
    if target.profile.source == "walls":
        why = "the numbers below only show that the notebook works; they do not measure transfer"
        text += f" The same generator draws the synthetic photos that the network learns from: {why}."
        text += " To measure transfer, run `make data SOURCE=sdnet FROM=...`, or set TARGET to a folder."
    return text


def photo_of_image(ds: datasets.Dataset) -> np.ndarray:
    """Return the photo of each image, int (n,); an image of an unknown photo counts as a photo of its own."""
    photo = ds.cuts["photo"].to_numpy()
    return np.where(photo >= 0, photo, -1 - np.arange(len(photo)))


def tuning_images(ds: datasets.Dataset) -> np.ndarray:
    """Return the images, bool (n,), on which methods may be chosen: `TUNING` in SDNET2018, else a third of the photos.

    None if photos are unknown, or a part lacks a class. Scores of the chosen method are reported on the other photos.
    """
    photo = ds.cuts["photo"].to_numpy()
    if np.isin(TUNING, photo).sum() > len(TUNING) // 2:  # SDNET2018, under any name
        return np.isin(photo, TUNING)
    known = np.unique(photo[photo >= 0])
    tuning, labels = np.isin(photo, known[: len(known) // 3]), ds.index["label"].to_numpy()
    both = all(len(np.unique(labels[part])) == 2 for part in (tuning, ~tuning))
    return tuning if both else np.zeros(len(photo), bool)


def target_facts(target: datasets.Dataset) -> dict[str, Any]:
    """Return for metrics.json what the target is; held counts images of held-out photos, made means synthetic."""
    labels, photo, tuned = target.index["label"].to_numpy(), photo_of_image(target), tuning_images(target)
    facts = {"name": target.profile.name, "sha256": target.sha256, "images": len(labels), "cracked": int(labels.sum())}
    facts |= {"photos": len(np.unique(photo)), "tuning_photos": len(np.unique(photo[tuned]))}
    return facts | {"held": int((~tuned).sum()), "made": target.profile.source == "walls"}
