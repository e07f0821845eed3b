"""Outputs of a Keras network for images, and maps of cells."""

from collections.abc import Callable
from typing import Any

import numpy as np

from crackutils.config import keras
from crackutils.datasets import Dataset
from crackutils.files import progress
from crackutils.images import resize


def predict_images(net: Any, what: str, read: Callable[[int], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the outputs of a network for images that `read` gives by row, uint8 (h, w, 3) of any size."""
    outputs, size = [], net.input_shape[1]
    for begin in progress(range(0, len(rows), 32), what, unit="batch"):
        x = np.stack([resize(read(int(row)), size) for row in rows[begin : begin + 32]]).astype(np.float32)
        outputs.append(np.asarray(net.predict_on_batch(x)))
    return np.concatenate(outputs)


def cell_maps(model: Any, ds: Dataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Return the cells' logits, float32 (n, size / 16, size / 16), of some images; `size` is the model's input."""
    net = keras.Model(model.input, model.get_layer("cells").output)
    return predict_images(net, f"cells at {size} px", lambda row: ds.read(row, size), rows)[..., 0]
