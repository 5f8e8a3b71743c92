import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import fabricate
import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from epic_pl.data import HatefulMemesDataModule, images
from epic_pl.data.decoding import MAX_BYTES, MAX_SCANS
from epic_pl.data.images import read_image, refuse_outside
from epic_pl.data.row_cache import ImageRecord, image_states
from epic_pl.utils.errors import DataError

SUFFIXES = ("jpg", "png", "gif", "webp", "tiff")


def pixel(path, at=(0, 0)):
    image = read_image(path)
    assert image.mode == "RGB"
    return image.getpixel(at)


@pytest.mark.parametrize(
    ("suffix", "mode", "colour", "expected", "tolerance"),
    [
        *((suffix, "RGB", (200, 100, 50), (200, 100, 50), 0) for suffix in ("png", "bmp", "tiff")),
        *((suffix, "RGB", (200, 100, 50), (200, 100, 50), 8) for suffix in ("webp", "gif", "jpg")),
        ("png", "RGBA", (255, 0, 0, 0), (255, 255, 255), 0),
        ("png", "RGBA", (255, 0, 0, 128), (255, 127, 127), 0),
        ("png", "LA", (0, 0), (255, 255, 255), 0),
        ("png", "L", 77, (77, 77, 77), 0),
        ("png", "1", 1, (255, 255, 255), 0),
        ("jpg", "CMYK", (0, 255, 255, 0), (255, 0, 0), 14),
    ],
)
def test_formats_and_modes(tmp_path, suffix, mode, colour, expected, tolerance):
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (8, 6), colour).save(path)
    assert read_image(path).size == (8, 6)
    assert np.abs(np.array(pixel(path)) - expected).max() <= tolerance


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_image(tmp_path):
    path = tmp_path / "a.jpg"
    fabricate.noise(40, 30).save(path)
    data = path.read_bytes()
    junk = b"\xff\xe1\x00\x12Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff\x00\x00"
    path.write_bytes(data[:2] + junk + data[2:])
    assert read_image(path).size == (40, 30)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", np.uint16), ("tiff", np.uint16), ("tiff", np.int32)]
)
def test_deep_grey_is_scaled_not_clipped(tmp_path, suffix, kind):
    path = tmp_path / f"a.{suffix}"
    values = np.arange(65_536, dtype=kind).reshape(256, 256)
    Image.fromarray(values).save(path)
    expected = np.uint8((values.astype(np.int64) + 128) // 257)
    np.testing.assert_array_equal(read_image(path), np.stack([expected] * 3, axis=-1))


def test_deep_grey_takes_no_array_of_wide_numbers(monkeypatch):
    deep = saved("png", Image.fromarray(np.zeros((1000, 1000), np.uint16)))
    tracemalloc.start()  # which numpy's arrays are counted by, and Pillow's images are not
    try:
        read_image(deep)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(path) == (255, 0, 0)


@pytest.mark.parametrize(
    ("suffix", "min_size", "size"),
    [
        ("jpg", None, (800, 400)),
        ("jpg", 100, (200, 100)),
        ("jpg", 101, (400, 200)),
        ("jpg", 500, (800, 400)),
        ("png", 10, (800, 400)),
    ],
)
def test_draft_is_taken_only_when_large_enough(tmp_path, suffix, min_size, size):
    fabricate.noise(800, 400).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}", min_size=min_size).size == size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.jpg", r"gone\.jpg does not exist\. Correct its path\.$"),
        ("", None),
        ("empty.jpg", r"empty\.jpg.*0 bytes.*Fetch"),
        ("float.tiff", "floats"),
        ("web.jpg", r"web\.jpg.*TIFF; it looks like a web page\."),
        ("other.jpg", r"none of JPEG, PNG, WEBP, GIF, BMP, TIFF\. Fetch"),
        ("a\0.png", "cannot be read: embedded null"),
        ("x" * 300, "cannot be read: .*File name too long"),
        ("pipe.png", r"pipe\.png cannot be read: it is no regular file"),
        *((f"cut.{suffix}", f"cut.{suffix} cannot be read") for suffix in SUFFIXES),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, name, message):
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "web.jpg").write_text("<!DOCTYPE html><html>404</html>")
    Image.new("F", (4, 4)).save(tmp_path / "float.tiff")
    fabricate.noise(40, 30).save(tmp_path / "other.jpg", format="PPM")
    for path in (tmp_path / f"cut.{suffix}" for suffix in SUFFIXES):
        fabricate.noise(40, 30).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=message or tmp_path.name):
        read_image(tmp_path / name)


