"""What a model is worth on other people's concrete, what helps it there, and what breaks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crackutils import config, datasets

TUNING = (7069, 7078, 7087, 7096, 7105, 7114, 7123, 7132)  # SDNET2018's photos on which methods may be chosen


def describe_target(where: datasets.Dataset, home: datasets.Dataset) -> str:
    """Return in a sentence what the target is.

    Raises:
        CrackutilsError: images of the target are among those trained on.
    """
    shared = int(where.index["sha256"].isin(home.index["sha256"]).sum())
    if shared:
        raise config.CrackutilsError(
            f"TARGET={where.profile.name}: {shared:,} of its images are among those of PROFILE={home.profile.name};"
            " name other images."
        )
    told = f"Tested on {where.profile.title} ({len(where.index):,} images)."
    if where.profile.source == "walls":
        told += (
            " The same generator makes the photos with masks that the network learns from: these numbers show that the"
            " notebook works, not what a model is worth elsewhere. For that: make data SOURCE=sdnet FROM=..., or"
            " TARGET=folder."
        )
    return told


def photo_of_image(ds: datasets.Dataset) -> np.ndarray:
    """Return which photo each image was cut from, int (n,); images whose photo is not known get one of their own."""
    found = ds.cuts["photo"].to_numpy()
    return np.where(found >= 0, found, -1 - np.arange(len(found)))


def tuning_images(ds: datasets.Dataset) -> np.ndarray:
    """Tell the images, bool (n,), on which methods may be chosen: `TUNING` in SDNET2018, else a third of the photos.

    None where photos are not known, or hold one class only: what is chosen on images cannot be reported on others of
    the same photo.
    """
    found = ds.cuts["photo"].to_numpy()
    if np.isin(TUNING, found).sum() > len(TUNING) // 2:  # SDNET2018, by whatever name
        return np.isin(found, TUNING)
    known = np.unique(found[found >= 0])
    asked, labels = np.isin(found, known[: len(known) // 3]), ds.index["label"].to_numpy()
    both = all(len(np.unique(labels[part])) == 2 for part in (asked, ~asked))
    return asked if both else np.zeros(len(found), bool)


def default_target(profile: config.Profile) -> str:
    """Return where a profile's models are tested if nothing else is asked for.

    SDNET2018's walls for METU, where they are here; else walls made by code.
    """
    real = datasets.raw_folder("sdnet")
    return "sdnet" if profile.source == "metu" and all((real / name).is_dir() for name in config.CLASSES) else "walls"


def load_target(name: str) -> datasets.Dataset:
    """Return the images to test on: those of a profile, or of a folder with Negative/ and Positive/.

    Raises:
        CrackutilsError: neither a profile nor such a folder; what `load` raises.
    """
    if name in config.PROFILES:
        return datasets.load(config.profile(name))
    folder = Path(name).expanduser()
    folder = folder if folder.is_absolute() else config.ROOT / folder  # notebooks run in a folder of their own
    if not folder.is_dir():
        raise config.CrackutilsError(
            f"TARGET={name} is neither a profile ({', '.join(config.PROFILES)}) nor a folder; name a folder with"
            " Negative/ and Positive/ in it."
        )
    if not all((folder / kind).is_dir() for kind in config.CLASSES):
        raise config.CrackutilsError(
            f"TARGET={name} holds no Negative/ and Positive/, so nothing can be counted there; to score images without"
            f" labels run python -m crackutils score {name} --out scores.csv."
        )
    return datasets.open_folder(folder)
