"""Whole photos: the map, mask and measures of one photo, and a folder of photos with its tables and its report."""

import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit

from crackutils import config
from crackutils.cli import main
from crackutils.config import keras
from crackutils.detector.network import build_detector, top_mean
from crackutils.detector.runs import DETECTOR
from crackutils.files import write_atomically
from crackutils.inference.engines import Engine
from crackutils.inspection.calibration import calibrate_threshold, describe_calibration, read_tile_labels
from crackutils.inspection.drawing import FRAME, LINE, draw_overlay, tint_overlay
from crackutils.inspection.folder import inspect
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.measure import Piece, measure_cracks
from crackutils.inspection.photo import resume_photo
from crackutils.inspection.tiling import CrackMap, Detector, load_detector, map_photo, tile_probabilities
from crackutils.inspection.truth import compare_at_threshold, compare_with_truth, save_photos
from crackutils.synthetic.photo import make_photo
from crackutils.userfiles.write import writing

SIZE = 256
GREY, DARK = 170, 40
LONG = (((100, 150), (700, 150)),)


class Fake:
    """An engine that takes dark pixels, and cells with one, for cracks and counts its windows."""

    def __init__(self, added: float = 0.0) -> None:
        self.counts, self.added = [], added  # counted by threads, which would lose some of a sum
        self.detector = Detector(Engine("fake", "1", "float32", lambda: self.run), SIZE, 0.06, "fake")

    @property
    def windows(self) -> int:
        return sum(self.counts)

    def run(self, x: np.ndarray) -> np.ndarray:
        self.counts.append(int((x.max((1, 2, 3)) > 0).sum()))  # the rest of a batch is empty
        cells = x.reshape(len(x), SIZE // 16, 16, SIZE // 16, 16, 3).min((2, 4, 5)).reshape(len(x), -1)
        dark = np.concatenate([cells, x.min(3).reshape(len(x), -1)], 1) < 100
        logits = np.where(dark, 4.0, -6.0) + self.added
        return np.concatenate([logits[:, : cells.shape[1]], 255 * expit(logits[:, cells.shape[1] :])], 1).astype("f")


def wall(height: int = 700, width: int = 900, lines: Any = LONG, thick: int = 4, seed: int = 0) -> np.ndarray:
    """Return a slightly uneven wall with dark lines, each from one point (x, y) to another."""
    image = np.full((height, width, 3), GREY, np.uint8)
    for begin, end in lines:
        cv2.line(image, begin, end, (DARK,) * 3, thick)
    return np.clip(image + np.random.default_rng(seed).normal(0, 3, (height, width, 1)), 0, 255).astype(np.uint8)


def save(image: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, quality=95)


def measure(image: np.ndarray, p: np.ndarray) -> tuple[pd.DataFrame, list[Piece]]:
    return measure_cracks(image, crack_mask(p, 0.5), p)


def map_of(image: np.ndarray) -> np.ndarray:
    return map_photo(image, Fake().detector).pixels


@pytest.mark.parametrize("size", [(700, 900), (256, 256), (448, 464), (70, 300), (513, 1031), (1000, 64)])
def test_the_map_covers_photos_of_any_size(size: tuple[int, int]) -> None:
    image, (y, x) = wall(*size, lines=()), (side // 2 // 16 * 16 for side in size)
    image[y + 4 : y + 12, x + 4 : x + 12] = DARK
    fake = Fake(0.5)
    found = map_photo(image, fake.detector)
    sides = [max(SIZE, -(-side // 16) * 16) for side in size]  # neighbours share 64 pixels of their 256, or more
    assert fake.windows == np.prod([1 + -(-(side - SIZE) // (SIZE - 64)) for side in sides])
    expected = np.full((-(-size[0] // 16), -(-size[1] // 16)), np.float32(-5.5))
    expected[y // 16, x // 16] = 4.5
    np.testing.assert_array_equal(found.cells, expected)
    high, low = (int(255 / (1 + np.exp(-logit))) for logit in (4.5, -5.5))
    np.testing.assert_array_equal(found.pixels, np.where((image == DARK).all(2), high, low))
    assert found.pixels.dtype == np.uint8


def test_tiles_are_what_the_network_makes_of_their_cells() -> None:
    cells = np.full((40, 33), -6, np.float32)
    cells[17, 2:18] = 4  # 14 cells in the tile at row 1, column 0, two in the next
    tiles = tile_probabilities(cells, 0.06)
    assert [*zip(tiles["row"], tiles["col"], strict=True)] == [*np.ndindex(3, 3)]  # last ones smaller
    expected = top_mean(cells[None, 16:32, :16], 0.06)[0]
    assert tiles["p_crack"][3] == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-6)
    assert tiles["p_crack"].idxmax() == 3 and tiles["p_crack"][0] < 0.01


def test_a_crack_goes_on_where_the_network_is_less_sure(monkeypatch: Any) -> None:
    p = np.zeros((300, 900), np.uint8)
    p[100:103, 50:850] = 70  # over half of the threshold
    p[100:103, 50:200], p[200:203, 50:850] = 200, 70
    p[250:253, 100:112] = 255  # too short
    mask = crack_mask(p, 0.5)
    np.testing.assert_array_equal(mask[:150, :200], p[:150, :200] > 0)
    assert (mask[100:103, 201:848].sum(0) == 1).all() and not mask[:100].any()  # beyond, the centre line alone
    assert not mask[150:].any() and not crack_mask(p, 0.9).any()
    p[100:103, 50:850:40] = 200
    far, tall = np.hypot(*(np.indices(p.shape) - np.array([150, 600])[:, None, None])), p.copy()
    tall[far < 100], tall[far < 80] = 200, 70
    assert crack_mask(tall, 0.5)[far < 100].all()  # sure edges enclose what is less so
    tall[:, 20:23], tall[290:, 20:23] = 70, 200  # as long as the photo is high, and sure at its end only
    both = [crack_mask(part, 0.5) for part in (p, tall)]
    monkeypatch.setattr("crackutils.inspection.mask._STRIP", 64)  # neither strips nor blocks leave a seam
    monkeypatch.setattr("crackutils.inspection.mask._BLOCK", 128)
    for part, before in zip((p, tall), both, strict=True):
        np.testing.assert_array_equal(crack_mask(part, 0.5), before)
    assert (both[1][:280, 20:23].sum(1) == 1).all()
    for logit, kept in ((1.9, False), (2.1, True)):
        cells = np.full((19, 57), -5.0)
        cells[6, 3:54] = logit  # all that the crack runs through; what lies beside it does not count
        np.testing.assert_array_equal(crack_mask(p, 0.5, cells), both[0] if kept else np.zeros_like(both[0]))
    cells[6, 3:54] = -2
    cells[6, 10] = 9  # one confident cell is not enough
    assert not crack_mask(p, 0.5, cells).any()
    cells[6, 3:14] = 6  # a confident stretch is, with all that continues from it
    np.testing.assert_array_equal(crack_mask(p, 0.5, cells), both[0])
    for logit, kept in ((-1.7, True), (-1.9, False)):  # at a low threshold, cells may be more doubtful
        assert crack_mask(p, 0.1, np.full((19, 57), logit)).any() == kept


def test_a_mask_is_as_wide_as_what_is_sure_and_has_no_holes_of_debris(monkeypatch: pytest.MonkeyPatch) -> None:
    p, wall = np.zeros((200, 400), np.uint8), np.zeros((200, 400), np.uint8)
    p[20:60, 20:380], p[30:50, 20:380], p[37:43, 100:130] = 140, 200, 0  # just above the threshold, well above, debris
    wall[110:150, 200:240], wall[113:147, 203:237] = 200, 0  # between thin cracks, alone in the photo or not
    mask = crack_mask(p, 0.5)
    assert mask[30:50, 20:380].all() and np.median(mask[:, 60:340].sum(0)) == 20
    np.testing.assert_array_equal(crack_mask(wall, 0.5), wall > 0)
    np.testing.assert_array_equal(crack_mask(p | wall, 0.5), mask | (wall > 0))
    for radius in (20, 29):  # of holes in a web
        web = np.where(np.hypot(*np.indices((200, 400)) % 60 - 30.0) < radius, 0, 200).astype(np.uint8)
        monkeypatch.setattr("crackutils.inspection.mask._BLOCK", 512)
        whole = crack_mask(web, 0.5)
        monkeypatch.setattr("crackutils.inspection.mask._BLOCK", 64)
        np.testing.assert_array_equal(crack_mask(web, 0.5), whole)  # no seam


def test_the_picture_shows_frame_line_and_scale() -> None:
    image = wall()
    p = map_of(image)
    cracks, pieces = measure(image, p)
    plain = draw_overlay(image, p > 127, pieces, 2000)
    np.testing.assert_array_equal(image, wall())
    assert plain.shape == image.shape  # not enlarged
    line, frame = ((np.abs(plain.astype(int) - colour) < 70).all(2) for colour in (LINE, FRAME))
    assert line[150, 110:690].all() and line.sum() < 3 * 620
    rows = np.flatnonzero(frame[:, 400])
    assert len(rows) >= 2 and (np.abs(np.abs(rows - 150) - 7) < 4).all()  # apart from the crack, so that it shows
    small = draw_overlay(image, p > 127, pieces, 450, 0.5)
    # 900 pixels of 0.5 mm, a fifth is 90 mm: the bar is 50 mm or 100 pixels of the photo, 50 of the picture
    assert small.shape == (350, 450, 3) and (small[300:] == 255).all(2).sum(1).max() in range(48, 54)
    unmarked = draw_overlay(image, p > 127, pieces, 450)
    assert not (unmarked[300:] == 255).all(2).any()
    numbered = draw_overlay(image, p > 127, pieces, 450, numbered=cracks)
    changed = np.argwhere((numbered != unmarked).any(2))
    assert 20 < len(changed) < 600 and (np.abs(changed[:, 0] - 75) < 25).all()  # a number beside its line
    dark, white = ((numbered[*changed.T] < 60).all(1).sum(), (numbered[*changed.T] > 200).all(1).sum())
    assert dark > white > 5  # legible on pale concrete, also where the picture is shown smaller
    two = draw_overlay(image, p > 127, pieces, 450, numbered=pd.concat([cracks, cracks]))
    assert 1.8 * len(changed) < (two != unmarked).any(2).sum() < 2.2 * len(changed)  # one beside the other
    for scale in (None, 1.0):  # a scale bar has no room
        assert draw_overlay(wall(64, 9000, ()), np.zeros((64, 9000), bool), [], 1400, scale).shape == (10, 1400, 3)
        assert draw_overlay(wall(64, 9000, ()), np.zeros((64, 9000), bool), [], 100, scale).shape == (1, 100, 3)


@pytest.mark.parametrize("size", [(1000, 701), (701, 1000), (257, 300), (64, 64)])
def test_probabilities_are_drawn_where_they_are(size: tuple[int, int]) -> None:
    high, wide = size
    for longest in (max(size), 333):
        scale = min(1, longest / max(size))
        picture = np.full((round(high * scale), round(wide * scale), 3), GREY, np.uint8)
        p = np.zeros(size, np.uint8)
        p[48:64, 32:48] = 255
        green = tint_overlay(picture, p)[..., 1]  # differs most in the colours
        y, x = np.unravel_index(cv2.blur(green, (5, 5)).argmax(), green.shape)
        assert 48 * scale <= y < 64 * scale and 32 * scale <= x < 48 * scale


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos good and bad, in folders or not."""
    home = tmp_path / "photos & more"
    save(wall(), home / "long.png")
    save(wall(lines=(((300, 300), (420, 300)),)), home / "north" / "short.jpg")
    save(wall(lines=()), home / "<b>clean.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(wall(500, 800)).save(home / "turned.jpg", exif=exif, quality=95)
    (home / "empty.jpg").touch()
    (home / "cut.jpg").write_bytes((home / "turned.jpg").read_bytes()[:9000])
    Image.new("1", (20_000, 20_000)).save(home / "bomb.png")
    Image.new("RGB", (30, 2000)).save(home / "sliver.png")
    (home / "notes.txt").write_text("no picture")
    (home / "phone.HEIC").write_bytes(b"0")
    (home / ".hidden.png").write_bytes((home / "long.png").read_bytes())
    return home


def test_a_folder_is_reported(folder: Path, tmp_path: Path, fake: Fake, capsys: Any, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    assert main(["inspect", str(folder), "--out", str(out), "--model", "x", "--mm-per-pixel", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "not a picture by name or content: 1 (notes.txt)\n" in said and "3 of 4 photos examined show" in said
    assert "hidden: 1 (.hidden.png)" in said and "; 5 could not be used" in said
    photos = pd.read_csv(out / "photos.csv", keep_default_na=False).set_index("file")
    assert photos.index.tolist()[:4] == ["long.png", "turned.jpg", "north/short.jpg", "<b>clean.png"]  # longest first
    assert photos["length_mm"][:4].astype(float).tolist() == pytest.approx([300, 300, 60, 0], rel=0.06, abs=0.1)
    assert (photos.loc[photos["wide"] == "", "tiles":].drop(columns="p_crack") == "").all(axis=None)
    assert photos.loc["turned.jpg", ["wide", "high"]].tolist() == ["500", "800"]  # as a person sees it
    problems = photos["problem"][4:].to_dict()
    reasons = {"bomb.png": "more than 250 million pixels", "sliver.png": "is too small (30x2000"}
    reasons |= {"phone.HEIC": "not an image", "empty.jpg": "has zero bytes", "cut.jpg": "is cut short"}
    assert set(problems) == set(reasons) and all(reasons[name] in problems[name] for name in reasons)

    tiles, cracks = (pd.read_csv(out / name) for name in ("tiles.csv", "cracks.csv"))
    assert len(tiles) == 3 * 12 + 2 * 4 and set(tiles["file"]) == set(photos.index[:4])
    assert cracks["file"].tolist().count("long.png") == 1
    long = cracks.set_index("file").loc["long.png"]
    assert long["length_mm"] == pytest.approx(300, rel=0.05) and long["width_mean_mm"] == pytest.approx(2.5, abs=0.6)
    with Image.open(out / "photos" / "north" / "short.jpg" / "overlay.jpg") as picture:
        assert picture.size == (900, 700)

    inspect([folder], out, "x")  # the report is one safe and small file
    page = (out / "report.html").read_text("utf-8")
    assert all(address.startswith("data:image/jpeg;base64,") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "<script" not in page and "url(" not in page
    assert page.count("<details>") == 4 and page.count("<img") == 7  # nothing to enlarge in the one without a crack
    assert "&lt;b&gt;clean.png" in page and "<b>clean.png" not in page
    assert page.index("long.png") < page.index("short.jpg") < page.index("clean.png") < page.index("Could not be used")
    assert "Lengths are in pixels" in page and "3 of 4 photos examined show possible cracks;\n5 could not be" in page
    monkeypatch.setattr("crackutils.inspection.report.MAIL", 20_000.0)
    inspect([folder], out, "x")
    small = (out / "report.html").read_text("utf-8")
    assert len(small) < len(page) - 10_000 and small.count("<details>") == 4
    assert "photos/north/short.jpg/overlay.jpg" in small


def test_a_killed_inspection_continues(folder: Path, tmp_path: Path, fake: Fake, monkeypatch: Any) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    home = out / "photos" / "long.png"

    def kill(module: str, works: Any, when: Path, threshold: float) -> None:
        def dies(file: Path, *more: Any) -> Any:
            if file == when:
                raise KeyboardInterrupt
            return works(file, *more)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"crackutils.inspection.{module}.{works.__name__}", dies)
            inspect([folder], out, "x", threshold=threshold)

    kill("folder", resume_photo, folder / "turned.jpg", 0.5)
    done = fake.windows
    whole = inspect([folder], other, "x")
    each = fake.windows - done
    pd.testing.assert_frame_equal(inspect([folder], out, "x"), whole)
    assert 0 < done < each == fake.windows - each  # nothing twice
    for name in (*WRITTEN[:3], *WRITTEN[4:], "photos/long.png/mask.png"):  # all but the report, which has a date
        assert (out / name).read_bytes() == (other / name).read_bytes()
    first, before = (home / "overlay.jpg").read_bytes(), fake.windows
    kill("photo", write_atomically, home / "found.json", 0.99)
    assert (home / "overlay.jpg").read_bytes() != first  # the picture of another threshold
    (out / "photos" / "turned.jpg" / "found.json").write_text("")  # as after a power cut
    (out / "photos" / "north/short.jpg" / "found.json").write_text("[1]")
    (out / ".inspection").write_text('{"turned.jpg": null}')
    pd.testing.assert_frame_equal(inspect([folder], out, "x"), whole)
    assert (home / "overlay.jpg").read_bytes() == first and (whole["cracks"] > 0).sum() == 3
    assert inspect([folder], out, "x", threshold=0.99)["cracks"].sum() == 0 and fake.windows == before
    (home / "found.json").unlink()
    for content in (b"", (home / "map.npz").read_bytes()[:-9]):  # cut short when the power went
        (home / "map.npz").write_bytes(content)
        (home / "found.json").unlink(missing_ok=True)
        inspect([folder], out, "x")
        assert np.load(home / "map.npz")["pixels"].shape == (700, 900) and fake.windows > before
        before = fake.windows
    save(wall(lines=()), folder / "long.png")  # another photo under the same name
    assert inspect([folder], out, "x").set_index("file").loc["long.png", "cracks"] == 0 and fake.windows > before


def test_names_stay_inside_and_are_those_below_the_folder_given(tmp_path: Path, fake: Fake, monkeypatch: Any) -> None:
    for name in ("site/north/a.png", "site/south/a.png", "other/b.png"):
        save(wall(100, 120, ()), tmp_path / name)
    monkeypatch.chdir(tmp_path / "site")
    assert inspect(["."], tmp_path / "1", "x")["file"].tolist() == ["north/a.png", "south/a.png"]
    both = inspect(["north", "../other", "../site/north"], tmp_path / "2", "x")["file"].tolist()
    assert both == ["other/b.png", "site/north/a.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "other", "site"]
    with pytest.raises(config.CrackutilsError, match=r"photos that are not given now: 1 .*Give them"):
        inspect(["south"], tmp_path / "1", "x")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_name_that_escapes_make_too_long_for_a_folder(tmp_path: Path, fake: Fake) -> None:
    save(wall(), tmp_path / "site" / "a.png")
    os.rename(tmp_path / "site" / "a.png", os.fsencode(tmp_path / "site") + b"/" + b"\xe4" * 100 + b".png")
    command = ["inspect", str(tmp_path / "site"), "--out", str(tmp_path / "out"), "--model", "x"]
    assert main(command) == 0 and (before := fake.windows)
    assert main([*command, "--threshold", "0.99999"]) == 0 and fake.windows == before
    assert "at the threshold 0.99999" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert pd.read_csv(tmp_path / "out" / "photos.csv")["file"].tolist() == ["\\xe4" * 100 + ".png"]


def test_more_photos_go_on_and_fewer_are_refused(tmp_path: Path, fake: Fake, capsys: Any) -> None:
    names = [tmp_path / "day1" / f"{k}.png" for k in range(5)]
    for k, name in enumerate(names):
        save(wall(100, 120, (), seed=k), name)
    out = tmp_path / "out"
    command = ["inspect", "--out", str(out), "--model", "x"]
    assert main([*command, *map(str, names[:4])]) == 0
    before = fake.windows
    assert main([*command, *map(str, names)]) == 0 and fake.windows == before * 5 / 4
    save(wall(100, 120, (), seed=9), tmp_path / "day2" / "a.png")
    assert main([*command, str(tmp_path / "day1"), str(tmp_path / "day2")]) == 0  # names are longer now
    assert fake.windows == before * 6 / 4 and len(pd.read_csv(out / "photos.csv")) == 6
    (tmp_path / "linked").symlink_to(tmp_path)  # the same photos on another way
    assert main([*command, str(tmp_path / "linked" / "day1"), str(tmp_path / "linked" / "day2")]) == 0
    assert fake.windows == before * 6 / 4
    assert main([*command, str(tmp_path / "day1"), str(tmp_path / "day2")]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "day2")]) == 2
    said = capsys.readouterr().err
    assert "has results of photos that are not given now: 5" in said and "and 2 more)" in said and len(said) < 500
    assert main([*command, str(tmp_path / "day2"), "--force"]) == 0
    assert pd.read_csv(out / "photos.csv")["file"].tolist() == ["a.png"]


WRITTEN = ["tiles.csv", "cracks.csv", "photos.csv", "report.html", "cracks.geojson", "coco.json"]
WRITTEN += ["cracks.xlsx", "cracks.dxf"]


@pytest.mark.parametrize("name", [*WRITTEN, "photos/a.png/overlay.jpg", "photos/a.png/mask.png"])
def test_what_the_user_has_changed_stays(name: str, tmp_path: Path, fake: Fake, capsys: Any) -> None:
    save(wall(), tmp_path / "site" / "a.png")
    command = ["inspect", str(tmp_path / "site"), "--out", str(tmp_path / "out"), "--model", "x"]
    assert main(command) == main(command) == 0
    (file := tmp_path / "out" / name).write_bytes(mine := file.read_bytes() + b"my remark")
    assert main([*command, "--threshold", "0.4"]) == 2 and file.read_bytes() == mine
    assert f"{file} has been changed since it was written. Move it" in capsys.readouterr().err
    assert main([*command, "--threshold", "0.4", "--force"]) == 0 and file.read_bytes() != mine


def test_a_folder_in_one_that_is_read_only_holds_its_lock(tmp_path: Path, fake: Fake, monkeypatch: Any) -> None:
    save(wall(), tmp_path / "site" / "a.png")
    (out := tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    with writing(out), pytest.raises(config.CrackutilsError, match="Another process is writing"):
        assert [path.name for path in out.iterdir()] == [".out.lock"]
        inspect([tmp_path / "site"], out, "x")
    assert len(inspect([tmp_path / "site"], out, "x")) == 1


@pytest.mark.parametrize("name", ["overlay.jpg", "thumbnail.jpg", "mask.png"])
def test_pictures_that_are_not_those_of_the_record_are_told_or_drawn_again(
    name: str, tmp_path: Path, fake: Fake, capsys: Any
) -> None:
    save(wall(), photo := tmp_path / "site" / "a.png")
    command = ["inspect", str(tmp_path / "site"), "--out", str(tmp_path / "out"), "--model", "x"]
    assert main(command) == 0
    drawn = (file := tmp_path / "out" / "photos" / "a.png" / name).read_bytes()
    file.write_bytes(b"")  # as a power cut leaves it
    assert main(command) == 0 and file.read_bytes() == drawn
    whole = photo.read_bytes()
    photo.write_bytes(whole[:2000])
    assert main(command) == 2 and "None of 1 photos could be used" in capsys.readouterr().err
    file.write_bytes(b"mine")
    photo.write_bytes(whole)  # repaired
    assert main(command) == 2 and file.read_bytes() == b"mine"
    assert f"{file} has been changed since it was written. Move it" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0 and file.read_bytes() == drawn


def test_own_reports_links_and_copies_are_not_inspected_again(tmp_path: Path, fake: Fake, capsys: Any) -> None:
    site, other = tmp_path / "site", tmp_path / "other"
    for name in ("site/a.png", "site/b.jfif", "other/c.png"):
        Image.fromarray(wall(100, 120, ())).save(tmp_path / "x.png")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(tmp_path / "x.png").save(tmp_path / name, "PNG" if "png" in name else "JPEG")
    for link, to in (("linked", other), ("round", site), ("again.png", site / "a.png"), ("lost", "nowhere")):
        (site / link).symlink_to(to)
    assert len(inspect([site], site / "report", "x")) == 3
    for copy in ("@eaDir/a.png/thumb.jpg", "$RECYCLE.BIN/a.jpg"):  # of a network drive, and thrown away
        (site / copy).parent.mkdir(parents=True)
        shutil.copy(site / "b.jfif", site / copy)
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(site / "report", site / "copy", ignore=hidden)  # as a mail or a program that packs leaves it
    table = inspect([site], tmp_path / "second", "x")
    assert sorted(table["file"]) == ["a.png", "b.jfif", "linked/c.png"]
    said = capsys.readouterr().out.rsplit("left out", 1)[1]
    assert "written by this package: 4 (copy/photos/a.png, copy/photos/b.jfif, copy/photos/linked/c.png and 1" in said
    for told in ("system files: 2 ($RECYCLE.BIN, @eaDir)", "links to a folder that is read already: 1 (round)"):
        assert told in said
    assert "broken links: 1 (lost)" in said and "links to a photo that is inspected already: 1 (again.png)" in said
    inside = sorted(str(file) for file in site.rglob("*.*g"))
    table = inspect(inside, tmp_path / "third", "x")  # as a shell's * gives them
    assert sorted(table["file"]) == ["$RECYCLE.BIN/a.jpg", "@eaDir/a.png/thumb.jpg", "a.png"]


def test_what_the_network_sees_without_a_line_is_shown(tmp_path: Path, fake: Fake, capsys: Any) -> None:
    image = wall(lines=())
    for y, x in np.ndindex(14, 18):  # in 16 cells of a tile, but nowhere a crack
        image[50 * y + 20 : 50 * y + 24, 50 * x + 20 : 50 * x + 24] = DARK
    Image.fromarray(image).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("RGB", (50, 50))])
    scale = ["--mm-per-pixel", "0.0000412345"]
    assert main(["inspect", str(tmp_path / "a.tif"), "--out", str(tmp_path / "out"), "--model", "x", *scale]) == 0
    said = capsys.readouterr().out
    assert "0 of 1 photos examined show possible cracks; in 1 more, possible cracks are too short to be" in said
    page = " ".join((tmp_path / "out" / "report.html").read_text("utf-8").split())
    assert "12 of 12 tiles show possible cracks, but none is long enough" in page and page.count("<img") == 2
    assert "No crack found" not in page and "only the first of its 2 pictures is used" in page
    row = pd.read_csv(tmp_path / "out" / "photos.csv").iloc[0]
    assert row["problem"] == "only the first of its 2 pictures is used" and "Blue frames without a line are" in page
    assert (row["mm_per_pixel"], row["scale_from"]) == (4.12345e-5, "given") and "(scale from: given)" in page


def test_a_place_too_small_for_a_tile_is_shown(tmp_path: Path, fake: Fake) -> None:
    image = wall(256, 256, ())
    image[100:108, 100:108] = DARK  # one cell, and too round for a crack
    save(image, tmp_path / "a.png")
    assert main(["inspect", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--model", "x"]) == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Some pixels are possible cracks" in page and page.count("<img") == 2 and "given. All" in page
    overlay = np.asarray(Image.open(tmp_path / "out" / "photos" / "a.png" / "overlay.jpg")).astype(int)
    assert 20 < (overlay[..., 2] - overlay[..., 0] > 80).sum() < 200  # a blue frame round it


def test_a_photo_that_goes_or_cannot_be_opened_stops_nothing(tmp_path: Path, fake: Fake, monkeypatch: Any) -> None:
    home = tmp_path / "home"
    for name in ("a.png", "b.png", "c.png"):
        save(wall(100, 120, ()), home / name)
    os.rename(home / "c.png", os.fsencode(home) + b"/caf\xe9.png")

    def scarce(image: np.ndarray, net: Any) -> np.ndarray:
        if (home / "b.png").exists():
            (home / "b.png").unlink()
            raise MemoryError
        return map_photo(image, net)

    monkeypatch.setattr("crackutils.inspection.photo.map_photo", scarce)
    photos = inspect([home], tmp_path / "out", "x").set_index("file")
    assert photos.loc["a.png", "problem"] == "needs more memory than there is"
    assert photos.loc["b.png", "problem"].startswith("cannot be read (No such file")
    assert photos.loc["caf\\xe9.png", "problem"] == "" and (tmp_path / "out/photos/caf\\xe9.png/overlay.jpg").is_file()
    again = inspect([home], tmp_path / "out", "x").set_index("file")
    assert again.loc["a.png", "problem"] == "" and "b.png" not in again.index  # tried again, and gone


def test_what_cannot_be_done_is_refused(folder: Path, tmp_path: Path, fake: Fake, capsys: Any) -> None:
    mine, bare, labels = (tmp_path / name for name in ("mine", "bare", "labels.csv"))
    for value in ("threshold=1.5", "threshold=0.0", "mm_per_pixel=-1.0", "mm_per_pixel=nan"):
        assert main(["inspect", str(folder), "--out", str(mine), "--model", "x", f"--{value.replace('_', '-')}"]) == 2
        assert f"{value} is out of range" in capsys.readouterr().err and not mine.exists()
    mine.mkdir()
    bare.mkdir()
    (mine / "photos.csv").write_text("mine")
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "link").symlink_to(folder)
    for photos, out, message in (
        (folder, mine, "is not an earlier inspection"),
        (folder, folder / "long.png", "long.png is a file or a broken link. Give a new folder"),
        (folder, tmp_path / "dangling", "dangling is a file or a broken link. Give a new folder"),
        (tmp_path / "nowhere", tmp_path / "out", "does not exist"),
        (bare, tmp_path / "out", "There is no picture"),
        (folder / "long.png", folder, "Photos lie in .*photos & more .*long.png.. Give another folder as --out"),
        (folder, folder / ".." / folder.name, "Photos lie in "),
        (folder, tmp_path / "link", "Photos lie in "),
    ):
        with pytest.raises(config.CrackutilsError, match=message):
            inspect([photos], out, "x")
    assert [path.name for path in mine.iterdir()] == ["photos.csv"] and not fake.windows
    with pytest.raises(config.CrackutilsError, match=r"None of 2 photos could be used \(cut.jpg is cut short.*Repair"):
        inspect([folder / "cut.jpg", folder / "empty.jpg"], tmp_path / "none", "x")
    with pytest.raises(config.CrackutilsError, match="None of 1 photos could be used"):  # nor tell its scale
        inspect([folder / "cut.jpg"], tmp_path / "unscaled", "x", marker_mm=50, limit_mm=0.3)
    for out in ("none", "unscaled"):
        assert "is cut short" in (tmp_path / out / "report.html").read_text("utf-8")
    inside = inspect([folder], folder / "found", "x")  # pictures of its own are not inspected
    assert len(inspect([folder], folder / "found", "x")) == len(inside) == 9
    for text, message in {
        None: "cannot be read",
        "": "has not one column photo and row and col and crack",
        "photo,row,crack\na.jpg,0,1\n": "has not one column col",
        "photo,row,col,crack\na.jpg,0,0,2\n": r"the label is unknown \(first: a.jpg: 2\)\. Write 0 or 1, .* or nothing",
        "photo,row,col,crack\na.jpg,top,0,1\n": r"row and col are not whole numbers \(first: a.jpg: top, 0\)",
    }.items():
        if text is not None:
            labels.write_text(text)
        with pytest.raises(config.CrackutilsError, match=message):
            read_tile_labels(labels)


def test_a_photo_is_scored_at_the_threshold_that_the_others_choose() -> None:
    tiles = pd.DataFrame({"file": list("aaaabbbb"), "row": [0] * 8, "col": [0, 1, 2, 3] * 2})
    tiles["p_crack"] = [0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.6, 0.7]
    labels = tiles.rename(columns={"file": "photo"}).drop(columns="p_crack").assign(crack=[0, 0, 1, 1, 0, 0, 1, 1])
    both = calibrate_threshold(tiles, labels)
    # b chooses 0.38, which finds one of two in a; a chooses 0.25, which is right for b; 0.5 finds the two of b
    assert both["threshold"] == pytest.approx(0.247, abs=1e-3)  # between 0.2 and 0.3
    assert (both["precision"], both["recall"], both["recall_before"]) == (1.0, 0.75, 0.5)
    alone = calibrate_threshold(tiles[:4], labels)
    assert (round(alone["threshold"], 3), alone["photos"], alone["f1"]) == (0.247, 1, None)
    low = calibrate_threshold(tiles.assign(p_crack=tiles["p_crack"] / 10), labels)  # nothing reaches 0.5
    assert low["precision_before"] is None and low["threshold"] == pytest.approx(0.0246, abs=1e-3)
    worse = tiles.assign(p_crack=[0.1, 0.6, 0.7, 0.8, 0.1, 0.2, 0.55, 0.58])  # each photo would do better at 0.5
    assert (kept := calibrate_threshold(worse, labels))["threshold"] == 0.5
    told = "threshold chosen on 8 labelled tiles of 2 photos was no better (precision 0.67, recall 0.50) than 0.5 (prec"
    assert told in describe_calibration(kept)
    for p in (0.3, 0.002):  # the lowest score is the best threshold
        assert calibrate_threshold(tiles[:4].assign(p_crack=p), labels)["threshold"] <= p
    for other, message in (({"crack": 1}, "one class"), ({"photo": "c"}, "No label belongs")):
        with pytest.raises(config.CrackutilsError, match=message):
            calibrate_threshold(tiles, labels.assign(**other))


def test_labelled_tiles_choose_the_threshold(tmp_path: Path, fake: Fake, capsys: Any) -> None:
    fake.added = -5.0
    for k in range(2):
        save(wall(512, 768, (((20, 100 + 20 * k), (240, 120)),)), tmp_path / "photos" / f"{k}.png")
    out, labels = tmp_path / "out", tmp_path / "labels.csv"
    inspect([tmp_path / "photos"], out, "m")
    tiles = pd.read_csv(out / "tiles.csv")
    tiles["crack"] = ((tiles["row"] == 0) & (tiles["col"] == 0)).astype(float)
    tiles.loc[tiles["col"] == 2, "crack"] = None  # nobody has looked at these
    tiles.to_csv(labels, index=False)
    windows, command = fake.windows, ["inspect", str(tmp_path / "photos"), "--out", str(out), "--model", "m"]
    assert main([*command, "--labels", str(labels)]) == 0
    said = capsys.readouterr().out
    assert "chosen on 8 labelled tiles of 2 photos; leave-one-photo-out precision 1.00, recall 1.00" in said
    assert "(at 0.5: precision undefined" in said and fake.windows == windows  # the maps were cached
    asked = json.loads((out / "photos" / "0.png" / "found.json").read_text())["asked"]
    assert 0.01 < asked["threshold"] < tiles["p_crack"][tiles["crack"] == 1].min() < 0.27
    assert len(pd.read_csv(out / "cracks.csv")) == 2
    assert "chosen on 8 labelled tiles" in (out / "report.html").read_text()
    assert main([*command, "--labels", str(labels), "--threshold", "0.3"]) == 2
    assert "Give one of them" in capsys.readouterr().err
    again = inspect([tmp_path / "photos"], tmp_path / "new", "m", labels=labels)  # makes the maps
    assert (again["tiles_cracked"] == 1).all()
    # labels in the place of tiles.csv are spared, also as a spreadsheet saves them
    for content in (labels.read_bytes(), b"file;row;col;p_crack;crack\r\nstra\xdfe.jpg;0;0;0,5;1\r\n"):
        (out / "tiles.csv").write_bytes(content)
        assert main(command) == 2
        assert "tiles.csv has been changed since it was written. Move it" in capsys.readouterr().err
        assert (out / "tiles.csv").read_bytes() == content


@pytest.mark.parametrize("adapted", [False, True])
def test_the_detector_gives_cells_and_what_adapt_fitted(adapted: bool, tmp_path: Path, untrained: Any) -> None:
    model = untrained(tmp_path / "run", adapted)
    net = load_detector(tmp_path / "run")
    x = np.random.default_rng(0).integers(0, 255, (2, net.size, net.size, 3)).astype(np.float32)
    run, big = net.engine.worker(), build_detector(dataclasses.replace(DETECTOR, size=net.size), "crackutils", 1)
    out = np.concatenate([run(one[None]) for one in x])
    big.set_weights(model.get_weights())
    maps = [big.get_layer(name).output for name in ("cells", "pixels")]
    cells, pixels = (found.reshape(2, -1) for found in keras.Model(big.input, maps).predict_on_batch(x))
    p = big.predict_on_batch(x)[:, 0].astype(np.float64)
    added = np.log(p / (1 - p)) - top_mean(cells[:, None], DETECTOR.cells) if adapted else np.zeros(2)
    np.testing.assert_allclose(out[:, : cells.shape[1]], cells + added[:, None], atol=5e-3)
    np.testing.assert_allclose(out[:, cells.shape[1] :], 255 * expit(pixels + added[:, None]), atol=0.3)
    assert config.ENGINES[0] == net.engine.name and net.size == (64 if adapted else 512)


def test_synthetic_photos_are_saved_and_compared_at_thresholds(tmp_path: Path) -> None:
    shots = [make_photo(31, k, 512, 384) for k in range(2)]
    labels = save_photos(shots, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["made-00.jpg", "made-01.jpg"]
    assert len(labels) == 2 * 4 and list(labels.columns) == ["row", "col", "crack", "photo"]
    expected = [int((s.mask[:256, :256] > 127).sum() >= 24) for s in shots]
    assert labels.groupby("photo")["crack"].first().tolist() == expected
    maps = [CrackMap(shot.mask // 2, np.full((24, 32), 9.0)) for shot in shots]
    low, high = (compare_at_threshold(shots, maps, t) for t in (0.2, 0.6))
    assert low["threshold"] == 0.2 and low["iou"] > 0.8 and low["line_f1"] > 0.94 and low["length_error"] < 0.15
    assert (high["iou"], high["line_f1"], high["length_error"]) == (0, 0, 1)
    found = shots[1].mask > 127  # what is too thin for the true mask, here the right half, does not count if found
    half = dataclasses.replace(shots[1], mask=shots[1].mask * (np.arange(512) < 256).astype(np.uint8))
    whole, part = (compare_with_truth(shot, found) for shot in (shots[1], half))
    assert part["length_true"] < 0.8 * whole["length_true"]
    assert part["length_found"] == pytest.approx(part["length_true"], rel=0.1) and part["found"] < whole["found"]
