from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fabricate
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import InterpolationMode, v2

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.data.pretrained import image_preprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same

TASKS = Path("/proc/self/task")
PLAIN = ImagePreprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=0.5)


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "randaugment", "randaugment_only"])
def test_train_transforms_have_the_size(augment):
    transform = build_image_transform(PLAIN, train=True, augment=augment)
    assert transform.random == (augment != "none")
    assert transform(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_randaugment_only_neither_mirrors_nor_crops():
    # rows of grey levels that rise from left to right: no step of RandAugment turns them round
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    image = Image.fromarray(ramp).convert("RGB")

    def mirrored(augment):
        transform = build_image_transform(PLAIN, train=True, augment=augment)
        pixels = torch.stack([transform(image)[0, 12:20] for _ in range(60)]).mean(dim=1)
        return int((pixels[:, 8:16].mean(dim=1) > pixels[:, 16:24].mean(dim=1)).sum())

    torch.manual_seed(0)
    assert mirrored("randaugment") > 15
    # solarize inverts levels above a threshold, now and then
    assert mirrored("randaugment_only") < 6


def test_very_long_image_stays_small():
    calls = []
    transform = build_image_transform(replace(PLAIN, interpolation="nearest"), train=False)
    transform._geometry.transforms[0].register_forward_hook(lambda *a: calls.append(a[-1].size))
    assert transform(Image.new("RGB", (20_000, 2))).shape == (3, 32, 32)
    assert max(calls[0]) <= 4 * 64


@pytest.mark.parametrize(("resize", "augment"), [("crop", "mixup"), ("stretch", "none")])
def test_unknown_ways_to_resize_and_augment_are_refused(resize, augment):
    with pytest.raises(ConfigError, match=r"augment .*'mixup'|resize .*'stretch'"):
        build_image_transform(replace(PLAIN, resize=resize), train=True, augment=augment)


@pytest.mark.parametrize(
    ("name", "size", "resized"),
    [
        ("vit_base_patch16_224.augreg_in21k", 224, 248),
        ("vit_base_patch16_224.augreg_in21k", 112, 124),
        ("vit_tiny_patch16_384.augreg_in21k_ft_in1k", 384, 384),
        ("deit3_small_patch16_224.fb_in1k", 224, 248),
        ("vit_small_patch14_dinov2.lvd142m", 112, 112),
    ],
)
def test_images_are_resized_as_timm_resizes_them(name, size, resized):
    p = image_preprocessing(name, size)
    config = resolve_data_config(pretrained_cfg=vars(timm.get_pretrained_cfg(name)))
    reference = create_transform(**{**config, "input_size": (3, size, size)})
    assert p.resized == reference.transforms[0].size == resized
    image = fabricate.noise(420, 300)
    levels = (build_image_transform(p, train=False)(image) - reference(image)).abs() * 255
    assert (levels * torch.tensor(p.std)[:, None, None]).max() < 2.01


@pytest.mark.parametrize("size", [(500, 375), (41, 40), (90, 333), (17, 23)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 1.25])
def test_eval_pixels_are_normalised_as_torchvision_does(size, crop_pct):
    p = ImagePreprocessing(32, (0.48, 0.45, 0.40), (0.27, 0.26, 0.28), "bicubic", crop_pct)
    image = fabricate.noise(*size)
    resize = v2.Resize(p.resized, interpolation=InterpolationMode.BICUBIC)
    scale = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
    normalize = v2.Normalize(mean=list(p.mean), std=list(p.std))
    reference = v2.Compose([resize, v2.CenterCrop(32), *scale, normalize])
    transform = build_image_transform(p, train=False, augment="randaugment")
    ours = transform(image)
    assert not transform.random
    assert type(ours) is torch.Tensor
    assert ours.is_contiguous()
    assert ours.dtype == torch.float32
    assert_same(ours, reference(image).as_subclass(torch.Tensor))


@pytest.mark.parametrize("size", [(80, 20), (20, 80), (50, 50), (400, 20)])
def test_padded_and_squashed_images_are_seen_whole(size):
    colours = {(0, 0): (255, 0, 0), (1, 1): (0, 0, 255)}  # of opposite corners
    image = Image.new("RGB", size, (0, 255, 0))
    for (right, below), colour in colours.items():
        part = Image.new("RGB", (size[0] // 2, size[1] // 2), colour)
        image.paste(part, (right * (size[0] // 2), below * (size[1] // 2)))
    for resize in ("squash", "pad"):
        p = replace(PLAIN, size=40, interpolation="nearest").with_resize(resize)
        pixels = build_image_transform(p, train=True)(image)
        assert pixels.shape == (3, 40, 40)
        height = 40 if resize == "squash" else min(40, round(40 * size[1] / size[0]))
        width = 40 if resize == "squash" else min(40, round(40 * size[0] / size[1]))
        top, left = (40 - height) // 2, (40 - width) // 2
        inside = pixels[:, top : top + height, left : left + width]
        assert inside[:, 0, 0].tolist() == [1, -1, -1]
        assert inside[:, -1, -1].tolist() == [-1, -1, 1]
        bars = pixels.clone()
        bars[:, top : top + height, left : left + width] = 0
        assert bars.abs().max() < 0.01  # the mean


@pytest.mark.skipif(not TASKS.is_dir(), reason="threads are counted in /proc of Linux")
def test_a_thread_that_transforms_images_starts_no_others():
    image = Image.new("RGB", (300, 300))
    transform = build_image_transform(replace(PLAIN, size=224), train=False)

    def started():
        before = len(list(TASKS.iterdir()))
        transform(image)
        return len(list(TASKS.iterdir())) - before

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(started).result() == 0
    finally:
        torch.set_num_threads(1)
