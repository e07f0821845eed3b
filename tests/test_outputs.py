"""What `inspect` writes for other programs, the length over a limit, and the comparison with true masks."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_inspection import DARK, Fake, save, wall

from crackutils.cli import main
from crackutils.config import CrackutilsError
from crackutils.inspection.export import describe_areas, describe_limit, describe_lines, share_over_limit
from crackutils.inspection.folder import inspect
from crackutils.inspection.measure import Piece
from crackutils.inspection.photo import read_photo
from crackutils.inspection.truth import compare_masks, find_masks, match_masks, read_mask, score_counts, summarize_truth

LINES = (((100, 150), (700, 150)), ((200, 300), (600, 600)), ((400, 450), (650, 350)))


def inspected(photos: Path, out: Path, *options: str) -> int:
    return main(["inspect", str(photos), "--out", str(out), "--model", "x", *options])


def mask_of(area: dict) -> np.ndarray:
    high, wide = area["segmentation"]["size"]
    runs = area["segmentation"]["counts"]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(wide, high).T


def test_masks_lines_and_annotations_are_of_the_same_cracks(tmp_path: Path, fake: Fake) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    save(wall(lines=()), tmp_path / "site" / "clean.png")
    Image.fromarray(wall(lines=LINES)).save(tmp_path / "site" / "turned.jpg", exif=exif, quality=95)
    out = tmp_path / "out"
    assert inspected(tmp_path / "site", out, "--mm-per-pixel", "0.5") == 0
    with Image.open(out / "photos" / "turned.jpg" / "mask.png") as picture:
        assert (picture.mode, picture.size) == ("1", (700, 900))  # upright, as a person sees it
        mask = np.asarray(picture)
    assert 0.006 < mask.mean() < 0.02

    cracks = pd.read_csv(out / "cracks.csv")
    features = json.loads((out / "cracks.geojson").read_text())["features"]
    facts = pd.DataFrame([feature["properties"] for feature in features])
    assert set(facts["photo"]) == {"turned.jpg"} and set(facts["unit"]) == {"mm"} and len(cracks) == 2
    np.testing.assert_allclose(facts.groupby("crack")["length"].sum(), cracks["length_mm"], rtol=1e-3)
    assert facts.groupby("crack").size().tolist() == cracks["pieces"].tolist() == [3, 1]
    lengths = [cv2.arcLength(np.float32(feature["geometry"]["coordinates"]), False) for feature in features]
    np.testing.assert_allclose(np.array(lengths) / 2, facts["length"], rtol=0.03, atol=0.5)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3)))  # a fork's lines meet beside it
    for feature in features:
        x, y = np.array(feature["geometry"]["coordinates"]).T
        assert near[(-y).astype(int), x.astype(int)].all()  # in QGIS, they lie on the photo

    coco = json.loads((out / "coco.json").read_text())
    images = [(image["file_name"], image["width"]) for image in coco["images"]]
    assert images == [("clean.png", 900), ("turned.jpg", 700)]
    kinds = {(area["image_id"], area["category_id"]) for area in coco["annotations"]}
    assert kinds == {(2, coco["categories"][0]["id"])}
    masks = [mask_of(area) for area in coco["annotations"]]
    np.testing.assert_array_equal(np.sum(masks, 0), mask)
    for area, own in zip(coco["annotations"], masks, strict=True):
        y, x = np.nonzero(own)
        left, top, wide, high = area["bbox"]
        assert (left, top, left + wide - 1, top + high - 1) == (x.min(), y.min(), x.max(), y.max())
        assert area["area"] == own.sum() and area["score"] == cracks["p_crack"][area["crack"] - 1]


def piece(points: Any, width: Any, at_most: Any, crack: int = 1) -> Piece:
    return Piece(crack, 1, np.float32(points), np.float32(width), np.array(at_most, bool))


def test_places_are_to_the_pixel() -> None:
    mask = np.zeros((5, 7), bool)
    mask[0, :3], mask[4, 4:] = True, True
    lines = [piece([(4, 4), (6, 4)], [1, 1], [0, 0], 2), piece([(0, 0), (2, 0)], [1, 1], [0, 0])]
    areas = describe_areas(mask, lines)
    assert [area["crack"] for area in areas] == [1, 2] and areas[0]["segmentation"]["counts"][:2] == [0, 1]
    np.testing.assert_array_equal(mask_of(areas[0]) | mask_of(areas[1]), mask)
    assert describe_areas(np.zeros((5, 7), bool), []) == []
    mask[:, 3] = mask[0, 4:] = True  # two cracks touch
    halves = [mask_of(area) for area in describe_areas(mask, lines)]
    assert halves[0][1, 3] and halves[1][3, 3]
    np.testing.assert_array_equal(halves[0] ^ halves[1], mask)
    line = describe_lines([piece([(0, 0), (1, 0), (2, 0), (2, 1)], [1, 3, np.nan, np.nan], [1, 0, 0, 0])], 0.5)[0]
    assert line["points"] == [[0.5, -0.5], [2.5, -0.5], [2.5, -1.5]]  # middles of pixels, from the upper left corner
    assert (line["length"], line["width_most"], line["at_most"]) == (1.5, 1.5, 0.3333)  # of what is measured
    assert line["width_mean"] == round((0.5 * 1 + 1 * 3) / 1.5 / 2, 4)
    unknown = describe_lines([piece([(0, 0), (1, 0)], [np.nan] * 2, [0, 0])], None, 2.0)[0]
    assert [unknown[name] for name in ("width_mean", "width_most", "at_most", "over_limit")] == [None] * 4
    assert unknown["over_unknown"] == 1


def test_the_length_over_a_limit_counts_what_is_known(tmp_path: Path, fake: Fake, capsys: Any) -> None:
    line = piece([(0, 0), (10, 0), (20, 0), (30, 0), (40, 0)], [5, 5, 1, 5, np.nan], [0, 0, 0, 1, 0])
    shares = share_over_limit([line, piece([(0, 9), (0, 49)], [1, 1], [1, 1])], 2.0)
    assert (shares["over_limit"], shares["over_unknown"]) == pytest.approx((15 / 80, 15 / 80))
    assert share_over_limit([], 2.0) == {"over_limit": 0, "over_unknown": 0}
    unknown = pd.DataFrame({"limit_mm": 0.3, "length_mm": 5.0, "over_limit": [np.nan], "over_unknown": 1.0})
    assert describe_limit(unknown) == "100% of the length may be wider than 0.3 mm (this is not known)"
    image = wall(lines=LINES[:1], thick=12)
    cv2.line(image, (100, 500), (700, 500), (DARK,) * 3, 4)
    save(image, tmp_path / "site" / "a.png")
    save(wall(lines=()), tmp_path / "site" / "clean.png")
    out = tmp_path / "out"
    assert inspected(tmp_path / "site", out, "--mm-per-pixel", "0.1", "--limit-mm", "0.8") == 0
    photos = pd.read_csv(out / "photos.csv")
    assert photos["over_limit"].tolist() == pytest.approx([0.5, 0], abs=0.06) and set(photos["limit_mm"]) == {0.8}
    told = f"{photos['over_limit'][0]:.0%} of the length is wider than 0.8 mm"
    assert told in capsys.readouterr().out and (page := (out / "report.html").read_text("utf-8")).count(told) == 2
    assert "Widths are those of the measured length" in page and "<th>not known</th>" in page and "P90 (mm)" in page
    cracks, lines = pd.read_csv(out / "cracks.csv"), json.loads((out / "cracks.geojson").read_text())["features"]
    for name in ("at_most", "over_limit", "over_unknown"):  # each crack is one piece
        assert [line["properties"][name] for line in lines] == cracks[name].tolist()
    windows = fake.windows
    assert inspected(tmp_path / "site", out, "--mm-per-pixel", "0.1", "--limit-mm", "0.2") == 0
    assert "100% of the length" in capsys.readouterr().out and fake.windows == windows
    assert inspected(tmp_path / "site", out, "--limit-mm", "0.3") == 2
    assert "needs a scale. Give --mm-per-pixel" in capsys.readouterr().err
    for value in ("0", "-1", "nan", "inf"):
        assert inspected(tmp_path / "site", out, "--mm-per-pixel", "0.1", "--limit-mm", value) == 2
        assert "limit_mm=" in capsys.readouterr().err


def drawn(*rows: int, end: int = 200) -> np.ndarray:
    mask = np.zeros((100, 220), bool)
    for row in rows:
        mask[row : row + 3, 20:end] = True
    return mask


def test_masks_are_compared_by_pixels_and_by_lines(capsys: Any) -> None:
    same, none = compare_masks(drawn(40), drawn(40)), np.zeros((100, 220), bool)
    shifted, far = compare_masks(drawn(43), drawn(40)), compare_masks(drawn(45), drawn(40))
    more, empty = compare_masks(drawn(40, 80), drawn(40)), compare_masks(none, none)
    half, missed = compare_masks(drawn(40, end=110), drawn(40)), compare_masks(none, drawn(40))
    table = score_counts(pd.DataFrame([same, shifted, far, more, half, missed, empty]))
    np.testing.assert_allclose(table["iou"], [1, 0, 0, 0.5, 0.5, 0, np.nan])
    np.testing.assert_allclose(table["f1"], [1, 0, 0, 2 / 3, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(table["precision"], [1, 0, 0, 0.5, 1, np.nan, np.nan])
    np.testing.assert_allclose(table["recall"], [1, 0, 0, 1, 0.5, 0, np.nan])
    np.testing.assert_allclose(table["line_precision"], [1, 1, 0, 0.5, 1, np.nan, np.nan])
    np.testing.assert_allclose(table["line_recall"], [1, 1, 0, 1, 0.5, 0, np.nan], atol=0.03)  # 4 pixels beyond its end
    np.testing.assert_allclose(table["line_f1"], [1, 1, 0, 2 / 3, 2 / 3, 0, np.nan], atol=0.03)
    np.testing.assert_allclose(table["length_error"], [0, 0, 0, 1, -0.5, -1, np.nan], atol=0.01)
    summarize_truth({"a.png": empty})
    assert capsys.readouterr().out.endswith("within 4 pixels; no crack in the true masks\n")


def test_true_masks_are_compared_and_what_is_missing_is_told(tmp_path: Path, fake: Fake, capsys: Any) -> None:
    site, masks, out = (tmp_path / name for name in ("site", "masks", "out"))
    for name in ("north/a.png", "south/b.1.jpg", "south/c.png"):
        save(wall(lines=LINES[:1]), site / name)
    true = (wall(lines=LINES[:1], seed=1)[..., 0] < 100).astype(np.uint8)
    save(true * 255, masks / "north" / "a.tif")
    save(np.roll(true, 90, 0), masks / "B.1_mask.png")  # elsewhere; of 0 and 1, and without its folder
    save(true, masks / "other.png")
    assert inspected(site, out, "--truth", str(masks)) == 0
    said = capsys.readouterr().out
    assert "photos without a mask: 1 (south/c.png)" in said and "masks without a photo: 1 (other.png)" in said
    table = pd.read_csv(out / "truth.csv").set_index("file")
    assert table.index.tolist() == ["north/a.png", "south/b.1.jpg", "all"]
    assert table["iou"].tolist() == pytest.approx([1, 0, 1 / 3], abs=0.02)
    assert table["line_f1"].tolist() == pytest.approx([1, 0, 0.5], abs=0.02)
    assert table.loc["all", "both"] == table["both"][:2].sum() and "lines agree within 4 pixels" in said
    assert all(name in said for name in ("north/a.png", "line_precision", "length_error"))
    assert inspected(site, out, "--truth", str(masks)) == 0
    pd.testing.assert_frame_equal(pd.read_csv(out / "truth.csv").set_index("file"), table)
    (out / "truth.csv").write_text(mine := "mine")
    assert inspected(site, out, "--truth", str(masks)) == 2 and (out / "truth.csv").read_text() == mine
    assert inspected(site, out, "--force") == 0 and not (out / "truth.csv").exists()  # it would be of other masks
    (out / "truth.csv").write_text(mine)
    assert inspected(site, out, "--force") == 0 and (out / "truth.csv").read_text() == mine
    (out / "truth.csv").unlink()

    capsys.readouterr()
    save(true[:300] * 255, masks / "south" / "c.png")
    windows = fake.windows
    assert inspected(site, tmp_path / "new", "--truth", str(masks)) == 2 and fake.windows == windows
    assert "c.png and its photo differ in size (900x300 and 900x700 pixels)" in capsys.readouterr().err
    (masks / "south" / "c.png").write_bytes(b"no picture")
    for folder, message in ((masks, "c.png is not an image. Save it"), (site / "north" / "a.png", "is not a folder")):
        assert inspected(site, out, "--truth", str(folder)) == 2 and message in capsys.readouterr().err
    with pytest.raises(CrackutilsError, match=r"No mask in .* is named like a photo"):
        inspect([site], out, "x", truth=tmp_path / "out" / "photos" / "north" / "a.png")


@pytest.mark.parametrize("masks", ["site", "link"])  # also on another way to the same files
def test_masks_among_the_photos_are_not_inspected(masks: str, tmp_path: Path, fake: Fake, capsys: Any) -> None:
    site, out = tmp_path / "site", tmp_path / "out"
    (tmp_path / "link").symlink_to(site)
    save(wall(lines=LINES[:1]), site / "a.jpg")
    save((wall(lines=LINES[:1])[..., 0] < 100) * np.uint8(255), site / "a_mask.png")
    assert inspected(site, out) == 0 and "2 of 2 photos" in capsys.readouterr().out  # nothing says that one is a mask
    assert inspected(site, out, "--truth", str(tmp_path / masks)) == 0
    said = capsys.readouterr().out
    assert "left out: true masks: 1 (a_mask.png)" in said and "without a mask" not in said
    assert pd.read_csv(out / "photos.csv")["file"].tolist() == ["a.jpg"]


def test_a_mask_of_one_name_is_given_to_one_photo(tmp_path: Path, capsys: Any) -> None:
    for name in ("a.png", "b.png", "b.tif", "south/c.png"):
        save(np.zeros((40, 40), np.uint8), tmp_path / name)
    photos = ["north/a.jpg", "south/a.jpg", "b.jpg", "south/c.jpg", "c.jpg"]
    found = find_masks(dict.fromkeys(photos), tmp_path)
    assert found == {"south/c.jpg": tmp_path / "south" / "c.png"}
    assert "photos without a mask: 4 (north/a.jpg, south/a.jpg, b.jpg and 1 more)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("photos", "masks", "pairs"),
    [
        ("a.jpg a.png", "a.png", ""),
        ("a.jpg a.tif", "a.png a.tif_mask.png", "a.tif a.tif_mask.png"),
        ("A.jpg a.jpg", "a.png", ""),
        ("A.jpg a.jpg", "A.png a.png", "A.jpg A.png a.jpg a.png"),
    ],
)
def test_photos_of_one_name_share_no_mask(photos: str, masks: str, pairs: str) -> None:
    names = iter(pairs.split())
    expected = {photo: Path("m", mask) for photo, mask in zip(names, names, strict=True)}
    given = {name: Path("m", name) for name in masks.split()}
    assert match_masks({name: Path(name) for name in photos.split()}, given) == expected


def test_masks_are_read_as_programs_save_them(tmp_path: Path) -> None:
    true = np.zeros((40, 40), np.uint8)
    true[20:24] = 1
    clear = np.dstack([np.full((40, 40, 3), 255, np.uint8), 255 * true])  # white lines on a transparent ground
    grey = np.where(true == 1, np.uint8(128), np.uint8(127))  # as a JPEG, or a mask with soft rims, has them
    ink = np.dstack([np.zeros((40, 40, 3), np.uint8), 255 * true])  # black ones
    for k, picture in enumerate((true, true.astype(np.uint16), true.astype(np.uint16) * 65535, clear, ink, grey)):
        Image.fromarray(picture).save(file := tmp_path / f"{k}.png")
        np.testing.assert_array_equal(read_mask(file, (40, 40)), true == 1)
    ramp = (np.linspace(0, 1, 1600).reshape(40, 40) ** 2 * 255).astype(np.uint8)
    for picture, told in ((255 - 255 * true, "white in more than half"), (ramp, "many grey values")):
        save(picture, tmp_path / "wrong.png")
        with pytest.raises(CrackutilsError, match=told):
            read_mask(tmp_path / "wrong.png", None, "white" in told)
    np.testing.assert_array_equal(read_mask(tmp_path / "wrong.png"), ramp > 127)  # a true mask with soft rims


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrackutilsError, match=r"wall\.jpg does not exist\. Give another photo\."):
        read_photo(tmp_path / "wall.jpg")
