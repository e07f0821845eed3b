"""Train a network that tells where the crack is, on images of which only the label is known and on exact masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from crackutils import datasets
from crackutils.files import progress
from crackutils.images import resize
from crackutils.models import keras


def predict_images(net: Any, what: str, size: int, source: Any) -> np.ndarray:
    """Return the outputs of a network for images that a function reads by row; uint8 of any size."""
    read, rows = source
    found = []
    for begin in progress(range(0, len(rows), 32), what, unit="batch"):
        x = np.stack([resize(read(int(row)), size) for row in rows[begin : begin + 32]]).astype(np.float32)
        found.append(np.asarray(net.predict_on_batch(x)))
    return np.concatenate(found)


def cell_maps(model: Any, ds: datasets.Dataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Return the cells' log-odds, float32 (n, size / 16, size / 16), of some images."""
    net = keras.Model(model.input, model.get_layer("cells").output)
    return predict_images(net, f"cells at {size} px", size, (lambda row: ds.read(row, size), rows))[..., 0]
