"""Features of a frozen backbone, computed once per image and kept, and the linear head that is fitted to them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL

from crackutils import config, datasets, models
from crackutils.files import progress, save_array, write_atomically
from crackutils.images import DECODING, ImageError, read_image
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine
from crackutils.models import tf

VIEWS = 8  # the quarter turns of an image, and of its mirror image
_SHARD = 1024  # images per file: a kill loses at most what these took


@dataclass(frozen=True)
class Features:
    """Features of some images.

    Attributes:
        x: float32 (n, dimensions), a row per image.
        seconds: float64 (n,), wall time that each took when it was computed; 0 for an exact copy of one before it.
        facts: what they were computed with.
    """

    x: np.ndarray
    seconds: np.ndarray
    facts: dict[str, Any]

    @property
    def rate(self) -> float:
        """Images per second when they were computed, decoding included."""
        return float(1 / self.seconds[self.seconds > 0].mean())


def frozen_features(
    ds: datasets.Dataset,
    rows: np.ndarray,
    backbone: str,
    size: int,
    weights: str,
    engine: str = "litert",
    view: int = 0,
) -> Features:
    """Return the features of some images: what the backbone's last map holds, averaged over its area.

    They are kept in `data/cache/features`, a folder for each set of circumstances and a row for each content of a file,
    so that changed or further images cost only themselves. Files appear there by atomic renaming: a kill loses
    little, and two processes do each other no harm.

    Args:
        ds: the images.
        rows: which, in the order wanted; at least one.
        backbone: a key of `models.BACKBONES`.
        size: side of the input, pixels.
        weights: "imagenet" or "crackutils".
        engine: one of `config.ENGINES`.
        view: 0 for the image as it is, 1-3 for its quarter turns, 4-7 for its mirror image and that one's.

    Raises:
        CrackutilsError: weights or an engine that are not to be had; an image that has changed since it was indexed.
    """

    if view not in range(VIEWS):
        raise config.CrackutilsError(f"view={view} must be 0 to {VIEWS - 1}.")
    running, made_with = features_engine(backbone, size, weights, engine)
    facts = running.facts | {"backbone": backbone, "weights": made_with["sha256"], "size": size, "view": view}
    return cached_features(ds, rows, running, f"{backbone}-{size}-{engine}", made_with, facts, view)


def cached_features(
    ds: datasets.Dataset,
    rows: np.ndarray,
    running: Engine,
    name: str,
    made_with: dict[str, Any],
    facts: dict[str, Any],
    view: int = 0,
) -> Features:
    made_with = made_with | facts | {"decoding": f"{DECODING}, pillow {PIL.__version__}"}
    text = json.dumps(made_with, indent=1, sort_keys=True) + "\n"
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = config.data_dir() / "cache" / "features" / f"{name}-{key}"
    if not (folder / "made_with.json").is_file():
        write_atomically(folder / "made_with.json", text)
    rows = np.asarray(rows)
    contents = ds.index["sha256"].to_numpy("S64")[rows]
    while True:
        kept = _kept(folder)
        missing = np.flatnonzero(~np.isin(contents, kept[0]))
        if not len(missing):
            return Features(*_gather(*kept, contents), facts)
        _, first = np.unique(contents[missing], return_index=True)  # an exact copy costs nothing
        _compute(ds, rows[missing[np.sort(first)]], folder, running, facts["size"], view)


def turned(image: np.ndarray, view: int) -> np.ndarray:
    """Return a (size, size, 3) image as `of` sees it in one of the `VIEWS`; no pixel is interpolated."""
    return np.rot90(image[:, ::-1] if view >= 4 else image, view % 4)


def _compute(ds: datasets.Dataset, rows: np.ndarray, folder: Path, running: Engine, size: int, view: int) -> None:
    contents = ds.index["sha256"].to_numpy("S64")

    def read(row: int) -> np.ndarray:
        file = ds.folder / ds.index["file"].iloc[row]
        data = file.read_bytes() if file.is_file() else b""
        # features are found by the content of the index: these must be its own
        if hashlib.sha256(data).hexdigest().encode() != contents[row]:
            raise ImageError("is not the file that was indexed; load the images again")
        return turned(read_image(data, size), view)

    running.worker()  # where the network has to be converted first, images are not to pay for it
    x, began = [], time.perf_counter()
    with contextlib.closing(run_stream(running, rows.tolist(), read)) as found:
        for done, (row, one, problem) in enumerate(progress(found, f"features at {size} px", len(rows)), 1):
            if one is None:
                raise config.CrackutilsError(
                    f"{config.display_path(ds.folder / ds.index['file'].iloc[row])} {problem}."
                )
            x.append(one)
            if len(x) == _SHARD or done == len(rows):
                spent = time.perf_counter() - began
                _write(folder, contents[rows[done - len(x) : done]], np.stack(x), spent / len(x))
                x, began = [], time.perf_counter()


def _write(folder: Path, contents: np.ndarray, x: np.ndarray, seconds: float) -> None:
    keys = np.zeros(len(x), [("content", "S64"), ("seconds", "<f8")])
    keys["content"], keys["seconds"] = contents, seconds
    name = uuid.uuid4().hex
    # the keys last: a reader looks for them only, and then finds the features there
    for kind, array in (("x", x), ("keys", keys)):
        save_array(folder / f"{name}.{kind}.npy", array)


def _kept(folder: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return contents and seconds of all images kept, file after file, and the memory-mapped features of each file."""
    keys, maps = [np.zeros(0, [("content", "S64"), ("seconds", "<f8")])], []
    for file in sorted(folder.glob("*.keys.npy")):
        other = file.with_name(file.name.replace(".keys.", ".x."))
        try:
            key, x = np.load(file), np.load(other, mmap_mode="r")
            if len(key) != len(x):
                raise ValueError
        except (OSError, ValueError, EOFError):  # after a power cut: to be computed again
            for damaged in (file, other):
                damaged.unlink(missing_ok=True)
            continue
        keys.append(key)
        maps.append(x)
    joined = np.concatenate(keys)
    return joined["content"], joined["seconds"], maps


