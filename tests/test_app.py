"""The page in the browser: what a desk does, and the whole way in a real Chromium."""

import asyncio
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from test_inspection import LONG, Fake, save, wall

from crackutils.app.desk import Desk, remove_old
from crackutils.app.serve import show_page, start_page
from crackutils.cli import main
from crackutils.config import CrackutilsError
from crackutils.synthetic.photo import make_photo


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: Any) -> Desk:
    desk = Desk(tmp_path / "desk", Fake().detector)
    monkeypatch.setattr("crackutils.inspection.folder.load_detector", lambda *_: desk.net)
    save(wall(lines=(*LONG, ((100, 400), (500, 420)))), tmp_path / "wall.png")
    assert not desk.add([(tmp_path / "wall.png", "wall.png")])
    desk.open("wall.png")
    return desk


def test_a_desk_takes_photos_by_any_name_and_keeps_them_apart(tmp_path: Path, desk: Desk) -> None:
    names = ["wall.png", "../../wall.png", "<b>alert(1)</b>.png", "a\"b'c.png", "mauer 🧱.png", "C:\\x\\wall.png"]
    assert not desk.add([(tmp_path / "wall.png", name) for name in names])
    assert len(desk.session.photos) == 7 and len(set(desk.session.photos.values())) == 7
    assert all((desk.home / "photos") == file.parent for file in desk.session.photos.values())
    long = [desk.add([(tmp_path / "wall.png", name)]) for name in ("\0.png", "x" * 300 + ".png", "🧱" * 90 + ".png")]
    assert [len(problems) for problems in long] == [1, 0, 0] and len(desk.session.photos) == 9
    (tmp_path / "text").write_bytes(b"no photo")
    before = desk.table()
    session, text = desk.add([(tmp_path / "text", "broken.zip"), (tmp_path / "text", "notes.txt")])
    assert "not a session" in session and text == "notes.txt is not an image, so it is left out."
    assert len(desk.session.photos) == 9
    np.testing.assert_array_equal(desk.table(), before)  # a bad session takes nothing away


def add_cut(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "cut.png").write_bytes((tmp_path / "wall.png").read_bytes()[:9000])
    assert not desk.add([(tmp_path / "cut.png", "cut.png")])  # is a photo by its beginning


def test_a_broken_photo_leaves_the_list_unless_it_has_corrections(tmp_path: Path, desk: Desk) -> None:
    add_cut(tmp_path, desk)
    with pytest.raises(CrackutilsError, match=r"^cut\.png is truncated or damaged"):
        desk.open_first(["cut.png", "wall.png"])
    assert desk.chosen_photo == "wall.png" and list(desk.session.photos) == ["wall.png"]
    desk.mark(1, "joint")
    desk.session.photos["wall.png"].write_bytes(b"no photo")
    with pytest.raises(CrackutilsError, match=r"^wall\.png is not an image\. Choose another photo\.$"):
        desk.open("wall.png")
    assert desk.session.photos and desk.edits_of("wall.png").marks


def test_an_old_tab_does_nothing_and_takes_no_photos_away(tmp_path: Path, desk: Desk, monkeypatch: Any) -> None:
    file = desk.write().rename(tmp_path / "session.zip")
    new = Desk(desk.home, desk.net)
    with pytest.raises(CrackutilsError, match="in another tab"):
        desk.add([(file, "session.zip")])
    assert all(photo.is_file() for photo in new.session.photos.values())
    page, told = pytest.importorskip("crackutils.app.page"), []
    monkeypatch.setattr(page.gr, "Warning", told.append)
    page._acted(lambda screen: told.append("done"))(page.Screen(desk), None, "")
    assert len(told) == 1 and "in another tab" in told[0]


def test_the_question_before_all_is_removed_stays_until_the_user_does_something(desk: Desk) -> None:
    page = pytest.importorskip("crackutils.app.page")
    screen = page.Screen(desk, asked=True)
    page._acted(page._set_threshold)(screen, None, "")  # follows each event of the slider, also that of a new page
    assert screen.asked
    page._acted(lambda screen: None)(screen, None, "")
    assert not screen.asked


