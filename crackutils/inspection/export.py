"""Export for other programs: centre lines as GeoJSON, pixels of cracks as COCO annotations; shares over a limit."""

import itertools
import json
import operator
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from skimage.measure import approximate_polygon

from crackutils.inspection.limit import cut_wider
from crackutils.inspection.mask import find_pixels
from crackutils.inspection.measure import Piece, nearest_cracks, summarize_widths

# the coordinate system of a photo; without it, programs read pixels as degrees of longitude and latitude
_PLACE = 'LOCAL_CS["photo",UNIT["pixel",1]]'
SHARES = ("over_limit", "over_unknown")  # columns that a limit adds to tables of photos, cracks and pieces
_LOSS = 0.5  # largest distance of an exported line from the measured one, pixels


def describe_lines(
    pieces: Sequence[Piece], mm_per_pixel: float | None, limit: float | None = None
) -> list[dict[str, Any]]:
    """Return crack, piece, length, width_mean, width_most, at_most (None where unknown) and points of each piece.

    They are those of `summarize_widths`, in millimetres if a scale is given, else in pixels. Points, [x, y], use the
    axes of GIS programs for photos without georeference: x to the right and y up, in pixels from the photo's upper left
    corner, so y is negative. With a limit, in pixels, there are also the shares of `share_over_limit`, and over, the
    points of the wider parts.
    """
    lines = []
    for piece in pieces:
        widths, scale = summarize_widths([piece]), mm_per_pixel or 1.0
        line = {"crack": piece.crack, "piece": piece.piece, "length": float(piece.steps.sum()) * scale}
        line |= {name: widths[name] * scale for name in ("width_mean", "width_most")} | {"at_most": widths["at_most"]}
        line |= share_over_limit([piece], limit) if limit else {}
        line = {name: round(value, 4) if pd.notna(value) else None for name, value in line.items()}
        line["points"] = _simplify(piece.points)
        lines.append(line | ({"over": [_simplify(points) for points in cut_wider(piece, limit)]} if limit else {}))
    return lines


def _simplify(points: np.ndarray) -> list[list[float]]:
    return ((approximate_polygon(points, _LOSS) + 0.5) * (1, -1)).round(1).tolist()


