"""Errors of widths, on real profiles whose width was measured on site, and on synthetic photos.

    python -m tools.benchmarks.widths PROFILES

PROFILES is a folder of CSV files (Benz and Rodehorst 2021), each a grey profile across a crack: a header, a line of
numbers with width_px and mean_res (mm per pixel) among them, the word intensities, and the grey values. No constant was
fitted to them; but the choice of grey values over linear light was made after both had been measured on them. The
photos are measured with their true masks, and with masks like those of networks, with soft or too wide edges. Some of
them were used to choose between variants of the method. Compared methods: always 1 px, the distance between the points
of half depth, and twice the distance to the mask's edge. Writes widths.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from crackutils.files import write_atomically
from crackutils.inspection.measure import measure_cracks
from crackutils.inspection.width import profile_width
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import THIN, USUAL, Photo

OUT = Path(__file__).with_suffix(".json")
PHOTOS = 16  # of each kind
CLASSES = (0, 1, 2, 3, 5, 10, 20, 40, 80)  # bounds of the width classes, pixels


def half_depth(values: np.ndarray) -> float:
    """Return the distance between the points of half depth of a profile, in pixels, a common measure of width."""
    depth = np.maximum(np.median(values) - values, 0)
    at = len(depth) // 4 + int(depth[len(depth) // 4 : -len(depth) // 4].argmax())
    width = 0.0
    for side in (depth[at:], depth[at::-1]):
        k = int((side <= side[0] / 2).argmax())
        width += k - (side[0] / 2 - side[k]) / max(side[k - 1] - side[k], 1e-6) if k else len(side)
    return width


def read_profiles(folder: Path) -> pd.DataFrame:
    """Return the true width, mm_per_px and the widths by each method, in pixels, of the profiles in a folder."""
    rows = []
    for file in sorted(folder.rglob("*.csv")):
        names, numbers, _, values = file.read_text("utf-8").strip().split("\n")
        known = dict(zip((name.strip() for name in names.split(",")), map(float, numbers.split(",")), strict=True))
        grey = np.array([float(v) for v in values.split(",") if v.strip()])
        measured = {"ours": np.nan_to_num(profile_width(grey)), "1 px": 1.0, "half depth": half_depth(grey)}
        rows.append({"true": known["width_px"], "mm_per_px": known["mean_res"]} | measured)
    return pd.DataFrame(rows)


def summary(true: np.ndarray, found: np.ndarray, scale: np.ndarray | None = None) -> dict[str, Any]:
    """Return the errors of widths in pixels, by class, and in millimetres where a scale is given."""
    off, row = found - true, {"widths": len(true)}
    for name, some in {"all": true >= 0, "0.5-5": (true >= 0.5) & (true < 5), "5-": true >= 5}.items():
        if some.any():
            relative = float((np.abs(off) / np.maximum(true, 0.1))[some].mean())
            row[name] = {"mae": float(np.abs(off[some]).mean()), "bias": float(off[some].mean()), "relative": relative}
    for low, high in itertools.pairwise(CLASSES):
        if (some := (true >= low) & (true < high)).any():
            row[f"{low}-{high} px"] = {"widths": int(some.sum()), "mae": float(np.abs(off[some]).mean())}
            row[f"{low}-{high} px"]["bias"] = float(off[some].mean())
    if scale is not None:
        row |= {
            "mae_mm": float(np.abs(off * scale).mean()),
            "within_0.1_mm": float((np.abs(off * scale) <= 0.1).mean()),
        }
    return row


def true_points(shot: Photo) -> np.ndarray:
    """Return x, y and width, float (n, 3), of the cracks of a photo, without places where two cracks meet."""
    points = np.concatenate([np.column_stack([line, np.full(len(line), k)]) for k, line in enumerate(shot.lines)])
    points = points[((points[:, :2] >= 4) & (points[:, :2] < np.array(shot.mask.shape[::-1]) - 4)).all(1)]
    near = KDTree(points[:, :2]).query_ball_point(points[:, :2], points[:, 2] / 2 + 4 + points[:, 2].max() / 2)
    alone = np.ones(len(points), bool)
    for k, others in enumerate(near):
        other = points[others][points[others, 3] != points[k, 3]]
        away = np.hypot(*(other[:, :2] - points[k, :2]).T)
        alone[k] = not (away < (other[:, 2] + points[k, 2]) / 2 + 4).any()
    return points[alone, :3]


def masks_of(shot: Photo) -> dict[str, np.ndarray]:
    """Return the true mask, one like that of a network, and one that is a pixel too wide on each side, bool (h, w)."""
    true = shot.mask > 127
    soft = cv2.GaussianBlur(shot.mask, (0, 0), 1.0) > 110
    return {"true": true, "soft": soft, "too wide": cv2.dilate(true.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0}


def measure_photo(shot: Photo, mask: np.ndarray) -> pd.DataFrame:
    """Return true width, ours, and twice the distance to the mask's edge (doubled), where a width was measured."""
    true, (_, pieces) = true_points(shot), measure_cracks(shot.image, mask, mask.astype(np.uint8) * 255)
    if not pieces:
        return pd.DataFrame(columns=["true", "ours", "doubled"], dtype=float)
    points, width = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("points", "width"))
    away, index = KDTree(points).query(true[:, :2])
    x, y = points[index].round().astype(int).T
    doubled = 2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)[y, x]
    table = pd.DataFrame({"true": true[:, 2], "ours": width[index], "doubled": doubled})
    return table[(away < np.maximum(3, 0.35 * true[:, 2])) & np.isfinite(table["ours"])]


def length_error(shot: Photo) -> float:
    """Return the error of the length as a share of the true one; the mask shows all but the last tenth of coverage."""
    true = 0.0
    for line in shot.lines:
        steps, middles = np.diff(line[:, :2], axis=0), (line[1:, :2] + line[:-1, :2]) / 2
        true += float(np.hypot(*steps[((middles >= 0) & (middles < shot.mask.shape[::-1])).all(1)].T).sum())
    found = measure_cracks(shot.image, shot.mask > 25, shot.mask)[0]["length"].sum()
    return float(found / true - 1)


def main() -> None:
    """Measure everything and write widths.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("profiles", type=Path)
    asked = parser.parse_args()
    table = read_profiles(asked.profiles)
    true, scale = table["true"].to_numpy(), table["mm_per_px"].to_numpy()
    methods = ("ours", "1 px", "half depth")
    found: dict[str, Any] = {"profiles": {m: summary(true, table[m].to_numpy(), scale) for m in methods}, "photos": {}}
    made = {
        name: [make_photo(909, k, 1536, 1152, styles) for k in range(PHOTOS)]
        for name, styles in {"thin": THIN, "usual": USUAL}.items()
    }
    for kind in ("true", "soft", "too wide"):
        table = pd.concat([measure_photo(shot, masks_of(shot)[kind]) for shots in made.values() for shot in shots])
        widths = {name: summary(table["true"].to_numpy(), table[name].to_numpy()) for name in ("ours", "doubled")}
        found["photos"][kind] = widths
    found["length"] = {k: float(np.median(np.abs([length_error(s) for s in shots]))) for k, shots in made.items()}
    text = json.dumps(json.loads(json.dumps(found), parse_float=lambda v: round(float(v), 3)), indent=1)
    write_atomically(OUT, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
