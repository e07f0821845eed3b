"""How exact is the scale from small printed markers? For docs/whole-photos.md.

    .venv/bin/python -m tools.benchmarks.markers PHOTO...

PHOTOS show one flat ChArUco board of 5x7 squares (ArUco 6x6, old pattern, markers half as wide as squares), as
img_00.jpg to img_03.jpg do in the ArUco tutorials of OpenCV's source archive. The true scale at a marker follows from
the homography of all other markers of the photo. Prints the error of the scale and of the marker's side.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from crackutils.images import read_image
from crackutils.inspection.scale import find_markers

SQUARE, MARKER = 2.0, 1.0  # sides on the board, in any unit


def measure(photo: np.ndarray) -> np.ndarray:
    """Return error of the scale (a share) and of the side (pixels) of each marker, float64 (n, 2)."""
    kind = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_6X6_250)
    board = cv2.aruco.CharucoBoard((5, 7), SQUARE, MARKER, kind)
    board.setLegacyPattern(True)
    places = dict(zip(board.getIds().ravel().tolist(), (p[:, :2] for p in board.getObjPoints()), strict=True))
    found, errors = find_markers(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)), []
    for number, corners in found:
        rest = [(places[other], seen) for other, seen in found if other != number]
        mapped, _ = cv2.findHomography(*map(np.concatenate, zip(*rest, strict=True)))
        true = cv2.perspectiveTransform(places[number][None].astype(np.float64), mapped)[0]
        side, expected = (np.hypot(*(c - np.roll(c, -1, 0)).T).mean() for c in (corners, true))
        errors.append((expected / side - 1, expected - side))
    return np.array(errors)


def main(words: list[str]) -> None:
    """Measure the photos together, and print the result."""
    if not words:
        raise SystemExit("usage: python -m tools.benchmarks.markers PHOTO...")
    scale, side = np.concatenate([measure(read_image(Path(word))) for word in words]).T
    print(f"{len(scale)} markers in {len(words)} photos: scale {np.median(scale):+.4f} (median),", end=" ")
    print(f"{np.quantile(np.abs(scale), 0.95):.4f} (95 % are below), sides {np.median(side):.2f} px too short (median)")


if __name__ == "__main__":
    main(sys.argv[1:])
