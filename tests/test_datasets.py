"""The index, what is derived from it, and the ways to open images."""

import dataclasses
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackutils import config, datasets
from crackutils.config import CrackutilsError
from crackutils.files import sha256
from crackutils.sources.fetch import fetch, prepare
from crackutils.splits.check import find_leaks, planted_recall
from crackutils.splits.make import make_split
from crackutils.splits.registration import find_copies
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import PATCH, TILE

RAMP = np.broadcast_to(np.arange(60, 156, dtype=np.uint8), (64, 96))  # brighter to the right everywhere
OWN = config.profile("own")


@pytest.fixture
def raw(data_dir: Path, tree: Callable[..., Path]) -> Path:
    """A folder of the profile `own`, three images of each class."""
    return tree(data_dir / "raw" / "own", 3)


def test_index_describes_each_image(raw: Path) -> None:
    exif, number = Image.Exif(), "9" * 30  # too long a number is none
    exif[0x0112] = 6
    Image.fromarray(np.dstack([RAMP] * 3)).save(raw / "Positive" / "shot.jpg", exif=exif)
    Image.fromarray(RAMP).save(raw / "Positive" / "00010.png")
    Image.fromarray(np.ascontiguousarray(RAMP[:, ::-1])).save(raw / "Positive" / f"{number}.png")
    ds = datasets.load(OWN)
    assert list(ds.index) == ["file", "label", "number", "bytes", "sha256", "width", "height", "mode", "phash"]
    positives = [f"{number}.png", "shot.jpg", "00001.jpg", "00002.jpg", "00003.jpg", "00010.png"]
    assert list(ds.index["file"]) == [f"Negative/0000{i}.jpg" for i in (1, 2, 3)] + [f"Positive/{p}" for p in positives]
    assert list(ds.index["label"]) == [0] * 3 + [1] * 6
    assert list(ds.index["number"]) == [1, 2, 3, -1, -1, 1, 2, 3, 10]
    for file, size, sha in ds.index[["file", "bytes", "sha256"]].itertuples(index=False):
        assert (size, sha) == ((raw / file).stat().st_size, sha256(raw / file))
    table = ds.index.set_index("file")
    seen = tuple(table.loc["Positive/shot.jpg", ["width", "height", "mode"]])
    assert seen == (64, 96, "RGB")  # the camera was turned
    assert tuple(table.loc["Positive/00010.png", ["mode", "phash"]]) == ("L", "f" * 16)
    assert table.loc[f"Positive/{number}.png", "phash"] == "0" * 16  # its mirror image
    assert table["phash"].str.fullmatch("[0-9a-f]{16}").all()
    assert table["phash"][table.index.str.contains("/0000")].nunique() == 6
    assert (len(ds.left_out), list(ds.left_out)) == (0, ["file", "reason"])
    assert (ds.grey.shape, ds.colour.shape) == ((9, 128, 128), (9, 16, 16, 3))
    assert ds.grey.dtype == ds.colour.dtype == np.uint8
    for i in range(9):
        assert abs(ds.colour[i].mean() - ds.read(i).mean()) < 3
    np.testing.assert_array_equal(ds.read(8), np.dstack([RAMP] * 3))


