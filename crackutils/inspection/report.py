"""The report of an inspection: one HTML file, small enough to mail, from report.html.j2."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from crackutils.inspection.drawing import encode_jpeg
from crackutils.inspection.photo import LISTED

_MAILED = 1000  # longer side of a picture, pixels
MAIL = 10e6  # bytes, about, of the report's pictures: as text, and written as text once more by mail, 18 million


def render_report(table: pd.DataFrame, found: dict[str, dict], home: Path, unit: str, **facts: Any) -> str:
    """Return the report as HTML that needs no other file.

    Args:
        table: as `inspect` returns it.
        found: by photo, as `inspect_photo` returns it.
        home: holds a folder with overlay.jpg and thumbnail.jpg for each photo.
        unit: of lengths, "mm" or "px".
        facts: what the template names besides: model, threshold, chosen, mm_per_pixel.
    """
    good, bad = table[table["problem"] == ""], table[table["problem"] != ""]
    photos = good.to_dict("records")
    for photo, (thumbnail, overlay) in zip(photos, _mailable_pictures(good, home), strict=True):
        photo |= {"thumbnail": thumbnail, "overlay": overlay, "listed": found[photo["file"]]["cracks"][:LISTED]}
        photo |= {"length": photo[f"length_{unit}"], "width_most": photo[f"width_most_{unit}"]}
    # names of files are not ours, so they are escaped
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.html.j2")
    totals = {"cracked": int((good["cracks"] > 0).sum()), "length": float(good[f"length_{unit}"].sum())}
    now = time.strftime("%Y-%m-%d %H:%M")
    return page.render(photos=photos, unusable=bad.to_dict("records"), unit=unit, made=now, **totals, **facts)


def _mailable_pictures(good: pd.DataFrame, home: Path) -> Iterator[tuple[str, str]]:
    """Yield thumbnail and overlay of each photo as text; empty where the report would become too large to mail."""
    thumbnails = [(home / name / "thumbnail.jpg").read_bytes() for name in good["file"]]
    left, waiting = MAIL, sum(map(len, thumbnails))  # thumbnails come first
    for name, cracks, thumbnail in zip(good["file"], good["cracks"], thumbnails, strict=True):
        waiting -= len(thumbnail)
        thumbnail = thumbnail if len(thumbnail) <= left else b""
        left -= len(thumbnail)
        overlay = _shrink(home / name / "overlay.jpg") if cracks else b""
        overlay = overlay if len(overlay) <= left - waiting else b""
        left -= len(overlay)
        yield base64.b64encode(thumbnail).decode(), base64.b64encode(overlay).decode()


def _shrink(file: Path) -> bytes:
    with Image.open(file) as picture:
        picture.thumbnail((_MAILED, _MAILED))
        return encode_jpeg(picture, 70)
