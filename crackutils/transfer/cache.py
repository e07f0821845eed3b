"""Outputs of networks for many images, computed once and found again after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import provenance
from crackutils.config import CrackutilsError
from crackutils.files import progress, save_array
from crackutils.inference.engines import Engine, run_stream


def cached_outputs(
    folder: Path, name: str, key: Any, engine: Engine, items: list[Any], read: Callable[[Any], np.ndarray]
) -> np.ndarray:
    """Return what an engine gives for images, float32 (n, outputs), from a file in `folder` where there is one.

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
