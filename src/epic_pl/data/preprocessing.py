"""Options of the preprocessing of images, texts and columns, as checkpoints store them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Self, cast, get_type_hints

from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.utils.errors import CheckpointError, ConfigError, first_line
from epic_pl.utils.validate import check_at_least, check_type, check_types

Resize = Literal["crop", "pad", "squash"]
AnyResize = Resize | Literal["auto"]
"""A way of making images square; "auto" is the encoder's own."""
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_LARGEST = 2**14  # maximum side in pixels, far beyond any encoder
_LONGEST_PROMPT = 10_000


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

    def as_pil(self, image: Tensor) -> Image:
        """An encoder's input ``(3, H, W)`` as an image again."""
        mean, std = (image.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
        return cast(Image, to_pil_image((image * std + mean).clamp(0, 1)))

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
    for kind, type_ in get_type_hints(ColumnPreprocessing).items():
        check_type(type_, f"columns.{kind}", own := known.get(kind, {}))
        if sorted(own) != [*own]:
            raise ConfigError(f"columns.{kind} is not in alphabetical order, as this version's are")
    columns = ColumnPreprocessing(**known)
    for name, knots in columns.numbers.items():
        if not knots or not all(map(math.isfinite, knots)) or sorted({*knots}) != knots:
            raise ConfigError(f"columns.numbers.{name} is {knots!r:.60}, not increasing numbers.")
    return columns


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that are fields of the dataclass ``kind``."""
    return {known.name: values[known.name] for known in fields(kind) if known.name in values}


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
