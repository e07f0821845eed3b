"""Folders of synthetic images with Negative/, Positive/ and patches.csv, named and saved like METU and SDNET2018."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crackutils import config
from crackutils.files import progress
from crackutils.synthetic.patches import CLOSED, centre_points, crack_contrast, draw_patches
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import QUALITY, TILE


def write_tiles(folder: Path, count: int, seed: int) -> None:
    """Write the tiles of `count` photos of hairlines to `folder/Negative` and `folder/Positive`, and `patches.csv`.

    Tiles are cut and named like SDNET2018's: 256x256 pixels, without overlap, PHOTO-TILE.jpg. A tile counts as cracked
    when 30 pixels of open crack that stand out by 3 grey levels run through it, and as not cracked when none of it is
    crack; other tiles are left out. patches.csv holds for each file the photo, where it was cut, and what is in it.
    """
    rows = []
    for name in config.CLASSES:
        (folder / name).mkdir(parents=True)
    for number in progress(range(count), "photographing", count, unit="photo"):
        shot = make_photo(seed, number, 6 * TILE, 4 * TILE, (1.0, 0.0, 0.0))
        points = centre_points(shot)
        points = points[points[:, 2] > CLOSED]
        for tile in range(24):
            y, x = divmod(tile, 6)
            image, mask = (part[y * TILE :, x * TILE :][:TILE, :TILE] for part in (shot.image, shot.mask))
            here = points[(points[:, :2] // TILE == (x, y)).all(1)]
            step, clear = crack_contrast(image, mask)
            cracked = len(here) >= 15 and step >= 3  # 15 points, one every two pixels
            if mask.any() and not cracked:
                continue
            rows.append({"file": f"{config.CLASSES[cracked]}/{number:03d}-{tile + 1}.jpg", "photo": number})
            rows[-1] |= {"x": x * TILE, "y": y * TILE, "finish": shot.facts["finish"], "blur": shot.facts["blur"]}
            if cracked:
                width = round(float(np.median(here[:, 2])), 2)
                rows[-1] |= {"width": width, "step": round(step, 1), "contrast": round(clear, 2)}
            Image.fromarray(image).save(folder / rows[-1]["file"], quality=90)
    pd.DataFrame(rows).to_csv(folder / "patches.csv", index=False, lineterminator="\n")


def write_patches(folder: Path, count: int, seed: int, each: int = 8) -> None:
    """Write `count` patches of each class to `folder/Negative` and `folder/Positive`, and `folder/patches.csv`.

    Numbered and saved like METU: Positive in the order of photos, Negative shuffled, JPEG quality 75, and one image in
    50 an exact copy of another (a few more where two cuts coincide). At most `each` of a class come from one photo.
    The same arguments give the same files on one kind of machine. patches.csv is as in `write_tiles`.
    """
    rng = np.random.default_rng([seed, 2**31])
    cut: list[list[dict[str, Any]]] = [[], []]
    rows, fresh = [], count - count // 50
    for number, shot, patches in progress(draw_patches(seed, fresh, each), "photographing", unit="photo"):
        facts = {k: shot.facts[k] for k in ("finish", "style", "blur")} | {"objects": " ".join(shot.facts["objects"])}
        for p in patches:
            cut[p.label].append({"photo": number, "x": p.x, "y": p.y} | p.facts | facts | {"image": p.image})
    for label, name in enumerate(config.CLASSES):
        (folder / name).mkdir(parents=True)
        chosen = cut[label] + [cut[label][i] for i in rng.choice(fresh, count - fresh, replace=False)]
        chosen.sort(key=lambda row: row["photo"]) if label else rng.shuffle(chosen)
        for number, row in enumerate(chosen, 1):
            rows.append({"file": f"{name}/{number:05d}.jpg"} | {k: v for k, v in row.items() if k != "image"})
            Image.fromarray(row["image"]).save(folder / rows[-1]["file"], quality=QUALITY)
    pd.DataFrame(rows).to_csv(folder / "patches.csv", index=False, lineterminator="\n")
