"""Tables that people have, and those that they get: encodings, separators, spreadsheets, names, classes, formulas."""

import csv
import io
import posixpath
import unicodedata
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from crackutils.adaptation.labels import read_labels
from crackutils.cli import main
from crackutils.config import CrackutilsError
from crackutils.inspection.calibration import calibrate_threshold, read_tile_labels
from crackutils.userfiles.names import class_of, find_files, match_names
from crackutils.userfiles.write import table_bytes

Capture = pytest.CaptureFixture[str]
LABELS = [0, 1] * 5
FILES = ["tiles/Wand ä-0.jpg", *(f"tiles/7{k}-{k}.jpg" for k in range(9))]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "tiles").mkdir()
    for name in FILES:
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def text(head: str = "file,label", row: str = "{},{}", classes: tuple[str, str] = ("0", "1"), end: str = "\n") -> str:
    lines = [row.format(name, classes[label]) for name, label in zip(FILES, LABELS, strict=True)]
    return end.join([head, *lines, ""])


def book(**sheets: list[list[str | bool]]) -> bytes:
    """Return a workbook in Excel's format; its text stands in the cells."""
    home, names, links, whole = "http://schemas.openxmlformats.org", "", "", io.BytesIO()
    main_space, office = f'xmlns="{home}/spreadsheetml/2006/main"', f"{home}/officeDocument/2006/relationships"
    with zipfile.ZipFile(whole, "w") as parts:
        for name, rows in sheets.items():
            kinds = {bool: '<c t="b"><v>{:d}</v></c>', str: '<c t="inlineStr"><is><t>{}</t></is></c>'}
            cells = "".join(f"<row>{''.join(kinds[type(cell)].format(cell) for cell in row)}</row>" for row in rows)
            page = f"<worksheet {main_space}><sheetData>{cells}</sheetData></worksheet>"
            parts.writestr(f"xl/worksheets/{name}.xml", page)
            names += f'<sheet name="{name}" sheetId="{len(names) + 1}" r:id="{name}"/>'
            links += f'<Relationship Id="{name}" Type="{office}/worksheet" Target="worksheets/{name}.xml"/>'
        start = f'<Relationship Id="b" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
        for place, content in (("_rels/", start), ("xl/_rels/workbook.xml", links)):
            content = f'<Relationships xmlns="{home}/package/2006/relationships">{content}</Relationships>'
            parts.writestr(f"{place}.rels", content)
        names = f'<workbook {main_space} xmlns:r="{office}"><sheets>{names}</sheets></workbook>'
        parts.writestr("xl/workbook.xml", names)
    return whole.getvalue()


