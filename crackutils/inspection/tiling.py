"""The map of a photo: probabilities of the detector in overlapping windows."""

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from crackutils import config
from crackutils.config import keras
from crackutils.detector.network import CELL, top_mean
from crackutils.detector.runs import WINDOW, is_adapted, photo_network, read_detector_run
from crackutils.files import sha256
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine

TILE = 256  # side of a tile, pixels: tiles.csv has a row for each
_RIM = 2  # cells at a window's rim that are taken from its neighbour


@dataclass(frozen=True)
class Detector:
    """A trained crack network for windows of a photo."""

    engine: Engine  # returns float32 (n, cells + pixels): logits of cells, and probabilities of pixels times 255
    size: int  # side of a window, pixels
    share: float  # of a window's cells that decide, as in `Recipe.cells`
    key: str  # identifies weights, recipe and engine


@dataclass(frozen=True)
class CrackMap:
    """Outputs of a network for a photo of h x w pixels."""

    pixels: np.ndarray  # uint8 (h, w), the probability of a crack in each pixel times 255
    cells: np.ndarray  # float32 (ceil(h / 16), ceil(w / 16)), the logit of a crack in each cell of 16x16 pixels


def load_detector(folder: Path, engine: str = config.ENGINES[0]) -> Detector:
    """Return the network of a run of notebook 08 or `adapt`; CrackutilsError for other folders and unknown engines.

    `photo_network` says when its last layer counts.
    """
    (recipe, start, weights), adapted = read_detector_run(folder), is_adapted(folder)
    key = hashlib.sha256(f"{sha256(weights)} {start} {recipe.as_dict()} {adapted}".encode()).hexdigest()
    size = recipe.size if adapted else max(recipe.size, WINDOW)

    def build() -> Any:
        inputs, cells, pixels = photo_network(folder, size)
        return keras.Model(inputs, keras.layers.Concatenate()([cells, 255 * keras.ops.sigmoid(pixels)]))

    program = program_file(f"{recipe.name}-photo-{size}-{key[:12]}")
    running = start_engine(engine, program, build, 1)  # more at once gain nothing and leave the processor's caches
    return Detector(running, size, recipe.cells, f"{key} {program.name} {running.facts}")


def map_photo(image: np.ndarray, net: Detector) -> CrackMap:
    """Return what the network finds in a photo, uint8 (h, w, 3) of any size.

    Windows overlap; within 32 pixels of a window's rim, the values of its neighbour count. The photo is extended by its
    mirror image.
    """
    (h, w), side = image.shape[:2], net.size // CELL
    high, wide = (math.ceil(n / CELL) for n in (h, w))
    pixels, cells = np.zeros((h, w), np.uint8), np.zeros((high, wide), np.float32)
    # windows begin at multiples of 16, and the last ends with the photo's last cell
    ys, xs = ([*range(0, n - side, side - 2 * _RIM), max(0, n - side)] for n in (high, wide))

    def read(at: tuple[int, int]) -> np.ndarray:
        part = image[at[0] * CELL :, at[1] * CELL :][: net.size, : net.size]
        beyond = (net.size - n for n in part.shape[:2])
        return cv2.copyMakeBorder(part, 0, next(beyond), 0, next(beyond), cv2.BORDER_REFLECT)

    for (y, x), out, problem in run_stream(net.engine, list(itertools.product(ys, xs)), read):
        assert out is not None, problem
        top, left = (_RIM * (at > 0) for at in (y, x))
        own, fine = np.split(out, [side * side])
        here = cells[y + top : y + side, x + left : x + side]
        here[:] = own.reshape(side, side)[top:, left:][: here.shape[0], : here.shape[1]]
        p = fine.astype(np.uint8).reshape(net.size, net.size)[top * CELL :, left * CELL :]
        here = pixels[(y + top) * CELL :, (x + left) * CELL :][: p.shape[0], : p.shape[1]]
        here[:] = p[: here.shape[0], : here.shape[1]]
    return CrackMap(pixels, cells)


def tile_probabilities(cells: np.ndarray, share: float) -> pd.DataFrame:
    """Return a row per tile of a `CrackMap`: row, col (from 0), p_crack; a `share` of the tile's cells decides."""
    tiles = cut_tiles(cells, TILE // CELL)
    rows = ((row, col, float(expit(top_mean(tile[None], share)[0].astype(float)))) for row, col, tile in tiles)
    return pd.DataFrame([{"row": row, "col": col, "p_crack": round(p, 6)} for row, col, p in rows])


def cut_tiles(array: np.ndarray, side: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, column and content of the squares of an array (..., h, w); the last ones may be smaller."""
    for row, col in np.ndindex(*(math.ceil(n / side) for n in array.shape[-2:])):
        yield row, col, array[..., row * side : (row + 1) * side, col * side : (col + 1) * side]
