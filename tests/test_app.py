"""The page in the browser: what a desk does, and the whole way in a real Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_inspection import LONG, Fake, save, wall

from crackutils.app.desk import Desk, remove_old
from crackutils.config import CrackutilsError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: Any) -> Desk:
    desk = Desk(tmp_path / "desk", Fake().detector)
    monkeypatch.setattr("crackutils.inspection.folder.load_detector", lambda *_: desk.net)
    save(wall(lines=(*LONG, ((100, 400), (500, 420)))), tmp_path / "wall.png")
    assert not desk.add([(tmp_path / "wall.png", "wall.png")])
    desk.open("wall.png")
    return desk


def test_a_desk_takes_photos_by_any_name_and_keeps_them_apart(tmp_path: Path, desk: Desk) -> None:
    names = [
        "wall.png",
        "../../wall.png",
        "<script>alert(1)</script>.png",
        "a\"b'c.png",
        "mauer 🧱.png",
        "C:\\x\\wall.png",
    ]
    assert not desk.add([(tmp_path / "wall.png", name) for name in names])
    assert len(desk.session.photos) == 7 and len(set(desk.session.photos.values())) == 7
    assert all((desk.home / "photos") == file.parent for file in desk.session.photos.values())
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    desk.add([(tmp_path / "broken.jpg", "broken.jpg")])
    with pytest.raises(CrackutilsError, match=r"broken\.jpg .* Choose another photo"):
        desk.open("broken.jpg")
    assert desk.sight is None


def test_marks_brush_scale_and_limit_change_what_is_found(desk: Desk) -> None:
    assert len(desk.sight.cracks) == 2 and "length (px)" in desk.table()
    desk.set_scale(0.5, everywhere=True)
    desk.set_limit(1.0)
    table = desk.table()
    assert table["length (mm)"][0] == pytest.approx(300, rel=0.02) and set(table["over 1 mm"]) == {"! over"}
    x, y = 300 * desk.sight.shrink, 152 * desk.sight.shrink
    assert desk.crack_at(x, y) == 1 and desk.crack_at(x, 600) is None
    desk.mark(1, "joint")
    assert len(desk.sight.cracks) == 1 and "1 found lines are no cracks" in desk.summary()
    desk.edit(marks=())
    assert len(desk.sight.cracks) == 2
    desk.draw([(100, 600), (800, 600)], 4, "add")
    assert len(desk.sight.cracks) == 3
    desk.draw([(0, 150), (900, 150)], 30, "erase")
    assert len(desk.sight.cracks) == 2 and not desk.sight.mask[140:160].any()
    for points in ([], [(1, 1)]):
        with pytest.raises(CrackutilsError, match="two points"):
            desk.draw(points, 4, "add")


def test_a_desk_goes_on_where_it_was_also_elsewhere(tmp_path: Path, desk: Desk) -> None:
    desk.set_scale(0.25, everywhere=False)
    desk.draw([(100, 600), (800, 600)], 4, "add")
    desk.mark(1, "nothing")
    again = Desk(desk.home, desk.net)  # as after a kill
    again.open("wall.png")
    other = Desk(tmp_path / "other", desk.net)
    assert not other.add([(desk.write(), "session.zip")])
    other.open("wall.png")
    for one in (again, other):
        np.testing.assert_array_equal(one.table(), desk.table())
        assert one.scale_of("wall.png") == 0.25
    other.clear()
    assert not other.session.photos and not any(other.home.iterdir())


def test_the_report_holds_what_the_desk_shows(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    desk.add([(tmp_path / "broken.jpg", "broken.jpg"), (tmp_path / "wall.png", "<b>.png")])
    desk.set_scale(0.5, everywhere=True)
    desk.mark(1, "joint")
    files = {file.name: file for file in desk.report()}
    cracks = pd.read_csv(files["cracks.csv"])
    own = cracks[cracks["file"] == "wall.png"]
    assert own["length_mm"].round(2).tolist() == desk.table()["length (mm)"].tolist() and len(cracks) == 3
    page = files["report.html"].read_text("utf-8")
    assert "Rejected by the user: 1" in page and "broken.jpg" in page and "<b>.png" not in page
    with zipfile.ZipFile(files["inspection.zip"]) as archive:
        assert {"report.html", "photos/wall.png/mask.png", "photos/<b>.png/mask.png"} < set(archive.namelist())


def test_desks_go_after_a_week(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    remove_old(tmp_path)
    assert not old.exists() and new.exists()


class Server:
    """`crackutils app` in a process of its own."""

    def __init__(self, data: Path, port: int) -> None:
        command = [sys.executable, "-m", "crackutils", "app", "--port", str(port)]
        env = {**os.environ, "CRACKUTILS_DATA_DIR": str(data)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync", "--no-first-run"])
