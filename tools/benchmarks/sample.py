"""How real the sample photos look, how useful they are, and what our own backbone is worth.

    python benchmarks/sample.py            validation images of METU, 8 SDNET photos: for working on the generator
    python benchmarks/sample.py --final    also the METU test images and the other 16 photos: once per version

Needs the images of PROFILE=metu-half, those of SDNET2018's walls (make data SOURCE=sdnet FROM=...) and ImageNet weights
(CRACKUTILS_WEIGHTS_DIR). Writes benchmarks/sample.json, a sheet of pictures, and with --final the model card.
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
from pathlib import Path
from typing import Any

PROFILE = config.start("metu-half")

import numpy as np
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from crackutils import config, datasets, models
from crackutils.files import write_atomically
from crackutils.images import read_image
from crackutils.models import keras, tf
from crackutils.splits.make import make_split
from crackutils.synthetic.patches import draw_patches
from crackutils.synthetic.scene import QUALITY, VERSION

HERE = config.ROOT / "benchmarks"
SIZE = 160  # pixels
LARGE = 224  # pixels, where hairlines count; chosen on validation images and the tuning photos
TUNING = (7069, 7078, 7087, 7096, 7105, 7114, 7123, 7132)  # SDNET photos that may be looked at, and the others
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
    """Return `count` fresh sample patches of each class as JPEG files, like the sample's, labels and photo numbers."""
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
    """Return the pooled features (n, 1280) of a frozen backbone for images squeezed to `size` pixels."""
    if (name, size) not in _nets:
        _nets[name, size] = network(name, size)
    with ThreadPoolExecutor(2) as pool:
        chunks = (
            np.stack(list(pool.map(lambda f: read_image(f, size), files[i : i + 64]))) for i in range(0, len(files), 64)
        )
        return np.concatenate([_nets[name, size](chunk).numpy() for chunk in chunks])


_nets: dict[tuple[str, int], Any] = {}


def network(name: str, size: int) -> Any:
    """Return a function from uint8 images to features: ImageNet's backbone, ours, or one of two untrained ones.

    The untrained ones stay as they are initialised: their faint features are standardised by the head, and on METU this
    does better than setting their BatchNorm statistics first.
    """
    keras.utils.set_random_seed(config.DEFAULT_SEED)
    weights = "crackutils" if name in ("crackutils", "untrained") else "imagenet"
    base, _ = models.build_backbone("mobilenetv2", size, weights, load=not name.startswith("untrained"))
    tf = tf
    return tf.function(
        lambda x: tf.reduce_mean(base(tf.cast(x, tf.float32) / 127.5 - 1, training=False), (1, 2)),
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)],
    )


def realism(
    real: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], x: np.ndarray, y: np.ndarray, g: np.ndarray
) -> dict[str, float]:
    """AUROC of telling real from sample patches by ImageNet features; folds keep photos together. 0.5 is perfect."""
    found = {}
    for name, (features, labels, groups) in real.items():
        for label, word in enumerate(config.CLASSES):
            a, b = x[y == label][:1000], features[labels == label][:1000]
            truth = np.repeat([1, 0], [len(a), len(b)])
            photo = np.concatenate([g[y == label][:1000], 10**6 + groups[labels == label][:1000]])
            told = cross_val_predict(
                classifier(1e-3),
                np.concatenate([a, b]),
                truth,
                groups=photo,
                cv=GroupKFold(5),
                method="decision_function",
            )
            found[f"{name}_{word.lower()}"] = round(float(roc_auc_score(truth, told)), 4)
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
    """Fit a head on sample patches; its strength is chosen by cross-validation there, folds grouped by photo."""
    losses = []
    for strength in STRENGTHS:
        p = cross_val_predict(classifier(strength), x, y, groups=photos, cv=GroupKFold(5), method="predict_proba")
        losses.append(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1)).mean())
    return classifier(STRENGTHS[int(np.argmin(losses))]).fit(x, y), STRENGTHS[int(np.argmin(losses))]


