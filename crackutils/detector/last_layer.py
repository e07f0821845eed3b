"""Train a network that tells where the crack is, on images of which only the label is known and on exact masks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import datasets, training
from crackutils.detector.data import count_training
from crackutils.detector.maps import predict_images
from crackutils.files import save_array
from crackutils.models import keras
from crackutils.recipes import Recipe
from crackutils.synthetic.store import Store

_LAST = 6000  # training images, at most, that the last layer is fitted to, and half as many patches with masks


def fit_last_layer(
    trained: training.Trained,
    recipe: Recipe,
    ds: datasets.Dataset,
    manifest: pd.DataFrame,
    kept: Store,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Fit the last layer of a trained network to training images and to patches with masks, from what it was.

    Before, the mean of the top cells decides, whatever the camera; what tells a scratch from a crack at home lies in
    the features. Validation images, and patches of photos that were not trained on, choose the penalty.

    Args:
        trained: as `train` returns it; its model's last layer is replaced.
        recipe: `recipes.CELLS`.
        ds: the images.
        manifest: as `splits.make` returns it.
        kept: patches with masks.
        folder: for features, which are found there after a kill.
        seed: of which images are taken.

    Returns:
        penalty, images, patches.
    """
    from crackutils.detector.head import fit_head

    net = keras.Model(trained.model.input, trained.model.get_layer("features").output)
    rng, labels, split = np.random.default_rng(seed), ds.index["label"].to_numpy(), manifest["split"]
    rows = {}
    for part, most in (("train", _LAST), ("val", _LAST // 4)):
        rows[part] = np.sort(rng.permutation(np.flatnonzero(split == part))[:most])
    made = np.arange(len(kept.images))
    patches = {"train": made[: count_training(kept)][: _LAST // 2], "val": made[count_training(kept) :][: _LAST // 8]}
    x, y = {}, {}
    for part in rows:
        kernel = b"".join(w.tobytes() for w in net.get_weights())
        key = hashlib.sha256(kernel + rows[part].tobytes() + ds.sha256.encode()).hexdigest()
        file = folder / f"last-{part}-{key[:12]}.npy"
        if not file.is_file():
            at_home = predict_images(
                net, f"features, {part}", recipe.size, (lambda i: ds.read(i, recipe.size), rows[part])
            )
            by_code = predict_images(net, f"patches, {part}", recipe.size, (lambda i: kept.images[i], patches[part]))
            save_array(file, np.concatenate([at_home, by_code]))
        x[part] = np.load(file)
        y[part] = np.concatenate([labels[rows[part]], kept.facts["label"].to_numpy()[patches[part]]])
    weights, bias, penalty = fit_head(x["train"], y["train"], held=(x["val"], y["val"]), seed=seed)
    trained.model.get_layer("p_crack").set_weights([weights[:, None].astype(np.float32), np.float32([bias])])
    told = float(penalty) if np.isfinite(penalty) else None
    return {"penalty": told, "images": len(rows["train"]), "patches": len(patches["train"])}
