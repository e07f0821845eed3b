"""Decoding, resizing and thumbnails; indexing, training and scoring all use the pixels of `read_image`."""

import io
import math
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, PngImagePlugin

from crackutils import config

GREY = 128  # side of the grey thumbnails, pixels
COLOUR = 16  # side of the colour thumbnails, pixels
SMALLEST = 32  # least shorter side of a usable picture, pixels
LARGEST = 250  # most pixels of a picture, million; phones take up to 200
DECODING = "3"  # raise it when decoding or the thumbnails change: older caches are then made again
FORMATS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".tif", ".tiff", ".webp")
FORMATS += (".heic", ".heif", ".avif", ".jp2")
RAW = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")  # recognised, not read
RAW += (".gpr", ".3fr", ".fff", ".iiq", ".rwl", ".sr2", ".x3f", ".crw")
# formats that Pillow may read; reading some others would start programs
READ = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "HEIF", "AVIF", "JPEG2000", "PPM", "TGA", "PCX")
_DNG, _SUBTYPE, _PARTS, _BITS, _COMPRESSION, _PLANES, _SIGN = 50706, 254, 330, 258, 259, 284, 339  # tags of TIFF
# operations that turn a picture upright, by EXIF orientation from 2
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_UPRIGHT = {orientation: Image.Transpose[turn] for orientation, turn in enumerate(_TURNS, 2)}
_RAW = "is a raw camera photo, which is not supported; save it as JPEG or TIFF"
_LARGE = f"has more than {LARGEST} million pixels; cut it into parts"
_TIFF = "is a TIFF with unsupported channels or values; save it as RGB with 8 or 16 bits"
_OTHERS = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL": "JPEG XL", b"8BPS": "Photoshop", b"%PDF": "PDF"}
_OTHERS |= {b"\xff\xd8": "damaged or unusual JPEG", b"\x89PNG": "damaged PNG"}

pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = LARGEST * 10**6  # Pillow's own limit is 89 million, and refuses twice that
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # image editors write more than 1 MB of text into a PNG

_heard, _show_warning = threading.local(), warnings.showwarning


def _hear_warning(message: Warning | str, category: type[Warning], filename: str, *where: Any) -> None:
    """Collect Pillow's warnings in threads that decode, so that each is reported once, with the file's name."""
    if Path(filename).parent.name == "PIL" and hasattr(_heard, "warnings"):
        _heard.warnings.append(str(message))
    else:
        _show_warning(message, category, filename, *where)


warnings.showwarning = _hear_warning
warnings.filterwarnings("always", module=r"PIL\.")


class ImageError(config.CrackutilsError):
    """A file that cannot be used as an image; the message is the reason, without the file's name."""


class Picture(NamedTuple):
    """A decoded image file."""

    pixels: np.ndarray  # uint8 (height, width, 3), 0-255, upright
    mode: str  # Pillow's name of the stored mode
    note: str  # parts of the file that are not used; empty for none


@dataclass(frozen=True)
class Rows:
    """The rows of an array in a .npy file, read when asked for: a file that stays mapped would count as memory."""

    file: Path

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(np.load(self.file, mmap_mode="r"))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows as NumPy selects them."""
        return np.array(np.load(self.file, mmap_mode="r")[rows])


def begin_rows(out: BinaryIO, *shape: int) -> None:
    """Begin the .npy file of a uint8 array of a shape; its rows are then written as bytes, one after the other."""
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def read_image(file: str | Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode an image file, a path or its bytes, to upright RGB: uint8 (height, width, 3), 0-255.

    EXIF rotation is applied, 16-bit grey is scaled (not clipped), transparent pixels lie on white, CMYK and palettes
    are converted. `size` is the side in pixels to resize to (square, bilinear with antialiasing), None keeps the size.
    Raises ImageError for files that are not images, are damaged, cannot be converted to 8 bits, or are smaller than
    `SMALLEST` or larger than `LARGEST`.
    """
    return decode_image(file, size).pixels


def decode_image(file: str | Path | bytes, size: int | None = None) -> Picture:
    """Return the pixels as `read_image` does, the stored mode, and a note.

    If a file holds several pictures, the first is used. A truncated JPEG is used if less than 1 % is missing. Both are
    noted.
    """
    try:
        return _decode(file, size)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(_name_unknown(file)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(_LARGE) from error
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError("may not be read" if isinstance(error, PermissionError) else "does not exist") from error
    except MemoryError as error:
        raise ImageError("needs more memory than there is") from error
    except Exception as error:  # Pillow's readers raise any kind of error
        if getattr(error, "errno", None):  # of the disk or the network
            raise ImageError(f"cannot be read ({error.strerror})") from error
        whole, note = _complete_jpeg(file) if "truncated" in str(error) else (b"", "")
        if not whole:
            why = str(error).strip().split("\n")[0] or type(error).__name__
            raise ImageError(f"is truncated or damaged ({why})") from error
        return _decode(whole, size, note)


def _decode(file: str | Path | bytes, size: int | None, note: str = "") -> Picture:
    if isinstance(file, str | Path) and Path(file).suffix.lower() in RAW:
        raise ImageError(_RAW)
    _heard.warnings = []
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, "r", READ) as opened:
        opened.filename = ""  # with a name, Pillow maps TIFFs, and reads turned ones wrongly
        tags = getattr(opened, "tag_v2", {})
        if _DNG in tags or (_PARTS in tags and tags.get(_SUBTYPE, 0) & 1):
            raise ImageError(_RAW)
        count = _select_first(opened)
        if opened.width * opened.height > LARGEST * 10**6:
            raise ImageError(_LARGE)
        if min(opened.size) < SMALLEST:
            raise ImageError(f"is too small ({opened.width}x{opened.height}, at least {SMALLEST} each way)")
        mode = opened.mode
        image = _to_rgb(_upright(opened, _stored_turn(opened)))
    notes = [note, f"only the first of its {count} pictures is used" if count > 1 else ""]
    notes.append("its metadata are damaged, so it may be rotated wrongly" if _heard.warnings else "")
    if size is not None:  # as `resize` does, but without two copies: a quarter of the time
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return Picture(np.asarray(image), mode, "; ".join(filter(None, notes)))


