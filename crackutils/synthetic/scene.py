"""Constants of synthetic photos, the scene on which all steps work, and the finished photo."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from crackutils.synthetic.drawing import noise

PATCH = 227  # side of a patch, pixels
TILE = 256  # side of a tile, pixels
MASK_BLOCK = 4  # pixels of a stored patch to a pixel of its stored mask, each way
WIDTH, HEIGHT = 1024, 768  # of a photo, pixels
VERSION = 4  # of the generator, raised whenever pictures change; tools/benchmarks/sample.json has a row per version
QUALITY = 75  # of the JPEG files, as METU's
FINISHES = ("smooth", "pitted", "brushed", "boards", "rough", "eroded")
STYLES = ("hairline", "medium", "wide")  # of cracks
USUAL = (0.33, 0.27, 0.4)  # shares of the styles
THIN = (0.6, 0.25, 0.15)  # the same for training on thin cracks
VISIBLE = (8.0, 1.0)  # least `crack_contrast` of a patch that counts as cracked
FAINT = (5.0, 0.7)  # the same for training on faint cracks
OBJECTS = ("hair", "wire", "joint", "scratch", "shadow", "paint", "leaf", "root", "stain", "salt", "hole", "ridge")
SURFACE, CRACK, JOINT, LINE, UNSURE = 0, 1, 2, 3, 255  # kinds of pixels; a line is a hair, a wire, a mark, ...
FINE = 3  # cracks are drawn this many times finer than the photo, so that hairlines keep their width


@dataclass(frozen=True)
class Photo:
    """A photo and its ground truth."""

    image: np.ndarray  # uint8 (height, width, 3) RGB
    mask: np.ndarray  # uint8 (height, width), how much of each pixel is crack, 0-255
    lines: list[np.ndarray]  # per crack and branch float32 (n, 3): x, y of the centre line and its width, pixels
    points: list[tuple[float, float]]  # places (x, y) on distractors
    facts: dict[str, Any]  # finish, objects, zoom, crack_width, blur (sigma), both pixels, noise (grey levels), ...
    kinds: np.ndarray | None = None  # uint8 (height, width): `SURFACE`, `JOINT` or `LINE`
    drop: np.ndarray | None = None  # uint8 (height, width): grey levels by which the crack changes the sharp view


class Overlay(NamedTuple):
    """A thing on the surface, or its shadow."""

    cover: np.ndarray  # uint8 (h, w)
    kind: Literal["shadow", "coat", "solid"]  # a coat lets the relief show
    colour: tuple[float, ...] = (0.0, 0.0, 0.0)
    strength: float = 0.0  # how dark a shadow is, 0-1, and how round a solid thing, 0 is flat


@dataclass
class Scene:
    """The state of a photo between steps; luminances are multiples of the surface's own, heights are in pixels."""

    rng: np.random.Generator
    w: int
    h: int
    zoom: float
    light: tuple[float, float]  # unit vector

    def __post_init__(self) -> None:
        """Begin with an even, flat, grey surface."""
        self.albedo, self.height = np.ones((self.h, self.w), np.float32), np.zeros((self.h, self.w), np.float32)
        self.chroma = np.zeros((-(-self.h // 8), -(-self.w // 8), 3), np.float32)  # grey levels to add
        self.shade: np.ndarray | None = None  # multiplies everything at the end
        self.overlays: list[Overlay] = []
        self.kinds = self.canvas()
        self.seams: list[np.ndarray] = []  # courses (n, 2) of some joints, which cracks may follow
        self.behind: np.ndarray | None = None  # float32 (h, w, 4): colours of what lies behind the wall, and its share
        self.objects: list[str] = []
        self.points: list[tuple[float, float]] = []  # on those objects, for patches that show them

    def noise(self, grain: float, stretch: float = 1.0, angle: float = 0.0) -> np.ndarray:
        """Return `noise` of the size of the scene."""
        return noise(self.rng, self.h, self.w, grain, stretch, angle)

    def mark(self, here: np.ndarray, kind: int) -> None:
        """Record the kind of the pixels `here`, bool (h, w)."""
        self.kinds[here] = kind

    def canvas(self, finer: int = 1) -> np.ndarray:
        """Return an empty uint8 canvas (h, w), or one `finer` times finer."""
        return np.zeros((self.h * finer, self.w * finer), np.uint8)
