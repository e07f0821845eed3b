"""The report of an inspection: one HTML file, small enough to mail, from report.html.j2."""

import base64
import time
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from crackutils.files import render_template
from crackutils.inspection.drawing import encode_jpeg
from crackutils.inspection.exif import describe_exif
from crackutils.inspection.export import describe_limit
from crackutils.inspection.photo import folder_of

_MAILED = 1000  # longer side of a picture, pixels
MAIL = 10e6  # bytes of the report's pictures, about: encoded twice, in the report and by mail, they are 18 million


def is_lineless(photos: pd.DataFrame) -> pd.Series:
    """Return for rows of photos.csv whether possible cracks are all too short to measure, without corrections."""
    lineless = (photos["cracks"] == 0) & (photos["tiles_cracked"] > 0)
    return lineless & ~photos["corrected"] if "corrected" in photos else lineless


def render_report(table: pd.DataFrame, found: dict[str, dict], home: Path, unit: str, **facts: Any) -> str:
    """Return the report as one HTML file; pictures that would make it too large to mail are left out.

    Takes the table of `inspect`, results of `inspect_photo` by name, the parent of the photos' folders, "mm" or "px",
    and further values of the template: model, threshold, chosen, limit_mm, exposure and rule.
    """
    good, bad = table[table["wide"].notna()], table[table["wide"].isna()]
    photos = good.to_dict("records")
    for k, photo in enumerate(photos):
        shown = found[photo["file"]]["seen"] or photo["cracks"] or photo["tiles_cracked"]
        photo |= {"folder": folder_of(photo["file"]), "shown": shown, "limit": describe_limit(good.iloc[[k]])}
    thumbnails = [(home / photo["folder"] / "thumbnail.jpg").read_bytes() for photo in photos]
    left, waiting = MAIL, sum(map(len, thumbnails))  # thumbnails come first
    for photo, thumbnail in zip(photos, thumbnails, strict=True):
        waiting -= len(thumbnail)
        thumbnail, overlay = thumbnail if len(thumbnail) <= left else b"", b""
        left -= len(thumbnail)
        if photo["shown"]:
            with Image.open(home / photo["folder"] / "overlay.jpg") as picture:
                picture.thumbnail((_MAILED, _MAILED))
                overlay = encode_jpeg(picture, 70)
        overlay = overlay if len(overlay) <= left - waiting else b""
        left -= len(overlay)
        photo |= {"thumbnail": base64.b64encode(thumbnail).decode(), "overlay": base64.b64encode(overlay).decode()}
        exif = found[photo["file"]].get("exif")
        photo["exif"] = describe_exif(exif) if exif else ""
    facts |= {"lineless": int(is_lineless(good).sum()), "limit": describe_limit(good), "unit": unit, "found": found}
    facts |= {"photos": photos, "unusable": bad.to_dict("records"), "made": time.strftime("%Y-%m-%d %H:%M")}
    return render_template(Path(__file__).with_name("report.html.j2"), facts)
