"""Photos made by code: the same each time, with masks, labels and tables that are true."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config
from crackutils.images import read_image, resize
from crackutils.synthetic.distractors import add_distractor, lay_overlays
from crackutils.synthetic.patches import Patch, crack_contrast, cut_patches, draw_patches
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.sample import write_patches, write_tiles
from crackutils.synthetic.scene import (
    FAINT,
    FINISHES,
    HEIGHT,
    OBJECTS,
    PATCH,
    STYLES,
    THIN,
    USUAL,
    VISIBLE,
    WIDTH,
    Photo,
    Scene,
)
from crackutils.synthetic.store import load_store
from crackutils.synthetic.surface import shade_surface

SMALL = (512, 384)
TINY = (300, 260)
SEED = 11
COUNT = 100  # patches of each class in the drawn folder
MIDDLE = slice(PATCH // 2 - 95, PATCH // 2 + 96)  # of a patch: where a crack makes it Positive


# ---------------------------------------------------------------- helpers


def same(a: Photo, b: Photo) -> bool:
    arrays = [(a.image, b.image), (a.mask, b.mask), *zip(a.lines, b.lines, strict=True)]
    return all(np.array_equal(x, y) for x, y in arrays) and (a.points, a.facts) == (b.points, b.facts)


def cut(image: np.ndarray, x: int, y: int) -> np.ndarray:
    return image[y : y + PATCH, x : x + PATCH]


def middle(mask: np.ndarray) -> np.ndarray:
    """Return a patch's mask with nothing but its middle part."""
    out = np.zeros_like(mask)
    out[MIDDLE, MIDDLE] = mask[MIDDLE, MIDDLE]
    return out


def inside(line: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels (rows, columns) and widths of a line's points that lie in the photo."""
    column, row = np.rint(line[:, :2]).astype(int).T
    here = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    return row[here], column[here], line[here, 2]


@pytest.fixture(scope="module")
def small() -> list[Photo]:
    """Twenty photos of 512x384 pixels."""
    return [make_photo(SEED, number, *SMALL) for number in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `draw` writes: 100 patches of each class."""
    home = tmp_path_factory.mktemp("drawn") / "one"
    write_patches(home, COUNT, SEED)
    return home


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "patches.csv", keep_default_na=False).assign(
        label=lambda t: t["file"].str.startswith(config.CLASSES[1]).astype(int),
        sha=lambda t: [hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in t["file"]],
    )


@pytest.fixture(scope="module")
def photos(table: pd.DataFrame) -> dict[int, Photo]:
    """The photos of the drawn patches, made again one by one."""
    return {number: make_photo(SEED, int(number)) for number in sorted(set(table["photo"]))}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `sample` work on small photos."""
    monkeypatch.setattr(synthetic, "photo", functools.partial(make_photo, width=SMALL[0], height=SMALL[1]))


@pytest.fixture
def opencv_threads() -> Iterator[Callable[[int], None]]:
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


# ---------------------------------------------------------------- the same photo each time


def test_seed_and_number_decide_everything_whatever_the_order_and_the_threads(
    small: list[Photo], opencv_threads: Callable[[int], None]
) -> None:
    numbers = range(7, -1, -1)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda number: make_photo(SEED, number, *SMALL), numbers))
    assert all(same(small[number], shot) for number, shot in zip(numbers, again, strict=True))
    for threads in (1, 3):
        opencv_threads(threads)
        assert same(small[5], make_photo(SEED, 5, *SMALL))


def test_no_random_numbers_but_the_photos_own_are_used(small: list[Photo]) -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    assert same(small[0], make_photo(SEED, 0, *SMALL))
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


def test_other_numbers_and_other_seeds_give_other_photos() -> None:
    keys = [(1, 2), (2, 1), (1, 3), (3, 0), (0, 3), (1, 12), (11, 2)]
    shots = [make_photo(*key, *TINY) for key in keys]
    for i, a in enumerate(shots):
        for b in shots[:i]:
            assert (a.image != b.image).mean() > 0.5
            assert not np.array_equal(a.mask, b.mask)
            assert a.facts != b.facts