def _select_first(image: Image.Image) -> int:
    """Go to the first picture of a file, and return how many it holds; views and masks of a TIFF do not count.

    Raises ImageError for a TIFF whose values Pillow reads wrongly.
    """
    if image.format != "TIFF":
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    pages = []
    for page in range(image.n_frames):  # of maps, smaller views lie in the file, or before it
        image.seek(page)
        pages += [page] * (not image.tag_v2.get(_SUBTYPE, 0) & 5)
    image.seek(pages[0] if pages else 0)
    apart = image.tag_v2.get(_PLANES) == 2 and image.tag_v2.get(_COMPRESSION, 1) == 1
    if (apart and max(image.tag_v2.get(_BITS, (1,))) > 8) or (image.mode == "L" and 2 in image.tag_v2.get(_SIGN, ())):
        raise ImageError(_TIFF)
    return max(len(pages), 1)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Return a uint8 (height, width, 3) image resized to (size, size, 3), bilinear with antialiasing."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _upright(image: Image.Image, stored: int | None) -> Image.Image:
    """Apply EXIF rotation, by hand: ImageOps.exif_transpose also writes the EXIF anew, and fails if it is malformed."""
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation) if stored is None else stored)
    return image if turn is None else image.transpose(turn)


def _stored_turn(image: Image.Image) -> int | None:
    """Return the orientation of a HEIC picture that its reader has not applied, as it stands in the EXIF alone."""
    if image.format != "HEIF" or not (turn := image.info.get("original_orientation")):
        return None
    image.fp.seek(0)
    head = image.fp.read(1 << 16)
    return None if b"irot" in head or b"imir" in head else turn


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; ImageError for 32-bit and floating-point values, which have no 8-bit meaning."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips everything above 255 to white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("has 32-bit values; save it with 8 or 16 bits")
        # rounded in whole numbers: photos are too large for floating-point values
        image = Image.fromarray((values // 257 + (values % 257 > 128)).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("has floating-point values; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def thumbnails(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey (128, 128) and the RGB (16, 16, 3) thumbnail of an image, all uint8."""
    image = Image.fromarray(pixels)
    small = image.convert("L").resize((GREY, GREY), Image.Resampling.BILINEAR)  # BOX averages unevenly here
    return np.asarray(small), np.asarray(image.resize((COLOUR, COLOUR), Image.Resampling.BOX))


def _name_unknown(file: str | Path | bytes) -> str:
    """Return the reason why a file that Pillow does not recognise is not read."""
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as opened:
        head = opened.read(16)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _TIFF
    if kind := next((kind for begin, kind in _OTHERS.items() if head.startswith(begin)), ""):
        return f"is a {kind} file, which is not supported; save it as JPEG or TIFF"
    if head[4:8] != b"ftyp":
        return "is not an image" if head else "has zero bytes"
    if head[8:12] in (b"heic", b"heix", b"mif1", b"avif"):
        return "is truncated or damaged"
    return _RAW if head[8:11] == b"crx" else "is a video or an unsupported type of picture; save it as JPEG"


def _complete_jpeg(file: str | Path | bytes) -> tuple[bytes, str]:
    """Return a truncated JPEG with an end marker, and a note; no bytes for other files.

    Raises ImageError if 1 % of the pixels or more are missing, or the fine detail of a progressive JPEG.
    """
    data = (file if isinstance(file, bytes) else Path(file).read_bytes()).rstrip(b"\xff")
    if data[:2] != b"\xff\xd8":
        return b"", ""
    for marker in (b"\xff\xc4", b"\xff\xda"):  # cut within the header of a scan
        at = data.rfind(marker)
        data = data[:at] if at > 0 and at + 2 + int.from_bytes(data[at + 2 : at + 4]) > len(data) else data
    # what is missing is where other bytes at the end lead to other pixels
    ends = [data + filling + b"\xff\xd9" for filling in (b"", bytes(range(1, 255)) * 64)]
    try:
        with Image.open(io.BytesIO(ends[0])) as first, Image.open(io.BytesIO(ends[1])) as second:
            differ = (np.asarray(first) != np.asarray(second)).reshape(first.height, first.width, -1).any(2).mean(1)
            begin = np.flatnonzero(differ > 0)[:1].sum() if differ.any() else len(differ)
            differ[begin + 32 :] = 1  # below a row of blocks all is missing, whatever the filling leads to
            missing = float(differ.mean())
            progressive = "progressive" in first.info
    except (OSError, SyntaxError):
        return b"", ""
    scan = data.rfind(b"\xff\xda") + 2
    fine = not progressive or data[scan + int.from_bytes(data[scan : scan + 2]) - 1] & 15 == 0
    if missing >= 0.01 or not fine:
        rough = "" if fine else ", without its fine detail"
        raise ImageError(f"is cut short: {math.floor(100 * (1 - missing))}% of the picture is there{rough}")
    return ends[0], "the end of the file is missing" + (f", {missing:.2%} of the picture" if missing else "")
