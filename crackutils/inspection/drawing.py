"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd

from crackutils.inspection.tiling import CELL, sigmoid

_FRAME, _LINE = (0, 114, 178), (230, 159, 0)  # blue and orange that colour-blind readers can tell apart


def draw_overlay(
    image: np.ndarray,
    odds: np.ndarray,
    line: np.ndarray,
    threshold: float,
    longest: int,
    mm_per_pixel: float | None = None,
    numbered: pd.DataFrame | None = None,
) -> np.ndarray:
    """Return a photo with crack-like cells framed and the middle lines of cracks drawn, uint8 (height, width, 3).

    Args:
        image: uint8 (h, w, 3).
        odds: as `cells_of` returns them.
        line: as `middle_lines` returns it.
        threshold: as for `crack_mask`.
        longest: side of the picture, pixels; a smaller photo is not enlarged.
        mm_per_pixel: of the photo; draws a scale bar.
        numbered: rows of `cracks` that get their number, from 1, beside them.
    """
    h, w = image.shape[:2]
    scale = min(1.0, longest / max(h, w))
    wide, high = max(1, round(w * scale)), max(1, round(h * scale))
    picture = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
    likely, cell = (sigmoid(odds) >= threshold).astype(np.uint8), CELL * scale
    shape = (max(1, round(likely.shape[1] * cell)), max(1, round(likely.shape[0] * cell)))
    framed = cv2.resize(likely, shape, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(framed, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    thick = max(1, round(longest / 800))
    cv2.drawContours(picture, outlines, -1, _FRAME, thick, cv2.LINE_AA)
    drawn = np.zeros((high, wide), np.uint8)
    y, x = np.nonzero(line)
    drawn[np.minimum((y * scale).astype(int), high - 1), np.minimum((x * scale).astype(int), wide - 1)] = 1
    picture[cv2.dilate(drawn, np.ones((thick + 1, thick + 1), np.uint8)) > 0] = _LINE
    for k, crack in enumerate(numbered.itertuples() if numbered is not None else ()):
        right, down = round((crack.x_top + CELL) * scale) + 4, round(crack.y_top * scale) + 12
        at = (min(right, wide - wide // 40), min(max(16, wide // 70, down), high - 4))
        _text(picture, str(k + 1), at, max(0.45, wide / 2400))
    if mm_per_pixel is not None:
        _scale_bar(picture, mm_per_pixel / scale)
    return picture


def _scale_bar(picture: np.ndarray, mm_per_pixel: float) -> None:
    """Draw a bar of a round length, about a sixth of the picture, into its lower left corner."""
    h, w = picture.shape[:2]
    most = w / 5 * mm_per_pixel
    power = 10 ** math.floor(math.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    text = f"{length:g} mm" if length < 1000 else f"{length / 1000:g} m"
    pixels, size = round(length / mm_per_pixel), max(0.4, w / 1600)
    x, y, thick = round(0.02 * w), h - round(0.02 * w), max(2, round(w / 300))
    for colour, more in (((0, 0, 0), 2), ((255, 255, 255), 0)):  # white with a black rim is seen on any surface
        cv2.line(picture, (x, y), (x + pixels, y), colour, thick + 2 * more)
    _text(picture, text, (x, y - 2 * thick), size)


def _text(picture: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    for colour, more in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, round(size * 2) + more, cv2.LINE_AA)


def tint_overlay(content: bytes, p: np.ndarray, longest: int) -> bytes:
    """Return a picture, a JPEG, with the probability of each cell laid over it, from violet (0) to yellow (1).

    `longest` is the longer side of the photo, of which the picture may be a smaller one.
    """
    below = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    above = cv2.applyColorMap((255 * p).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    scale = max(below.shape) / longest
    whole = tuple(round(side * CELL * scale) for side in p.shape[::-1])  # the last cells reach beyond the photo
    above = cv2.resize(above, whole, interpolation=cv2.INTER_NEAREST)[: below.shape[0], : below.shape[1]]
    return cv2.imencode(".jpg", cv2.addWeighted(below, 0.5, above, 0.5, 0))[1].tobytes()