@pytest.mark.parametrize(("width", "height"), [SMALL, TINY, (256, 256), (257, 391), (1600, 1200)])
def test_a_photo_has_the_size_that_was_asked_for(width: int, height: int) -> None:
    shot = make_photo(4, 1, width, height)
    assert (shot.image.shape, shot.image.dtype) == ((height, width, 3), np.uint8)
    assert (shot.mask.shape, shot.mask.dtype) == ((height, width), np.uint8)
    assert shot.image.std() > 2
    assert 0 < (shot.mask > 127).mean() < 0.5
    assert shot.lines
    for line in shot.lines:
        assert (line.dtype, line.shape[1]) == (np.float32, 3)
        assert np.isfinite(line).all()
        assert (line[:, 2] >= 0).all()
        assert (line[:, :2] > -21).all() and (line[:, :2] < (width + 21, height + 21)).all()
    assert shot.image.flags.c_contiguous


def test_the_usual_size() -> None:
    shot = make_photo(4, 1)
    assert shot.image.shape == (HEIGHT, WIDTH, 3)


def test_unless_told_otherwise_photos_are_those_that_they_always_were(small: list[Photo]) -> None:
    assert (USUAL, VISIBLE) == ((0.33, 0.27, 0.4), (8.0, 1.0))
    for number, shot in enumerate(small):
        rng = np.random.default_rng([SEED, number])
        assert shot.facts["style"] == rng.choice(["hairline", "medium", "wide"], p=[0.33, 0.27, 0.4])
    for number in (3, 8):
        assert same(small[number], make_photo(SEED, number, *SMALL, styles=(0.33, 0.27, 0.4)))


def test_styles_choose_how_wide_cracks_are(small: list[Photo]) -> None:
    assert {shot.facts["style"] for shot in small[:12]} == set(STYLES)
    thin = [make_photo(SEED, number, *SMALL, styles=(1, 0, 0)) for number in range(12)]
    assert {shot.facts["style"] for shot in thin} == {"hairline"}
    for number, shot in enumerate(thin):
        if small[number].facts["style"] == "hairline":
            assert same(shot, small[number])
        else:
            assert not np.array_equal(shot.mask, small[number].mask)
    wide = make_photo(SEED, 0, *SMALL, styles=(0, 0, 1))
    assert wide.facts["style"] == "wide"
    mean = [np.concatenate(shot.lines)[:, 2].mean() for shot in thin]
    assert np.median(mean) < 3 < np.concatenate(wide.lines)[:, 2].mean()


# ---------------------------------------------------------------- masks


def test_lines_lie_on_the_mask_and_the_mask_along_the_lines(small: list[Photo]) -> None:
    on = []
    for shot in small:
        around = 24  # lines may run beside the photo for a while
        spots = np.pad(np.full(shot.mask.shape, 255, np.uint8), around, constant_values=255)
        for line in shot.lines:
            column, row = np.rint(line[:, :2]).astype(int).T + around
            spots[row, column] = 0
            row, column, width = inside(line, shot.mask)
            open_ = width > 1.5
            if open_.sum() > 10:
                on.append((shot.mask[row, column][open_] > 127).mean())
        far = cv2.distanceTransform(spots, cv2.DIST_L2, 5)[around:-around, around:-around][shot.mask > 0]
        widest = max(line[:, 2].max() for line in shot.lines)
        assert len(far)
        assert far.max() <= 0.8 * widest + 2.5  # sides are uneven, and points two pixels apart
    assert len(on) > 20
    assert min(on) > 0.85
    assert np.mean(on) > 0.97


def test_widths_are_those_of_the_mask(small: list[Photo]) -> None:
    """Area over length is measured on the mask, to which the outline drawn around cracks adds a third of a pixel."""
    for shot in small:
        widths = np.concatenate([inside(line, shot.mask)[2] for line in shot.lines])
        measured = shot.mask.sum() / 255 / (2 * len(widths))
        assert 0.75 * widths.mean() < measured < 1.05 * widths.mean() + 0.45  # less where branches overlap


def test_cracks_are_darker_than_what_lies_beside_them(small: list[Photo]) -> None:
    steps = np.array([crack_contrast(shot.image, shot.mask)[0] for shot in small])
    assert (steps > 5).mean() > 0.8
    assert np.median(steps) > 20


