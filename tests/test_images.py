"""Decoding: every kind of file gives the RGB picture that a person sees, or one sentence that says why not."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from crackutils import config
from crackutils.images import ImageError, decode_image, read_image


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


def grey(channel: np.ndarray) -> np.ndarray:
    return np.repeat(channel[..., None], 3, axis=2)


def test_jpeg_rgb_from_bytes_and_from_a_path(tmp_path: Path) -> None:
    data = encoded(smooth(), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data)
    pixels = read_image(data)
    assert pixels.dtype == np.uint8
    assert furthest(pixels, smooth()) <= 4
    for file in (tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        np.testing.assert_array_equal(read_image(file), pixels)


BITS = np.random.default_rng(0).random((40, 50)) > 0.5
LOSSLESS = {
    "WEBP": (encoded(smooth(), "WEBP", lossless=True), smooth()),
    **{f"grey {k}": (encoded(smooth()[..., 0], k), grey(smooth()[..., 0])) for k in ("PNG", "BMP", "TIFF", "GIF")},
    **{f"one bit {k}": (encoded(Image.fromarray(BITS), k), grey(BITS * np.uint8(255))) for k in ("PNG", "TIFF", "BMP")},
}


@pytest.mark.parametrize(("data", "expected"), LOSSLESS.values(), ids=LOSSLESS)
def test_lossless_files_give_exactly_what_went_in(data: bytes, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(read_image(data), expected)


def test_transparency_lies_on_white() -> None:
    alpha = np.full((64, 96), 255, np.uint8)
    rgba = np.dstack([smooth(), alpha])
    rgba[:20, :, 3], rgba[20:40, :, 3] = 0, 128
    pixels = read_image(encoded(rgba, "PNG"))
    assert (pixels[:20] == 255).all()
    assert furthest(pixels[20:40], np.rint(smooth()[20:40] * (128 / 255) + 127).astype(np.uint8)) <= 1
    np.testing.assert_array_equal(pixels[40:], smooth()[40:])
    one, alpha[:, :30] = smooth()[..., 1], 0
    pixels = read_image(encoded(Image.merge("LA", [Image.fromarray(one), Image.fromarray(alpha)]), "PNG"))
    assert (pixels[:, :30] == 255).all()
    np.testing.assert_array_equal(pixels[:, 30:], grey(one[:, 30:]))
    picture = smooth()
    picture[5:9, 5:9] = (1, 2, 3)
    pixels = read_image(encoded(picture, "PNG", transparency=(1, 2, 3)))  # one transparent colour
    picture[5:9, 5:9] = 255
    np.testing.assert_array_equal(pixels, picture)


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


def test_cmyk_jpeg_has_the_colours_that_went_in() -> None:
    data = encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert furthest(read_image(data), smooth()) <= 5  # printing colours taken for the inverse would be far off


GRADIENT = np.linspace(0, 65535, 64 * 80).round().astype(np.uint16).reshape(64, 80)


BIG_ENDIAN = Image.frombytes("I;16B", (80, 64), GRADIENT.astype(">u2").tobytes())


@pytest.mark.parametrize("data", [encoded(GRADIENT, "PNG"), encoded(GRADIENT, "TIFF"), encoded(BIG_ENDIAN, "TIFF")])
def test_sixteen_bit_grey_is_scaled_not_clipped(data: bytes) -> None:
    pixels = read_image(data)
    assert np.abs(pixels - grey(GRADIENT / 65535 * 255)).max() <= 1
    assert (pixels.min(), pixels.max()) == (0, 255)


TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")


def lying(orientation: int) -> Image.Image:
    """Return the smooth picture as a camera stores it, by EXIF orientation from 1."""
    image = Image.fromarray(smooth())
    return image if orientation == 1 else image.transpose(Image.Transpose[TURNS[orientation - 2]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert furthest(read_image(encoded(lying(orientation), "JPEG", quality=95, exif=exif)), smooth()) <= 4
    assert furthest(read_image(encoded(lying(orientation), "PNG", exif=exif)), smooth()) == 0
    for mode in ("L", "RGB", "RGBA", "CMYK"):  # from a path, Pillow maps the file
        lying(orientation).convert(mode).save(file := tmp_path / "turned.tif", tiffinfo={0x0112: orientation})
        assert read_image(file).shape == smooth().shape
        np.testing.assert_array_equal(read_image(file), read_image(file.read_bytes()))


def test_badly_written_exif_does_not_cost_the_picture() -> None:
    text = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0")  # the image width as text
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + text + turned + bytes(4)
    assert furthest(read_image(encoded(lying(6), "JPEG", quality=95, exif=exif)), smooth()) <= 4


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_the_first_frame_of_an_animation_counts(kind: str, options: dict[str, bool]) -> None:
    frames = [Image.new("RGB", (40, 32), colour) for colour in ("#f00", "#00f", "#0f0")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(read_image(data), np.full((32, 40, 3), (255, 0, 0)))


def test_resize_is_antialiased() -> None:
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = read_image(encoded(board, "PNG"), size=32)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(float) - 127.5).max() < 8  # picking pixels instead of averaging gives 0 or 255
    assert furthest(read_image(encoded(smooth(96, 96), "PNG"), size=96), smooth(96, 96)) == 0


NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
WHOLE, DOT = encoded(smooth(), "JPEG", quality=95), encoded(Image.new("L", (1, 1)), "GIF")
ROUGH = encoded(smooth(640, 480), "JPEG", progressive=True)
BOMB = DOT[:6] + struct.pack("<HH", 60000, 60000) + DOT[10:]


def many_bands() -> bytes:
    """Return a TIFF whose five channels Pillow does not know."""
    return encoded(np.dstack([smooth()] * 2)[..., :4], "TIFF").replace(b"\x15\1\3\0\1\0\0\0\4", b"\x15\1\3\0\1\0\0\0\5")


def tiff(*pages: np.ndarray, reduced: int | None = None, **options: object) -> bytes:
    """Return a TIFF that Pillow does not write; the page `reduced` is a smaller view of another."""
    with tifffile.TiffWriter(buffer := io.BytesIO()) as file:
        for k, page in enumerate(pages):
            file.write(page, subfiletype=int(k == reduced), **options)
    return buffer.getvalue()


def raw() -> bytes:
    """Return a picture with the mark of a DNG."""
    return encoded(smooth(), "TIFF", tiffinfo={50706: b"\1\4\0\0"})


UNUSABLE = {
    "float TIFF": (encoded(smooth()[..., 0].astype(np.float32), "TIFF"), "has floating-point values; save it with"),
    "32-bit TIFF": (encoded(GRADIENT.astype(np.int32) * 9, "TIFF"), "has 32-bit values; save it with"),
    "truncated JPEG": (WHOLE[: len(WHOLE) // 2], r"is cut short: \d\d% of the picture is there$"),
    "truncated HEIC": (encoded(smooth(), "HEIF")[:-40], r"is truncated or damaged \(.+\)$"),
    "rough JPEG": (ROUGH[: len(ROUGH) // 5], "is cut short: .* without its fine detail$"),
    "five bands": (many_bands(), "is a TIFF with unsupported channels or values; save it as RGB"),
    "planes of 16 bits": (
        tiff(np.moveaxis(smooth(), 2, 0) * np.uint16(257), planarconfig="separate"),
        "is a TIFF with",
    ),
    "signed": (tiff((smooth()[..., 0] - 128).astype(np.int8)), "is a TIFF with unsupported channels or values"),
    "JPEG XL": (b"\xff\x0a\x7f\0", "is a JPEG XL file, which is not supported; save it as JPEG"),
    "12 bits": (WHOLE.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "is a damaged or unusual JPEG file"),
    "raw": (raw(), "is a raw camera photo, which is not supported; save it as JPEG"),
    "Canon": (b"\0\0\0\x18ftypcrx \0\0\0\1", "is a raw camera photo"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\1", "is a video"),
    "dot": (DOT, r"is too small \(1x1, at least 32 each way\)$"),
    "sliver": (encoded(smooth(3, 400), "PNG"), r"is too small \(3x400, at least 32 each way\)$"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "is not an image$"),
    "truncated PNG": (encoded(NOISE, "PNG")[:2000], r"is truncated or damaged \(.+\)$"),
    "zero bytes": (b"", "has zero bytes$"),
    "text": (b"The crack is over there.\n", "is not an image$"),
    "bomb": (BOMB, "has more than 250 million pixels; cut it into parts$"),
    "missing": (None, "does not exist$"),
}


@pytest.mark.parametrize(("data", "sentence"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_files_raise_one_sentence(data: bytes | None, sentence: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "a.jpg").write_bytes(data)
    for file in (tmp_path / "a.jpg",) if data is None else (tmp_path / "a.jpg", data):
        with pytest.raises(ImageError, match=f"^{sentence}") as caught:
            read_image(file)
        assert "\n" not in str(caught.value)


ENDS = [(2, False), (8, False), (72, False), (2, True), (8, True)]  # bytes; whether the JPEG is progressive


@pytest.mark.parametrize(("missing", "progressive"), ENDS)
def test_a_jpeg_without_its_last_bytes_is_read(missing: int, progressive: bool) -> None:
    picture = np.kron(np.random.default_rng(0).integers(0, 255, (60, 40, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    data = encoded(picture, "JPEG", quality=90, progressive=progressive)
    pixels, _, note = decode_image(data[:-missing])
    assert note.startswith("the end of the file is missing")
    assert (np.abs(pixels.astype(int) - read_image(data)) > 8).any(2).mean() < 0.01


SEVERAL = [("TIFF", "RGB"), ("GIF", "P"), ("WEBP", "RGB"), ("PNG", "RGB")]


@pytest.mark.parametrize(("kind", "mode"), SEVERAL)
def test_further_pictures_of_a_file_are_noted(kind: str, mode: str) -> None:
    first = Image.fromarray(smooth()).convert(mode)
    data = encoded(first, kind, save_all=True, append_images=[first.rotate(180), first.rotate(90)])
    assert decode_image(data).note == "only the first of its 3 pictures is used"
    assert decode_image(encoded(first, kind)).note == ""


@pytest.mark.parametrize("reduced", [0, 1])
def test_smaller_views_in_a_tiff_are_no_pictures_of_their_own(reduced: int) -> None:
    pages = [smooth(), smooth()[::2, ::2]]
    pixels, _, note = decode_image(tiff(*(pages if reduced else pages[::-1]), reduced=reduced, photometric="rgb"))
    np.testing.assert_array_equal(pixels, smooth())
    assert note == ""


def test_a_large_text_block_does_not_cost_a_png() -> None:
    (text := PngInfo()).add_itxt("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    np.testing.assert_array_equal(read_image(encoded(smooth(), "PNG", pnginfo=text)), smooth())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("applied", [False, True])
def test_heic_stands_upright_under_any_name(orientation: int, applied: bool, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lies = lying(orientation)
    # as bytes its writer also stores the turn, which readers then apply by themselves
    data = encoded(lies, "HEIF", quality=95, exif=exif.tobytes() if applied else exif)
    (tmp_path / "a.jpg").write_bytes(data)
    assert furthest(read_image(tmp_path / "a.jpg"), smooth()) <= 12


def test_damaged_metadata_are_noted_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from crackutils.images import decode_image; print(decode_image(sys.stdin.buffer.read()).note)"
    data = encoded(smooth(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\5\0\x12\1\3\0")
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, cwd=config.ROOT, check=True)
    assert (done.stdout.strip(), done.stderr) == (b"its metadata are damaged, so it may be rotated wrongly", b"")


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


def test_a_file_of_several_pictures_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow keeps such a file open for the next picture: thousands of them would use up the open files."""
    first, opened, real = Image.new("L", (40, 40), 90), [], open
    first.save(tmp_path / "two.gif", save_all=True, append_images=[Image.new("L", (40, 40), 200)])
    monkeypatch.setattr("builtins.open", lambda *arguments: opened.append(real(*arguments)) or opened[-1])
    assert read_image(tmp_path / "two.gif").mean() < 100
    assert [handle.closed for handle in opened] == [True]
