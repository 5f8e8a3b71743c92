"""EPIC and the methods that it is compared with, each with a config and a model in its own file.

To add a method, write such a file and add an entry to :data:`METHODS`; see docs/methods.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC, EPICConfig
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods.fine_tuned import FineTuned, FineTunedConfig, LoRA, LoRAConfig
from epic_pl.nn.methods.maple import MaPLe, MaPLeConfig
from epic_pl.nn.methods.no_prompts import NoPrompts, NoPromptsConfig
from epic_pl.nn.methods.parts import CrossAttention, PartMeans, Parts, SimilarityMap
from epic_pl.nn.methods.pmf import PMF, PMFConfig
from epic_pl.nn.pair import Pair
from epic_pl.utils.errors import ConfigError, did_you_mean

_PLAIN = {"boundary": False, "similarity": False, "network": "none"}


class Method(NamedTuple):
    """A method: its config, its model, and its fixed options."""

    config: type
    model: Callable[..., DualEncoder]
    fixed: Mapping[str, Any] = {}
    fixed_head: Mapping[str, Any] = {}

    @property
    def options(self) -> list[str]:
        """Names of the options that can be set."""
        return [field.name for field in fields(self.config) if field.name not in self.fixed]


METHODS: dict[str, Method] = {
    "epic": Method(EPICConfig, EPIC),
    "no_interaction": Method(EPICConfig, EPIC, {"hub": "none"}),
    "no_prompts": Method(NoPromptsConfig, NoPrompts),
    "linear_probe": Method(NoPromptsConfig, NoPrompts, fixed_head=_PLAIN),
    "late_fusion_mlp": Method(NoPromptsConfig, NoPrompts, fixed_head={"network": "wide"}),
    "parts": Method(NoPromptsConfig, Parts),
    "part_means": Method(NoPromptsConfig, PartMeans),
    "cross_attention": Method(NoPromptsConfig, CrossAttention),
    "similarity_map": Method(NoPromptsConfig, SimilarityMap),
    "full": Method(FineTunedConfig, FineTuned),
    "lora": Method(LoRAConfig, LoRA),
    "pmf": Method(PMFConfig, PMF),
    "maple": Method(MaPLeConfig, MaPLe),
}
"""The methods by their names, as ``model.method`` takes them."""


def build_method(
    name: str,
    encoders: Pair[Encoder],
    num_classes: int,
    epic: EPICConfig | None = None,
    head: HeadConfig | None = None,
    modality_dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> DualEncoder:
    """The model of a method.

    Args:
        name: a key of :data:`METHODS`.
        encoders: frozen encoders; a method that trains them thaws them itself.
        num_classes: number of classes C.
        epic: options of EPIC; its first interaction layer is also the boundary of other methods.
        head: parts of the head, the same for every method.
        modality_dropout: probability with which a training sample loses one modality.
        options: options of a method other than EPIC.

    Raises:
        ConfigError: if there is no such method, or it has no such option.
    """
    if name not in METHODS:
        raise ConfigError(
            f"There is no method {name!r}; there are: {', '.join(METHODS)}."
            + did_you_mean(name, METHODS)
        )
    method, options, epic = METHODS[name], options or {}, epic or EPICConfig()
    head = replace(head or HeadConfig(), **method.fixed_head)
    if unknown := [key for key in options if key not in method.options]:
        raise ConfigError(
            f"Method {name!r} has no option {', '.join(unknown)}; it has: "
            f"{', '.join(method.options) or 'none'}."
        )
    if method.config is EPICConfig:
        config = replace(epic, **{**options, **method.fixed})
        return method.model(encoders, num_classes, config, head, modality_dropout)
    boundary = Pair(*epic.layer_pairs(*(encoder.num_layers for encoder in encoders))[0])
    config = method.config(**{**options, **method.fixed})
    return method.model(encoders, num_classes, config, head, modality_dropout, boundary)