SEMICOLONS = text("file;label", "{};{}", end="\r\n")
TYPED = [["File", "Crack", "note"], *([name, bool(label), ""] for name, label in zip(FILES, LABELS, strict=True))]
TABLES = {  # content, and how it is read
    "as documented": (text().encode(), "UTF-8, commas; column label: 5 crack, 5 no crack"),
    "byte-order mark": (text().encode("utf-8-sig"), "UTF-8, commas"),
    "sep= and Windows-1252": (f"sep=;\r\n{SEMICOLONS}".encode("cp1252"), "Windows-1252, semicolons"),
    "sep= and commas": (f"sep=,\n{text()}".encode(), "UTF-8, commas"),
    "sep= and another": (f"sep=^\n{text()}".replace(",", "^").encode(), "UTF-8, separator ^"),
    "Unicode text": (text("file\tlabel", "{}\t{}", end="\r\n").encode("utf-16"), "UTF-16, tabs"),
    "UTF-16 without a mark": (SEMICOLONS.encode("utf-16-be"), "UTF-16, semicolons"),
    "old Mac": (text(end="\r").encode("mac_roman"), "commas"),
    "DOS": (f"{SEMICOLONS}\x1a".encode("cp850"), "semicolons"),
    "UTF-8 taken for Windows-1252": (text().encode().decode("cp1252").encode(), "UTF-8, commas"),
    "empty rows and columns": (
        text(" FILE ;Label;;", "{};{};;;").encode() + b";;;\r\n\r\n",
        "semicolons; column Label",
    ),
    "lines above": (f"Site A;\n\n{SEMICOLONS}".encode(), "semicolons, 1 line above the names"),
    "decimal commas": (text("file;p;label", "{};0,5;{},0").encode(), "UTF-8, semicolons, decimal commas; column label"),
    "quoted": (text("note,file,label", '"a, ""b""\nc", "{}",{}').encode(), "commas"),
    "column crack": (text("Image,Crack", classes=("No", "yes")).encode(), "UTF-8, commas; column Crack"),
    "both columns": (text("file,label,crack", "{0},{1},{1}.0").replace(",1.0", ",").encode(), "commas; column label"),
    "backslashes": (text().replace("tiles/", ".\\tiles\\").encode(), "commas"),
    "other case": (text().replace("jpg", "JPG").replace("tiles", "../SITE/Tiles").encode(), "commas"),
    "decomposed letters": (unicodedata.normalize("NFD", text()).encode(), "commas"),
    "a spreadsheet": (book(Notes=[["about"]], Tiles=TYPED), "sheet Tiles (of Notes, Tiles); column Crack: 5 crack"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_as_people_have_it(kind: str, site: Path, capsys: Capture) -> None:
    content, told = TABLES[kind]
    (file := site / "labels").write_bytes(content.replace(b"SITE", site.name.upper().encode()))
    table = read_labels(file)
    assert [(site / name).resolve().relative_to(site).as_posix() for name in table["file"]] == FILES
    assert table["label"].tolist() == LABELS
    assert (said := capsys.readouterr().out).startswith("labels: 10 rows, ") and told in said and said.count("\n") == 1


def test_the_command_reports_how_it_read_a_table_and_refuses_one_sentence_at_a_time(
    site: Path, capsys: Capture
) -> None:
    command = ["adapt", "--labels", str(file := site / "labels.csv"), "--out", str(site / "out")]
    for content, told in (
        (TABLES["decimal commas"][0], "has zero bytes"),
        (text("file,label,crack", "{},{},1").encode(), "in 5 of 10 rows the columns label and crack differ (first: ti"),
        (text(classes=("0", "-1")).encode(), "(first: tiles/70-0.jpg: -1, tiles/72-2.jpg: -1, tiles/74-4.jpg: -1)"),
        (text(row="C:\\{},{}").encode(), f"belongs to another computer (first: C:\\{FILES[0]}, "),
        (text(row="{},1,{}").encode(), "in 10 of 10 rows there are more or fewer fields"),
        (f'{text()}"a'.encode(), "is not a CSV file (unexpected end of data). Save it as one"),
        (b"PK\3\4", "is not a readable spreadsheet (Cannot detect file format). Save it as"),
        (b"\x89PNG\r\n\0", "has not one column file and label. Its first line must be file,label or file,label,photo"),
    ):
        file.write_bytes(content)
        assert main(command) == 2
        out, error = capsys.readouterr()
        assert told in error and error.count("\n") == 1
        assert ("decimal commas; column label: 5 crack, 5 no crack" in out) == ("zero bytes" in told)


def test_names_that_two_files_may_mean_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.jpg", "b.jpg", "\udce4.jpg"):
        (tmp_path / name).write_bytes(b"")
    asked = ["A.JPG", "a", ".\\A.jpg", "B.JPG", "b", "b.png", "\\xe4.jpg", f"{tmp_path}/b.JPG", "c.jpg", "n" * 300]
    found = ["A.JPG", "a", "A.jpg", "b.jpg", "b.jpg", "b.png", "\udce4.jpg", f"{tmp_path}/b.jpg", "c.jpg", "n" * 300]
    assert find_files(tmp_path, asked) == found


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("1 1.0 1,0 Cracked CRACK positive yes True ja CW cd Cp with_crack With-Crack", 1),
        ("0 0.00 uncracked No-Crack no_crack NEGATIVE no False nein UW ud uP non-crack", 0),
        ("-1 -0 2 0.5 10 1- maybe nan crack? 1_0 -", None),
    ],
)
def test_classes_by_the_names_that_people_use(words: str, label: int | None) -> None:
    assert {word: class_of(f" {word} ") for word in words.split()} == dict.fromkeys(words.split(), label)
    assert class_of("no crack") == 0 and class_of("") is None


