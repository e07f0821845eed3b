"""Train our own backbone, MobileNetV2 with alpha 0.35, from scratch on synthetic patches; none of them is real.

It learns on random crops: is there a crack in the crop, which cells of it does the crack cross (from the exact masks,
at strides 16 and 32) and, with little weight, how the picture was made (finish, zoom, blur, noise).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import config, models
from crackutils.config import keras, tf
from crackutils.files import hash_sources, sha256, write_atomically
from crackutils.synthetic.scene import FINISHES, MASK_BLOCK, VERSION
from crackutils.synthetic.store import load_store

SIZE = 160  # side of the cached patches, pixels; crops are cut from them
_CROSSED = 0.2  # share of crack from which a mask pixel counts as crossed
_SCALE = (1 / 127.5, -1.0)


@dataclass(frozen=True)
class Phase:
    """Some epochs at one crop size: side of the crops in pixels (a multiple of 32), highest learning rate of AdamW."""

    crop: int
    epochs: int
    learning_rate: float
    batch: int = 64


@dataclass(frozen=True)
class Schedule:
    """Everything that defines the pretraining.

    Attributes:
        patches: number of each class, from photos that no profile uses.
        each: largest number of patches of a class from one photo.
        seed: of photos, initial weights and order.
        phases: first small crops, which are faster, then whole patches.
    """

    patches: int = 15000
    each: int = 6
    seed: int = 90210
    phases: tuple[Phase, ...] = (Phase(96, 5, 3e-3), Phase(160, 1, 8e-4))


@dataclass(frozen=True)
class Store:
    """Patches to train on.

    Attributes:
        images: uint8 (n, 160, 160, 3) RGB.
        masks: uint8 (n, 40, 40), the most crack, 0-255, in each 4x4 block of the patch's mask.
        finish: int (n,), which of `scene.FINISHES`.
        taken: float32 (n, 3), log zoom, log blur and log noise of their photos, standardised.
    """

    images: Any  # such an array, or `images.Rows`
    masks: np.ndarray
    finish: np.ndarray
    taken: np.ndarray


def store(schedule: Schedule) -> Store:
    """Return the training patches, drawn on first use and then cached."""
    cached = load_store(schedule.seed, schedule.patches, schedule.each, SIZE)
    finish = cached.facts["finish"].map(FINISHES.index).to_numpy()
    t = np.log(cached.facts[["zoom", "blur", "noise"]].to_numpy() + 0.05).astype(np.float32)
    return Store(cached.images, cached.masks, finish, (t - t.mean(0)) / t.std(0))


def crops(
    s: Store, rows: np.ndarray, crop: int, batch: int, seed: tuple[int, ...] | None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield batches: images float32 (n, crop, crop, 3) in [-1, 1] and targets by the name of the output.

    With a seed, crops, rotations, flips, light and colour are random; without one, whole patches come in order.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(rows) if seed else rows
    side = crop // MASK_BLOCK
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        x = np.empty((len(chosen), crop, crop, 3), np.float32)
        m = np.empty((len(chosen), side, side), np.float32)
        for k, row in enumerate(chosen):
            top, left = rng.integers(0, (SIZE - crop) // MASK_BLOCK + 1, 2) if seed else (0, 0)
            image = s.images[
                row, top * MASK_BLOCK : top * MASK_BLOCK + crop, left * MASK_BLOCK : left * MASK_BLOCK + crop
            ]
            mask = s.masks[row, top : top + side, left : left + side]
            turns, flip = (int(rng.integers(4)), rng.random() < 0.5) if seed else (0, False)
            image, mask = np.rot90(image, turns), np.rot90(mask, turns)
            x[k], m[k] = (image[:, ::-1], mask[:, ::-1]) if flip else (image, mask)
        if seed:
            gain, lift = rng.uniform(0.6, 1.25, (len(x), 1, 1, 1)), rng.uniform(-30, 30, (len(x), 1, 1, 1))
            tint = rng.normal(0, 5, (len(x), 1, 1, 3))
            middle = x.mean((1, 2, 3), keepdims=True)
            x = np.clip((x - middle) * gain + middle + lift + tint, 0, 255).astype(np.float32)
        m = (m / 255 > _CROSSED).astype(np.float32)
        cells = {f"cells_{stride}": _blocks(m, stride // MASK_BLOCK)[..., None] for stride in (16, 32)}
        yield (
            x * np.float32(_SCALE[0]) + np.float32(_SCALE[1]),
            {"crack": (m.sum((1, 2)) > 4).astype(np.float32)[:, None]}
            | cells
            | {"finish": s.finish[chosen], "taken": s.taken[chosen]},
        )


def _blocks(m: np.ndarray, k: int) -> np.ndarray:
    n, h, w = m.shape
    return m.reshape(n, h // k, k, w // k, k).max((2, 4))


def network() -> tuple[Any, Any]:
    """Return the network with all its outputs, for images of any size, and the backbone inside."""
    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(None, None, 3), **models.OWN_ARGUMENTS
    )
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.99
    last, middle = base.output, base.get_layer("block_13_expand_relu").output
    pooled = keras.layers.GlobalAveragePooling2D()(last)
    rare = keras.initializers.Constant(-2.0)  # few cells are crossed
    outputs = {
        "crack": keras.layers.Dense(1, name="crack")(pooled),
        "cells_16": keras.layers.Conv2D(1, 1, bias_initializer=rare, name="cells_16")(middle),
        "cells_32": keras.layers.Conv2D(1, 1, bias_initializer=rare, name="cells_32")(last),
        "finish": keras.layers.Dense(len(FINISHES), name="finish")(pooled),
        "taken": keras.layers.Dense(3, name="taken")(pooled),
    }
    return keras.Model(base.input, outputs), base


def _compile(model: Any, schedule: Schedule, n: int) -> None:
    rates = keras.optimizers.schedules
    parts, ends, at = [], [], 0
    for phase in schedule.phases:
        steps = phase.epochs * -(-n // phase.batch)
        warm, top = steps // 20 + 1, phase.learning_rate
        parts.append(rates.CosineDecay(top / 20, max(steps - warm, 1), 0.01, warmup_target=top, warmup_steps=warm))
        at += steps
        ends.append(at)
    weigh = {"crack": 1.0, "cells_16": 1.0, "cells_32": 1.0, "finish": 0.15, "taken": 0.1}
    binary = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.AdamW(JoinedRates(parts, ends), weight_decay=0.01),
        loss={"crack": binary, "cells_16": binary, "cells_32": binary}
        | {"finish": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "taken": "mse"},
        loss_weights=weigh,
        metrics={"crack": [keras.metrics.AUC(from_logits=True, name="auc")], "finish": ["accuracy"]},
    )


@keras.saving.register_keras_serializable("crackutils")
class JoinedRates(keras.optimizers.schedules.LearningRateSchedule):
    """Learning-rate schedules, one after the other."""

    def __init__(self, parts: list[Any], ends: list[int]) -> None:
        """Take the schedules and the steps at which they end."""
        self.parts, self.ends = parts, ends

    def __call__(self, step: Any) -> Any:
        """Return the learning rate at a step."""
        rate, begin = self.parts[0](step), self.ends[0]
        for part, end in zip(self.parts[1:], self.ends[1:], strict=True):
            rate = tf.where(step < begin, rate, part(tf.maximum(step - begin, 0)))
            begin = end
        return rate

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`."""
        return {"parts": self.parts, "ends": self.ends}


