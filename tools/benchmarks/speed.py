"""How much faster ours is than the recipe as it was published, on the same images in one run.

    python benchmarks/speed.py [--images 2000 8000 20000] [--parts race scoring precision series]      (make bench)

Needs the images of PROFILE=metu-half and ImageNet weights (CRACKUTILS_WEIGHTS_DIR). Index and split are made before,
and shared; the images are read once before anything is timed, so that none waits for the disk. Then every contender
runs in a process of its own: the published recipe in the way of its author (image_dataset_from_directory, prefetch,
batches of 32, augmentation in the model, five epochs), ours cold (no features and no program of the network kept) and
warm, ours with other resolutions, views and engines. Scoring is set against Keras's `predict` and against what decoding
and the network by themselves allow. Writes benchmarks/speed.json and .png; README's section on speed is made from the
former.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crackutils import config
from crackutils.files import progress, write_atomically

BEGAN = float(os.environ.get("CRACKUTILS_BENCH_BEGAN", time.time()))  # when this process was started
OUT = config.ROOT / "benchmarks" / "speed.json"
PROFILE, SPLIT, SEED = "metu-half", "copy-safe", config.DEFAULT_SEED
SCORED = 3000  # images of the measures of scoring
OURS = {  # name: size in pixels, engine, views of each training image; the first is the recipe mobilenetv2-linear
    "ours": (160, "litert", 1),
    "160 px, 2 views": (160, "litert", 2),
    "224 px": (224, "litert", 1),
    "128 px": (128, "litert", 1),
    "96 px": (96, "litert", 1),
    "160 px, tensorflow": (160, "tensorflow", 1),
    "160 px, openvino": (160, "openvino", 1),
    "160 px, openvino-bf16": (160, "openvino-bf16", 1),
    "128 px, openvino-bf16": (128, "openvino-bf16", 1),
    "128 px, openvino-bf16, 2 views": (128, "openvino-bf16", 2),
    "96 px, openvino-bf16": (96, "openvino-bf16", 1),
}
PARTS = ("race", "scoring", "precision", "series")
CNNS = ("simple-cnn", "chernxi-cnn-120", "chernxi-cnn-80", "marzed7-cnn-256")
VIEWS = (0, 6)  # as it is; mirrored and turned by half, that is top to bottom


# ---------------------------------------------------------------- in a process of its own


class Watch:
    """Seconds since the last look, by name."""

    def __init__(self, began: float = BEGAN) -> None:
        """Begin at `began`, seconds since 1970."""
        self.seconds: dict[str, float] = {}
        self._last = began

    def look(self, name: str) -> None:
        """Count the time since the last look for `name`."""
        now = time.time()
        self.seconds[name], self._last = now - self._last, now


def report(watch: Watch, **found: Any) -> None:
    """Print what was measured, as the last line, for the process that asked."""
    # getrusage would count the parent's memory too
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    print(json.dumps({"seconds": watch.seconds, "peak_gb": round(int(peak[1]) * 1024 / 1e9, 3)} | found))


def named(files: Any, chances: Any) -> dict[str, float]:
    """Return crack probabilities by file."""
    return dict(zip(files, (round(float(p), 7) for p in chances), strict=True))


def images(count: int) -> tuple[Any, Any]:
    """Return the first images of each class, `count` in all, and their split."""
    from crackutils import datasets
    from crackutils.splits.make import make_split

    ds = datasets.head(datasets.load(config.profile(PROFILE)), count // 2)
    return ds, make_split(ds, SPLIT, SEED)


def published(count: int, folder: str) -> None:
    """Train and test as the author of the published recipe did, on folders train, val and test."""
    watch = Watch()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np
    import tensorflow as tf

    watch.look("import")
    from crackutils import models

    parts = {
        name: keras.utils.image_dataset_from_directory(
            Path(folder) / name, batch_size=32, image_size=(160, 160), shuffle=name == "train", seed=SEED
        )
        for name in ("train", "val", "test")
    }
    files = [str(Path(f).relative_to(Path(folder) / "test")) for f in parts["test"].file_paths]
    parts = {name: data.prefetch(tf.data.AUTOTUNE) for name, data in parts.items()}
    base = keras.applications.MobileNetV2(
        input_shape=(160, 160, 3), include_top=False, weights=str(models.find_weights("mobilenetv2", 160) or "imagenet")
    )
    base.trainable = False
    augment = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.2)])
    inputs = keras.Input((160, 160, 3))
    x = base(keras.applications.mobilenet_v2.preprocess_input(augment(inputs)), training=False)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    watch.look("build")
    model.fit(parts["train"], validation_data=parts["val"], epochs=5, verbose=2)
    watch.look("train")
    chances = np.concatenate([model.predict_on_batch(x)[:, 1] for x, _ in parts["test"]])
    watch.look("test")
    report(watch, p_test=named(files, chances))


def ours(count: int, size: int, engine: str, views: int) -> None:
    """Fit a linear head on features, and test it."""
    watch = Watch()
    config.start(PROFILE)
    config.tensorflow()
    watch.look("import")
    import numpy as np

    from crackutils.inference.features import features_engine, frozen_features
    from crackutils.linear import fit_linear_head

    ds, manifest = images(count)
    watch.look("load index and split")
    features_engine("mobilenetv2", size, "imagenet", engine)
    watch.look("make engine")
    rows = {name: np.flatnonzero(manifest["split"] == name) for name in ("train", "val", "test")}
    y = ds.index["label"].to_numpy()
    train = [frozen_features(ds, rows["train"], "mobilenetv2", size, "imagenet", engine, v).x for v in VIEWS[:views]]
    val = frozen_features(ds, rows["val"], "mobilenetv2", size, "imagenet", engine).x
    watch.look("features")
    train = np.concatenate(train)
    head = fit_linear_head(train, np.tile(y[rows["train"]], views), val, y[rows["val"]], 1000)
    watch.look("fit")
    found = head.chances(frozen_features(ds, rows["test"], "mobilenetv2", size, "imagenet", engine).x)
    watch.look("test")
    files = ds.index["file"].to_numpy()
    report(watch, p_val=named(files[rows["val"]], head.chances(val)), p_test=named(files[rows["test"]], found))


def decode(count: int) -> None:
    """Read images in as many threads as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    from crackutils import datasets
    from crackutils.images import read_image
    from crackutils.inference.engines import cores

    files = [datasets.raw_folder("metu") / f for f in images(count)[0].index["file"]]
    watch = Watch(time.time())
    with ThreadPoolExecutor(cores()) as pool:
        assert sum(1 for _ in pool.map(lambda f: read_image(f, 160).shape, files)) == len(files)
    watch.look("decode")
    report(watch, images=len(files))