def test_photos_vary() -> None:
    finishes, objects, styles, widths, levels = Counter(), Counter(), Counter(), [], []
    for number in range(40):
        shot = make_photo(3, number, *TINY)
        finishes[shot.facts["finish"]] += 1
        styles[shot.facts["style"]] += 1
        objects.update(shot.facts["objects"])
        length = 2 * sum(len(inside(line, shot.mask)[0]) for line in shot.lines)
        widths.append(shot.mask.sum() / 255 / length)
        levels.append(shot.image.mean())
    assert set(finishes) == set(FINISHES)
    assert set(styles) == {"hairline", "medium", "wide"}
    assert set(objects) <= set(OBJECTS)
    assert len(objects) >= len(OBJECTS) - 2
    assert min(widths) < 2
    assert max(widths) > 10
    assert np.ptp(levels) > 60


# ---------------------------------------------------------------- contrast


def striped(surface: float, crack: float) -> tuple[np.ndarray, np.ndarray]:
    image, mask = np.full((60, 80, 3), surface, np.uint8), np.zeros((60, 80), np.uint8)
    image[28:32], mask[28:32] = crack, 255
    return image, mask


def test_contrast_of_a_crack_that_is_known() -> None:
    image, mask = striped(200, 80)
    assert crack_contrast(image, mask) == pytest.approx((120, 120))  # over a spread of 0, and 1
    assert crack_contrast(*striped(80, 200)) == pytest.approx((-120, -120))
    assert crack_contrast(*striped(90, 90)) == (0, 0)
    noise = np.random.default_rng(0).normal(0, 10, image.shape[:2])
    rough = np.clip(image + noise[..., None], 0, 255).astype(np.uint8)
    step, clear = crack_contrast(rough, mask)
    assert step == pytest.approx(120, abs=3)
    assert clear == pytest.approx(120 / 11, rel=0.1)


def test_contrast_looks_beside_the_crack_not_at_its_rim_and_not_far_away() -> None:
    image, mask = striped(200, 80)
    image[26:28], image[32:34] = 0, 0  # the rim
    image[:22], image[38:] = 0, 0  # far away
    assert crack_contrast(image, mask)[0] == pytest.approx(120)
    mask[10:12] = 60  # faint: no crack to measure, but not beside one either
    image[10:12] = 255
    assert crack_contrast(image, np.where(mask > 110, mask, 0))[0] == pytest.approx(120)


