"""Decoding, resizing and thumbnails: indexing, training and scoring all see the pixels that `read_image` gives."""

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from crackutils import config

GREY = 128  # side of the grey thumbnails, pixels
COLOUR = 16  # side of the colour thumbnails, pixels
SMALLEST = 32  # shorter side below which an image is left out, pixels
DECODING = "1"  # raise it when decoding or the thumbnails change: caches made before are then made again
_TOO_MANY = f"has absurdly many pixels, more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million; cut it into parts"
FORMATS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# what turns a picture upright, by EXIF orientation from 2
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_UPRIGHT = {orientation: Image.Transpose[turn] for orientation, turn in enumerate(_TURNS, 2)}


class ImageError(config.CrackutilsError):
    """A file that cannot be used as an image; the message says why, without the file's name."""


def read_image(file: str | Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode an image file, a path or its bytes, to RGB as a person sees it: uint8 (height, width, 3), 0-255.

    EXIF rotation is applied, 16-bit grey is scaled (not clipped), transparent pixels lie on white, CMYK and palettes
    are converted; the first frame of an animation counts. `size` is the side in pixels to resize to (square, bilinear
    with antialiasing), None keeps the size. Raises ImageError for what is no image, is truncated, or has no 8-bit
    meaning.
    """
    return decode_image(file, size)[0]


def decode_image(file: str | Path | bytes, size: int | None = None) -> tuple[np.ndarray, str]:
    """Return the pixels as `read_image` does, and Pillow's name of the stored mode."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            mode = opened.mode
            image = _to_rgb(_upright(opened))
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        bomb = isinstance(error, Image.DecompressionBombError)
        raise ImageError(_TOO_MANY if bomb else "is not an image") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError("may not be read" if isinstance(error, PermissionError) else "does not exist") from error
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing runs into
        raise ImageError(f"is truncated or damaged ({error})") from error
    pixels = np.asarray(image)
    return (pixels if size is None else resize(pixels, size)), mode


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Return a uint8 (height, width, 3) image squeezed to (size, size, 3), bilinear with antialiasing."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF rotation, by hand: ImageOps.exif_transpose also writes the EXIF anew, and fails if it is malformed."""
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


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