def network(count: int, engine: str) -> None:
    """Run the network on the same few images again and again, without decoding."""
    from crackutils.inference.engines import run_stream
    from crackutils.inference.features import features_engine

    ds, _ = images(count)
    kept = [ds.read(row, 160) for row in range(64)]
    running, _ = features_engine("mobilenetv2", 160, "imagenet", engine)
    list(run_stream(running, range(64), lambda i: kept[i]))
    watch = Watch(time.time())
    assert sum(1 for _ in run_stream(running, range(count), lambda i: kept[i % 64])) == count
    watch.look("network")
    report(watch, images=count)


def stream(count: int, engine: str) -> None:
    """Decode images and run the network on them, as features and scoring do."""
    from crackutils.inference.engines import run_stream
    from crackutils.inference.features import features_engine

    ds, _ = images(count)
    running, _ = features_engine("mobilenetv2", 160, "imagenet", engine)
    list(run_stream(running, range(64), lambda row: ds.read(row, 160)))
    watch = Watch(time.time())
    assert sum(1 for _ in run_stream(running, range(count), lambda row: ds.read(row, 160))) == count
    watch.look("stream")
    report(watch, images=count)


def predict(count: int, folder: str) -> None:
    """Score a folder by Keras's own `predict`, batches of 32 read from the folder with prefetch."""
    import keras
    import tensorflow as tf

    from crackutils import models

    base, _ = models.build_backbone("mobilenetv2", 160, "imagenet")
    inputs = keras.Input((160, 160, 3))
    x = base(keras.applications.mobilenet_v2.preprocess_input(inputs), training=False)
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.GlobalAveragePooling2D()(x)))
    data = keras.utils.image_dataset_from_directory(
        folder, labels=None, batch_size=32, image_size=(160, 160), shuffle=False
    ).prefetch(tf.data.AUTOTUNE)
    model.predict(data.take(2), verbose=0)
    watch = Watch(time.time())
    n = len(model.predict(data, verbose=0))
    watch.look("predict")
    report(watch, images=n)