def assign_pixels(mask: np.ndarray, pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels of a mask, bool (h, w), and the number of their crack, 0 for none: y, x, crack, int (n,) each.

    The pixels of a crack are connected with its centre line; if several cracks are, the nearest one counts.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    y, x = find_pixels(mask)
    if not pieces:
        return y, x, np.zeros(len(y), int)
    points = np.concatenate([piece.points for piece in pieces])
    owner = np.repeat([piece.crack for piece in pieces], [len(piece.points) for piece in pieces])
    part = labels[tuple(points.round().astype(int).T[::-1])]
    crack_of, last_of = np.zeros((2, count), int)
    crack_of[part[::-1]], last_of[part] = owner[::-1], owner
    crack_of[0] = last_of[0] = 0
    label = labels[y, x]
    crack, shared = crack_of[label], (crack_of != last_of)[label]
    if shared.any():
        crack[shared] = nearest_cracks(pieces, np.stack([x, y], 1)[shared], np.inf)
    return y, x, crack


def describe_areas(mask: np.ndarray, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Return the pixels of each crack of a mask, bool (h, w), in COCO's format: bbox, area, segmentation, and crack.

    `assign_pixels` selects them.
    """
    (y, x, crack), areas = assign_pixels(mask, pieces), []
    for number in np.unique(crack[crack > 0]).tolist():
        own_y, own_x = y[crack == number], x[crack == number]
        left, top = int(own_x.min()), int(own_y.min())
        box = [left, top, int(own_x.max()) - left + 1, int(own_y.max()) - top + 1]
        segmentation = {"size": list(mask.shape), "counts": _encode_runs(own_y, own_x, mask.shape)}
        areas.append({"crack": number, "bbox": box, "area": len(own_y), "segmentation": segmentation})
    return areas


def _encode_runs(y: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> list[int]:
    """Return COCO's run-length code: lengths of runs of other and own pixels in turn, column by column."""
    at = np.sort(x.astype(np.int64) * shape[0] + y)
    begins, ends = at[np.diff(at, prepend=-2) > 1], at[np.diff(at, append=at[-1] + 2) > 1] + 1
    edges = np.stack([begins, ends], 1).ravel()
    return np.diff(edges, prepend=0, append=shape[0] * shape[1]).tolist()


def join_shares(cracks: pd.DataFrame, pieces: Sequence[Piece], limit: float | None) -> pd.DataFrame:
    """Return rows of cracks, in the order of their pieces, with `share_over_limit` of each if there is a limit."""
    each = (list(own) for _, own in itertools.groupby(pieces, operator.attrgetter("crack")))
    shares = [share_over_limit(own, limit) for own in each] if limit else []
    return cracks.join(pd.DataFrame(shares, columns=SHARES if limit else (), dtype=float).round(4))


def share_over_limit(pieces: Sequence[Piece], limit: float) -> dict[str, float | None]:
    """Return `SHARES`, over_limit and over_unknown: the share of the length of pieces that is, or may be, wider.

    The limit is in pixels. Unknown: the width cannot be measured, or is over the limit but only an upper bound. Where
    no width is known at all, over_limit is None: 0 would mean that all is within the limit.
    """
    if not pieces:
        return dict.fromkeys(SHARES, 0.0)
    steps, width, bound = (np.concatenate([getattr(p, k) for p in pieces]) for k in ("steps", "width", "at_most"))
    wide, unknown, shares = width > limit, np.isnan(width), steps / steps.sum()
    over = None if unknown.all() else float(shares[wide & ~bound].sum())
    return {"over_limit": over, "over_unknown": float(shares[unknown | (wide & bound)].sum())}


def describe_limit(photos: pd.DataFrame) -> str:
    """Return as text the share of the length in photos, rows of photos.csv, over the limit; empty without a limit."""
    if "limit_mm" not in photos or not (length := photos["length_mm"]).any():
        return ""
    over, unknown = ((photos[name] * length).sum() / length.sum() for name in ("over_limit", "over_unknown"))
    wider = f"wider than {photos['limit_mm'].iloc[0]:g} mm"
    if over == 0 and unknown >= 0.995:
        return f"100% of the length may be {wider} (this is not known)"
    text = f"{over:.0%} of the length is {wider}"
    return text + (f" (for another {unknown:.0%} this is not known)" if unknown >= 0.005 else "")


def write_geojson(found: dict[str, dict], unit: str) -> str:
    """Return the centre lines of photos, results of `inspect_photo` by name, as GeoJSON: a feature per piece."""
    features = []
    for photo, one in found.items():
        for line in one.get("lines", []):
            facts = {"photo": photo} | {name: value for name, value in line.items() if name not in ("points", "over")}
            facts |= {"unit": unit} | one.get("exif", {})
            geometry = {"type": "LineString", "coordinates": line["points"]}
            features.append({"type": "Feature", "properties": facts, "geometry": geometry})
    head = {"type": "FeatureCollection", "name": "cracks", "crs": {"type": "name", "properties": {"name": _PLACE}}}
    return json.dumps(head)[:-1] + ', "features": [\n' + ",\n".join(map(json.dumps, features)) + "\n]}\n"


def write_coco(found: dict[str, dict]) -> str:
    """Return the cracks of photos, results of `inspect_photo` by name, as COCO annotations; all in pixels."""
    images, annotations = [], []
    for photo, one in found.items():
        if "wide" in one:
            images.append({"id": len(images) + 1, "file_name": photo, "width": one["wide"], "height": one["high"]})
        p = {crack["crack"]: crack["p_crack"] for crack in one["cracks"]}
        for area in one.get("areas", []):
            row = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0} | area
            annotations.append(row | {"score": p[area["crack"]]})
    content = {"info": {"description": "Cracks found by crackutils inspect"}, "licenses": []}
    content |= {"categories": [{"id": 1, "name": "crack", "supercategory": "damage"}]}
    return json.dumps(content | {"images": images, "annotations": annotations}) + "\n"
