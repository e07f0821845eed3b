"""Overlays on a photo: frames around possible cracks, centre lines, or the probability of each pixel."""

import io
import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from crackutils.inspection.limit import cut_wider
from crackutils.inspection.measure import Piece

FRAME, LINE = (0, 114, 178), (230, 159, 0)  # RGB; blue and orange, distinguishable for colour-blind readers
OVER = (200, 0, 40)  # red; its line is also thicker, for colour-blind readers
_OUTLINED = (((0, 0, 0), 2), ((255, 255, 255), 0))  # colours, pixels more: white with a black rim shows on any surface
_APART, _FONT = 5, cv2.FONT_HERSHEY_SIMPLEX  # distance of a frame from its content, in thicknesses of the frame


def draw_overlay(
    image: np.ndarray,
    likely: np.ndarray,
    pieces: Sequence[Piece],
    longest: int,
    mm_per_pixel: float | None = None,
    numbered: pd.DataFrame | None = None,
    limit: float | None = None,
) -> np.ndarray:
    """Return a photo, uint8 (h, w, 3), with its pixels of possible cracks, bool (h, w), framed, and centre lines drawn.

    The longer side has at most `longest` pixels. A scale adds a scale bar. `numbered` rows of `measure_cracks` get
    their number, and ! if their over_limit is above 0, where it covers no earlier one; without room, none. Lines wider
    than `limit`, pixels, are red and thick.
    """
    h, w = image.shape[:2]
    scale = min(1.0, longest / max(h, w))
    wide, high = max(1, round(w * scale)), max(1, round(h * scale))
    picture, thick = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA), max(1, round(max(wide, high) / 800))
    framed = cv2.resize(likely.astype(np.uint8) * 255, (wide, high), interpolation=cv2.INTER_AREA) > 0
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _APART * thick + 1,) * 2)
    outlines, _ = cv2.findContours(cv2.dilate(framed.astype(np.uint8), disk), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, FRAME, thick, cv2.LINE_AA)
    over = [stretch for piece in pieces for stretch in cut_wider(piece, limit)] if limit else []
    for lines, colour, wider in (([piece.points for piece in pieces], LINE, 1), (over, OVER, 2)):
        lines = [(((points + 0.5) * scale - 0.5) * 16).round().astype(np.int32) for points in lines]  # in 1 / 16
        cv2.polylines(picture, lines, False, colour, wider * (thick + 1), cv2.LINE_AA, 4)
    taken = np.zeros((high, wide), bool)
    for crack in numbered.itertuples() if numbered is not None else ():
        text, size = f"{crack.crack}{' !' * (getattr(crack, 'over_limit', 0) > 0)}", max(0.45, wide / 1300)
        across, up = _measure_text(text, size)
        for row, beside in itertools.product(range(3), (10 * thick, -across - 10 * thick)):  # right, left, then below
            right, down = round(crack.x_top * scale) + beside, round(crack.y_top * scale) + 12 + row * (up + 8)
            at = max(0, min(right, wide - across - 2)), min(max(up + 2, down), high - 4)
            if not (box := taken[max(0, at[1] - up) : at[1], at[0] : at[0] + across]).any():  # of an earlier crack
                box[:] = True
                _write_text(picture, text, at, size)
                break
    if mm_per_pixel is not None:
        _draw_scale_bar(picture, mm_per_pixel / scale)
    return picture


def _draw_scale_bar(picture: np.ndarray, mm_per_pixel: float) -> None:
    """Draw a scale bar of a round length, about a sixth of the picture, into its lower left corner, if it has room."""
    h, w = picture.shape[:2]
    most = w / 5 * mm_per_pixel
    power = 10 ** math.floor(math.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    x, y, thick = round(0.02 * w), h - round(0.02 * w), max(2, round(w / 300))
    text, size = f"{length:g} mm" if length < 1000 else f"{length / 1000:g} m", max(0.4, w / 1600)
    if y - 2 * thick < _measure_text(text, size)[1]:  # a long strip
        return
    for colour, more in _OUTLINED:
        cv2.line(picture, (x, y), (x + round(length / mm_per_pixel), y), colour, thick + 2 * more)
    _write_text(picture, text, (x, y - 2 * thick), size)


def draw_cross(picture: np.ndarray, at: tuple[float, float], scale: float, kind: int) -> None:
    """Draw one of OpenCV's markers at a point of the photo that a picture, uint8 (h, w, 3), shows `scale` times."""
    place, thick = [round((n + 0.5) * scale) for n in at], max(2, round(max(picture.shape) / 800))
    for colour, more in _OUTLINED:
        cv2.drawMarker(picture, place, colour, kind, 20 * thick, thick + more)


def highlight(picture: np.ndarray, lines: Sequence[np.ndarray], scale: float, text: str) -> None:
    """Outline lines, points (n, 2) of the photo, in its picture, uint8 (h, w, 3), thickly; their name is in a box."""
    (h, w), thick = picture.shape[:2], max(2, round(max(picture.shape) / 800))
    lines, around = [((points + 0.5) * scale).round().astype(np.int32) for points in lines], np.zeros((h, w), np.uint8)
    cv2.polylines(around, lines, False, 1, 16 * thick)
    outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for colour, more in _OUTLINED:
        cv2.drawContours(picture, outlines, -1, colour, 2 * (thick + more), cv2.LINE_AA)
    across, up = _measure_text(text, size := max(0.6, w / 1400))
    x, y = min(np.concatenate(lines).tolist(), key=lambda point: point[1])
    x, y = min(x + 12 * thick, w - across - 4 * thick), max(up + 4 * thick, y - 4 * thick)
    corners = (x - 3 * thick, y - up - 3 * thick), (x + across + 3 * thick, y + 3 * thick)
    cv2.rectangle(picture, *corners, (255, 255, 255), -1)
    cv2.rectangle(picture, *corners, (0, 0, 0), thick)
    cv2.putText(picture, text, (x, y), _FONT, size, (0, 0, 0), round(size * 2), cv2.LINE_AA)


def _measure_text(text: str, size: float) -> tuple[int, int]:
    return cv2.getTextSize(text, _FONT, size, round(size * 2))[0]


def _write_text(picture: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    """Write white text with a black rim, wide enough for a smaller picture: OpenCV 5 has no thick letters for it."""
    (x, y), (across, up), rim = at, _measure_text(text, size), 1 + round(size * 2)
    left, top = max(0, x - rim), max(0, y - up - rim)
    part = picture[top : y + 2 * rim, left : x + across + rim]
    ink = np.zeros(part.shape[:2], np.uint8)
    cv2.putText(ink, text, (x - left, y - top), _FONT, size, 255, rim - 1, cv2.LINE_AA)
    part[cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1,) * 2)) > 127] = 0
    part[:] = np.maximum(part, ink[..., None])


def tint_overlay(picture: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return a picture of a photo, uint8 (h, w, 3), with the probabilities of its pixels, uint8, times 255, over it."""
    side = math.ceil(max(p.shape) / max(picture.shape))  # thin lines keep their probability
    p = cv2.resize(cv2.dilate(p, np.ones((side, side))), picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    above = cv2.cvtColor(cv2.applyColorMap(p, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(picture, 0.5, above, 0.5, 0)


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return a picture as a JPEG file."""
    picture.save(content := io.BytesIO(), "JPEG", quality=quality)
    return content.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """Return a bool mask (h, w) as a PNG file with one bit per pixel, white for true."""
    return cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
