"""Realism and usefulness of the sample photos, and scores of our own backbone.

    python -m tools.benchmarks.sample            validation images of METU, 8 SDNET photos: to work on the generator
    python -m tools.benchmarks.sample --final    also the METU test images and the other 16 photos: once per version

Needs the images of PROFILE=metu-half, those of SDNET2018's walls (make data SOURCE=sdnet FROM=...) and ImageNet weights
(CRACKUTILS_WEIGHTS_DIR). Writes sample.json, a sheet of pictures, and with --final the model card.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from crackutils import config

PROFILE = config.start("metu-half")

import numpy as np
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from crackutils import datasets, models
from crackutils.config import keras, tf
from crackutils.files import render_template, write_atomically
from crackutils.images import read_image
from crackutils.splits.make import make_split
from crackutils.synthetic.patches import draw_patches
from crackutils.synthetic.scene import QUALITY, VERSION

OUT = Path(__file__).with_suffix(".json")
SIZE = 160  # pixels
LARGE = 224  # pixels, for hairlines; chosen on validation images and the tuning photos
TUNING = (7069, 7078, 7087, 7096, 7105, 7114, 7123, 7132)  # SDNET photos for development, and the others
TESTING = (7072, 7075, 7081, 7084, 7090, 7093, 7099, 7102, 7108, 7111, 7117, 7120, 7126, 7129, 7135, 7138)
SIZES = (200, 1000, 5000)  # METU training images of the probes
DRAWS = 10
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the heads
NAMES = {
    "crackutils": "ours",
    "untrained": "untrained, same network",
    "untrained-wide": "untrained, alpha 1.0",
    "imagenet": "ImageNet, alpha 1.0",
}


def classifier(strength: float) -> Pipeline:
    """Return an unfitted linear head: standardised features, logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))


def sample_patches(count: int, seed: int) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Return `count` new sample patches of each class as JPEG files, with labels and photo numbers."""
    files, labels, photos = [], [], []
    for number, _, cut in draw_patches(seed, count):
        for patch in cut:
            file = io.BytesIO()
            Image.fromarray(patch.image).save(file, "JPEG", quality=QUALITY)
            files.append(file.getvalue())
            labels.append(patch.label)
            photos.append(number)
    return files, np.array(labels), np.array(photos)


def files_of(ds: datasets.Dataset, rows: np.ndarray) -> list[Any]:
    """Return the paths of some images of a data set."""
    return [ds.folder / file for file in ds.index["file"].iloc[rows]]


def features(name: str, size: int, files: list[Any]) -> np.ndarray:
    """Return the pooled features (n, 1280) of a frozen backbone for images resized to `size` pixels."""
    with ThreadPoolExecutor(2) as pool:
        chunks = (
            np.stack(list(pool.map(lambda f: read_image(f, size), files[i : i + 64]))) for i in range(0, len(files), 64)
        )
        return np.concatenate([network(name, size)(chunk).numpy() for chunk in chunks])


@cache
def network(name: str, size: int) -> Any:
    """Return a function from uint8 images to features: ImageNet's backbone, ours, or one of two untrained ones.

    The untrained ones keep their initial BatchNorm statistics: the head standardises their small features, and on METU
    this gives better scores than setting the statistics first.
    """
    keras.utils.set_random_seed(config.DEFAULT_SEED)
    weights = "crackutils" if name in ("crackutils", "untrained") else "imagenet"
    base = models.build_backbone("mobilenetv2", size, weights, load=not name.startswith("untrained"))
    return tf.function(
        lambda x: tf.reduce_mean(base(tf.cast(x, tf.float32) / 127.5 - 1, training=False), (1, 2)),
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)],
    )


def realism(
    real: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], x: np.ndarray, y: np.ndarray, g: np.ndarray
) -> dict[str, float]:
    """AUROC of real against sample patches by ImageNet features, in folds of whole photos; 0.5 is ideal."""
    found = {}
    for name, (features, labels, groups) in real.items():
        for label, word in enumerate(config.CLASSES):
            a, b = x[y == label][:1000], features[labels == label][:1000]
            truth = np.repeat([1, 0], [len(a), len(b)])
            photo = np.concatenate([g[y == label][:1000], 10**6 + groups[labels == label][:1000]])
            score = cross_val_predict(
                classifier(1e-3),
                np.concatenate([a, b]),
                truth,
                groups=photo,
                cv=GroupKFold(5),
                method="decision_function",
            )
            found[f"{name}_{word.lower()}"] = round(float(roc_auc_score(truth, score)), 4)
    return found


def sheet(real: list[Any], made: list[Any], file: Path) -> None:
    """Save 8 x 6 patches of each kind, real ones on the left."""
    side, cols, rows = 112, 8, 6
    page = Image.new("RGB", (2 * cols * side + 24, rows * side + 24), "white")
    for k, (files, title) in enumerate(((real, "real: METU, then SDNET2018"), (made, "sample"))):
        left = k * (cols * side + 24)
        ImageDraw.Draw(page).text((left + 4, 6), title, fill="black")
        for i, image in enumerate(files[: cols * rows]):
            patch = Image.fromarray(read_image(image, side))
            page.paste(patch, (left + i % cols * side, 24 + i // cols * side))
    page.save(file, quality=80)


def scores(truth: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Return accuracy at 0.5, AUROC and average precision."""
    found = ((p >= 0.5) == truth).mean(), roc_auc_score(truth, p), average_precision_score(truth, p)
    return dict(zip(("accuracy", "auroc", "average_precision"), (round(float(v), 4) for v in found), strict=True)) | {
        "n": len(truth)
    }


