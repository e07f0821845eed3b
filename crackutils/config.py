"""Paths, profiles, thread counts, and the one class of errors that users see.

`PROFILES` defines everything that a profile fixes: data, split, weights, threads, budgets.
The module first imports only the standard library, so that it can set thread counts before NumPy and TensorFlow start.
"""

import contextlib
import difflib
import importlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
REFERENCE = ROOT / "reference"
AUDIT = ROOT / "data" / "audit"  # verdicts on labels, see docs/audit.md
LOCK = ROOT / "requirements.lock"
CLASSES = ("Negative", "Positive")  # label 0: no crack, label 1: crack, everywhere
DEFAULT_PROFILE, DEFAULT_SEED = "sample", 1337
WEIGHTS = ("imagenet", "crackutils", "random")  # what a backbone may start from
ENGINES = ("litert", "tensorflow", "openvino", "openvino-bf16")  # what may run a frozen network; the first is usual
LABELS = ("given", "corrected")  # as published, or with the verdicts of data/audit/
PRECISIONS = ("float32", "bfloat16")  # of a CNN's arithmetic


class CrackutilsError(Exception):
    """Bad input, or something missing. The message gives cause, then remedy; notebooks show no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Budget:
    """Numbers of splits, images, draws and photos in the measurements of notebooks 07 to 09."""

    splits: int = 10  # of each method, on which 07 measures leakage
    few: int = 3000  # training images that the methods of 08 work with; the detector's last layer takes twice as many
    corrupted: int = 160  # test images that 08 corrupts
    draws: int = 50  # of the learning curve in 08
    photos: int = 16  # synthetic ones that 09 inspects


@dataclass(frozen=True)
class Profile:
    """The images of a run, its defaults, and the limits on its computing time."""

    name: str  # what the user writes after `PROFILE=`
    title: str  # one line
    source: str  # the entry of `data/sources.toml` that the images come from
    per_class: int = 0  # number of images of each class that the source must hold; 0 means whatever is there
    numbers: tuple[int, int] | None = None  # first and last file number taken of each class, None for all
    split: str = "copy-safe"  # default split method
    weights: str = "imagenet"  # default backbone weights, one of `WEIGHTS`
    epochs: int = 1  # factor on the epochs of a recipe's stages: a small set needs more of them for as many steps
    max_epochs: int = 0  # upper limit on the epochs of each training stage; 0 for none
    cells: tuple[int, int] = (1000, 5000)  # of the detector: training steps, and patches of each class with masks
    budget: Budget = Budget()
    threads: int = 2  # of TensorFlow and OpenMP; fixed, because results depend on them


_OWN = {"weights": "crackutils"}
_SAMPLE = {"max_epochs": 3, "cells": (48, 150), "budget": Budget(splits=4, few=320, corrupted=24, draws=20, photos=6)}
_SMOKE = {"max_epochs": 1, "cells": (2, 24), "budget": Budget(splits=2, few=60, corrupted=8, draws=3, photos=4)}
_MINI = {"cells": (200, 1000), "budget": Budget(splits=4, few=1000, corrupted=64, draws=20, photos=6)}
_METU = "METU, files {:05d}-{:05d} of each class"
PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile("sample", "2,000 patches of synthetic photos, no download", "sample", **_OWN, **_SAMPLE),
        Profile("smoke", "a tiny sample for tests; its numbers have no meaning", "smoke", **_OWN, **_SMOKE),
        Profile("walls", "tiles of synthetic walls with hairlines", "walls", split="photo-safe", **_OWN),
        Profile("metu-mini", _METU.format(1, 1000), "metu", 1000, (1, 1000), epochs=2, **_MINI),
        Profile("metu-tenth", _METU.format(1, 2000), "metu", 2000, (1, 2000)),
        Profile("metu-half", _METU.format(1, 10000), "metu", 10000, (1, 10000)),
        Profile("metu", "METU, all 40,000 images", "metu", 20000),
        Profile("sdnet", "SDNET2018 wall tiles; file names contain the photo", "sdnet", split="photo-safe"),
        Profile("own", "your own folder with Negative/ and Positive/", "own", epochs=2, **_MINI),
    )
}


def choose(kind: str, name: str, names: Iterable[str]) -> str:
    """Return `name` if it is one of `names`, else raise CrackutilsError with these names and the closest match."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise CrackutilsError(f"{kind}={name} is unknown{hint}. Choose one of: {', '.join(names)}.")


def profile(name: str) -> Profile:
    """Return the profile called `name`; an unknown name raises CrackutilsError with the names that exist."""
    return PROFILES[choose("PROFILE", name, PROFILES)]


def data_dir() -> Path:
    """Folder of images and caches: `CRACKUTILS_DATA_DIR`, else `data/`, or the user's cache for an installed wheel."""
    home = ROOT / "data" if NOTEBOOKS.is_dir() else importlib.import_module("platformdirs").user_cache_path(__package__)
    return Path(os.environ.get("CRACKUTILS_DATA_DIR", home)).resolve()


def results_dir() -> Path:
    """Folder of all results: `CRACKUTILS_RESULTS_DIR`, else `results/`."""
    return Path(os.environ.get("CRACKUTILS_RESULTS_DIR", ROOT / "results")).resolve()


def display_path(path: Path) -> str:
    """Return `path` relative to the project where it lies inside, so that outputs do not depend on the machine."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def start(name: str) -> Profile:
    """Begin a notebook: fix thread counts for NumPy and TensorFlow, and return the profile called `name`.

    Call it before anything imports NumPy or TensorFlow. If NumPy is loaded already, its thread pools are limited.
    """
    chosen = profile(name)
    for variable in ("OMP_NUM_THREADS", "CRACKUTILS_THREADS"):
        os.environ[variable] = str(chosen.threads)
    # BLAS uses one thread: for small matrices a second one makes it slower and changes the rounding
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits({"openmp": chosen.threads, "blas": 1})
    return chosen


_stderr = threading.RLock()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what is written to file descriptor 2: no setting of TensorFlow silences the start-up lines of its C++."""
    with _stderr:  # two threads at once could restore each other's descriptor
        sys.stderr.flush()
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)


def tensorflow() -> Any:
    """Import TensorFlow quietly, with fixed thread counts and deterministic operations, and return the module."""
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import tensorflow as tf

        threads = int(os.environ.get("CRACKUTILS_THREADS", "2"))
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.config.experimental.enable_op_determinism()
        tf.get_logger().setLevel("ERROR")  # several small models in one notebook make it warn of retracing
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)  # an open notebook must not hold the whole card
        tf.constant(0)  # starts the runtime, whose lines would otherwise appear in the first cell that computes
    return tf


SPLITS = ("copy-safe", "random", "photo-safe", "given")  # the last as the images came, in given_split.csv


class _LazyModule:
    """A module that is loaded on first use: TensorFlow takes seconds to load, and many commands do not need it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        tensorflow()
        return getattr(importlib.import_module(self._name), attribute)


keras, tf = _LazyModule("keras"), _LazyModule("tensorflow")
