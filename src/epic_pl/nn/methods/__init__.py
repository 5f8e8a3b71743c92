"""EPIC and the methods that it is compared with: each a config and a model in a file of its own.

A new method is a file with both and a line in :data:`METHODS`; docs/methods.md shows how.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

from epic_pl.errors import ConfigError
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC, EPICConfig
from epic_pl.nn.methods.fine_tuned import FineTuned, FineTunedConfig
from epic_pl.nn.methods.late_fusion_mlp import LateFusionMLP, LateFusionMLPConfig
from epic_pl.nn.methods.linear_probe import LinearProbe, LinearProbeConfig
from epic_pl.nn.methods.lora import LoRA, LoRAConfig
from epic_pl.nn.methods.maple import MaPLe, MaPLeConfig
from epic_pl.nn.methods.pmf import PMF, PMFConfig

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Method(NamedTuple):
    """A method: its config, its model and the switches that make it what it is."""

    config: type
    model: Callable[..., DualEncoder]
    switches: Mapping[str, Any] = _NOTHING

    @property
    def options(self) -> list[str]:
        """Names of the switches that can be set."""
        return [field.name for field in fields(self.config) if field.name not in self.switches]


METHODS: dict[str, Method] = {
    "epic": Method(EPICConfig, EPIC),
    "prompts_only": Method(EPICConfig, EPIC, {"interaction": "none"}),
    "linear_probe": Method(LinearProbeConfig, LinearProbe),
    "full": Method(FineTunedConfig, FineTuned),
    "lora": Method(LoRAConfig, LoRA),
    "pmf": Method(PMFConfig, PMF),
    "late_fusion_mlp": Method(LateFusionMLPConfig, LateFusionMLP),
    "maple": Method(MaPLeConfig, MaPLe),
}
"""The methods by their names, as ``model.method`` takes them."""


def build_method(
    name: str,
    image_encoder: Encoder,
    text_encoder: Encoder,
    num_classes: int,
    shared: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> DualEncoder:
    """The model of a method.

    Args:
        name: a key of :data:`METHODS`.
        image_encoder: frozen; a method that trains it thaws it itself.
        text_encoder: the same.
        num_classes: C.
        shared: switches by name; those that the method does not have are left out.
        options: the method's own switches, over the shared ones.

    Raises:
        ConfigError: if there is no such method, or it has no such option.
    """
    if name not in METHODS:
        raise ConfigError(f"There is no method {name!r}; there are: {', '.join(METHODS)}.")
    method = METHODS[name]
    options = options or {}
    if unknown := [key for key in options if key not in method.options]:
        raise ConfigError(
            f"Method {name!r} has no option {', '.join(unknown)}; it has: "
            f"{', '.join(method.options)}."
        )
    known = {key: value for key, value in shared.items() if key in method.options}
    config = method.config(**{**known, **options, **method.switches})
    return method.model(image_encoder, text_encoder, num_classes, config)