def best_on_sample(x: np.ndarray, y: np.ndarray, photos: np.ndarray) -> tuple[Pipeline, float]:
    """Fit a head to sample patches; cross-validation in folds of whole photos chooses its penalty."""
    losses = []
    for strength in STRENGTHS:
        p = cross_val_predict(classifier(strength), x, y, groups=photos, cv=GroupKFold(5), method="predict_proba")
        losses.append(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1)).mean())
    return classifier(STRENGTHS[int(np.argmin(losses))]).fit(x, y), STRENGTHS[int(np.argmin(losses))]


def probes(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return by number of METU training images, which test images each draw's head classifies right: bool (draws, n).

    Validation images choose the head's penalty, with the first draw.
    """
    found = {}
    for size in SIZES:
        right, strength = [], None
        for draw in range(DRAWS):
            rows = np.random.default_rng([size, draw]).choice(len(train[1]), size, replace=False)
            few = train[0][rows], train[1][rows]
            strength = strength or max(STRENGTHS, key=lambda c: classifier(c).fit(*few).score(*val))
            right.append(classifier(strength).fit(*few).predict(test[0]) == test[1])
        found[str(size)] = np.array(right)
    return found


def interval(right: np.ndarray) -> dict[str, float]:
    """Mean of (draws, n) values with a 95 % interval over draws and test images (two-way bootstrap)."""
    rng = np.random.default_rng(0)
    draws, n = right.shape
    means = [right[rng.integers(draws, size=draws)].mean(0)[rng.integers(n, size=n)].mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(right.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def card(result: dict[str, Any]) -> str:
    """Return the model card of our backbone, all numbers from this run and from the record of the pretraining."""
    record = json.loads(models.OWN_FILE.with_suffix(".json").read_text("utf-8"))
    course = ", then ".join(
        f"{p['epochs']} epoch{'s' * (p['epochs'] > 1)} at {p['crop']} px (AdamW, {p['learning_rate']})"
        for p in record["schedule"]["phases"]
    )
    by_size = {f"{size:,}": str(size) for size in SIZES}
    probes = [
        [size, *("{mean:.4f} ({low:.4f}-{high:.4f})".format(**result["probes"][name][key]) for name in NAMES)]
        for size, key in by_size.items()
    ]
    paired = [
        [NAMES[name], *("{mean:+.4f} ({low:+.4f} to {high:+.4f})".format(**found[key]) for key in by_size.values())]
        for name, found in result["ours_minus"].items()
    ]
    places = {"metu_test": "METU test", "sdnet_test": f"SDNET2018, {len(TESTING)} photos"}
    useful = [
        [NAMES[name], where, *(f"{found[target][score]:.4f}" for score in ("accuracy", "auroc", "average_precision"))]
        for name, found in result["usefulness"].items()
        for target, where in places.items()
    ]
    values = {
        "record": record,
        "course": course,
        "alpha": models.OWN_ARGUMENTS["alpha"],
        "megabytes": models.OWN_FILE.stat().st_size / 1e6,
        "tested": result["usefulness"]["crackutils"]["metu_test"]["n"],
        "size": SIZE,
        "large": LARGE,
        "draws": DRAWS,
        "probes": table(["METU training images", *NAMES.values()], probes),
        "paired": table(["Ours minus", *by_size], paired),
        "useful": table(["Backbone", "Tested on", "Accuracy", "AUROC", "Average precision"], useful),
    }
    return render_template(Path(__file__).with_name("card.md.j2"), values)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; `to_markdown` would pad its cells."""
    head, *body = (f"| {' | '.join(row)} |" for row in (columns, *rows))
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def import_time() -> float:
    """Seconds for the import of TensorFlow in a new process, median of three."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return sorted(took)[1]


@dataclass(frozen=True)
class Rows:
    """Roles of images in the measurement.

    Attributes:
        train: rows of METU, for the probes.
        choose: rows of METU that choose the penalty of the probes.
        judge: rows of METU that score the probes.
        walls: rows of SDNET2018 by name of the set.
    """

    train: np.ndarray
    choose: np.ndarray
    judge: np.ndarray
    walls: dict[str, np.ndarray]


def choose_rows(part: np.ndarray, photo: np.ndarray, rng: np.random.Generator, final: bool) -> Rows:
    """Return the rows for a split of METU and SDNET2018's photo numbers; without `final` no row of the test."""
    if missing := set(TUNING + TESTING) - set(photo):
        raise config.CrackutilsError(f"SOURCE=sdnet lacks the photos {sorted(missing)}. Fetch the walls again.")
    train = np.sort(rng.permutation(np.flatnonzero(part == "train"))[:6000])
    val, walls = np.flatnonzero(part == "val"), {"sdnet_tuning": np.flatnonzero(np.isin(photo, TUNING))}
    if final:
        walls["sdnet_test"] = np.flatnonzero(np.isin(photo, TESTING))
        return Rows(train, val, np.flatnonzero(part == "test"), walls)
    return Rows(train, val[1::2], val[::2], walls)  # one half of the validation images chooses, the other scores


def usefulness(made: tuple[Any, ...], targets: dict[str, tuple[list[Any], np.ndarray]]) -> dict[str, Any]:
    """Return, by backbone, scores on real images of a head fitted to sample patches (files, labels, photos) only."""
    files, labels, photos = made
    result = {}
    for name in ("crackutils", "imagenet"):
        head, strength = best_on_sample(features(name, LARGE, files), labels, photos)
        found = {
            target: scores(truth, head.predict_proba(features(name, LARGE, real))[:, 1])
            for target, (real, truth) in targets.items()
        }
        result[name] = {"head_strength": strength, "size": LARGE} | found
        print(name, "head fitted on the sample alone:", json.dumps(found), flush=True)
    return result


def compare_backbones(metu: datasets.Dataset, label: np.ndarray, rows: Rows) -> dict[str, Any]:
    """Return the accuracy of the probes of each backbone, and the difference of ours on the same draws."""
    right = {}
    for name in NAMES:
        parts = [(features(name, SIZE, files_of(metu, r)), label[r]) for r in (rows.train, rows.choose, rows.judge)]
        right[name] = probes(*parts)
        print(name, "probes:", {size: interval(r) for size, r in right[name].items()}, flush=True)
    ours = right["crackutils"]
    return {
        "probes": {name: {size: interval(r) for size, r in found.items()} for name, found in right.items()},
        "ours_minus": {
            name: {size: interval(ours[size].astype(float) - r) for size, r in found.items()}
            for name, found in right.items()
            if name != "crackutils"
        },
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--final", action="store_true", help="also the METU test images and the other 16 SDNET photos")
    parser.add_argument("--realism", action="store_true", help="only how real the photos are")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    metu, sdnet = datasets.load(PROFILE), datasets.load(config.profile("sdnet"))
    manifest = make_split(metu, "copy-safe", config.DEFAULT_SEED)
    label, cracked, photo = (
        manifest["label"].to_numpy(),
        sdnet.index["label"].to_numpy(),
        sdnet.cuts["photo"].to_numpy(),
    )
    rng = np.random.default_rng(0)
    rows = choose_rows(manifest["split"].to_numpy(), photo, rng, args.final)
    began = time.perf_counter()
    made, made_y, made_g = sample_patches(2000, seed=31)
    speed = (time.perf_counter() - began) / 2 / import_time()
    print(f"2,000 patches take as long as {speed:.1f} imports of TensorFlow", flush=True)
    real, tuning = rng.choice(rows.train, 3000, replace=False), rows.walls["sdnet_tuning"]
    sets = {
        "metu": (features("imagenet", SIZE, files_of(metu, real)), label[real], manifest["group"].to_numpy()[real]),
        "sdnet": (features("imagenet", SIZE, files_of(sdnet, tuning)), cracked[tuning], photo[tuning]),
    }
    auroc = realism(sets, features("imagenet", SIZE, made), made_y, made_g)
    print("realism", auroc, flush=True)
    history = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {"versions": []}
    versions = [old for old in history["versions"] if old["generator"] != VERSION]
    versions.append({"generator": VERSION, "realism_auroc": auroc})
    history["versions"] = sorted(versions, key=lambda row: row["generator"])
    write_atomically(OUT, json.dumps(history, indent=1) + "\n")
    shown = [file for c in (1, 0) for file in files_of(metu, rows.train[label[rows.train] == c][:12])]
    for c in (1, 0):
        shown += files_of(sdnet, rng.choice(tuning[cracked[tuning] == c], 12, replace=False))
    mine = [made[r] for c in (1, 0) for r in rng.choice(np.flatnonzero(made_y == c), 24, replace=False)]
    sheet(shown, mine, OUT.with_name(f"sample-v{VERSION}.jpg"))
    if args.realism:
        return
    targets = {"metu_test" if args.final else "metu_val": (files_of(metu, rows.judge), label[rows.judge])}
    targets |= {name: (files_of(sdnet, some), cracked[some]) for name, some in rows.walls.items()}
    result = {"generator": VERSION, "imports_per_2000_patches": round(speed, 1)}
    result |= {"usefulness": usefulness((made, made_y, made_g), targets)} | compare_backbones(metu, label, rows)
    if args.final:
        write_atomically(OUT, json.dumps(history | {"final": result}, indent=1) + "\n")
        write_atomically(models.OWN_FILE.with_name("README.md"), card(result))


if __name__ == "__main__":
    main()