def test_pixel_cap(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    fabricate.noise(40, 30).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before the check"))
    with pytest.raises(DataError, match=r"a\.png is too large: 40 x 30 .*limit is 1,199 pixels"):
        read_image(path, max_pixels=40 * 30 - 1)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bomb(tmp_path, side):
    # a header that claims far more than the file holds
    path = tmp_path / "a.bmp"
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = side.to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.bmp is too large"):
        read_image(path)


def saved(suffix, image=None, **options):
    file = io.BytesIO()
    (image or fabricate.noise(16, 12)).save(file, suffix, **options)
    return file.getvalue()


def chunk(name, content=b""):
    """A chunk of a PNG."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", checksum)


def segment(marker, content):
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def tagged(*tags, count=0, length=0, first=50_000, content=b""):
    """A TIFF of tags, and of further ones that all have the same content, which is the file."""
    tags += tuple((first + number, 7, length, 0) for number in range(count))
    entries = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return head + content.ljust(length - len(head), b"\0")


def overlapping(name):
    """An image whose EXIF block, or other tags, are far longer than the file."""
    block = tagged(count=500, length=60_000)
    jpeg = saved("jpeg")
    raw = "\nexif\n60000\n" + block.hex()
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw.encode()))
    png, four = saved("png"), [(tag, 4, 1, 4) for tag in (256, 257)]
    joined = [segment(0xE1, b"Exif\0\0" + block[at:][:9000]) for at in range(0, 60_000, 9000)]
    return {
        "exif.jpg": jpeg[:2] + segment(0xE1, b"Exif\0\0" + block) + jpeg[2:],
        "joined.jpg": jpeg[:2] + b"".join(joined) + jpeg[2:],
        "mpf.jpg": jpeg[:2] + segment(0xE2, b"MPF\0" + block) + jpeg[2:],
        "exif.png": saved("png", exif=block),
        "raw.png": png[:33] + text + png[33:],
        "exif.webp": saved("webp", exif=block),
        "tags.tiff": tagged(
            *four,
            *((258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 16)),
            count=500,
            length=60_000,
        ),
    }[name]


@pytest.mark.filterwarnings("ignore:it has too many parts")
@pytest.mark.parametrize(
    "name",
    [
        *(f"{name}.jpg" for name in ("exif", "joined", "mpf")),
        "exif.png",
        "raw.png",
        "exif.webp",
        "tags.tiff",
    ],
)
def test_tags_that_share_bytes_take_no_memory(name, monkeypatch):
    largest, read = [0], TiffImagePlugin.ImageFileDirectory_v2.load

    def load(tags, file):
        read(tags, file)
        largest.append(sum(map(len, tags._tagdata.values())))

    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", load)
    with pytest.raises(DataError, match=r"cannot be read: (it|its EXIF block) (has|is) (too|none)"):
        read_image(overlapping(name))
    assert max(largest) < 600_000  # of 30 million


def test_only_the_orientation_of_an_exif_block_is_read(monkeypatch):
    jpeg, block = saved("jpeg"), tagged((274, 3, 1, 6), (34_665, 4, 1, 8))
    monkeypatch.setattr(Image.Exif, "get_ifd", lambda *_: pytest.fail("read another directory"))
    turned = read_image(jpeg[:2] + segment(0xE1, b"Exif\0\0" + block) + jpeg[2:])
    assert turned.size == (12, 16)


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    image = fabricate.noise(16, 12)
    written = Image.open(io.BytesIO(saved(suffix, image, exif=exif)))
    upright = ImageOps.exif_transpose(written)
    np.testing.assert_array_equal(read_image(saved(suffix, image, exif=exif)), upright)


def many_scans(count):
    """A progressive JPEG with scans that change nothing."""
    jpeg = saved("jpeg", progressive=True)
    last = jpeg.rfind(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * (count - jpeg.count(b"\xff\xda") + 1) + jpeg[-2:]


def test_a_jpeg_of_too_many_scans_is_refused_before_decoding(monkeypatch, tmp_path):
    assert read_image(many_scans(MAX_SCANS)).size == (16, 12)
    # neither thumbnails in segments nor what follows the end are scans
    jpeg = many_scans(MAX_SCANS)
    read_image(
        jpeg[:2] + segment(0xE2, b"\xff\xda" * 99) + jpeg[2:] + b"\0\2" + b"\xff\xda\0\2" * 99
    )
    views = fabricate.noise(16, 12)
    views.save(tmp_path / "views.mpo", save_all=True, append_images=[views] * 120)
    assert read_image(tmp_path / "views.mpo").size == (16, 12)
    jpeg = many_scans(MAX_SCANS + 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before the check"))
    end = jpeg.rfind(b"\xff\xda")
    for odd in (b"", b"\xff\xd3", b"\xff\xfe\0\0", b"\xff\xff\xff", b"\xff\0 \xff\x01"):
        with pytest.raises(DataError, match=r"cannot be read: it has more than 100 scans.*Fetch"):
            read_image(jpeg[:end] + odd + jpeg[end:])


def many_parts(name, count=60_000):
    png, gif, jpeg = (saved(suffix) for suffix in ("png", "gif", "jpeg"))
    data = png.find(b"IDAT") - 4
    return {
        "before.png": png[:33] + chunk(b"teSt") * count + png[33:],
        "data.png": png[:data] + chunk(b"IDAT") * 2 * count + png[data:],
        "after.png": png[:-12] + chunk(b"teSt") * count + png[-12:],
        "comments.gif": gif[:-1].replace(b",", b"!\xfe\x01a\0" * count + b",", 1) + b";",
        "comments.jpg": jpeg[:2] + segment(0xFE, b"") * count + jpeg[2:],
        "padding.jpg": jpeg[:2] + b"\xff" * 3 * count + jpeg[2:],
    }[name]


@pytest.mark.parametrize(
    "name", ["before.png", "data.png", "after.png", "comments.gif", "comments.jpg", "padding.jpg"]
)
def test_a_file_of_very_many_parts_is_refused(name):
    assert read_image(many_parts(name, 20)).size == (16, 12)
    with pytest.raises(DataError, match="cannot be read: it has too many parts"):
        read_image(many_parts(name))


def test_a_tile_that_is_larger_than_its_image_counts():
    data = zlib.compress(bytes(300 * 300))
    tags = [(tag, 4, 1, 10) for tag in (256, 257)] + [(322, 4, 1, 300), (323, 4, 1, 300)]
    tags[2:2] = [(tag, 3, 1, value) for tag, value in ((258, 8), (259, 8), (262, 1), (277, 1))]
    tags += [(324, 4, 1, 8 + 2 + 12 * 10 + 4), (325, 4, 1, len(data))]
    assert read_image(tagged(*tags, content=data), max_pixels=90_000).size == (10, 10)
    with pytest.raises(DataError, match="is too large: 300 x 300"):
        read_image(tagged(*tags, content=data), max_pixels=89_999)


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path, monkeypatch):
    assert MAX_BYTES == 512_000_000
    monkeypatch.setattr("epic_pl.data.decoding.MAX_BYTES", 10**6)
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(10**12)  # no blocks on the disk
    with pytest.raises(DataError, match="is longer than 1,000,000 bytes"):
        read_image(tmp_path / "a.png")


@pytest.fixture
def make(tmp_path):
    """Hateful Memes: of the 8 training images one is missing and one corrupt."""
    fabricate.hateful_memes(tmp_path)
    (tmp_path / "img" / "01236.png").unlink()
    (tmp_path / "img" / "01237.png").write_text("<html>not found</html>")

    def build(policy):
        options = {"data_dir": str(tmp_path), "on_bad_sample": policy}
        data = HatefulMemesDataModule(**fabricate.ENCODERS, **options)
        data.setup("fit")
        return data.dataset("train")

    return build


def test_images_are_decoded_once_and_bad_ones_again(make, tmp_path, monkeypatch):
    rest = [str(n) for n in range(1238, 1244)]
    assert make("skip").table["sample_id"].to_pylist() == rest
    read, seen = images.read_image, []

    def seeing(path, **options):
        seen.append(path.as_posix())
        return read(path, **options)

    monkeypatch.setattr(images, "read_image", seeing)
    dataset = make("absent")
    assert seen == ["img/01237.png"]
    samples = [dataset[row] for row in range(8)]
    assert [sample["image"] is None for sample in samples] == [True, True, *[False] * 6]
    assert samples[1]["text"] == "meme 1237"
    fabricate.image(tmp_path / "img" / "01237.png")  # repaired
    assert make("skip").table["sample_id"].to_pylist() == ["1237", *rest]
    seen.clear()
    assert len(make("skip")) == 7
    assert seen == []
    broken = tmp_path / "img" / "01238.png"
    stat = broken.stat()
    broken.write_bytes(bytes(stat.st_size))  # as long as it was
    os.utime(broken, ns=(0, stat.st_mtime_ns + 1))
    (tmp_path / "img" / "01239.png").write_bytes(b"")
    os.utime(tmp_path / "img" / "01239.png", ns=(0, stat.st_mtime_ns))
    assert make("skip").table["sample_id"].to_pylist() == ["1237", *rest[2:]]
    assert sorted(seen) == ["img/01238.png", "img/01239.png"]
    (tmp_path / "img" / "01240.png").unlink()  # sound until now
    assert make("skip").table["sample_id"].to_pylist() == ["1237", *rest[3:]]


def test_a_damaged_record_counts_as_none(tmp_path):
    record = ImageRecord(tmp_path)
    problems = {"a.png 1 2": None, "b.png 3 4": "cut"}
    record.add(problems)
    assert record.read() == problems
    assert record.unreadable({"a.png": "1 2"}, None) == {}  # known to be sound
    record.path.write_bytes(b"no table")
    assert record.read() == {}


def test_links_that_lead_nowhere_or_in_a_circle_folders_and_odd_names_are_missing(tmp_path):
    fabricate.image(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").symlink_to("1.jpg")
    (tmp_path / "3.jpg").symlink_to("nothing.jpg")
    (tmp_path / "4.jpg").symlink_to("4.jpg")
    (tmp_path / "5.jpg").mkdir()
    names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", ".", "a\0/b.jpg"]
    states = image_states(names, tmp_path)
    assert [name for name in names if states[name] is None] == names[2:]
    for name in names:
        if states[name] is None:
            with pytest.raises(DataError):
                read_image(Path(name), root=tmp_path)
        else:
            assert read_image(Path(name), root=tmp_path).mode == "RGB"


def test_a_sound_image_is_opened_without_another_look_at_its_path(tmp_path, monkeypatch):
    fabricate.image(tmp_path / "1.jpg")
    read_image(Path("1.jpg"), root=tmp_path)  # the folder is known from then on
    for name in ("stat", "lstat", "readlink"):
        monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("a look at the path"))
    assert read_image(Path("1.jpg"), root=tmp_path).mode == "RGB"


@pytest.mark.parametrize("path", ["../1.jpg", "x/../../1.jpg", "/1.jpg"])
def test_paths_that_leave_the_image_root_are_refused(tmp_path, path):
    refuse_outside(["1.jpg", "x/../1.jpg"], tmp_path, tmp_path / "rows.jsonl")
    with pytest.raises(
        DataError, match=r"rows\.jsonl: image paths lead out of .* \(1 of \d\).*1\.jpg"
    ):
        refuse_outside(["1.jpg", path], tmp_path, tmp_path / "rows.jsonl")
