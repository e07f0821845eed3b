"""Measure properties that make images difficult, and score predictions on slices of difficult images."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2  # blurs and connected components, many times faster than SciPy's
import numpy as np
import pandas as pd

from crackutils import datasets
from crackutils.files import progress, write_atomically
from crackutils.metrics import wilson

SLICES = ("thin", "faint", "dark", "blurred", "textured", "line-like", "doubtful label")
_MEASURES_VERSION = "1"  # raise it when a measure changes


def measure_images(ds: datasets.Dataset) -> pd.DataFrame:
    """Measure properties that may make an image difficult, on thumbnails of 128 pixels.

    A row per image in index order, cached: width (mean width of the longest dark shape, fraction of the side), length
    (its extent, fraction of the side), depth (how far the darkest 2 % lie below the median, grey levels), brightness
    (median grey level), sharpness (finest against coarser detail), texture (median local deviation, grey levels).
    """
    file = ds.cache / f"measures.v{_MEASURES_VERSION}.csv"
    if not file.exists():
        cv2.setNumThreads(1)  # the threads below are faster, one image each
        with ThreadPoolExecutor(2) as pool:
            rows = list(progress(pool.map(_measure, ds.grey), "measuring", len(ds.grey)))
        write_atomically(file, pd.DataFrame(rows).round(4).to_csv(index=False, lineterminator="\n"))
    return pd.read_csv(file)


def _measure(grey: np.ndarray) -> dict[str, float]:
    x = np.asarray(grey).astype(np.float32)
    side = len(x)
    soft, fine, middle = (cv2.GaussianBlur(x, (0, 0), sigma) for sigma in (1, 0.8, 3.2))
    below = cv2.blur(soft, (31, 31)) - soft
    dark = (below > max(6, 0.45 * np.quantile(below, 0.99))).astype(np.uint8)  # at least 6 grey levels: no noise
    count, _, boxes, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    width = length = 0.0
    if count > 1:
        extent = np.hypot(boxes[1:, cv2.CC_STAT_WIDTH], boxes[1:, cv2.CC_STAT_HEIGHT])
        longest = int(extent.argmax())
        length, width = extent[longest] / side, boxes[1 + longest, cv2.CC_STAT_AREA] / extent[longest] / side
    spread = np.sqrt(np.maximum(cv2.blur(x * x, (9, 9)) - cv2.blur(x, (9, 9)) ** 2, 0))
    sharpness = np.quantile(np.abs(x - fine), 0.99) / (np.quantile(np.abs(fine - middle), 0.99) + 1)
    depth, brightness, texture = np.median(x) - np.quantile(x, 0.02), np.median(x), np.median(spread)
    names = ("width", "length", "depth", "brightness", "sharpness", "texture")
    return dict(zip(names, map(float, (width, length, depth, brightness, sharpness, texture)), strict=True))


def hard_slices(ds: datasets.Dataset) -> pd.DataFrame:
    """Return the images that may be difficult: a row per image in index order, a bool column per name in `SLICES`.

    Each slice holds the tenth of its images in which the measure is strongest: thin and faint of the cracked images;
    dark, blurred and textured of all; line-like (long, thin and darker than its surroundings, as hairs, wires and
    joints are) of images without a crack. The doubtful labels are all those of `datasets.label_verdicts`.
    """
    m, cracked, every = measure_images(ds), ds.index["label"].to_numpy() == 1, np.ones(len(ds.index), bool)
    kinds = {"thin": (m["width"], cracked), "faint": (m["depth"], cracked), "dark": (m["brightness"], every)}
    kinds |= {"blurred": (m["sharpness"], every), "textured": (-m["texture"], every)}
    kinds |= {"line-like": (-m["length"] / (m["width"] + 1 / 128), ~cracked)}
    out = pd.DataFrame(False, index=m.index, columns=list(SLICES))
    for name, (value, among) in kinds.items():
        out.loc[value[among].sort_values(kind="stable").index[: int(among.sum() * 0.1)], name] = True
    out.loc[datasets.label_verdicts(ds)["row"], "doubtful label"] = True
    return out


def score_slices(ds: datasets.Dataset, test: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per slice that holds predictions, rows of `read_predictions`, the lowest accuracy first.

    A row has slice, n, errors, accuracy, low and high (95 % Wilson interval).
    """
    table = test.merge(hard_slices(ds).assign(file=ds.index["file"]), on="file")
    wrong = (table["p_crack"] >= 0.5) != table["label"]
    rows = []
    for name in SLICES:
        n, errors = int(table[name].sum()), int(wrong[table[name]].sum())
        if n:
            low, high = wilson(n - errors, n)
            row = {"slice": name, "n": n, "errors": errors, "accuracy": round(1 - errors / n, 6)}
            rows.append(row | {"low": round(low, 6), "high": round(high, 6)})
    return sorted(rows, key=lambda row: (row["accuracy"], row["slice"]))