def train_cnn(name: str, precision: str) -> None:
    """Train a CNN from scratch for twenty batches, as notebook 04 does, from pixels in memory."""
    config.tensorflow()
    import numpy as np

    from crackutils import models
    from crackutils.batches import make_batches
    from crackutils.recipes import RECIPES

    recipe = RECIPES[name]
    count = 20 * recipe.batch
    ds, _ = images(count)
    pixels, labels = ds.pixels(recipe.size), ds.index["label"].to_numpy()
    models.set_precision(precision)
    model, _ = models.build(recipe, "random", SEED)
    model.compile("adam", "binary_crossentropy" if recipe.units == 1 else "sparse_categorical_crossentropy")
    data = make_batches(pixels, labels, np.arange(count), recipe.batch)
    model.fit(data, verbose=0)
    watch = Watch(time.time())
    model.fit(data, verbose=0)
    watch.look("train_cnn")
    report(watch, images=count)


def notebooks() -> None:
    """Do what `make run-all` does, from nothing."""
    watch = Watch()
    from crackutils import datasets
    from tools.series import run

    watch.look("start")
    datasets.load(config.profile("sample"))
    watch.look("images")
    run(["all"], {})
    watch.look("notebooks")
    report(watch)


CHILDREN = {f.__name__: f for f in (published, ours, decode, network, stream, predict, train_cnn, notebooks)}


# ---------------------------------------------------------------- the benchmark


def ask(name: str, *arguments: Any, data: Path | None = None) -> dict[str, Any]:
    """Run one of `CHILDREN` in a process of its own, with a data folder of its own, and return what it reports."""
    command, began = [sys.executable, __file__, "--child", name, *map(str, arguments)], time.time()
    env = dict(os.environ) | {"CRACKUTILS_BENCH_BEGAN": str(began)}
    env |= {"CRACKUTILS_DATA_DIR": str(data), "CRACKUTILS_RESULTS_DIR": str(data / "results")} if data else {}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False, cwd=config.ROOT)
    if done.returncode:
        raise SystemExit(f"{name} {arguments} failed:\n{done.stdout[-2000:]}")
    wall = time.time() - began
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if "left_out" in found:
        if not any("openvino" in str(a) for a in arguments):  # it is an extra, all else is needed
            raise SystemExit(found["left_out"])
        print(f"{name} {' '.join(map(str, arguments))} left out: {found['left_out']}", flush=True)
        return {}
    told = ", ".join(f"{k} {v:.1f} s" for k, v in found["seconds"].items())
    print(f"{name} {' '.join(map(str, arguments))}: {wall:.1f} s ({told}), {found['peak_gb']:.2f} GB", flush=True)
    return found | {"wall": wall}


def fresh(folder: Path) -> Path:
    """Make a data folder that shares images, index and splits with the real one, and has no cache."""
    folder.mkdir()
    for name in ("raw", "index", "splits"):
        os.symlink(config.data_dir() / name, folder / name)
    return folder


def laid_out(ds: Any, manifest: Any, folder: Path) -> Path:
    """Link the images into train/, val/ and test/, a folder for each class, as the published recipe wants them."""
    for file, part in zip(manifest["file"], manifest["split"], strict=True):
        link = folder / part / file
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink((ds.folder / file).resolve(), link)
    return folder


def without_import(run: dict[str, Any]) -> float:
    """Return the seconds from the start of the process to the test metrics, the import of TensorFlow left out."""
    return sum(seconds for name, seconds in run["seconds"].items() if name != "import")