def test_marks_brush_scale_and_limit_change_what_is_found(desk: Desk) -> None:
    assert len(desk.sight.cracks) == 2 and "length (px)" in desk.table()
    desk.ends = [(100, 150)]
    assert desk.describe_ends() == ""
    desk.ends.append((500, 150))
    assert desk.describe_ends() == "400 pixels apart: an error of 1 pixel changes the scale by 0.25%"
    desk.set_scale(0.5, everywhere=True)
    desk.set_limit(1.0)
    table = desk.table()
    assert table["length (mm)"][0] == pytest.approx(300, rel=0.02)
    assert all(re.fullmatch(r"! (100\.0|9\d\.\d)%", over) for over in table["over 1 mm"]) and "not known" in table
    x, y = 300 * desk.sight.shrink, 152 * desk.sight.shrink
    assert desk.line_at(x, y) == 1 and desk.line_at(x, 600) is None
    desk.mark(1, "joint")
    assert len(desk.sight.cracks) == 1 and "rejected by you (x in the picture): 1" in desk.summary()
    desk.edit(marks=())
    assert len(desk.sight.cracks) == 2
    desk.draw([(100, 600), (800, 600)], 4, "add")
    assert len(desk.sight.cracks) == 3
    desk.draw([(0, 150), (900, 150)], 30, "erase")
    assert len(desk.sight.cracks) == 2 and not desk.sight.mask[140:160].any()
    desk.sight.cracks[["width_mean", "at_most"]] = np.nan  # nowhere measured
    assert desk.describe(desk.sight.cracks["crack"][0]).endswith("cannot be measured")
    for points in ([], [(1, 1)]):
        with pytest.raises(CrackutilsError, match="two points"):
            desk.draw(points, 4, "add")


def test_a_chosen_line_is_outlined_stays_chosen_and_its_mark_can_be_taken_back_alone(desk: Desk) -> None:
    plain = desk.picture()
    desk.line = 2
    changed = (desk.picture() != plain).any(2)
    assert changed[380:450].sum() > 1000 and not changed[:300].any()  # around the lower line, whatever its colour
    desk.mark(1, "joint")
    assert desk.line == 2 and desk.lines() == {1: "1 (joint)", 2: "2"}
    desk.mark(2, "crack")
    assert desk.sight.marks[2][2] == "crack" and desk.line_at(400, 150) == 1
    desk.line = 1
    assert "rejected by you" in desk.describe(1) and desk.crop(1).shape == (311, 321, 3)
    desk.mark(1, None)
    assert [mark[2] for mark in desk.edits_of("wall.png").marks] == ["crack"] and desk.line == 1
    desk.mark(2, None)
    assert desk.edits_of("wall.png").marks == () and desk.lines() == {1: "1", 2: "2"}
    desk.edit(marks=((200, 405, "crack"), (400, 415, "nothing")))
    assert desk.lines()[2] == "2 (contradictory marks)" and "raise the threshold" in desk.summary()
    desk.mark(2, "crack")
    assert desk.lines()[2] == "2" and len(desk.edits_of("wall.png").marks) == 1


def test_a_desk_goes_on_where_it_was_also_elsewhere(tmp_path: Path, desk: Desk) -> None:
    desk.set_scale(0.25, everywhere=False)
    desk.draw([(100, 600), (800, 600)], 4, "add")
    desk.mark(1, "nothing")
    desk.set_limit(None, "XC4")
    again = Desk(desk.home, desk.net)  # as after a kill
    again.open("wall.png")
    other = Desk(tmp_path / "other", desk.net)
    assert not other.add([(desk.write(), "session.zip")])
    other.open("wall.png")
    assert not other.add([(tmp_path / "wall.png", "wall.png")])  # takes no name away
    assert list(other.session.photos) == ["wall.png", "wall (2).png"] and desk.table()["crack"].tolist() == [3, 2]
    for one in (again, other):
        np.testing.assert_array_equal(one.table(), desk.table())
        assert one.scale_of("wall.png") == 0.25 and one.session.exposure == "XC4"
    again.set_limit(0.2)
    with pytest.raises(CrackutilsError, match="in another tab"):
        desk.set_limit(0.1)
    last = Desk(desk.home, desk.net)
    assert last.lock is desk.lock and last.session.limit_mm == 0.2 and last.session.exposure is None
    other.remove("wall.png")
    assert other.sight is None and list(other.session.photos) == ["wall (2).png"]
    other.open("wall (2).png")
    other.clear()
    assert not other.session.photos and [file.name for file in other.home.iterdir()] == ["opened"]
    other.check()


