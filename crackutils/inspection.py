"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import io
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import PIL
from PIL import Image

from crackutils import config, engines, evaluation, results
from crackutils.config import CrackutilsError
from crackutils.datasets import DECODING, FORMATS, ImageError, read_image, resize
from crackutils.synthetic import Patch, Photo

_CODE = config.sha256(Path(__file__))

CELL = 16  # pixels of a cell of the map
TILE = 256  # pixels of a tile, side
SCALES = (1.0, 0.5)  # of the photo, at which windows are cut
_OVERLAP = 64  # pixels of a window that the next one sees too
_BACKGROUND = 31  # pixels, side of the square that tells how bright the surface is around a pixel
_SHORTEST = 20  # pixels of a line that counts
_LOW, _HIGH = 1.5, 3.0  # how much darker than its surroundings a crack's pixel is, in deviations of the surface
_LARGE, _MAILED, _SMALL = 2000, 1000, 240  # pixels, longest sides of pictures
_LEAST = 64  # pixels, shorter side of a photo
_PICTURES = ("overlay", "thumbnail")
_LISTED = 10  # cracks of a photo that the report lists, and that have their number in the picture
_MAIL = 10e6  # bytes, about, of the report's pictures: as text, and written as text once more by mail, 18 million
_UNREAD = (".heic", ".heif", ".dng", ".nef", ".cr2", ".cr3", ".arw")  # what cameras write and Pillow does not read
_MARK = ".inspection"  # a file in a folder that this wrote, with what was inspected
_UNUSABLE = (ImageError, MemoryError, cv2.error)
_BEYOND, _LEVEL = 1.4, 0.2  # how much darker than the brightest path the darkest one must be, and than the surface
_GAP = 9  # pixels of a gap that a middle line bridges
_HALF = 7  # pixels, side of the square in which a line is deepest
_BLOCK, _RIM = 1024, 80  # pixels of a photo that are looked at together, and around them


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

    engine: engines.Engine
    size: int
    share: float
    key: str


def detector(folder: Path, engine: str = config.ENGINES[0]) -> Detector:
    """Return the network of a run of notebook 08, or of `adapt`.

    In whole photos the last layer counts only where `adapt` has fitted it to a site: fitted to patches, it tells their
    scratches from their cracks, and ranks tiles of other walls no better than the cells alone.

    Raises:
        CrackutilsError: no such run, one of another network, or an engine that is not to be had.
    """
    recipe, start, file = results.cells_run(folder)
    adapted = "adapted" in json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
    key = hashlib.sha256(f"{config.sha256(file)} {start} {recipe.as_dict()} {adapted}".encode()).hexdigest()

    def build() -> Any:
        from crackutils import training

        model, _ = training.load(folder)
        keras = training.keras
        features, last = model.get_layer("features").output, keras.layers.Dense(1, dtype="float32")
        added = last(features)
        kernel, bias = model.get_layer("p_crack").get_weights()
        kernel[0] -= 1  # without the top cells' own log-odds
        last.set_weights([kernel * adapted, bias * adapted])
        cells = keras.layers.Flatten()(model.get_layer("cells").output)
        return keras.Model(model.input, keras.layers.Concatenate()([added, cells]))

    program = engines.program(f"{recipe.name}-map-{recipe.size}-{key[:12]}")
    running = engines.start(engine, program, build)
    return Detector(running, recipe.size, recipe.cells, f"{key} {program.name} {running.facts}")


