"""A session: photos with what a user has corrected in them, kept in one file that opens on another machine."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MARKS = ("crack", "joint", "nothing")  # what a user says a found line is
ADDED, ERASED = 1, 2  # values of a brush


@dataclass(frozen=True)
class Edits:
    """What a user has corrected in one photo.

    mm_per_pixel: scale of this photo, which wins over that of the session, None for that; marks: (x, y, kind) each, a
    place in pixels of the photo and one of `MARKS`, which holds for the found crack whose centre line is nearest, at
    most 15 pixels away (the last mark, where several do); brush: uint8 (h, w) of the photo's size, 0 nothing, 1 added
    to the mask, 2 erased, None for nothing.
    """

    mm_per_pixel: float | None = None
    marks: tuple[tuple[float, float, str], ...] = ()
    brush: np.ndarray | None = None

    @property
    def corrected(self) -> bool:
        """Whether the user has marked or painted anything."""
        return bool(self.marks) or (self.brush is not None and bool(self.brush.any()))

    @property
    def key(self) -> str:
        """A SHA-256 of all that is in it, as caches need it."""
        marks = [[float(x), float(y), kind] for x, y, kind in self.marks]
        digest = hashlib.sha256(json.dumps([self.mm_per_pixel, marks]).encode())
        if self.brush is not None:
            digest.update(json.dumps(self.brush.shape).encode())
            digest.update(np.ascontiguousarray(self.brush))
        return digest.hexdigest()


@dataclass
class Session:
    """Photos by name, in order, with what was corrected in them and the settings that hold for all."""

    photos: dict[str, Path] = field(default_factory=dict)
    edits: dict[str, Edits] = field(default_factory=dict)
    threshold: float = 0.5
    mm_per_pixel: float | None = None
    limit_mm: float | None = None
