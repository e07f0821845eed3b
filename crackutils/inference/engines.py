"""Run a network over many images at once: LiteRT by default, TensorFlow and OpenVINO behind the same interface."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crackutils import config
from crackutils.images import ImageError

Item = TypeVar("Item")
Run = Callable[[np.ndarray], np.ndarray]
_BATCH = 8  # images per call: larger ones gain nothing and leave the processor's caches
_MOST = 16  # threads; each holds a copy of the network and one image at full size
_PACKAGES = {
    "litert": "ai-edge-litert",
    "tensorflow": "tensorflow",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
}


@dataclass(frozen=True)
class Engine:
    """Something that runs one network.

    Attributes:
        name: one of `config.ENGINES`.
        version: of its package.
        precision: of its arithmetic, "float32" or "bfloat16".
        worker: makes a function for one thread, from float32 (8, size, size, 3) RGB 0-255 to float32 (8, outputs).
            Where the network has first to be converted, or read, the first call does it.
    """

    name: str
    version: str
    precision: str
    worker: Callable[[], Run]

    @property
    def facts(self) -> dict[str, str]:
        """What results depend on, for `metrics.json` and for keys of caches."""
        return {"engine": self.name, "version": self.version, "precision": self.precision}


def cores() -> int:
    """Return the number of processor cores to use: those that this process may use, 16 at most."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(mine, _MOST)


def program_file(name: str) -> Path:
    """Return where the program of a network lies; its name must tell the network's architecture and weights apart."""
    made_by = f"tensorflow-{metadata.version('tensorflow')}-keras-{metadata.version('keras')}"
    return config.data_dir() / "cache" / "engines" / f"{name}-{made_by}.tflite"


def start_engine(name: str, file: Path, build: Callable[[], Any]) -> Engine:
    """Return an engine that runs the network of `build`.

    Args:
        name: one of `config.ENGINES`.
        file: where the network lies in LiteRT's format, which OpenVINO reads too; made where it is missing.
        build: returns the keras.Model, from float32 (n, size, size, 3) RGB 0-255 to float32 (n, outputs). It is called
            only where it is needed, so that TensorFlow need not start.

    Raises:
        CrackutilsError: unknown name, or an engine that is not installed; by `worker`, a program that cannot be read.
    """
    package = _PACKAGES[config.choose("ENGINE", name, config.ENGINES)]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise config.CrackutilsError(
            f"ENGINE={name} needs the package {package}, which is not installed; run {sys.executable} -m pip install"
            f" {package}, or choose litert or tensorflow."
        ) from error

    def made() -> Callable[[], Run]:
        if name == "tensorflow":
            return _tensorflow(build())
        if not file.is_file():
            convert(build(), file)
        return _litert(file) if name == "litert" else _openvino(file, bf16=name == "openvino-bf16")

    precision = "bfloat16" if name == "openvino-bf16" else "float32"
    return Engine(name, version, precision, _once(made))


def _once(make: Callable[[], Callable[[], Run]]) -> Callable[[], Run]:
    """Put off what `make` does until the first thread needs it, and let the others wait for that."""
    lock, made = threading.Lock(), []

    def worker() -> Run:
        with lock:
            if not made:
                made.append(make())
        return made[0]()

    return worker


def flipped(engine: Engine) -> Engine:
    """Return an engine whose outputs are means over each image and its mirror images, as `pipelines.predict` does."""

    def worker() -> Run:
        one = engine.worker()

        def run(x: np.ndarray) -> np.ndarray:
            views = (x, x[:, :, ::-1], x[:, ::-1], x[:, ::-1, ::-1])
            return np.mean([one(np.ascontiguousarray(view)) for view in views], axis=0, dtype=np.float32)

        return run

    return replace(engine, worker=worker)