def probes(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return, per number of METU training images, which test images the head of each draw gets right: bool (draws, n).

    The head's strength is chosen on validation images, with the first draw.
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
    record = json.loads(models.OWN.file.with_suffix(".json").read_text("utf-8"))
    phases, last = record["schedule"]["phases"], record["epochs"][-1]
    course = ", then ".join(
        f"{p['epochs']} epoch{'s' * (p['epochs'] > 1)} at {p['crop']} px (AdamW, {p['learning_rate']})" for p in phases
    )
    table = ["| METU training images | " + " | ".join(NAMES.values()) + " |", "|---" * (1 + len(NAMES)) + "|"]
    for size in SIZES:
        cells = [result["probes"][name][str(size)] for name in NAMES]
        told = " | ".join(f"{c['mean']:.4f} ({c['low']:.4f}-{c['high']:.4f})" for c in cells)
        table.append(f"| {size:,} | {told} |")
    useful = ["| Backbone | Tested on | Accuracy | AUROC | Average precision |", "|---" * 5 + "|"]
    for name in ("crackutils", "imagenet"):
        for target, where in (("metu_test", "METU test"), ("sdnet_test", f"SDNET2018, {len(TESTING)} photos")):
            s = result["usefulness"][name][target]
            told = f"{s['accuracy']:.4f} | {s['auroc']:.4f} | {s['average_precision']:.4f}"
            useful.append(f"| {NAMES[name]} | {where} | {told} |")
    paired = ["| Ours minus | " + " | ".join(f"{size:,}" for size in SIZES) + " |", "|---" * (1 + len(SIZES)) + "|"]
    for name, found in result["ours_minus"].items():
        cells = [found[str(size)] for size in SIZES]
        told = " | ".join(f"{c['mean']:+.4f} ({c['low']:+.4f} to {c['high']:+.4f})" for c in cells)
        paired.append(f"| {NAMES[name]} | {told} |")
    tested, size = result["usefulness"]["crackutils"]["metu_test"]["n"], models.OWN.file.stat().st_size / 1e6
    return f"""# A MobileNetV2 that has seen only photos made by code

- What: MobileNetV2, alpha {models.OWN.arguments["alpha"]}, without top; input RGB scaled to [-1, 1], of any size;
  {size:.2f} MB of float16. `WEIGHTS=crackutils` uses it; `make pretrain` makes it again.
- Trained from scratch on {record["patches"]:,} patches of photos made by `crackutils.synthetic`
  (version {record["generator"]}, seed {record["schedule"]["seed"]}): {course}.
  It learnt whether there is a crack in a random crop, and which cells of it the crack crosses (from the exact masks, at
  strides 16 and 32). With little weight it was also asked for the finish of the surface, which it tells right in
  {last["val_finish_accuracy"]:.0%} of held-out patches, and for zoom, blur and noise, of which it learnt next to
  nothing.
- No real image, label or weight went into it. METU training and validation images and 8 SDNET2018 photos were looked
  at, and scored on, while the generator was written.
- Licence: MIT, as this project.

Linear probes: logistic regression on frozen, pooled features at {SIZE} px; {DRAWS} random draws of the training images;
its strength is chosen on validation images; accuracy on {tested:,} copy-safe test images of METU (files 00001-10000 of
each class), with 95 % intervals over draws and test images, all images counted as independent.

{chr(10).join(table)}

The same, as differences on the same draws and test images, by number of training images:

{chr(10).join(paired)}

A head fitted on sample patches alone, nothing real in training, {LARGE} px, threshold 0.5:

{chr(10).join(useful)}

Limits: made for concrete and cracks; for anything else, and where there is network, ImageNet weights are the better
start.
Hairlines on noisy walls stay hard (SDNET2018), and probabilities are not calibrated for real photos.

Measured by `python benchmarks/sample.py --final`; the numbers stand in `benchmarks/sample.json`.
"""


def import_time() -> float:
    """Seconds that importing TensorFlow takes in a process of its own, median of three."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return sorted(took)[1]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--final", action="store_true", help="also the METU test images and the other 16 SDNET photos")
    parser.add_argument("--realism", action="store_true", help="only how real the photos look")
    args = parser.parse_args()
    final = args.final
    warnings.filterwarnings("ignore")
    metu = datasets.load(PROFILE)
    manifest = make_split(metu, "copy-safe", config.DEFAULT_SEED)
    part, label = manifest["split"].to_numpy(), manifest["label"].to_numpy()
    sdnet = datasets.load(config.profile("sdnet"))
    photo = sdnet.cuts["photo"].to_numpy()
    cracked = sdnet.index["label"].to_numpy()
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(np.flatnonzero(part == "train"))[:6000])
    judge = np.flatnonzero(part == ("test" if final else "val"))
    choose = np.flatnonzero(part == "val")
    if not final:  # then one half of the validation images chooses and the other judges
        judge, choose = judge[::2], judge[1::2]
    if missing := set(TUNING + TESTING) - set(photo):
        raise config.CrackutilsError(f"SOURCE=sdnet lacks the photos {sorted(missing)}; fetch the walls again.")
    walls = {"sdnet_tuning": np.flatnonzero(np.isin(photo, TUNING))}
    if final:
        walls["sdnet_test"] = np.flatnonzero(np.isin(photo, TESTING))
    began = time.perf_counter()
    made, made_y, made_g = sample_patches(2000, seed=31)
    speed = (time.perf_counter() - began) / 2 / import_time()
    print(f"2,000 patches take as long as {speed:.1f} imports of TensorFlow", flush=True)
    result: dict[str, Any] = {"generator": VERSION, "imports_per_2000_patches": round(speed, 1)}
    x, real = features("imagenet", SIZE, made), rng.choice(train, 3000, replace=False)
    tuning = walls["sdnet_tuning"]
    auroc = realism(
        {
            "metu": (features("imagenet", SIZE, files_of(metu, real)), label[real], manifest["group"].to_numpy()[real]),
            "sdnet": (features("imagenet", SIZE, files_of(sdnet, tuning)), cracked[tuning], photo[tuning]),
        },
        *(x, made_y, made_g),
    )
    print("realism", auroc, flush=True)
    file = HERE / "sample.json"
    history = json.loads(file.read_text("utf-8")) if file.exists() else {"versions": []}
    others = [old for old in history["versions"] if old["generator"] != VERSION]
    row = {"generator": VERSION, "realism_auroc": auroc}
    history["versions"] = sorted([*others, row], key=lambda r: r["generator"])
    write_atomically(file, json.dumps(history, indent=1) + "\n")
    shown = [r for c in (1, 0) for r in files_of(metu, train[label[train] == c][:12])]
    for c in (1, 0):
        shown += files_of(sdnet, rng.choice(tuning[cracked[tuning] == c], 12, replace=False))
    mine = [made[r] for c in (1, 0) for r in rng.choice(np.flatnonzero(made_y == c), 24, replace=False)]
    sheet(shown, mine, HERE / f"sample-v{VERSION}.jpg")
    if args.realism:
        return
    result["usefulness"] = {}
    for name in ("crackutils", "imagenet"):
        head, strength = best_on_sample(features(name, LARGE, made), made_y, made_g)
        metu_name = "metu_test" if final else "metu_val"
        targets = {metu_name: (files_of(metu, judge), label[judge])}
        targets |= {wall: (files_of(sdnet, rows), cracked[rows]) for wall, rows in walls.items()}
        found = {
            target: scores(truth, head.predict_proba(features(name, LARGE, files))[:, 1])
            for target, (files, truth) in targets.items()
        }
        result["usefulness"][name] = {"head_strength": strength, "size": LARGE} | found
        print(name, "head fitted on the sample alone:", json.dumps(found), flush=True)
    result["probes"], right = {}, {}
    for name in NAMES:
        told = [(features(name, SIZE, files_of(metu, rows)), label[rows]) for rows in (train, choose, judge)]
        right[name] = probes(*told)
        result["probes"][name] = {size: interval(r) for size, r in right[name].items()}
        print(name, "probes:", json.dumps(result["probes"][name]), flush=True)
    result["ours_minus"] = {  # paired: same draws, same test images
        name: {size: interval(right["crackutils"][size].astype(float) - r) for size, r in right[name].items()}
        for name in NAMES
        if name != "crackutils"
    }
    print("ours minus", json.dumps(result["ours_minus"]), flush=True)
    if final:
        write_atomically(file, json.dumps(history | {"final": result}, indent=1) + "\n")
        write_atomically(models.OWN.file.with_name("README.md"), card(result))


if __name__ == "__main__":
    main()
