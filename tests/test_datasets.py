"""Decoding, fetching, downloading and indexing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import io
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackutils import config, datasets
from crackutils.files import sha256
from crackutils.images import ImageError, read_image
from crackutils.sources.download import download
from crackutils.sources.fetch import _draw_sample, fetch
from crackutils.sources.unpack import _run_with_progress
from crackutils.splits.check import find_leaks, planted_recall
from crackutils.splits.make import make_split
from crackutils.splits.registration import find_copies
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import PATCH, TILE

UNPACKERS = ("unrar", "bsdtar", "unar", "7zz", "7z")
needs_unpacker = pytest.mark.skipif(
    not any(map(shutil.which, UNPACKERS)), reason=f"no program that unpacks RAR here ({', '.join(UNPACKERS)})"
)


# ---------------------------------------------------------------- helpers


def smooth(width: int = 96, height: int = 64) -> np.ndarray:
    """Return a smooth picture without any symmetry, uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    red, green, blue = 60 + 120 * x / x.max(), 70 + 110 * y, 90 + 60 * np.sin(2.1 * x + y) + 30 * x * y / x.max()
    return np.stack([red, green, blue], axis=2).round().astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Return hash and time of every file below a folder."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): (sha256(p), p.stat().st_mtime_ns) for p in files}


def zipped(file: Path, folder: Path, inside: str = "", how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", how) as z:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            z.write(path, inside + path.relative_to(folder).as_posix())
    return file


def vint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def rar(file: Path, entries: dict[str, bytes]) -> Path:
    """Write a RAR 5 archive of stored entries, as no free program does."""

    def block(*fields: bytes, data: bytes = b"") -> bytes:
        header = b"".join(fields)
        header = vint(len(header)) + header
        return struct.pack("<I", zlib.crc32(header)) + header + data

    out = [b"Rar!\x1a\x07\x01\x00", block(vint(1), vint(0), vint(0))]
    for name, data in entries.items():
        sizes = [vint(len(data)), vint(4), vint(len(data)), vint(0o100644), struct.pack("<I", zlib.crc32(data))]
        path = name.encode()
        out.append(block(vint(2), vint(2), *sizes, vint(0), vint(1), vint(len(path)), path, data=data))
    out.append(block(vint(5), vint(0), vint(0)))
    file.write_bytes(b"".join(out))
    return file


def rar_of(file: Path, folder: Path) -> Path:
    return rar(file, {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})


def leftovers(data_dir: Path) -> list[str]:
    return sorted(p.name for p in data_dir.rglob(".*")) + sorted(p.name for p in data_dir.rglob("*.part"))


@pytest.fixture
def kept(data_dir: Path, tmp_path: Path, tree: Callable[..., Path]) -> Iterator[None]:
    """Have a good copy of `own` before a call that fails; afterwards it is untouched and nothing else is there."""
    fetch("own", tree(tmp_path / "earlier", 2))
    before = contents(data_dir)
    assert len(before) == 4
    yield
    assert contents(data_dir) == before
    assert leftovers(data_dir) == []
    assert {p.name for p in tmp_path.iterdir()} <= {"data", "earlier", "bad", "bad.zip", "bad.rar", "bin"}


# ---------------------------------------------------------------- read_image


def test_jpeg_rgb_from_bytes_and_from_a_path(tmp_path: Path) -> None:
    data = encoded(smooth(), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data)
    pixels = read_image(data)
    assert pixels.dtype == np.uint8
    assert furthest(pixels, smooth()) <= 4
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pixels)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.jpg")), pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_gets_three_equal_channels(kind: str) -> None:
    grey = smooth()[..., 0]
    np.testing.assert_array_equal(read_image(encoded(grey, kind)), np.repeat(grey[..., None], 3, axis=2))


def test_transparency_lies_on_white() -> None:
    rgba = np.dstack([smooth(), np.full((64, 96), 255, np.uint8)])
    rgba[:20, :, 3], rgba[20:40, :, 3] = 0, 128
    pixels = read_image(encoded(rgba, "PNG"))
    assert (pixels[:20] == 255).all()
    assert furthest(pixels[20:40], np.rint(smooth()[20:40] * (128 / 255) + 127).astype(np.uint8)) <= 1
    np.testing.assert_array_equal(pixels[40:], smooth()[40:])


