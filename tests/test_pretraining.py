"""Our own backbone: what it is trained on, continuing after a kill, and the file in the package."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crackutils import config, datasets, models
from crackutils.config import keras, tf
from crackutils.files import write_atomically
from crackutils.sources.fetch import fetch
from crackutils.splits.make import make_split
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import FINISHES, VERSION
from crackutils.synthetic.store import load_store
from tools.pretraining import SIZE, JoinedRates, Phase, Schedule, Store, crops, network, pretrain, store, write_own

CELLS = SIZE // 4  # a side of the masks
N = 24


def pictures(count: int = N, seed: int = 0) -> Store:
    """Return dark images whose crossed cells are bright; the finish of each row is its number."""
    rng = np.random.default_rng(seed)
    masks = rng.choice([0, 50, 52, 255], (count, CELLS, CELLS), p=[0.9, 0.06, 0.02, 0.02]).astype(np.uint8)
    masks[:, : CELLS // 2] = np.minimum(masks[:, : CELLS // 2], 50)  # the upper half is crossed by nothing
    masks[0], masks[1] = 0, 255
    painted = np.where(masks >= 52, 220, 60).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    images = np.repeat(painted[..., None], 3, 3)
    return Store(images, masks, np.arange(count), rng.normal(size=(count, 3)).astype(np.float32))


def every(s: Store, crop: int, seed: tuple[int, ...] | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    xs, ys = zip(*crops(s, np.arange(len(s.images)), crop, 7, seed), strict=True)
    assert [len(x) for x in xs] == [7] * (len(s.images) // 7) + [len(s.images) % 7]
    assert all(len(y[name]) == len(x) for x, y in zip(xs, ys, strict=True) for name in y)
    return np.concatenate(xs), {name: np.concatenate([y[name] for y in ys]) for name in ys[0]}


def highest(x: np.ndarray, side: int) -> np.ndarray:
    steps = range(0, x.shape[1], side)
    return np.stack([np.stack([x[:, i : i + side, j : j + side].max((1, 2)) for j in steps], 1) for i in steps], 1)


@pytest.mark.parametrize("crop", [64, 96, 160])
def test_targets_agree_with_the_images_after_turns_and_flips(crop: int) -> None:
    s = pictures()
    before = s.images.copy(), s.masks.copy()
    tried, orders = 0, {tuple(range(N))}
    for epoch in range(3):
        x, y = every(s, crop, (5, epoch))
        assert (x.shape, x.dtype) == ((N, crop, crop, 3), np.float32) and x.min() >= -1 and x.max() <= 1
        grey = x[..., 1]
        both = np.ptp(grey, axis=(1, 2)) > 0.3  # crossed cells are there, and others
        row = {number: i for i, number in enumerate(y["finish"])}
        assert sorted(row) == list(range(N))  # each once
        orders.add(tuple(row))
        tried += both.sum() - both[[row[0], row[1]]].sum()
        bright = grey > (grey.min((1, 2), keepdims=True) + grey.max((1, 2), keepdims=True)) / 2
        bright[~both] = False
        bright[row[1]] = True
        fine = highest(bright, 4)
        np.testing.assert_array_equal(fine.repeat(4, 1).repeat(4, 2), bright)  # turned by quarters, moved by cells
        for stride in (16, 32):
            target = y[f"cells_{stride}"]
            assert (target.shape, target.dtype) == ((N, crop // stride, crop // stride, 1), np.float32)
            np.testing.assert_array_equal(target[..., 0], highest(bright, stride))
        np.testing.assert_array_equal(y["crack"][:, 0], fine.sum((1, 2)) > 4)
        assert (y["crack"][row[0]], y["crack"][row[1]]) == (0, 1)
        np.testing.assert_array_equal(y["taken"], s.taken[y["finish"]])
    assert tried > 40 and len(orders) == 4  # the seed decides the order
    np.testing.assert_array_equal(x, every(s, crop, (5, 2))[0])
    assert np.array_equal(s.images, before[0]) and np.array_equal(s.masks, before[1])  # not changed


def test_crops_come_from_everywhere_in_all_eight_turns_and_in_varied_light() -> None:
    s = pictures(96)
    s.images[:], s.masks[:] = s.images[5], s.masks[5]
    _, y = every(s, SIZE, (1, 1))
    upright = highest(s.masks[:1] >= 52, 4)[0]
    turned = [np.rot90(side, k) for k in range(4) for side in (upright, upright[:, ::-1])]
    ways = [[np.array_equal(t, way) for way in turned] for t in y["cells_16"][..., 0]]
    assert np.sum(ways, axis=1).tolist() == [1] * 96 and np.sum(ways, axis=0).min() >= 3
    s.masks[:] = 0
    s.images[:] = np.arange(SIZE, dtype=np.uint8)[:, None, None]  # each row of pixels has its own grey
    x, _ = every(s, 96, (1, 2))
    spread = np.ptp(x[..., 1], axis=(1, 2)) / 2 * 255  # 95 steps times the gain
    assert 0.6 * 95 - 1 <= spread.min() < 0.75 * 95 and 1.1 * 95 < spread.max() <= 1.25 * 95 + 1
    s.images[:] = (40 + 40 * (np.arange(SIZE) >= 80)).astype(np.uint8)[:, None, None]
    bright = np.array([grey > (grey.min() + grey.max()) / 2 for grey in every(s, 96, (1, 2))[0][..., 1]])
    assert set(np.round(bright.mean((1, 2)) * 96 / 4).astype(int)) == {*range(4, 21)}  # from the top to the bottom
    s.images[:] = 128
    x, _ = every(s, 96, (2, 2))
    means = x.mean((1, 2)) * 127.5 + 127.5
    assert 12 < means.mean(1).std() < 22  # uniform from -30 to 30, and the tint's share
    assert 3 < (means - means.mean(1, keepdims=True)).std() < 6
    assert np.ptp(x, axis=(1, 2)).max() == 0  # the same all over a crop


def test_without_a_seed_whole_patches_come_in_order_and_unchanged() -> None:
    x, y = every(s := pictures(), SIZE, None)
    np.testing.assert_allclose(x, s.images / 127.5 - 1, atol=1e-6)
    assert np.array_equal(y["finish"], np.arange(N)) and np.array_equal(y["taken"], s.taken)
    for stride in (16, 32):
        np.testing.assert_array_equal(y[f"cells_{stride}"][..., 0], highest(s.masks > 51, stride // 4))
    np.testing.assert_array_equal(y["crack"][:, 0], (s.masks > 51).sum((1, 2)) > 4)
    ((_, y),) = crops(s, np.array([9, 3, 4]), SIZE, 64, None)
    np.testing.assert_array_equal(y["finish"], [9, 3, 4])


def test_the_training_patches_are_those_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    small = functools.partial(make_photo, width=512, height=384)  # a tenth of the work
    monkeypatch.setattr("crackutils.synthetic.patches.make_photo", small)
    s, drawn = store(Schedule(patches=20, each=3, seed=4)), load_store(4, 20, 3, SIZE)
    assert (s.images[:].shape, s.masks.shape) == ((40, SIZE, SIZE, 3), (40, CELLS, CELLS))
    assert np.array_equal(s.images[:], drawn.images[:]) and np.array_equal(s.masks, drawn.masks)
    assert [FINISHES[number] for number in s.finish] == drawn.facts["finish"].tolist()
    taken = np.log(drawn.facts[["zoom", "blur", "noise"]].to_numpy() + 0.05)
    assert s.taken.dtype == np.float32
    np.testing.assert_allclose(s.taken, (taken - taken.mean(0)) / taken.std(0), atol=1e-4)


def test_learning_rates_follow_each_other() -> None:
    lines = [lambda step, at=at: at + tf.cast(step, "float32") for at in (100.0, 200.0, 300.0)]
    joined = JoinedRates(lines, [4, 6, 9])
    assert [float(joined(tf.constant(step))) for step in range(9)] == [100, 101, 102, 103, 200, 201, 300, 301, 302]


def narrow(seed: int) -> Any:
    """Return the network of our backbone with random weights, all unlike those of a new one."""
    keras.utils.set_random_seed(seed)
    _, base = network()
    rng = np.random.default_rng(seed)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):  # gamma, beta, mean, variance
            ends = ((0.8, 1.5), (-0.3, 0.3), (-0.1, 0.1), (0.3, 1.0))
            layer.set_weights([rng.uniform(*e, layer.gamma.shape) for e in ends])
    return base


def test_a_backbone_that_was_written_reads_back_and_else_is_named(tmp_path: Path) -> None:
    base, other = narrow(1), narrow(2)
    files = [tmp_path / "new" / "a.npz", tmp_path / "b.npz"]
    for file in files:
        write_own(base, file)
    assert files[0].read_bytes() == files[1].read_bytes() and [p.name for p in files[0].parent.iterdir()] == ["a.npz"]
    x = np.random.default_rng(0).uniform(-1, 1, (4, 96, 96, 3)).astype(np.float32)
    exact, before = (np.asarray(net(x, training=False)) for net in (base, other))
    models.read_own(other, files[0])
    error = np.linalg.norm(np.asarray(other(x, training=False)) - exact)
    assert error < 2e-2 * np.linalg.norm(exact) < 0.1 * np.linalg.norm(before - exact)  # which is large enough to see
    for a, b in zip(base.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a.astype(np.float16).astype(np.float32))
    write_own(narrow(2), files[1])
    assert files[0].read_bytes() != files[1].read_bytes()
    wider = models.build_backbone("mobilenetv2", 96, "random")
    for net, file, says in (
        (base, tmp_path / "none.npz", "make pretrain"),
        (wider, files[0], r"a\.npz is missing or damaged \(ValueError\)"),
        (base, files[1], r"b\.npz is missing or damaged"),
    ):
        files[1].write_bytes(files[0].read_bytes()[:100_000])
        with pytest.raises(config.CrackutilsError, match=says):
            models.read_own(net, file)


def tiny() -> tuple[Any, Any]:
    middle = keras.layers.Conv2D(4, 16, 16)(inputs := keras.Input((None, None, 3)))
    last = keras.layers.Conv2D(4, 2, 2)(middle)
    pooled, units = keras.layers.GlobalAveragePooling2D()(last), {"crack": 1, "finish": len(FINISHES), "taken": 3}
    outputs = {name: keras.layers.Dense(n)(pooled) for name, n in units.items()}
    outputs |= {f"cells_{k}": keras.layers.Conv2D(1, 1)(x) for k, x in ((16, middle), (32, last))}
    return keras.Model(inputs, outputs), keras.Model(inputs, last)


def test_every_weight_of_the_backbone_learns() -> None:
    model, base = network()
    with tf.GradientTape() as tape:
        outputs = model(np.random.default_rng(0).random((2, 64, 64, 3), np.float32), training=True)
        total = sum(tf.reduce_mean(output) for output in outputs.values())
    assert len(base.trainable_variables) == sum("moving" not in w.path for w in base.weights)
    assert all(g is not None for g in tape.gradient(total, [v.value for v in model.trainable_variables]))


@pytest.mark.slow
def test_a_pretraining_continues_after_a_kill_with_the_same_bytes(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr("tools.pretraining.network", tiny)
    schedule = Schedule(patches=24, each=6, seed=1, phases=(Phase(96, 2, 1e-3, 16),))
    calls = []

    def dies(path: Path, text: str) -> None:
        calls.append(path.name)
        if len(calls) == 2:  # the weights of the second epoch are there, but nothing says so
            raise KeyboardInterrupt
        write_atomically(path, text)

    killed, whole = (tmp_path / name / "own.npz" for name in ("killed", "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tools.pretraining.write_atomically", dies)
        pretrain(schedule, killed)
    assert calls == ["done.json", "done.json"] and not killed.exists()
    (home,) = (p.parent for p in (config.data_dir() / "cache").glob("*/done.json"))
    assert {p.name for p in home.glob("*.h5")} == {"epoch-1.weights.h5", "epoch-2.weights.h5"}
    capsys.readouterr()
    record = pretrain(schedule, killed)
    assert "continuing after epoch 1" in capsys.readouterr().out
    assert {p.name for p in home.glob("*.h5")} == {"epoch-2.weights.h5"}
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert not (home / "done.json").exists()  # the next call starts anew
    assert pretrain(schedule, whole) == record and "continuing" not in capsys.readouterr().out
    for suffix in (".npz", ".json"):
        assert whole.with_suffix(suffix).read_bytes() == killed.with_suffix(suffix).read_bytes()
    told = json.loads(whole.with_suffix(".json").read_text("utf-8"))
    assert (told["generator"], told["patches"]) == (VERSION, 48)
    assert [(e["epoch"], e["crop"]) for e in told["epochs"]] == [(1, 96), (2, 96)]
    assert all(np.isfinite(v) for e in told["epochs"] for v in e.values())
    keras.utils.set_random_seed(schedule.seed)
    start = (base := tiny()[1]).get_weights()
    models.read_own(base, whole)
    assert not any(np.array_equal(a, b) for a, b in zip(start, base.get_weights(), strict=True))  # all were trained


def errors_of_a_head(base: Any, images: np.ndarray, labels: np.ndarray, train: np.ndarray) -> float:
    """Fit a linear head to the features of some images, and return its share of errors on the others."""
    x = keras.Sequential([base, keras.layers.GlobalAveragePooling2D()]).predict(images / 127.5 - 1, verbose=0)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2)).fit(x[train], labels[train])
    return (head.predict(x[~train]) != labels[~train]).mean()


def test_the_packaged_backbone_is_small_separates_cracks_and_has_a_record(smoke: datasets.Dataset) -> None:
    base = models.build_backbone("mobilenetv2", 160, "crackutils")
    assert models.OWN_FILE.stat().st_size < 1_500_000 and base.count_params() < 500_000
    with np.load(models.OWN_FILE) as arrays:
        found = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    for array, w, loaded in zip(found, base.weights, base.get_weights(), strict=True):
        assert array.dtype == np.float16 and np.isfinite(array).all()
        assert "moving_variance" not in w.path or (array >= 0).all()
        np.testing.assert_array_equal(loaded, array.astype(np.float32))
    images, labels = smoke.pixels(160)[:].astype(np.float32), smoke.index["label"].to_numpy()
    known = smoke.cuts["photo"].to_numpy() % 2 == 0  # the head has not seen the other photos
    assert errors_of_a_head(base, images, labels, known) < 0.15
    record = json.loads(models.OWN_FILE.with_suffix(".json").read_text("utf-8"))
    schedule = record["schedule"]
    assert 1 <= record["generator"] <= VERSION and record["patches"] == 2 * schedule["patches"] >= 10_000
    assert len(record["epochs"]) == sum(phase["epochs"] for phase in schedule["phases"])
    used = {entry["seed"] for entry in datasets.sources().values() if "seed" in entry}
    assert schedule["seed"] not in used  # else it would have seen the photos that it is tested on
    card = models.OWN_FILE.with_name("README.md").read_text("utf-8")
    assert "MIT" in card and f"{record['patches']:,} patches" in card


@pytest.mark.real
def test_our_features_beat_untrained_ones_on_metu() -> None:
    if not (origin := os.environ.get("CRACKUTILS_TEST_METU")):
        pytest.skip("CRACKUTILS_TEST_METU names no METU archive or folder")
    fetch("metu", origin)
    ds = datasets.load(config.profile("metu-mini"))
    part = make_split(ds, "copy-safe", config.DEFAULT_SEED)["split"].to_numpy()
    train = np.random.default_rng(0).choice(np.flatnonzero(part == "train"), 200, replace=False)
    rows = np.concatenate([train, np.flatnonzero(part != "train")])
    images, labels = np.stack([ds.read(row, SIZE) for row in rows]).astype(np.float32), ds.index["label"].to_numpy()
    ours, untrained = network()[1], network()[1]
    models.read_own(ours)
    errors, chance = (errors_of_a_head(b, images, labels[rows], np.arange(len(rows)) < 200) for b in (ours, untrained))
    assert errors < min(0.04, chance / 2)
