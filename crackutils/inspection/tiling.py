"""The map of a photo: probabilities of the detector in overlapping windows."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from crackutils import config, training
from crackutils.config import CrackutilsError, keras
from crackutils.detector.network import CELL, build_detector, top_mean
from crackutils.detector.runs import read_detector_run
from crackutils.files import sha256
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine

TILE = 256  # side of a tile, pixels: tiles.csv has a row for each
_WINDOW = 512  # side of a window, pixels
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

    In whole photos, the last layer counts only if `adapt` fitted it to a site, with tiles of the recipe's size. Else it
    adds 0: fitted to patches, it separates their scratches from their cracks, but it ranks tiles of other walls no
    better than the cells alone.
    """
    recipe, start, weights = read_detector_run(folder)
    adapted = "adapted" in json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
    key = hashlib.sha256(f"{sha256(weights)} {start} {recipe.as_dict()} {adapted}".encode()).hexdigest()
    recipe = replace(recipe, size=recipe.size if adapted else max(recipe.size, _WINDOW))

    def build() -> Any:
        model = build_detector(recipe, start, config.DEFAULT_SEED, load=False)
        try:
            model.set_weights(training.load(folder)[0].get_weights())
        except ValueError as error:  # its map has one value per cell
            why = f"{folder} was made by a version without a probability for each pixel"
            raise CrackutilsError(f"{why}. Run notebook 08 again with FORCE=1, or leave --model out.") from error
        last, flat = keras.layers.Dense(1, dtype="float32"), keras.layers.Flatten()
        added = last(model.get_layer("features").output)
        kernel, bias = model.get_layer("p_crack").get_weights()
        kernel[0] -= 1  # the logit of the top cells is not added twice
        last.set_weights([kernel * adapted, bias * adapted])
        cells, pixels = (flat(model.get_layer(name).output) + added for name in ("cells", "pixels"))
        return keras.Model(model.input, keras.layers.Concatenate()([cells, 255 * keras.ops.sigmoid(pixels)]))

    program = program_file(f"{recipe.name}-photo-{recipe.size}-{key[:12]}")
    running = start_engine(engine, program, build, 1)  # larger batches are no faster and exceed the processor's caches
    return Detector(running, recipe.size, recipe.cells, f"{key} {program.name} {running.facts}")


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
    rows = []
    for row, col, tile in cut_tiles(cells, TILE // CELL):
        p = expit(top_mean(tile[None], share)[0].astype(float))
        rows.append({"row": row, "col": col, "p_crack": round(float(p), 6)})
    return pd.DataFrame(rows)


def cut_tiles(array: np.ndarray, side: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, column and content of the squares of an array (..., h, w); the last ones may be smaller."""
    for row, col in np.ndindex(*(math.ceil(n / side) for n in array.shape[-2:])):
        yield row, col, array[..., row * side : (row + 1) * side, col * side : (col + 1) * side]
