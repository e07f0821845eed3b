"""Train the detector in the package: on synthetic photos, METU's labels and, if given, photos with masks."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crackutils import config, datasets, provenance, training
from crackutils.detector.data import PHOTO_SEED, load_patches
from crackutils.detector.runs import DETECTOR, SHIPPED
from crackutils.detector.training import fit_last_layer, train_detector
from crackutils.files import replacing_folder, write_atomically
from crackutils.images import read_image
from crackutils.inspection.labelled import pair_masks
from crackutils.inspection.truth import read_mask
from crackutils.runs import SCHEMA
from crackutils.sources.fetch import prepare
from crackutils.splits.make import make_split
from crackutils.synthetic.scene import CRACK
from crackutils.synthetic.store import Photos, find_anchors, load_photos
from crackutils.training import Trained

PHOTOS, SIDE = 1500, 768  # number of synthetic photos, and their side in pixels
WEIGHTS = "imagenet"  # of the backbone, at first
STEPS = (4500, 7000)  # first without photos with hand-drawn masks, then with them
SHARES = ((0.67, 0.0), (0.35, 0.4))  # of a batch: synthetic photos, and photos with hand-drawn masks
_SLOWER = 0.5  # the learning rate of the second training, as a share of that of the first


def read_masked(folder: Path) -> Photos:
    """Return the photos with masks of `pair_masks`, for training."""
    pairs, rng = pair_masks(folder).values(), np.random.default_rng(config.DEFAULT_SEED)
    targets = [np.where(read_mask(mask), CRACK, 0).astype(np.uint8) for _, mask in pairs]
    return Photos([read_image(file) for file, _ in pairs], targets, np.stack([find_anchors(t, rng) for t in targets]))


def train_shipped(profile: config.Profile, masks: Path | None, out: Path = SHIPPED) -> None:
    """Train on a profile of METU, with its corrected labels, and write the run that `inspect` uses by default.

    `masks` is a folder with images/ and masks/. After a kill, the same call continues and gives the same bytes.
    """
    cv2.setNumThreads(1)
    prepare(profile)
    home, seed = config.data_dir() / "cache" / "detector", config.DEFAULT_SEED
    labels = config.LABELS[
        1 if profile.source == "metu" else 0
    ]  # many of METU's hairlines are labelled as free of cracks
    ds = datasets.load(profile, labels)
    manifest, real = make_split(ds, "copy-safe", seed), read_masked(masks) if masks else None
    photos = load_photos(PHOTO_SEED, PHOTOS, SIDE)
    fixed: dict[str, Any] = {"seed": seed, "weights": WEIGHTS}
    patches = load_patches(profile)

    def finish(trained: Trained, target: Path, masks: int) -> None:
        last = None
        if target == out:  # the run for comparison is used for pixels only
            last = fit_last_layer(trained, DETECTOR, ds, manifest, patches, home / "last", seed, len(manifest))
        settings = {"profile": profile.name, "split": "copy-safe", "labels": labels, "seed": seed, "weights": WEIGHTS}
        settings |= {"recipe": DETECTOR.as_dict(), "threshold": 0.5, "steps": STEPS[: 1 + bool(masks)]}
        settings |= {"shares": SHARES, "images": ds.sha256, "photos": PHOTOS, "side": SIDE, "masks": masks}
        content = {"schema": SCHEMA, "notebook": "08_cross_dataset", "run": DETECTOR.name, "settings": settings}
        with replacing_folder(target) as work:
            training.save(trained.model, work, "The card is written by tools.benchmarks.detector.\n")
            _drop_weights(work / "model" / "model.keras")
            content |= {"start": start, "last_layer": last}
            write_atomically(work / "metrics.json", json.dumps(content, indent=1) + "\n")
            facts = {"versions": provenance.versions(), "machine": provenance.machine()}
            write_atomically(work / "run.json", json.dumps(facts, indent=1) + "\n")
        print(f"detector: {config.display_path(target)}")

    trained = train_detector(DETECTOR, ds, manifest, [(photos, SHARES[0][0])], home / "drawn", steps=STEPS[0], **fixed)
    start = trained.start
    finish(trained, home / "unmasked" if real else out, 0)  # for comparison, if there are masks
    if real:
        stage = DETECTOR.stages[0]
        slower = replace(DETECTOR, stages=(replace(stage, learning_rate=_SLOWER * stage.learning_rate),))
        both, fixed["before"] = list(zip((photos, real), SHARES[1], strict=True)), trained.model
        trained = train_detector(slower, ds, manifest, both, home / "both", steps=STEPS[1], **fixed)
        finish(trained, out, len(real.images))


def _drop_weights(file: Path) -> None:
    """Remove the weights from a .keras file; they lie beside it."""
    with zipfile.ZipFile(file) as parts:
        kept = {name: parts.read(name) for name in ("metadata.json", "config.json")}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, content in kept.items():
            parts.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
