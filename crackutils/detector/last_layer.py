"""Fit the detector's last layer to images with labels and to patches with masks."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils.config import keras
from crackutils.datasets import Dataset
from crackutils.detector.data import count_training
from crackutils.detector.head import fit_head
from crackutils.detector.maps import predict_images
from crackutils.files import save_array
from crackutils.stages import Recipe
from crackutils.synthetic.store import Store
from crackutils.training import Trained

_MOST = 6000  # training images, at most


def fit_last_layer(
    trained: Trained, recipe: Recipe, ds: Dataset, manifest: pd.DataFrame, patches: Store, folder: Path, seed: int
) -> dict[str, Any]:
    """Fit the last layer of a trained network to training images and to patches with masks.

    Before, the mean of the top cells decides, which holds for any camera; the features separate scratches from cracks
    in-domain. Validation images, and patches of photos that were not trained on, choose the penalty. The arguments are
    those of `train_detector`, whose result is `trained`; `seed` draws the images, and features are cached in `folder`.

    Returns:
        penalty (None for infinity), images, patches.
    """
    net = keras.Model(trained.model.input, trained.model.get_layer("features").output)
    weights = b"".join(w.tobytes() for w in net.get_weights())
    rng, first = np.random.default_rng(seed), count_training(patches)
    masked = {"train": np.arange(first)[: _MOST // 2], "val": np.arange(first, len(patches.images))[: _MOST // 8]}
    x, y = {}, {}
    for part, most in (("train", _MOST), ("val", _MOST // 4)):
        rows = np.sort(rng.permutation(np.flatnonzero(manifest["split"] == part))[:most])
        key = hashlib.sha256(weights + rows.tobytes() + ds.sha256.encode()).hexdigest()
        file = folder / f"last-{part}-{key[:12]}.npy"
        if not file.is_file():
            images = predict_images(net, f"features, {part}", lambda i: ds.read(i, recipe.size), rows)
            drawn = predict_images(net, f"patches, {part}", lambda i: patches.images[i], masked[part])
            save_array(file, np.concatenate([images, drawn]))
        x[part] = np.load(file)
        labels = (ds.index["label"].to_numpy()[rows], patches.facts["label"].to_numpy()[masked[part]])
        y[part] = np.concatenate(labels)
    kernel, bias, penalty = fit_head(x["train"], y["train"], held=(x["val"], y["val"]), seed=seed)
    trained.model.get_layer("p_crack").set_weights([kernel[:, None].astype(np.float32), np.float32([bias])])
    count = len(masked["train"])
    return {"penalty": penalty if np.isfinite(penalty) else None, "images": len(y["train"]) - count, "patches": count}
