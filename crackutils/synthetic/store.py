"""Patches with their masks, drawn once and cached in the data folder for training."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL

from crackutils import config
from crackutils.files import hash_sources, progress, replacing_folder
from crackutils.images import resize
from crackutils.synthetic.patches import draw_patches
from crackutils.synthetic.scene import MASK_BLOCK

SURFACE, CRACK, JOINT, LINE, UNSURE = 0, 1, 2, 3, 255  # what a pixel of `Photos.targets` shows


@dataclass(frozen=True)
class Photos:
    """Photos with a target for each pixel."""

    images: Sequence[np.ndarray]  # uint8 (h, w, 3) RGB
    targets: Sequence[np.ndarray]  # uint8 (h, w): SURFACE, CRACK, JOINT, LINE or UNSURE
    anchors: np.ndarray  # int16 (n, 2, 64, 2): y, x on cracks, and on joints and lines; -1 where there are none


def find_anchors(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return places on what a target of `Photos` shows, as one of `Photos.anchors`."""
    found = np.full((2, 64, 2), -1, np.int16)
    for kind, on in enumerate((target == CRACK, (target == JOINT) | (target == LINE))):
        if len(places := np.argwhere(on)):
            found[kind] = places[rng.integers(0, len(places), 64)]
    return found


@dataclass(frozen=True)
class Store:
    """Patches with their masks."""

    images: np.ndarray  # uint8 (n, side, side, 3) RGB
    masks: np.ndarray  # uint8 (n, side / 4, side / 4), the most crack, 0-255, in each 4x4 block of the patch's mask
    facts: pd.DataFrame  # a row per patch: photo, label, and the facts of its photo and of the patch


def library_versions() -> str:
    """Return the versions of the libraries that the pictures depend on."""
    return f"numpy {np.__version__}, opencv {cv2.__version__}, pillow {PIL.__version__}"


def load_store(seed: int, count: int, each: int, side: int, thin: bool = False) -> Store:
    """Return `count` patches of each class from `draw_patches`, drawn on first use and cached in the data folder.

    `side` is 160, to which patches are resized, or 224, to which they are cut.
    """
    made_by = f"{hash_sources(Path(__file__).parent)} {library_versions()}"
    key = hashlib.sha256(made_by.encode()).hexdigest()[:12]
    home = config.data_dir() / "cache" / f"patches-{key}-{seed}-{count}-{each}-{side}{'-thin' if thin else ''}"
    if not home.exists():
        n, cells = 2 * count, side // MASK_BLOCK
        numbers = progress(range(n), "photographing", n, unit="patch")
        masks, facts = np.zeros((n, cells, cells), np.uint8), []
        with replacing_folder(home) as work:
            images = np.lib.format.open_memmap(work / "images.npy", "w+", np.uint8, (n, side, side, 3))
            for number, shot, patches in draw_patches(seed, count, each, thin):
                for patch in patches:
                    i, fine = next(numbers), patch.mask[:side, :side]
                    images[i] = resize(patch.image, side) if side == 160 else patch.image[:side, :side]
                    if side == 160:
                        fine = cv2.resize(patch.mask, (side, side), interpolation=cv2.INTER_AREA)
                    masks[i] = fine.reshape(cells, MASK_BLOCK, cells, MASK_BLOCK).max((1, 3))
                    facts.append({"photo": number, "label": patch.label} | shot.facts | patch.facts)
            images.flush()
            del images  # Windows renames no folder with an open file
            np.save(work / "masks.npy", masks)
            pd.DataFrame(facts).to_csv(work / "facts.csv", index=False, lineterminator="\n")
    images, masks = np.load(home / "images.npy", mmap_mode="r"), np.load(home / "masks.npy")
    return Store(images, masks, pd.read_csv(home / "facts.csv"))