def pretrain(schedule: Schedule, out: Path) -> dict[str, Any]:
    """Train the backbone and write `out` (float16 .npz) and its record, `out` with the ending .json.

    Patches and finished epochs are cached: after a kill, the same call continues with the next epoch and gives the same
    bytes. After it has finished, the next call trains from the start.
    """
    s = store(schedule)
    n = len(s.images)
    # photos are in order: the last twentieth is from other photos, except for one that both parts share
    cut = int(0.95 * n)
    rows, held = np.arange(cut), np.arange(cut, n)
    home = config.data_dir() / "cache" / f"pretrain-{_fingerprint(schedule)}"
    home.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(schedule.seed)
    model, base = network()
    _compile(model, schedule, cut)
    model.optimizer.build(model.trainable_variables)
    done: list[dict[str, Any]] = []
    if (home / "done.json").exists():
        done = json.loads((home / "done.json").read_text("utf-8"))
        model.load_weights(home / f"epoch-{len(done)}.weights.h5")
        print(f"continuing after epoch {len(done)}")
    epochs = [phase for phase in schedule.phases for _ in range(phase.epochs)]
    for epoch, phase in enumerate(epochs[len(done) :], len(done) + 1):
        began = time.perf_counter()
        keras.utils.set_random_seed(schedule.seed + epoch)
        fitted = model.fit(
            _stream(s, rows, phase.crop, phase.batch, (schedule.seed, epoch)),
            validation_data=_stream(s, held, SIZE, phase.batch, None),
            steps_per_epoch=-(-len(rows) // phase.batch),
            validation_steps=-(-len(held) // phase.batch),
            shuffle=False,
            verbose=1 if os.isatty(1) else 2,
        )
        done.append(
            {"epoch": epoch, "crop": phase.crop} | {k: round(float(v[0]), 5) for k, v in fitted.history.items()}
        )
        model.save_weights(home / f"epoch-{epoch}.weights.h5")  # the optimizer's state is in it
        write_atomically(home / "done.json", json.dumps(done))
        (home / f"epoch-{epoch - 1}.weights.h5").unlink(missing_ok=True)
        print(f"epoch {epoch} of {len(epochs)}: {time.perf_counter() - began:.0f} s", flush=True)
    write_own(base, out)
    record = {"generator": VERSION, "schedule": asdict(schedule), "patches": n, "epochs": done}
    write_atomically(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    (home / "done.json").unlink(missing_ok=True)
    return record


def write_own(base: Any, file: Path) -> None:
    """Write a backbone's weights as float16 arrays, in the order of `base.weights`; equal weights give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}")
    with open(part, "wb") as handle:
        np.savez(handle, *(np.asarray(w).astype(np.float16) for w in base.weights))
    os.replace(part, file)


def _fingerprint(schedule: Schedule) -> str:
    text = json.dumps(asdict(schedule), sort_keys=True)
    files = f"{hash_sources(config.PACKAGE / 'synthetic')} {sha256(Path(__file__))}"
    return hashlib.sha256((text + files + keras.__version__).encode()).hexdigest()[:12]


def _stream(s: Store, rows: np.ndarray, crop: int, batch: int, seed: tuple[int, ...] | None) -> Any:
    def shape(name: str) -> Any:
        cells = {"cells_16": crop // 16, "cells_32": crop // 32}
        if name in cells:
            return tf.TensorSpec((None, cells[name], cells[name], 1), tf.float32)
        return tf.TensorSpec((None,), tf.int64) if name == "finish" else tf.TensorSpec((None, None), tf.float32)

    signature = (
        tf.TensorSpec((None, crop, crop, 3), tf.float32),
        {name: shape(name) for name in ("crack", "cells_16", "cells_32", "finish", "taken")},
    )
    (options := tf.data.Options()).autotune.enabled = False  # as in `make_batches`
    made = tf.data.Dataset.from_generator(lambda: crops(s, rows, crop, batch, seed), output_signature=signature)
    return made.prefetch(4).with_options(options)