# ---------------------------------------------------------------- where


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
    for (y, x), out, problem in engines.stream(net.engine, places, read):
        assert out is not None, problem
        added = np.full(side * side, out[0])
        where = np.s_[y // CELL : y // CELL + side, x // CELL : x // CELL + side]
        found[where] += weight * np.stack([out[1:], added], 1).reshape(side, side, 2)
        weights[where] += weight
    return found / weights


def _places(length: int, size: int) -> list[int]:
    """Return where windows begin, multiples of 16; the last one ends where the photo does."""
    return [*range(0, length - size, size - _OVERLAP), length - size]


def cells_of(seen: np.ndarray) -> np.ndarray:
    """Return the log-odds of the cells of a `crack_map`, with what the last layer adds, float32 (h, w).

    So a threshold means the same for a tile and for the top cells that decide it.
    """
    return seen.sum(0)


def tiles(seen: np.ndarray, share: float) -> pd.DataFrame:
    """Return a row per tile of 256x256 pixels of a `crack_map`: row, col (from 0), p_crack.

    Tiles at the rim may be smaller.
    """
    side, found = TILE // CELL, []
    for row in range(math.ceil(seen.shape[1] / side)):
        for col in range(math.ceil(seen.shape[2] / side)):
            cells, added = seen[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
            odds = evaluation.top_mean(cells[None], share)[0] + added.mean()
            found.append({"row": row, "col": col, "p_crack": round(float(chance(odds)), 6)})
    return pd.DataFrame(found)


def chance(odds: Any) -> Any:
    """Return probabilities from log-odds."""
    return 1 / (1 + np.exp(-np.asarray(odds, np.float64)))


# ---------------------------------------------------------------- how long, how wide


def crack_mask(image: np.ndarray, odds: np.ndarray, threshold: float) -> np.ndarray:
    """Return the pixels of cracks, bool (h, w): dark lines near crack-like cells, and what joins them.

    A pixel is dark where it lies below its surroundings by more than the surface's own unevenness (hysteresis with two
    bounds); what is shorter than 20 pixels is dropped. A hairline is not so dark everywhere: where crack-like cells go
    on, the darkest path through them, one pixel wide, counts as well (minimal paths: Cohen, Kimmel 1997), if it is
    darker than the brightest path is bright.

    Args:
        image: uint8 (h, w, 3).
        odds: as `cells_of` returns them.
        threshold: probability from which a cell is crack-like.
    """
    h, w = image.shape[:2]
    mask = np.zeros((h, w), bool)
    likely, near = _likely(odds, threshold)
    side, rim = _BLOCK // CELL, _RIM // CELL
    for row in range(0, likely.shape[0], side):  # block by block, so that memory does not grow with the photo
        for col in range(0, likely.shape[1], side):
            top, left = max(0, row - rim), max(0, col - rim)
            part = np.s_[top : row + side + rim, left : col + side + rim]
            if not likely[part].any():
                continue
            y, x = top * CELL, left * CELL
            cells = likely[part]
            here = image[y : y + cells.shape[0] * CELL, x : x + cells.shape[1] * CELL]
            found = _dark_lines(here, cells, near[part])
            core = np.s_[row * CELL : row * CELL + _BLOCK, col * CELL : col * CELL + _BLOCK]
            offset = (row * CELL - y, col * CELL - x)
            kept = found[offset[0] : offset[0] + _BLOCK, offset[1] : offset[1] + _BLOCK]
            mask[core] = kept
    return mask


def _likely(odds: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells that are crack-like, and these with those around them, both bool."""
    likely = chance(odds) >= threshold
    return likely, cv2.dilate(likely.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _pixels(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of cells, bool, cut where the photo ends."""
    return np.kron(cells, np.ones((CELL, CELL), bool))[: shape[0], : shape[1]]


def _dark_lines(image: np.ndarray, cells: np.ndarray, near: np.ndarray) -> np.ndarray:
    from skimage.filters import apply_hysteresis_threshold

    inside = _pixels(near, image.shape)
    depth = _depth(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    spread = 1.4826 * np.median(np.abs(depth[inside])) + 1.0
    deepest = cv2.dilate(depth, np.ones((_HALF, _HALF), np.uint8))
    # a line is as wide as where it is half as deep, however blurred it is
    line = np.where(inside & (depth >= 0.5 * deepest), depth, 0)
    dark = apply_hysteresis_threshold(line, _LOW * spread, _HIGH * spread)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    long = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) >= _SHORTEST
    long[0] = False
    dark = long[labels]
    beside = cv2.dilate(dark.astype(np.uint8), np.ones((_GAP // 2 + 1,) * 2, np.uint8)).astype(bool)
    paths = _paths(cv2.GaussianBlur(depth, (0, 0), 1.0) / spread, cells)
    return dark | (paths & ~beside)  # middle lines bridge what is between


def _paths(depth: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the darkest paths along chains of cells, bool (h, w), where they are darker than chance makes them.

    Any surface has a darkest path. What chance can do is told by the brightest one, as cracks are not bright.
    """
    from skimage.morphology import skeletonize

    found = np.zeros(depth.shape, bool)
    depth = depth - np.median(depth)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        left, top, wide, high, size = (int(v) for v in stats[number])
        if size < 2:
            continue
        chain = np.pad(labels[top : top + high, left : left + wide] == number, 1)
        y, x = max(0, top - 1), max(0, left - 1)  # the pad stays where the photo does not end
        chain, thin = (some[y - top + 1 :, x - left + 1 :] for some in (chain, skeletonize(chain)))
        part = depth[y * CELL :, x * CELL :][: chain.shape[0] * CELL, : chain.shape[1] * CELL]
        _, level = _ways(-part, chain, thin)
        ways, _ = _ways(part, chain, thin, _BEYOND * max(level, _LEVEL))
        found[y * CELL :, x * CELL :][: part.shape[0], : part.shape[1]] |= ways
    return found


def _ways(depth: np.ndarray, chain: np.ndarray, thin: np.ndarray, least: float = -math.inf) -> tuple[np.ndarray, float]:
    """Return the deepest paths from the deepest pixel of a chain of cells to its other cells, and their mean depth.

    Paths of less than `least`, on average, are left out, and what adds less than 20 pixels to the others.
    """
    from skimage.graph import MCP_Geometric

    own = _pixels(chain, depth.shape)
    # a path may leave its cells by one
    allowed = cv2.dilate(own.astype(np.uint8), np.ones((2 * CELL + 1,) * 2, np.uint8)).astype(bool)
    deep, goals, found = np.where(own, depth, -np.inf), [], np.zeros(depth.shape, bool)
    graph = MCP_Geometric(np.where(allowed, (0.2 + depth.clip(0, 4)) ** -2, -1))  # below 0: no way
    far, _ = graph.find_costs([np.unravel_index(deep.argmax(), deep.shape)])
    for row, col in np.argwhere(thin) * CELL:
        square = deep[row : row + CELL, col : col + CELL]
        at = np.unravel_index(square.argmax(), square.shape)
        goals.append((row + at[0], col + at[1]))
    for goal in sorted(goals, key=lambda goal: -far[goal]):
        way = tuple(np.array(graph.traceback(goal)).T)
        new = ~found[way]
        if new.sum() >= _SHORTEST and depth[way][new].mean() >= least:
            found[way] = True
    return found, float(depth[found].mean()) if found.any() else 0.0


def _depth(grey: np.ndarray) -> np.ndarray:
    """Return by how many grey levels each pixel is darker than its surroundings, float32.

    The surroundings are the brightest of three medians: a small one is the crack itself where the crack is wide.
    """
    around = cv2.medianBlur(grey, _BACKGROUND)
    for times in (2, 4):
        small = cv2.resize(grey, (-(-grey.shape[1] // times), -(-grey.shape[0] // times)), interpolation=cv2.INTER_AREA)
        wider = cv2.resize(cv2.medianBlur(small, _BACKGROUND), grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
        around = np.maximum(around, wider)
    return around.astype(np.float32) - cv2.GaussianBlur(grey, (0, 0), 0.8).astype(np.float32)


def middle_lines(mask: np.ndarray) -> np.ndarray:
    """Return the middle lines of cracks, bool (h, w), one pixel wide (Zhang, Suen 1984), across gaps of some pixels."""
    from skimage.morphology import skeletonize

    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_GAP, _GAP))
    rim = _GAP // 2
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)[rim:-rim, rim:-rim]
    return skeletonize(closed.astype(bool))


def line_length(line: np.ndarray) -> float:
    """Return how long a line of one pixel's width is, pixels, with the estimator of Vossepoel and Smeulders (1982)."""
    line = np.pad(line, 1)
    straight, slanting = (np.zeros(line.shape, np.uint8) for _ in range(2))  # steps that begin or end at each pixel
    whole = np.s_[:]
    for rows, cols in (((whole, whole), (np.s_[1:], np.s_[:-1])), ((np.s_[1:], np.s_[:-1]), (whole, whole))):
        step = line[rows[0], cols[0]] & line[rows[1], cols[1]]
        straight[rows[0], cols[0]] += step
        straight[rows[1], cols[1]] += step
    for one, two in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
        step = line[:-1, two] & line[1:, one]
        step &= ~(line[:-1, one] | line[1:, two])  # two straight steps lead round this corner
        slanting[:-1, two] += step
        slanting[1:, one] += step
    turns = ((straight == 1) & (slanting == 1)).sum()
    return float(0.98 * straight.sum() / 2 + 1.406 * slanting.sum() / 2 - 0.091 * turns)


def cracks(mask: np.ndarray, line: np.ndarray, odds: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return a row per crack: what touches along crack-like cells is one. Cells without any line are left out.

    Args:
        mask: as `crack_mask` returns it.
        line: as `middle_lines` returns it.
        odds: as `cells_of` returns them.
        threshold: as for `crack_mask`.

    Returns:
        x, y, width, height (box, pixels); x_top, y_top (topmost pixel of its line); p_crack, of its surest cell;
        length, of its middle line with all branches; area; width_mean (area by length where it is more than a pixel
        wide; 1 if it is nowhere) and width_most, all in pixels. Cracks of more than about 40 pixels across are not
        measured rightly: their middle is as bright as what surrounds it.
    """
    _, near = _likely(odds, threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8), connectivity=8)
    rows = []
    for number in range(1, count):
        left, top, wide, high = (int(v) for v in stats[number, :4])
        cells = labels[top : top + high, left : left + wide] == number
        box = np.s_[top * CELL : (top + high) * CELL, left * CELL : (left + wide) * CELL]
        here = _pixels(cells, mask[box].shape)
        own, part = line[box] & here, mask[box] & here
        length = line_length(own)
        if not length:
            continue
        y, x = (int(v[0]) for v in np.nonzero(own))
        surest = float(chance(odds[top : top + high, left : left + wide][cells].max()))
        row = {"x": left * CELL, "y": top * CELL, "width": part.shape[1], "height": part.shape[0]}
        row |= {"x_top": left * CELL + x, "y_top": top * CELL + y, "p_crack": surest}
        row |= {"length": length, "area": int(part.sum()), "width_mean": _mean_width(part, own)}
        rows.append(row | {"width_most": _widest(part)})
    return pd.DataFrame(rows, columns=_CRACK).sort_values("length", ascending=False, ignore_index=True)


def _mean_width(mask: np.ndarray, line: np.ndarray) -> float:
    """Return area by length where a crack is more than a pixel wide: a path that was followed tells no width."""
    wide = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    length = line_length(line & cv2.dilate(wide, np.ones((3, 3), np.uint8)).astype(bool))
    return float(wide.sum() / length) if length else 1.0


def _widest(mask: np.ndarray) -> float:
    """Return the largest width in a mask, pixels: of lines twice as fine, so that even widths have a middle as well."""
    most = 0.0
    for top in range(0, mask.shape[0], _BLOCK):
        for left in range(0, mask.shape[1], _BLOCK):
            y, x = max(0, top - _RIM), max(0, left - _RIM)
            part = mask[y : top + _BLOCK + _RIM, x : left + _BLOCK + _RIM].astype(np.uint8)
            fine = np.pad(cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), 1)
            most = max(most, float(cv2.distanceTransform(fine, cv2.DIST_L2, 5).max()))
    return most


_FRAME, _LINE = (0, 114, 178), (230, 159, 0)  # blue and orange that colour-blind readers can tell apart
_LENGTHS = ["length", "width_mean", "width_most"]
_CRACK = ["x", "y", "width", "height", "x_top", "y_top", "p_crack", "length", "area", "width_mean", "width_most"]


# ---------------------------------------------------------------- pictures


def overlay(
    image: np.ndarray,
    odds: np.ndarray,
    line: np.ndarray,
    threshold: float,
    longest: int,
    mm_per_pixel: float | None = None,
    numbered: pd.DataFrame | None = None,
) -> np.ndarray:
    """Return a photo with crack-like cells framed and the middle lines of cracks drawn, uint8 (height, width, 3).

    Args:
        image: uint8 (h, w, 3).
        odds: as `cells_of` returns them.
        line: as `middle_lines` returns it.
        threshold: as for `crack_mask`.
        longest: side of the picture, pixels; a smaller photo is not enlarged.
        mm_per_pixel: of the photo; draws a scale bar.
        numbered: rows of `cracks` that get their number, from 1, beside them.
    """
    h, w = image.shape[:2]
    scale = min(1.0, longest / max(h, w))
    wide, high = max(1, round(w * scale)), max(1, round(h * scale))
    picture = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
    likely, cell = (chance(odds) >= threshold).astype(np.uint8), CELL * scale
    shape = (max(1, round(likely.shape[1] * cell)), max(1, round(likely.shape[0] * cell)))
    framed = cv2.resize(likely, shape, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(framed, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    thick = max(1, round(longest / 800))
    cv2.drawContours(picture, outlines, -1, _FRAME, thick, cv2.LINE_AA)
    drawn = np.zeros((high, wide), np.uint8)
    y, x = np.nonzero(line)
    drawn[np.minimum((y * scale).astype(int), high - 1), np.minimum((x * scale).astype(int), wide - 1)] = 1
    picture[cv2.dilate(drawn, np.ones((thick + 1, thick + 1), np.uint8)) > 0] = _LINE
    for k, crack in enumerate(numbered.itertuples() if numbered is not None else ()):
        right, down = round((crack.x_top + CELL) * scale) + 4, round(crack.y_top * scale) + 12
        at = (min(right, wide - wide // 40), min(max(16, wide // 70, down), high - 4))
        _text(picture, str(k + 1), at, max(0.45, wide / 2400))
    if mm_per_pixel is not None:
        _scale_bar(picture, mm_per_pixel / scale)
    return picture


def _scale_bar(picture: np.ndarray, mm_per_pixel: float) -> None:
    """Draw a bar of a round length, about a sixth of the picture, into its lower left corner."""
    h, w = picture.shape[:2]
    most = w / 5 * mm_per_pixel
    power = 10 ** math.floor(math.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    text = f"{length:g} mm" if length < 1000 else f"{length / 1000:g} m"
    pixels, size = round(length / mm_per_pixel), max(0.4, w / 1600)
    x, y, thick = round(0.02 * w), h - round(0.02 * w), max(2, round(w / 300))
    for colour, more in (((0, 0, 0), 2), ((255, 255, 255), 0)):  # white with a black rim is seen on any surface
        cv2.line(picture, (x, y), (x + pixels, y), colour, thick + 2 * more)
    _text(picture, text, (x, y - 2 * thick), size)


def _text(picture: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    for colour, more in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, round(size * 2) + more, cv2.LINE_AA)


# ---------------------------------------------------------------- a folder of photos


def inspect(
    photos: Sequence[str | Path],
    out: str | Path,
    model: str | Path | None = None,
    engine: str = config.ENGINES[0],
    threshold: float | None = None,
    mm_per_pixel: float | None = None,
    labels: str | Path | None = None,
) -> pd.DataFrame:
    """Inspect photos and write what was found: pictures, tables, and a report in one file.

    `out` gets photos.csv (a row per photo), cracks.csv (a row per crack), tiles.csv (a row per tile of 256x256 pixels),
    report.html, which needs no other file, and photos/, a folder per photo with overlay.jpg and map.npy (what
    `crack_map` returns). After a kill the same call goes on; another threshold or scale reads the kept maps.

    Args:
        photos: files, and folders, whose pictures count, with those of folders in them.
        out: folder to write; it must be empty, or hold an earlier inspection.
        model: a run of notebook 08 or of `adapt`; None takes what `adaptation.best_cells` names.
        engine: one of `config.ENGINES`.
        threshold: probability from which a cell is crack-like, above 0 and below 1; None takes what `labels` speak for,
            or 0.5.
        mm_per_pixel: of all photos; lengths are told in millimetres then.
        labels: CSV file as `tile_labels` reads it, of tiles of some of the photos; they choose the threshold.

    Returns:
        A row per photo, the longest cracks first, those that could not be read last: file, problem, wide, high
        (pixels), tiles, tiles_cracked, p_crack (of its surest tile), cracks, length, area, width_most (of cracks,
        pixels or millimetres).

    Raises:
        CrackutilsError: no such photo, nothing to inspect, values out of range, an `out` that holds something else,
            labels that cannot be used.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise CrackutilsError(f"threshold={threshold} is no probability between 0 and 1.")
    if threshold is not None and labels is not None:
        raise CrackutilsError("Give a threshold or labels that choose it, not both.")
    known = None if labels is None else tile_labels(labels)
    if mm_per_pixel is not None and not 1e-6 <= mm_per_pixel <= 1e6:
        raise CrackutilsError(f"mm_per_pixel={mm_per_pixel} is no such length; give millimetres per pixel.")
    out, photos = Path(out), [Path(photo) for photo in photos]
    files = _files(photos, out)
    _claim(out, photos)
    if model is None:
        from crackutils import adaptation

        model = adaptation.best_cells()
        print(f"model: {config.shown(model)}")
    net = detector(Path(model), engine)
    found, chosen = {}, ""
    try:
        if known is not None:
            threshold, chosen = _chosen(files, out, net, known)
        bound = threshold or 0.5
        for name in config.progress(files, "inspecting", len(files), "photo"):
            found[_shown(name)] = one = _one(files[name], out / "photos" / name, net, bound, mm_per_pixel)
            one["home"] = out / "photos" / name
        table = _write(out, found, bound, mm_per_pixel, Path(model), chosen)
    except OSError as error:
        raise CrackutilsError(
            f"{out} cannot be written ({error.strerror}: {error.filename}); make room, or close what is open, and run"
            " the same command again: nothing is lost."
        ) from error
    return table


def _files(photos: list[Path], out: Path) -> dict[str, Path]:
    """Return the files to inspect by a name of their own: their path in the folder given, or in what holds all given.

    In folders, files that are no pictures by their names are passed over, and so is what begins with a dot.
    """
    files, passed, own, homes = [], 0, os.path.abspath(out), []

    def refuse(error: OSError) -> None:
        raise CrackutilsError(f"{error.filename} cannot be listed ({error.strerror}); allow it, or leave it out.")

    for path in (Path(os.path.abspath(photo)) for photo in photos):
        if not os.path.lexists(path):
            raise CrackutilsError(f"{path} does not exist; give photos, or folders of photos.")
        homes.append(path if path.is_dir() else path.parent)
        files += [] if path.is_dir() else [path]
        for place, folders, names in os.walk(path, onerror=refuse) if path.is_dir() else ():
            folders[:] = sorted(n for n in folders if not n.startswith(".") and os.path.join(place, n) != own)
            for name in sorted(n for n in names if not n.startswith(".")):
                known = Path(name).suffix.lower() in (*FORMATS, *_UNREAD)
                files, passed = files + [Path(place, name)] * known, passed + (not known)
    if not files:
        raise CrackutilsError(f"There is no picture in {', '.join(map(str, photos))}; give photos, or folders of them.")
    if passed:
        print(f"not looked at, no pictures by their names: {passed:,}")
    try:
        home = Path(os.path.commonpath(homes))
    except ValueError:  # two drives
        raise CrackutilsError("The photos lie on several drives; inspect those of each drive by themselves.") from None
    return {file.relative_to(home).as_posix(): file for file in dict.fromkeys(files)}


def _shown(name: str) -> str:
    """Return a name that any file can hold; bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _claim(out: Path, photos: list[Path]) -> None:
    """Refuse a folder that holds something else than an inspection of these photos."""
    mark, asked = out / _MARK, sorted(_shown(os.path.abspath(photo)) for photo in photos)
    try:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not mark.is_file())):
            raise CrackutilsError(f"{out} exists and is no earlier inspection; give a folder that does not exist.")
        kept = out / "tiles.csv"  # as any spreadsheet may have saved it
        if kept.is_file() and "crack" in re.findall(r"\w+", kept.read_text("utf-8", "replace").split("\n", 1)[0]):
            raise CrackutilsError(f"{kept} has labels of yours, which would be lost; move it elsewhere.")
        if mark.is_file() and (before := mark.read_text("utf-8").splitlines()) != asked:
            raise CrackutilsError(f"{out} is an inspection of {', '.join(before)}; give another folder for these.")
        out.mkdir(parents=True, exist_ok=True)
        config.write_atomically(mark, "\n".join(asked))
    except OSError as error:
        raise CrackutilsError(f"{out} cannot be written ({error.strerror}); give another folder.") from error


def _chosen(files: dict[str, Path], out: Path, net: Detector, labels: pd.DataFrame) -> tuple[float, str]:
    """Return the threshold that labelled tiles of some photos speak for, and a sentence that says how good it is."""
    wanted, parts = set(labels["photo"]), []
    some = [name for name in files if _shown(name) in wanted]
    for name in config.progress(some, "calibrating", len(some), "photo"):
        with contextlib.suppress(OSError, *_UNUSABLE):  # told when its turn comes
            same, read = _state(files[name], net), partial(_photo, files[name])
            parts.append(tiles(_seen(out / "photos" / name, same, net, read), net.share).assign(file=_shown(name)))
    found = pd.concat(parts) if parts else pd.DataFrame(columns=["file", "row", "col", "p_crack"])
    told = calibrated(found, labels)
    if passed := len(labels) - told["n"]:
        print(f"labels of no tile of these photos: {passed:,}")
    text = f"chosen on {told['n']:,} labelled tiles of {told['photos']}"
    if told["f1"] is not None:
        said = {name: "undefined" if told[name] is None else f"{told[name]:.2f}" for name in _TOLD}
        text += (
            f"; of tiles of photos that did not choose it, precision is {said['precision']} and recall {said['recall']}"
            f" (at 0.5 {said['precision_before']} and {said['recall_before']})"
        )
    print(f"threshold {told['threshold']:.3g}, {text}")
    return told["threshold"], text


def _state(file: Path, net: Detector) -> dict[str, Any]:
    """Return what a kept map depends on."""
    state = file.stat()
    same = {"model": net.key, "file": _shown(str(file)), "bytes": state.st_size, "modified": state.st_mtime_ns}
    return same | {"code": _CODE, "decoding": f"{DECODING} {PIL.__version__}"}


def _seen(home: Path, same: dict[str, Any], net: Detector, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the map of a photo, kept where nothing has changed since."""
    kept, known = home / "map.npy", home / "map.json"
    try:
        if json.loads(known.read_text("utf-8")) == same:
            return np.load(kept)
    except (OSError, ValueError, EOFError):  # none, or cut short when the power went
        pass
    image = read()
    home.mkdir(parents=True, exist_ok=True)
    known.unlink(missing_ok=True)
    seen = crack_map(image, net)
    config.save_array(kept, seen)
    config.write_atomically(known, json.dumps(same))
    return seen


def _one(file: Path, home: Path, net: Detector, threshold: float, mm: float | None) -> dict[str, Any]:
    """Return what is found in one photo, or what an earlier call found where nothing has changed since."""
    try:
        same = _state(file, net)
    except OSError as error:
        return {"problem": f"cannot be read ({error.strerror})", "cracks": [], "tiles": []}
    asked = same | {"threshold": threshold, "mm_per_pixel": mm}
    record, pictures = home / "found.json", [home / f"{name}.jpg" for name in _PICTURES]
    try:
        before = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):  # none, or cut short when the power went
        before = {}
    if before.get("asked") == asked and all(picture.is_file() for picture in pictures):
        return before
    record.unlink(missing_ok=True)  # pictures and numbers must not come from two calls
    found: dict[str, Any] = {"asked": asked, "problem": "", "cracks": [], "tiles": []}
    try:
        image = _photo(file)
        seen = _seen(home, same, net, lambda: image)
        odds = cells_of(seen)
        mask = crack_mask(image, odds, threshold)
        line = middle_lines(mask)
        lines = cracks(mask, line, odds, threshold)
        # a scale bar cannot be read on the small one
        drawn = [overlay(image, odds, line, threshold, _LARGE, mm, lines.head(_LISTED))]
        drawn.append(overlay(image, odds, line, threshold, _SMALL))
    except _UNUSABLE as error:
        found["problem"] = str(error) if isinstance(error, ImageError) else "needs more memory than there is"
        return found  # not kept: the next call tries again
    for picture, pixels in zip(pictures, drawn, strict=True):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=85)
        config.write_atomically(picture, content.getvalue())
    unit = mm or 1.0
    lines[_LENGTHS] *= unit
    lines["area"] *= unit**2
    found |= {"wide": image.shape[1], "high": image.shape[0], "cracks": lines.round(4).to_dict("records")}
    found["tiles"] = tiles(seen, net.share).to_dict("records")
    config.write_atomically(record, json.dumps(found))
    return found


def _photo(file: Path) -> np.ndarray:
    """Read a photo, or raise `ImageError` with what to do about it."""
    if file.suffix.lower() in _UNREAD:
        raise ImageError("is a raw or HEIC photo, which is not read here; save it as JPEG")
    with warnings.catch_warnings():  # of 89 megapixels and more; those of 179 and more are refused
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = read_image(file)
    if min(image.shape[:2]) < _LEAST:
        raise ImageError(f"is only {image.shape[1]} x {image.shape[0]} pixels; {_LEAST} are the least")
    return image


def _write(
    out: Path, found: dict[str, dict[str, Any]], threshold: float, mm: float | None, model: Path, chosen: str
) -> pd.DataFrame:
    """Write tables and report, and return the table of photos."""
    unit = "mm" if mm else "px"
    rows, lines, parts = [], [], []
    for name, one in found.items():
        each, cracked = one["tiles"], sum(t["p_crack"] >= threshold for t in one["tiles"])
        row = {"file": name, "problem": one["problem"], "wide": one.get("wide"), "high": one.get("high")}
        row |= {
            "tiles": len(each),
            "tiles_cracked": cracked,
            "p_crack": max((t["p_crack"] for t in each), default=None),
        }
        row |= {"cracks": len(one["cracks"])}
        row |= {f"length_{unit}": sum(c["length"] for c in one["cracks"])}
        row |= {f"area_{unit}2": sum(c["area"] for c in one["cracks"])}
        row |= {f"width_most_{unit}": max((c["width_most"] for c in one["cracks"]), default=0.0)}
        rows.append(row)
        lines += [{"file": name, "crack": k + 1} | c for k, c in enumerate(one["cracks"])]
        parts += [{"file": name} | t for t in each]
    table = pd.DataFrame(rows)
    table["broken"] = table["problem"] != ""
    table[["wide", "high"]] = table[["wide", "high"]].astype("Int64")  # whole numbers, even where some are missing
    order = ["broken", f"length_{unit}", "p_crack", "file"]
    table = table.sort_values(order, ascending=[True, False, False, True], ignore_index=True).drop(columns="broken")
    named = {name: f"{name}_{unit}" for name in _LENGTHS} | {"area": f"area_{unit}2"}
    columns = ["file", "crack", *_CRACK]
    for file, content in (
        ("photos.csv", table),
        ("cracks.csv", pd.DataFrame(lines, columns=columns).rename(columns=named)),
        ("tiles.csv", pd.DataFrame(parts, columns=["file", "row", "col", "p_crack"])),
    ):
        config.write_atomically(out / file, content.round(4).to_csv(index=False))
    config.write_atomically(out / "report.html", _report(table, found, threshold, mm, model, chosen))
    return table


def _report(
    table: pd.DataFrame, found: dict[str, dict[str, Any]], threshold: float, mm: float | None, model: Path, chosen: str
) -> str:
    from jinja2 import Environment

    unit = "mm" if mm else "px"

    left, good = _MAIL, table[table["problem"] == ""]
    small = sum((found[name]["home"] / "thumbnail.jpg").stat().st_size for name in good["file"])  # these come first

    def picture(name: str, which: str) -> str:
        """Return a JPEG as text; nothing for a large one where the report would become too large to mail."""
        nonlocal left, small
        content = (found[name]["home"] / f"{which}.jpg").read_bytes()
        if which == "thumbnail":
            small -= len(content)
            if left < len(content):
                return ""
        if which == "overlay":
            with Image.open(io.BytesIO(content)) as large:
                large.thumbnail((_MAILED, _MAILED))
                smaller = io.BytesIO()
                large.save(smaller, "JPEG", quality=70)
            content = smaller.getvalue()
            if left - small < len(content) or not found[name]["cracks"]:
                return ""
        left -= len(content)
        return base64.b64encode(content).decode()

    env = Environment(autoescape=True)  # names of files are not ours
    env.globals["picture"] = picture
    return env.from_string(_PAGE).render(
        photos=good.to_dict("records"), unusable=table[table["problem"] != ""].to_dict("records"), found=found,
        unit=unit, listed=_LISTED, threshold=f"{threshold:.3g}", chosen=chosen, mm=mm,
        model=config.shown(model),
        cracked=int((good["cracks"] > 0).sum()), length=float(good[f"length_{unit}"].sum()),
        made=time.strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Cracks in {{ photos | length }} photos</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
details { border-top: 1px solid #ccc; padding: .6rem 0 }
summary { display: grid; grid-template-columns: 15rem 1fr; gap: 1rem; cursor: pointer; align-items: center }
summary img { width: 100%; border-radius: 4px } details > img { max-width: 100% }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .15rem .8rem .15rem 0; text-align: right }
th:first-child, td:first-child { text-align: left } b { font-size: 1.05rem; overflow-wrap: anywhere }
.frame { color: #0072b2; font-weight: bold } .line { color: #b87700; font-weight: bold } .quiet { color: #555 }
@media print { details { break-inside: avoid } }
</style></head><body>
<h1>Cracks in {{ photos | length }} photos</h1>
<p>{{ cracked }} of {{ photos | length }} photos show something crack-like; all middle lines together are
{{ "{:,.0f}".format(length) }} {{ unit }} long.{% if unusable %} What could not be used ({{ unusable | length }}) is
listed
at the end.{% endif %} The photos with the longest cracks come first; click one to enlarge it.</p>
<p><span class="frame">Blue</span> frames what the network takes for a crack at the threshold {{ threshold }}
{%- if chosen %} ({{ chosen }}){% endif %};
<span class="line">orange</span> is the middle line of the dark line found there.
{% if mm %}A pixel shows {{ mm }} mm.{% else %}Lengths are in pixels: no scale was given.{% endif %}
These are candidates for a person to look at: faint cracks are missed, and joints, scratches and stains are taken for
some.</p>
<p class="quiet">Model: {{ model }}. Made {{ made }}.</p>
{% for p in photos %}<details><summary>{% set little = picture(p.file, 'thumbnail') %}
{% if little %}<img alt="" src="data:image/jpeg;base64,{{ little }}">{% else %}<span></span>{% endif %}
<span><b>{{ p.file }}</b><br>{{ p.wide | int }} x {{ p.high | int }} pixels. {% if p.cracks %}{{ p.cracks }}
crack{{ '' if p.cracks == 1 else 's' }}, together {{ '{:,.0f}'.format(p['length_' + unit]) }} {{ unit }} long, at most
{{ '{:,.1f}'.format(p['width_most_' + unit]) }} {{ unit }} wide; {{ p.tiles_cracked }} of {{ p.tiles }} tiles are
cracked.
{% else %}Nothing crack-like.{% endif %} Surest tile: p = {{ '{:.3f}'.format(p.p_crack) }}.</span></summary>
{% set large = picture(p.file, 'overlay') %}{% if large %}
<img alt="{{ p.file }} with what was found" src="data:image/jpeg;base64,{{ large }}">{% elif p.cracks %}
<p>The picture is left out, so that this report can be mailed: photos/{{ p.file }}/overlay.jpg.</p>{% endif %}
{% if p.cracks %}{% if p.cracks > listed %}<p>The {{ listed }} longest of {{ p.cracks }}:</p>{% endif %}
<table><tr><th>crack</th><th>at x, y (px)</th><th>length ({{ unit }})</th>
<th>mean width ({{ unit }})</th><th>most ({{ unit }})</th><th>surest cell</th></tr>
{% for c in found[p.file].cracks[:listed] %}<tr><td>{{ loop.index }}</td><td>{{ c.x_top }}, {{ c.y_top }}</td>
<td>{{ '{:,.0f}'.format(c.length) }}</td><td>{{ '{:,.2f}'.format(c.width_mean) }}</td>
<td>{{ '{:,.2f}'.format(c.width_most) }}</td><td>p = {{ '{:.3f}'.format(c.p_crack) }}</td></tr>
{% endfor %}</table>{% endif %}</details>
{% endfor %}{% if unusable %}<h2>Could not be used</h2><ul>
{% for p in unusable %}<li><b>{{ p.file }}</b> {{ p.problem }}</li>
{% endfor %}</ul>{% endif %}</body></html>
"""


# ---------------------------------------------------------------- against what is known


def against(shot: Photo, mask: np.ndarray, lines: pd.DataFrame) -> dict[str, Any]:
    """Return what was found in a photo made by code beside what is there.

    Args:
        shot: the photo.
        mask: as `crack_mask` returns it.
        lines: as `cracks` returns them.

    Returns:
        style; iou of found and true pixels; true_found and found_true, shares of true pixels that have a found one
        within 4 pixels, and the other way round (None where there are none); length_true and length, pixels, and
        length_error, their difference as a share of the true length.
    """
    truth, near = shot.mask > 127, np.ones((9, 9), np.uint8)
    around = [cv2.dilate(m.astype(np.uint8), near).astype(bool) for m in (mask, truth)]
    true_length, length = _length_of(shot), float(lines["length"].sum())
    share = lambda part, of: float((part & of).sum() / of.sum()) if of.any() else None  # noqa: E731
    return {
        "style": shot.facts["style"],
        "iou": float((mask & truth).sum() / max(1, (mask | truth).sum())),
        "true_found": share(around[0], truth),
        "found_true": share(around[1], mask),
        "length_true": true_length,
        "length": length,
        "length_error": (length - true_length) / true_length if true_length else None,
    }


def _length_of(shot: Photo) -> float:
    """Return the length of all cracks and branches inside a photo, pixels."""
    total, (h, w) = 0.0, shot.mask.shape
    for line in shot.lines:
        steps, middles = np.diff(line[:, :2], axis=0), (line[1:, :2] + line[:-1, :2]) / 2
        inside = ((middles >= 0) & (middles < (w, h))).all(1)
        total += float(np.hypot(*steps[inside].T).sum())
    return total


def cracked_tiles(mask: np.ndarray, least: int = 24) -> pd.DataFrame:
    """Return a row per tile as `tiles` has them: row, col, crack (1 where at least so many pixels of it are crack)."""
    rows = []
    for row in range(math.ceil(mask.shape[0] / TILE)):
        for col in range(math.ceil(mask.shape[1] / TILE)):
            part = mask[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
            rows.append({"row": row, "col": col, "crack": int((part > 127).sum() >= least)})
    return pd.DataFrame(rows)


def tile_labels(file: str | Path) -> pd.DataFrame:
    """Read labels of tiles: photo, row, col, crack. tiles.csv with a column crack added is such a file.

    Args:
        file: CSV file; photo (or file) is the name of a photo as tiles.csv has it, crack is 1, 0, or empty for tiles
            that nobody has looked at.

    Raises:
        CrackutilsError: it cannot be read, lacks a column, or holds a row that cannot be used.
    """
    try:
        labels = pd.read_csv(file, dtype={"photo": str, "file": str})
    except OSError as error:
        raise CrackutilsError(f"{file} cannot be read ({error.strerror}); give a CSV file of labels.") from error
    except ValueError as error:  # pandas' errors, and bytes that are no UTF-8
        raise CrackutilsError(f"{file} is no CSV file ({error}); save it as one, in UTF-8.") from error
    if "photo" not in labels:
        labels = labels.rename(columns={"file": "photo"})
    if missing := {"photo", "row", "col", "crack"} - set(labels.columns):
        raise CrackutilsError(f"{file} has no column {', '.join(sorted(missing))}; give photo, row, col, crack.")
    labels = labels.loc[labels["crack"].notna(), ["photo", "row", "col", "crack"]]
    numbers = labels[["row", "col", "crack"]].apply(pd.to_numeric, errors="coerce")
    if not (numbers["crack"].isin((0, 1)).all() and (numbers % 1 == 0).all(axis=None)):
        raise CrackutilsError(f"{file}: crack must be 0, 1 or empty, row and col whole numbers.")
    labels = labels.assign(**numbers.astype(int))
    if labels.duplicated(["photo", "row", "col"]).any():
        raise CrackutilsError(f"{file}: each tile must stand in it once.")
    return labels


def _labelled(found: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    both = found.merge(labels, left_on=["file", "row", "col"], right_on=["photo", "row", "col"])
    if both.empty:
        raise CrackutilsError("No label belongs to a tile of these photos; photo must be a name as tiles.csv has it.")
    return both


def calibrated(found: pd.DataFrame, labels: pd.DataFrame) -> dict[str, Any]:
    """Return the threshold with the highest F1 on labelled tiles, and what such thresholds are worth elsewhere.

    Args:
        found: file, row, col, p_crack, as tiles.csv has them.
        labels: as `tile_labels` returns them.

    Returns:
        threshold, 0.5 where such thresholds are worth no more; n tiles of so many photos; precision, recall and f1, of
        each photo at the threshold that the others choose (None where there is one photo, or the others lack a class),
        and the same with _before at 0.5.

    Raises:
        CrackutilsError: no label belongs to a tile, or all are of one class.
    """
    both = _labelled(found, labels)
    y, p, photo = (both[name].to_numpy() for name in ("crack", "p_crack", "photo"))
    if len(np.unique(y)) < 2:
        raise CrackutilsError("The labelled tiles are all of one class; label some with a crack and some without.")
    names = np.unique(photo)
    told: dict[str, Any] = {"threshold": _best_f1(y, p), "n": len(y), "photos": len(names)}
    if len(names) < 2 or any(len(np.unique(y[photo != name])) < 2 for name in names):
        return told | dict.fromkeys(_TOLD)
    bound = np.zeros(len(y))
    for name in names:
        bound[photo == name] = _best_f1(y[photo != name], p[photo != name])
    at, before = evaluation.metrics(y, (p >= bound).astype(float)), evaluation.metrics(y, p)
    told |= {name: (before if name.endswith("_before") else at)[name.removesuffix("_before")] for name in _TOLD}
    return told | ({} if told["f1"] > told["f1_before"] else {"threshold": 0.5})


_TOLD = [name + when for when in ("", "_before") for name in ("precision", "recall", "f1")]


def _best_f1(y: np.ndarray, p: np.ndarray) -> float:
    """Return the threshold of the highest F1: the middle, in log-odds, between the score that gives it and the next."""
    from sklearn.metrics import precision_recall_curve

    p = np.clip(p, 0.01, 0.99)
    precision, recall, bounds = precision_recall_curve(y, p)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    odds = np.log(bounds / (1 - bounds))
    return float(chance((odds[best] + odds[max(0, best - 1)]) / 2))


def ranked(found: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return how well tiles with a crack are told from others, in each photo and in all.

    Args:
        found: file, row, col, p_crack, as tiles.csv has them.
        labels: as `tile_labels` returns them.

    Returns:
        A row per photo, and one called "all": photo, n, cracked, auroc and average_precision (None where all tiles are
        of one class), precision and recall at the threshold 0.5.

    Raises:
        CrackutilsError: no label belongs to a tile.
    """
    both = _labelled(found, labels)
    rows = []
    for name, part in [*both.groupby("photo", sort=True), ("all", both)]:
        y, p = part["crack"].to_numpy(), part["p_crack"].to_numpy()
        decided = evaluation.metrics(y, p)
        row = {"photo": name, "n": len(y), "cracked": int(y.sum())} | evaluation.ranked(y, p)
        rows.append(row | {k: decided[k] for k in ("precision", "recall")})
    return pd.DataFrame(rows)


def at_threshold(shots: Sequence[Photo], odds: Sequence[np.ndarray], threshold: float) -> dict[str, float]:
    """Return what `against` says of photos at another threshold: medians, those of length_error without its sign."""
    rows = []
    for shot, cells in zip(shots, odds, strict=True):
        mask = crack_mask(shot.image, cells, threshold)
        rows.append(against(shot, mask, cracks(mask, middle_lines(mask), cells, threshold)))
    table = pd.DataFrame(rows).astype({"length_error": float, "found_true": float, "true_found": float})
    table["length_error"] = table["length_error"].abs()
    middle = table[["iou", "true_found", "found_true", "length_error"]].median()
    return {"threshold": threshold} | {name: float(value) for name, value in middle.items()}


def saved_as_photos(shots: Sequence[Photo], folder: Path) -> pd.DataFrame:
    """Save photos made by code as JPEG, as a camera would, and return labels of their tiles as `ranked` wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    for before in folder.glob("made-*.jpg"):  # of a call with more photos
        before.unlink()
    labels = []
    for k, shot in enumerate(shots):
        Image.fromarray(shot.image).save(folder / f"made-{k:02d}.jpg", quality=90)
        labels.append(cracked_tiles(shot.mask).assign(photo=f"made-{k:02d}.jpg"))
    return pd.concat(labels, ignore_index=True)


@dataclass(frozen=True)
class Look:
    """Where a model looks, by Grad-CAM.

    Attributes:
        p: float (n,), the probability of a crack.
        heat: float32 (n, h, w), as `models.grad_cam` returns it.
    """

    p: np.ndarray
    heat: np.ndarray


def look(folder: Path, images: Sequence[np.ndarray]) -> Look:
    """Return where the model of a run looks in images, uint8 (h, w, 3)."""
    from crackutils import models, training

    model, recipe = training.load(folder)
    x = np.stack([resize(image, recipe.size) for image in images])
    p, heat = [], []
    for begin in range(0, len(x), 16):
        some = x[begin : begin + 16].astype(np.float32)
        p.append(np.asarray(model.predict_on_batch(some))[:, -1])
        heat.append(models.grad_cam(model, some))
    return Look(np.concatenate(p), np.concatenate(heat))


def on_cracks(seen: Look, patches: Sequence[Patch]) -> dict[str, float]:
    """Return how much of what a model looks at is crack.

    Args:
        seen: of these patches, and perhaps of images after them, which do not count.
        patches: made by code.

    Returns:
        cracked, patches with a crack; found, the share of them at the threshold 0.5; mass, the mean share of a map on
        the crack's pixels, 0 where the map is 0 everywhere; chance, these pixels' share of the patch; ratio of the two;
        blank, maps that are 0 everywhere.
    """
    cracked = [k for k, patch in enumerate(patches) if patch.label]
    pixels = [patches[k].mask > 127 for k in cracked]
    mass = [evaluation.mass_on_mask(seen.heat[k], mask) for k, mask in zip(cracked, pixels, strict=True)]
    on, by_chance = float(np.mean([share or 0.0 for share in mass])), float(np.mean([mask.mean() for mask in pixels]))
    summary = {"cracked": len(cracked), "found": float((seen.p[cracked] >= 0.5).mean()), "mass": on}
    return summary | {"chance": by_chance, "ratio": on / by_chance, "blank": mass.count(None)}


# ---------------------------------------------------------------- in a notebook


def panel(photos: Sequence[str | Path], out: str | Path, model: Path) -> Any:
    """Return a widget: choose or upload a photo, move the threshold, see what is found, or the map behind it.

    Args:
        photos: files to choose from.
        out: folder for maps and for uploaded photos.
        model: as for `inspect`.
    """
    import ipywidgets as w

    out, net = Path(out), detector(model)
    out.mkdir(parents=True, exist_ok=True)
    choice = w.Dropdown(options=[(Path(p).name, str(p)) for p in photos], description="photo")
    upload = w.FileUpload(accept="image/*", description="upload")
    bound = w.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold", continuous_update=False)
    probable = w.Checkbox(False, description="probability of each cell")
    picture, told = w.Image(format="jpeg", layout={"max_width": "100%"}), w.HTML()

    def show(_: Any = None) -> None:
        if choice.value is None:
            told.value = "Upload a photo."
            return
        told.value = "looking ..."
        home = out / hashlib.sha256(choice.value.encode()).hexdigest()[:16]
        try:
            one = _one(Path(choice.value), home, net, bound.value, None)
            drawn = b"" if one["problem"] else (home / "overlay.jpg").read_bytes()
            if drawn and probable.value:
                drawn = _tinted(drawn, chance(cells_of(np.load(home / "map.npy"))), max(one["wide"], one["high"]))
        except Exception as error:  # nobody sees what a widget's callback raises
            one = {"problem": f"cannot be shown ({error})"}
        if one["problem"]:
            picture.value = b""
            told.value = f"{html.escape(Path(choice.value).name)} {html.escape(one['problem'])}."
            return
        picture.value = drawn
        length = sum(crack["length"] for crack in one["cracks"])
        told.value = f"crack-like lines: {len(one['cracks'])}, together {length:,.0f} pixels long"

    def take(change: Any) -> None:
        new = change["new"]
        for file in new.values() if isinstance(new, dict) else new:  # ipywidgets 7, as on Colab, and 8
            kept = out / "uploaded" / Path(file.get("name") or file["metadata"]["name"]).name
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(bytes(file["content"]))
            choice.options = [*(o for o in choice.options if o[1] != str(kept)), (kept.name, str(kept))]
            choice.value = str(kept)

    upload.observe(take, "value")
    for control in (choice, bound, probable):
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox([choice, upload, bound, probable]), told, picture])


def _tinted(content: bytes, p: np.ndarray, longest: int) -> bytes:
    """Return a picture, a JPEG, with the probability of each cell laid over it, from violet (0) to yellow (1).

    `longest` is the longer side of the photo, of which the picture may be a smaller one.
    """
    below = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    above = cv2.applyColorMap((255 * p).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    scale = max(below.shape) / longest
    whole = tuple(round(side * CELL * scale) for side in p.shape[::-1])  # the last cells reach beyond the photo
    above = cv2.resize(above, whole, interpolation=cv2.INTER_NEAREST)[: below.shape[0], : below.shape[1]]
    return cv2.imencode(".jpg", cv2.addWeighted(below, 0.5, above, 0.5, 0))[1].tobytes()
