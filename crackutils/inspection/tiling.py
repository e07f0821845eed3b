"""From a photo to its map: overlapping windows go through the detector, and the cells that it returns are blended."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from crackutils import config, training
from crackutils.config import keras
from crackutils.detector.network import CELL, top_mean
from crackutils.detector.runs import read_detector_run
from crackutils.files import sha256
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine

TILE = 256  # side of a tile, pixels: tiles.csv has a row for each
SCALES = (1.0, 0.5)  # of the photo, at which windows are cut
_OVERLAP = 64  # pixels that neighbouring windows share


@dataclass(frozen=True)
class Detector:
    """A trained crack network, ready for windows of a photo."""

    engine: Engine  # gives float32 (n, 1 + cells): what the last layer adds to a window's top cells, the cells' logits
    size: int  # side of a window, pixels
    share: float  # of a window's cells that decide, as in `Recipe.cells`
    key: str  # identifies weights, recipe and engine


def load_detector(folder: Path, engine: str = config.ENGINES[0]) -> Detector:
    """Return the network of a run of notebook 08, or of `adapt`; CrackutilsError for other folders and unknown engines.

    In whole photos the last layer counts only where `adapt` fitted it to a site, else it adds 0. Fitted to patches, it
    separates their scratches from their cracks, but it ranks tiles of other walls no better than the cells alone.
    """
    recipe, start, weights = read_detector_run(folder)
    adapted = "adapted" in json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
    key = hashlib.sha256(f"{sha256(weights)} {start} {recipe.as_dict()} {adapted}".encode()).hexdigest()

    def build() -> Any:
        model, _ = training.load(folder)
        last = keras.layers.Dense(1, dtype="float32")
        added = last(model.get_layer("features").output)
        kernel, bias = model.get_layer("p_crack").get_weights()
        kernel[0] -= 1  # the top cells' own logit is not added once more
        last.set_weights([kernel * adapted, bias * adapted])
        cells = keras.layers.Flatten()(model.get_layer("cells").output)
        return keras.Model(model.input, keras.layers.Concatenate()([added, cells]))

    program = program_file(f"{recipe.name}-map-{recipe.size}-{key[:12]}")
    running = start_engine(engine, program, build)
    return Detector(running, recipe.size, recipe.cells, f"{key} {program.name} {running.facts}")


def crack_map(image: np.ndarray, net: Detector) -> np.ndarray:
    """Return what the network finds in each cell of 16x16 pixels of a photo, uint8 (h, w, 3) of any size.

    It is float32 (2, ceil(h / 16), ceil(w / 16)): the logit of a crack in the cell, and what the last layer, which sees
    the whole window, adds to the logit of the window's top cells. Windows overlap, at both of `SCALES`, and are
    blended: towards its rim a window counts less.
    """
    (high, wide), maps = (math.ceil(side / CELL) for side in image.shape[:2]), []
    for scale in SCALES:
        shape = [math.ceil(side * scale) for side in image.shape[1::-1]]
        found = _map_at_one_scale(cv2.resize(image, shape, interpolation=cv2.INTER_AREA), net)
        found = cv2.resize(found, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_LINEAR)
        maps.append(found[:high, :wide])
    return np.ascontiguousarray(np.mean(maps, 0).transpose(2, 0, 1))


def _map_at_one_scale(image: np.ndarray, net: Detector) -> np.ndarray:
    h, w = (max(net.size, math.ceil(side / CELL) * CELL) for side in image.shape[:2])
    image = cv2.copyMakeBorder(image, 0, h - image.shape[0], 0, w - image.shape[1], cv2.BORDER_REFLECT)
    side = net.size // CELL
    rim = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).clip(max=_OVERLAP // CELL).astype(np.float32)
    weight = (rim[:, None] * rim)[..., None]
    total, weights = (np.zeros((h // CELL, w // CELL, n), np.float32) for n in (2, 1))
    # windows begin at multiples of 16, and the last ends where the photo does
    ys, xs = ([*range(0, side - net.size, net.size - _OVERLAP), side - net.size] for side in (h, w))
    places = list(itertools.product(ys, xs))
    read = lambda at: image[at[0] : at[0] + net.size, at[1] : at[1] + net.size]  # noqa: E731
    for (y, x), out, problem in run_stream(net.engine, places, read):
        assert out is not None, problem
        here = np.s_[y // CELL : y // CELL + side, x // CELL : x // CELL + side]
        total[here] += weight * np.stack([out[1:], np.full(side * side, out[0])], 1).reshape(side, side, 2)
        weights[here] += weight
    return total / weights


def cell_logits(maps: np.ndarray) -> np.ndarray:
    """Return logits of cells, float32 (h, w), so that a threshold means the same for a tile and for its top cells."""
    return maps.sum(0)


def tile_probabilities(maps: np.ndarray, share: float) -> pd.DataFrame:
    """Return a row per tile of a `crack_map`: row, col (from 0), p_crack; a `share` of the tile's cells decides."""
    rows = []
    for row, col, (cells, added) in cut_tiles(maps, TILE // CELL):
        p = sigmoid(top_mean(cells[None], share)[0] + added.mean())
        rows.append({"row": row, "col": col, "p_crack": round(float(p), 6)})
    return pd.DataFrame(rows)


def cut_tiles(array: np.ndarray, side: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, column and content of the squares of an array (..., h, w); the last ones may be smaller."""
    for row, col in np.ndindex(*(math.ceil(n / side) for n in array.shape[-2:])):
        yield row, col, array[..., row * side : (row + 1) * side, col * side : (col + 1) * side]


def sigmoid(logits: Any) -> Any:
    """Return probabilities, float64, from logits; scipy's expit differs in the last bit of one value in fifty."""
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
