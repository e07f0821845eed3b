"""Pictures of a photo: crack-like cells framed, centre lines drawn, or the probability of each cell laid over it."""

import io
import math

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from crackutils.detector.network import CELL
from crackutils.inspection.mask import dilate, likely_cells

FRAME, LINE = (0, 114, 178), (230, 159, 0)  # RGB; blue and orange that colour-blind readers can tell apart
_OUTLINED = (((0, 0, 0), 2), ((255, 255, 255), 0))  # colours, pixels more: white with a black rim shows on any surface


def draw_overlay(
    image: np.ndarray,
    logits: np.ndarray,
    line: np.ndarray,
    threshold: float,
    longest: int,
    mm_per_pixel: float | None = None,
    numbered: pd.DataFrame | None = None,
) -> np.ndarray:
    """Return a photo, uint8 (h, w, 3), with crack-like cells framed and the centre lines of cracks drawn.

    Takes what `cell_logits` and `centre_lines` return, and the threshold of `crack_mask`. The longer side has at most
    `longest` pixels. A scale draws a scale bar; `numbered` rows of `measure_cracks` get their number, from 1.
    """
    h, w = image.shape[:2]
    scale = min(1.0, longest / max(h, w))
    wide, high = max(1, round(w * scale)), max(1, round(h * scale))
    picture = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
    shape, thick = [max(1, round(side * (CELL * scale))) for side in logits.shape[::-1]], max(1, round(longest / 800))
    framed = cv2.resize(likely_cells(logits, threshold)[0].astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(framed, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, FRAME, thick, cv2.LINE_AA)
    drawn, (y, x) = np.zeros((high, wide), bool), np.nonzero(line)
    drawn[np.minimum((y * scale).astype(int), high - 1), np.minimum((x * scale).astype(int), wide - 1)] = True
    picture[dilate(drawn, thick + 1)] = LINE
    for k, crack in enumerate(numbered.itertuples() if numbered is not None else ()):
        right, down = round((crack.x_top + CELL) * scale) + 4, round(crack.y_top * scale) + 12
        at = (min(right, wide - wide // 40), min(max(16, wide // 70, down), high - 4))
        _write_text(picture, str(k + 1), at, max(0.45, wide / 2400))
    if mm_per_pixel is not None:
        _draw_scale_bar(picture, mm_per_pixel / scale)
    return picture


def _draw_scale_bar(picture: np.ndarray, mm_per_pixel: float) -> None:
    """Draw a bar of a round length, about a sixth of the picture, into its lower left corner."""
    h, w = picture.shape[:2]
    most = w / 5 * mm_per_pixel
    power = 10 ** math.floor(math.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    x, y, thick = round(0.02 * w), h - round(0.02 * w), max(2, round(w / 300))
    for colour, more in _OUTLINED:
        cv2.line(picture, (x, y), (x + round(length / mm_per_pixel), y), colour, thick + 2 * more)
    text = f"{length:g} mm" if length < 1000 else f"{length / 1000:g} m"
    _write_text(picture, text, (x, y - 2 * thick), max(0.4, w / 1600))


def _write_text(picture: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    for colour, more in _OUTLINED:
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, round(size * 2) + more, cv2.LINE_AA)


def tint_overlay(content: bytes, p: np.ndarray, longest: int) -> bytes:
    """Return the JPEG of a photo, its longer side `longest` pixels, with its cells' probabilities (h, w) over it."""
    below = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    above = cv2.applyColorMap((255 * p).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    scale = max(below.shape) / longest
    whole = [round(side * CELL * scale) for side in p.shape[::-1]]  # the last cells reach beyond the photo
    above = cv2.resize(above, whole, interpolation=cv2.INTER_NEAREST)[: below.shape[0], : below.shape[1]]
    return cv2.imencode(".jpg", cv2.addWeighted(below, 0.5, above, 0.5, 0))[1].tobytes()


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return a picture as a JPEG file."""
    picture.save(content := io.BytesIO(), "JPEG", quality=quality)
    return content.getvalue()