def test_the_report_holds_what_the_desk_shows(tmp_path: Path, desk: Desk) -> None:
    add_cut(tmp_path, desk)
    desk.add([(tmp_path / "wall.png", "<b>.png")])
    desk.set_scale(0.5, everywhere=False)
    desk.set_limit(None, "XC2")
    with pytest.raises(CrackutilsError, match=r"1 of 3 photos have no scale \(<b>\.png\)"):
        desk.report()  # the broken one needs none
    desk.set_scale(0.5, everywhere=True)
    desk.mark(1, "joint")
    files = {file.name: file for file in desk.report()}
    cracks = pd.read_csv(files["cracks.csv"])
    own = cracks[cracks["file"] == "wall.png"]
    assert own["length_mm"].round(2).tolist() == desk.table()["length (mm)"].tolist() and len(cracks) == 3
    assert own["crack"].tolist() == desk.table()["crack"].tolist() == [2]
    assert Desk(desk.home, desk.net).edits_of("<b>.png").numbers  # those of the report hold for photos not opened yet
    page = files["report.html"].read_text("utf-8")
    assert "EN 1992-1-1:2004, Table 7.1N, for exposure class XC2" in " ".join(page.split())
    assert "Rejected by the user: 1" in page and "cut.png" in page and "<b>.png" not in page
    with zipfile.ZipFile(files["inspection.zip"]) as archive:
        assert {"report.html", "photos/wall.png/mask.png", "photos/<b>.png/mask.png"} < set(archive.namelist())


