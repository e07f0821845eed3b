"""The scale of a photo in millimetres per pixel: from two points of known distance, or from a printed marker."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from crackutils.config import CrackutilsError

SLANTED = 0.05  # larger differences between the sides of a marker show an oblique view
_UNSURE = 0.01  # a larger error of the scale from a small marker is told, as a share
_SPREAD = 0.1  # by which the scales of several markers may differ, as a share of their mean
_BLUR = 0.7  # pixels that the sides of printed markers seem shorter by: median of 68 in photos, 19 to 32 pixels wide
_RIM = 1 / 16  # sides of a marker between it and the border of the photo, else it may be cut: half a module of 6x6
_PAD = 50  # pixels around the photo: OpenCV drops markers whose white rim lies close to its border
_LONGEST = 4000  # longer side of the picture in which markers are searched, pixels
# each contains the smaller dictionaries of its kind, with the same numbers
_DICTIONARIES = ("DICT_4X4_250", "DICT_5X5_250", "DICT_6X6_250", "DICT_ARUCO_ORIGINAL")
_REMEDY = "Print one of ArUco 4x4, 5x5 or 6x6 with a white rim, lay it flat on the wall, or give millimetres per pixel"


@dataclass(frozen=True)
class Found:
    """The markers of a photo, and the scale from them."""

    ids: tuple[int, ...]  # numbers of the markers
    corners: np.ndarray  # float32 (markers, 4, 2), x and y in pixels, the middle of the first pixel is (0, 0)
    mm_per_pixel: float  # from the mean length of all sides
    slant: float  # largest difference between the sides of a marker, as a share of their mean
    spread: float  # difference between the scales of the markers, as a share of their mean; 0 for one marker


def scale_of_points(one: tuple[float, float], other: tuple[float, float], length_mm: float) -> float:
    """Return millimetres per pixel for two points, x and y in pixels, that are `length_mm` millimetres apart.

    Raises CrackutilsError for points that are the same, and for a length that is not above 0.

    >>> scale_of_points((100, 50), (400, 450), 100)
    0.2
    """
    if not 0 < length_mm < math.inf:
        raise CrackutilsError(f"The length {length_mm} is out of range. Give the millimetres between the two points.")
    pixels = math.dist(one, other)
    if not 0 < pixels < math.inf:
        raise CrackutilsError("Both points are the same. Choose two points far apart.")
    return length_mm / pixels


def scale_of_marker(image: np.ndarray, side_mm: float) -> Found:
    """Return the scale of a photo, uint8 (h, w, 3), from ArUco markers whose black square is `side_mm` wide.

    Markers are those of the dictionaries 4x4, 5x5 and 6x6 with up to 250 markers, and of the original one; all are of
    one dictionary. A side must be longer than a hundredth of the photo's longer side. Several markers give their mean.
    Those that the photo's border may cut do not count.
    Raises CrackutilsError for a side that is not above 0, without markers, and if their scales differ by over 10 %.
    """
    if not 0 < side_mm < math.inf:
        raise CrackutilsError(f"The side {side_mm} is out of range. Give the marker's side in millimetres above 0.")
    if not (found := find_markers(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))):
        raise CrackutilsError(f"There is no marker in the photo. {_REMEDY}.")
    corners = np.stack([one for _, one in found])
    sides = np.hypot(*np.moveaxis(np.roll(corners, -1, 1) - corners, 2, 0))
    whole = np.minimum(corners, image.shape[1::-1] - corners).min((1, 2)) > _RIM * sides.mean(1)
    if not whole.any():
        why = "The marker is at the border of the photo, so it may be cut"
        raise CrackutilsError(f"{why}. Show it with its white rim, or give millimetres per pixel.")
    found, corners, sides = [one for one, use in zip(found, whole, strict=True) if use], corners[whole], sides[whole]
    scales = side_mm / sides.mean(1)
    spread = float(np.ptp(scales) / scales.mean())
    ids = tuple(number for number, _ in found)
    if spread > _SPREAD:
        told = ", ".join(f"{number}: {scale:.3g}" for number, scale in zip(ids, scales, strict=True))
        why = f"The markers of the photo differ in scale by {spread:.0%} (mm per pixel {told})"
        raise CrackutilsError(f"{why}. Use markers of one size on one plane, or one marker.")
    slant = float((np.ptp(sides, axis=1) / sides.mean(1)).max())
    return Found(ids, corners, float(scales.mean()), slant, spread)


def describe_marker(found: Found) -> str:
    """Return as text why a scale is doubtful, empty if it is not."""
    told = []
    side = np.hypot(*np.moveaxis(np.roll(found.corners, -1, 1) - found.corners, 2, 0)).mean()
    if _BLUR / side > _UNSURE:
        told.append(f"the marker is only {side:.0f} pixels wide, so the scale may be {_BLUR / side:.0%} too large")
    if found.slant > SLANTED:
        told.append(f"the sides of the marker differ by {found.slant:.0%}, so it is seen obliquely")
    if found.spread > SLANTED:
        told.append(f"the scales of its {len(found.ids)} markers differ by {found.spread:.0%}")
    return "; ".join(told)


def find_markers(grey: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return number and corners, float32 (4, 2), of markers of one dictionary in a grey photo, uint8 (h, w)."""
    factor = max(1.0, max(grey.shape) / _LONGEST)
    size = tuple(max(1, round(side / factor)) for side in grey.shape[::-1])
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if factor > 1 else grey
    small = cv2.copyMakeBorder(small, *(_PAD,) * 4, cv2.BORDER_REPLICATE)
    options, found = cv2.aruco.DetectorParameters(), []
    options.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    for name in _DICTIONARIES:  # a chance pattern may look like a small marker of another dictionary
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name))
        corners, ids, _ = cv2.aruco.ArucoDetector(dictionary, options).detectMarkers(small)
        squares = [_move_out(one.reshape(4, 2), small) - np.float32(_PAD) for one in corners]
        these = list(zip([] if ids is None else ids.ravel().tolist(), squares, strict=True))
        found = max(found, these, key=lambda markers: sum(cv2.contourArea(one) for _, one in markers))
    if factor > 1:
        found = [(number, _refine((one + 0.5) * factor - 0.5, grey, math.ceil(factor) + 2)) for number, one in found]
    return found


