"""Patches with their masks, drawn once and cached in the data folder for training."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import PIL

from crackutils import config
from crackutils.files import hash_sources, progress, replacing_folder
from crackutils.images import Rows, begin_rows, resize
from crackutils.synthetic.patches import draw_patches
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import CRACK, JOINT, LINE, MASK_BLOCK, THIN, UNSURE, Photo

_SEEN, _OF_TEXTURE = 6.0, 0.8  # least contrast of a visible crack, in grey levels and in deviations of its surroundings


@dataclass(frozen=True)
class Photos:
    """Photos with a target for each pixel."""

    images: Sequence[np.ndarray]  # uint8 (h, w, 3) RGB
    targets: Sequence[np.ndarray]  # uint8 (h, w): `SURFACE`, `CRACK`, `JOINT`, `LINE` or `UNSURE`
    anchors: np.ndarray  # int32 (n, 2, 64, 2): y, x on cracks, and on joints and lines; -1 where there are none


def find_anchors(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return places on cracks, joints and lines of a target of `Photos`, as one of `Photos.anchors`."""
    found = np.full((2, 64, 2), -1, np.int32)
    for kind, on in enumerate((target == CRACK, (target == JOINT) | (target == LINE))):
        if len(places := np.argwhere(on)):
            found[kind] = places[rng.integers(0, len(places), 64)]
    return found


@dataclass(frozen=True)
class Store:
    """Patches with their masks."""

    images: Rows  # uint8 (n, side, side, 3) RGB
    masks: np.ndarray  # uint8 (n, side / 4, side / 4), the most crack, 0-255, in each 4x4 block of the patch's mask
    facts: pd.DataFrame  # a row per patch: photo, label, and the facts of its photo and of the patch


def describe_generator() -> str:
    """Return what the pictures depend on besides seeds: a hash of this folder's code, and versions of libraries."""
    versions = f"numpy {np.__version__}, opencv {cv2.__version__}, pillow {PIL.__version__}"
    return f"{hash_sources(config.PACKAGE / 'synthetic')} {versions}"


def load_store(seed: int, count: int, each: int, side: int, thin: bool = False) -> Store:
    """Return `count` patches of each class from `draw_patches`, drawn on first use and cached in the data folder.

    `side` is 160, to which patches are resized, or 224, to which they are cut.
    """
    key = hashlib.sha256(describe_generator().encode()).hexdigest()[:12]
    home = config.data_dir() / "cache" / f"patches-{key}-{seed}-{count}-{each}-{side}{'-thin' if thin else ''}"
    if not home.exists():
        n, cells = 2 * count, side // MASK_BLOCK
        numbers = progress(range(n), "photographing", n, unit="patch")
        masks, facts = np.zeros((n, cells, cells), np.uint8), []
        with replacing_folder(home) as work, open(work / "images.npy", "wb") as images:
            begin_rows(images, n, side, side, 3)
            for number, shot, patches in draw_patches(seed, count, each, thin):
                for patch in patches:
                    i, fine = next(numbers), patch.mask[:side, :side]
                    images.write((resize(patch.image, side) if side == 160 else patch.image[:side, :side]).tobytes())
                    if side == 160:
                        fine = cv2.resize(patch.mask, (side, side), interpolation=cv2.INTER_AREA)
                    masks[i] = fine.reshape(cells, MASK_BLOCK, cells, MASK_BLOCK).max((1, 3))
                    facts.append({"photo": number, "label": patch.label} | shot.facts | patch.facts)
            np.save(work / "masks.npy", masks)
            pd.DataFrame(facts).to_csv(work / "facts.csv", index=False, lineterminator="\n")
    return Store(Rows(home / "images.npy"), np.load(home / "masks.npy"), pd.read_csv(home / "facts.csv"))


def load_photos(seed: int, count: int, side: int) -> Photos:
    """Return `count` photos for training a detector, side x side pixels, made on first use and cached.

    They are `make_photo`'s rich ones, with thin cracks more than others. A pixel is crack where at least half of it is,
    or on the centre line of a thinner crack. It is unsure if less of it is crack, or if the crack is invisible.
    """
    key = hashlib.sha256(describe_generator().encode()).hexdigest()[:12]
    home = config.data_dir() / "cache" / f"photos-{key}-{seed}-{count}-{side}"

    def make(number: int) -> tuple[np.ndarray, ...]:
        shot = make_photo(seed, number, side, side, THIN, rich=True)
        target = target_of(shot)
        return shot.image, target, find_anchors(target, np.random.default_rng([seed, number, 2]))

    if not home.exists():
        cv2.setNumThreads(1)  # the threads below do better, one photo each
        with (
            replacing_folder(home) as work,
            ThreadPoolExecutor(os.cpu_count()) as pool,
            open(work / "images.npy", "wb") as images,
            open(work / "targets.npy", "wb") as targets,
        ):
            begin_rows(images, count, side, side, 3)
            begin_rows(targets, count, side, side)
            anchors = []
            for start in progress(range(0, count, 16), "photographing", unit="16 photos"):
                for image, target, places in pool.map(make, range(start, min(start + 16, count))):
                    images.write(image.tobytes())
                    targets.write(target.tobytes())
                    anchors.append(places)
            np.save(work / "anchors.npy", np.stack(anchors))
    return Photos(Rows(home / "images.npy"), Rows(home / "targets.npy"), np.load(home / "anchors.npy"))


def target_of(shot: Photo) -> np.ndarray:
    """Return the target of a rich photo, as one of `Photos.targets`."""
    middle = np.zeros(shot.mask.shape, np.uint8)
    for line in shot.lines:
        for part in np.split(line, np.flatnonzero(line[:, 2] <= 0)):  # where it is closed
            cv2.polylines(middle, [np.rint(part[part[:, 2] > 0, :2]).astype(np.int32)], False, 1)
    grey = cv2.cvtColor(shot.image, cv2.COLOR_RGB2GRAY).astype(np.float32) + shot.drop  # as without the crack
    around = [cv2.blur(part, (25, 25)) for part in (grey, grey**2)]
    texture = np.sqrt(np.maximum(around[1] - around[0] ** 2, 0))
    seen = cv2.dilate(shot.drop, np.ones((3, 3), np.uint8)) >= np.maximum(_SEEN, _OF_TEXTURE * texture)
    crack = (shot.mask > 127) | ((middle > 0) & (shot.mask > 0))
    target = shot.kinds.copy()
    target[(shot.mask > 25) & ~crack] = UNSURE
    target[crack] = np.where(seen, CRACK, UNSURE)[crack]
    return target
