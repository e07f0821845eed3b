"""Cached outputs of frozen networks: features by the content of each file, other outputs by call."""

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from crackutils import config, models, provenance
from crackutils.config import CrackutilsError, display_path, keras, tf
from crackutils.datasets import Dataset
from crackutils.files import progress, save_array, write_atomically
from crackutils.images import DECODING, ImageError, read_image
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine

SHARD = 1024  # images per file of the cache; a kill loses at most these


@dataclass(frozen=True)
class Features:
    """Features of some images."""

    x: np.ndarray  # float32 (n, dimensions), a row per image
    seconds: np.ndarray  # float64 (n,), wall time of the computation; 0 for copies of earlier images
    facts: dict[str, Any]  # engine, versions and weights

    @property
    def rate(self) -> float:
        """Images per second when they were computed, decoding included."""
        return float(1 / self.seconds[self.seconds > 0].mean())


def features_engine(name: str, size: int, weights: str, engine: str) -> tuple[Engine, dict[str, Any]]:
    """Return an engine from RGB 0-255 to the average of a backbone's last map, and what its network was made from.

    `name` is a key of `models.BACKBONES`, `size` the side of the input in pixels, `weights` "imagenet" or "crackutils".
    Raises CrackutilsError for weights or an engine that are not available.
    """
    config.choose("WEIGHTS", weights, ("imagenet", "crackutils"))
    if models.weights_file(name, size, weights) is None:
        models.build_backbone(name, size, weights)  # downloads it
    made_from = models.weights_facts(name, size, weights)
    if not made_from["file"]:
        raise CrackutilsError(f"The weights of {name} are not where Keras keeps them. Set CRACKUTILS_WEIGHTS_DIR.")
    arguments = models.OWN_ARGUMENTS if weights == "crackutils" else models.BACKBONES[name].arguments
    made_from |= {"scaling": models.BACKBONES[name].rescaling, "arguments": arguments, "keras": keras.__version__}
    made_from |= {"tensorflow": tf.__version__, "gpu": bool(tf.config.list_physical_devices("GPU"))}

    def build() -> Any:
        with models.in_float32():
            base = models.build_backbone(name, size, weights)
            inputs = keras.Input((size, size, 3), name="rgb_0_255")
            x = base(models.rescale_input(name, inputs))
            return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return start_engine(engine, program_file(f"{name}-{size}-{key}"), build), made_from


def frozen_features(
    ds: Dataset, rows: np.ndarray, backbone: str, size: int, weights: str, engine: str = config.ENGINES[0]
) -> Features:
    """Return the features of some images, at least one, in the order of `rows`; cached.

    They are a backbone's last map, averaged over its area. `backbone`, `size` and `weights` are those of
    `features_engine`. Raises CrackutilsError as it does, and for an image that has changed since it was indexed.
    """
    net, made_from = features_engine(backbone, size, weights, engine)
    facts = net.facts | {"backbone": backbone, "weights": made_from["sha256"], "size": size}
    return cached_features(ds, rows, net, f"{backbone}-{size}-{engine}", facts, made_from)


def cached_features(
    ds: Dataset, rows: np.ndarray, net: Engine, name: str, facts: dict[str, Any], made_from: dict[str, Any]
) -> Features:
    """Return the outputs of a network for some images, at least one, in the order of `rows`.

    Rows are cached by content, in a folder for each network: only new and changed images are computed. Files are
    written atomically, so a kill loses little and several processes can run. joblib would cache only whole calls.
    The folder's name begins with `name`; "size" in `facts` is the side of the input in pixels; `made_from` is all else
    that the features depend on. Raises CrackutilsError for an image that has changed since it was indexed.
    """
    made_from = made_from | facts | {"decoding": f"{DECODING}, pillow {PIL.__version__}"}
    text = json.dumps(made_from, indent=1, sort_keys=True) + "\n"
    folder = config.data_dir() / "cache" / "features" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (folder / "made_from.json").is_file():
        write_atomically(folder / "made_from.json", text)
    rows = np.asarray(rows)
    contents = ds.index["sha256"].to_numpy("S64")[rows]
    while True:
        shards = _read_shards(folder)
        cached = np.concatenate([np.empty(0, "S64"), *(shard["content"] for shard in shards)])
        missing = np.flatnonzero(~np.isin(contents, cached))
        if not len(missing):
            return Features(*_gather(shards, cached, contents), facts)
        _, first = np.unique(contents[missing], return_index=True)  # exact copies are computed once
        _compute(ds, rows[missing[np.sort(first)]], net, facts["size"], folder)