def race(counts: list[int], folder: Path) -> list[dict[str, Any]]:
    """Run the published recipe and ours on `counts` images each."""
    import numpy as np

    from crackutils.metrics import mcnemar

    rows = []
    for count in counts:
        ds, manifest = images(count)
        links = laid_out(ds, manifest, folder / f"links-{count}")
        truth = manifest.query("split == 'test'").set_index("file")["label"]
        theirs = ask("published", count, links)
        runs = {"published": theirs}
        for name in OURS if count == max(counts) else ["ours"]:
            data = fresh(folder / "-".join(map(str, (count, *OURS[name]))))
            runs[name] = ask("ours", count, *OURS[name], data=data)
            if name == "ours":
                runs["ours, again"] = ask("ours", count, *OURS[name], data=data)
            shutil.rmtree(data / "cache", ignore_errors=True)
        runs = {name: run for name, run in runs.items() if run}
        compared = validation(manifest, {name: run["p_val"] for name, run in runs.items() if name in OURS})
        for name, run in runs.items():
            p = np.array([run["p_test"][file] for file in truth.index])
            against = mcnemar(truth, np.array([theirs["p_test"][file] for file in truth.index]), p)
            rows.append(
                {
                    "run": name,
                    "images": len(manifest),
                    "seconds": {k: round(v, 2) for k, v in run["seconds"].items()},
                    "total": round(without_import(run), 2),
                    "ratio": round(without_import(theirs) / without_import(run), 2),
                    "peak_gb": run["peak_gb"],
                    "errors": int(((p >= 0.5) != truth).sum()),
                    "tested": len(truth),
                    "p_value": against["p_value"],
                    "val": compared.get(name),
                }
            )
    return rows


