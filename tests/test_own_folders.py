"""Folders as people have them: names of classes, splits, odd names, faults; nothing of the user's is lost."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crackutils import config, datasets
from crackutils.config import CrackutilsError
from crackutils.files import lock_file
from crackutils.sources.fetch import fetch
from tools import commands

Tree = Callable[..., Path]


def lay(folder: Path, files: str) -> Path:
    """Write files, each with its own name as content: make data looks at names only."""
    for name in files.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


@pytest.fixture
def earlier(data_dir: Path, tmp_path: Path, tree: Tree) -> Iterator[None]:
    """Have a good copy of `own` before a call that fails; afterwards it is untouched and nothing else is there."""
    target = fetch("own", tree(tmp_path / "earlier", 2))
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    yield
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert [path.name for path in (data_dir / "raw").iterdir()] == ["own"]


def refused(origin: Path, match: str, classes: str = "") -> None:
    with pytest.raises(CrackutilsError, match=match):
        fetch("own", origin, classes)


def make_data(*words: str) -> int:
    """Run the command as a user types it."""
    return commands.main(["data", "SOURCE=own", *words])


LAYOUTS = [  # files, CLASSES, files afterwards, what is said
    ("Positive/day1/x.jpg Positive/x.jpg Negative/x.jpg", "",
     "Negative/x.jpg Positive/day1/x.jpg Positive/x.jpg", "1 Negative, 2 Positive in"),
    ("a/No_Crack/x.jpg a/with-cracks/y.jpg", "", "Negative/x.jpg Positive/y.jpg", "No_Crack -> Negative (1), with-"),
    ("NEGATIVE/x.jpg positive/y.jpg", "", "Negative/x.jpg Positive/y.jpg", "NEGATIVE -> Negative (1), positive -> Pos"),
    ("0/x.jpg 1/y.jpg 1/z.jpg", "", "Negative/x.jpg Positive/y.jpg Positive/z.jpg", "0 -> Negative (1), 1 -> Pos"),
    ("Cracks/1/x.jpg Cracks/0/y.jpg", "", "Negative/y.jpg Positive/x.jpg", "0 -> Negative (1), 1 -> Positive (1)"),
    ("Positive/0/x.jpg Negative/1/y.jpg", "", "Negative/1/y.jpg Positive/0/x.jpg", "1 Negative, 1 Positive in"),
    ("00_noncrack_images/x.jpg 01_crack_images/y.jpg", "", "Negative/x.jpg Positive/y.jpg", "00_noncrack_images -"),
    ("class_0/x.jpg class_1/y.jpg", "", "Negative/x.jpg Positive/y.jpg", "class_0 -> Negative (1), class_1 -> Pos"),
    ("bridge/Cracked/x.jpg other/set/Uncracked/x.jpg", "", "Negative/x.jpg Positive/x.jpg", "Uncracked -> Negat"),
    ("D/CD/1-1.jpg D/UD/1-2.jpg W/CW/1-1.jpg W/UW/7-2.jpg", "", "Negative/D/1-2.jpg Negative/W/7-2.jpg "
     "Positive/D/1-1.jpg Positive/W/1-1.jpg", "UD, UW -> Negative (2), CD, CW -> Positive (2)"),
    ("ohne_Riss/x.jpg Riss/y.jpg", "ohne riss:riss", "Negative/x.jpg Positive/y.jpg", "ohne_Riss -> N"),
    ("0/x.jpg 1/x.jpg 2/x.jpg", "0:1,2", "Negative/x.jpg Positive/1/x.jpg Positive/2/x.jpg", "1, 2 -> Positive (2)"),
    ("a/0/x.jpg a/1/y.jpg b/0/z.jpg", "a/0:a/1", "Negative/x.jpg Positive/y.jpg", "outside class folders: 1 (b/0/"),
    ("Positive/x.JFIF Positive/._x.jpg Positive/n.txt Negative/y.heic __MACOSX/Positive/x.jpg", "",
     "Negative/y.heic Positive/x.JFIF", "hidden: 1 (Positive/._x.jpg); not a picture by name or content: 1 ("),
]  # fmt: skip


@pytest.mark.parametrize(("files", "classes", "expected", "said"), LAYOUTS)
def test_folders_as_people_have_them(
    files: str, classes: str, expected: str, said: str, tmp_path: Path, capsys: Any
) -> None:
    assert make_data(f"FROM={lay(tmp_path / 'mine', files)}", f"CLASSES={classes}") == 0
    assert names(datasets.raw_folder("own")) == expected.split()
    assert said in capsys.readouterr().out


def test_only_the_walls_of_sdnet_are_its_profile(tmp_path: Path) -> None:
    fetch("sdnet", lay(tmp_path / "mine", "D/CD/1-1.jpg D/UD/1-2.jpg W/CW/7-1.jpg W/UW/7-2.jpg"))
    assert names(datasets.raw_folder("sdnet")) == ["Negative/7-2.jpg", "Positive/7-1.jpg"]


OPEN = {  # files and CLASSES that are refused, and why
    ("", ""): r"holds no pictures\. Give a folder or an archive",
    ("x.jpg y.jpg", ""): r"holds 2 pictures, but no class folder\. Put them into two folders, Negative and Pos",
    ("Positive/x.jpg Negative/n.txt", ""): r"1 pictures of Positive, and none of the other class.* Left out: not a p",
    ("Positive/x.jpg Negative/._x.jpg", ""): r"none of the other class; .*hidden: 1 \(Negative/\._x\.jpg\)\.$",
    ("Gut/x.jpg Riss/x.jpg", ""): r"the folders with pictures are Gut, Riss\. Name its folders: CLASSES=<without cr",
    ("0/x.jpg 1/x.jpg 2/x.jpg", ""): r"the folders with pictures are 0, 1, 2\. Name its folders: CLASSES=<",
    ("Negative/crack/x.jpg Positive/y.jpg", ""): r"Negative/crack in .* has the names of both classes\. Name the",
    ("Negative/x.jpg Positive/x.jpg Cracked/x.jpg", ""): r"several folders of a class \(Cracked, Negative, Posit",
    ("a/0/x.jpg a/1/x.jpg b/0/x.jpg b/1/x.jpg", ""): r"Choose one with CLASSES=a/0:a/1, or all with CLASSES=0:1\.$",
    ("a/x.jpg b/x.jpg", "a"): r"CLASSES=a does not name two folders\. Write it like CLASSES=uncracked:cracked\.$",
    ("a/x.jpg b/x.jpg", "c:d"): r"no pictures in folders called c:d; the folders with pictures are a, b\. Name",
}


@pytest.mark.parametrize(("given", "why"), OPEN.items())
@pytest.mark.usefixtures("earlier")
def test_what_leaves_the_classes_open_is_refused(given: tuple[str, str], why: str, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    refused(lay(tmp_path / "bad", given[0]), why, given[1])
    assert make_data(f"FROM={tmp_path / 'bad'}", f"CLASSES={given[1]}") == 2


@pytest.mark.parametrize("unique", [True, False])
def test_a_set_that_comes_split_keeps_its_split(unique: bool, tmp_path: Path, capsys: Any) -> None:
    folders = [(p, c) for p in ("training", "valid", "test") for c in ("crack", "no crack")]
    for part, name in folders:
        path = tmp_path / "mine" / part / name / (f"{part}.jpg" if unique else "1.jpg")
        path.parent.mkdir(parents=True)
        path.write_text(f"{part} {name}")
    assert make_data(f"FROM={tmp_path / 'mine'}") == 0
    assert "given split: 2 train, 2 val, 2 test; SPLIT=given uses it" in capsys.readouterr().out
    target = datasets.raw_folder("own")
    table = pd.read_csv(target / "given_split.csv").set_index("file")["split"]
    written = {file: (target / file).read_text() for file in table.index}
    assert sorted(written) == [file for file in names(target) if file.endswith(".jpg")] and len(written) == 6
    parts = {"training": "train", "valid": "val", "test": "test"}
    for file, content in written.items():
        part, name = content.split(" ", 1)
        assert table[file] == parts[part] and file.startswith("Positive" if name == "crack" else "Negative")
        assert file.count("/") == (1 if unique else 2)


def test_tables_of_photos_and_parts_come_along(tmp_path: Path, capsys: Any) -> None:
    origin = lay(tmp_path / "mine", "set/Cracked/a.jpg set/Uncracked/b.jpg other/given_split.csv")
    (origin / "set" / "patches.csv").write_text("file,photo,x\nCracked/a.jpg,07,1\nUncracked/b.jpg,8,\ngone.jpg,1,1\n")
    assert make_data(f"FROM={origin}") == 0
    table = datasets.raw_folder("own") / "patches.csv"
    assert table.read_text() == "file,photo,x\nPositive/a.jpg,07,1\nNegative/b.jpg,8,\n"
    said = capsys.readouterr().out
    assert "left out: tables that do not fit the pictures: 1 (other/given_split.csv)" in said
    assert "patches.csv names the photos of 2 of 2 pictures" in said
    record = table.with_name(".fetched.json")
    sizes = json.loads(record.read_text())["files"] | {"patches.csv": table.stat().st_size}
    record.write_text(json.dumps({"files": sizes}))  # as older versions wrote it
    other = lay(tmp_path / "other", "Positive/a.jpg Negative/b.jpg")
    assert make_data(f"FROM={other}") == 0 and make_data(f"FROM={origin}") == 0
    table.write_text(table.read_text().replace("8", "9"))  # an edit of equal length
    assert make_data(f"FROM={origin}") == 2 and "were changed: 1 (patches.csv)" in capsys.readouterr().err
    assert table.read_text().endswith("9,\n")


def test_tables_of_photos_are_read_as_people_write_them(tmp_path: Path, capsys: Any) -> None:
    origin = lay(tmp_path / "mine", "train/crack/ä.jpg train/clean/b.jpg test/crack/c.jpg test/clean/d.jpg")
    (origin / "train" / "patches.csv").write_bytes("File;Photo\ncrack\\ä.jpg;A 1\nclean\\b.jpg;B\n".encode("cp1252"))
    (origin / "test" / "patches.csv").write_text("file, photo\ncrack/c.jpg, A 1\nclean/d.jpg, C\n", "utf-16")
    assert make_data(f"FROM={origin}", "CLASSES=clean:crack") == 0
    assert "patches.csv names the photos of 4 of 4 pictures" in capsys.readouterr().out
    kept = pd.read_csv(datasets.raw_folder("own") / "patches.csv").set_index("file")["photo"].str.strip()
    assert kept.str.replace(" ", "").value_counts().to_dict() == {"A1": 2, "B": 1, "C": 1}


def test_only_what_was_written_is_replaced(tmp_path: Path, capsys: Any) -> None:
    origin = lay(tmp_path / "mine", "Positive/x.jpg Negative/x.jpg")
    target, other = fetch("own", origin), lay(tmp_path / "other", "Positive/y.jpg Negative/x.jpg")
    lay(target, "Positive/mine.jpg notes.txt .DS_Store")
    (target / "Negative" / "x.jpg").write_text("edited")
    assert make_data(f"FROM={other}") == 2
    assert "(Negative/x.jpg, Positive/mine.jpg, notes.txt). Move them elsewhere, or replace" in capsys.readouterr().err
    assert (target / "Negative" / "x.jpg").read_text() == "edited" and (target / "Positive" / "x.jpg").is_file()
    assert make_data(f"FROM={other}", "FORCE=1") == 0
    assert names(target) == ["Negative/x.jpg", "Positive/y.jpg"]
    (target / ".fetched.json").unlink()  # as older versions left it
    assert make_data(f"FROM={other}") == 0  # nothing would be lost
    (target / ".fetched.json").unlink()
    assert make_data(f"FROM={origin}") == 2 and names(target) == ["Negative/x.jpg", "Positive/y.jpg"]
    assert "an older version kept no record: 1 (Positive/y.jpg)" in capsys.readouterr().err


def test_a_published_set_is_not_replaced_by_a_smaller_one(tmp_path: Path, tree: Tree) -> None:
    target = fetch("metu", tree(tmp_path / "whole", 3))
    with pytest.raises(CrackutilsError, match=r"has 3 files in Negative/, and FROM= only 2\. Use SOURCE=own for your"):
        fetch("metu", tree(tmp_path / "few", 2))
    assert len(names(target)) == 6
    assert len(names(fetch("metu", tmp_path / "few", force=True))) == 4


ODD = [b"gr\xfcn.jpg", b"carriage\rreturn.jpg", b"two\nlines.jpg", b"what?.jpg", b"CON.jpg", b"x" * 246 + b".jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("zipped_up", [False, True])
def test_odd_names_become_clean_and_stay_apart(zipped_up: bool, tmp_path: Path, tree: Tree, capsys: Any) -> None:
    mine = tree(tmp_path / "mine", 3)
    for name in (*ODD, b"A.jpg", b"a.jpg", "nö brèak\u202fPM.jpg".encode()):
        shutil.copy(mine / "Positive" / "00001.jpg", os.path.join(os.fsencode(mine / "Positive"), name))
    if zipped_up:
        os.remove(os.path.join(os.fsencode(mine / "Positive"), ODD[0]))  # zipfile writes no such name
        shutil.make_archive(str(tmp_path / "a"), "zip", mine)
        mine = tmp_path / "a.zip"
    assert make_data(f"FROM={mine}") == 0
    said = capsys.readouterr().out
    expected = {"00001", "00002", "00003", "A", "a_2", "nö brèak\u202fPM", "what_", "_CON"}
    expected |= {"carriage_return", "two_lines", "x" * 146} | (set() if zipped_up else {"grün"})
    assert f"own: {6 if zipped_up else 7} files renamed" in said and r"carriage\rreturn.jpg" in said
    assert {Path(file).stem for file in names(datasets.raw_folder("own")) if "Pos" in file} == expected
    ds = datasets.load(config.profile("own"))
    assert len(ds.index) == len(expected) + 3 and not len(ds.left_out)


def full(source: Any, *_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(source))  # as shutil.copyfile names the source


def denied(path: Path, _: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def gone(path: Path, _: Path) -> None:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))


@pytest.mark.parametrize("what", ["folder", "zip", "vanishes"])
def test_faults_while_copying_leave_what_was_there(
    what: str, earlier: None, tmp_path: Path, tree: Tree, monkeypatch: Any
) -> None:
    origin = tree(tmp_path / "bad", 2)
    if what == "zip":
        origin = Path(shutil.make_archive(str(tmp_path / "bad"), "zip", origin))
        monkeypatch.setattr(shutil, "copyfileobj", full)
    else:
        monkeypatch.setattr(shutil, "copyfile", gone if what == "vanishes" else full)
    why = r"00001\.jpg cannot be read \(No such file.*\)\. Run this again when no other program changes"
    refused(origin, why if what == "vanishes" else r"own cannot be written \(No space left .*\)\. Free disk space or")


@pytest.mark.usefixtures("earlier")
def test_what_from_may_not_be(data_dir: Path, tmp_path: Path) -> None:
    for inside in ("raw/own", "raw/own/Positive"):
        refused(data_dir / inside, r"lies in .*own, which this command replaces\. Move it first\.$")
    refused(tmp_path / "data", r"data holds no pictures\.")  # the target does not count
    refused(Path(os.devnull), r"is neither a file nor a folder")
    with lock_file(data_dir / "raw" / ".own.fetch.lock"):
        refused(tmp_path / "earlier", r"^Another process is writing .*own\. Wait for it, then run the same command")


def test_unreadable_pictures_and_links_are_counted(tmp_path: Path, tree: Tree, monkeypatch: Any, capsys: Any) -> None:
    mine = tree(tmp_path / "a b's", 2)
    for link, end in (("dangling.jpg", "nothing"), ("circle", "circle"), ("up", "..")):
        (mine / "Positive" / link).symlink_to(end)
    copy = shutil.copyfile  # root may read everything
    monkeypatch.setattr(shutil, "copyfile", lambda *paths: (denied if paths[0].stem == "00002" else copy)(*paths))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_data("FROM=~/a b's/") == 0
    said = capsys.readouterr().out
    assert "own: 1 Negative, 1 Positive in" in said and "broken links: 1 (Positive/dangling.jpg)" in said
    assert "may not be read: 2 (Negative/00002.jpg, Positive/00002.jpg)" in said
    assert "links to a folder that is read already: 1 (Positive/up)" in said