@pytest.mark.parametrize("kind", ["none", "a dot", "faint", "all"])
def test_contrast_without_a_crack_or_without_a_surface_is_nothing(kind: str) -> None:
    image, mask = striped(200, 80)
    keep = {"none": 0, "a dot": mask * 0, "faint": mask // 3, "all": mask * 0 + 255}[kind]
    mask = mask * 0 + keep
    if kind == "a dot":
        mask[30, 40:47] = 255  # seven pixels
    assert crack_contrast(image, mask) == (0, 0)


# ---------------------------------------------------------------- patches


def board(crack: int = 1024, row: int = 100, visible: bool = True, points: int = 0) -> Photo:
    """Return a grey photo with a level crack six pixels wide, so long and in that row, and a point without meaning."""
    image, mask = np.full((768, 1024, 3), 180, np.uint8), np.zeros((768, 1024), np.uint8)
    lines = []
    if crack:
        left = (1024 - crack) // 2
        mask[row - 3 : row + 3, left : left + crack] = 255
        x = np.arange(left, left + crack, 2, np.float32)
        lines.append(np.column_stack([x, np.full_like(x, row - 0.5), np.full_like(x, 6)]))
        if visible:
            image[mask > 0] = 60
    return Photo(image, mask, lines, [(500.0, 500.0)] * points, {})


def cuts(shot: Photo, each: int = 20, seed: int = 0) -> tuple[list[Patch], list[Patch]]:
    found = cut_patches(shot, np.random.default_rng(seed), each)
    return [p for p in found if not p.label], [p for p in found if p.label]


def test_patches_of_a_crack_that_is_known() -> None:
    shot = board()
    negative, positive = cuts(shot)
    assert (len(negative), len(positive)) == (20, 20)
    for p in negative + positive:
        np.testing.assert_array_equal(p.image, cut(shot.image, p.x, p.y))
        np.testing.assert_array_equal(p.mask, cut(shot.mask, p.x, p.y))
        assert p.image.shape == (PATCH, PATCH, 3)
    assert not any(p.mask.any() for p in negative)
    assert all(p.mask[MIDDLE, MIDDLE].any() for p in positive)
    assert {p.facts["width"] for p in positive} == {6}
    assert {p.facts["step"] for p in positive} == {120}
    assert len({(p.x, p.y) for p in negative}) == 20


def test_what_nobody_can_see_is_not_cut_as_a_crack_nor_as_none() -> None:
    negative, positive = cuts(board(visible=False))
    assert (len(negative), len(positive)) == (20, 0)
    assert not any(p.mask.any() for p in negative)


@pytest.mark.parametrize(("step", "usual", "faint"), [(4, 0, 0), (6, 0, 20), (9, 20, 20)])
def test_fainter_cracks_count_where_that_is_asked_for(step: int, usual: int, faint: int) -> None:
    shot = board(visible=False)
    shot.image[shot.mask > 0] = 180 - step
    for visible, count in (((8.0, 1.0), usual), (FAINT, faint)):
        found = cut_patches(shot, np.random.default_rng(0), 20, visible)
        assert sum(p.label for p in found) == count
    assert sum(p.label for p in cut_patches(shot, np.random.default_rng(0), 20)) == usual


@pytest.mark.parametrize(("length", "row", "enough"), [(50, 400, False), (90, 400, True), (1024, 8, False)])
def test_a_crack_counts_where_enough_of_it_lies_in_the_middle_part(length: int, row: int, enough: bool) -> None:
    """Too short a crack, or one that runs along the patch's rim, makes a patch neither Positive nor Negative."""
    negative, positive = cuts(board(length, row))
    assert not any(p.mask.any() for p in negative)
    assert bool(positive) == enough
    assert all((p.mask[MIDDLE, MIDDLE].max(0) > 0).sum() >= 70 for p in positive)


def test_a_photo_without_a_crack_has_none_and_one_full_of_crack_nothing_else() -> None:
    negative, positive = cuts(board(crack=0))
    assert (len(negative), len(positive)) == (20, 0)
    shot = board()
    shot.mask[:] = 1
    assert cuts(shot)[0] == []


def test_hard_negatives_lie_where_something_looks_like_a_crack() -> None:
    def around(points: int) -> int:
        negative, _ = cuts(board(points=points), each=40)
        return sum(p.x <= 500 < p.x + PATCH and p.y <= 500 < p.y + PATCH for p in negative)

    assert around(0) < 10
    assert 18 <= around(1) <= 32  # half of them, and those that happen to be there


@pytest.mark.usefixtures("quick")
def test_sample_gives_as_many_as_asked_in_order_whatever_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(count: int, each: int, cores: int) -> list[tuple[int, int, int, int, bytes]]:
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        out = []
        for number, shot, found in draw_patches(SEED, count, each):
            assert found
            assert max(Counter(p.label for p in found).values()) <= each
            assert same(shot, make_photo(SEED, number)) or number > 2  # two are enough to see
            out += [(number, p.label, p.x, p.y, p.image.tobytes()) for p in found]
        assert Counter(row[1] for row in out) == {0: count, 1: count}
        assert [row[0] for row in out] == sorted(row[0] for row in out)
        return out

    one = run(23, 4, 1)
    assert run(23, 4, 3) == one
    fewer = run(9, 4, 2)
    for label in (0, 1):  # a smaller sample is the beginning of a larger one
        first, all_ = ([row for row in rows if row[1] == label] for rows in (fewer, one))
        assert first == all_[:9]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("thin", "styles", "visible"), [(False, (0.33, 0.27, 0.4), (8.0, 1.0)), (True, THIN, FAINT)])