def _compute(ds: Dataset, rows: np.ndarray, net: Engine, size: int, folder: Path) -> None:
    """Write the features of images of different contents, `SHARD` rows to a file."""
    contents, files = ds.index["sha256"].to_numpy("S64"), [ds.folder / file for file in ds.index["file"]]

    def read(row: int) -> np.ndarray:
        data = files[row].read_bytes() if files[row].is_file() else b""
        if hashlib.sha256(data).hexdigest().encode() != contents[row]:  # features are found by the index's hash
            raise ImageError("has changed since it was indexed; load the images again")
        return read_image(data, size)

    net.worker()  # so that conversion does not count as time of the images
    x, began = [], time.perf_counter()
    with contextlib.closing(run_stream(net, rows.tolist(), read)) as outputs:
        for done, (row, output, problem) in enumerate(progress(outputs, f"features at {size} px", len(rows)), 1):
            if output is None:
                raise CrackutilsError(f"{display_path(files[row])} {problem}.")
            x.append(output)
            if len(x) == SHARD or done == len(rows):
                shard = np.empty(len(x), [("content", "S64"), ("seconds", "<f8"), ("x", "<f4", output.shape)])
                shard["content"], shard["x"] = contents[rows[done - len(x) : done]], x
                shard["seconds"] = (time.perf_counter() - began) / len(x)
                save_array(folder / f"{uuid.uuid4().hex}.npy", shard)
                x, began = [], time.perf_counter()


def _read_shards(folder: Path) -> list[np.ndarray]:
    """Return the files of a cache, memory-mapped: content, seconds and x of each image."""
    shards = []
    for file in sorted(folder.glob("*.npy")):
        try:
            shards.append(np.load(file, mmap_mode="r"))
        except (OSError, ValueError, EOFError):  # damaged, as after a power cut: computed again
            file.unlink(missing_ok=True)
    return shards


def _gather(shards: list[np.ndarray], cached: np.ndarray, contents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features and seconds of some contents; `cached` are the contents of the shards' rows."""
    order = np.argsort(cached, kind="stable")
    at = order[np.searchsorted(cached, contents, sorter=order)]
    x, seconds, begin = np.empty((len(at), *shards[0]["x"].shape[1:]), np.float32), np.zeros(len(at)), 0
    first = np.isin(np.arange(len(at)), np.unique(contents, return_index=True)[1])
    for shard in shards:
        here = np.flatnonzero((begin <= at) & (at < begin + len(shard)))
        x[here], seconds[here] = shard["x"][at[here] - begin], shard["seconds"][at[here] - begin] * first[here]
        begin += len(shard)
    return x, seconds


def cached_outputs(
    folder: Path, name: str, key: Any, engine: Engine, items: list[Any], read: Callable[[Any], np.ndarray]
) -> np.ndarray:
    """Return the outputs of an engine for images, float32 (n, outputs), cached in a file in `folder`.

    The file is found by name, items, versions, the package's code and the `repr` of `key`. `read` returns the image of
    an item, uint8 (size, size, 3). Raises CrackutilsError for an image that cannot be read.
    """
    text = repr((key, items, provenance.code_hash(), provenance.versions()))
    file = folder / f"{name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npy"
    if not file.is_file():
        rows = []
        for item, outputs, problem in progress(run_stream(engine, items, read), name, len(items)):
            if outputs is None:
                raise CrackutilsError(f"Image {item} {problem}.")
            rows.append(outputs)
        save_array(file, np.stack(rows))
    return np.load(file)
