"""Camera, date and place of a photo, from its EXIF."""

import contextlib
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from crackutils.images import READ

FACTS = ("camera", "taken", "latitude", "longitude", "altitude")
_LONGEST = 80  # characters of a camera's name


def read_exif(file: Path) -> dict[str, Any]:
    """Return the `FACTS` of a photo's EXIF, None for missing or invalid ones; raises no error.

    camera: make and model; taken: date and time by the camera's clock, as YYYY-MM-DD HH:MM:SS; latitude and longitude:
    decimal degrees, north and east positive; altitude: metres above sea level.
    """
    facts: dict[str, Any] = dict.fromkeys(FACTS)
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # Pillow's readers raise any kind of error
        warnings.simplefilter("ignore")
        with Image.open(file, "r", READ) as image:
            if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
                return facts  # Pillow would decode the whole photo to find EXIF behind the pixels
            exif = image.getexif()
            make, model = (_clean(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
            repeated = make and model.lower().startswith(make.split()[0].lower())
            facts["camera"] = (model if repeated else f"{make} {model}".strip())[:_LONGEST] or None
            facts["taken"] = _read_date(exif.get_ifd(ExifTags.IFD.Exif))
            facts |= _read_place(exif.get_ifd(ExifTags.IFD.GPSInfo))
    return facts


def describe_exif(facts: dict[str, Any]) -> str:
    """Return the result of `read_exif` as text, empty if there are no facts."""
    parts = [facts["camera"], facts["taken"] and f"taken {facts['taken']}"]
    if facts["latitude"] is not None:
        parts.append(f"at {facts['latitude']:.6f}, {facts['longitude']:.6f} (latitude, longitude)")
    if facts["altitude"] is not None:
        parts.append(f"{facts['altitude']:g} m above sea level")
    return ", ".join(filter(None, parts))


def _clean(value: Any) -> str:
    """Return a value as one line of printable text; empty for other types."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    text = text[: 10 * _LONGEST].split("\0")[0]
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]


def _read_date(tags: dict[int, Any]) -> str | None:
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized):
        with contextlib.suppress(ValueError):
            return datetime.strptime(_clean(tags.get(tag)), "%Y:%m:%d %H:%M:%S").isoformat(" ")
    return None


def _read_place(tags: dict[int, Any]) -> dict[str, float]:
    """Return latitude, longitude and altitude, as far as they are valid; 0, 0 means a camera without a GPS fix."""
    gps, place = ExifTags.GPS, {}
    latitude = _degrees(tags.get(gps.GPSLatitude), tags.get(gps.GPSLatitudeRef), "NS", 90)
    longitude = _degrees(tags.get(gps.GPSLongitude), tags.get(gps.GPSLongitudeRef), "EW", 180)
    if latitude is not None and longitude is not None and (latitude or longitude):
        place = {"latitude": latitude, "longitude": longitude}
    with contextlib.suppress(TypeError, ValueError, ArithmeticError):
        if abs(altitude := float(tags.get(gps.GPSAltitude))) < 1e5:
            place["altitude"] = round(-altitude if tags.get(gps.GPSAltitudeRef) in (1, b"\1") else altitude, 1)
    return place


def _degrees(parts: Any, side: Any, sides: str, most: float) -> float | None:
    """Return degrees, minutes and seconds as degrees, negative on the second of two sides."""
    with contextlib.suppress(TypeError, ValueError, ArithmeticError):
        degrees, minutes, seconds = (float(part) for part in parts if not isinstance(parts, str | bytes))
        value = round(degrees + minutes / 60 + seconds / 3600, 7)  # NaN where a denominator is zero
        if 0 <= value <= most and min(degrees, minutes, seconds) >= 0 and max(minutes, seconds) <= 60:
            return {sides[0]: value, sides[1]: -value}.get(_clean(side).upper()[:1])
    return None
