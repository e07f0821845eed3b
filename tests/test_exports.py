"""EXIF in what `inspect` writes, the workbook, the drawing, and the limit of width by exposure class."""

import io
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import ezdxf
import numpy as np
import openpyxl
import pandas as pd
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational
from test_inspection import Fake, save, wall
from test_outputs import inspected, piece

from crackutils.inspection.drawing import LINE, OVER, draw_overlay
from crackutils.inspection.dxf import write_dxf
from crackutils.inspection.exif import FACTS, describe_exif, read_exif
from crackutils.inspection.export import describe_lines, share_over_limit
from crackutils.inspection.limit import EXPOSURES, choose_limit, cut_wider
from crackutils.userfiles.write import workbook_bytes

NORTH = {1: "N", 2: (52.0, 31.0, 12.5), 3: "W", 4: (13.0, 24.0, 0.0), 5: b"\0", 6: 34.5}
PLACE = {"latitude": 52.5201389, "longitude": -13.4, "altitude": 34.5}


def exif_of(
    make: Any = "Canon", model: Any = "Canon 5D", taken: Any = "2024:05:01 12:30:00", gps: Any = NORTH
) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = make, model
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    return exif.tobytes()


def read(exif: bytes, file: Path) -> dict[str, Any]:
    Image.new("RGB", (40, 40)).save(file, exif=exif)
    return read_exif(file)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "heic"])
def test_camera_date_and_place_are_read(suffix: str, tmp_path: Path) -> None:
    facts = read(exif_of(), tmp_path / f"a.{suffix}")
    assert facts == {"camera": "Canon 5D", "taken": "2024-05-01 12:30:00"} | PLACE
    words = (
        "Canon 5D, taken 2024-05-01 12:30:00, at 52.520139, -13.400000 (latitude, longitude), 34.5 m above sea level"
    )
    assert describe_exif(facts) == words and describe_exif(dict.fromkeys(FACTS)) == ""


def test_exif_that_makes_no_sense_is_unknown_and_stops_nothing(tmp_path: Path) -> None:
    file, nothing = tmp_path / "a.jpg", IFDRational(0, 0)
    assert read(exif_of("Apple", "iPhone\0 12\0"), file)["camera"] == "Apple iPhone"
    assert read(exif_of("", "A\n\x1b[31m\x7f<b>B"), file)["camera"] == "A [31m <b>B"
    assert len(read(exif_of("x" * 60_000, "y"), file)["camera"]) == 80
    assert read(exif_of(b"\xff\xfe", 7, "0000:00:00 00:00:00", {}), file)["taken"] is None
    assert read(exif_of(taken="2024-05-01T12"), file)["taken"] is None
    south = read(exif_of(gps=NORTH | {1: "s", 5: b"\1", 3: "E"}), file)
    assert (south["latitude"], south["longitude"], south["altitude"]) == (-52.5201389, 13.4, -34.5)
    wrong = [{2: (nothing, nothing, nothing)}, {2: (91.0, 0.0, 0.0)}, {2: (52.0, 61.0, 0.0)}, {2: (52.0,)}, {1: "X"}]
    wrong += [{1: ""}, {4: (13.0, 24.0, nothing)}, {2: (0.0,) * 3, 4: (0.0,) * 3}]
    for tags in wrong:
        facts = read(exif_of(gps=NORTH | tags | {6: nothing}), file)
        assert facts == dict.fromkeys(FACTS) | {"camera": "Canon 5D", "taken": "2024-05-01 12:30:00"}, tags
    whole, random = exif_of(), np.random.default_rng(0)
    for k in range(6, len(whole), 7):  # cut short, and overwritten
        for exif in (whole[:k], whole[:k] + random.bytes(8) + whole[k + 8 :]):
            assert set(read(exif, file)) == set(FACTS)
    assert read_exif(tmp_path / "none.jpg") == dict.fromkeys(FACTS)