def test_a_sample_of_thin_cracks_has_other_photos_and_fainter_cracks(
    thin: bool, styles: tuple[float, ...], visible: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, photo, patches = [], make_photo, cut_patches
    monkeypatch.setattr(
        synthetic, "photo", lambda *args, styles: (asked.append(styles), photo(*args, styles=styles))[1]
    )
    monkeypatch.setattr(
        synthetic,
        "patches",
        lambda shot, rng, each, seen: (asked.append(seen), patches(shot, rng, each, seen))[1],
    )
    found = list(draw_patches(SEED, 4, 4, **({"thin": True} if thin else {})))
    assert set(asked) == {styles, visible}
    assert sum(p.label for *_, cut in found for p in cut) == 4


# ---------------------------------------------------------------- the kept patches


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("side", "thin"), [(160, False), (224, True)])
def test_the_store_keeps_images_and_masks_together_and_is_made_once(
    side: int, thin: bool, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = load_store(SEED, 9, 3, side, thin)
    assert (s.images.shape, s.images.dtype) == ((18, side, side, 3), np.uint8)
    assert (s.masks.shape, s.masks.dtype) == ((18, side // 4, side // 4), np.uint8)
    assert len(s.facts) == 18
    i = 0
    for number, shot, found in draw_patches(SEED, 9, 3, thin):
        for patch in found:
            if side == 160:
                np.testing.assert_array_equal(s.images[i], resize(patch.image, 160))
                assert s.masks[i].any() == patch.label
            else:
                np.testing.assert_array_equal(s.images[i], patch.image[:224, :224])
                blocks = [[patch.mask[y : y + 4, x : x + 4].max() for x in range(0, 224, 4)] for y in range(0, 224, 4)]
                np.testing.assert_array_equal(s.masks[i], blocks)
            scale = PATCH / 160 if side == 160 else 1
            y, x = np.nonzero(patch.mask > 127)
            y, x = (np.floor(v / scale / 4).astype(int) for v in (y, x))
            inside = (y < side // 4) & (x < side // 4)
            assert (s.masks[i][y[inside], x[inside]] > 0).all()
            row = s.facts.iloc[i]
            told = (row["photo"], row["label"], row["finish"], row["style"], row["zoom"])
            assert told == (number, patch.label, *(shot.facts[name] for name in ("finish", "style", "zoom")))
            assert row["width"] == patch.facts["width"] if patch.label else np.isnan(row["width"])
            i += 1
    assert i == 18
    monkeypatch.setattr(synthetic, "sample", None)  # the second call reads what the first one kept
    again = load_store(SEED, 9, 3, side, thin)
    np.testing.assert_array_equal(again.images, s.images)
    np.testing.assert_array_equal(again.masks, s.masks)
    pd.testing.assert_frame_equal(again.facts, s.facts)
    (home,) = (data_dir / "cache").iterdir()
    assert home.suffix == ""


def test_stores_of_other_settings_or_of_another_generator_are_others(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def sample(seed: int, count: int, each: int, thin: bool) -> Iterator[tuple[int, Photo, list[Patch]]]:
        asked.append((seed, count, each, thin))
        shot = board()
        for number in range(count):
            yield (
                number,
                shot,
                [Patch(cut(shot.image, 0, 0), cut(shot.mask, 0, 0), k, 0, 0, {}) for k in (0, 1)],
            )

    monkeypatch.setattr(synthetic, "sample", sample)
    usual = (1, 2, 3, 160)
    others = [usual, (2, 2, 3, 160), (1, 4, 3, 160), (1, 2, 4, 160), (1, 2, 3, 224), (1, 2, 3, 160, True)]
    for args in others * 2:
        assert len(load_store(*args).images) == 2 * args[1]
    assert len(asked) == len(others) == len(list((data_dir / "cache").iterdir()))
    for module in (np, cv2):
        with monkeypatch.context() as patch:
            patch.setattr(module, "__version__", "0.0")
            load_store(*usual)
    (tmp_path / "synthetic.py").write_text("# another generator")
    monkeypatch.setattr(synthetic, "__file__", str(tmp_path / "synthetic.py"))
    load_store(*usual)
    assert len(asked) == len(others) + 3


@pytest.mark.usefixtures("quick")
def test_a_store_that_was_cut_short_is_made_anew(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: object) -> Iterator[object]:
        yield from itertools.islice(sample(*args), 2)
        raise KeyboardInterrupt

    sample = draw_patches
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "sample", dies)
        with pytest.raises(KeyboardInterrupt):
            load_store(4, 6, 2, 224)
    (left,) = (data_dir / "cache").iterdir()
    assert left.suffix == ".part"
    s = load_store(4, 6, 2, 224)
    assert (s.images.reshape(12, -1).std(1) > 1).all()
    assert len(s.facts) == 12
    assert [p.suffix for p in (data_dir / "cache").iterdir()] == [""]


# ---------------------------------------------------------------- draw


def test_drawn_files_are_named_and_saved_like_metu(folder: Path, table: pd.DataFrame) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [*config.CLASSES, "patches.csv"]
    expected = [f"{name}/{number:05d}.jpg" for name in config.CLASSES for number in range(1, COUNT + 1)]
    assert list(table["file"]) == expected
    assert sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*")) == expected
    usual = io.BytesIO()
    Image.new("RGB", (16, 16)).save(usual, "JPEG", quality=75)
    tables = Image.open(usual).quantization
    for file in expected:
        with Image.open(folder / file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (PATCH, PATCH))
            assert image.quantization == tables
    columns = {"photo", "x", "y", "width", "step", "contrast", "finish", "style", "blur", "objects"}
    assert columns <= set(table)


def test_the_table_tells_where_each_file_was_cut(folder: Path, table: pd.DataFrame, photos: dict[int, Photo]) -> None:
    for row in table.itertuples():
        shot = photos[row.photo]
        piece = cut(shot.image, row.x, row.y)
        file = io.BytesIO()
        Image.fromarray(piece).save(file, "JPEG", quality=75)
        pixels = read_image(folder / row.file)
        np.testing.assert_array_equal(pixels, read_image(file.getvalue()))
        assert np.abs(pixels.astype(int) - piece).mean() < 6
        assert (row.finish, row.style) == (shot.facts["finish"], shot.facts["style"])
        assert row.objects.split() == shot.facts["objects"]
        assert row.blur == shot.facts["blur"]


def test_labels_are_true_on_the_files_as_saved(folder: Path, table: pd.DataFrame, photos: dict[int, Photo]) -> None:
    for row in table.itertuples():
        mask = cut(photos[row.photo].mask, row.x, row.y)
        if not row.label:
            assert not mask.any(), row.file
            assert row.width == ""
            continue
        assert (mask[MIDDLE, MIDDLE] > 0).sum() >= 70, row.file  # its length, were it one pixel wide
        pixels = read_image(folder / row.file)
        for where in (mask, middle(mask)):
            step, clear = crack_contrast(pixels, where)
            assert step > 7 and clear > 0.9, row.file  # JPEG takes a little
        step, clear = crack_contrast(cut(photos[row.photo].image, row.x, row.y), mask)
        assert (float(row.step), float(row.contrast)) == (round(step, 1), round(clear, 2))


def test_order_is_that_of_metu(table: pd.DataFrame) -> None:
    negative, positive = (list(table.loc[table["label"] == label, "photo"]) for label in (0, 1))
    assert positive == sorted(positive)
    moves = sum(a != b for a, b in itertools.pairwise(negative))
    assert moves > 0.7 * len(negative)


def test_exact_copies_are_of_one_place(table: pd.DataFrame) -> None:
    for _, rows in table.groupby("label"):
        assert COUNT // 50 <= rows["sha"].duplicated().sum() <= 0.1 * COUNT
        place = rows.groupby("sha")[["photo", "x", "y"]].nunique()
        assert (place == 1).all(axis=None)
    assert not set(table.loc[table["label"] == 0, "sha"]) & set(table.loc[table["label"] == 1, "sha"])


@pytest.mark.parametrize(("count", "copies"), [(150, 3), (100, 2), (49, 0)])
def test_one_in_fifty_is_an_exact_copy(
    count: int, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    shot = make_photo(SEED, 0, *TINY)

    def sample(seed: int, wanted: int, each: int) -> Iterator[tuple[int, Photo, list[Patch]]]:
        for number in range(wanted):
            images = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
            yield number, shot, [Patch(images[k], shot.mask, k, number, 7, {}) for k in (0, 1)]

    monkeypatch.setattr(synthetic, "sample", sample)
    write_patches(tmp_path / "out", count, 5)
    rows = pd.read_csv(tmp_path / "out" / "patches.csv")
    for name in config.CLASSES:
        files = [f for f in rows["file"] if f.startswith(name)]
        shas = pd.Series([hashlib.sha256((tmp_path / "out" / f).read_bytes()).hexdigest() for f in files], files)
        assert (len(shas), shas.duplicated().sum()) == (count, copies)
        twice = rows.set_index("file").loc[files].assign(sha=shas)
        assert twice.groupby("sha")[["photo", "x"]].nunique().to_numpy().max() == 1
        assert twice["photo"].nunique() == count - copies


def test_some_negatives_show_what_models_take_for_a_crack(table: pd.DataFrame, photos: dict[int, Photo]) -> None:
    hard = possible = 0
    for row in table[table["label"] == 0].itertuples():
        points = np.array(photos[row.photo].points).reshape(-1, 2) - (row.x, row.y)
        possible += len(points) > 0
        hard += bool(((points >= 0) & (points < PATCH)).all(1).any())
    assert possible > 0.2 * COUNT
    assert hard > 0.35 * possible


def test_drawing_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_patches(tmp_path / "two", COUNT, SEED)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file()) == files
    assert len(files) == 2 * COUNT + 1
    assert all((folder / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


@pytest.mark.usefixtures("quick")
def test_another_seed_draws_other_pictures(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_patches(tmp_path / str(seed), 8, seed)
    shas = [{hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / s).glob("*/*")} for s in ("1", "2")]
    assert len(shas[0]) > 12
    assert not shas[0] & shas[1]


# ---------------------------------------------------------------- tiles


def wall(*args: object) -> Photo:
    """Return six by four tiles: cracks that are clear, faint, too faint, too short, closed or a mere spot, or none."""
    image, mask, lines = np.full((1024, 1536, 3), 180, np.uint8), np.zeros((1024, 1536), np.uint8), []

    def crack(row: int, begin: int, end: int, step: int, width: float = 3.0) -> None:
        mask[row - 1 : row + 2, begin:end], image[row - 1 : row + 2, begin:end] = 255, 180 - step
        x = np.arange(begin, end, 2, np.float32)
        lines.append(np.column_stack([x, np.full_like(x, row), np.full_like(x, width)]))

    crack(100, 0, 1536, 90)  # tiles 1 to 6
    crack(356, 4, 30, 90)  # tile 7: 26 pixels
    crack(356, 300, 334, 90)  # tile 8: 34
    crack(612, 0, 1536, 0)  # tiles 13 to 18: nobody can see it
    crack(868, 0, 256, 5)  # tile 19
    crack(868, 256, 512, 2)  # tile 20
    crack(868, 512, 768, 60, 0.8)  # tile 21: closed
    mask[800, 800] = 1  # tile 22
    return Photo(image, mask, lines, [], {"finish": "smooth", "style": "hairline", "blur": 0.5, "objects": []})


def test_tiles_of_a_wall_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(synthetic, "photo", lambda *args: (asked.append(args), wall())[1])
    write_tiles(tmp_path / "out", 2, 9)
    assert asked == [(9, number, 1536, 1024, (1.0, 0.0, 0.0)) for number in (0, 1)]
    positive, negative = [1, 2, 3, 4, 5, 6, 8, 19], [9, 10, 11, 12, 23, 24]
    files = {
        f"{name}/{number:03d}-{tile}.jpg"
        for name, tiles in zip(config.CLASSES, (negative, positive), strict=True)
        for tile in tiles
        for number in (0, 1)
    }
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").glob("*/*")} == files
    table = pd.read_csv(tmp_path / "out" / "patches.csv")
    assert set(table["file"]) == files and len(table) == len(files)
    label = table["file"].str.startswith(config.CLASSES[1])
    assert set(table.loc[label, "width"]) == {3}
    assert set(table.loc[label, "step"]) == {90, 5}
    assert table.loc[~label, ["width", "step", "contrast"]].isna().all(axis=None)


def test_tiles_of_photos_are_cut_like_those_of_sdnet_and_labelled_truly(tmp_path: Path) -> None:
    home = tmp_path / "one"
    write_tiles(home, 2, SEED)
    table = pd.read_csv(home / "patches.csv").set_index("file")
    assert {"photo", "x", "y", "width", "step", "contrast", "finish", "blur"} <= set(table)
    assert {p.relative_to(home).as_posix() for p in home.glob("*/*")} == set(table.index)
    assert sorted(p.name for p in home.iterdir()) == [*config.CLASSES, "patches.csv"]
    counts = Counter()
    for number in (0, 1):
        shot = make_photo(SEED, number, 1536, 1024, (1.0, 0.0, 0.0))
        for tile in range(24):
            y, x = tile // 6 * 256, tile % 6 * 256
            image, mask = (part[y : y + 256, x : x + 256] for part in (shot.image, shot.mask))
            names = [f"{name}/{number:03d}-{tile + 1}.jpg" for name in config.CLASSES]
            there = [(home / name).is_file() for name in names]
            assert there[0] == (not mask.any())
            if any(there):
                row, pixels = table.loc[names[there.index(True)]], read_image(home / names[there.index(True)])
                assert (row["photo"], row["x"], row["y"]) == (number, x, y)
                assert pixels.shape == (256, 256, 3)
                assert np.abs(pixels.astype(int) - image).mean() < 6
            if there[1]:
                assert (mask > 0).sum() >= 30
                assert crack_contrast(image, mask)[0] >= 3
                assert row["width"] < 4
            counts[tuple(there)] += 1
    assert set(counts) >= {(True, False), (False, True)}
    assert not counts[(True, True)]
    write_tiles(tmp_path / "two", 2, SEED)
    for file in [*table.index, "patches.csv"]:
        assert (home / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# ---------------------------------------------------------------- what is no crack


def scene(seed: int, side: int = 320) -> Scene:
    """Return an even surface in slanted light."""
    return Scene(
        rng=np.random.default_rng(seed),
        w=side,
        h=side,
        zoom=1.0,
        light=(0.8, 0.6),
        albedo=np.ones((side, side), np.float32),
        height=np.zeros((side, side), np.float32),
        chroma=np.zeros((side // 8, side // 8, 3), np.float32),
    )


def seen(s: Scene) -> np.ndarray:
    """Return the picture of a scene, float32 (h, w, 3), without cracks and camera."""
    rgb = np.repeat((shade_surface(s) * 170)[..., None], 3, 2).astype(np.float32)
    rgb += cv2.resize(s.chroma, (s.w, s.h))
    lay_overlays(rgb, s)
    return rgb if s.shade is None else rgb * s.shade[..., None]


@pytest.mark.parametrize("name", OBJECTS)
def test_each_object_can_be_put_into_a_scene(name: str) -> None:
    np.testing.assert_allclose(seen(scene(0)), 170, rtol=1e-6)
    changed, marked, hit = [], 0, []
    for seed in range(8):
        s = scene(seed)
        add_distractor(s, name)
        assert s.objects == [name]
        picture = seen(s)
        assert np.isfinite(picture).all()
        other = np.abs(picture - 170).max(2) > 2
        changed.append(other.mean())
        points = np.array(s.points).reshape(-1, 2)
        here = points[((points >= 8) & (points < s.w - 8)).all(1)].astype(int)
        marked += len(points) > 0
        hit += [other[y - 4 : y + 5, x - 4 : x + 5].any() for x, y in here]
    assert np.count_nonzero(changed) >= 6, changed
    assert len(set(changed)) > 4  # no two are alike
    assert marked == (0 if name in ("stain", "salt") else 8)
    assert not hit or np.mean(hit) > 0.8


def test_an_object_that_does_not_exist_changes_nothing() -> None:
    s = scene(0)
    add_distractor(s, "elephant")
    np.testing.assert_allclose(seen(s), 170, rtol=1e-6)