def validation(manifest: Any, found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the loss of each run on the validation images, and what it has above the lowest, with standard error.

    The error is that of the mean of paired differences, image by image.
    """
    import numpy as np

    from crackutils.metrics import EPS

    truth = manifest.query("split == 'val'").set_index("file")["label"]
    p = {name: np.array([chances[file] for file in truth.index]) for name, chances in found.items()}
    losses = {name: -np.log(np.maximum(EPS, np.where(truth == 1, q, 1 - q))) for name, q in p.items()}
    lowest = min(losses.values(), key=np.mean)
    return {
        name: {
            "loss": round(float(loss.mean()), 5),
            "above": round(float((loss - lowest).mean()), 5),
            "standard_error": round(float((loss - lowest).std() / len(loss) ** 0.5), 5),
        }
        for name, loss in losses.items()
    }


def cheapest(rows: list[dict[str, Any]]) -> str:
    """Return the fastest of ours on the most images whose validation loss is not told apart from the lowest.

    Told apart is what has more than two standard errors above it.
    """
    most = max(row["images"] for row in rows)
    rows = [row for row in rows if row["images"] == most and row["run"] in OURS]
    good = [row for row in rows if row["val"]["above"] <= 2 * row["val"]["standard_error"]]
    return min(good, key=lambda row: row["total"])["run"]


def scoring(folder: Path) -> dict[str, Any]:
    """Measure decoding, the network, both together and Keras's `predict`, in images per second, one after the other."""
    ds, _ = images(SCORED)
    links = folder / "scored"
    for file in ds.index["file"]:
        (links / file).parent.mkdir(parents=True, exist_ok=True)
        os.symlink((ds.folder / file).resolve(), links / file)
    found: dict[str, float] = {}
    for name, arguments in {
        "decode": (SCORED,),
        "network": (SCORED, "litert"),
        "stream": (SCORED, "litert"),
        "predict": (SCORED, links),
    }.items():
        run = ask(name, *arguments)
        found[name] = round(run["images"] / run["seconds"][name], 1)
    bound = 1 / (1 / found["decode"] + 1 / found["network"])
    ratios = {"of_bound": round(found["stream"] / bound, 3), "to_predict": round(found["stream"] / found["predict"], 3)}
    return found | {"bound": round(bound, 1)} | ratios


def precision(folder: Path) -> dict[str, dict[str, float]]:
    """Return how many images per second the CNNs train on in each precision, medians of three, and the ratio."""
    data, found = fresh(folder / "precision"), {}
    for name in CNNS:
        speeds: dict[str, list[float]] = {p: [] for p in config.PRECISIONS}
        for _ in range(3):  # in turn: the machine's speed drifts
            for p in config.PRECISIONS:
                run = ask("train_cnn", name, p, data=data)
                speeds[p].append(run["images"] / run["seconds"]["train_cnn"])
        slow, fast = (statistics.median(speeds[p]) for p in config.PRECISIONS)
        found[name] = {p: round(s, 1) for p, s in zip(config.PRECISIONS, (slow, fast), strict=True)}
        found[name]["ratio"] = round(fast / slow, 2)
    return found


def series(folder: Path) -> dict[str, Any]:
    """Run all notebooks on the sample from nothing, and say where the time went, in seconds."""
    import nbformat

    data = folder / "series"
    data.mkdir()
    run = ask("notebooks", data=data)
    spent = []
    for copy in sorted((data / "results" / "sample" / "notebooks").glob("*.ipynb")):
        nb = nbformat.read(copy, 4)
        cells = [cell for cell in nb.cells if cell.metadata.get("papermill", {}).get("duration")]
        seconds = [cell.metadata.papermill.duration for cell in cells]
        imports = sum(s for cell, s in zip(cells, seconds, strict=True) if "config.start(" in cell.source)
        total = nb.metadata.papermill.duration
        parts = {"start": total - sum(seconds), "imports": imports, "stages": sum(seconds) - imports, "total": total}
        spent.append({"notebook": copy.stem} | {name: round(s, 2) for name, s in parts.items()})
    before = {name: round(run["seconds"][name], 2) for name in ("start", "images")}
    explained = sum(before.values()) + sum(row["total"] for row in spent)
    wall = round(run["wall"], 2)
    return before | {"wall": wall, "explained": round(explained / wall, 4), "notebooks": spent}


def figure(race: list[dict[str, Any]]) -> Any:
    """Draw the seconds of the published recipe and ours over the number of images, with the errors."""
    import matplotlib.pyplot as plt

    drawing, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    names = {"published": ("as published", "o-"), "ours": ("ours, first time", "s--")}
    names |= {"ours, again": ("ours, features kept", "^:")}
    for (name, (label, style)), colour in zip(names.items(), ("#d55e00", "#0173b2", "#029e73"), strict=True):
        rows = [row for row in race if row["run"] == name]
        ax.plot([row["images"] for row in rows], [row["total"] for row in rows], style, color=colour, label=label)
        for row in rows:
            told = (
                f"{row['errors']} error{'s' * (row['errors'] != 1)}"
                if name != "ours, again"
                else f"x{row['ratio']:.0f}"
            )
            ax.annotate(
                told, (row["images"], row["total"]), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
    ticks = sorted({row["images"] for row in race})
    ax.set(
        xscale="log", yscale="log", xlabel="images: training, validation and test", ylabel="seconds to the test metrics"
    )
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.margins(0.12, 0.15)
    ax.legend()
    return drawing


def main() -> None:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 8000, 20000], metavar="N")
    parser.add_argument(
        "--parts", choices=PARTS, nargs="+", default=PARTS, help="the others stay as they were measured"
    )
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, *arguments = given.child
        try:
            CHILDREN[name](*(int(a) if a.isdigit() else a for a in arguments))
        except config.CrackutilsError as error:  # an engine that is not to be had here
            print(json.dumps({"left_out": str(error)}))
        return
    if not Path("/proc/self/status").exists():
        raise SystemExit("make bench reads memory from /proc, so it needs Linux.")
    from crackutils import provenance

    content = json.loads(OUT.read_text("utf-8")) if set(given.parts) < set(PARTS) else {}
    try:
        ds, manifest = images(max(given.images))
    except config.CrackutilsError as error:
        raise SystemExit(f"error: {error}") from None
    for file in progress(manifest["file"], "reading all images once", len(manifest), "file"):
        (ds.folder / file).read_bytes()
    with tempfile.TemporaryDirectory(prefix="crackutils-speed-") as scratch:
        if "race" in given.parts:
            content["race"] = race(sorted(given.images), Path(scratch))
            content["chosen"] = cheapest(content["race"])
        if "scoring" in given.parts:
            content["scoring"] = scoring(Path(scratch))
        if "precision" in given.parts:
            content["precision"] = precision(Path(scratch))
        if "series" in given.parts:
            content["series"] = series(Path(scratch))
    content |= {"versions": provenance.versions(), "machine": provenance.machine()}
    write_atomically(OUT, json.dumps(content, indent=1) + "\n")
    figure(content["race"]).savefig(OUT.with_suffix(".png"), dpi=100, bbox_inches="tight")
    for row in content["race"]:
        print(f"{row['run']:<32} {row['images']:>6} {row['total']:>8.1f} s  x{row['ratio']:<6} {row['errors']} errors")
    for name, row in content["precision"].items():
        print(f"{name:<24} in bfloat16 x{row['ratio']}")
    print(f"chosen on validation: {content['chosen']}; scoring: {content['scoring']}")
    for row in content["series"]["notebooks"]:
        told = ", ".join(f"{name} {row[name]:>5} s" for name in ("start", "imports", "stages"))
        print(f"{row['notebook']:<24} {told}")
    print(f"notebooks are {content['series']['explained']:.1%} of {content['series']['wall']} s")


if __name__ == "__main__":
    main()