def test_left_out_says_why(raw: Path) -> None:
    bad, whole = raw / "Negative", (raw / "Negative" / "00001.jpg").read_bytes()
    contents = {"zero.jpg": b"", "text.jpg": b"no picture", "cut.jpg": whole[: len(whole) // 2]}
    contents |= {"notes.txt": b"notes", "README": b"notes", ".DS_Store": b"x", "Thumbs.db": b"x"}
    for name, data in contents.items():
        (bad / name).write_bytes(data)
    Image.fromarray(RAMP[:31]).save(bad / "tiny.png")
    Image.fromarray(RAMP[:32]).save(bad / "just.png")
    (bad / "x.jpg").mkdir()
    ds = datasets.load(OWN)
    reasons = dict(ds.left_out[["file", "reason"]].itertuples(index=False))
    assert re.fullmatch(r"is cut short: \d+% of the picture is there", reasons.pop("Negative/cut.jpg"))
    assert reasons == {
        "Negative/zero.jpg": "has zero bytes",
        "Negative/text.jpg": "is not an image",
        "Negative/tiny.png": "is too small (96x31, at least 32 each way)",
        "Negative/notes.txt": "not a picture by name or content",
        "Negative/README": "not a picture by name or content",
    }
    numbered = {f"{name}/0000{n}.jpg" for name in config.CLASSES for n in (1, 2, 3)}
    assert set(ds.index["file"]) == {"Negative/just.png"} | numbered


def five_bands() -> bytes:
    """Return an uncompressed TIFF of 64x64 pixels with five channels."""
    tags = ((256, 64), (257, 64), (259, 1), (262, 1), (273, 200), (277, 5), (278, 64), (279, 5 * 4096))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + bytes(5 * 4096)


def test_pictures_of_phones_and_instruments(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [Image.fromarray(RAMP[:, k:]) for k in (0, 8, 16)]
    for name in ("phone.heic", "phone.jpg", "day 1/deeper/phone.jfif"):
        (raw / "Positive" / name).parent.mkdir(parents=True, exist_ok=True)
        pictures[0].convert("RGB").save(raw / "Positive" / name, "JPEG" if "jfif" in name else "HEIF")
    for name in ("pages.tif", "frames.gif"):
        pictures[0].save(raw / "Positive" / name, save_all=True, append_images=pictures[1:])
    (raw / "Negative" / "camera.NEF").write_bytes(b"raw")
    (raw / "Negative" / "bands.tif").write_bytes(five_bands())
    (raw / "Negative" / "gone.jpg").symlink_to("nothing")
    ds = datasets.load(OWN)
    assert set(ds.index["file"][ds.index["number"] == -1].str.removeprefix("Positive/")) == {
        *("phone.heic", "phone.jpg", "day 1/deeper/phone.jfif", "pages.tif", "frames.gif")
    }
    reasons = dict(ds.left_out.to_numpy().tolist())
    assert reasons.pop("Negative/camera.NEF").startswith("is a raw camera photo, which is not supported; save")
    assert reasons.pop("Negative/bands.tif").startswith("is a TIFF with unsupported channels or values; sa")
    assert reasons == {"Negative/gone.jpg": "cannot be read (No such file or directory)"}
    for _ in range(2):  # also when the index is read from disk
        said = capsys.readouterr().out
        assert "own, left out: " in said and "cannot be read: 1 (Negative/gone.jpg)" in said
        assert "noted: only the first of its pictures is used: 2 (Positive/frames.gif, Positive/pages.tif)" in said
        datasets.load(OWN)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_no_table_can_hold_are_left_out(tmp_path: Path, tree: Callable[..., Path]) -> None:
    mine, odd = tree(tmp_path / "mine", 2), (b"gr\xfcn.jpg", b"carriage\rreturn.jpg", b"x" * 246 + b".jpg", b"=1+1.jpg")
    for name in odd:
        shutil.copy(mine / "Positive" / "00001.jpg", os.path.join(os.fsencode(mine / "Positive"), name))
    for _ in range(2):
        ds = datasets.open_folder(mine)
        assert sorted(ds.left_out["file"]) == [r"Positive/carriage\rreturn.jpg", r"Positive/gr\xfcn.jpg"]
        assert set(ds.left_out["reason"]) == {"has a name that some programs cannot read, so rename it"}
        assert len(ds.index) == 6 and ds.pixels(8)[:].shape == (6, 8, 8, 3)


def test_index_is_remade_only_when_a_file_changes(data_dir: Path, raw: Path) -> None:
    stamp = data_dir / "index" / "own" / "index.csv"
    shutil.copy(raw / "Positive" / "00001.jpg", raw / "Negative" / "00004.jpg")
    first = datasets.load(OWN)
    made = stamp.stat().st_mtime_ns
    assert datasets.load(OWN).sha256 == first.sha256
    assert stamp.stat().st_mtime_ns == made
    Image.fromarray(RAMP).save(raw / "Negative" / "00002.jpg")
    changed = datasets.load(OWN)
    assert stamp.stat().st_mtime_ns > made
    assert changed.index["sha256"].iloc[1] == sha256(raw / "Negative" / "00002.jpg")
    assert changed.sha256 != first.sha256 and changed.cache != first.cache
    (raw / "Negative" / "00003.jpg").unlink()
    fewer = datasets.load(OWN)
    assert list(fewer.index["number"]) == [1, 2, 4, 1, 2, 3]
    (raw / "Positive" / "00003.jpg").rename(raw / "Positive" / "00004.jpg")
    assert datasets.load(OWN).sha256 != fewer.sha256  # a name is part of it


@pytest.mark.usefixtures("raw")
def test_pixels_are_what_read_gives_in_index_order() -> None:
    ds = datasets.load(OWN)
    pixels = ds.pixels(24)[:]
    np.testing.assert_array_equal(pixels, [ds.read(row, 24) for row in range(6)])
    (file,) = ds.cache.iterdir()
    made = file.stat().st_mtime_ns
    np.testing.assert_array_equal(ds.pixels(24)[:], pixels)
    assert file.stat().st_mtime_ns == made


@pytest.mark.usefixtures("raw")
def test_head_is_a_data_set_of_its_own() -> None:
    ds = datasets.load(OWN)
    few = datasets.head(ds, 2)
    assert list(few.index["file"]) == [f"{name}/0000{i}.jpg" for name in config.CLASSES for i in (1, 2)]
    assert list(few.index.index) == [0, 1, 2, 3]
    for a, b in ((few.grey, ds.grey), (few.colour, ds.colour), (few.pixels(24)[:], ds.pixels(24)[:])):
        np.testing.assert_array_equal(a, b[[0, 1, 3, 4]])
    assert few.cache != ds.cache
    assert datasets.head(ds, 3).sha256 == datasets.head(ds, 99).sha256 == ds.sha256


@pytest.mark.usefixtures("raw")
def test_find_row() -> None:
    ds = datasets.load(OWN)
    assert datasets.find_row(ds, "Positive/00002.jpg") == 4
    with pytest.raises(CrackutilsError, match=r"^IMAGE=00002 is not among .* own\. Write it like Negative/00001"):
        datasets.find_row(ds, "00002")


def test_cuts_of_the_sample_go_with_the_index(smoke: datasets.Dataset) -> None:
    cuts = smoke.cuts
    assert list(cuts["file"]) == list(smoke.index["file"])
    assert cuts["photo"].dtype.kind == "i" and (cuts["photo"] >= 0).all()
    number = cuts["photo"].max()
    shot = make_photo(datasets.sources()["smoke"]["seed"], int(number))
    for row, x, y in cuts.loc[cuts["photo"] == number, ["x", "y"]].astype(int).itertuples():
        piece = shot.image[y : y + PATCH, x : x + PATCH]
        assert np.abs(smoke.read(row).astype(int) - piece).mean() < 6  # what JPEG changes
        assert shot.mask[y : y + PATCH, x : x + PATCH].any() == smoke.index.loc[row, "label"]


def test_tiles_of_walls_know_their_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = datasets.sources()["walls"] | {"photos": 2}
    monkeypatch.setattr(datasets, "sources", lambda: {"walls": entry})
    profile = config.profile("walls")
    assert (profile.source, profile.split, profile.numbers) == ("walls", "photo-safe", None)
    prepare(profile)
    ds = datasets.load(profile)
    assert set(ds.index["label"]) == set(ds.cuts["photo"]) == {0, 1}
    assert set(ds.index["width"]) == set(ds.index["height"]) == {TILE}
    assert len(ds.left_out) == 0
    assert list(ds.cuts["file"]) == list(ds.index["file"])
    shots = [make_photo(entry["seed"], number, 6 * TILE, 4 * TILE, (1.0, 0.0, 0.0)) for number in (0, 1)]
    for row, file, photo, x, y in ds.cuts[["file", "photo", "x", "y"]].itertuples():
        assert Path(file).stem == f"{photo:03d}-{y // TILE * 6 + x // TILE + 1}"
        assert np.abs(ds.read(row).astype(int) - shots[photo].image[y : y + TILE, x : x + TILE]).mean() < 6
        assert shots[photo].mask[y : y + TILE, x : x + TILE].any() == ds.index.loc[row, "label"]


def test_cuts_of_other_images_and_of_images_without_a_row_know_no_photo(raw: Path) -> None:
    cuts = datasets.load(OWN).cuts
    assert list(cuts["file"]) == [f"{name}/0000{n}.jpg" for name in config.CLASSES for n in (1, 2, 3)]
    assert list(cuts["photo"]) == [-1] * 6
    for other in ("a,b\n1,2\n", "file;photo\nPositive/00002.jpg;4\n"):
        (raw / "patches.csv").write_text(other)
        with pytest.raises(CrackutilsError, match=r"patches\.csv has not the columns file and photo"):
            _ = datasets.load(OWN).cuts
    rows = ["Positive/00002.jpg,4,10,20", "Negative/00001.jpg,0,30,40", "Negative/00009.jpg,7,0,0"]
    (raw / "patches.csv").write_text("\n".join(["file,photo,x,y", *rows]) + "\n")
    cuts = datasets.load(OWN).cuts
    assert list(cuts["photo"]) == [0, -1, -1, -1, 4, -1]
    assert list(cuts["x"].fillna(-1)) == [30, -1, -1, -1, 10, -1]
    rows = ["Positive/00002.jpg,A 4,10,left", "Negative/00001.jpg,B,30,40", "Positive/00002.jpg,C,1,1"]
    (raw / "patches.csv").write_text("\n".join(["file,photo,x,y", *rows]) + "\n")
    assert list(datasets.load(OWN).cuts["photo"]) == [1, -1, -1, -1, 0, -1]  # names instead of numbers


NAMES = {  # whether names of own images tell photos
    "7001-1 7001-2 7002-1 7003-9 7003-10 7003-11": True,
    "20240131-101500 20240131-101502 20240131-101507 20240201-090000 20240201-090001 20240202-120000": False,
    "20240131-001 20240131-002 20240131-003 20240201-001 20240201-002 20240202-001": False,
    "2024-001 2024-002 2024-003 2024-004 2024-005 2024-006": False,
    "2023-11-05-1 2023-11-05-2 2023-11-05-3 2023-11-06-1 2023-11-07-1 2023-11-08-1": False,
    f"{'9' * 30}-1 {'8' * 30}-1 {'7' * 30}-1 1-1 2-1 3-1": False,
}


@pytest.mark.parametrize("names", NAMES)
def test_names_tell_photos_only_where_they_are_photo_and_tile(names: str, raw: Path) -> None:
    for old, new in zip(sorted(raw.glob("*/*.jpg")), names.split(), strict=True):
        old.rename(old.with_stem(new))
    photo = datasets.load(OWN).cuts["photo"]
    assert (photo.nunique() == 3 and (photo > 0).all()) if NAMES[names] else (photo == -1).all()
    for k in range(16):
        shutil.copy(raw / "Negative" / f"{names.split()[0]}.jpg", raw / "Positive" / f"7004-{k}.jpg")
    (raw / "Positive" / f"{names.split()[-1]}.jpg").rename(raw / "Positive" / "overview.jpg")  # one of 22
    photo = datasets.load(OWN).cuts["photo"]
    assert not NAMES[names] or ((photo == -1).sum() == 1 and photo.nunique() == 5)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch, data_dir: Path, tree: Callable[..., Path]) -> Path:
    """Scale METU down to 24 images per class, of which the half archive, which is there, holds 12."""
    small = {"metu": {"per_class": 24}, "metu-half": {"per_class": 12, "numbers": (1, 12)}}
    small |= {"metu-mini": {"per_class": 3, "numbers": (1, 3)}}
    profiles = {name: dataclasses.replace(config.PROFILES[name], **fields) for name, fields in small.items()}
    monkeypatch.setattr(config, "PROFILES", config.PROFILES | profiles)
    return tree(data_dir / "raw" / "metu", 12)


def test_half_of_the_whole_archive_equals_the_half_archive(
    half: Path, tmp_path: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for home in (half.parent.parent, tmp_path / "other"):
        if not home.exists():
            whole = tree(home / "raw" / "metu", 24)
            for name in config.CLASSES:  # METU has some numbers with an addition
                (whole / name / "00020.jpg").rename(whole / name / "00020_1.jpg")
        monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(home))
        ds = datasets.load(config.profile("metu-half"))
        assert list(ds.index["number"]) == [*range(1, 13)] * 2
        seen.append((ds.sha256, ds.grey.tobytes(), *(make_split(ds, m, 1337).to_csv() for m in config.SPLITS[:3])))
        mini = datasets.load(config.profile("metu-mini"))
        assert list(mini.index["file"]) == [f"{name}/0000{n}.jpg" for name in config.CLASSES for n in (1, 2, 3)]
        np.testing.assert_array_equal(mini.grey[3:], ds.grey[12:15])  # thumbnails go with their rows
    assert seen[0] == seen[1]


def test_too_few_files_for_a_profile(half: Path) -> None:
    assert len(datasets.load(config.profile("metu-half")).index) == 24
    remedy = r"Choose a smaller PROFILE, or run make data F"
    with pytest.raises(CrackutilsError, match=rf"^PROFILE=metu needs 24 images in Negative/, but .* has 12\. {remedy}"):
        datasets.load(config.profile("metu"))
    (half / "Positive" / "00012.jpg").unlink()
    with pytest.raises(CrackutilsError, match=r"^PROFILE=metu-half needs 12 images in Positive/, .* has 11\."):
        datasets.load(config.profile("metu-half"))


def test_an_unusable_file_is_there_but_left_out(half: Path) -> None:
    for number in (5, 12):
        (half / "Negative" / f"{number:05d}.jpg").write_bytes(b"")
    ds = datasets.load(config.profile("metu-half"))
    assert (len(ds.index), list(ds.left_out["file"])) == (22, ["Negative/00005.jpg", "Negative/00012.jpg"])
    assert len(datasets.load(config.profile("metu-mini")).left_out) == 0


REMEDIES = {
    "metu-mini": r"Run make data FROM=<your archive or folder>, or make data to download them\.$",
    "own": r"Run make data SOURCE=own FROM=<your archive or folder>\.$",
    "sample": r"Run make data SOURCE=sample, which draws them\.$",
}


@pytest.mark.parametrize(("profile", "remedy"), REMEDIES.items())
def test_load_without_images_only_says_how_to_get_them(profile: str, remedy: str, data_dir: Path) -> None:
    with pytest.raises(CrackutilsError, match=rf"^PROFILE={profile} needs the images of .*\. {remedy}"):
        datasets.load(config.profile(profile))
    assert not data_dir.exists()


def test_a_class_without_images(raw: Path) -> None:
    for file in raw.glob("Negative/*"):
        file.unlink()
    has = r"at least 3 usable images in Negative/, but .* has 0"
    with pytest.raises(CrackutilsError, match=rf"^PROFILE=own needs {has}\. Add images, and run make data SOURCE=own"):
        datasets.load(OWN)
    (raw / "Negative" / "x.jpg").write_bytes(b"")
    with pytest.raises(CrackutilsError, match=rf"^PROFILE=own needs {has} and 1 left out\."):
        datasets.load(OWN)
    with pytest.raises(CrackutilsError, match=r"Negative holds no usable image\. Add at least one\.$"):
        datasets.open_folder(raw)


def test_an_unknown_profile_gets_the_names_of_all() -> None:
    with pytest.raises(CrackutilsError, match=r"^PROFILE=xyzzy is unknown\. Choose one of:") as caught:
        config.profile("xyzzy")
    assert all(name in str(caught.value) for name in config.PROFILES)


@pytest.mark.real
def test_metu_mini() -> None:
    if not (origin := os.environ.get("CRACKUTILS_TEST_METU")):
        pytest.skip("CRACKUTILS_TEST_METU names no METU archive or folder")
    fetch("metu", origin)
    ds = datasets.load(config.profile("metu-mini"))
    assert list(ds.index["number"]) == [*range(1, 1001)] * 2
    assert len(ds.left_out) == 0
    found = find_copies(ds)["kind"].value_counts()
    assert found["exact"] > 0
    assert found["shifted"] > 0
    manifest = make_split(ds, "copy-safe", 1337)
    for part in (manifest, *(manifest[manifest["label"] == label] for label in (0, 1))):
        shares = part["split"].value_counts(normalize=True).to_dict()
        assert shares == pytest.approx({"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.01)
    leaked = find_leaks(ds, manifest)
    assert leaked["a"].nunique() <= 0.01 * (manifest["split"] != "train").sum()
    assert find_leaks(ds, make_split(ds, "random", 1337))["a"].nunique() > 3 * max(1, leaked["a"].nunique())
    assert (planted_recall(ds, 80)["recall"] >= 0.9).all()
