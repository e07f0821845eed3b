"""Numbers of cracks that last: a crack that is found again keeps its number."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from crackutils.inspection.measure import Piece, nearest_cracks

_STEP = 8  # of so many points of a centre line, one is remembered
_NEAR = 6  # largest distance of a remembered point from the centre line of the same crack, pixels


def number_cracks(pieces: Sequence[Piece], known: str) -> tuple[dict[int, int], str]:
    """Return the lasting number of each crack by its number in `pieces`, and the text that the next call needs.

    `known` is that text of the last call, empty for the first. A crack gets the number of an earlier one if half of the
    shorter centre line or more lies on the longer one: first that of a crack of the last call, else that of one that
    had vanished before. Where several match, those with the longest common line do. Other cracks get the next free
    numbers, in the order of `pieces`.
    """
    before = read_known(known)
    now = [(*point, piece.crack) for piece in pieces for point in piece.points[::_STEP].round().astype(int).tolist()]
    old, new = Counter(before[:, 2].tolist()), Counter(crack for *_, crack in now)
    again = np.column_stack([before[:, 3], before[:, 2], nearest_cracks(pieces, before[:, :2], _NEAR)]).tolist()
    numbers, free = {}, set(old)
    for (_, number, crack), size in sorted(Counter(map(tuple, again)).items(), key=lambda x: (x[0][0], -x[1], x[0])):
        alike = 2 * size >= min(old[number], new[crack])
        if alike and crack and crack not in numbers and number in free:
            numbers[crack] = number
            free.remove(number)
    numbers |= zip((crack for crack in new if crack not in numbers), itertools.count(1 + max(old, default=0)))
    rows = [(x, y, numbers[crack], 0) for x, y, crack in now]
    rows += [(x, y, number, 1) for x, y, number, _ in before.tolist() if number in free]
    return numbers, " ".join(map(str, itertools.chain.from_iterable(rows)))


def read_known(text: str) -> np.ndarray:
    """Return the points in a text of `number_cracks`, int (n, 4): x, y, crack, 1 if it had vanished; or ValueError."""
    rows = np.array(text.split(), float).reshape(-1, 4)
    if not ((rows >= 0) & (rows < 10**6) & (rows % 1 == 0)).all():
        raise ValueError("its numbers of cracks are wrong")
    return rows.astype(int)
