"""Options of transformers' image processors, compared with their own output on a test image."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torchvision.transforms.v2.functional import center_crop
from transformers import AutoImageProcessor

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.assets.encoders import loading_options
from epic_pl.utils.errors import EncoderError

_TOLERANCE = 2  # mean difference in 255 levels: less by resampling, more by another geometry


def read_image_processor(source: str, revision: str | None = None) -> ImagePreprocessing:
    """Read the image processor of a folder or hub repository of transformers.

    Raises:
        EncoderError: if it prepares images in another way than the options can.
    """
    # the library knows the defaults of each class, and what a size of one number means
    load: Any = AutoImageProcessor.from_pretrained  # not typed
    processor = load(source, **loading_options(source, revision))
    name = f"Image encoder {source!r}: its {type(processor).__name__}"
    rows, columns = np.mgrid[0:255, 0:153]
    image = Image.fromarray(np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    for own in _candidates(processor):
        ours = build_image_transform(own, train=False)(image)
        levels = 255 * torch.tensor(own.std)[:, None, None]
        if (levels * (ours - center_crop(theirs, [own.size]))).abs().mean() < _TOLERANCE:
            if theirs.shape[-1] != theirs.shape[-2]:
                way_out = "set data.resize to pad or squash to keep them"
                rank_zero_warn(f"{name} makes none square, so that ends are cut: {way_out}.")
            return own
    raise EncoderError(
        f"{name} prepares images in a way that epic_pl does not know. Use the encoder's variant in "
        "timm or of one image size (not NaFlex), or correct preprocessor_config.json in a copy."
    )


def _candidates(processor: Any) -> list[ImagePreprocessing]:
    """Options that the processor's attributes may mean; none if it has no size."""
    side = processor.size and (processor.size.shortest_edge or processor.size.height)
    if not side:
        return []
    kept = processor.crop_size.height if processor.do_center_crop else side
    # the options are for pixels in 0..1
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    normal = processor.do_normalize
    mean, std = (processor.image_mean, processor.image_std) if normal else ([0.0] * 3, [1.0] * 3)
    cropped = ImagePreprocessing(
        size=kept,
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        interpolation=Image.Resampling(processor.resample).name.lower(),  # type: ignore[arg-type]
        crop_pct=kept * (getattr(processor, "crop_pct", None) or 1.0) / side,
    )
    squashed = replace(cropped, resize="squash")
    return [cropped, squashed, replace(squashed, crop_pct=1.0)]