def contents(out: Path) -> dict[str, bytes]:
    """Return all that lies in a folder, workbooks unpacked."""
    found = {str(file): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for name in [name for name in found if name.endswith(".xlsx")]:
        with zipfile.ZipFile(io.BytesIO(found.pop(name))) as book:
            found |= {f"{name}/{part}": book.read(part) for part in book.namelist()}
    return found


def test_exif_is_in_what_is_written_or_nowhere(tmp_path: Path, fake: Fake) -> None:
    (tmp_path / "site").mkdir()
    Image.fromarray(wall()).save(tmp_path / "site" / "a.jpg", exif=exif_of("=Evil", "<script>alert(1)</script>"))
    save(wall(seed=1), tmp_path / "site" / "bare.png")
    (tmp_path / "site" / "empty.jpg").touch()
    out = tmp_path / "out"
    assert inspected(tmp_path / "site", out) == 0
    photos = pd.read_csv(out / "photos.csv").set_index("file")
    row = photos.loc["a.jpg", [*FACTS]].tolist()
    assert row == ["'=Evil <script>alert(1)</script>", "2024-05-01 12:30:00", *PLACE.values()]
    assert photos.loc[["bare.png", "empty.jpg"], ["camera", "latitude"]].isna().all(axis=None)
    features = json.loads((out / "cracks.geojson").read_text("utf-8"))["features"]
    facts = {feature["properties"]["photo"]: feature["properties"] for feature in features}
    assert {name: facts["a.jpg"][name] for name in PLACE} == PLACE and facts["bare.png"]["camera"] is None
    page = (out / "report.html").read_text("utf-8")
    assert "=Evil &lt;script&gt;alert(1)&lt;/script&gt;, taken 2024" in page and "<script" not in page
    assert inspected(tmp_path / "site", out, "--no-exif") == 0
    for name, content in contents(out).items():
        assert not any(word in content for word in (b"Evil", b"2024-05", b"52.52", b"latitude")), name
        if name.endswith(("jpg", "png")):
            assert not Image.open(io.BytesIO(content)).getexif() and b"Exif" not in content, name
    assert inspected(tmp_path / "site", out, "--exif") == 0 and b"Evil" in (out / "photos.csv").read_bytes()


def test_the_workbook_holds_text_as_text_and_is_the_same_again(tmp_path: Path) -> None:
    signs = ["=1+1", "+1", "-1", "@SUM(A1)", "#N/A", "plain", "a\x01\ufffe\\b", None]
    table = pd.DataFrame({"file": signs, "note": ["=HYPERLINK(1)", "#DIV/0!", *[None] * 6], "n": range(8), "x": 0.125})
    table["gone"] = pd.array([None, 5, *[None] * 6], "Int64")
    content = workbook_bytes({"photos": table, "none": table.head(0)})
    assert content == workbook_bytes({"photos": table.copy(), "none": table.head(0)})
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        assert {entry.date_time for entry in book.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b"2000-01-01" in book.read("docProps/core.xml") and b"<f>" not in book.read("xl/worksheets/sheet1.xml")
    book = openpyxl.load_workbook(io.BytesIO(content))
    sheet = book["photos"]
    assert book.sheetnames == ["photos", "none"] and sheet.freeze_panes == "A2" and book["none"].max_row == 1
    cells = list(sheet.iter_rows(min_row=2))
    names = [*(f"./{name}" for name in signs[:4]), "#N/A", "plain", "a\\x01\\ufffe\\b", None]
    assert [row[0].value for row in cells] == names
    assert [cells[0][1].value, cells[1][1].value] == ["'=HYPERLINK(1)", "#DIV/0!"]
    assert {cell.data_type for row in cells for cell in row[:2] if cell.value} == {"s"}
    formats = [{row[k].number_format for row in cells if row[k].value is not None} for k in range(5)]
    assert formats == [{"@"}, {"@"}, {"0"}, {"0.0######"}, {"0"}]
    assert (cells[3][2].value, cells[3][3].value, cells[1][4].value) == (3, 0.125, 5)


def test_the_workbook_is_that_of_the_tables(tmp_path: Path, fake: Fake) -> None:
    save(wall(), tmp_path / "site" / "=1.png")
    save(wall(lines=()), tmp_path / "site" / "clean.png")
    out = tmp_path / "out"
    assert inspected(tmp_path / "site", out, "--mm-per-pixel", "0.5", "--limit-mm", "0.3") == 0
    for name in ("photos", "cracks"):
        sheet, table = pd.read_excel(out / "cracks.xlsx", name), pd.read_csv(out / f"{name}.csv")
        pd.testing.assert_frame_equal(sheet, table, check_dtype=False)
    before = {name: (out / name).read_bytes() for name in ("cracks.xlsx", "cracks.dxf")}
    assert inspected(tmp_path / "site", out, "--mm-per-pixel", "0.5", "--limit-mm", "0.3") == 0
    assert before == {name: (out / name).read_bytes() for name in before}


def found_in(wide: int, high: int, limit: float | None, scale: float | None = None) -> dict[str, Any]:
    own = piece([(10, 10), (20, 10), (30, 10), (40, 10)], [1, 9, 1, 1], [0] * 4)
    return {"wide": wide, "high": high, "lines": describe_lines([own], scale, limit)}


@pytest.mark.parametrize("scale", [None, 0.5])
def test_the_drawing_holds_each_photo_at_its_place(scale: float | None) -> None:
    names = ["a/=b*.png", "A_=B*.png", "a__b_.png", "0", "frames", "x\ny,|\u00e9.png", "a__b_.png_over_limit"]
    found = {name: found_in(400 + 10 * k, 300, 5.0, scale) for k, name in enumerate(names)}
    found |= {"none.jpg": {"problem": "is not an image"}, "clean": {"wide": 50, "high": 900, "lines": []}}
    scales, size = dict.fromkeys(found, scale), scale or 1.0
    text = write_dxf(found, scales)
    assert text == write_dxf(found, scales) and not ezdxf.options.write_fixed_meta_data_for_testing
    drawing = ezdxf.read(io.StringIO(text))
    assert not drawing.audit().errors and not drawing.audit().fixes
    assert drawing.header["$INSUNITS"] == (4 if scale else 0)
    lines = drawing.modelspace().query("LWPOLYLINE")
    frames = [line for line in lines if line.dxf.layer == "frames"]
    boxes = [np.array(line.get_points("xy")) for line in frames]
    assert len(frames) == len(found) - 1 and all(line.closed for line in frames)
    np.testing.assert_allclose(boxes[0], np.array([(0, 0), (400, 0), (400, -300), (0, -300)]) * size)
    np.testing.assert_allclose([np.ptp(box, 0)[0] for box in boxes], np.array([*range(400, 470, 10), 50]) * size)
    assert all(one[:, 0].max() < other[:, 0].min() for one, other in itertools.pairwise(boxes))
    texts = list(drawing.modelspace().query("TEXT"))
    assert [text.dxf.text for text in texts[::2]] == [*(name.replace("\n", "\\n") for name in names), "clean"]
    assert [text.dxf.insert.x for text in texts[::2]] == [box[0, 0] for box in boxes]
    assert [text.dxf.text for text in texts[1::2]] == ["1"] * len(names)  # of the crack, at its line
    assert texts[1].dxf.insert.y == -10.5 * size
    layers = [line.dxf.layer for line in lines if line.dxf.layer != "frames"]
    expected = ["a__b_.png", "A__B_.png (2)", "a__b_.png (3)", "0 (2)", "frames (2)", "x_y__\u00e9.png"]
    assert layers[::2] == [*expected, "a__b_.png_over_limit (2)"]
    assert layers[1::2] == [f"{name}_over_limit" for name in layers[::2]]
    left = boxes[1][0, 0]
    of_layer = {one.dxf.layer: np.array(one.get_points("xy")) for one in lines}
    line, over = (of_layer[name] for name in layers[2:4])
    np.testing.assert_allclose(line, np.array([(10.5, -10.5), (40.5, -10.5)]) * size + (left, 0))
    np.testing.assert_allclose(over, np.array([(15.5, -10.5), (25.5, -10.5)]) * size + (left, 0))
    plain = ezdxf.read(io.StringIO(write_dxf({"a": found_in(99, 99, None)}, {"a": scale})))
    assert {layer.dxf.name for layer in plain.layers} == {"0", "Defpoints", "frames", "a"}
    assert len(ezdxf.read(io.StringIO(write_dxf({}, {}))).modelspace()) == 0


def test_stretches_over_the_limit_are_as_long_as_the_share_says() -> None:
    random = np.random.default_rng(0)
    own = piece(np.cumsum(random.uniform(0, 2, (200, 2)), 0), random.uniform(0, 4, 200), random.random(200) < 0.2)
    length = sum(np.hypot(*np.diff(stretch, axis=0).T).sum() for stretch in cut_wider(own, 2.0))
    assert length / own.steps.sum() == pytest.approx(share_over_limit([own], 2.0)["over_limit"], rel=1e-4)
    assert cut_wider(piece([(0, 0), (9, 0)], [np.nan, 3], [0, 1]), 2.0) == []
    assert describe_lines([own], None, 2.0)[0]["over_limit"] == pytest.approx(length / own.steps.sum(), abs=1e-4)


def test_what_is_over_the_limit_is_red_thick_and_marked() -> None:
    own = [piece([(100, 60 * k), (300, 60 * k), (500, 60 * k)], [w, w, w], [0, 0, 0], k) for k, w in ((1, 2), (2, 8))]
    image, none = np.full((200, 600, 3), 170, np.uint8), np.zeros((200, 600), bool)
    cracks = pd.DataFrame({"crack": [7, 2], "x_top": [100, 100], "y_top": [60, 120]})
    plain, limited = (draw_overlay(image, none, own, 600, limit=limit) for limit in (None, 5.0))
    thick = {}
    for name, picture in {"plain": plain, "limited": limited}.items():
        for colour in (LINE, OVER):
            near = (np.abs(picture.astype(int) - colour) < 60).all(2)
            thick[name, colour] = near[:90, 300].sum(), near[90:, 300].sum()
    assert thick["plain", OVER] == (0, 0) and thick["plain", LINE][0] == thick["plain", LINE][1] > 0
    assert thick["limited", LINE][0] == thick["plain", LINE][0] and thick["limited", OVER][0] == 0
    assert thick["limited", OVER][1] >= 1.5 * thick["limited", LINE][0] and thick["limited", LINE][1] == 0
    over = (cracks.assign(over_limit=share) for share in (0.0, [0, 0.1]))
    marked = [draw_overlay(image, none, own, 600, None, numbered, 5.0) for numbered in over]
    y, _ = np.nonzero((marked[0] != marked[1]).any(2))
    assert len(y) > 10 and y.min() > 90  # the sign beside the second


def test_an_exposure_class_gives_the_limit(tmp_path: Path, fake: Fake, capsys: Any, monkeypatch: Any) -> None:
    site, scale, drawn = tmp_path / "site", ("--mm-per-pixel", "0.1"), []
    monkeypatch.setattr("crackutils.inspection.drawing._write_text", lambda _, text, *__: drawn.append(text))
    save(wall(lines=[((70 * k, 650), (70 * k, 600 - 10 * k)) for k in range(1, 13)], thick=12), site / "a.png")
    for options, told in {
        ("--exposure", "XC2", "--limit-mm", "0.3"): "Give --limit-mm or --exposure.",
        ("--exposure", "XD3"): f"exposure=XD3 is unknown. Give one of {', '.join(EXPOSURES)}.",
    }.items():
        assert inspected(site, tmp_path / "out", *scale, *options) == 2 and told in capsys.readouterr().err
    assert choose_limit(None, None) == (None, "") and choose_limit(0.2, None)[0] == 0.2
    assert inspected(site, tmp_path / "out", *scale, "--limit-mm", "0.8") == 0
    page = " ".join((tmp_path / "out" / "report.html").read_text("utf-8").split())
    assert "wider than 0.8 mm" in page and "The limit is given by the user." in page and "EN 1992" not in page
    assert page.count('<tr class="over"><td>') == 12 and "Over the limit: 12 cracks, first in the table." in page
    assert {f"{crack} !" for crack in range(1, 13)} < set(drawn)
    assert pd.read_csv(tmp_path / "out" / "cracks.csv")["over_limit"][0] > 0.9
    limits = [choose_limit(None, name)[0] for name in EXPOSURES]
    assert limits == [0.4, 0.4, *[0.3] * 8] and choose_limit(None, " xc2")[0] == 0.3
    assert inspected(site, tmp_path / "out", "--exposure", "XC1") == 2
    assert "needs a scale. Give --mm-per-pixel" in capsys.readouterr().err
    assert inspected(site, tmp_path / "out", *scale, "--exposure", "XC1") == 0
    page = " ".join((tmp_path / "out" / "report.html").read_text("utf-8").split())
    rule = "The limit is the recommended value of EN 1992-1-1:2004, Table 7.1N, for exposure class XC1, for reinforced"
    assert "wider than 0.4 mm" in page and rule in page and "quasi-permanent load combination" in page
