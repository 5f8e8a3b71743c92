import json

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image, ImageFilter
from transformers import AutoImageProcessor

from epic_pl.data.pretrained import image_preprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.errors import EncoderError

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
SQUARE = {"size": {"height": 32, "width": 32}}
CLIP = {"image_processor_type": "CLIPImageProcessor", **HALF}
VIT = {"image_processor_type": "ViTImageProcessor", **HALF}
BIT = {"image_processor_type": "BitImageProcessor", **HALF}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", **HALF}


@pytest.fixture
def photo():
    """A blurred image without symmetry; bars that fill it up to 32 pixels are of equal height."""
    pixels = np.random.default_rng(3).integers(0, 255, (50, 90, 3), np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(4)).point(lambda v: v % 128 * 2)


def levels(own, ours, theirs):
    """Mean and largest difference in 255 levels."""
    off = (255 * torch.tensor(own.std)[:, None, None] * (ours - theirs)).abs()
    return float(off.mean()), float(off.max())


# images of {height, width} were cropped, and other options ignored
@pytest.mark.parametrize(
    "said",
    [
        {**CLIP, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {**CLIP, "size": 32},
        {**CLIP, **SQUARE, "crop_size": 32},
        {**CLIP, "size": {"height": 40, "width": 40}, "crop_size": 32},
        {**VIT, **SQUARE},
        {**VIT, "size": 32},
        {**VIT, **SQUARE, "do_normalize": False},
        {**VIT, **SQUARE, "do_rescale": False},
        {**VIT, **SQUARE, "do_rescale": False, "do_normalize": False},
        {**VIT, **SQUARE, "rescale_factor": 1 / 127.5},
        {**VIT, **SQUARE, "resample": 3},
        {**VIT, **SQUARE, "resample": 0},
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 32},
        {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}},
        {"image_processor_type": "DINOv3ViTImageProcessorFast", **SQUARE, "do_center_crop": None},
        {**BIT, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {**BIT, **SQUARE, "do_center_crop": False},
        {**CONVNEXT, "size": {"shortest_edge": 32}, "crop_pct": 0.8},
        {**CONVNEXT, "size": {"shortest_edge": 384}},
        {"image_processor_type": "PoolFormerImageProcessor", "crop_size": 32, "crop_pct": 0.8}
        | {"size": {"shortest_edge": 32}},
    ],
    ids=str,
)
def test_images_are_prepared_as_by_the_library(said, photo, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="pt")
    own = image_preprocessing(str(tmp_path))
    ours = build_image_transform(own, train=False)(photo)
    mean, largest = levels(own, ours, theirs["pixel_values"][0])
    assert mean < 1
    assert largest < 12  # PIL and torchvision round differently
    assert image_preprocessing(str(tmp_path), image_size=48).size == 48


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [None, 1.0, 0.9])
@pytest.mark.parametrize("crop_mode", [None, "center", "squash", "border"])
def test_images_are_prepared_as_by_timm(crop_mode, crop_pct, interpolation, photo, tmp_path):
    config = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config |= {"crop_pct": crop_pct, "interpolation": interpolation}
    config |= {} if crop_mode is None else {"crop_mode": crop_mode}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "pretrained_cfg": config})
    )
    data = timm.data.resolve_data_config(pretrained_cfg=config)
    own = image_preprocessing(str(tmp_path))
    ours = build_image_transform(own, train=False)(photo)
    assert max(levels(own, ours, timm.data.create_transform(**data)(photo))) < 1.5


@pytest.mark.parametrize(
    "said",
    [
        {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}},
        {**BIT, "do_resize": False},
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 32}},
        {"image_processor_type": "Siglip2ImageProcessor"},
    ],
    ids=str,
)
def test_a_way_of_preparing_images_that_no_option_has_is_refused(said, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    message = rf"{said['image_processor_type']} prepares images.*timm.*preprocessor_config\.json"
    with pytest.raises(EncoderError, match=message):
        image_preprocessing(str(tmp_path))


def test_an_encoder_of_images_that_are_not_square_is_told_of(photo, tmp_path):
    said = BIT | {"size": {"shortest_edge": 32}, "do_center_crop": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.warns(UserWarning, match=r"makes none square.*data\.resize"):
        own = image_preprocessing(str(tmp_path))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="pt")
    centre = theirs["pixel_values"][0][:, :, 12:44]
    assert levels(own, build_image_transform(own, train=False)(photo), centre)[0] < 1
