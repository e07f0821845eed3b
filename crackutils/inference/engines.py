"""Run a network on many images: with LiteRT by default, or with TensorFlow or OpenVINO through the same interface."""

import contextlib
import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crackutils import config
from crackutils.config import CrackutilsError, display_path, tf
from crackutils.files import write_atomically
from crackutils.images import ImageError

Item = TypeVar("Item")
Run = Callable[[np.ndarray], np.ndarray]
_BATCH = 8  # images per call by default: more are no faster and exceed the processor's caches
_PACKAGES = dict(zip(config.ENGINES, ("ai-edge-litert", "tensorflow", "openvino", "openvino"), strict=True))


@dataclass(frozen=True)
class Engine:
    """A runtime for one network.

    `worker` makes a function for one thread, float32 (batch, size, size, 3) RGB 0-255 to (batch, outputs); the first
    call reads the network.
    """

    name: str  # one of `config.ENGINES`
    version: str  # of its package
    precision: str  # of its arithmetic, "float32" or "bfloat16"
    worker: Callable[[], Run]
    batch: int = _BATCH  # images per call
    file: Path | None = None  # the converted network, where there is one

    @property
    def facts(self) -> dict[str, str]:
        """Facts that results depend on, for `metrics.json` and for keys of caches."""
        return {"engine": self.name, "version": self.version, "precision": self.precision}


def cores() -> int:
    """Return the number of cores to use: `CRACKUTILS_CORES`, or those that this process may use; 16 at most."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    mine = int(os.environ.get("CRACKUTILS_CORES", mine))  # an actor on a cluster has one
    return min(mine, 16)  # each thread holds a copy of the network and one image at full size


def program_file(name: str) -> Path:
    """Return the file of a converted network; networks that differ in architecture or weights need different names."""
    made_by = f"tensorflow-{metadata.version('tensorflow')}-keras-{metadata.version('keras')}"
    return config.data_dir() / "cache" / "engines" / f"{name}-{made_by}.tflite"


def start_engine(name: str, file: Path, build: Callable[[], Any], batch: int = _BATCH) -> Engine:
    """Return an engine, one of `config.ENGINES`, that runs the network of `build`.

    `file` is the network in LiteRT's format, which OpenVINO reads too; it is converted where it is missing. `build`
    returns the keras.Model, from float32 (n, size, size, 3) RGB 0-255 to float32 (n, outputs), and is called only where
    it is needed, so that TensorFlow need not start. `batch` images go through it per call. Raises CrackutilsError for
    an unknown name, and for an engine that is not installed; `worker` raises it for a file that cannot be read.
    """
    package = _PACKAGES[config.choose("ENGINE", name, config.ENGINES)]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError as error:
        remedy = f"Run {sys.executable} -m pip install {package}, or choose litert or tensorflow."
        raise CrackutilsError(f"ENGINE={name} needs the package {package}, which is not installed. {remedy}") from error

    def prepare() -> Callable[[], Run]:
        if name == "tensorflow":
            model = build()
            return lambda: lambda x: np.asarray(model.predict_on_batch(x))
        if not file.is_file():
            convert(build(), file, batch)
        try:
            return _litert(file, batch) if name == "litert" else _openvino(file, name == "openvino-bf16", batch)
        except (ValueError, RuntimeError) as error:
            why = f"{display_path(file)} cannot be read ({_first_line(error)})"
            raise CrackutilsError(f"{why}. Delete it, and it is made again.") from error

    lock, prepared = threading.Lock(), []

    def worker() -> Run:
        try:
            with lock:  # the first thread prepares the network while others wait
                if not prepared:
                    prepared.append(prepare())
            return prepared[0]()
        except (ImportError, MemoryError, RuntimeError) as error:
            why = f"ENGINE={name} does not start ({_first_line(error)}), usually for lack of memory"
            raise CrackutilsError(f"{why}. Close other programs, or choose another engine.") from error

    precision = "bfloat16" if name == "openvino-bf16" else "float32"
    return Engine(name, version, precision, worker, batch, None if name == "tensorflow" else file)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def convert(model: Any, file: Path, batch: int = _BATCH) -> None:
    """Write a keras.Model in LiteRT's format, float32, for batches of one size: else some layers run slowly."""
    size = model.input_shape[1]
    values = [[v.numpy() for v in kind] for kind in (model.trainable_variables, model.non_trainable_variables)]

    def call(x: Any) -> Any:
        # weights as constants: the converter takes three times as long where it has to freeze variables
        return model.stateless_call(*([tf.constant(v) for v in kind] for kind in values), x, training=False)[0]

    with config.silent_stderr(), contextlib.redirect_stdout(None):
        traced = tf.function(call, [tf.TensorSpec((batch, size, size, 3), tf.float32)]).get_concrete_function()
        content = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module()).convert()
    write_atomically(file, content)
    gc.collect()  # the converter leaves 100 MB in reference cycles


