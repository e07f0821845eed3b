"""Batches of images for TensorFlow, and their probabilities."""

from typing import Any

import numpy as np

from crackutils.config import tf
from crackutils.images import Rows


def make_batches(
    images: np.ndarray | Rows,
    labels: np.ndarray,
    rows: np.ndarray,
    batch: int,
    seed: int | None = None,
    weights: dict[int, float] | None = None,
) -> Any:
    """Return a tf.data set of (float32 (n, size, size, 3) RGB 0-255, float32 (n, 1) labels), n images per batch.

    `rows` selects from `images`, uint8 (all, size, size, 3) as `Dataset.pixels` returns them, and `labels`, int (all,).
    With a seed, each epoch has another random order; None keeps the order of `rows`, for evaluation. With `weights` by
    label, each batch has a third part, the weight of each image, float32 (n, 1).
    """
    order = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
    if seed is not None:  # only indices are shuffled, which is cheap
        order = order.shuffle(len(rows), seed=seed, reshuffle_each_iteration=True)

    def take(i: Any) -> Any:
        x, y = tf.numpy_function(lambda k: (images[k], labels[k].astype(np.float32)), [i], (tf.uint8, tf.float32))
        x.set_shape((None, *images[0].shape))
        y.set_shape((None,))
        weight = [tf.where(y == 1.0, weights[1], weights[0])[:, None]] if weights else []
        return tf.cast(x, tf.float32), y[:, None], *weight

    options = tf.data.Options()  # independent of the number of cores; beside autotuning, training often uses one of two
    options.threading.private_threadpool_size, options.autotune.enabled = 2, False
    return order.batch(batch).map(take).prefetch(2).with_options(options)


def crack_probabilities(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the crack probabilities, float32 (n,), of one batch, from the only unit or the second of two."""
    return np.asarray(model.predict_on_batch(x))[:, -1].astype(np.float32)