def convert(model: Any, file: Path) -> None:
    """Write a keras.Model in LiteRT's format, float32, atomically."""
    tf = config.tensorflow()
    size = model.input_shape[1]
    kinds = (model.trainable_variables, model.non_trainable_variables)
    values = [[variable.numpy() for variable in kind] for kind in kinds]

    def call(x: Any) -> Any:
        # the weights as constants: to find and freeze the variables takes the converter twice as long as all else
        return model.stateless_call(*([tf.constant(v) for v in kind] for kind in values), x, training=False)[0]

    with config.silent_stderr(), contextlib.redirect_stdout(None):
        traced = tf.function(call, [tf.TensorSpec((None, size, size, 3), tf.float32)]).get_concrete_function()
        content = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module()).convert()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{uuid.uuid4().hex}.part")
    part.write_bytes(content)
    os.replace(part, file)
    gc.collect()  # what the converter leaves are cycles, 100 MB of them


def _tensorflow(model: Any) -> Callable[[], Run]:
    return lambda: lambda x: np.asarray(model.predict_on_batch(x))


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        why = str(error).strip().split("\n")[0][:200]
        raise config.CrackutilsError(
            f"{config.display_path(file)} cannot be read ({why}); remove it, and it is made again."
        ) from error


def _litert(file: Path) -> Callable[[], Run]:
    from ai_edge_litert.interpreter import Interpreter

    content = file.read_bytes()

    def worker() -> Run:
        net = Interpreter(model_content=content, num_threads=1)
        inside, outside = net.get_input_details()[0]["index"], net.get_output_details()[0]["index"]
        shape = net.get_input_details()[0]["shape"]
        net.resize_tensor_input(inside, (_BATCH, *shape[1:]))
        net.allocate_tensors()

        def run(x: np.ndarray) -> np.ndarray:
            net.set_tensor(inside, x)
            net.invoke()
            return net.get_tensor(outside)

        return run

    with _reading(file), config.silent_stderr():  # the first one announces XNNPACK
        worker()
    return worker


def _openvino(file: Path, bf16: bool) -> Callable[[], Run]:
    import openvino

    core = openvino.Core()
    with _reading(file):
        net = core.read_model(file)
    net.reshape([_BATCH, *list(net.input().partial_shape)[1:]])
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "NUM_STREAMS": cores()}
    compiled = core.compile_model(net, "CPU", settings | {"INFERENCE_NUM_THREADS": cores()})
    # where the processor has no bfloat16 OpenVINO computes in float32 and says nothing
    if bf16 and compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        raise config.CrackutilsError("ENGINE=openvino-bf16 needs a processor with bfloat16; choose openvino or litert.")

    def worker() -> Run:
        request = compiled.create_infer_request()
        return lambda x: np.array(request.infer({0: x})[0], np.float32)

    return worker


def run_stream(
    engine: Engine, items: Iterable[Item], read: Callable[[Item], np.ndarray]
) -> Iterator[tuple[Item, np.ndarray | None, str]]:
    """Read and run images, in order, each core decoding and computing by itself.

    Some dozens of images are in memory at a time, however many there are, and a copy of the network for each core.

    Args:
        engine: what runs them.
        items: whatever `read` understands, for example paths.
        read: returns uint8 (size, size, 3), or raises `ImageError`. It is called in several threads.

    Yields:
        Each item with float32 (outputs,) and an empty text, or with None and why it could not be read.
    """
    mine = threading.local()

    def run(batch: list[Item]) -> list[tuple[Item, np.ndarray | None, str]]:
        if not hasattr(mine, "worker"):
            mine.worker = engine.worker()
        images, problems = [], {}
        for i, item in enumerate(batch):
            try:
                images.append(read(item))
            except ImageError as error:
                problems[i] = str(error)
        if not images:
            return [(item, None, problems[i]) for i, item in enumerate(batch)]
        # of one size whatever the batch: some engines' last digits depend on it
        x = np.zeros((_BATCH, *images[0].shape), np.float32)
        x[: len(images)] = images
        found = iter(mine.worker(x))
        return [(item, None, problems[i]) if i in problems else (item, next(found), "") for i, item in enumerate(batch)]

    rest, waiting = iter(items), deque()
    pool = ThreadPoolExecutor(cores())
    try:
        while True:
            while len(waiting) < 2 * cores() and (batch := list(islice(rest, _BATCH))):
                waiting.append(pool.submit(run, batch))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
