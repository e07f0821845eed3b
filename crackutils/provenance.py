"""Run folders, what is written into them, and how they are compared, kept as reference and shown in the README."""

from __future__ import annotations

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


def code_hash() -> str:
    """Return a hash of the package's source in all its folders, of the backbone in it and of the corrected labels."""
    labels = "".join(sha256(f) for f in sorted(config.AUDIT.glob("*_labels.csv")))
    return hashlib.sha256(f"{hash_sources(config.PACKAGE)} {labels}".encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    names = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "scipy", "scikit-image", "pillow")
    names += ("matplotlib", "split-folders")
    found = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    for name in ("ai-edge-litert", "openvino"):  # engines, of which not all need be there
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    with contextlib.suppress(metadata.PackageNotFoundError):  # Colab may have OpenCV under another of its names
        found["opencv"] = metadata.version("opencv-python-headless")  # the sample's photos depend on it
    return found | {"crackutils": __version__}


@cache
def machine() -> dict[str, Any]:
    """Return the hardware as far as results depend on it (instruction sets, GPU), the cores and the system."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")
    info = Path("/proc/cpuinfo")
    flags = set()
    if info.exists():
        line = next((x for x in info.read_text().splitlines() if x.startswith(("flags", "Features"))), "")
        flags = set(line.partition(":")[2].split())
    cpu = " ".join([platform.machine(), *(f for f in wanted if f in flags)])
    tf = sys.modules.get("tensorflow")  # without TensorFlow nothing has run on a GPU
    gpu = bool(tf and tf.config.list_physical_devices("GPU"))
    return {"cpu": cpu, "gpu": gpu, "cores": os.cpu_count(), "system": platform.system()}
