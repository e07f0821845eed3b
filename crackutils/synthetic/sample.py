"""Concrete photographs made by code, with exact crack masks, and patches cut from them the way METU was made.

A photo is a surface (albedo and a height field under slanted light), cracks, things that are no cracks, and a camera.
Everything follows from two numbers, the seed and the photo's number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crackutils import config
from crackutils.files import progress
from crackutils.synthetic.patches import crack_contrast, draw_patches
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import FINE, QUALITY, TILE


def write_tiles(folder: Path, count: int, seed: int) -> None:
    """Write the tiles of `count` photos of hairlines to `folder/Negative` and `folder/Positive`, and `patches.csv`.

    Cut and named like SDNET2018's: 256x256 pixels, without overlap, PHOTO-TILE.jpg. A tile counts as cracked when 30
    pixels of open crack that stand out by 3 grey levels run through it, and as not cracked when none of it is crack;
    what lies between is left out. patches.csv tells for each file the photo, where it was cut, and what is in it.
    """
    rows = []
    for name in config.CLASSES:
        (folder / name).mkdir(parents=True)
    for number in progress(range(count), "photographing", count, unit="photo"):
        shot = make_photo(seed, number, 6 * TILE, 4 * TILE, (1.0, 0.0, 0.0))
        spots = np.concatenate(shot.lines) if shot.lines else np.zeros((0, 3))
        for tile in range(24):
            y, x = tile // 6 * TILE, tile % 6 * TILE
            image, mask = (part[y : y + TILE, x : x + TILE] for part in (shot.image, shot.mask))
            here = spots[(spots[:, 0] // TILE == x // TILE) & (spots[:, 1] // TILE == y // TILE)]
            here = here[here[:, 2] > 0.5 + 1 / FINE]
            step, clear = crack_contrast(image, mask)
            label = 1 if len(here) >= 15 and step >= 3 else 0 if not mask.any() else -1  # a point every two pixels
            if label < 0:
                continue
            file = f"{config.CLASSES[label]}/{number:03d}-{tile + 1}.jpg"
            Image.fromarray(image).save(folder / file, quality=90)
            row = {"file": file, "photo": number, "x": x, "y": y} | {k: shot.facts[k] for k in ("finish", "blur")}
            row |= {"width": round(float(np.median(here[:, 2])), 2), "step": round(step, 1)} if label else {}
            rows.append(row | ({"contrast": round(clear, 2)} if label else {}))
    pd.DataFrame(rows).to_csv(folder / "patches.csv", index=False, lineterminator="\n")


def write_patches(folder: Path, count: int, seed: int, each: int = 8) -> None:
    """Write `count` patches of each class to `folder/Negative` and `folder/Positive`, and `folder/patches.csv`.

    Numbered and saved like METU: Positive in the order of photos, Negative shuffled, JPEG quality 75, and one image in
    50 an exact copy of another (a few more are, where two patches were cut at one place). At most `each` of a class
    come from one photo. The same arguments give the same files on one kind of machine. patches.csv tells for each file
    the photo it was cut from, where, and what is in it.
    """
    rng = np.random.default_rng([seed, 2**31])
    cut: list[list[dict[str, Any]]] = [[], []]
    fresh = count - count // 50
    for number, shot, found in progress(draw_patches(seed, fresh, each), "photographing", unit="photo"):
        for p in found:
            row = (
                {"photo": number, "x": p.x, "y": p.y}
                | p.facts
                | {k: shot.facts[k] for k in ("finish", "style", "blur")}
            )
            cut[p.label].append(row | {"objects": " ".join(shot.facts["objects"]), "image": p.image})
    rows = []
    for label, name in enumerate(config.CLASSES):
        (folder / name).mkdir(parents=True)
        again = rng.choice(fresh, count - fresh, replace=False)
        chosen = cut[label] + [cut[label][i] for i in again]
        chosen.sort(key=lambda row: row["photo"]) if label else rng.shuffle(chosen)
        for number, row in enumerate(chosen, 1):
            file = f"{name}/{number:05d}.jpg"
            Image.fromarray(row["image"]).save(folder / file, quality=QUALITY)
            rows.append({"file": file} | {k: v for k, v in row.items() if k != "image"})
    pd.DataFrame(rows).to_csv(folder / "patches.csv", index=False, lineterminator="\n")
