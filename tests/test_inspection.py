"""Whole photos: what the map covers, how lines are measured, and a run that goes on and tells what is broken."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crackutils import config, engines, evaluation, inspection, models, recipes, synthetic
from crackutils.__main__ import main
from crackutils.config import CrackutilsError

SIZE = 256
GREY, DARK = 170, 40


class Fake:
    """An engine that takes dark cells for cracks and counts its windows."""

    def __init__(self, added: float = 0.0) -> None:
        self.counts: list[int] = []  # by threads, which would lose some of a sum
        self.added = added

    @property
    def windows(self) -> int:
        return sum(self.counts)

    def detector(self) -> inspection.Detector:
        return inspection.Detector(engines.Engine("fake", "1", "float32", lambda: self.run), SIZE, 0.06, "fake")

    def run(self, x: np.ndarray) -> np.ndarray:
        self.counts.append(int((x.max((1, 2, 3)) > 0).sum()))  # the rest of a batch is empty
        side = SIZE // 16
        least = x.reshape(len(x), side, 16, side, 16, 3).min((2, 4, 5)).reshape(len(x), -1)
        cells = np.where(least < 100, 4.0, -6.0)
        return np.concatenate([np.full((len(x), 1), self.added), cells], 1).astype(np.float32)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    monkeypatch.setattr(inspection, "detector", lambda folder, engine="litert": found.detector())
    return found


def wall(
    height: int = 700, width: int = 900, lines: Any = (((100, 150), (700, 150)),), thick: int = 4, seed: int = 0
) -> np.ndarray:
    """Return a slightly uneven wall with dark lines, each from one point (x, y) to another."""
    image = np.full((height, width, 3), GREY, np.uint8)
    for begin, end in lines:
        cv2.line(image, begin, end, (DARK,) * 3, thick)
    noise = np.random.default_rng(seed).normal(0, 3, (height, width, 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def odds_of(image: np.ndarray, fake: Fake | None = None) -> np.ndarray:
    return inspection.cells_of(inspection.crack_map(image, (fake or Fake()).detector()))


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize("size", [(700, 900), (256, 256), (70, 300), (513, 1031), (1000, 64)])
def test_the_map_covers_photos_of_any_size(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = wall(*size, lines=())
    y, x = size[0] // 2 // 16 * 16, size[1] // 2 // 16 * 16
    image[y + 4 : y + 12, x + 4 : x + 12] = DARK
    seen = inspection.crack_map(image, Fake(0.5).detector())
    assert (seen.shape, seen.dtype) == ((2, -(-size[0] // 16), -(-size[1] // 16)), np.float32)
    np.testing.assert_allclose(seen[1], 0.5)
    np.testing.assert_array_equal(inspection.cells_of(seen), seen[0])  # what raises the window moves no cell
    assert np.unravel_index(seen[0].argmax(), seen[0].shape) == (y // 16, x // 16)
    monkeypatch.setattr(inspection, "SCALES", (1.0,))
    alone = inspection.crack_map(image, Fake(-2.0).detector())
    assert np.argwhere(alone[0] > 0).tolist() == [[y // 16, x // 16]]
    assert alone[0].max() == pytest.approx(4) and alone[0].min() == pytest.approx(-6)
    np.testing.assert_allclose(inspection.cells_of(alone), alone[0] - 2)  # doubts do


def test_windows_overlap_and_reach_the_rim() -> None:
    for length in (256, 272, 448, 464, 4608):
        places = inspection._places(length, SIZE)
        assert places[0] == 0 and places[-1] == length - SIZE
        assert all(place % 16 == 0 for place in places)
        steps = np.diff(places)
        assert (steps > 0).all() and (steps <= SIZE - 64).all()


def test_tiles_are_what_the_network_makes_of_their_cells() -> None:
    seen = np.full((2, 40, 33), -6, np.float32)
    seen[1] = 0
    seen[0, 17, 2:18] = 4  # 14 cells in the tile at row 1, column 0, two in the next
    seen[1, 16:32, :16] = -1
    found = inspection.tiles(seen, 0.06)
    assert found[["row", "col"]].to_numpy().tolist() == [[r, c] for r in range(3) for c in range(3)]
    expected = evaluation.top_mean(seen[:1, 16:32, :16], 0.06)[0] - 1
    assert found["p_crack"][3] == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-6)
    assert found["p_crack"].idxmax() == 3 and found["p_crack"][0] < 0.01
    assert len(found) == 9  # the last ones are smaller


# ---------------------------------------------------------------- lines


def test_dark_lines_are_found_to_the_pixel_and_only_near_cells() -> None:
    image = wall(lines=(((100, 150), (700, 150)), ((100, 500), (700, 560))), thick=5)
    odds = odds_of(image)
    odds[25:] = -6  # the network does not believe in the second
    mask = inspection.crack_mask(image, odds, 0.5)
    truth = np.zeros(mask.shape, np.uint8)
    cv2.line(truth, (100, 150), (700, 150), 1, 5)
    assert (mask & (truth > 0)).sum() / (mask | (truth > 0)).sum() > 0.75
    assert not mask[400:].any()
    assert not inspection.crack_mask(image, odds, 0.999).any()


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    image = wall(lines=(((10, 20), (880, 690)), ((600, 0), (500, 699))))
    odds = odds_of(image)
    whole = inspection.crack_mask(image, odds, 0.5)
    monkeypatch.setattr(inspection, "_BLOCK", 256)
    parts = inspection.crack_mask(image, odds, 0.5)
    assert whole.sum() > 5000
    assert (whole ^ parts).sum() < 0.02 * whole.sum()


@pytest.mark.parametrize("angle", [0, 10, 22.5, 30, 45, 60, 90])
def test_lines_are_as_long_as_they_are_whatever_their_direction(angle: float) -> None:
    end = (round(500 + 400 * np.cos(np.radians(angle))), round(500 + 400 * np.sin(np.radians(angle))))
    canvas = np.zeros((1000, 1000), np.uint8)
    cv2.line(canvas, (500, 500), end, 1, 5)
    found = inspection.line_length(inspection.middle_lines(canvas > 0))
    assert found == pytest.approx(400, rel=0.04)


def test_the_length_of_a_circle_is_its_perimeter() -> None:
    canvas = np.zeros((500, 500), np.uint8)
    cv2.circle(canvas, (250, 250), 200, 1, 4)
    assert inspection.line_length(inspection.middle_lines(canvas > 0)) == pytest.approx(2 * np.pi * 200, rel=0.03)


def test_each_crack_is_measured() -> None:
    image = wall(lines=(((100, 150), (700, 150)), ((200, 400), (400, 600))), thick=6)
    odds = odds_of(image)
    found = inspection.cracks(inspection.crack_mask(image, odds, 0.5), odds, 0.5)
    assert len(found) == 2
    np.testing.assert_allclose(found["length"], [600, 283], rtol=0.05)
    np.testing.assert_allclose(found["width_mean"], [7, 7], atol=2)  # what OpenCV draws for 6
    assert (found["width_most"] >= found["width_mean"] - 1).all() and (found["width_most"] < 12).all()
    first = found.iloc[0]
    assert (
        first["x"] <= 100 and first["x"] + first["width"] >= 700 and first["y"] <= 150 <= first["y"] + first["height"]
    )
    assert (found["p_crack"] > 0.5).all()
    nothing = np.full_like(odds, -6)
    assert inspection.cracks(inspection.crack_mask(image, nothing, 0.5), nothing, 0.5).empty
    # a cell that is crack-like for a reason that is no line
    nothing[3, 3] = 5
    only = inspection.cracks(inspection.crack_mask(image, nothing, 0.5), nothing, 0.5)
    assert only[["length", "area", "width_mean"]].to_numpy().tolist() == [[0, 0, 0]]


def test_the_picture_shows_frame_line_and_scale() -> None:
    image = wall(lines=(((100, 150), (700, 150)),))
    odds = odds_of(image)
    mask = inspection.crack_mask(image, odds, 0.5)
    before = image.copy()
    plain = inspection.overlay(image, odds, mask, 0.5, None, 2000)
    np.testing.assert_array_equal(image, before)
    assert plain.shape == image.shape  # not enlarged
    for colour in (inspection._LINE, inspection._FRAME):
        assert (plain == colour).all(2).sum() > 300
    small = inspection.overlay(image, odds, mask, 0.5, 0.5, 450)
    assert small.shape == (350, 450, 3)
    bar = (small[300:] == 255).all(2)
    # 900 pixels of 0.5 mm, a fifth is 90 mm: the bar is 50 mm or 100 pixels of the photo, 50 of the picture
    assert bar.sum(1).max() in range(48, 54)
    assert not (inspection.overlay(image, odds, mask, 0.5, None, 450)[300:] == 255).all(2).any()


# ---------------------------------------------------------------- a folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos good and bad, in folders or not."""
    home = tmp_path / "photos & more"
    (home / "north").mkdir(parents=True)
    Image.fromarray(wall()).save(home / "long.png")
    Image.fromarray(wall(lines=(((300, 300), (420, 300)),))).save(home / "north" / "short.jpg", quality=95)
    Image.fromarray(wall(lines=())).save(home / "<b>clean.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(wall(500, 800)).save(home / "turned.jpg", exif=exif, quality=95)
    (home / "empty.jpg").touch()
    (home / "cut.jpg").write_bytes((home / "turned.jpg").read_bytes()[:9000])
    Image.new("1", (20_000, 20_000)).save(home / "bomb.png")
    Image.new("RGB", (30, 2000)).save(home / "sliver.png")
    (home / "notes.txt").write_text("no picture")
    (home / ".hidden.png").write_bytes((home / "long.png").read_bytes())
    return home


def rows(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "photos.csv", keep_default_na=False).set_index("file")


def test_a_folder_is_inspected_and_what_is_broken_is_told(
    folder: Path, tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["inspect", str(folder), "--out", str(out), "--model", "x", "--mm-per-pixel", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "1 files that are no pictures" in told
    assert "3 of 8 photos show something crack-like, 4 could not be used" in told
    found = rows(out)
    assert found.index.tolist()[:4] == ["long.png", "turned.jpg", "north/short.jpg", "<b>clean.png"]  # longest first
    assert found["length_mm"].astype(float).tolist()[:4] == pytest.approx([300, 300, 60, 0], rel=0.06, abs=0.1)
    assert found.loc["turned.jpg", ["wide", "high"]].tolist() == ["500", "800"]  # as a person sees it
    problems = found["problem"][4:].to_dict()
    assert set(problems) == {"empty.jpg", "cut.jpg", "bomb.png", "sliver.png"}
    assert "absurdly many pixels" in problems["bomb.png"] and "30 x 2000 pixels" in problems["sliver.png"]
    assert "not an image" in problems["empty.jpg"] and "truncated" in problems["cut.jpg"]

    tiles, cracks = (pd.read_csv(out / name) for name in ("tiles.csv", "cracks.csv"))
    assert len(tiles) == 3 * 12 + 2 * 4 and set(tiles["file"]) == set(found.index[:4])
    assert cracks["file"].tolist().count("long.png") == 1
    assert cracks.set_index("file").loc["long.png", "length_mm"] == pytest.approx(300, rel=0.05)
    assert cracks.set_index("file").loc["long.png", "width_mean_mm"] == pytest.approx(2.5, abs=1)
    with Image.open(out / "photos" / "north" / "short.jpg" / "overlay.jpg") as picture:
        assert picture.size == (900, 700)


def test_the_report_needs_no_other_file_and_believes_no_name(folder: Path, tmp_path: Path, fake: Fake) -> None:
    out = tmp_path / "out"
    inspection.inspect([folder], out, "x")
    page = (out / "report.html").read_text("utf-8")
    assert all(address.startswith("data:image/jpeg;base64,") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "<script" not in page and "url(" not in page
    assert page.count("<details>") == 4 and page.count("<img") == 8
    assert "&lt;b&gt;clean.png" in page and "<b>clean.png" not in page
    assert page.index("long.png") < page.index("short.jpg") < page.index("clean.png") < page.index("Could not be used")
    assert "Lengths are in pixels" in page


def test_a_killed_inspection_goes_on_and_reads_kept_maps(
    folder: Path, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real, calls = inspection._one, []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments[0].name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(inspection, "_one", killed)
    with pytest.raises(KeyboardInterrupt):
        inspection.inspect([folder], out, "x")
    monkeypatch.setattr(inspection, "_one", real)
    done = fake.windows
    whole = inspection.inspect([folder], tmp_path / "other", "x")
    each = fake.windows - done
    went_on = inspection.inspect([folder], out, "x")
    assert 0 < done < each == fake.windows - each  # nothing twice
    pd.testing.assert_frame_equal(went_on, whole)
    for name in ("photos.csv", "cracks.csv", "tiles.csv"):
        assert (out / name).read_bytes() == (tmp_path / "other" / name).read_bytes()

    before = fake.windows
    strict = inspection.inspect([folder], out, "x", threshold=0.99)
    assert fake.windows == before and strict["cracks"].sum() == 0 < whole["cracks"].sum()
    Image.fromarray(wall(lines=())).save(folder / "long.png")  # another photo under the same name
    again = inspection.inspect([folder], out, "x").set_index("file")
    assert fake.windows > before and again.loc["long.png", "cracks"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", "1.5"], "threshold=1.5 is no probability"),
        (["--threshold", "0"], "threshold=0.0 is no probability"),
        (["--mm-per-pixel", "-1"], "mm_per_pixel=-1.0 is no length"),
        (["--mm-per-pixel", "nan"], "mm_per_pixel=nan is no length"),
    ],
)
def test_values_out_of_range_are_told(
    arguments: list[str], words: str, folder: Path, tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder), "--out", str(tmp_path / "out"), "--model", "x", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_users_is_overwritten(folder: Path, tmp_path: Path, fake: Fake) -> None:
    kept = tmp_path / "mine"
    kept.mkdir()
    (kept / "photos.csv").write_text("mine")
    with pytest.raises(CrackutilsError, match="is no earlier inspection"):
        inspection.inspect([folder], kept, "x")
    with pytest.raises(CrackutilsError, match="is no earlier inspection"):
        inspection.inspect([folder], folder / "long.png", "x")
    assert [path.name for path in kept.iterdir()] == ["photos.csv"] and not fake.windows
    with pytest.raises(CrackutilsError, match="does not exist"):
        inspection.inspect([tmp_path / "nowhere"], tmp_path / "out", "x")
    (tmp_path / "bare").mkdir()
    with pytest.raises(CrackutilsError, match="There is no picture"):
        inspection.inspect([tmp_path / "bare"], tmp_path / "out", "x")
    inside = inspection.inspect([folder], folder / "found", "x")  # pictures of its own are not inspected
    assert len(inspection.inspect([folder], folder / "found", "x")) == len(inside) == 8


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("adapted", [False, True])
def test_the_detector_gives_cells_and_what_a_site_has_taught(
    adapted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "data"))
    tiny = dataclasses.replace(recipes.CELLS, size=64)
    model, _ = models.build(tiny, "crackutils", 5)
    kernel, _ = model.get_layer("p_crack").get_weights()
    kernel[1:4] = 0.3
    model.get_layer("p_crack").set_weights([1.2 * kernel, np.float32([0.1])])
    (tmp_path / "model").mkdir()
    model.save_weights(tmp_path / "model" / "model.weights.h5")
    settings = {"profile": "smoke", "recipe": tiny.as_dict(), "weights": "crackutils"}
    settings |= {"adapted": {}} if adapted else {}
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": settings}))
    net = inspection.detector(tmp_path)
    x = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype(np.float32)
    found = net.engine.worker()(x)
    cells = models.keras.Model(model.input, model.get_layer("cells").output).predict_on_batch(x).reshape(8, -1)
    p = model.predict_on_batch(x)[:, 0].astype(np.float64)
    np.testing.assert_allclose(found[:, 1:], cells, atol=2e-3)
    expected = np.log(p / (1 - p)) - evaluation.top_mean(cells[:, None], tiny.cells) if adapted else np.zeros(8)
    np.testing.assert_allclose(found[:, 0], expected, atol=5e-3)
    with pytest.raises(CrackutilsError, match="holds no finished training run"):
        inspection.detector(tmp_path / "model")
    assert config.ENGINES[0] == net.engine.name


# ---------------------------------------------------------------- against what is known


def test_what_is_found_is_set_beside_what_is_there() -> None:
    image, mask = wall(lines=(((100, 150), (700, 150)),), thick=5), np.zeros((700, 900), np.uint8)
    cv2.line(mask, (100, 150), (700, 150), 255, 5)
    crack = np.array([[100, 150, 5], [700, 150, 5]], np.float32)
    outside = np.array([[1000, 150, 5], [1000, -500, 5]], np.float32)  # of the photo
    shot = synthetic.Photo(image, mask, [crack, outside], [], {"style": "medium"})
    odds = odds_of(image)
    found = inspection.crack_mask(image, odds, 0.5)
    row = inspection.against(shot, found, inspection.cracks(found, odds, 0.5))
    assert row["style"] == "medium" and row["iou"] > 0.75
    assert row["true_found"] > 0.98 and row["found_true"] > 0.98
    assert row["length_true"] == pytest.approx(600) and row["length_error"] == pytest.approx(0, abs=0.04)
    nothing = np.zeros_like(found)
    row = inspection.against(shot, nothing, inspection.cracks(nothing, odds - 99, 0.5))
    assert (row["iou"], row["true_found"], row["found_true"], row["length_error"]) == (0, 0, None, -1)


def test_tiles_of_a_mask_are_cracked_from_so_many_pixels() -> None:
    mask = np.zeros((300, 600), np.uint8)
    mask[10, :23], mask[280, 520:544] = 255, 255
    found = inspection.cracked_tiles(mask)
    assert found[["row", "col"]].to_numpy().tolist() == [[r, c] for r in range(2) for c in range(3)]
    assert found["crack"].tolist() == [0, 0, 0, 0, 0, 1]


def test_tiles_are_ranked_by_photo_and_together() -> None:
    tiles = pd.DataFrame(
        {"file": list("aaabbb"), "row": 0, "col": [0, 1, 2] * 2, "p_crack": [0.9, 0.2, 0.6, 0.8, 0.7, 0]}
    )
    labels = tiles[["row", "col"]].assign(photo=tiles["file"], crack=[1, 0, 0, 1, 0, 1]).iloc[::-1]
    found = inspection.ranked(tiles, labels).set_index("photo")
    assert found.index.tolist() == ["a", "b", "all"]
    assert found["auroc"].tolist() == pytest.approx([1, 0.5, 6 / 9], abs=1e-6)
    assert found["n"].tolist() == [3, 3, 6] and found["recall"].tolist() == pytest.approx([1, 0.5, 2 / 3], abs=1e-6)
    assert len(inspection.ranked(tiles, labels[labels["photo"] == "a"])) == 2
    with pytest.raises(CrackutilsError, match="no column crack"):
        inspection.ranked(tiles, labels.drop(columns="crack"))
    with pytest.raises(CrackutilsError, match="No label belongs"):
        inspection.ranked(tiles, labels.assign(photo="c"))


# ---------------------------------------------------------------- in a notebook


def test_the_panel_shows_what_is_chosen_and_uploaded(folder: Path, tmp_path: Path, fake: Fake) -> None:
    long, bad = folder / "long.png", folder / "empty.jpg"
    box = inspection.panel([long, bad], tmp_path / "out", Path("x"))
    (choice, upload, bound), told, picture = box.children[0].children, box.children[1], box.children[2]
    assert "1 crack-like lines, together" in told.value and picture.value[:2] == b"\xff\xd8"
    before, windows = picture.value, fake.windows
    bound.value = 0.95 + 0.0
    assert "1 crack-like" in told.value or "0 crack-like" in told.value
    assert fake.windows == windows  # the map is kept
    choice.value = str(bad)
    assert "empty.jpg is not an image" in told.value
    content = (folder / "north" / "short.jpg").read_bytes()
    file = {"name": "../mine.jpg", "type": "image/jpeg", "size": len(content), "content": memoryview(content)}
    upload.value = (file | {"last_modified": datetime.now(UTC)},)
    assert choice.value == str(tmp_path / "out" / "uploaded" / "mine.jpg") and picture.value != before
    assert fake.windows > windows and not (tmp_path / "mine.jpg").exists()
