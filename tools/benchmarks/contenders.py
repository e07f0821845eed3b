"""The programs that the benchmark of speed measures, each in its own process, which prints its results as JSON.

python -m tools.benchmarks.contenders NAME ARGUMENT ...
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from crackutils import config

BEGAN = float(os.environ.get("CRACKUTILS_BENCH_BEGAN", time.time()))  # when this process was started
PROFILE, SPLIT, SEED, SIZE = "metu-half", "copy-safe", config.DEFAULT_SEED, 160


class Watch:
    """A stopwatch: seconds between calls of `look`, by name."""

    def __init__(self, began: float | None = None) -> None:
        """Begin at `began`, seconds since 1970; by default now."""
        self.seconds: dict[str, float] = {}
        self._last = time.time() if began is None else began

    def look(self, name: str) -> None:
        """Count the time since the last look for `name`."""
        now = time.time()
        self.seconds[name], self._last = now - self._last, now


def report(watch: Watch, **found: Any) -> None:
    """Print the measurements as the last line, for the calling process."""
    # getrusage would count the parent's memory too
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    print(json.dumps({"seconds": watch.seconds, "peak_gb": round(int(peak[1]) * 1024 / 1e9, 3)} | found))


def probabilities(files: Any, p_crack: Any) -> dict[str, float]:
    """Return crack probabilities by file."""
    return dict(zip(files, (round(float(p), 7) for p in p_crack), strict=True))


def first_images(count: int) -> tuple[Any, Any]:
    """Return the first images of each class, `count` in all, and their split."""
    from crackutils import datasets
    from crackutils.splits.make import make_split

    ds = datasets.head(datasets.load(config.profile(PROFILE)), count // 2)
    return ds, make_split(ds, SPLIT, SEED)


def published(folder: str) -> None:
    """Train and test as the author of the published recipe did, on folders train, val and test."""
    watch = Watch(BEGAN)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np
    import tensorflow as tf

    watch.look("import")
    from crackutils import models

    parts = {
        name: keras.utils.image_dataset_from_directory(
            Path(folder) / name, batch_size=32, image_size=(SIZE, SIZE), shuffle=name == "train", seed=SEED
        )
        for name in ("train", "val", "test")
    }
    files = [str(Path(f).relative_to(Path(folder) / "test")) for f in parts["test"].file_paths]
    parts = {name: data.prefetch(tf.data.AUTOTUNE) for name, data in parts.items()}
    weights = str(models.find_weights("mobilenetv2", SIZE) or "imagenet")
    base = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights=weights)
    base.trainable = False
    augment = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.2)])
    inputs = keras.Input((SIZE, SIZE, 3))
    x = base(keras.applications.mobilenet_v2.preprocess_input(augment(inputs)), training=False)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    watch.look("build")
    model.fit(parts["train"], validation_data=parts["val"], epochs=5, verbose=2)
    watch.look("train")
    p_crack = np.concatenate([model.predict_on_batch(x)[:, 1] for x, _ in parts["test"]])
    watch.look("test")
    report(watch, p_test=probabilities(files, p_crack))


def ours(count: str, size: str, engine: str) -> None:
    """Fit a linear head to features, and test it."""
    watch = Watch(BEGAN)
    config.start(PROFILE)
    config.tensorflow()
    watch.look("import")
    from crackutils.inference.features import features_engine, frozen_features
    from crackutils.linear import fit_linear_head
    from crackutils.training import split_rows

    ds, manifest = first_images(int(count))
    watch.look("load index and split")
    features_engine("mobilenetv2", int(size), "imagenet", engine)
    watch.look("make engine")
    files, y = ds.index["file"].to_numpy(), ds.index["label"].to_numpy()
    rows = split_rows(manifest, y)

    def features(part: str) -> Any:
        return frozen_features(ds, rows[part], "mobilenetv2", int(size), "imagenet", engine).x

    train, val = features("train"), features("val")
    watch.look("features")
    head = fit_linear_head(train, y[rows["train"]], val, y[rows["val"]], 1000)
    watch.look("fit")
    p_test = head.probabilities(features("test"))
    watch.look("test")
    p_val = probabilities(files[rows["val"]], head.probabilities(val))
    report(watch, p_val=p_val, p_test=probabilities(files[rows["test"]], p_test))


def decode(count: str) -> None:
    """Read images in as many threads as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    from crackutils.images import read_image
    from crackutils.inference.engines import cores

    ds, _ = first_images(int(count))
    files = [ds.folder / file for file in ds.index["file"]]
    watch = Watch()
    with ThreadPoolExecutor(cores()) as pool:
        done = sum(1 for _ in pool.map(lambda f: read_image(f, SIZE).shape, files))
    watch.look("decode")
    report(watch, images=done)


