"""Decoding of image files to upright 8-bit RGB.

This file uses only Pillow and numpy, since exported models come with a copy of it.
"""

import contextlib
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# rarely audited decoders are left out; "JPEG" covers MPO, the JPEGs of phones with several views
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# about 8,000 x 8,000 pixels, 200 MB when decoded; Pillow itself only warns, from 89 million on
MAX_PIXELS = 64_000_000

# exceptions that Pillow's parsers raise on damaged bytes
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    struct.error,
)


def decode(
    file: BinaryIO, min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an open image file; see :func:`~epic_pl.data.images.read_image`."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(24)
        known = f"it is none of {', '.join(FORMATS)}; it starts with {head.decode('latin-1')!r}"
        raise OSError(known if head else "the file is empty (0 bytes)") from error
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    if min_size is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (min_size, min_size))
    image.load()
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to upright 8-bit RGB.

    Raises:
        ValueError: if its pixels are floats.
    """
    # a damaged EXIF block is ignored, since the pixels are sound
    with contextlib.suppress(*BROKEN):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, so nearly every pixel would be white
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats of an unknown range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    # convert() would copy an image that is RGB already
    return image if image.mode == "RGB" else image.convert("RGB")
