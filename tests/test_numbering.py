"""Numbers of cracks: which crack keeps its number, and where the numbers stand."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ezdxf
import numpy as np
import pandas as pd
import pytest
from test_inspection import Fake, save, wall

from crackutils.cli import main
from crackutils.inspection.folder import inspect
from crackutils.inspection.measure import Piece
from crackutils.inspection.numbering import number_cracks, read_known
from crackutils.inspection.session import ERASED, Edits, Session, write_session

LONG, SHORT = (10, 0, 400), (50, 0, 100)  # y, and from x to x


def number(known: str, *lines: tuple[int, int, int]) -> tuple[list[int], str]:
    """Return the numbers of horizontal lines, the longest first, and what is known then."""
    rows = [np.stack([np.arange(begin, end), np.full(end - begin, y)], 1).astype("f") for y, begin, end in lines]
    pieces = [Piece(k, 1, row, np.ones(len(row)), np.zeros(len(row), bool)) for k, row in enumerate(rows, 1)]
    numbers, known = number_cracks(pieces, known)
    return [numbers[piece.crack] for piece in pieces], known


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        ([LONG, SHORT], [1, 2]),
        ([(50, 0, 900), LONG], [2, 1]),  # has grown, and is the longest now
        ([(14, 0, 400)], [1]),  # has moved a little
        ([(20, 0, 400)], [3]),  # is too far away
        ([(10, 100, 400), SHORT, (10, 0, 90)], [1, 2, 3]),  # the larger part keeps the number
        ([(30, 0, 70)], [3]),  # gets no number of one that has vanished
        ([(10, 390, 900)], [3]),  # shares an end only
        ([(10, 0, 900), SHORT, (90, 0, 50), (99, 0, 50)], [1, 2, 3, 4]),
        ([], []),
    ],
)
def test_a_crack_keeps_its_number_also_after_it_had_vanished(lines: Any, numbers: list[int]) -> None:
    first, known = number("", LONG, SHORT)
    found, now = number(known, *lines)
    assert (first, found) == ([1, 2], numbers)
    assert number(now, *lines) == (found, now)
    assert number(now, LONG, SHORT)[0] == [1, 2]
    free = max([2, *numbers]) + 1
    assert number(number(now)[1], (500, 0, 9))[0] == [free]


def test_cracks_that_were_joined_get_their_numbers_back() -> None:
    _, known = number("", LONG, (10, 420, 520))
    found, known = number(known, (10, 0, 520))
    assert found == [1] and number(known, (10, 420, 520), LONG)[0] == [2, 1]


@pytest.mark.parametrize("text", ["1 2 3", "1 2 x 0", "1 2 3.5 0", "-1 2 3 0", "1 2 nan 0", "1 2 1e9 0"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_known(text)


def test_every_file_has_the_numbers_of_the_session(tmp_path: Path, fake: Fake, monkeypatch: Any) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("crackutils.inspection.drawing._write_text", lambda _, text, *__: drawn.append(text))
    save(wall(lines=(((100, 150), (700, 150)), ((100, 450), (500, 450)))), photo := tmp_path / "wall.png")
    session = Session({"wall.png": photo}, mm_per_pixel=0.5, limit_mm=0.5)
    inspect([], tmp_path / "first", session=session)
    brush = np.zeros((700, 900), np.uint8)
    brush[:, 350:370] = ERASED  # the right part of the upper line is longer, the left part of the lower one
    marks = ((600, 150, "joint"),)
    edits = session.edits["wall.png"] = Edits(None, marks, brush, session.edits["wall.png"].numbers)
    write_session(session, tmp_path / "walls.zip")
    inspect([], tmp_path / "second", session=session)
    assert {"1 !", "2 !", "3 !", "4 !"} < set(drawn)
    assert main(["inspect", "--session", str(tmp_path / "walls.zip"), "--out", str(tmp_path / "third")]) == 0
    for out in (tmp_path / "second", tmp_path / "third"):
        cracks = pd.read_csv(out / "cracks.csv").set_index("crack")
        places = {3: (100, 150), 2: (100, 450), 4: (370, 450)}  # 1 is the joint
        assert set(cracks.index) == set(places)
        assert pd.read_excel(out / "cracks.xlsx", "cracks")["crack"].tolist() == cracks.index.tolist()
        lines = json.loads((out / "cracks.geojson").read_text())["features"]
        areas = json.loads((out / "coco.json").read_text())["annotations"]
        for k, (x, y) in places.items():
            (line,) = (line["geometry"]["coordinates"] for line in lines if line["properties"]["crack"] == k)
            (area,) = (area for area in areas if area["crack"] == k)
            np.testing.assert_allclose([min(line), cracks.loc[k, ["x", "y"]] * (1, -1)], [(x, -y)] * 2, atol=8)
            np.testing.assert_allclose(area["bbox"][:2], (x, y), atol=8)
            assert area["score"] == pytest.approx(cracks.loc[k, "p_crack"], abs=1e-4)
        texts = ezdxf.readfile(out / "cracks.dxf").modelspace().query("TEXT")
        heights = {text.dxf.text: round(text.dxf.insert.y / -75) for text in texts if text.dxf.text.isdigit()}
        assert heights == {"3": 1, "2": 3, "4": 3}  # half a millimetre per pixel
        page = (out / "report.html").read_text("utf-8")
        widest = cracks.sort_values("width_most_mm", ascending=False, kind="stable").index
        assert re.findall(r"<td>(\d+) !</td>", page) == [str(k) for k in widest]
    session.edits["wall.png"] = replace(edits, numbers="")  # as in an older session
    inspect([], tmp_path / "fourth", session=session)
    assert pd.read_csv(tmp_path / "fourth" / "cracks.csv")["crack"].tolist() == [1, 2, 3]
