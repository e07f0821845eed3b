"""Provenance of results: the code, the versions of libraries, and the machine."""

import contextlib
import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from crackutils import __version__, config
from crackutils.files import hash_sources, sha256

CPU_SWITCHES = ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS", "OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES")
CPU_SWITCHES += ("OPENCV_CPU_DISABLE",)


def code_hash() -> str:
    """Return a hash of the package's source in all its folders, of the networks in it and of the verdicts on labels."""
    labels = "".join(sha256(f) for name in ("labels", "reads") for f in sorted(config.AUDIT.glob(f"*_{name}.csv")))
    return hashlib.sha256(f"{hash_sources(config.PACKAGE)} {labels}".encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    names = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "scipy", "scikit-image", "pillow")
    names += ("matplotlib", "split-folders")
    found = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    # some engines may be missing, and Colab may have OpenCV under another package name
    optional = {"ai-edge-litert": "ai-edge-litert", "openvino": "openvino", "opencv": "opencv-python-headless"}
    for name, package in optional.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(package)
    return found | {"crackutils": __version__}


@cache
def machine() -> dict[str, Any]:
    """Return the hardware as far as results depend on it (instruction sets, GPU), the cores and the system."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")
    lines = info.read_text().splitlines() if (info := Path("/proc/cpuinfo")).exists() else []
    line = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    flags = set(line.partition(":")[2].split())
    # variables that switch some of these off in libraries
    switches = (f"{name}={os.environ[name]}" for name in CPU_SWITCHES if os.environ.get(name))
    cpu = " ".join([platform.machine(), *(f for f in wanted if f in flags), *switches])
    tf = sys.modules.get("tensorflow")  # without TensorFlow nothing has run on a GPU
    gpu = bool(tf and tf.config.list_physical_devices("GPU"))
    return {"cpu": cpu, "gpu": gpu, "cores": os.cpu_count(), "system": platform.system()}


def track(name: str, folder: Path, content: dict[str, Any], seconds: dict[str, float]) -> None:
    """Log a finished run to MLflow: settings as parameters, all other numbers as metrics, its folder as artefacts."""
    import pandas as pd  # this module is imported before NumPy may start

    numbers = pd.json_normalize({k: v for k, v in content.items() if k != "settings"} | {"seconds": seconds})
    try:
        import mlflow

        mlflow.set_experiment(f"crackutils {content['settings']['profile']}")
        with mlflow.start_run(run_name=name):
            mlflow.log_params(pd.json_normalize(content["settings"]).iloc[0].to_dict())
            mlflow.log_metrics(numbers.select_dtypes("number").iloc[0].dropna().to_dict())
            mlflow.log_artifacts(str(folder))
    except Exception as error:  # a server that does not answer must not cost the run, which is written
        print(f"note: the run was not logged to MLflow ({' '.join(str(error).split())[:300]}).")