def network(count: str, engine: str) -> None:
    """Run the network repeatedly on the same few images, without decoding."""
    ds, _ = first_images(int(count))
    few = [ds.read(row, SIZE) for row in range(64)]
    _run_network("network", int(count), engine, lambda i: few[i % 64])


def stream(count: str, engine: str) -> None:
    """Decode images and run the network on them, as features and scoring do."""
    ds, _ = first_images(int(count))
    _run_network("stream", int(count), engine, lambda row: ds.read(row, SIZE))


def _run_network(name: str, count: int, engine: str, read: Any) -> None:
    from crackutils.inference.engines import run_stream
    from crackutils.inference.features import features_engine

    net, _ = features_engine("mobilenetv2", SIZE, "imagenet", engine)
    list(run_stream(net, range(64), read))
    watch = Watch()
    done = sum(1 for _ in run_stream(net, range(count), read))
    watch.look(name)
    report(watch, images=done)


def predict(folder: str) -> None:
    """Score a folder by Keras's own `predict`, batches of 32 read from the folder with prefetch."""
    import keras
    import tensorflow as tf

    from crackutils import models

    base = models.build_backbone("mobilenetv2", SIZE, "imagenet")
    inputs = keras.Input((SIZE, SIZE, 3))
    x = base(keras.applications.mobilenet_v2.preprocess_input(inputs), training=False)
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.GlobalAveragePooling2D()(x)))
    data = keras.utils.image_dataset_from_directory(
        folder, labels=None, batch_size=32, image_size=(SIZE, SIZE), shuffle=False
    ).prefetch(tf.data.AUTOTUNE)
    model.predict(data.take(2), verbose=0)
    watch = Watch()
    done = len(model.predict(data, verbose=0))
    watch.look("predict")
    report(watch, images=done)


def train_cnn(name: str, precision: str) -> None:
    """Train a CNN from scratch for twenty batches, as notebook 04 does, from pixels in memory."""
    config.tensorflow()
    import numpy as np

    from crackutils import models
    from crackutils.batches import make_batches
    from crackutils.recipes import RECIPES

    recipe = RECIPES[name]
    count = 20 * recipe.batch
    ds, _ = first_images(count)
    models.set_precision(precision)
    model = recipe.build(SEED)
    model.compile("adam", "binary_crossentropy" if recipe.units == 1 else "sparse_categorical_crossentropy")
    data = make_batches(ds.pixels(recipe.size), ds.index["label"].to_numpy(), np.arange(count), recipe.batch)
    model.fit(data, verbose=0)
    watch = Watch()
    model.fit(data, verbose=0)
    watch.look("train_cnn")
    report(watch, images=count)


CONTENDERS = {f.__name__: f for f in (published, ours, decode, network, stream, predict, train_cnn)}

if __name__ == "__main__":
    try:
        CONTENDERS[sys.argv[1]](*sys.argv[2:])
    except config.CrackutilsError as error:  # an engine that is not available
        print(json.dumps({"left_out": str(error)}))
