"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from crackutils import config
from crackutils.detector.pooling import top_mean
from crackutils.detector.runs import read_detector_run
from crackutils.files import sha256
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine

CELL = 16  # pixels of a cell of the map
TILE = 256  # pixels of a tile, side
SCALES = (1.0, 0.5)  # of the photo, at which windows are cut
_OVERLAP = 64  # pixels of a window that the next one sees too


@dataclass(frozen=True)
class Detector:
    """What tells cracks.

    Attributes:
        engine: from windows to float32 (n, 1 + cells): what the last layer adds to the log-odds of the window's top
            cells (0 unless it was fitted to a site), and the cells' log-odds.
        size: side of a window, pixels.
        share: of a window's cells that decide, as in `recipes.Recipe.cells`.
        key: tells model, engine and code of the network apart.
    """

    engine: Engine
    size: int
    share: float
    key: str


def load_detector(folder: Path, engine: str = config.ENGINES[0]) -> Detector:
    """Return the network of a run of notebook 08, or of `adapt`.

    In whole photos the last layer counts only where `adapt` has fitted it to a site: fitted to patches, it tells their
    scratches from their cracks, and ranks tiles of other walls no better than the cells alone.

    Raises:
        CrackutilsError: no such run, one of another network, or an engine that is not to be had.
    """
    recipe, start, file = read_detector_run(folder)
    adapted = "adapted" in json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
    key = hashlib.sha256(f"{sha256(file)} {start} {recipe.as_dict()} {adapted}".encode()).hexdigest()

    def build() -> Any:
        from crackutils import training
        from crackutils.models import keras

        model, _ = training.load(folder)
        features, last = model.get_layer("features").output, keras.layers.Dense(1, dtype="float32")
        added = last(features)
        kernel, bias = model.get_layer("p_crack").get_weights()
        kernel[0] -= 1  # without the top cells' own log-odds
        last.set_weights([kernel * adapted, bias * adapted])
        cells = keras.layers.Flatten()(model.get_layer("cells").output)
        return keras.Model(model.input, keras.layers.Concatenate()([added, cells]))

    program = program_file(f"{recipe.name}-map-{recipe.size}-{key[:12]}")
    running = start_engine(engine, program, build)
    return Detector(running, recipe.size, recipe.cells, f"{key} {program.name} {running.facts}")


def crack_map(image: np.ndarray, net: Detector) -> np.ndarray:
    """Return what the network sees in a photo, for each cell of 16x16 pixels.

    Windows overlap, at both of `SCALES`, and are blended: towards its rim a window counts less.

    Args:
        image: uint8 (h, w, 3) of any size.
        net: as `detector` returns it.

    Returns:
        float32 (2, ceil(h / 16), ceil(w / 16)): log-odds of a crack in the cell, and what the last layer, which sees
        the whole window (and is what `adapt` fits to a site), adds to the log-odds of the window's top cells.
    """
    high, wide = (math.ceil(side / CELL) for side in image.shape[:2])
    total = np.zeros((high, wide, 2), np.float32)
    for scale in SCALES:
        shape = (math.ceil(image.shape[1] * scale), math.ceil(image.shape[0] * scale))
        small = image if scale == 1 else cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
        found = _at_one_scale(small, net)
        if scale != 1:
            found = cv2.resize(found, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_LINEAR)
        total += found[:high, :wide]
    return np.ascontiguousarray((total / len(SCALES)).transpose(2, 0, 1))


def _at_one_scale(image: np.ndarray, net: Detector) -> np.ndarray:
    h, w = (max(net.size, math.ceil(side / CELL) * CELL) for side in image.shape[:2])
    more = (h - image.shape[0], w - image.shape[1])
    if any(more):
        image = cv2.copyMakeBorder(image, 0, more[0], 0, more[1], cv2.BORDER_REFLECT)
    places = [(y, x) for y in _places(h, net.size) for x in _places(w, net.size)]
    side = net.size // CELL
    rim = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).clip(max=_OVERLAP // CELL).astype(np.float32)
    weight = (rim[:, None] * rim)[..., None]
    found, weights = (np.zeros((h // CELL, w // CELL, n), np.float32) for n in (2, 1))
    read = lambda at: image[at[0] : at[0] + net.size, at[1] : at[1] + net.size]  # noqa: E731
    for (y, x), out, problem in run_stream(net.engine, places, read):
        assert out is not None, problem
        added = np.full(side * side, out[0])
        where = np.s_[y // CELL : y // CELL + side, x // CELL : x // CELL + side]
        found[where] += weight * np.stack([out[1:], added], 1).reshape(side, side, 2)
        weights[where] += weight
    return found / weights


def _places(length: int, size: int) -> list[int]:
    """Return where windows begin, multiples of 16; the last one ends where the photo does."""
    return [*range(0, length - size, size - _OVERLAP), length - size]


def cell_logits(seen: np.ndarray) -> np.ndarray:
    """Return the log-odds of the cells of a `crack_map`, with what the last layer adds, float32 (h, w).

    So a threshold means the same for a tile and for the top cells that decide it.
    """
    return seen.sum(0)


def tile_probabilities(seen: np.ndarray, share: float) -> pd.DataFrame:
    """Return a row per tile of 256x256 pixels of a `crack_map`: row, col (from 0), p_crack.

    Tiles at the rim may be smaller.
    """
    side, found = TILE // CELL, []
    for row in range(math.ceil(seen.shape[1] / side)):
        for col in range(math.ceil(seen.shape[2] / side)):
            cells, added = seen[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
            odds = top_mean(cells[None], share)[0] + added.mean()
            found.append({"row": row, "col": col, "p_crack": round(float(sigmoid(odds)), 6)})
    return pd.DataFrame(found)


def sigmoid(odds: Any) -> Any:
    """Return probabilities from log-odds."""
    return 1 / (1 + np.exp(-np.asarray(odds, np.float64)))
