"""What a user corrects in whole photos: edits, the file of a session, scales, and the tiles that corrections label."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_inspection import GREY, Fake, save, wall

from crackutils.cli import main
from crackutils.config import CrackutilsError
from crackutils.files import replacing_file
from crackutils.inspection.folder import inspect
from crackutils.inspection.labelled import labelled_tiles, pair_masks
from crackutils.inspection.photo import Options, find_cracks, folder_of, inspect_photo, resume_photo
from crackutils.inspection.scale import describe_marker, scale_of_marker, scale_of_points
from crackutils.inspection.session import ADDED, ERASED, Edits, Session, read_session, write_session
from crackutils.inspection.tiling import map_photo

HIGH, LOW = ((100, 150), (700, 150)), ((200, 450), (600, 450))
SHAPE = (700, 900)
TABLES = ("photos.csv", "cracks.csv", "tiles.csv", "cracks.geojson", "coco.json")


def brush(added: Any = None, erased: Any = None) -> np.ndarray:
    """Return a brush with two areas, each a pair of slices."""
    painted = np.zeros(SHAPE, np.uint8)
    if added:
        painted[added] = ADDED
    if erased:
        painted[erased] = ERASED
    return painted


def test_brush_and_marks_change_mask_table_and_pieces() -> None:
    image = wall(lines=(HIGH, LOW))
    seen = map_photo(image, Fake().detector)
    mask, cracks, _ = find_cracks(image, seen, 0.5)
    assert len(cracks) == 2 and "confirmed" not in cracks
    same = find_cracks(image, seen, 0.5, Edits())
    np.testing.assert_array_equal(same[0], mask)
    pd.testing.assert_frame_equal(same[1].drop(columns="confirmed"), cracks)
    assert not same[1]["confirmed"].any() and same[1].attrs["marks"] == {}

    painted = brush(np.s_[600:604, 300:500], np.s_[100:200, 400:900])
    found, table, pieces = find_cracks(image, seen, 0.5, Edits(brush=painted))
    assert found[painted == ADDED].all() and not found[painted == ERASED].any()
    np.testing.assert_array_equal(found[painted == 0], mask[painted == 0])
    assert sorted(table["length"].round(-1)) == [200, 300, 400]  # the half that is left, the painted one, and the lower
    assert {piece.crack for piece in pieces} == {1, 2, 3}

    marks = ((300, 140, "crack"), (300, 464, "joint"), (300, 300, "nothing"), (300, 470, "nothing"))
    found, table, pieces = find_cracks(image, seen, 0.5, Edits(marks=marks))
    assert table["confirmed"].tolist() == [True] and {piece.crack for piece in pieces} == {1}
    assert table.attrs["marks"] == {k: (*marks[k - 1], [marks[k - 1]]) for k in (1, 2)}  # others are 15 pixels away
    assert not found[300:].any() and (found[:300] == mask[:300]).all()
    assert table["width_mean"].iloc[0] == cracks["width_mean"].iloc[0]
    gone = find_cracks(image, seen, 0.5, Edits(marks=((650, 150, "joint"),)))
    assert {(piece.crack, piece.piece) for piece in gone[2]} == {(1, 1)} and gone[1]["y"].iloc[0] > 400  # numbered anew

    for edits, message in (
        (Edits(brush=painted[:, :800]), r"differ in size \(800x700 and 900x700 pixels\)"),
        (Edits(marks=((1, 1, "hole"),)), "'hole' is unknown. Use one of: crack, joint, nothing"),
    ):
        with pytest.raises(CrackutilsError, match=message):
            find_cracks(image, seen, 0.5, edits)


def test_what_the_brush_or_a_lower_threshold_joins_is_one_crack() -> None:
    image = wall(lines=(HIGH, LOW))
    seen, painted = map_photo(image, Fake().detector), brush(np.s_[152:449, 400:404])
    assert len(find_cracks(image, seen, 0.5, Edits(brush=painted))[1]) == 1
    found, table, _ = find_cracks(image, seen, 0.5, Edits(marks=((402, 300, "nothing"),), brush=painted))
    assert not found.any() and table.empty
    seen.pixels[152:449, 400:404] = 50  # below half of 0.5, above half of 0.3
    for marks in (both := ((300, 150, "crack"), (300, 450, "nothing")), both[::-1]):
        (high, apart, _), (low, joined, _) = (find_cracks(image, seen, t, Edits(marks=marks)) for t in (0.5, 0.3))
        assert apart["confirmed"].tolist() == [True] and not high[300:].any() and apart.attrs["note"] == ""
        assert joined["confirmed"].tolist() == [False] and low[:300].any() and low[440:].any()
        assert "contradictory marks on crack 1, where lines join" in joined.attrs["note"]


def test_what_is_written_of_a_photo_follows_the_edits(tmp_path: Path) -> None:
    save(wall(lines=(HIGH, LOW)), file := tmp_path / "a.png")
    net, out = Fake().detector, tmp_path / "out"
    plain = resume_photo(file, out, net, Options(0.5, 0.5))
    assert "rejected" not in plain and "corrected" not in plain and len(plain["areas"]) == 2
    edits = Edits(0.25, ((300, 450, "joint"), (300, 150, "crack")))
    one = inspect_photo(file, tmp_path / "other", net, Options(0.5, 0.5, edits=edits))
    assert [crack["confirmed"] for crack in one["cracks"]] == [True] and one["corrected"]
    assert one["cracks"][0]["length"] == pytest.approx(plain["cracks"][0]["length"] / 2, rel=1e-3)  # its own scale wins
    assert one["rejected"] == [{"x": 300, "y": 450, "kind": "joint"}]
    assert {line["crack"] for line in one["lines"]} == {1}
    assert one["areas"][0]["bbox"][1] < 160 and len(one["areas"]) == 1
    blue = {}
    for name in ("out", "other"):
        mask = np.asarray(Image.open(tmp_path / name / "mask.png"))
        overlay = np.asarray(Image.open(tmp_path / name / "overlay.jpg")).astype(int)
        blue[name] = mask[300:].any(), ((overlay[..., 2] - overlay[..., 0])[300:680] > 80).any()
    assert blue == {"out": (True, True), "other": (False, False)}
    json.dumps(one)


def test_every_edit_is_part_of_the_key(tmp_path: Path, monkeypatch: Any) -> None:
    save(wall(lines=(HIGH, LOW)), file := tmp_path / "a.png")
    works, calls = inspect_photo, []
    monkeypatch.setattr("crackutils.inspection.photo.inspect_photo", lambda *a: calls.append(a[-1]) or works(*a))
    given = [None, Edits(), Edits(0.5), Edits(marks=((300, 150, "joint"),)), Edits(marks=((300, 150, "nothing"),))]
    given += [Edits(brush=brush()), Edits(brush=brush(np.s_[1:2, 1:2])), Edits(brush=brush(None, np.s_[1:2, 1:2]))]
    net = Fake().detector
    for k, edits in enumerate(given, 1):
        first = resume_photo(file, tmp_path / "out", net, Options(0.5, edits=edits))
        again = None if edits is None else dataclasses.replace(edits)
        same = resume_photo(file, tmp_path / "out", net, Options(0.5, edits=again))
        assert same == json.loads(json.dumps(first)) and len(calls) == k
    assert Edits(brush=brush()).key != Edits(brush=brush().reshape(900, 700)).key
    assert not Edits(0.5, brush=brush()).corrected and Edits(marks=((1, 1, "crack"),)).corrected


NAMES = ("<script>'1'</script>.jpg", 'north/wall "1" 🧱.jpg', "south/wall.jpg", "wall.jpg", "wall?:2.png", "x" * 300)
OUTSIDE = ("../out.jpg", "a/../../out.jpg", "/etc/out.jpg", r"C:\out.jpg", "c:out.jpg", r"\\server\x.jpg", r"a\..\..\x")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    photos = {}
    for k, name in enumerate(NAMES):
        save(wall(lines=(HIGH, LOW), seed=k), tmp_path / "from" / str(k) / "wall.jpg")  # one name, many folders
        photos[name] = tmp_path / "from" / str(k) / "wall.jpg"
    painted = brush(np.s_[600:604, 300:500], np.s_[100:200, 400:900])
    edits = {NAMES[1]: Edits(0.25, ((300.5, 450, "joint"), (1, 2, "crack")), painted), NAMES[3]: Edits(0.5)}
    return Session(photos, edits, 0.4, 0.2, 0.3)


def test_a_session_survives_its_file(session: Session, tmp_path: Path) -> None:
    write_session(session, tmp_path / "s" / "walls.zip")
    before = (tmp_path / "s" / "walls.zip").read_bytes()
    shutil.rmtree(tmp_path / "from" / "5")
    with pytest.raises(CrackutilsError, match=r"cannot be saved: x+ cannot be read \(No such file.*Restore the photo"):
        write_session(session, tmp_path / "s" / "walls.zip")
    assert (tmp_path / "s" / "walls.zip").read_bytes() == before and len(list((tmp_path / "s").iterdir())) == 1
    with zipfile.ZipFile(tmp_path / "s" / "walls.zip") as archive:
        assert all(e.compress_type == zipfile.ZIP_STORED for e in archive.infolist())
    back = read_session(tmp_path / "s" / "walls.zip", tmp_path / "in")
    assert list(back.photos) == list(NAMES) and (back.threshold, back.mm_per_pixel, back.limit_mm) == (0.4, 0.2, 0.3)
    assert len(set(back.photos.values())) == 6 and all(tmp_path / "in" in p.parents for p in back.photos.values())
    for name in NAMES[:5]:
        assert back.photos[name].read_bytes() == session.photos[name].read_bytes()
        assert not set('<>:"|?*') & set(back.photos[name].name)
    assert {n: e.key for n, e in back.edits.items()} == {n: session.edits.get(n, Edits()).key for n in NAMES}
    assert back.edits[NAMES[1]].marks == ((300.5, 450, "joint"), (1, 2, "crack"))
    times = {path: path.stat().st_mtime_ns for path in back.photos.values()}
    back.photos[NAMES[0]].write_bytes(b"cut short")
    again = read_session(tmp_path / "s" / "walls.zip", tmp_path / "in")  # only what is not there
    assert [p.stat().st_mtime_ns == times[p] for p in again.photos.values()] == [False] + [True] * 5
    write_session(again, tmp_path / "second.zip")
    assert (tmp_path / "second.zip").read_bytes() == before


def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    import tracemalloc

    photos = {}
    for k in range(12):
        photos[f"{k}.jpg"] = tmp_path / f"{k}.jpg"
        photos[f"{k}.jpg"].write_bytes(np.random.default_rng(k).bytes(6_000_000))
    edits = {name: Edits(brush=np.zeros((2000, 3000), np.uint8)) for name in photos}
    edits["0.jpg"].brush[0] = 1
    session, peaks = Session(photos, edits), []
    for work, where in ((write_session, (session, tmp_path / "s.zip")), (read_session, (tmp_path / "s.zip", tmp_path))):
        tracemalloc.start()
        work(*where)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 24e6  # 72 MB of photos, as much of brushes


def changed(file: Path, change: Any = None, **entries: Any) -> Path:
    """Write a session file anew: `change` alters session.json, `entries` are bytes by name, None takes one out."""
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    if change:
        change(content := json.loads(held["session.json"]))
        held["session.json"] = json.dumps(content).encode()
    held |= entries
    with zipfile.ZipFile(new := file.with_name("new.zip"), "w") as archive:
        for name, raw in held.items():
            if raw is not None:
                archive.writestr(name, raw)
    return new


def png(values: np.ndarray) -> bytes:
    Image.fromarray(values).save(held := io.BytesIO(), "PNG")
    return held.getvalue()


def test_what_is_no_session_is_refused(session: Session, tmp_path: Path, monkeypatch: Any) -> None:
    session.photos = {name: session.photos[name] for name in (NAMES[1], "wall.jpg")}
    write_session(session, file := tmp_path / "s.zip")
    raw = file.read_bytes()

    def named(name: Any) -> Any:
        return lambda c: c["photos"][1].update(name=name)

    cases: list[tuple[Path | bytes, str]] = [
        (b"hello", "is not a session: it is not a ZIP archive. Give"),
        (b"", "is not a session: it is not a ZIP archive"),
        (raw[: len(raw) // 2], "is damaged .*Copy it again"),
        (tmp_path / "none.zip", "cannot be read .*No such file.* Give"),
        (tmp_path, "cannot be read"),
        (changed(file, **{"session.json": None}).read_bytes(), "is not a session: it holds no session.json"),
    ]
    for change, message in (
        (lambda c: c.update(schema=2), "saved by a newer version of crackutils. Update crackutils"),
        (lambda c: c.update(schema="1"), "is damaged .its schema is '1'"),
        (lambda c: c.update(kind="zoo"), "is not a session of this program"),
        (lambda c: c.update(threshold=1), "threshold is not between"),
        (lambda c: c.update(mm_per_pixel=-1), "scale -1 is out of range"),
        (lambda c: c.update(limit_mm="wide"), "limit wide is out of range"),
        (lambda c: c.update(photos={}), "no list of photos"),
        (lambda c: c["photos"].append(3), "a photo is described wrongly"),
        (lambda c: c["photos"][0].pop("sha256"), "differs from the saved one"),
        (lambda c: c["photos"][0].pop("entry"), "is damaged"),
        (lambda c: c["photos"][0].update(entry="photos/none"), "is damaged"),
        (lambda c: c["photos"][0].update(marks=[[1, 2, "hole"]]), "has the mark"),
        (lambda c: c["photos"][0].update(marks=[[1, "2", "joint"]]), "has the mark"),
        *((named(name), "leads outside the folder") for name in OUTSIDE),
        (named(""), "a photo is called ''"),
        (named(7), "a photo is called 7"),
        (named("."), "a photo is called"),
        (named("\ud800.jpg"), "is not valid text"),
        (named(NAMES[1].replace("/", "//")), "two photos are called"),
    ):
        cases.append((changed(file, change).read_bytes(), message))
    for name, content, message in (
        ("photos/wall.jpg", b"other", "wall.jpg differs from the saved one"),
        ("session.json", b"{", "is damaged"),
        ("session.json", b"[" * 100_000, "is damaged"),
        ("session.json", b"[]", "is not a session of this program"),
        ("brushes/0001.png", b"none", "is not a brush"),
        ("brushes/0001.png", png(np.full(SHAPE, 3, np.uint8)), "other values than 0, 1 and 2"),
        ("brushes/0001.png", png(np.zeros((*SHAPE, 3), np.uint8)), "invalid brushes/0001.png"),
        ("../evil.jpg", b"evil", "entry '../evil.jpg' leads outside the folder. Nothing was unpacked"),
    ):
        cases.append((changed(file, **{name: content}).read_bytes(), message))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("session.json", bytes(5_000_000))
    told = r"is refused: entries declare far more data than it holds \(session.json\). Nothing"
    cases.append((bomb.getvalue(), told))
    for k, (given, message) in enumerate(cases):
        place = given
        if isinstance(given, bytes):
            (place := tmp_path / f"{k}.zip").write_bytes(given)
        with pytest.raises(CrackutilsError, match=message):
            read_session(place, tmp_path / "in" / str(k))
    assert not list(tmp_path.rglob("*out.jpg")) and not list(tmp_path.rglob("evil.jpg"))
    for name in ("../x.jpg", "D:x.jpg", ""):
        with pytest.raises(CrackutilsError, match=r"The session cannot be saved: .* Correct this"):
            write_session(Session({name: session.photos["wall.jpg"]}), tmp_path / "never.zip")
    monkeypatch.setattr("crackutils.inspection.session._LONGEST", 100)
    with pytest.raises(CrackutilsError, match=r"too many cracks for one file. Save fewer photos"):
        write_session(session, tmp_path / "never.zip")
    assert not (tmp_path / "never.zip").exists()


def test_a_brush_that_would_fill_the_memory_is_refused(session: Session, tmp_path: Path) -> None:
    write_session(session, file := tmp_path / "s.zip")
    held = bytearray(png(np.zeros((8, 8), np.uint8)))
    held[16:24] = (200_000).to_bytes(4) * 2  # 40,000 million pixels
    held[29:33] = zlib.crc32(held[12:29]).to_bytes(4)
    with pytest.raises(CrackutilsError, match=r"brushes/0002\.png is no"):
        read_session(changed(file, **{"brushes/0002.png": bytes(held)}), tmp_path / "in")


def test_names_that_windows_forbids_get_folders_there() -> None:
    assert folder_of('north/"a":b?.jpg', True) == Path("north/%22a%22%3Ab%3F.jpg")
    assert folder_of('north/"a":b?.jpg', False) == Path('north/"a":b?.jpg')


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids such names")
def test_a_session_gives_what_its_edits_say(session: Session, tmp_path: Path, fake: Fake, capsys: Any) -> None:
    session.edits[NAMES[3]] = Edits(0.5, ((300, 450, "crack"), (500, 450, "nothing")))
    write_session(session, file := tmp_path / "s.zip")
    out, command = tmp_path / "out", ["inspect", "--model", "x", "--session", str(file), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "6 of 6 photos examined" in said and "; 1 found line rejected by the user" in said and "is used" not in said
    photos, cracks = (pd.read_csv(out / name).set_index("file") for name in ("photos.csv", "cracks.csv"))
    assert set(photos.index) == set(NAMES) and photos.loc[NAMES[1], "rejected"] == 1
    assert photos.loc[list(NAMES), "mm_per_pixel"].tolist() == [0.2, 0.25, 0.2, 0.5, 0.2, 0.2]
    assert photos.loc[list(NAMES[:2]), "scale_from"].tolist() == ["session", "photo"]
    assert photos.loc[list(NAMES), "corrected"].tolist() == [False, True, False, True, False, False]
    assert (photos["limit_mm"] == 0.3).all() and not cracks["confirmed"].any()
    assert cracks.loc[NAMES[1], "length_mm"].tolist() == pytest.approx([75, 50], rel=0.05)  # 300 and 200 pixels
    asked = json.loads((out / "photos" / NAMES[3] / "found.json").read_text("utf-8"))["asked"]
    assert (asked["threshold"], asked["mm_per_pixel"]) == (0.4, 0.5)
    page = " ".join((out / "report.html").read_text("utf-8").split())
    assert "Rejected by the user: joint at 300, 450 (px)." in page and "<script" not in page
    assert "\nwall.jpg: contradictory marks on crack 2, where" in said and "Note: contradictory marks" in page
    assert "The scale stands with each photo." in page and "700 pixels, 0.25 mm each (scale from: photo)" in page
    coco = json.loads((out / "coco.json").read_text())
    assert [len([a for a in coco["annotations"] if a["image_id"] == k]) for k in (1, 2, 3)] == [2, 2, 2]

    windows, before = fake.windows, {name: (out / name).read_bytes() for name in TABLES}
    shutil.rmtree(tmp_path / "from")  # all is in the file
    assert main(command) == 0 and fake.windows == windows
    assert {name: (out / name).read_bytes() for name in TABLES} == before
    assert main([*command, "--threshold", "0.6", "--mm-per-pixel", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "--threshold 0.6 is used, not 0.4 of the session" in said and "--mm-per-pixel 0.4 is used, not" in said
    photos = pd.read_csv(out / "photos.csv").set_index("file")
    assert photos.loc[list(NAMES), "mm_per_pixel"].tolist() == [0.4, 0.25, 0.4, 0.5, 0.4, 0.4]

    assert main([*command, str(tmp_path / "from")]) == 2 and "Both photos and a session" in capsys.readouterr().err
    assert main(["inspect", "--out", str(out)]) == 2 and "There are no photos. Give PHOTOS" in capsys.readouterr().err


def test_a_killed_session_goes_on(session: Session, tmp_path: Path, fake: Fake, monkeypatch: Any) -> None:
    session.photos = {name: session.photos[name] for name in ("south/wall.jpg", "wall.jpg")}
    write_session(session, file := tmp_path / "s.zip")
    whole = inspect([], tmp_path / "whole", "x", session=file)
    windows, works = fake.windows, replacing_file

    def dies(path: Path) -> Any:
        if path.name == "wall.jpg" and path.parent.name == "photos":
            raise KeyboardInterrupt
        return works(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("crackutils.inspection.session.replacing_file", dies)
        inspect([], tmp_path / "out", "x", session=file)
    assert (tmp_path / "out" / "session" / "photos" / "south" / "wall.jpg").is_file()
    pd.testing.assert_frame_equal(inspect([], tmp_path / "out", "x", session=file), whole)
    assert fake.windows == 2 * windows
    session.edits = {"wall.jpg": Edits(marks=((300, 450, "nothing"), (300, 150, "joint")))}
    write_session(session, file)
    table = inspect([], tmp_path / "out", "x", session=file).set_index("file")
    assert table["cracks"].to_dict() == {"south/wall.jpg": 2, "wall.jpg": 0} and fake.windows == 2 * windows
    page = " ".join((tmp_path / "out" / "report.html").read_text("utf-8").split())
    assert "No crack is left after the user's corrections." in page and "more there are possible cracks" not in page


def test_unpacked_photos_that_differ_stay_unless_forced(session: Session, tmp_path: Path, fake: Fake) -> None:
    session.photos = {name: session.photos[name] for name in ("south/wall.jpg", "wall.jpg")}
    write_session(session, file := tmp_path / "s.zip")
    inspect([], tmp_path / "out", "x", session=file)
    photo = tmp_path / "out" / "session" / "photos" / "wall.jpg"
    photo.write_bytes(mine := photo.read_bytes()[:-2] + b"me")
    with pytest.raises(CrackutilsError, match=r"wall.jpg differs from the photo in the session. Move it, or replace"):
        inspect([], tmp_path / "out", "x", session=file)
    assert photo.read_bytes() == mine
    inspect([], tmp_path / "out", "x", session=file, force=True)
    assert photo.read_bytes() == (saved := session.photos["wall.jpg"].read_bytes())
    photo.write_bytes(b"")  # as a power cut leaves it
    inspect([], tmp_path / "out", "x", session=file)
    assert photo.read_bytes() == saved
    del session.photos["wall.jpg"]  # nobody can give it with this session
    write_session(session, file)
    assert inspect([], tmp_path / "out", "x", session=file)["file"].tolist() == ["south/wall.jpg"]


def test_sessions_of_no_use_leave_nothing_and_lose_nothing(session: Session, tmp_path: Path, fake: Fake) -> None:
    write_session(Session(), empty := tmp_path / "empty.zip")
    (tmp_path / "bad.zip").write_bytes(b"none")
    for file, message in ((empty, "a session without photos"), (tmp_path / "bad.zip", "is not a session")):
        with pytest.raises(CrackutilsError, match=message):
            inspect([], tmp_path / "out", "x", session=file)
        assert not (tmp_path / "out").exists()
    (mine := tmp_path / "mine" / "session").mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(CrackutilsError, match="is not an earlier inspection"):
        inspect([], tmp_path / "mine", "x", session=empty)
    with pytest.raises(CrackutilsError, match="without photos"):
        inspect([], tmp_path / "mine", "x", session=empty, force=True)
    assert (mine / "notes.txt").read_text() == "mine"
    session.mm_per_pixel = session.limit_mm = None
    write_session(session, file := tmp_path / "s.zip")
    with pytest.raises(CrackutilsError, match=r"4 of 6 photos have no scale .*Give --mm-per-pixel"):
        inspect([], tmp_path / "out", "x", session=file)  # two have one of their own
    assert not fake.windows
    session.edits = {}
    write_session(session, file)
    assert "length_px" in inspect([], tmp_path / "out", "x", session=file)
    with pytest.raises(CrackutilsError, match="A limit in millimetres needs a scale"):
        inspect([], tmp_path / "out", "x", session=file, limit_mm=0.3)


def test_two_points_give_a_scale() -> None:
    assert scale_of_points((10, 20), (40, 60), 25) == 0.5
    for points, length, message in (
        (((1, 2), (1, 2)), 5, "Both points are the same"),
        (((1, 2), (3, 4)), 0, "length 0 is out of range"),
        (((1, 2), (3, 4)), float("nan"), "length nan is out of range"),
        (((1, 2), (float("inf"), 4)), 5, "Both points are the same"),
    ):
        with pytest.raises(CrackutilsError, match=message):
            scale_of_points(*points, length)


def put_marker(image: np.ndarray, at: tuple[int, int], side: int, kind: str = "DICT_4X4_50", number: int = 7) -> None:
    """Draw an ArUco marker with a white rim into a photo; `at` is its upper left corner, x and y."""
    (x, y), rim = at, side // 6
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, kind))
    image[max(0, y - rim) : y + side + rim, max(0, x - rim) : x + side + rim] = 235
    image[y : y + side, x : x + side] = cv2.aruco.generateImageMarker(dictionary, number, side)[..., None].clip(25, 235)


@pytest.mark.parametrize("kind", ["DICT_4X4_50", "DICT_4X4_100", "DICT_5X5_100", "DICT_6X6_250", "DICT_ARUCO_ORIGINAL"])
@pytest.mark.parametrize(("side", "size"), [(60, (700, 900)), (300, (700, 900)), (300, (9000, 1200))])
def test_a_marker_gives_the_scale(kind: str, side: int, size: tuple[int, int]) -> None:
    put_marker(image := wall(*size, lines=()), (100, 60), side, kind, 33)
    found = scale_of_marker(cv2.GaussianBlur(image, (0, 0), 1), 50)
    assert found.ids == (33,) and found.mm_per_pixel == pytest.approx(50 / side, rel=0.012)
    np.testing.assert_allclose(found.corners[0, 0], (100, 60), atol=1)
    assert found.corners.shape == (1, 4, 2) and found.slant < 0.02 and found.spread == 0
    assert ("wide, so the scale may be 1% too large" in describe_marker(found)) == (side < 70)


@pytest.mark.parametrize("side", [100, 200, 400])
def test_a_marker_that_something_touches_gives_the_scale_and_one_at_the_border_does_not_count(side: int) -> None:
    put_marker(image := wall(lines=()), (150, 120), side)
    cv2.line(image, (150 + side // 2, 120), (120 + side // 2, 0), (40,) * 3, max(2, side // 50))
    assert scale_of_marker(cv2.GaussianBlur(image, (0, 0), 1), 50).mm_per_pixel == pytest.approx(50 / side, rel=0.005)
    for size, at in itertools.product(((700, 900), (700, 4200)), (-side // 33, 0, 2)):  # cut, touching, near
        put_marker(image := wall(*size, lines=()), (at + 200, 150), side)
        with pytest.raises(CrackutilsError, match=r"at the border of the photo|There is no marker"):
            scale_of_marker(np.ascontiguousarray(image[:, 200:]), 50)
        put_marker(image, (350 + side, 150), 70, number=9)
        assert scale_of_marker(np.ascontiguousarray(image[:, 200:]), 50).ids == (9,)


def test_a_marker_whose_search_fails_ends_nothing(tmp_path: Path, fake: Fake, monkeypatch: Any, capsys: Any) -> None:
    save(wall(lines=()), tmp_path / "site" / "a.png")
    monkeypatch.setattr("crackutils.inspection.scale.find_markers", lambda grey: cv2.imdecode(grey[:0], 1))
    command = ["inspect", str(tmp_path / "site"), "--out", str(tmp_path / "out"), "--model", "x", "--marker-mm", "50"]
    assert main(command) == 2 and "a.png: It cannot be examined (OpenCV: " in capsys.readouterr().err
    assert main([*command, "--mm-per-pixel", "1"]) == 0
    assert "measured with --mm-per-pixel: 1 (a.png)" in capsys.readouterr().out


def test_markers_that_are_slanted_missing_or_differ() -> None:
    put_marker(image := wall(lines=()), (300, 200), 250)
    corners = np.float32([[0, 0], [900, 0], [900, 700], [0, 700]])
    slanted = cv2.getPerspectiveTransform(corners, np.float32([[0, 0], [900, 120], [900, 580], [0, 700]]))
    found = scale_of_marker(cv2.warpPerspective(image, slanted, (900, 700), borderValue=(GREY,) * 3), 50)
    assert found.slant > 0.1 and f"differ by {found.slant:.0%}" in describe_marker(found)
    for side_mm in (0, -5, float("nan")):
        with pytest.raises(CrackutilsError, match="is out of range"):
            scale_of_marker(image, side_mm)
    with pytest.raises(CrackutilsError, match=r"There is no marker in the photo\. Print one"):
        scale_of_marker(wall(), 50)
    put_marker(both := wall(lines=()), (100, 100), 200)
    put_marker(both, (500, 300), 216, number=9)
    found = scale_of_marker(both, 50)
    assert set(found.ids) == {7, 9} and found.mm_per_pixel == pytest.approx((50 / 200 + 50 / 216) / 2, rel=0.01)
    assert found.spread == pytest.approx(0.077, abs=0.01) and "its 2 markers differ by 8%" in describe_marker(found)
    put_marker(both, (500, 300), 300, number=9)
    with pytest.raises(CrackutilsError, match=r"in scale by \d\d% \(mm per pixel .*\)\. Use markers of one size"):
        scale_of_marker(both, 50)


def test_a_small_marker_is_told_and_a_chance_pattern_of_another_dictionary_is_not_used() -> None:
    put_marker(image := wall(lines=()), (300, 200), 60, "DICT_6X6_250", 40)
    small = scale_of_marker(image, 50)
    assert "pixels wide, so the scale may be 1% too large" in describe_marker(small)
    put_marker(image, (600, 500), 30, "DICT_4X4_50", 17)  # as seen in a photo of six printed 6x6 markers
    assert scale_of_marker(image, 50).ids == small.ids == (40,)


def test_the_command_takes_scales_from_markers(tmp_path: Path, fake: Fake, capsys: Any, monkeypatch: Any) -> None:
    for k, side in enumerate((100, 200)):
        put_marker(image := wall(lines=(HIGH, LOW), seed=k), (300, 200), side)
        save(image, tmp_path / "in" / f"{k}.png")
    out, command = tmp_path / "out", ["inspect", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", "x"]
    command += ["--marker-mm", "50"]
    assert main([*command, "--limit-mm", "0.3"]) == 0
    photos = pd.read_csv(out / "photos.csv").set_index("file")
    assert photos["mm_per_pixel"].to_dict() == pytest.approx({"0.png": 0.5, "1.png": 0.25}, rel=0.01)
    assert "length_mm" in photos and photos["problem"].isna().all()
    searched, works = [], scale_of_marker
    monkeypatch.setattr("crackutils.inspection.prepare.scale_of_marker", lambda *a: searched.append(a) or works(*a))
    save(wall(lines=(HIGH,), seed=2), tmp_path / "in" / "without.png")
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    windows = fake.windows
    capsys.readouterr()
    assert main(command) == 2 and fake.windows == windows and len(searched) == 1  # others are known
    assert "1 of 4 photos have no scale (without.png). Give --mm-per-pixel" in capsys.readouterr().err
    assert main([*command, "--mm-per-pixel", "0.4"]) == 0 and len(searched) == 1
    assert "without a usable marker, measured with --mm-per-pixel: 1 (without.png)" in capsys.readouterr().out
    photos = pd.read_csv(out / "photos.csv").set_index("file")
    assert photos.loc["without.png", "mm_per_pixel"] == 0.4 and photos.loc["bad.jpg", "problem"] == "is not an image"
    assert photos.loc[["0.png", "without.png"], "scale_from"].tolist() == ["marker", "given"]
    assert main([*command[:-1], "0"]) == 2 and "marker_mm=0.0 is out of range" in capsys.readouterr().err
    put_marker(image := wall(lines=(), seed=3), (300, 200), 250)
    corners = np.float32([[0, 0], [900, 0], [900, 700], [0, 700]])
    slanted = cv2.getPerspectiveTransform(corners, np.float32([[0, 0], [900, 120], [900, 580], [0, 700]]))
    save(cv2.warpPerspective(image, slanted, (900, 700), borderValue=(GREY,) * 3), tmp_path / "in" / "without.png")
    for _ in range(2):
        assert main(command) == 0
        problem = pd.read_csv(out / "photos.csv").set_index("file").loc["without.png", "problem"]
        assert problem.startswith("the sides of the marker differ by") and problem.count("marker") == 1
    assert "Note: the sides of the marker" in (out / "report.html").read_text("utf-8")


@pytest.fixture
def cutting(fake: Fake, monkeypatch: Any) -> Fake:
    monkeypatch.setattr("crackutils.inspection.labelled.load_detector", lambda *_: fake.detector)
    return fake


def labels_of(table: Path) -> dict[str, list[int]]:
    rows = pd.read_csv(table)
    for file, label in zip(rows["file"], rows["label"], strict=True):
        tile = np.asarray(Image.open(table.parent / file))
        assert tile.shape == (256, 256, 3) and ((tile < 100).any() or not label)
    return {name: part.tolist() for name, part in rows.groupby("photo")["label"]}


def test_corrections_label_tiles(session: Session, tmp_path: Path, cutting: Fake, capsys: Any) -> None:
    """Photos of 3 x 2 whole tiles; the high crack lies in the upper three, the low one in the lower three."""
    both = ((300, 450, "nothing"), (300, 150, "crack"))
    session.edits = {NAMES[0]: Edits(marks=both), NAMES[1]: Edits(marks=both[:1]), NAMES[2]: Edits(0.5)}
    session.edits |= {NAMES[3]: Edits(brush=brush(np.s_[20:24, 300:500], np.s_[100:, :]))}
    write_session(session, file := tmp_path / "s.zip")
    with labelled_tiles(file, tmp_path / "deep" / "model", tmp_path, "litert") as table:
        found = labels_of(table)
    # confirmed above, rejected below; only rejected, so that the upper ones are doubtful; nobody looked; painted
    assert found == {NAMES[0]: [1, 1, 1, 0, 0, 0], NAMES[1]: [0, 0, 0], NAMES[3]: [0, 1, 0, 0, 0, 0]}
    told = "15 tiles of 3 corrected photos: 4 cracked, 11 free; left out as doubtful: 3"
    assert told in capsys.readouterr().out and not list((tmp_path / "deep").iterdir())
    for edits, message in (
        ({}, r"s\.zip gives 0 tiles of 0 corrected photos"),
        ({NAMES[0]: Edits(marks=both[:1]), NAMES[1]: Edits(marks=both[:1])}, r"0 cracked, 6 free\. Correct more"),
    ):
        session.edits = edits
        write_session(session, file)
        with pytest.raises(CrackutilsError, match=message), labelled_tiles(file, tmp_path / "m", tmp_path, "litert"):
            pass
    assert not list(tmp_path.glob(".m.*"))


def test_masks_beside_photos_label_tiles(tmp_path: Path, capsys: Any) -> None:
    home = tmp_path / "site"
    for k, (name, mask) in enumerate((("a.jpg", "a.png"), ("deep/b.png", "deep/b_mask.png"), ("c.jpg", "other.png"))):
        save(wall(lines=(HIGH, LOW), seed=k), home / name)
        truth = np.zeros(SHAPE, np.uint8)
        truth[150, 100 : (300 if k else 262)] = 255  # in the second tile there are 6 pixels, or 44
        save(truth, home / mask)
    with labelled_tiles(home, tmp_path / "model", None, "litert") as table:
        assert labels_of(table) == {"a.jpg": [1, 0, 0, 0, 0], "deep/b.png": [1, 1, 0, 0, 0, 0]}
    said = capsys.readouterr().out
    assert "left out as doubtful: 1" in said and "photos without a mask: 2 (c.jpg, other.png)" in said
    (home / "deep" / "b.png").write_bytes(b"")
    (home / "notes.txt").write_text("no picture")
    with contextlib.suppress(CrackutilsError), labelled_tiles(home, tmp_path / "model", None, "litert"):
        pass  # there are few tiles now
    said = capsys.readouterr().out
    assert "photos that cannot be used: 1 (deep/b.png has zero bytes" in said and "content: 1 (notes.txt)" in said
    save(wall(seed=5), home / "a.png")  # the photo once more
    refused = pytest.raises(CrackutilsError, match=r"a\.png is white in more than half")
    with refused, labelled_tiles(home, tmp_path / "model", None, "litert"):
        pass
    save(wall(seed=5), home / "a-mask.png")  # another spelling: none of the masks is a photo
    (home / "a.png").unlink()
    assert {n: m.name for n, (_, m) in pair_masks(home).items()} == {"a.jpg": "a-mask.png", "deep/b.png": "b_mask.png"}
    (tmp_path / "none").mkdir()
    with pytest.raises(CrackutilsError, match="holds no photo with a mask beside it"):
        pair_masks(tmp_path / "none")


def test_adapt_takes_a_session(session: Session, tmp_path: Path, cutting: Fake, untrained: Any, capsys: Any) -> None:
    untrained(tmp_path / "run")
    marks = ((300, 450, "nothing"), (300, 150, "crack"))
    session.edits = {name: Edits(marks=marks) for name in NAMES}
    write_session(session, file := tmp_path / "s.zip")
    command = ["adapt", "--labels", str(file), "--model", str(tmp_path / "run"), "--out", str(tmp_path / "model")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "36 tiles of 6 corrected photos: 18 cracked, 18 free" in said and "6 photos, by the column photo" in said
    adapted = json.loads((tmp_path / "model" / "metrics.json").read_text("utf-8"))["settings"]["adapted"]
    assert [adapted[k] for k in ("labels", "positives", "photos")] == [36, 18, 6]
    windows = cutting.windows
    assert main(command) == 2 and cutting.windows == windows  # it is there already
    assert "replace this adapted model with --force" in capsys.readouterr().err
