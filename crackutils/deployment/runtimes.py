"""Run an exported model by the runtime of its format, as a program without this package would."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crackutils.config import CrackutilsError, choose, silent_stderr

FORMATS = {"litert": ".tflite", "litert-int8": ".tflite", "onnx": ".onnx", "openvino": ".xml", "saved_model": ""}
NEEDED = {"onnx": ("onnx", "tf2onnx", "onnxruntime"), "openvino": ("openvino",)}  # packages of the extra `export`
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def check_format(name: str, out: Path) -> None:
    """Raise CrackutilsError for an unknown format, one whose packages are missing, and another ending of the file."""
    ending = FORMATS[choose("format", name, FORMATS)]
    if missing := [package for package in NEEDED.get(name, ()) if importlib.util.find_spec(package) is None]:
        remedy = f"Run {sys.executable} -m pip install {' '.join(missing)}, or choose litert."
        raise CrackutilsError(f"The format {name} needs {' and '.join(missing)}, not installed here. {remedy}")
    if out.suffix != ending and (ending or out.suffix in FORMATS.values()):
        wanted = f"a file that ends with {ending}" if ending else "a folder"
        raise CrackutilsError(f"{out} is no name for the format {name}. Give the name of {wanted}.")


def open_exported(file: Path, name: str, threads: int) -> Run:
    """Return a function from uint8 (n, size, size, 3) RGB to float32 outputs, (n, ...), by their names.

    `name` is one of `FORMATS`; `threads` compute, but TensorFlow decides for itself.
    """
    if name.startswith("litert"):
        return _open_litert(file, threads)
    if name == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names, taken = [output.name for output in session.get_outputs()], session.get_inputs()[0].name
        return lambda x: dict(zip(names, session.run(names, {taken: x}), strict=True))
    if name == "openvino":
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        net = openvino.Core().compile_model(file, "CPU", settings)
        return lambda x: {key.any_name: np.array(value) for key, value in net(x).items()}
    from crackutils.config import tf

    serve = tf.saved_model.load(str(file)).signatures["serving_default"]
    (taken,) = serve.structured_input_signature[1]
    return lambda x: {key: value.numpy() for key, value in serve(**{taken: tf.constant(x)}).items()}


def _open_litert(file: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    with silent_stderr():  # the first call announces XNNPACK
        serve = Interpreter(str(file), num_threads=threads).get_signature_runner()
        ((taken, detail),) = serve.get_input_details().items()
        serve(**{taken: np.zeros(detail["shape"], np.uint8)})

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        found = [{key: value.copy() for key, value in serve(**{taken: one[None]}).items()} for one in x]
        return {key: np.concatenate([one[key] for one in found]) for key in found[0]}

    return run