def test_grey_with_transparency_lies_on_white() -> None:
    grey = smooth()[..., 1]
    alpha = np.full_like(grey, 255)
    alpha[:, :30] = 0
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    pixels = read_image(encoded(image, "PNG"))
    assert (pixels[:, :30] == 255).all()
    np.testing.assert_array_equal(pixels[:, 30:], np.repeat(grey[:, 30:, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparent", [False, True])
def test_palette(kind: str, transparent: bool) -> None:
    colours = np.array([[200, 30, 40], [10, 160, 70], [5, 15, 250]], np.uint8)
    numbers = np.arange(48 * 60).reshape(48, 60).astype(np.uint8) % 3
    image = Image.frombytes("P", (60, 48), numbers.tobytes())
    image.putpalette(colours.tobytes())
    pixels = read_image(encoded(image, kind, **({"transparency": 1} if transparent else {})))
    if transparent:
        colours[1] = 255
    np.testing.assert_array_equal(pixels, colours[numbers])


def test_one_transparent_colour_lies_on_white() -> None:
    picture = smooth()
    picture[5:9, 5:9] = (1, 2, 3)
    pixels = read_image(encoded(picture, "PNG", transparency=(1, 2, 3)))
    picture[5:9, 5:9] = 255
    np.testing.assert_array_equal(pixels, picture)


def test_one_bit() -> None:
    bits = np.random.default_rng(0).random((40, 50)) > 0.5
    for kind in ("PNG", "TIFF", "BMP"):
        pixels = read_image(encoded(Image.fromarray(bits), kind))
        np.testing.assert_array_equal(pixels, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


def test_cmyk_jpeg_has_the_colours_that_went_in() -> None:
    data = encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "CMYK"
    assert furthest(read_image(data), smooth()) <= 5  # printing colours taken for the inverse would be far off


GRADIENT = np.linspace(0, 65535, 64 * 80).round().astype(np.uint16).reshape(64, 80)


def sixteen_bit_tiff(order: str) -> bytes:
    """Write a 16-bit grey TIFF by hand, in either byte order."""
    data = GRADIENT.astype(f"{order}u2").tobytes()
    tags = {256: 80, 257: 64, 258: 16, 259: 1, 262: 1, 273: 0, 277: 1, 278: 64, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(tags))
    return head + b"".join(struct.pack(f"{order}HHII", tag, 4, 1, v) for tag, v in tags.items()) + bytes(4) + data


@pytest.mark.parametrize("data", [encoded(GRADIENT, "PNG"), sixteen_bit_tiff("<"), sixteen_bit_tiff(">")])
def test_sixteen_bit_grey_is_scaled_not_clipped(data: bytes) -> None:
    pixels = read_image(data)
    expected = np.repeat((GRADIENT / 65535 * 255)[..., None], 3, axis=2)
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert 126 <= pixels[32, 0, 0] <= 129


EXIF_SIDES = {  # where the first row and the first column of the stored pixels belong, as the EXIF standard says
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    row, column = EXIF_SIDES[orientation]
    out = upright.transpose(1, 0, 2) if row in ("left", "right") else upright
    out = out[::-1] if row in ("bottom", "right") else out
    return np.ascontiguousarray(out[:, ::-1] if column in ("bottom", "right") else out)


@pytest.mark.parametrize("orientation", EXIF_SIDES)
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = stored(smooth(), orientation)
    assert furthest(read_image(encoded(lying, "JPEG", quality=95, exif=exif)), smooth()) <= 4
    assert furthest(read_image(encoded(lying, "PNG", exif=exif)), smooth()) == 0


def test_badly_written_exif_does_not_cost_the_picture() -> None:
    text = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0")  # the image width as text
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + text + turned + bytes(4)
    data = encoded(stored(smooth(), 6), "JPEG", quality=95, exif=exif)
    assert furthest(read_image(data), smooth()) <= 4


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (40, 32), colour) for colour in ("#f00", "#00f", "#0f0")]
    for kind in ("GIF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.n_frames == 3
        pixels = read_image(data)
        assert pixels.shape == (32, 40, 3)
        assert (pixels == (255, 0, 0)).all()


def test_webp() -> None:
    np.testing.assert_array_equal(read_image(encoded(smooth(), "WEBP", lossless=True)), smooth())


def test_resize_is_antialiased() -> None:
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = read_image(encoded(board, "PNG"), size=32)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(float) - 127.5).max() < 8  # picking pixels instead of averaging gives 0 or 255
    assert furthest(read_image(encoded(smooth(96, 96), "PNG"), size=96), smooth(96, 96)) == 0


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
WHOLE = encoded(smooth(), "JPEG", quality=95)
UNUSABLE = {
    "float TIFF": (encoded(smooth()[..., 0].astype(np.float32), "TIFF"), "has floating-point values; save it with"),
    "32-bit TIFF": (encoded(GRADIENT.astype(np.int32) * 9, "TIFF"), "has 32-bit values; save it with"),
    "truncated JPEG": (WHOLE[: len(WHOLE) // 2], r"is truncated or damaged \(.+\)$"),
    "truncated PNG": (encoded(NOISE, "PNG")[:2000], r"is truncated or damaged \(.+\)$"),
    "zero bytes": (b"", "is not an image$"),
    "text": (b"The crack is over there.\n", "is not an image$"),
    "bomb": (bomb(), "has absurdly many pixels, more than 179 million; cut it into parts$"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_unusable_files_are_told_in_a_sentence(what: str, tmp_path: Path) -> None:
    data, sentence = UNUSABLE[what]
    (tmp_path / "a.jpg").write_bytes(data)
    for file in (data, tmp_path / "a.jpg"):
        with pytest.raises(ImageError, match=f"^{sentence}") as caught:
            read_image(file)
        assert "\n" not in str(caught.value)


def test_missing_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^does not exist$"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_broken_anywhere_give_an_image_or_an_image_error() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "somebody's camera"
    files = [encoded(smooth(), kind, **o) for kind, o in (("JPEG", {"exif": exif}), ("PNG", {}), ("GIF", {}))]
    files += [encoded(GRADIENT, "TIFF"), encoded(smooth(), "WEBP"), encoded(smooth(), "TIFF", exif=exif)]
    rng = np.random.default_rng(0)
    refused = 0
    for turn in range(1200):
        broken = bytearray(files[turn % len(files)])
        for place in rng.integers(0, min(len(broken), 300 if turn % 2 else 10**9), 3):
            broken[place] = rng.integers(256)
        try:
            assert read_image(bytes(broken)).shape[2] == 3
        except ImageError:
            refused += 1
    assert 200 < refused < 1200  # both kinds happen


# ---------------------------------------------------------------- index


def test_index_describes_each_image(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    (raw / "Positive" / "shot.jpg").write_bytes(encoded(smooth(96, 64), "JPEG", exif=exif))
    (raw / "Positive" / "00010.png").write_bytes(encoded(smooth()[..., 0], "PNG"))
    (raw / "Positive" / f"{'9' * 30}.png").write_bytes(encoded(smooth()[:, ::-1, 0], "PNG"))  # no number any more
    ds = datasets.load(config.profile("own"))
    table = ds.index
    assert list(table) == ["file", "label", "number", "bytes", "sha256", "width", "height", "mode", "phash"]
    positives = [f"{'9' * 30}.png", "shot.jpg", "00001.jpg", "00002.jpg", "00003.jpg", "00010.png"]
    assert list(table["file"]) == [f"Negative/0000{i}.jpg" for i in (1, 2, 3)] + [f"Positive/{p}" for p in positives]
    assert list(table["label"]) == [0] * 3 + [1] * 6
    assert list(table["number"]) == [1, 2, 3, -1, -1, 1, 2, 3, 10]
    for file, size, sha in table[["file", "bytes", "sha256"]].itertuples(index=False):
        data = (raw / file).read_bytes()
        assert (size, sha) == (len(data), hashlib.sha256(data).hexdigest())
    row = table.set_index("file").loc["Positive/shot.jpg"]
    assert (row["width"], row["height"], row["mode"]) == (64, 96, "RGB")  # as seen: the camera was turned
    assert table.set_index("file").loc["Positive/00010.png", "mode"] == "L"
    hashes = table.set_index("file")["phash"]
    assert hashes["Positive/00010.png"] == "f" * 16  # brighter to the right everywhere
    assert hashes[f"Positive/{'9' * 30}.png"] == "0" * 16  # its mirror image
    assert hashes.str.fullmatch("[0-9a-f]{16}").all()
    assert hashes[hashes.index.str.contains("/0000")].nunique() == 6
    assert (len(ds.left_out), list(ds.left_out)) == (0, ["file", "reason"])
    assert (ds.grey.shape, ds.grey.dtype) == ((9, 128, 128), np.uint8)
    assert (ds.colour.shape, ds.colour.dtype) == ((9, 16, 16, 3), np.uint8)
    for i in range(9):
        assert abs(ds.colour[i].mean() - ds.read(i).mean()) < 3
    np.testing.assert_array_equal(ds.read(8), np.repeat(smooth()[..., :1], 3, axis=2))


def test_left_out_says_why(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 1)
    bad = raw / "Negative"
    (bad / "zero.jpg").write_bytes(b"")
    (bad / "text.jpg").write_text("no picture")
    (bad / "cut.jpg").write_bytes(WHOLE[: len(WHOLE) // 2])
    (bad / "bomb.png").write_bytes(bomb())
    (bad / "tiny.png").write_bytes(encoded(smooth(90, 31), "PNG"))
    (bad / "just.png").write_bytes(encoded(smooth(90, 32), "PNG"))
    (bad / "notes.txt").write_text("notes")
    (bad / "README").write_text("notes")
    (bad / "x.jpg").mkdir()
    (bad / ".DS_Store").write_bytes(b"x")
    (bad / "Thumbs.db").write_bytes(b"x")
    ds = datasets.load(config.profile("own"))
    reasons = dict(ds.left_out[["file", "reason"]].itertuples(index=False))
    assert re.fullmatch(r"is truncated or damaged \(.+\)", reasons.pop("Negative/cut.jpg"))
    assert reasons == {
        "Negative/zero.jpg": "has zero bytes",
        "Negative/text.jpg": "is not an image",
        "Negative/bomb.png": "has absurdly many pixels, more than 179 million; cut it into parts",
        "Negative/tiny.png": "is too small (90x31, at least 32 each way)",
        "Negative/notes.txt": "is not named like an image (.txt)",
        "Negative/README": "is not named like an image (no ending)",
        "Negative/x.jpg": "is not a file",
    }
    assert set(ds.index["file"]) == {"Negative/00001.jpg", "Negative/just.png", "Positive/00001.jpg"}


def test_index_is_remade_only_when_a_file_changes(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 3)
    stamp = data_dir / "index" / "own" / "index.csv"
    first = datasets.load(config.profile("own"))
    made = stamp.stat().st_mtime_ns
    again = datasets.load(config.profile("own"))
    assert stamp.stat().st_mtime_ns == made
    assert again.sha256 == first.sha256
    (raw / "Negative" / "00002.jpg").write_bytes(WHOLE)
    changed = datasets.load(config.profile("own"))
    assert stamp.stat().st_mtime_ns > made
    assert changed.index["sha256"].iloc[1] == hashlib.sha256(WHOLE).hexdigest()
    assert changed.sha256 != first.sha256
    assert changed.cache != first.cache
    (raw / "Negative" / "00003.jpg").unlink()
    assert list(datasets.load(config.profile("own")).index["number"]) == [1, 2, 1, 2, 3]
    assert leftovers(data_dir) == []


def test_pixels_are_what_read_gives_in_index_order(data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", 3)
    ds = datasets.load(config.profile("own"))
    pixels = ds.pixels(24)
    assert pixels.shape == (6, 24, 24, 3)
    for row in range(6):
        np.testing.assert_array_equal(pixels[row], ds.read(row, 24))
    file = next(ds.cache.glob("pixels-24*"))
    made = file.stat().st_mtime_ns
    np.testing.assert_array_equal(ds.pixels(24), pixels)
    assert file.stat().st_mtime_ns == made
    assert leftovers(data_dir) == []


def test_first_is_a_data_set_of_its_own(data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", 3)
    ds = datasets.load(config.profile("own"))
    few = datasets.head(ds, 2)
    assert list(few.index["file"]) == [f"{name}/0000{i}.jpg" for name in config.CLASSES for i in (1, 2)]
    assert list(few.index.index) == [0, 1, 2, 3]
    np.testing.assert_array_equal(few.grey, ds.grey[[0, 1, 3, 4]])
    np.testing.assert_array_equal(few.colour, ds.colour[[0, 1, 3, 4]])
    np.testing.assert_array_equal(few.pixels(24), ds.pixels(24)[[0, 1, 3, 4]])
    assert few.cache != ds.cache
    assert datasets.head(ds, 3).sha256 == datasets.head(ds, 99).sha256 == ds.sha256


def test_sample_photos_are_made_once(data_dir: Path, smoke: datasets.Dataset) -> None:
    first = datasets.load(config.profile("smoke"))
    before = contents(data_dir / "raw")
    assert len(first.index) == 140
    assert list(first.index["label"].value_counts().sort_index()) == [70, 70]
    assert first.sha256 == smoke.sha256
    assert datasets.load(config.profile("smoke")).sha256 == first.sha256
    assert contents(data_dir / "raw") == before
    (data_dir / "raw" / "smoke" / "made_from.txt").write_text("an earlier version")
    (data_dir / "raw" / "smoke" / "Positive" / "00001.jpg").unlink()
    assert datasets.load(config.profile("smoke")).sha256 == first.sha256  # made anew, the same


@pytest.mark.parametrize("changed", ["seed", "patches", "numpy", "opencv"])
def test_sample_photos_are_made_anew_by_another_generator(
    changed: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(synthetic, "draw", lambda folder, count, seed, each: drawn.append((count, seed)))
    entry = {"patches": 3, "seed": 5, "each": 2}
    for _ in range(2):
        _draw_sample("smoke", entry)
    assert drawn == [(3, 5)]
    if changed in entry:
        entry |= {changed: 9}
    else:
        monkeypatch.setattr({"numpy": np, "opencv": synthetic.cv2}[changed], "__version__", "0.0")
    _draw_sample("smoke", entry)
    assert drawn[1:] == [(entry["patches"], entry["seed"])]
    assert leftovers(data_dir) == []


@pytest.fixture
def two_walls(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The source `walls`, cut down to two of its photos."""
    entry = datasets.sources()["walls"] | {"photos": 2}
    monkeypatch.setattr(datasets, "sources", lambda: {"walls": entry})
    return entry


def test_tiles_of_walls_are_made_once_and_know_their_photo(
    data_dir: Path, two_walls: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = config.profile("walls")
    assert (profile.source, profile.split, profile.numbers) == ("walls", "photo-safe", None)
    ds = datasets.load(profile)
    assert set(ds.index["label"]) == {0, 1}
    assert set(ds.index["width"]) == set(ds.index["height"]) == {TILE}
    assert len(ds.left_out) == 0
    cuts = ds.cuts
    assert list(cuts["file"]) == list(ds.index["file"])
    assert set(cuts["photo"]) == {0, 1}
    for file, photo, x, y in cuts[["file", "photo", "x", "y"]].itertuples(index=False):
        number, tile = Path(file).stem.split("-")
        assert int(number) == photo
        assert (x, y) == ((int(tile) - 1) % 6 * 256, (int(tile) - 1) // 6 * 256)
    shot = make_photo(two_walls["seed"], 1, 6 * 256, 4 * 256, (1.0, 0.0, 0.0))
    for row in np.flatnonzero(cuts["photo"] == 1):
        x, y = int(cuts.loc[row, "x"]), int(cuts.loc[row, "y"])
        assert np.abs(ds.read(row).astype(int) - shot.image[y : y + 256, x : x + 256]).mean() < 6
        assert shot.mask[y : y + 256, x : x + 256].any() == ds.index.loc[row, "label"]

    before = contents(data_dir / "raw")
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw_tiles", None)  # the second call reads what the first one kept
        again = datasets.load(profile)
    assert again.sha256 == ds.sha256
    assert contents(data_dir / "raw") == before


def test_tiles_of_walls_are_made_anew_for_other_photos(
    two_walls: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(synthetic, "draw_tiles", lambda folder, count, seed: drawn.append((count, seed)))
    for _ in range(2):
        fetch("walls")
    two_walls["photos"] = 3
    fetch("walls")
    two_walls["seed"] = 5
    fetch("walls")
    assert drawn == [(2, 4242), (3, 4242), (3, 5)]


def test_generated_sources_and_training_photos_have_different_seeds() -> None:
    seeds = [entry["seed"] for entry in datasets.sources().values() if "seed" in entry]
    assert len(set(seeds)) == len(seeds) >= 3


# ---------------------------------------------------------------- where images were cut


def test_cuts_of_the_sample_go_with_the_index(smoke: datasets.Dataset) -> None:
    cuts = smoke.cuts
    assert list(cuts["file"]) == list(smoke.index["file"])
    assert {"photo", "x", "y"} <= set(cuts)
    assert cuts["photo"].dtype.kind == "i"
    assert (cuts["photo"] >= 0).all()
    entry = datasets.sources()["smoke"]
    number = cuts["photo"].max()
    shot = make_photo(entry["seed"], int(number))
    for row in cuts.index[cuts["photo"] == number]:
        x, y = int(cuts.loc[row, "x"]), int(cuts.loc[row, "y"])
        piece = shot.image[y : y + PATCH, x : x + PATCH]
        assert np.abs(smoke.read(row).astype(int) - piece).mean() < 6  # what JPEG changes
        assert shot.mask[y : y + PATCH, x : x + PATCH].any() == smoke.index.loc[row, "label"]


def test_cuts_of_other_images_know_no_photo(data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", 2)
    cuts = datasets.load(config.profile("own")).cuts
    assert list(cuts["file"]) == [f"{name}/0000{n}.jpg" for name in config.CLASSES for n in (1, 2)]
    assert list(cuts["photo"]) == [-1] * 4


def test_an_image_without_a_row_in_the_table_has_no_photo(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 2)
    rows = ["Positive/00002.jpg,4,10,20", "Negative/00001.jpg,0,30,40", "Negative/00009.jpg,7,0,0"]
    (raw / "patches.csv").write_text("\n".join(["file,photo,x,y", *rows]) + "\n")
    cuts = datasets.load(config.profile("own")).cuts
    assert list(cuts["photo"]) == [0, -1, -1, 4]
    assert list(cuts["x"].fillna(-1)) == [30, -1, -1, 10]


# ---------------------------------------------------------------- fetch


def test_fetch_from_a_folder_leaves_it_as_it_was(data_dir: Path, tmp_path: Path, tree: Callable[..., Path]) -> None:
    tree(tmp_path / "mine" / "deep" / "down", 3)
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "mine")
    target = fetch("own", tmp_path / "mine")
    assert target == data_dir / "raw" / "own"
    assert contents(tmp_path / "mine") == before
    copied = {f"deep/down/{name}": sha for name, (sha, _) in contents(target).items()}
    assert copied == {name: sha for name, (sha, _) in before.items() if name != "notes.txt"}
    for file in target.rglob("*.jpg"):
        assert file.stat().st_nlink == 1  # a copy: what happens to ours does not happen to the user's
    assert leftovers(data_dir) == []


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inside", ["", "Concrete Crack Images/"])
def test_fetch_from_a_zip(data_dir: Path, tmp_path: Path, tree: Callable[..., Path], inside: str, how: int) -> None:
    mine = tree(tmp_path / "mine", 3)
    archive = zipped(tmp_path / "a.zip", mine, inside, how)
    with zipfile.ZipFile(archive, "a") as z:
        z.writestr(f"{inside}Readme.txt", "about")
        z.writestr("__MACOSX/Negative/._00001.jpg", "what macOS adds")
        z.writestr("__MACOSX/Positive/._00001.jpg", "what macOS adds")
    sha = sha256(archive)
    target = fetch("own", archive)
    assert {k: v[0] for k, v in contents(target).items()} == {k: v[0] for k, v in contents(mine).items()}
    assert sorted(p.name for p in target.iterdir()) == ["Negative", "Positive"]
    assert sha256(archive) == sha
    assert leftovers(data_dir) == []


def test_hash_does_not_depend_on_where_the_files_came_from(
    tmp_path: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tree(tmp_path / "mine", 3)
    hashes = []
    for name, origin in (("folder", mine), ("zip", zipped(tmp_path / "a.zip", mine, "x/y/"))):
        monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / f"from-{name}"))
        fetch("own", origin)
        hashes.append(datasets.load(config.profile("own")).sha256)
    assert hashes[0] == hashes[1]
    (mine / "Positive" / "00003.jpg").rename(mine / "Positive" / "00004.jpg")  # a name is part of it
    fetch("own", mine)
    assert datasets.load(config.profile("own")).sha256 != hashes[0]


def test_fetch_takes_the_place_of_what_was_there(data_dir: Path, tmp_path: Path, tree: Callable[..., Path]) -> None:
    fetch("own", tree(tmp_path / "a", 5))
    fetch("own", tree(tmp_path / "b", 2))
    assert len(contents(data_dir / "raw" / "own")) == 4
    assert leftovers(data_dir) == []


@needs_unpacker
@pytest.mark.parametrize("wrapped", [False, True])
def test_fetch_from_a_rar_and_from_a_zip_around_it(
    data_dir: Path, tmp_path: Path, tree: Callable[..., Path], wrapped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tree(tmp_path / "mine", 3)
    origin = rar_of(tmp_path / "a.rar", mine)
    if wrapped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
            z.write(origin, "some folder/Concrete Crack Images.rar")
        origin = tmp_path / "a.zip"
    target = fetch("metu", origin)
    assert {k: v[0] for k, v in contents(target).items()} == {k: v[0] for k, v in contents(mine).items()}
    assert leftovers(data_dir) == []
    assert "is not the published Concrete Crack Images for Classification.rar" in capsys.readouterr().out


@pytest.mark.parametrize("tool", UNPACKERS)
def test_each_unpacker_does(
    tool: str, data_dir: Path, tmp_path: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (program := shutil.which(tool)):
        pytest.skip(f"{tool} is not installed here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / tool).symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    mine = tree(tmp_path / "mine", 3)
    target = fetch("own", rar_of(tmp_path / "a.rar", mine))
    assert {k: v[0] for k, v in contents(target).items()} == {k: v[0] for k, v in contents(mine).items()}


@pytest.mark.usefixtures("kept")
def test_no_unpacker_names_what_to_install(
    tmp_path: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "libarchive", None)
    bad = rar_of(tmp_path / "bad.rar", tree(tmp_path / "bad", 1))
    with pytest.raises(config.CrackutilsError, match=r"install one of unrar, bsdtar .*FROM=\.$") as caught:
        fetch("own", bad)
    assert "bad.rar" in str(caught.value)


@needs_unpacker
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("damage", ["cut", "crc"])
def test_damaged_rar(damage: str, tmp_path: Path, tree: Callable[..., Path]) -> None:
    bad = rar_of(tmp_path / "bad.rar", tree(tmp_path / "bad", 2))
    data = bytearray(bad.read_bytes())
    if damage == "crc":
        data[len(data) // 2] ^= 0xFF
    bad.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    with pytest.raises(config.CrackutilsError, match=r"bad\.rar .*; download or copy it again\.$"):
        fetch("own", bad)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "Negative/../../evil.jpg"])
def test_rar_entries_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    bad = rar(tmp_path / "bad.rar", {"Negative/1.jpg": WHOLE, "Positive/1.jpg": WHOLE, name: WHOLE})
    with pytest.raises(
        config.CrackutilsError, match=r"bad\.rar is refused: its entry .*evil.jpg' leads outside the folder"
    ):
        fetch("own", bad)


def test_an_unpacker_with_very_many_complaints_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    complaints: list[str] = []
    loud = ["sh", "-c", "i=0; while [ $i -lt 9000 ]; do echo damaged file number $i >&2; i=$((i+1)); done; exit 3"]
    args = (loud, tmp_path / "work", 5, tmp_path / "a.rar", complaints)
    thread = threading.Thread(target=_run_with_progress, args=args, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert complaints == ["sh: damaged file number 8999"]


@pytest.fixture
def rar_folder() -> Path:
    """Folder with RAR files made by the original program."""
    if not (folder := os.environ.get("CRACKUTILS_TEST_RAR")):
        pytest.skip("CRACKUTILS_TEST_RAR names no folder with rar4-subdirs.rar and rar5-evil-symlink-traversal.rar")
    return Path(folder)


@pytest.mark.usefixtures("kept")
def test_symlink_rar_is_refused(rar_folder: Path) -> None:
    with pytest.raises(
        config.CrackutilsError, match=r"evil-symlink-traversal\.rar is refused: its entry 'up' is a link"
    ):
        fetch("own", rar_folder / "rar5-evil-symlink-traversal.rar")
    assert not (rar_folder / "pwned.txt").exists()


@needs_unpacker
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("wrapped", [False, True])
def test_rar_without_class_folders(rar_folder: Path, wrapped: bool, tmp_path: Path) -> None:
    origin = rar_folder / "rar4-subdirs.rar"
    if wrapped:
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
            z.write(origin, "deep/rar4-subdirs.rar")
        origin = tmp_path / "bad.zip"
    with pytest.raises(
        config.CrackutilsError, match=rf"{origin.name} holds no folder with Negative/ and Positive/ in it"
    ):
        fetch("own", origin)


@pytest.mark.usefixtures("kept")
def test_real_rar_without_unpacker(rar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "libarchive", None)
    with pytest.raises(config.CrackutilsError, match=r"unpacks rar4-subdirs\.rar: install one of unrar"):
        fetch("own", rar_folder / "rar4-subdirs.rar")


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("damage", ["cut", "crc stored", "crc deflated", "stream"])
def test_damaged_zip(damage: str, tmp_path: Path, tree: Callable[..., Path]) -> None:
    how = zipfile.ZIP_STORED if damage in ("cut", "crc stored") else zipfile.ZIP_DEFLATED
    bad = zipped(tmp_path / "bad.zip", tree(tmp_path / "bad", 4), how=how)
    data = bytearray(bad.read_bytes())
    with zipfile.ZipFile(bad) as z:
        entry = z.infolist()[4]
        start = entry.header_offset + 30 + len(entry.filename)
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "stream":
        data[start] = 0x07  # a kind of block that deflate does not have
    else:
        data[start + entry.compress_size // 2] ^= 0x10
    bad.write_bytes(data)
    with pytest.raises(
        config.CrackutilsError, match=r"bad\.zip is .*: download or copy it again\.$|; download or copy it again\.$"
    ):
        fetch("own", bad)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    "name",
    ["../x.jpg", "Negative/../../../x.jpg", "/tmp/x.jpg", "C:\\x.jpg", "C:/x.jpg", "..\\x.jpg", "\\\\a\\b\\x.jpg"],
)
def test_zip_entries_that_lead_outside_are_refused(name: str, tmp_path: Path, tree: Callable[..., Path]) -> None:
    bad = zipped(tmp_path / "bad.zip", tree(tmp_path / "bad", 1))
    with zipfile.ZipFile(bad, "a") as z:
        z.writestr(zipfile.ZipInfo(name), WHOLE)
    with pytest.raises(
        config.CrackutilsError, match=r"^bad\.zip is refused: its entry .*x.jpg' leads outside the folder; nothing"
    ):
        fetch("own", bad)


@pytest.mark.usefixtures("kept")
def test_zip_with_a_link_is_refused(tmp_path: Path, tree: Callable[..., Path]) -> None:
    bad = zipped(tmp_path / "bad.zip", tree(tmp_path / "bad", 1))
    link = zipfile.ZipInfo("Negative/00002.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(bad, "a") as z:
        z.writestr(link, "/etc/hostname")
    with pytest.raises(
        config.CrackutilsError, match=r"^bad\.zip is refused: its entry 'Negative/00002\.jpg' is a link"
    ):
        fetch("own", bad)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("what", ["missing", "twice"])
def test_class_folders_must_be_there_once(what: str, as_zip: bool, tmp_path: Path, tree: Callable[..., Path]) -> None:
    bad = tree(tmp_path / "bad" / "a", 1).parent
    if what == "missing":
        shutil.rmtree(bad / "a" / "Positive")
    else:
        shutil.copytree(bad / "a", bad / "b")
    origin = zipped(tmp_path / "bad.zip", bad) if as_zip else bad
    some = "no folder" if what == "missing" else "several folders"
    with pytest.raises(
        config.CrackutilsError, match=rf"holds {some} with Negative/ and Positive/ in it; it must hold exactly"
    ):
        fetch("own", origin)


@pytest.mark.usefixtures("kept")
def test_from_that_does_not_exist_or_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(config.CrackutilsError, match=r"none\.zip does not exist; give a RAR, a ZIP or a folder\.$"):
        fetch("own", tmp_path / "none.zip")
    (tmp_path / "bad").write_text("nothing of the kind")
    with pytest.raises(config.CrackutilsError, match=r"bad is neither a whole ZIP nor a RAR nor a folder"):
        fetch("own", tmp_path / "bad")


def test_archive_larger_than_the_disk_is_refused(
    tmp_path: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "a.zip", tree(tmp_path / "mine", 1))
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(config.CrackutilsError, match=r"^a\.zip unpacks to .* GB, .* has 0\.0 GB free\.$"):
        fetch("own", archive)


def test_unknown_and_addressless_sources() -> None:
    with pytest.raises(config.CrackutilsError, match=r"^SOURCE=meto is unknown \(did you mean metu\?\)"):
        fetch("meto")
    with pytest.raises(
        config.CrackutilsError, match=r"own has no address to download from; use make data SOURCE=own FROM="
    ):
        fetch("own")


def test_kill_in_the_middle_of_unpacking_is_repaired_by_the_same_call(data_dir: Path, tmp_path: Path) -> None:
    many = 6000
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for number in range(many):
            z.writestr(f"{config.CLASSES[number % 2]}/{number:05d}.jpg", b"%d" % number)
    code = "import sys; from crackutils import datasets; datasets.fetch('own', sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.zip")], cwd=config.ROOT, stdout=subprocess.DEVNULL
    )
    started = data_dir / "raw" / ".own.part" / "Positive" / "00101.jpg"
    end = time.monotonic() + 30
    while not started.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    part = sum(1 for _ in (data_dir / "raw" / ".own.part").rglob("*.jpg"))
    assert 100 <= part < many
    assert not (data_dir / "raw" / "own").exists()
    target = fetch("own", tmp_path / "a.zip")
    assert {p.name: p.read_bytes() for p in target.rglob("*.jpg")} == {f"{n:05d}.jpg": b"%d" % n for n in range(many)}
    assert leftovers(data_dir) == []


def test_kill_between_the_two_renamings_loses_nothing(
    data_dir: Path, tmp_path: Path, tree: Callable[..., Path]
) -> None:
    target = fetch("own", tree(tmp_path / "mine", 2))
    before = contents(target)
    target.rename(target.with_name(".own.old"))  # as a kill at the worst moment leaves it
    (data_dir / "raw" / ".own.part").mkdir()
    with pytest.raises(config.CrackutilsError, match="holds no folder"):
        (tmp_path / "empty").mkdir()
        fetch("own", tmp_path / "empty")
    assert contents(target) == before
    assert leftovers(data_dir) == []


# ---------------------------------------------------------------- download


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` under any path that has no "missing" in it, and notes what it was asked."""

    body = b""
    ranges = True
    break_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers.items()))
        body, status = server.body, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
        if "missing" in self.path:
            body, status = b"not here", 404
        elif asked and int(asked[1]) >= len(body):
            body, status = b"", 416
        elif asked:
            body, status = body[int(asked[1]) :], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {asked[1]}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[: server.break_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, tree: Callable[..., Path]) -> Iterator[Server]:
    """A server with a small ZIP, which serves as the published file."""
    with Server() as server:
        archive = zipped(tmp_path / "published.zip", tree(tmp_path / "published", 2))
        with zipfile.ZipFile(archive, "a") as z:
            z.writestr("padding", bytes(5 << 19))
        server.body = archive.read_bytes()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def published(monkeypatch: pytest.MonkeyPatch, body: bytes, *addresses: tuple[str, str]) -> None:
    entry = {
        "name": "A data set",
        "file": "Published.rar",
        "page": "https://example.org/data-set",
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "addresses": [{"url": url, "save_as": name} for url, name in addresses],
    }
    monkeypatch.setattr(datasets, "sources", lambda: {"metu": entry})


@pytest.fixture
def no_curl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_download(data_dir: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, server.body, (f"{server.url}/a", "a.rar"))
    target = fetch("metu")
    assert {k: v[0] for k, v in contents(target).items()} == {
        k: v[0] for k, v in contents(tmp_path / "published").items()
    }
    assert [a.get("Range") for a in server.asked] == [None]
    agent = server.asked[0]["User-Agent"]
    assert agent.startswith("Mozilla/5.0")
    assert "python" not in agent.lower()
    assert leftovers(data_dir) == []
    fetch("metu")  # fewer images than the whole set has, so it is unpacked again, from the file kept
    assert len(server.asked) == 1


def test_download_goes_on_where_it_stopped(data_dir: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, server.body, (f"{server.url}/a", "a.rar"))
    (data_dir / "downloads").mkdir(parents=True)
    (data_dir / "downloads" / "a.rar.part").write_bytes(server.body[:1000])
    file = download("metu", datasets.sources()["metu"])
    assert file.read_bytes() == server.body
    assert [a.get("Range") for a in server.asked] == ["bytes=1000-"]
    assert [p.name for p in (data_dir / "downloads").iterdir()] == ["a.rar"]


def test_download_starts_again_where_the_server_knows_no_ranges(
    data_dir: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges = False
    published(monkeypatch, server.body, (f"{server.url}/a", "a.rar"))
    (data_dir / "downloads").mkdir(parents=True)
    (data_dir / "downloads" / "a.rar.part").write_bytes(b"x" * 1000)
    assert download("metu", datasets.sources()["metu"]).read_bytes() == server.body
    assert [a.get("Range") for a in server.asked] == ["bytes=1000-"]


@pytest.mark.usefixtures("no_curl")
def test_broken_connection_keeps_what_came_and_the_next_call_goes_on(
    data_dir: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, server.body, (f"{server.url}/a", "a.rar"))
    server.break_after = 3 << 19
    with pytest.raises(config.CrackutilsError, match=r"a\.rar: .*make data FROM="):
        fetch("metu")
    assert (data_dir / "downloads" / "a.rar.part").read_bytes() == server.body[: 1 << 20]  # whole chunks of what came
    server.break_after = None
    assert len(contents(fetch("metu"))) == 4
    assert [a.get("Range") for a in server.asked] == [None, f"bytes={1 << 20}-"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed here")
def test_curl_goes_on_where_the_connection_broke(
    data_dir: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, server.body, (f"{server.url}/a", "a.rar"))
    answer = Handler.do_GET

    def break_the_first(self: Handler) -> None:
        server.break_after = None if server.asked else 3 << 19
        answer(self)

    monkeypatch.setattr(Handler, "do_GET", break_the_first)
    assert download("metu", datasets.sources()["metu"]).read_bytes() == server.body
    assert [a.get("Range") for a in server.asked] == [None, f"bytes={1 << 20}-"]
    assert server.asked[1]["User-Agent"] == server.asked[0]["User-Agent"]


def test_curl_may_not_wait_for_ever(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "curl").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\nexit 7\n')
    (tmp_path / "bin" / "curl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    published(monkeypatch, server.body, (f"{server.url}/missing", "a.rar"))
    with pytest.raises(config.CrackutilsError, match="the server answered 404"):
        fetch("metu")
    asked = (tmp_path / "asked").read_text()
    for option in ("--fail", "-C -", "--connect-timeout", "--speed-limit", "--speed-time"):
        assert option in asked


@pytest.mark.usefixtures("no_curl")
def test_wrong_hash_is_told_and_the_file_removed(
    data_dir: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, server.body, (f"{server.url}/a", "a.rar"))
    server.body = server.body[:-1] + b"!"
    with pytest.raises(config.CrackutilsError, match=r"a\.rar: wrong SHA-256, so it was removed\)\. .*make data FROM="):
        fetch("metu")
    assert list((data_dir / "downloads").iterdir()) == []
    (data_dir / "downloads" / "a.rar").write_bytes(server.body)
    with pytest.raises(config.CrackutilsError, match=r"kept from before had a wrong SHA-256 and was removed"):
        fetch("metu")
    assert list((data_dir / "downloads").iterdir()) == []
    assert not (data_dir / "raw" / "metu").exists()


@pytest.mark.usefixtures("no_curl")
@pytest.mark.parametrize("right", [True, False])
def test_the_rar_inside_a_downloaded_zip_is_checked(
    right: bool, data_dir: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, b"the RAR", (f"{server.url}/missing", "a.rar"), (f"{server.url}/b", "b.zip"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as z:
        z.writestr("data/Published.rar", b"the RAR" if right else b"another")
    server.body = (tmp_path / "b.zip").read_bytes()
    entry = datasets.sources()["metu"]
    if right:
        assert download("metu", entry).read_bytes() == server.body
        (data_dir / "downloads" / "b.zip").rename(data_dir / "downloads" / "b.zip.part")
        assert download("metu", entry).name == "b.zip"  # there was nothing left to get: status 416
        assert server.asked[-1]["Range"] == f"bytes={len(server.body)}-"
    else:
        with pytest.raises(config.CrackutilsError, match=r"a\.rar: the server answered 404; b\.zip: wrong SHA-256"):
            download("metu", entry)
        assert list((data_dir / "downloads").iterdir()) == []


@pytest.mark.parametrize("what", ["404", "refused"])
def test_unreachable_addresses_name_the_page(
    what: str, data_dir: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as closed:
        pass
    url = {"404": f"{server.url}/missing", "refused": closed.url}[what]
    published(monkeypatch, server.body, (url, "a.rar"))
    with pytest.raises(config.CrackutilsError) as caught:
        fetch("metu")
    sentence = str(caught.value)
    assert "\n" not in sentence
    why = {"404": "the server answered 404", "refused": "no connection (ConnectionError)"}[what]
    assert sentence.startswith(f"metu could not be downloaded (a.rar: {why})")
    assert "https://example.org/data-set" in sentence
    assert "make data FROM=" in sentence
    assert not (data_dir / "raw" / "metu").exists()


# ---------------------------------------------------------------- profiles


@pytest.fixture
def small_metu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale METU down: 24 images per class, of which the half profile takes the numbers 1 to 12."""
    small = {
        "metu": dataclasses.replace(config.PROFILES["metu"], per_class=24),
        "metu-half": dataclasses.replace(config.PROFILES["metu-half"], per_class=12, numbers=(1, 12)),
        "metu-mini": dataclasses.replace(config.PROFILES["metu-mini"], per_class=3, numbers=(1, 3)),
    }
    monkeypatch.setattr(config, "PROFILES", config.PROFILES | small)


@pytest.mark.usefixtures("small_metu")
def test_half_of_the_whole_archive_equals_the_half_archive(
    tmp_path: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(tmp_path / "whole", 24)
    for name in config.CLASSES:  # METU has some numbers with an addition
        (whole / name / "00020.jpg").rename(whole / name / "00020_1.jpg")
    half = tree(tmp_path / "half", 12)
    seen = []
    for origin in (whole, zipped(tmp_path / "half.zip", half, "x/")):
        monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / f"data-{origin.stem}"))
        fetch("metu", origin)
        ds = datasets.load(config.profile("metu-half"))
        assert list(ds.index["number"]) == [*range(1, 13)] * 2
        seen.append((ds.sha256, ds.grey.tobytes(), *(make_split(ds, m, 1337).to_csv() for m in config.SPLITS)))
        mini = datasets.load(config.profile("metu-mini"))
        assert list(mini.index["file"]) == [f"{name}/0000{n}.jpg" for name in config.CLASSES for n in (1, 2, 3)]
        np.testing.assert_array_equal(mini.grey[3:], ds.grey[12:15])  # thumbnails go with their rows
    assert seen[0] == seen[1]


@pytest.mark.usefixtures("small_metu")
def test_too_few_files_for_a_profile(data_dir: Path, tmp_path: Path, tree: Callable[..., Path]) -> None:
    fetch("metu", tree(tmp_path / "half", 12))
    assert len(datasets.load(config.profile("metu-half")).index) == 24
    with pytest.raises(
        config.CrackutilsError, match=r"^PROFILE=metu needs 24 images in Negative/, .* has 12; choose a smaller"
    ):
        datasets.load(config.profile("metu"))
    (data_dir / "raw" / "metu" / "Positive" / "00012.jpg").unlink()
    with pytest.raises(config.CrackutilsError, match=r"^PROFILE=metu-half needs 12 images in Positive/, .* has 11;"):
        datasets.load(config.profile("metu-half"))


@pytest.mark.usefixtures("small_metu")
def test_an_unusable_file_is_there_but_left_out(data_dir: Path, tmp_path: Path, tree: Callable[..., Path]) -> None:
    fetch("metu", tree(tmp_path / "half", 12))
    for number in (5, 12):
        (data_dir / "raw" / "metu" / "Negative" / f"{number:05d}.jpg").write_bytes(b"")
    half = datasets.load(config.profile("metu-half"))
    assert (len(half.index), list(half.left_out["file"])) == (22, ["Negative/00005.jpg", "Negative/00012.jpg"])
    assert len(datasets.load(config.profile("metu-mini")).left_out) == 0


def test_load_without_data_says_how_to_get_them(data_dir: Path) -> None:
    with pytest.raises(
        config.CrackutilsError, match=r"^PROFILE=metu-mini needs .*: run make data FROM=.*make data to download"
    ):
        datasets.load(config.profile("metu-mini"))
    with pytest.raises(
        config.CrackutilsError, match=r"^PROFILE=own needs .*: run make data SOURCE=own FROM=.*have>\.$"
    ):
        datasets.load(config.profile("own"))
    (data_dir / "raw" / "own" / "Negative").mkdir(parents=True)
    (data_dir / "raw" / "own" / "Positive").mkdir()
    with pytest.raises(config.CrackutilsError, match=r"^PROFILE=own needs at least one image in Negative/"):
        datasets.load(config.profile("own"))


def test_unknown_profile_suggests_the_nearest() -> None:
    with pytest.raises(
        config.CrackutilsError, match=r"^PROFILE=metu-haf is unknown \(did you mean metu-half\?\); choose one of:"
    ):
        config.profile("metu-haf")
    with pytest.raises(config.CrackutilsError) as caught:
        config.profile("xyzzy")
    assert "did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in config.PROFILES)


# ---------------------------------------------------------------- real images


@pytest.mark.real
def test_metu_mini(data_dir: Path) -> None:
    if not (origin := os.environ.get("CRACKUTILS_TEST_METU")):
        pytest.skip("CRACKUTILS_TEST_METU names no METU archive or folder")
    fetch("metu", origin)
    ds = datasets.load(config.profile("metu-mini"))
    assert len(ds.index) == 2000
    assert list(ds.index["number"]) == [*range(1, 1001)] * 2
    assert len(ds.left_out) == 0
    found = find_copies(ds)["kind"].value_counts()
    assert found["exact"] > 0
    assert found["shifted"] > 0
    manifest = make_split(ds, "copy-safe", 1337)
    shares = manifest["split"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.01)
    for label in (0, 1):
        shares = manifest.loc[manifest["label"] == label, "split"].value_counts(normalize=True)
        assert shares.to_dict() == pytest.approx({"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.01)
    leaked = find_leaks(ds, manifest)
    assert leaked["a"].nunique() <= 0.01 * (manifest["split"] != "train").sum()
    assert find_leaks(ds, make_split(ds, "random", 1337))["a"].nunique() > 3 * max(1, leaked["a"].nunique())
    assert (planted_recall(ds, 80)["recall"] >= 0.9).all()