def test_a_notebook_goes_on_without_the_page(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    show_page([tmp_path / "none.jpg"])
    assert "This run has no browser" in capsys.readouterr().out
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook")
    show_page([tmp_path / "none.jpg"])
    assert "none.jpg does not exist" in capsys.readouterr().out
    assert main(["app", "--host", "192.0.2.1"]) == 2 and "Give another --host." in capsys.readouterr().err
    for packages, why in (
        ([], "The page needs gradio"),
        ([Mock(version="5.49.1")], "gradio 5.49.1 is too old for the page"),
    ):
        monkeypatch.setattr("crackutils.app.serve.metadata.distributions", lambda packages=packages, **_: packages)
        show_page([tmp_path / "none.jpg"])
        assert capsys.readouterr().out == f"{why}. Run pip install 'gradio>=6'.\n"


def test_a_late_short_answer_does_not_overtake_an_early_long_one(monkeypatch: Any) -> None:
    module = pytest.importorskip("crackutils.app.page")
    one, other, answers = Mock(), Mock(), []

    async def answer(page: Any, name: str, seconds: float, state: Any) -> None:
        await asyncio.sleep(seconds)
        answers.append(name)

    async def act() -> None:
        page = module._Page(analytics_enabled=False)
        acts = (("photo", 0.2, one), ("scale", 0.0, one), ("of another user", 0.05, other))
        await asyncio.gather(*(page.process_api(name, wait, state=state) for name, wait, state in acts))

    monkeypatch.setattr(module.gr.Blocks, "process_api", answer)
    asyncio.run(act())
    assert answers == ["of another user", "photo", "scale"]


def test_numbers_are_read_with_a_point_or_a_comma() -> None:
    read_number = pytest.importorskip("crackutils.app.page").read_number
    assert [read_number(text) for text in ("0.2", " 0,2 ", "3", "", None)] == [0.2, 0.2, 3, None, None]
    for text in ("0", "-1", "abc", "1,000.5", "inf"):
        with pytest.raises(CrackutilsError, match="nothing has changed"):
            read_number(text)


def test_desks_go_after_a_week(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    remove_old(tmp_path)
    assert not old.exists() and new.exists()


def test_corrections_of_earlier_versions_move_out_of_the_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("crackutils.app.page")
    for name in ("serve.load_detector", "serve.map_photo", "serve.gc.freeze", "page.launch"):
        monkeypatch.setattr(f"crackutils.app.{name}", lambda *_: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # is set, and then put back
    homes: list[Path] = []
    monkeypatch.setattr("crackutils.app.page.build_page", lambda start, home, *_: homes.append(home) or Mock())
    (data_dir / "cache" / "desks" / "one").mkdir(parents=True)
    for _ in range(2):
        start_page()
    assert homes == [data_dir / "desks"] * 2 and os.listdir(homes[0]) == ["one"]


class Server:
    """`crackutils app` in a process of its own."""

    def __init__(self, data: Path, port: int = 7931) -> None:
        command = [sys.executable, "-m", "crackutils", "app", "--port", str(port)]
        environment = {**os.environ, "CRACKUTILS_DATA_DIR": str(data)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    servers = []
    yield lambda: servers.append(Server(tmp_path / "data")) or servers[-1]
    for server in servers:
        server.kill()


def facts_become(page: Any, text: str | re.Pattern) -> None:
    page.locator("#facts").get_by_text(text).wait_for()


def numbers_become(page: Any, numbers: str) -> None:
    cells = """[...document.querySelectorAll('#table [role=gridcell][aria-colindex="1"]')]"""
    page.wait_for_function(f"numbers => {cells}.map(cell => cell.innerText.trim()).join() == numbers", arg=numbers)


HEIGHTS = "['files', 'facts', 'crop', 'told'].map(id => document.getElementById(id).offsetHeight)"
FOCUSED = """([selector, text]) => {
    const at = document.activeElement, name = at.innerText || at.ariaLabel || at.value || "";
    if (!at.matches(selector) || !name.includes(text)) return "";
    const style = getComputedStyle(at), box = at.getBoundingClientRect();
    const seen = style.outlineStyle != "none" && style.outlineWidth != "0px" && box.width && box.top > -1;
    return seen && box.bottom < innerHeight + 1 ? "seen" : "not seen: " + selector + " " + text;
}"""


def reach(page: Any, selector: str, text: str = "", key: str = "Tab") -> None:
    """Press Tab until an element has the focus, where it can be seen."""
    for _ in range(80):
        page.keyboard.press(key)
        if found := page.evaluate(FOCUSED, [selector, text]):
            assert found == "seen"
            return
    raise AssertionError(f"{selector} {text} cannot be reached")


def press(page: Any, selector: str, text: str = "", key: str = "Enter") -> None:
    reach(page, selector, text)
    page.keyboard.press(key)


def enter(page: Any, selector: str, text: str) -> None:
    reach(page, selector)
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_whole_way_by_keyboard_alone(tmp_path: Path, browser: Any, serve: Any, width: int) -> None:
    photo = tmp_path / 'wall <b>"1" 🧱.png'
    save(make_photo(77, 26, 900, 700).image, photo)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    server = serve()
    context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
    page, outside, errors = context.new_page(), [], []
    page.set_default_timeout(30_000)
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else outside.append(r.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    facts_become(page, "No photo is open.")
    heights = page.evaluate(HEIGHTS)
    with page.expect_file_chooser() as chooser:
        press(page, "#files button")
    chooser.value.set_files([tmp_path / "broken.jpg", photo])
    enter(page, "#scale input", "0,2")  # while the photo opens
    facts_become(page, "900 x 700 pixels, 0.2 mm per pixel")
    assert photo.name in page.locator("#photo input").input_value()

    # the scale from two points, the limit, the threshold
    press(page, "button", "From two points")
    enter(page, "#ends textarea, #ends input", "100, 150; 700, 150")
    enter(page, "#distance input", "60")
    page.locator("#exact").get_by_text("600 pixels apart").wait_for()
    press(page, "button", "Set the scale from the points")
    facts_become(page, "0.1 mm per pixel")
    enter(page, "#limit input", "0.2")
    page.locator("#table").get_by_text("over 0.2").locator("visible=true").first.wait_for()
    enter(page, "#exposure input", "XC2")
    page.locator("#table").get_by_text("over 0.3").locator("visible=true").first.wait_for()
    page.wait_for_function("document.querySelector('#limit input').value == '0.3'")
    before = page.locator("#facts").inner_text()
    press(page, "#threshold input[type=range]", key="ArrowLeft")
    page.wait_for_function("before => document.querySelector('#facts').innerText != before", arg=before)
    page.wait_for_timeout(1000)  # as a hand needs

    # a crack is looked at, rejected, and this is taken back
    enter(page, "#crack input", "1")
    page.locator("#told").get_by_text("Crack 1").wait_for()
    page.wait_for_timeout(1000)  # as a hand needs
    assert page.evaluate(HEIGHTS) == heights  # else what has the focus would move out of view
    press(page, "#kind input", "nothing", "Space")
    facts_become(page, "rejected by you (x in the picture): 1")
    numbers_become(page, "2")
    page.wait_for_timeout(1000)
    press(page, "#kind input", "not marked", "Space")
    page.locator("#facts").get_by_text("rejected by you").wait_for(state="detached")
    numbers_become(page, "1,2")

    # painted, saved, and opened by somebody else
    for name in ("Probability", "Brush"):
        if width < 1000:
            press(page, "button", "More tabs")
        press(page, "button", name)
    enter(page, "#stroke textarea, #stroke input", "100, 250; 700, 270")
    press(page, "button", "Apply brush and line")
    page.wait_for_function("document.querySelector('#stroke textarea, #stroke input').value == ''")
    press(page, "button", "Save the session")
    page.locator("#done a").wait_for()
    with page.expect_download() as session:
        press(page, "#done a")
    session.value.save_as(tmp_path / "session.zip")
    found = page.locator("#facts").inner_text()
    other = browser.new_context().new_page()
    other.goto(server.url)
    facts_become(other, "No photo is open.")
    other.get_by_text("From two points").click()
    other.locator("#files input[type=file]").set_input_files(tmp_path / "session.zip")
    facts_become(other, found.splitlines()[1])
    for one in (page, other):
        numbers_become(one, "1,3,2")  # the painted crack is not the shortest

    # with the mouse
    (picture := other.locator("#picture img")).evaluate("image => image.decode()")  # it has its size then
    box = picture.bounding_box()
    grow = box["width"] / 900
    picture.click(position={"x": 400 * grow, "y": 619 * grow})
    other.locator("#told").get_by_text("Crack 1").wait_for()
    other.get_by_label("set the scale").check()
    for x in (100, 700):
        picture.click(position={"x": x * grow, "y": 150 * grow})
        other.wait_for_function(f"document.querySelector('#ends textarea, #ends input').value.includes('{x // 100}')")
    other.close()

    # the report, and the command line from the same session
    press(page, "button", "Write the report")
    page.locator('#done a[download="report.html"]').wait_for()
    assert page.locator('#done a[download="session.zip"]').count() == 1  # it is not lost
    with page.expect_download() as table:
        press(page, '#done a[download="cracks.csv"]')
    table.value.save_as(tmp_path / "cracks.csv")
    assert main(["inspect", "--session", str(tmp_path / "session.zip"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "cracks.csv").read_bytes() == (tmp_path / "out" / "cracks.csv").read_bytes()

    # a killed server goes on
    server.kill()
    serve()
    page.goto(server.url)
    facts_become(page, found.splitlines()[1])
    numbers_become(page, "1,3,2")

    # all photos are removed, once this is confirmed
    for answer in ("Keep them", "Really remove 1 photo"):
        reach(page, "button", "Remove all photos", "Shift+Tab")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Really remove").wait_for()
        page.wait_for_function("document.activeElement.innerText == 'Keep them'")
        assert page.locator("#photo input").input_value() == photo.name
        page.keyboard.press("Tab") if answer != "Keep them" else None
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Remove all photos").wait_for()
    facts_become(page, "No photo is open.")
    assert not outside and not [text for text in errors if "(reading '0')" not in text]  # gradio's, of an emptied list


@pytest.mark.slow
def test_strokes_are_applied_before_another_photo_opens(tmp_path: Path, browser: Any, serve: Any) -> None:
    for name in "ab":
        save(wall(300, 400, ()), tmp_path / f"{name}.png")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(120_000)
    page.goto(serve().url)
    facts_become(page, "No photo is open.")
    page.locator("#files input[type=file]").set_input_files([tmp_path / "a.png", tmp_path / "b.png"])
    facts_become(page, "cracks: 0")
    page.locator("#picture img").evaluate("image => image.decode()")
    box = page.locator("#picture img").bounding_box()
    assert box["y"] + box["height"] <= 800 and page.locator("#threshold").bounding_box()["y"] > 0  # on one screen
    page.get_by_role("tab", name="Brush").click()
    page.locator("#editor canvas").first.scroll_into_view_if_needed()
    page.wait_for_timeout(5000)  # until it shows the photo
    box = page.locator("#editor canvas").first.bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 320, steps=20)
    page.mouse.up()
    page.wait_for_timeout(1000)  # as a hand needs
    for name, cracks in (("b.png", "cracks: 0"), ("a.png", "cracks: 1")):
        page.locator("#photo input").click()
        page.get_by_role("option", name=name).click()
        facts_become(page, cracks)