def _gather(
    kept: np.ndarray, seconds: np.ndarray, maps: list[np.ndarray], contents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(kept, kind="stable")
    at = order[np.searchsorted(kept, contents, sorter=order)]
    x, begin = np.empty((len(contents), maps[0].shape[1]), np.float32), 0
    for part in maps:
        here = np.flatnonzero((begin <= at) & (at < begin + len(part)))
        x[here] = part[at[here] - begin]
        begin += len(part)
    _, first = np.unique(contents, return_index=True)
    spent = np.zeros(len(contents))
    spent[first] = seconds[at[first]]
    return x, spent


def features_engine(name: str, size: int, weights: str, engine: str) -> tuple[Engine, dict[str, Any]]:
    """Return an engine from RGB 0-255 to the average of a backbone's last map, and what its network was made from.

    Where the network was converted before, no Keras model is built.

    Args:
        name: a key of `BACKBONES`.
        size: side of the input, pixels.
        weights: "imagenet" or "crackutils", as in `build_backbone`.
        engine: one of `config.ENGINES`.

    Raises:
        CrackutilsError: weights or an engine that are not to be had.
    """
    config.choose("WEIGHTS", weights, ("imagenet", "crackutils"))
    file = (
        models.OWN.file
        if weights == "crackutils"
        else models.find_weights(name, size) or models.keras_cache_file(name, size)
    )
    if file is None:
        models.build_backbone(name, size, weights)  # downloads it
        file = models.keras_cache_file(name, size)
    if file is None:
        raise config.CrackutilsError(
            f"The weights of {name} are not where Keras keeps them; set CRACKUTILS_WEIGHTS_DIR."
        )
    made_from = models.weights_facts(weights, file) | {
        "scaling": models.BACKBONES[name].rescaling,
        "keras": keras.__version__,
    }
    made_from |= {"arguments": models.OWN.arguments if weights == "crackutils" else models.BACKBONES[name].arguments}
    made_from |= {"tensorflow": tf.__version__, "gpu": bool(tf.config.list_physical_devices("GPU"))}

    def build() -> Any:
        with models.in_float32():
            base, _ = models.build_backbone(name, size, weights)
            inputs = keras.Input((size, size, 3), name="rgb_0_255")
            x = base(models.rescale_input(name, inputs))
            return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return start_engine(engine, program_file(f"{name}-{size}-{key}"), build), made_from
