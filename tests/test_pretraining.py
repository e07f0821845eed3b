"""Our own backbone: what it is trained on, going on after a kill, and the file in the package."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crackutils import config, datasets, models
from crackutils.files import sha256, write_atomically
from crackutils.images import resize
from crackutils.models import keras
from crackutils.sources.fetch import fetch
from crackutils.splits.make import make_split
from crackutils.synthetic.patches import draw_patches
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import FINISHES, PATCH, VERSION
from tools.pretraining import SIZE, Phase, Schedule, Store, _blocks, _Joined, crops, pretrain, store, tf

CELLS = SIZE // 4  # a side of the kept masks
N = 24


# ---------------------------------------------------------------- crops


def pictures(count: int = N, seed: int = 0) -> Store:
    """Return dark images whose crossed cells are bright; each row says its number as its finish."""
    rng = np.random.default_rng(seed)
    masks = rng.choice([0, 50, 52, 255], (count, CELLS, CELLS), p=[0.9, 0.06, 0.02, 0.02]).astype(np.uint8)
    masks[:, : CELLS // 2] = np.minimum(masks[:, : CELLS // 2], 50)  # the upper half is crossed by nothing
    masks[0], masks[1] = 0, 255
    painted = np.where(masks >= 52, 220, 60).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    images = np.repeat(painted[..., None], 3, 3)
    return Store(images, masks, np.arange(count), rng.normal(size=(count, 3)).astype(np.float32))


def every(
    s: Store, crop: int, seed: tuple[int, ...] | None, batch: int = 7
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return all batches of an epoch as one."""
    xs, ys = zip(*crops(s, np.arange(len(s.images)), crop, batch, seed), strict=True)
    assert [len(x) for x in xs] == [batch] * (len(s.images) // batch) + [len(s.images) % batch]
    assert all(len(y[name]) == len(x) for x, y in zip(xs, ys, strict=True) for name in y)
    return np.concatenate(xs), {name: np.concatenate([y[name] for y in ys]) for name in ys[0]}


def highest(x: np.ndarray, side: int) -> np.ndarray:
    """Return the greatest value of each block, block by block."""
    n = x.shape[1] // side
    out = np.empty((len(x), n, n), x.dtype)
    for k, i, j in itertools.product(range(len(x)), range(n), range(n)):
        out[k, i, j] = x[k, i * side : (i + 1) * side, j * side : (j + 1) * side].max()
    return out


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_blocks_keep_the_greatest_value(k: int) -> None:
    m = np.random.default_rng(k).random((3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(_blocks(m, k), highest(m, k))


@pytest.mark.parametrize("crop", [64, 96, 160])
def test_targets_agree_with_the_images_after_turns_and_flips(crop: int) -> None:
    s = pictures()
    tried = 0
    for epoch in range(3):
        x, y = every(s, crop, (5, epoch))
        assert (x.shape, x.dtype) == ((N, crop, crop, 3), np.float32)
        assert x.min() >= -1 and x.max() <= 1
        grey = x[..., 1]
        both = np.ptp(grey, axis=(1, 2)) > 0.3  # crossed cells are there, and others
        row = {number: i for i, number in enumerate(y["finish"])}
        assert sorted(row) == list(range(N))  # each once
        whole = np.ones(N, bool)
        whole[[row[0], row[1]]] = False
        tried += (both & whole).sum()
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
    assert tried > 40


def test_all_eight_ways_to_turn_an_image_occur() -> None:
    s = pictures(96)
    for rows in (s.images, s.masks):
        rows[:] = rows[5]
    _, y = every(s, SIZE, (1, 1))
    upright = highest(s.masks[:1] >= 52, 4)[0]
    turned = [np.rot90(side, k) for k in range(4) for side in (upright, upright[:, ::-1])]
    ways = [[np.array_equal(t, way) for way in turned] for t in y["cells_16"][..., 0]]
    assert np.sum(ways, axis=1).tolist() == [1] * 96
    assert np.sum(ways, axis=0).min() >= 3


def test_crops_come_from_everywhere() -> None:
    s = pictures(96)
    s.masks[:] = 0
    s.images[:] = np.arange(SIZE, dtype=np.uint8)[:, None, None]  # each row of pixels has its own grey
    x, _ = every(s, 96, (1, 2))
    spread = np.ptp(x[..., 1], axis=(1, 2)) / 2 * 255  # 95 steps times the gain
    assert 0.6 * 95 - 1 <= spread.min() < 0.75 * 95
    assert 1.1 * 95 < spread.max() <= 1.25 * 95 + 1
    s.images[:] = (40 + 40 * (np.arange(SIZE) >= 80)).astype(np.uint8)[:, None, None]
    bright = np.array([grey > (grey.min() + grey.max()) / 2 for grey in every(s, 96, (1, 2))[0][..., 1]])
    share = bright.mean((1, 2))
    assert set(np.round(share * 96 / 4).astype(int)) == {*range(4, 21)}  # every place from the top to the bottom


def test_light_and_colour_vary() -> None:
    s = pictures(60)
    s.images[:], s.masks[:] = 128, 0
    x, _ = every(s, 96, (2, 2))
    means = x.mean((1, 2)) * 127.5 + 127.5
    level, tint = means.mean(1), means - means.mean(1, keepdims=True)
    assert 12 < level.std() < 22  # uniform from -30 to 30, and the tint's share
    assert 3 < tint.std() < 6
    assert np.ptp(x, axis=(1, 2)).max() == 0  # the same all over a crop


def test_the_seed_decides_the_crops() -> None:
    s = pictures()
    one, two, other = (every(s, 96, seed) for seed in ((7, 1), (7, 1), (7, 2)))
    np.testing.assert_array_equal(one[0], two[0])
    for name, target in one[1].items():
        np.testing.assert_array_equal(target, two[1][name])
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1]["finish"], other[1]["finish"])  # the order too
    assert not np.array_equal(one[1]["finish"], np.arange(N))


def test_without_a_seed_whole_patches_come_in_order_as_they_are() -> None:
    s = pictures()
    x, y = every(s, SIZE, None)
    np.testing.assert_allclose(x, s.images / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(y["finish"], np.arange(N))
    np.testing.assert_array_equal(y["taken"], s.taken)
    crossed = s.masks > 51
    for stride in (16, 32):
        np.testing.assert_array_equal(y[f"cells_{stride}"][..., 0], highest(crossed, stride // 4))
    np.testing.assert_array_equal(y["crack"][:, 0], crossed.sum((1, 2)) > 4)
    few = np.array([9, 3, 4])
    ((x, y),) = crops(s, few, SIZE, 64, None)
    np.testing.assert_array_equal(y["finish"], few)


def test_images_in_the_store_are_not_changed() -> None:
    s = pictures()
    before = s.images.copy(), s.masks.copy()
    every(s, 96, (1, 1))
    np.testing.assert_array_equal(s.images, before[0])
    np.testing.assert_array_equal(s.masks, before[1])


# ---------------------------------------------------------------- the kept patches


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of 512x384 pixels: a tenth of the work."""
    monkeypatch.setattr(synthetic, "photo", functools.partial(make_photo, width=512, height=384))


@pytest.mark.usefixtures("quick")
def test_the_store_holds_the_patches_and_is_made_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(patches=20, each=3, seed=4)
    s = store(schedule)
    assert (s.images.shape, s.images.dtype) == ((40, SIZE, SIZE, 3), np.uint8)
    assert (s.masks.shape, s.masks.dtype) == ((40, CELLS, CELLS), np.uint8)
    i, taken = 0, []
    for _, shot, found in draw_patches(4, 20, 3):
        for patch in found:
            np.testing.assert_array_equal(s.images[i], resize(patch.image, SIZE))
            assert s.masks[i].any() == patch.label
            y, x = np.nonzero(patch.mask > 127)  # what is all crack lies in a cell that is marked
            marked = s.masks[i][y * CELLS // PATCH, x * CELLS // PATCH]
            assert (marked > 51).mean() > 0.97 if patch.label else not len(marked)
            assert FINISHES[s.finish[i]] == shot.facts["finish"]
            taken.append([np.log(shot.facts[name] + 0.05) for name in ("zoom", "blur", "noise")])
            i += 1
    assert i == 40
    assert s.taken.dtype == np.float32
    np.testing.assert_allclose(s.taken, (taken - np.mean(taken, 0)) / np.std(taken, 0), atol=1e-4)
    np.testing.assert_allclose(s.taken.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(s.taken.std(0), 1, atol=1e-5)
    monkeypatch.setattr(synthetic, "sample", None)  # the second call reads what the first one kept
    again = store(schedule)
    for one, two in zip(dataclasses.astuple(s), dataclasses.astuple(again), strict=True):
        np.testing.assert_array_equal(one, two)
    (home,) = (data_dir / "cache").iterdir()
    assert home.name.startswith("patches-") and home.name.endswith("-4-20-3-160")  # the one of synthetic.store


@pytest.mark.usefixtures("quick")
def test_a_store_that_was_cut_short_is_made_anew(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: Any) -> Iterator[Any]:
        yield from itertools.islice(sample(*args), 2)
        raise KeyboardInterrupt

    schedule, sample = Schedule(patches=8, each=2, seed=4), draw_patches
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "sample", dies)
        with pytest.raises(KeyboardInterrupt):
            store(schedule)
    (left,) = (data_dir / "cache").iterdir()
    assert left.suffix == ".part" and left.name.startswith("patches-")
    s = store(schedule)
    assert (s.images.reshape(16, -1).std(1) > 1).all()
    assert [p.suffix for p in (data_dir / "cache").iterdir()] == [""]


# ---------------------------------------------------------------- training


def test_learning_rates_follow_each_other() -> None:
    class Line(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, at: float) -> None:
            self.at = at

        def __call__(self, step: Any) -> Any:
            return self.at + tf.cast(step, "float32")

        def get_config(self) -> dict[str, Any]:
            return {"at": self.at}

    joined = _Joined([Line(100.0), Line(200.0), Line(300.0)], [4, 6, 9])
    got = [float(joined(tf.constant(step))) for step in range(9)]
    assert got == [100, 101, 102, 103, 200, 201, 300, 301, 302]


@pytest.fixture
def narrow() -> Callable[[int], Any]:
    """Return a function that builds the network of our backbone with random weights, all unlike those of a new one."""

    def build(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        base, _ = models.build_backbone(models.OWN.backbone, 96, "crackutils", load=False)
        rng = np.random.default_rng(seed)
        for layer in base.layers:
            if isinstance(layer, keras.layers.BatchNormalization):  # gamma, beta, mean, variance
                ends = ((0.8, 1.5), (-0.3, 0.3), (-0.1, 0.1), (0.3, 1.0))
                layer.set_weights([rng.uniform(*e, layer.gamma.shape) for e in ends])
        return base

    return build


def test_a_backbone_that_was_written_reads_back(tmp_path: Path, narrow: Callable[..., Any]) -> None:
    base, other = narrow(1), narrow(2)
    files = [tmp_path / "new" / "a.npz", tmp_path / "b.npz"]
    for file in files:
        models.write_own(base, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [p.name for p in files[0].parent.iterdir()] == ["a.npz"]
    assert files[0].stat().st_size < 1_500_000
    x = np.random.default_rng(0).uniform(-1, 1, (4, 96, 96, 3)).astype(np.float32)
    exact, before = (np.asarray(net(x, training=False)) for net in (base, other))
    models.read_own(other, files[0])
    kept = np.asarray(other(x, training=False))
    norm = np.linalg.norm(exact)
    assert norm > 1
    assert np.linalg.norm(kept - exact) < 2e-2 * norm
    assert np.linalg.norm(before - exact) > 0.3 * norm  # the test can tell
    for a, b in zip(base.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a.astype(np.float16).astype(np.float32))
    models.write_own(narrow(2), files[1])
    assert files[0].read_bytes() != files[1].read_bytes()


def test_weights_of_another_network_are_refused(tmp_path: Path, narrow: Callable[..., Any]) -> None:
    models.write_own(narrow(1), tmp_path / "a.npz")
    wide, _ = models.build_backbone("mobilenetv2", 96, "random")
    with pytest.raises(config.CrackutilsError, match=r"a\.npz is missing or damaged \(ValueError\)"):
        models.read_own(wide, tmp_path / "a.npz")


def test_missing_or_cut_weights_are_told_in_one_sentence(tmp_path: Path, narrow: Callable[..., Any]) -> None:
    base = narrow(1)
    with pytest.raises(config.CrackutilsError, match="make pretrain"):
        models.read_own(base, tmp_path / "none.npz")
    models.write_own(base, tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:100_000])
    with pytest.raises(config.CrackutilsError, match=r"cut\.npz is missing or damaged"):
        models.read_own(base, tmp_path / "cut.npz")


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_a_pretraining_goes_on_after_a_kill_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = Schedule(patches=24, each=6, seed=1, phases=(Phase(96, 2, 1e-3, 16),))
    write, calls = write_atomically, []

    def dies(path: Path, text: str) -> None:
        calls.append(path.name)
        if len(calls) == 2:  # the weights of the second epoch are there, but nothing says so
            raise KilledError
        write(path, text)

    killed = tmp_path / "killed" / "own.npz"
    with monkeypatch.context() as patch:
        patch.setattr(config, "write_atomically", dies)
        with pytest.raises(KilledError):
            pretrain(schedule, killed)
    assert calls == ["done.json", "done.json"]
    assert not killed.exists()
    (home,) = (p.parent for p in (config.data_dir() / "cache").glob("*/done.json"))
    assert {p.name for p in home.glob("*.h5")} == {"epoch-1.weights.h5", "epoch-2.weights.h5"}
    capsys.readouterr()
    record = pretrain(schedule, killed)
    assert "going on after epoch 1" in capsys.readouterr().out
    assert {p.name for p in home.glob("*.h5")} == {"epoch-2.weights.h5"}

    whole = tmp_path / "whole" / "own.npz"
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert not (home / "done.json").exists()  # the next call starts anew
    assert pretrain(schedule, whole) == record
    assert "going on" not in capsys.readouterr().out
    assert whole.read_bytes() == killed.read_bytes()
    assert whole.with_suffix(".json").read_bytes() == killed.with_suffix(".json").read_bytes()
    told = json.loads(whole.with_suffix(".json").read_text("utf-8"))
    assert (told["generator"], told["patches"]) == (VERSION, 48)
    assert [(e["epoch"], e["crop"]) for e in told["epochs"]] == [(1, 96), (2, 96)]
    assert all(np.isfinite(v) for e in told["epochs"] for v in e.values())
    base, _ = models.build_backbone("mobilenetv2", 96, "crackutils", load=False)
    start = base.get_weights()
    models.read_own(base, whole)
    assert not any(np.array_equal(a, b) for a, b in zip(start, base.get_weights(), strict=True))  # all were trained


# ---------------------------------------------------------------- the one in the package


def test_the_packaged_file_is_small_and_of_half_floats() -> None:
    assert models.OWN.file.stat().st_size < 1_500_000
    base, _ = models.build_backbone(models.OWN.backbone, 96, "crackutils", load=False)
    with np.load(models.OWN.file) as arrays:
        found = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    assert [a.shape for a in found] == [tuple(w.shape) for w in base.weights]
    assert {a.dtype for a in found} == {np.dtype(np.float16)}
    assert all(np.isfinite(a).all() for a in found)
    variances = [a for a, w in zip(found, base.weights, strict=True) if "moving_variance" in w.path]
    assert variances and all((v >= 0).all() for v in variances)


def test_the_packaged_backbone_loads_and_tells_its_hash() -> None:
    base, loaded = models.build_backbone("mobilenetv2", 160, "crackutils")
    assert loaded == {"weights": "crackutils", "file": models.OWN.file.name, "sha256": sha256(models.OWN.file)}
    with np.load(models.OWN.file) as arrays:
        for i, w in enumerate(base.get_weights()):
            np.testing.assert_array_equal(w, arrays[f"arr_{i}"].astype(np.float32))
    assert base.count_params() < 500_000


def test_the_packaged_backbone_tells_cracks_from_none(smoke: datasets.Dataset) -> None:
    """Nearest class mean on features of half the photos decides the other half, far better than chance."""
    base, _ = models.build_backbone("mobilenetv2", 160, "crackutils")
    x = smoke.pixels(160).astype(np.float32) / 127.5 - 1
    features = np.concatenate([np.asarray(base(x[i : i + 35], training=False)).mean((1, 2)) for i in range(0, 140, 35)])
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    label, known = smoke.index["label"].to_numpy(), smoke.cuts["photo"].to_numpy() % 2 == 0
    means = [features[known & (label == k)].mean(0) for k in (0, 1)]
    nearer = np.linalg.norm(features - means[0], axis=1) > np.linalg.norm(features - means[1], axis=1)
    assert (nearer == label)[~known].mean() > 0.85


def test_the_record_says_what_the_packaged_backbone_was_trained_on() -> None:
    record = json.loads(models.OWN.file.with_suffix(".json").read_text("utf-8"))
    assert 1 <= record["generator"] <= VERSION
    schedule = record["schedule"]
    assert record["patches"] == 2 * schedule["patches"] >= 10_000
    assert len(record["epochs"]) == sum(phase["epochs"] for phase in schedule["phases"])
    used = {entry["seed"] for entry in datasets.sources().values() if "seed" in entry}
    assert schedule["seed"] not in used  # else it would have seen the photos that it is tested on
    card = models.OWN.file.with_name("README.md").read_text("utf-8")
    assert "MIT" in card and f"{record['patches']:,} patches" in card


def test_our_weights_are_for_one_architecture() -> None:
    for load in (True, False):
        with pytest.raises(
            config.CrackutilsError, match=r"^WEIGHTS=crackutils exist for mobilenetv2 only, not for "
        ) as caught:
            models.build_backbone("mobilenetv3small", 96, "crackutils", load=load)
        text = str(caught.value)
        assert "mobilenetv3small" in text
        assert "\n" not in text
        assert text.endswith(".")


# ---------------------------------------------------------------- real images


@pytest.mark.real
def test_our_features_beat_untrained_ones_on_metu() -> None:
    if not (origin := os.environ.get("CRACKUTILS_TEST_METU")):
        pytest.skip("CRACKUTILS_TEST_METU names no METU archive or folder")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fetch("metu", origin)
    ds = datasets.load(config.profile("metu-mini"))
    part = make_split(ds, "copy-safe", config.DEFAULT_SEED)["split"].to_numpy()
    label = ds.index["label"].to_numpy()
    train = np.random.default_rng(0).choice(np.flatnonzero(part == "train"), 200, replace=False)
    judge = np.flatnonzero(part != "train")
    errors = {}
    for load in (True, False):
        keras.utils.set_random_seed(1)
        base, _ = models.build_backbone("mobilenetv2", SIZE, "crackutils", load=load)
        net = keras.Sequential([base, keras.layers.GlobalAveragePooling2D()])
        x = {
            name: net.predict(np.stack([ds.read(r, SIZE) for r in rows]).astype(np.float32) / 127.5 - 1, verbose=0)
            for name, rows in (("train", train), ("judge", judge))
        }
        head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2)).fit(x["train"], label[train])
        errors[load] = (head.predict(x["judge"]) != label[judge]).mean()
    assert errors[True] < 0.04
    assert errors[True] < errors[False] / 2