def _move_out(corners: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Return corners, float32 (4, 2), moved out to the edge of the black square if it goes on outside of them.

    If something dark touches a marker, OpenCV finds its contour some 6 pixels too far inside and refines within less. A
    larger window for all markers would reach beyond a narrow white rim.
    """
    side, along = math.sqrt(cv2.contourArea(corners)), np.linspace(0.1, 0.9, 33)[:, None, None]
    edge = (corners * (1 - along) + np.roll(corners, -1, 0) * along).reshape(-1, 2)
    away = (edge - corners.mean(0)) * (2 * min(3, side / 16) / side)  # up to 3 pixels
    at = np.stack([corners.mean(0) + (edge - corners.mean(0)) * k for k in (0.2, 0.4, 0.6)]), edge - away, edge + away
    inner, inside, outside = (cv2.remap(grey, p.astype(np.float32).reshape(-1, 1, 2), None, 1).ravel() for p in at)
    contrast = float(np.percentile(inner, 95)) - float(np.median(inside))
    moved = float(np.median(outside)) - float(np.median(inside)) < contrast / 4
    return _refine(corners, grey, round(min(15, side / 8))) if moved else corners.astype(np.float32)


def _refine(corners: np.ndarray, grey: np.ndarray, reach: int) -> np.ndarray:
    """Return corners, float32 (4, 2), refined in a grey picture within a reach in pixels."""
    corners = np.clip(corners, 0, np.array(grey.shape[::-1]) - 1)  # OpenCV refines none outside
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.01)
    return cv2.cornerSubPix(grey, corners.astype(np.float32)[:, None].copy(), (reach, reach), (-1, -1), stop)[:, 0]