def test_a_tile_table_finds_its_photos_after_a_spreadsheet_saved_it(tmp_path: Path, capsys: Capture) -> None:
    names = ["=wand\rä.jpg", "day/1\udce4.jpg", "B.jpg"]
    tiles = pd.DataFrame({"file": names * 2}, dtype=object)  # where pyarrow is installed, texts are UTF-8
    tiles = tiles.assign(row=0, col=[0] * 3 + [1] * 3, p_crack=[0.25] * 3 + [0.75] * 3)
    (tmp_path / "tiles.csv").write_bytes(table_bytes(tiles.assign(Crack=[0, 0, 0, 1, 1, 1])))
    saved = pd.read_csv(tmp_path / "tiles.csv").replace({"B.jpg": "b.JPG", "day/1\\xe4.jpg": "day\\1\\xe4.jpg"})
    more = pd.DataFrame({"file": "B.jpg", "row": [1, 2], "col": 0})  # nobody has looked at these
    file, options = tmp_path / "saved.csv", {"sep": ";", "decimal": ",", "index": False}
    options |= {"encoding": "cp1252", "lineterminator": "\r\n"}
    pd.concat([saved, more]).to_csv(file, **options)
    labels = read_tile_labels(file)
    told = "8 rows, Windows-1252, semicolons, decimal commas; column Crack: 3 crack, 3 no crack, 2 empty"
    assert told in capsys.readouterr().out
    result = calibrate_threshold(tiles, labels)
    assert (result["n"], result["photos"], result["f1"]) == (6, 3, 1)
    pd.concat([saved, saved.replace("b.JPG", "B.JPG")]).to_csv(file, **options)
    with pytest.raises(CrackutilsError, match=r"in 4 of 12 rows the tile is a duplicate"):
        read_tile_labels(file)
    with pytest.raises(CrackutilsError, match=r"list a tile of B\.jpg twice"):
        calibrate_threshold(tiles, pd.concat([labels, labels.replace("b.JPG", "B.JPG").query("photo == 'B.JPG'")]))


def test_what_we_write_opens_in_a_spreadsheet_and_reads_back(tmp_path: Path) -> None:
    names = ["=1+1.jpg", "+a", "-3.jpg", "@b", "\tc", "\rd", "＝e", "NA", "007", "1e5", " f ", "g\rh", "i\r\nj", "k\nl"]
    names += ['m"n', "o;p", "q,r", "sü😀", "'t", "day/=u.jpg", "1-2"]
    problem = ["=cmd|'/C calc'!A0", "-0.5", None, *[""] * (len(names) - 3)]
    numbers = {"p_crack": [0.1, None] + [0.5] * (len(names) - 2), "wide": pd.array([None] + [3] * (len(names) - 1))}
    table = pd.DataFrame({"file": names, "problem": problem, **numbers, "=x": 1})
    (file := tmp_path / "table.csv").write_bytes(table_bytes(table))
    assert file.read_bytes().startswith("\ufefffile,problem,p_crack,wide,'=x\n./=1+1.jpg,'=cmd".encode())
    back = pd.read_csv(file)
    shown = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))
    assert [row[0] for row in shown[1:]] == back["file"].tolist() and len({len(row) for row in shown}) == 1
    assert not [row[0] for row in shown if row[0][0] in "=+-@\t\r＝"] and match_names(back["file"], names) == names
    assert [posixpath.normpath(name) for name in back["file"]] == names
    assert back["problem"].tolist()[:2] == [f"'{problem[0]}", "-0.5"] and back["p_crack"].equals(table["p_crack"])
    assert sum(name.startswith("./") for name in back["file"]) == 11
    assert (shown[1][3], shown[2][3], shown[3][1]) == ("", "3", "")
