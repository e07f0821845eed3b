"""Batches of images for TensorFlow, augmentation layers, and predictions in file order."""

from __future__ import annotations

from typing import Any

import numpy as np

from crackutils.models import tf


def make_batches(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, batch: int, seed: int | None = None) -> Any:
    """Return a tf.data set of (float32 (n, size, size, 3) RGB 0-255, float32 (n, 1) labels).

    Args:
        images: uint8 (all, size, size, 3), as `Dataset.pixels` gives them.
        labels: int (all,), 0 or 1.
        rows: which images.
        batch: images per batch.
        seed: shuffles, differently in each epoch; None keeps the order of `rows`, as evaluation needs.
    """
    order = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
    if seed is not None:
        order = order.shuffle(
            len(rows), seed=seed, reshuffle_each_iteration=True
        )  # indices only: a whole shuffle is cheap

    def take(i: Any) -> Any:
        x, y = tf.numpy_function(lambda k: (images[k], labels[k].astype(np.float32)), [i], (tf.uint8, tf.float32))
        x.set_shape((None, *images.shape[1:]))
        y.set_shape((None,))
        return tf.cast(x, tf.float32), y[:, None]

    options = tf.data.Options()
    options.threading.private_threadpool_size = 2  # whatever the number of visible cores
    return order.batch(batch).map(take).prefetch(2).with_options(options)


def predict(model: Any, data: Any, flips: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return labels int (n,) and crack probabilities float32 (n,) of unshuffled batches, from one pass over them.

    With `flips` a probability is the mean over the image and its mirror images left-right, top-bottom, and both.
    """
    labels, found = [], []
    for x, y in data:
        found.append(crack_probabilities(model, np.asarray(x), flips))
        labels.append(np.asarray(y).reshape(-1))
    return np.concatenate(labels).astype(int), np.concatenate(found)


def crack_probabilities(model: Any, x: np.ndarray, flips: bool = False) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), of one batch; `predict` explains `flips`."""
    views = (x, x[:, :, ::-1], x[:, ::-1], x[:, ::-1, ::-1]) if flips else (x,)
    # the only unit, or the second of two classes
    return np.mean([np.asarray(model.predict_on_batch(view))[:, -1] for view in views], axis=0, dtype=np.float32)
