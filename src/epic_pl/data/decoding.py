"""Decoding of image files to upright 8-bit RGB.

This file uses only Pillow, since exported models come with a copy of it.
"""

import contextlib
import io
import re
import struct
from math import prod
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# rarely audited decoders are left out; "JPEG" covers MPO, the JPEGs of phones with several views
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# about 8,000 x 8,000 pixels, 200 MB when decoded; Pillow itself only warns, from 89 million on
MAX_PIXELS = 64_000_000
MAX_BYTES = 8 * MAX_PIXELS  # as many pixels of four channels with 16 bits, not compressed
# each scan of a progressive JPEG visits all pixels, even if it has a few bytes; cameras and web
# pages write 1 to 20 of them, cjpeg at most 100, and libtiff reads at most 100
MAX_SCANS = 100
MAX_READS = 100_000  # a PNG takes three for 8 kB

# exceptions that Pillow's parsers raise on damaged bytes
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    struct.error,
)
# markers of JPEG but restarts (D0 to D7) and D8, which have no content
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_TILE_WIDTH, _TILE_LENGTH, _ORIENTATION = 322, 323, 274
# of the orientations 2 to 8: mirrored, by 180 degrees, upside down, transposed, and so on
_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))
_GREY = [(value + 128) // 257 for value in range(65_536)]


class _Content(io.BytesIO):
    """The content of a file, of which a parser may make 100,000 reads, of eight times its length.

    All tags of a TIFF or EXIF block may name the same bytes, and each of a million comments of a
    GIF is joined to those before it.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._reads, self._bytes = MAX_READS, 2**16 + 8 * len(content)

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._reads, self._bytes = self._reads - 1, self._bytes - len(content)
        self.check()
        return content

    def check(self) -> None:
        if min(self._reads, self._bytes) < 0:
            raise OSError("it has too many parts, or they overlap")


def decode(
    file: BinaryIO, min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an open image file; see :func:`~epic_pl.data.images.read_image`."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(f"it is longer than {MAX_BYTES:,} bytes")
    if content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    try:
        image = Image.open(_Content(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        # none of its bytes is shown, since the reader of the message may have no right to them
        page = "; it looks like a web page" if content.lstrip()[:1] == b"<" else ""
        known = f"it is none of {', '.join(FORMATS)}{page}"
        raise OSError(known if content else "the file is empty (0 bytes)") from error
    tags = getattr(image, "tag_v2", {})  # a tile is decoded as a whole, also beyond the image
    tile = int(tags.get(_TILE_WIDTH, 1)), int(tags.get(_TILE_LENGTH, 1))
    width, height = max(image.size, tile, key=prod)
    if width * height > max_pixels:
        raise Image.DecompressionBombError(f"{width} x {height} pixels")
    if min_size is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (min_size, min_size))
    image.load()
    _check_tags(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    if len(image.info.get("Raw profile type exif", "")) > 2**16:
        raise OSError("its EXIF block is too long")
    return upright_rgb(image)


def _check_jpeg(content: bytes) -> None:
    """Check the markers of a JPEG, which are found as libjpeg finds them, without decoding."""
    at, parts, exif = 0, 0, list[bytes]()
    while found := _MARKER.search(content, at):
        marker, at = found[1], found.end()
        if marker == b"\xd9":  # end of the image; MPO has others behind it
            break
        end = at + max(2, int.from_bytes(content[at : at + 2], "big"))
        name = marker + content[at + 2 : at + 6]
        if name == b"\xe1Exif":
            exif.append(content[at + 8 : end])
        elif name == b"\xe2MPF\0":
            _check_tags(content[at + 6 : end])
        parts += marker == b"\xda" or name in (b"\xe1Exif", b"\xe2MPF\0")
        if parts > MAX_SCANS:
            raise OSError(f"it has more than {MAX_SCANS} scans, or blocks of tags")
        at = end
    _check_tags(b"".join(exif))  # as Pillow joins them


def _check_tags(block: bytes) -> None:
    """Refuse EXIF tags that together are far longer than their block; ignore damaged ones."""
    content = _Content(block)
    with contextlib.suppress(*BROKEN):
        Image.Exif().load_from_fp(content)
    content.check()


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to upright 8-bit RGB.

    Raises:
        ValueError: if its pixels are floats.
    """
    turn = None
    # a damaged EXIF block is ignored, since the pixels are sound
    with contextlib.suppress(*BROKEN):
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, so nearly every pixel would be white
        return image.convert("I").point(_GREY, "L").convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats of an unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    # convert() would copy an image that is RGB already
    return image if image.mode == "RGB" else image.convert("RGB")
