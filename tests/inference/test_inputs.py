"""Images and texts as people hand them over."""

import io

import numpy as np
import pytest
from epic_pl.inference.inputs import ItemDataset, as_rgb
from PIL import Image

from epic_pl.data.images import read_image
from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
RGBA = RNG.integers(0, 256, (6, 8, 4), np.uint8)
DEEP = RNG.integers(0, 65_536, (6, 8), np.uint16)


@pytest.mark.parametrize("pixels", [RGB, RGBA, RGB[:, :, 0], RGB[:, :, :1], DEEP])
def test_all_forms_of_an_image_are_one(pixels, tmp_path):
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    path = tmp_path / "a.png"
    image.save(path)
    expected = np.asarray(read_image(path))
    forms = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), image, pixels]
    for form in forms:
        np.testing.assert_array_equal(np.asarray(as_rgb(form)), expected)


def test_rotated_images_are_upright_and_those_of_the_caller_stay():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG", exif=exif)
    image = Image.open(file)
    upright = as_rgb(image)
    assert upright.size == (6, 8)
    assert image.size == (8, 6)
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(as_rgb(file.getvalue())))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("https://example.org/a.png", "is an address"),
        ("missing.png", "does not exist"),
        (b"", "empty"),
        (b"no image", "it is none of"),
        (RGB / 255, "shape .6, 8, 3. and type float64"),
        (RGB.transpose(2, 0, 1), "shape .3, 6, 8."),
        (np.zeros((0, 3), np.uint8), "shape .0, 3."),
        (DEEP[..., None].repeat(3, 2), "uint16"),
        (Image.new("F", (3, 3)), "floats"),
        (3, "shape"),
        (object(), "type object"),
    ],
)
def test_what_is_no_image_is_refused(image, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        as_rgb(image)


def _items(*items, clean=False):
    plain = ImagePreprocessing(4, (0.5,) * 3, (0.5,) * 3)
    return ItemDataset(items, build_image_transform(plain, train=False), clean)


def test_items_are_samples_in_which_a_modality_may_be_missing():
    first, second, third = _items(
        {"image": RGB, "text": "a &amp; b"}, {"text": ""}, {"image": RGB, "text": None}, clean=True
    )
    assert (first["sample_id"], first["text"]) == ("0", "a & b")
    assert first["image"].shape == (3, 4, 4)
    assert (second["image"], second["text"]) == (None, "")  # an empty text is one
    assert third["text"] is None


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("a text", "Item 1 is a str"),
        ({"image": RGB, "txt": "a"}, "Item 1 has the key 'txt'"),
        ({}, "Item 1 has neither image nor text"),
        ({"image": None, "text": None}, "neither"),
        ({"text": float("nan")}, "Item 1 has a float as text .nan."),
    ],
)
def test_wrong_items_are_named_before_anything_is_read(item, said):
    with pytest.raises(DataError, match=said):
        _items({"image": "missing.png"}, item)


def test_an_image_that_cannot_be_read_is_named_by_its_item():
    with pytest.raises(DataError, match=r"Item 1: Image missing.png does not exist"):
        list(_items({"text": "a"}, {"image": "missing.png"}))


def test_one_item_alone_is_refused_as_a_list_of_items():
    with pytest.raises(DataError, match="For one item"):
        ItemDataset({"text": "a"}, None, clean=False)
