"""The largest allowed width, given or by exposure class, and the parts of cracks that are wider."""

import math

import numpy as np

from crackutils.config import CrackutilsError
from crackutils.inspection.measure import Piece

# millimetres: recommended values of EN 1992-1-1:2004, Table 7.1N, for reinforced concrete, quasi-permanent loads.
# By hand, ten numbers: structuralcodes needs shapely and triangle, whose core must not be sold.
EXPOSURES = {"X0": 0.4, "XC1": 0.4} | dict.fromkeys(("XC2", "XC3", "XC4", "XD1", "XD2", "XS1", "XS2", "XS3"), 0.3)


def choose_limit(limit_mm: float | None, exposure: str | None) -> tuple[float | None, str]:
    """Return the limit of width in millimetres, None without one, and its source as text.

    An exposure class of EN 1992-1-1:2004 gives the recommended value of its Table 7.1N. Raises CrackutilsError for both
    a limit and a class, for an unknown class, and for a limit that is not above 0.
    """
    if limit_mm is not None and not 0 < limit_mm < math.inf:
        raise CrackutilsError(f"limit_mm={limit_mm} is out of range. Give a width in millimetres above 0.")
    if exposure is None:
        return limit_mm, "given by the user" if limit_mm is not None else ""
    if limit_mm is not None:
        raise CrackutilsError("Both a limit and an exposure class were given. Give --limit-mm or --exposure.")
    if (known := exposure.strip().upper()) not in EXPOSURES:
        raise CrackutilsError(f"exposure={exposure} is unknown. Give one of {', '.join(EXPOSURES)}.")
    rule = f"recommended value of EN 1992-1-1:2004, Table 7.1N, for exposure class {known}"
    return EXPOSURES[known], f"{rule}, for reinforced concrete under the quasi-permanent load combination"


def cut_wider(piece: Piece, limit: float) -> list[np.ndarray]:
    """Return the parts of a piece that are wider than a limit in pixels: their points, float32 (m, 2).

    Upper bounds do not count. Each part extends halfway to the neighbouring points, so that its length equals the sum
    of `Piece.steps`.
    """
    wide, points = np.pad((piece.width > limit) & ~piece.at_most, 1), piece.points
    middles, stretches = (points[1:] + points[:-1]) / 2, []
    for begin, end in np.flatnonzero(wide[1:] != wide[:-1]).reshape(-1, 2).tolist():
        stretch = np.concatenate([middles[max(0, begin - 1) : begin], points[begin:end], middles[end - 1 : end]])
        stretches += [stretch] * (len(stretch) > 1)
    return stretches
