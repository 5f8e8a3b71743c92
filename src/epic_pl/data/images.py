"""Images as people have them, read as 8-bit RGB or refused with a reason."""

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from epic_pl.errors import DataError
from epic_pl.untrusted import require_regular

# a fixed list keeps the rarely used, rarely audited decoders out of reach of a data folder;
# MPO, the JPEG with several views that phones write, is opened by Pillow as JPEG
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# about 8,000 x 8,000: 200 MB once decoded. Pillow itself only warns, and at 89 million
MAX_PIXELS = 64_000_000

# what Pillow's parsers let through on broken bytes
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError)


def read_image(source: Path | bytes, min_size: int | None = None) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    EXIF orientation is applied, alpha is laid on white, palette, CMYK and 16-bit images are
    converted, and of an animated file the first frame is taken.

    Args:
        source: the file, or its content.
        min_size: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (several times
            faster) as long as neither side gets shorter than this many pixels.

    Raises:
        DataError: the file is missing, empty, truncated, not an image of :data:`FORMATS`, or
            larger than :data:`MAX_PIXELS`.
    """
    file: Path | io.BytesIO
    if isinstance(source, bytes):
        file, name = io.BytesIO(source), f"of {len(source):,} bytes"
    else:
        file, name = source, str(source)
    try:
        if isinstance(file, Path):
            require_regular(file)
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(_too_large(name, f"{image.width} x {image.height} pixels"))
            if min_size is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (min_size, min_size))
            image.load()
            return upright_rgb(image)
    except FileNotFoundError as error:
        raise DataError(
            f"Image {name} does not exist. Check the image root and the paths in the table."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_too_large(name, str(error))) from error
    except (*_BROKEN, struct.error) as error:
        raise DataError(
            f"Image {name} cannot be read: {_found(source, error)}. Fetch or export the file "
            "again, or leave the image out of the table."
        ) from error


def _too_large(name: str, found: str) -> str:
    return (
        f"Image {name} is too large: {found}; the limit is {MAX_PIXELS:,} pixels. "
        "Shrink it, or leave it out of the table."
    )


def _found(source: Path | bytes, error: Exception) -> str:
    """What is in the file, in words."""
    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    head = (source if isinstance(source, bytes) else source.read_bytes())[:24]
    if not head:
        return "the file is empty (0 bytes)"
    return f"it is none of {', '.join(FORMATS)}; it starts with {head.decode('latin-1')!r}"


def upright_rgb(image: Image.Image) -> Image.Image:
    """A decoded image as :func:`read_image` gives it.

    Raises:
        ValueError: its pixels are floats.
    """
    # pixels are sound at this point: a broken EXIF block is no reason to lose the image
    with contextlib.suppress(*_BROKEN, struct.error):
        ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and so turns nearly every pixel white
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats of an unknown range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    # converting an image that is RGB already would copy it
    return image if image.mode == "RGB" else image.convert("RGB")