def _litert(file: Path, batch: int) -> Callable[[], Run]:
    from ai_edge_litert.interpreter import Interpreter

    content = file.read_bytes()

    def worker() -> Run:
        net = Interpreter(model_content=content, num_threads=1)
        taken, given = net.get_input_details()[0], net.get_output_details()[0]["index"]
        net.resize_tensor_input(taken["index"], (batch, *taken["shape"][1:]))
        net.allocate_tensors()

        def run(x: np.ndarray) -> np.ndarray:
            net.set_tensor(taken["index"], x)
            net.invoke()
            return net.get_tensor(given)

        return run

    with config.silent_stderr():  # the first one prints a line on XNNPACK; a damaged file fails here
        worker()
    return worker


def _openvino(file: Path, bf16: bool, batch: int) -> Callable[[], Run]:
    import openvino

    core = openvino.Core()
    net = core.read_model(file)
    net.reshape([batch, *list(net.input().partial_shape)[1:]])
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "NUM_STREAMS": cores()}
    compiled = core.compile_model(net, "CPU", settings | {"INFERENCE_NUM_THREADS": cores()})
    # without bfloat16 in the processor OpenVINO computes in float32, without a warning
    if bf16 and compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        raise CrackutilsError("ENGINE=openvino-bf16 needs a processor with bfloat16. Choose openvino or litert.")

    def worker() -> Run:
        request = compiled.create_infer_request()
        return lambda x: np.array(request.infer({0: x})[0], np.float32)

    return worker


def run_stream(
    engine: Engine, items: Iterable[Item], read: Callable[[Item], np.ndarray]
) -> Iterator[tuple[Item, np.ndarray | None, str]]:
    """Read and run images, in order, each core decoding and computing by itself.

    Some dozens of images are in memory at a time, however many there are, and a copy of the network for each core.
    `read` is called in several threads; it returns uint8 (size, size, 3), or raises `ImageError`. Yielded is each item
    with float32 (outputs,) and an empty text, or with None and why it could not be read.
    """
    mine = threading.local()

    def run(batch: list[Item]) -> list[tuple[Item, np.ndarray | None, str]]:
        if not hasattr(mine, "worker"):
            mine.worker = engine.worker()
        images, problems, outputs = [], [], iter(())
        for item in batch:
            try:
                images.append(read(item))
                problems.append("")
            except ImageError as error:
                problems.append(str(error))
        if images:
            # of one size whatever the batch: some engines' last digits depend on it
            x = np.zeros((engine.batch, *images[0].shape), np.float32)
            x[: len(images)] = images
            outputs = iter(mine.worker(x))
        return [(item, None if why else next(outputs), why) for item, why in zip(batch, problems, strict=True)]

    rest, waiting = iter(items), deque()
    pool = ThreadPoolExecutor(cores())
    try:
        while True:
            while len(waiting) < 2 * cores() and (batch := list(islice(rest, engine.batch))):
                waiting.append(pool.submit(run, batch))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
