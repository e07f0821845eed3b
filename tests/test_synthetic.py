"""Synthetic photos: the same each time, with masks, labels and tables that are true."""

import functools
import io
import itertools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config
from crackutils.files import sha256
from crackutils.images import read_image, resize
from crackutils.synthetic import scene
from crackutils.synthetic.distractors import add_distractor, lay_overlays
from crackutils.synthetic.drawing import ribbon
from crackutils.synthetic.joints import add_structure
from crackutils.synthetic.patches import Patch, crack_contrast, cut_patches, draw_patches
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.sample import write_patches, write_tiles
from crackutils.synthetic.scene import FAINT, JOINT, LINE, OBJECTS, PATCH, STYLES, THIN, USUAL, VISIBLE, Photo, Scene
from crackutils.synthetic.store import load_store
from crackutils.synthetic.surface import shade_surface

SMALL = (512, 384)
TINY = (300, 260)
SEED = 11
COUNT = 100  # patches of each class in the drawn folder
MIDDLE = slice(PATCH // 2 - 95, PATCH // 2 + 96)  # of a patch: where a crack makes it Positive


def same(a: Photo, b: Photo) -> bool:
    arrays = [(a.image, b.image), (a.mask, b.mask), *zip(a.lines, b.lines, strict=True)]
    return all(np.array_equal(x, y) for x, y in arrays) and (a.points, a.facts) == (b.points, b.facts)


def cut(image: np.ndarray, x: int, y: int, side: int = PATCH) -> np.ndarray:
    return image[y : y + side, x : x + side]


def inside(line: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels (rows, columns) and widths of a line's points that lie in the photo."""
    column, row = np.rint(line[:, :2]).astype(int).T
    here = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    return row[here], column[here], line[here, 2]


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small() -> list[Photo]:
    """Twenty photos of 512x384 pixels."""
    return [make_photo(SEED, number, *SMALL) for number in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 100 patches of each class."""
    home = tmp_path_factory.mktemp("drawn") / "one"
    write_patches(home, COUNT, SEED)
    return home


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "patches.csv", keep_default_na=False)
    label = table["file"].str.startswith(config.CLASSES[1]).astype(int)
    return table.assign(label=label, sha=table["file"].map(contents(folder)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `draw_patches` work on small photos."""
    smaller = functools.partial(make_photo, width=SMALL[0], height=SMALL[1])
    monkeypatch.setattr("crackutils.synthetic.patches.make_photo", smaller)


def test_seed_and_number_alone_decide_a_photo(small: list[Photo], request: pytest.FixtureRequest) -> None:
    request.addfinalizer(functools.partial(cv2.setNumThreads, cv2.getNumThreads()))
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda number: make_photo(SEED, number, *SMALL), range(7, -1, -1)))
    assert all(map(same, small, reversed(again)))
    for threads in (1, 3):
        cv2.setNumThreads(threads)
        assert same(small[5], make_photo(SEED, 5, *SMALL))
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
    keys = [(1, 2), (2, 1), (1, 3), (3, 0), (0, 3), (1, 12), (11, 2)]
    for a, b in itertools.combinations([make_photo(*key, *TINY) for key in keys], 2):
        assert (a.image != b.image).mean() > 0.5 and a.facts != b.facts and not np.array_equal(a.mask, b.mask)


@pytest.mark.parametrize("size", [SMALL, TINY, (256, 256), (257, 391), (1600, 1200), ()])
def test_shapes_and_types_of_a_photo(size: tuple[int, ...]) -> None:
    shot = make_photo(4, 1, *size)
    width, height = size or (scene.WIDTH, scene.HEIGHT)
    assert (shot.image.shape, shot.mask.shape) == ((height, width, 3), (height, width))
    assert shot.image.dtype == shot.mask.dtype == np.uint8
    assert shot.image.std() > 2 and 0 < (shot.mask > 127).mean() < 0.5
    assert shot.lines and shot.image.flags.c_contiguous
    for line in shot.lines:
        assert (line.dtype, line.shape[1]) == (np.float32, 3) and np.isfinite(line).all() and (line[:, 2] >= 0).all()
        assert (line[:, :2] > -21).all() and (line[:, :2] < (width + 21, height + 21)).all()


def test_styles_are_drawn_first_and_choose_how_wide_cracks_are(small: list[Photo]) -> None:
    assert (USUAL, VISIBLE) == ((0.33, 0.27, 0.4), (8.0, 1.0))
    for number, shot in enumerate(small):
        assert shot.facts["style"] == np.random.default_rng([SEED, number]).choice(STYLES, p=USUAL)
    assert same(small[3], make_photo(SEED, 3, *SMALL, styles=USUAL))
    thin = [make_photo(SEED, number, *SMALL, styles=(1, 0, 0)) for number in range(12)]
    assert {shot.facts["style"] for shot in thin} == {"hairline"}
    for a, b in zip(thin, small, strict=False):
        assert same(a, b) if b.facts["style"] == "hairline" else not np.array_equal(a.mask, b.mask)
    wide = make_photo(SEED, 0, *SMALL, styles=(0, 0, 1))
    assert wide.facts["style"] == "wide"
    mean = [np.concatenate(shot.lines)[:, 2].mean() for shot in thin]
    assert np.median(mean) < 3 < np.concatenate(wide.lines)[:, 2].mean()


def test_lines_and_widths_are_those_of_the_mask(small: list[Photo]) -> None:
    on = []
    for shot in small:
        around = 24  # lines may run beside the photo for a while
        spots, widths = np.pad(np.full(shot.mask.shape, 255, np.uint8), around, constant_values=255), []
        for line in shot.lines:
            column, row = np.rint(line[:, :2]).astype(int).T + around
            spots[row, column] = 0
            row, column, width = inside(line, shot.mask)
            widths += list(width)
            if (width > 1.5).sum() > 10:
                on.append((shot.mask[row, column][width > 1.5] > 127).mean())
        far = cv2.distanceTransform(spots, cv2.DIST_L2, 5)[around:-around, around:-around][shot.mask > 0]
        widest = max(line[:, 2].max() for line in shot.lines)
        assert 0 < far.max() <= 0.8 * widest + 2.5  # sides are uneven, and points 2 pixels apart
        area, length = shot.mask.sum() / 255, 2 * len(widths)  # the outline drawn adds a third of a pixel
        assert 0.75 * np.mean(widths) < area / length < 1.05 * np.mean(widths) + 0.45  # less where branches overlap
    assert len(on) > 20 and min(on) > 0.85 and np.mean(on) > 0.97


def test_photos_vary_and_cracks_are_dark(small: list[Photo]) -> None:
    steps = np.array([crack_contrast(shot.image, shot.mask)[0] for shot in small])
    assert (steps > 5).mean() > 0.8 and np.median(steps) > 20
    shots = [make_photo(3, number, *TINY) for number in range(40)]
    assert {shot.facts["finish"] for shot in shots} == set(scene.FINISHES)
    assert {shot.facts["style"] for shot in shots} == set(STYLES)
    objects = {name for shot in shots for name in shot.facts["objects"]}
    assert objects <= set(OBJECTS) and len(objects) >= len(OBJECTS) - 2
    length = [2 * sum(len(inside(line, shot.mask)[0]) for line in shot.lines) for shot in shots]
    widths = [shot.mask.sum() / 255 / n for shot, n in zip(shots, length, strict=True)]
    assert min(widths) < 2 and max(widths) > 10 and np.ptp([shot.image.mean() for shot in shots]) > 60


def test_default_photos_have_stayed_what_they_were() -> None:
    facts = [
        (200.4, 15.9, 336, 168, "stain hair"),
        (132.0, 24.6, 1074, 326, "joint salt scratch"),
        (180.3, 34.3, 4918, 979, ""),
        (160.5, 30.5, 4106, 352, ""),
        (167.3, 15.9, 1311, 490, "hair"),
    ]
    for number, expected in enumerate(facts):
        shot = make_photo(SEED, number, *TINY)
        objects, length = " ".join(shot.facts["objects"]), sum(map(len, shot.lines))
        found = round(shot.image.mean(), 1), round(shot.image.std(), 1), int(shot.mask.sum() / 255), length, objects
        assert found == (pytest.approx(expected[0], abs=0.1), pytest.approx(expected[1], abs=0.1), *expected[2:])
        assert shot.drop is None and set(np.unique(shot.kinds)) <= {0, JOINT, LINE}


@pytest.fixture(scope="module")
def rich() -> list[Photo]:
    """Seventy photos of 300x260 pixels for the training of a detector."""
    return [make_photo(SEED, number, *TINY, THIN, rich=True) for number in range(70)]


def test_a_third_of_rich_photos_shows_no_crack_and_the_others_all_widths(rich: list[Photo]) -> None:
    assert same(rich[9], make_photo(SEED, 9, *TINY, THIN, rich=True))
    without = [shot for shot in rich if not shot.lines]
    assert 0.2 < len(without) / len(rich) < 0.47
    assert not any(shot.mask.any() or shot.drop.any() for shot in without)
    widths = [shot.facts["crack_width"] for shot in rich if shot.lines]
    assert min(widths) < 0.7 and max(widths) > 15 and np.median(widths) < 4
    drops = [np.median(shot.drop[shot.mask > 60]) for shot in rich if (shot.mask > 60).any()]
    assert np.quantile(drops, 0.05) < 5 and np.quantile(drops, 0.9) > 25  # faint to strong
    assert np.ptp([shot.image.mean() for shot in rich]) > 120
    assert np.mean([len(shot.facts["objects"]) for shot in rich]) > 1.5


def test_width_of_a_line_is_what_its_mask_covers_across(rich: list[Photo]) -> None:
    tested = 0
    for shot in rich:
        if len(shot.lines) != 1 or "behind" in shot.facts["objects"]:
            continue
        line = shot.lines[0].astype(float)
        middle, step = (line[1:] + line[:-1]) / 2, np.hypot(*np.diff(line[:, :2], axis=0).T)
        open_ = (line[1:, 2] > 0) & (line[:-1, 2] > 0)
        here = open_ & ((middle[:, :2] > -0.5) & (middle[:, :2] < np.array(TINY) - 0.5)).all(1)
        if (area := (step * middle[:, 2])[here].sum()) > 60:
            tested += 1
            assert shot.mask.sum() / 255 == pytest.approx(area, rel=0.08), shot.facts
    assert tested >= 5


@pytest.mark.parametrize(("width", "angle"), [(0.3, 0.4), (0.6, 0), (1, 1.2), (3, 0.7), (25, 0.3)])
def test_an_exact_ribbon_is_as_wide_as_asked(width: float, angle: float) -> None:
    line = np.outer(np.arange(100) * 2, (np.cos(angle), np.sin(angle))) + 30.3
    canvas, half = np.zeros((270 * 8, 270 * 8), np.uint8), np.full(100, width / 2)
    ribbon(canvas, line, half, half, 8, exact=True)
    assert canvas.sum() / 255 / 64 / 198 == pytest.approx(width, abs=0.025 + 0.005 * width)


@pytest.mark.parametrize("name", ["saw", "seal", "joint"])
def test_kinds_are_the_pixels_that_a_joint_changed(name: str) -> None:
    for seed in range(4):
        s = Scene(np.random.default_rng(seed), 320, 320, 1.0, (0.8, 0.6))
        (add_distractor if name == "joint" else add_structure)(s, name)
        changed, noted = np.abs(s.albedo - 1) > 0.08, s.kinds == JOINT
        assert noted.any() and (changed & noted).sum() > 0.9 * noted.sum()
        around = cv2.dilate(noted.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert not (changed & ~around).any()


@pytest.mark.parametrize("name", ["planks", "panels", "bricks", "blocks", "tiles"])
def test_seams_run_along_noted_joints(name: str) -> None:
    on = []
    for seed in range(6):
        s = Scene(np.random.default_rng(seed), 320, 320, 1.0, (0.8, 0.6))
        add_structure(s, name)
        noted = cv2.dilate((s.kinds == JOINT).astype(np.uint8), np.ones((9, 9), np.uint8))
        for seam in s.seams:
            row, column, _ = inside(np.column_stack([seam, seam[:, 0]]), s.kinds)
            on.append(noted[row, column].mean() if len(row) else 1.0)
        assert (s.kinds == JOINT).mean() < 0.4
    assert len(on) > 5 and np.median(on) > 0.8


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
    step, clear = crack_contrast(np.clip(image + noise[..., None], 0, 255).astype(np.uint8), mask)
    assert (step, clear) == (pytest.approx(120, abs=3), pytest.approx(120 / 11, rel=0.1))
    image[26:28], image[32:34], image[:22], image[38:] = 0, 0, 0, 0  # the rim, and far away
    assert crack_contrast(image, mask)[0] == pytest.approx(120)
    dot = np.zeros_like(mask)
    dot[30, 40:47] = 255  # seven pixels
    for nothing in (mask * 0, dot, mask // 3, mask * 0 + 255):
        assert crack_contrast(image, nothing) == (0, 0)


def board(crack: int = 1024, row: int = 100, step: int = 120, points: int = 0) -> Photo:
    """Return a grey photo with a level crack six pixels wide, so long and in that row, and a point without meaning."""
    image, mask, lines = np.full((768, 1024, 3), 180, np.uint8), np.zeros((768, 1024), np.uint8), []
    if crack:
        left = (1024 - crack) // 2
        mask[row - 3 : row + 3, left : left + crack] = 255
        x = np.arange(left, left + crack, 2, np.float32)
        lines.append(np.column_stack([x, np.full_like(x, row - 0.5), np.full_like(x, 6)]))
        image[mask > 0] = 180 - step
    return Photo(image, mask, lines, [(500.0, 500.0)] * points, {})


def cuts(shot: Photo, each: int = 20, *visible: tuple[float, float]) -> tuple[list[Patch], list[Patch]]:
    found = cut_patches(shot, np.random.default_rng(0), each, *visible)
    return [p for p in found if not p.label], [p for p in found if p.label]


def test_patches_of_a_crack_and_of_distractors_that_are_known() -> None:
    shot = board()
    negative, positive = cuts(shot)
    assert (len(negative), len(positive)) == (20, 20)
    for p in negative + positive:
        np.testing.assert_array_equal(p.image, cut(shot.image, p.x, p.y))
        np.testing.assert_array_equal(p.mask, cut(shot.mask, p.x, p.y))
        assert p.image.shape == (PATCH, PATCH, 3)
    assert {(p.facts["width"], p.facts["step"]) for p in positive} == {(6, 120)}
    assert len({(p.x, p.y) for p in negative}) == 20
    shot.mask[:] = 1
    assert cuts(shot)[0] == []  # a photo full of crack
    for points, least, most in ((0, 0, 9), (1, 18, 32)):  # half lie on distractors, and those that happen to be there
        negative = cuts(board(points=points), each=40)[0]
        assert least <= sum(0 <= 500 - p.x < PATCH and 0 <= 500 - p.y < PATCH for p in negative) <= most


@pytest.mark.parametrize(
    ("crack", "visible", "count"),
    [({"step": step}, (), n) for step, n in ((0, 0), (4, 0), (6, 0), (9, 20))]  # can a person see it?
    + [({"step": step}, (FAINT,), n) for step, n in ((0, 0), (4, 0), (6, 20), (9, 20))]
    + [({"crack": 0}, (), 0), ({"crack": 50, "row": 400}, (), 0), ({"row": 8}, (), 0)]  # too short, and along the rim
    + [({"crack": 90, "row": 400}, (), 20)],
)
def test_a_crack_counts_where_enough_of_it_is_seen_in_the_middle(crack: dict, visible: tuple, count: int) -> None:
    """A patch with too little crack is neither Positive nor Negative."""
    negative, positive = cuts(board(**crack), 20, *visible)
    assert len(negative) == 20 and not any(p.mask.any() for p in negative) and len(positive) == count
    assert all((p.mask[MIDDLE, MIDDLE].max(0) > 0).sum() >= 70 for p in positive)


def test_as_many_patches_as_asked_whatever_the_cores(quick: None, monkeypatch: Any, small: list[Photo]) -> None:
    def run(count: int, each: int, cores: int) -> list[tuple[int, int, int, int, bytes]]:
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        out = []
        for number, shot, found in draw_patches(SEED, count, each):
            assert 0 < max(Counter(p.label for p in found).values()) <= each
            assert number > 2 or same(shot, small[number])
            out += [(number, p.label, p.x, p.y, p.image.tobytes()) for p in found]
        assert Counter(row[1] for row in out) == {0: count, 1: count}
        assert [row[0] for row in out] == sorted(row[0] for row in out)
        return out

    one, fewer = run(23, 4, 1), run(9, 4, 2)
    assert run(23, 4, 3) == one
    for label in (0, 1):  # a smaller sample is the beginning of a larger one
        assert [r for r in fewer if r[1] == label] == [r for r in one if r[1] == label][:9]


@pytest.mark.parametrize(("thin", "expected"), [({}, (USUAL, VISIBLE)), ({"thin": True}, (THIN, FAINT))])
def test_thin_takes_more_hairlines_and_fainter_cracks(thin: dict, expected: tuple, monkeypatch: Any) -> None:
    make, cutter = Mock(return_value=board()), Mock(side_effect=cut_patches)
    monkeypatch.setattr("crackutils.synthetic.patches.make_photo", make)
    monkeypatch.setattr("crackutils.synthetic.patches.cut_patches", cutter)
    found = list(draw_patches(SEED, 4, 4, **thin))
    calls = zip(make.call_args_list, cutter.call_args_list, strict=True)
    assert {(made.kwargs["styles"], cut.args[3]) for made, cut in calls} == {expected}
    assert sum(p.label for *_, patches in found for p in patches) == 4


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("side", "thin"), [(160, False), (224, True)])
def test_a_store_holds_images_with_masks_made_once(side: int, thin: bool, data_dir: Path, monkeypatch: Any) -> None:
    s = load_store(SEED, 9, 3, side, thin)
    assert (s.images[:].shape, s.masks.shape) == ((18, side, side, 3), (18, side // 4, side // 4))
    assert s.images[0].dtype == s.masks.dtype == np.uint8
    drawn = [(number, shot, patch) for number, shot, found in draw_patches(SEED, 9, 3, thin) for patch in found]
    assert len(s.facts) == len(drawn) == 18
    for i, (number, shot, patch) in enumerate(drawn):
        if side == 160:
            np.testing.assert_array_equal(s.images[i], resize(patch.image, 160))
            assert s.masks[i].any() == patch.label
        else:
            np.testing.assert_array_equal(s.images[i], patch.image[:224, :224])
            blocks = [[cut(patch.mask, x, y, 4).max() for x in range(0, 224, 4)] for y in range(0, 224, 4)]
            np.testing.assert_array_equal(s.masks[i], blocks)
        scale = PATCH / 160 if side == 160 else 1
        y, x = (np.floor(v / scale / 4).astype(int) for v in np.nonzero(patch.mask > 127))
        here = (y < side // 4) & (x < side // 4)
        assert (s.masks[i][y[here], x[here]] > 0).all()
        row, names = s.facts.iloc[i], ["finish", "style", "zoom"]
        assert [row["photo"], row["label"], *row[names]] == [number, patch.label, *(shot.facts[k] for k in names)]
        assert row["width"] == patch.facts["width"] if patch.label else np.isnan(row["width"])
    monkeypatch.setattr("crackutils.synthetic.store.draw_patches", None)  # the second call reads from disk
    again = load_store(SEED, 9, 3, side, thin)
    np.testing.assert_array_equal(again.images[:], s.images[:])
    if (maps := Path("/proc/self/maps")).is_file():
        assert "images.npy" not in maps.read_text()  # its pages would count as memory
    np.testing.assert_array_equal(again.masks, s.masks)
    pd.testing.assert_frame_equal(again.facts, s.facts)
    assert len(list((data_dir / "cache").iterdir())) == 1


def test_stores_of_other_settings_or_generators_are_others_and_none_is_half(data_dir: Path, monkeypatch: Any) -> None:
    shot = board()
    patches = [Patch(cut(shot.image, 0, 0), cut(shot.mask, 0, 0), k, 0, 0, {}) for k in (0, 1)]
    draw, usual = Mock(side_effect=KeyboardInterrupt), (1, 2, 3, 160)
    monkeypatch.setattr("crackutils.synthetic.store.draw_patches", draw)
    with pytest.raises(KeyboardInterrupt):
        load_store(*usual)
    assert list((data_dir / "cache").iterdir()) == []
    draw = Mock(side_effect=lambda seed, count, each, thin: ((number, shot, patches) for number in range(count)))
    monkeypatch.setattr("crackutils.synthetic.store.draw_patches", draw)
    others = [usual, (2, 2, 3, 160), (1, 4, 3, 160), (1, 2, 4, 160), (1, 2, 3, 224), (1, 2, 3, 160, True)]
    for args in others * 2:
        assert len(load_store(*args).images) == 2 * args[1]
    assert draw.call_count == len(others) == len(list((data_dir / "cache").iterdir()))
    generator = {"numpy.__version__": "0.0", "cv2.__version__": "0.0"}
    for name, value in (generator | {"crackutils.synthetic.store.hash_sources": lambda folder: "other code"}).items():
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            load_store(*usual)
    assert draw.call_count == len(others) + 3


def test_drawn_files_are_like_metu_and_the_seed_decides(folder: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    expected = [f"{name}/{number:05d}.jpg" for name in config.CLASSES for number in range(1, COUNT + 1)]
    assert list(table["file"]) == expected and sorted(contents(folder)) == [*expected, "patches.csv"]
    negative, positive = (list(table.loc[table["label"] == label, "photo"]) for label in (0, 1))
    assert positive == sorted(positive) and sum(a != b for a, b in itertools.pairwise(negative)) > 0.7 * len(negative)
    copies = table.groupby("label")["sha"].apply(lambda sha: sha.duplicated().sum())
    assert copies.between(COUNT // 50, 0.1 * COUNT).all()  # the planted ones, and a few cuts that coincide
    assert table.groupby("sha")[["label", "photo", "x", "y"]].nunique().to_numpy().max() == 1
    # the seed decides all bytes
    write_patches(tmp_path / "two", COUNT, SEED)
    assert contents(tmp_path / "two") == contents(folder)
    write_patches(tmp_path / "other", 8, SEED + 1)
    other = set(contents(tmp_path / "other").values())
    assert len(other) > 12 and not other & set(contents(folder).values())


def test_table_and_labels_are_true_on_the_files_as_saved(folder: Path, table: pd.DataFrame) -> None:
    hard, photos = [], {number: make_photo(SEED, int(number)) for number in set(table["photo"])}
    for row in table.itertuples():
        shot = photos[row.photo]
        piece, mask = cut(shot.image, row.x, row.y), cut(shot.mask, row.x, row.y)
        file, pixels = io.BytesIO(), read_image(folder / row.file)
        Image.fromarray(piece).save(file, "JPEG", quality=75)
        assert (folder / row.file).read_bytes() == file.getvalue() and np.abs(pixels.astype(int) - piece).mean() < 6
        facts = (row.finish, row.style, row.objects.split(), row.blur)
        assert facts == tuple(shot.facts[name] for name in ("finish", "style", "objects", "blur"))
        if row.label:
            middle = np.zeros_like(mask)
            middle[MIDDLE, MIDDLE] = mask[MIDDLE, MIDDLE]
            assert (middle > 0).sum() >= 70, row.file  # its length, were it one pixel wide
            for where in (mask, middle):
                step, clear = crack_contrast(pixels, where)
                assert step > 7 and clear > 0.9, row.file  # JPEG takes a little
            step, clear = crack_contrast(piece, mask)
            assert (float(row.step), float(row.contrast)) == (round(step, 1), round(clear, 2)) and float(row.width) > 0
        else:
            assert not mask.any() and row.width == "", row.file
            points = np.array(shot.points).reshape(-1, 2) - (row.x, row.y)
            hard += [((points >= 0) & (points < PATCH)).all(1).any()] if len(points) else []
    assert len(hard) > 0.2 * COUNT and np.mean(hard) > 0.35


@pytest.mark.parametrize(("count", "copies"), [(150, 3), (100, 2), (49, 0)])
def test_one_in_fifty_is_a_copy(count: int, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, shot = np.random.default_rng(0), make_photo(SEED, 0, *TINY)

    def draw(seed: int, wanted: int, each: int) -> Iterator[tuple[int, Photo, list[Patch]]]:
        for number in range(wanted):
            images = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
            yield number, shot, [Patch(images[k], shot.mask, k, number, 7, {}) for k in (0, 1)]

    monkeypatch.setattr("crackutils.synthetic.sample.draw_patches", draw)
    write_patches(tmp_path / "out", count, 5)
    rows = pd.read_csv(tmp_path / "out" / "patches.csv")
    rows["sha"] = rows["file"].map(contents(tmp_path / "out"))
    for _, part in rows.groupby(rows["file"].str[:8]):
        assert (len(part), part["sha"].duplicated().sum()) == (count, copies)
        assert part.groupby("sha")[["photo", "x"]].nunique().to_numpy().max() == 1
        assert part["photo"].nunique() == count - copies


def wall() -> Photo:
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
    make = Mock(side_effect=lambda *args: wall())
    monkeypatch.setattr("crackutils.synthetic.sample.make_photo", make)
    write_tiles(tmp_path / "out", 2, 9)
    assert make.mock_calls == [call(9, number, 1536, 1024, (1.0, 0.0, 0.0)) for number in (0, 1)]
    tiles = {"Negative": [9, 10, 11, 12, 23, 24], "Positive": [1, 2, 3, 4, 5, 6, 8, 19]}
    files = {f"{name}/{number:03d}-{tile}.jpg" for name in tiles for tile in tiles[name] for number in (0, 1)}
    assert set(contents(tmp_path / "out")) == files | {"patches.csv"}
    table = pd.read_csv(tmp_path / "out" / "patches.csv")
    assert set(table["file"]) == files and len(table) == len(files)
    label = table["file"].str.startswith(config.CLASSES[1])
    assert (set(table.loc[label, "width"]), set(table.loc[label, "step"])) == ({3}, {90, 5})
    assert table.loc[~label, ["width", "step", "contrast"]].isna().all(axis=None)


def seen(s: Scene) -> np.ndarray:
    """Return the picture of a scene, float32 (h, w, 3), without cracks and camera."""
    rgb = np.repeat((shade_surface(s) * 170)[..., None], 3, 2).astype(np.float32)
    rgb += cv2.resize(s.chroma, (s.w, s.h))
    lay_overlays(rgb, s)
    return rgb if s.shade is None else rgb * s.shade[..., None]


@pytest.mark.parametrize("name", OBJECTS)
def test_each_object_can_be_put_into_a_scene(name: str) -> None:
    changed, marked, hit = [], 0, []
    for seed in range(8):
        s = Scene(np.random.default_rng(seed), 320, 320, 1.0, (0.8, 0.6))
        np.testing.assert_allclose(seen(s), 170, rtol=1e-6)
        add_distractor(s, name)
        assert s.objects == [name]
        assert (s.kinds == LINE).any() == (name in ("hair", "wire", "root", "scratch"))
        assert (s.kinds == JOINT).any() == (name in ("joint", "ridge"))
        picture = seen(s)
        assert np.isfinite(picture).all()
        other, points = np.abs(picture - 170).max(2) > 2, np.array(s.points).reshape(-1, 2)
        changed.append(other.mean())
        marked += len(points) > 0
        here = points[((points >= 8) & (points < s.w - 8)).all(1)].astype(int)
        hit += [other[y - 4 : y + 5, x - 4 : x + 5].any() for x, y in here]
    assert np.count_nonzero(changed) >= 6 and len(set(changed)) > 4, changed  # no two are alike
    assert marked == (0 if name in ("stain", "salt") else 8)
    assert not hit or np.mean(hit) > 0.8
