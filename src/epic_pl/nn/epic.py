"""EPIC: frozen dual encoder, temporal prompts on intermediate layers, similarity-based interaction.

Source: *EPIC: Efficient Prompt Interaction for Text-Image Classification*, arXiv 2507.07415.
docs/method.md says line by line what the paper says and what is a reading of it.

Shape legend: B batch, N_v and N_t tokens, d_v and d_t widths, n prompts, K steps, C classes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.head import ClassificationHead, HeadNorm
from epic_pl.nn.interaction import HubActivation, InteractionHub
from epic_pl.nn.presence import drop_modalities
from epic_pl.nn.prompts import FirstPrompt, TemporalPrompts
from epic_pl.nn.towers import JointTower, ReadOnlyTower, Tower
from epic_pl.types import Batch

HeadInputs = Literal["pooled", "pooled+prompts"]
Interaction = Literal["similarity", "none"]
PromptAttention = Literal["joint", "read_only"]


@dataclass(frozen=True)
class EPICConfig:
    """The switches of the method; docs/method.md tells what each one decides.

    Attributes:
        num_prompts: n, prompts of each modality.
        interaction_layers: K (the last K layers of each encoder), or pairs
            ``[image layer, text layer]`` counted from 0, both rising.
        hub_width: r.
        share_hub: one hub for all steps.
        temperature: tau at the start.
        learn_temperature: whether tau is trained.
        interaction: "similarity", or "none" (prompts stay unimodal).
        hub_activation: f.
        first_prompt: "independent" or "from_text".
        prompt_attention: "joint": tokens and prompts see each other; "read_only": prompts read
            the frozen tokens, which never see them.
        head_inputs: "pooled", or "pooled+prompts" (the mean of the last prompts joins in).
        head_norm: "parts": each input of the head has a LayerNorm of its own; "joint": one for all.
        head_dropout: on the head's input.
        prompt_init_std: of the learned prompts.
        dropout: on the hub's messages.
        modality_dropout: probability with which a training sample loses one modality.
    """

    num_prompts: int = 4
    interaction_layers: int | list[list[int]] = 4
    hub_width: int = 64
    share_hub: bool = False
    temperature: float = 0.1
    learn_temperature: bool = True
    interaction: Interaction = "similarity"
    hub_activation: HubActivation = "gelu"
    first_prompt: FirstPrompt = "independent"
    prompt_attention: PromptAttention = "joint"
    head_inputs: HeadInputs = "pooled+prompts"
    head_norm: HeadNorm = "parts"
    head_dropout: float = 0.1
    prompt_init_std: float = 0.02
    dropout: float = 0.1
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_prompts", "hub_width", "temperature", "prompt_init_std"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("dropout", "head_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a probability, not {getattr(self, name)}.")

    def layer_pairs(self, num_image_layers: int, num_text_layers: int) -> list[tuple[int, int]]:
        """The K pairs (image layer, text layer) of the interaction steps.

        Raises:
            ConfigError: where an encoder has too few layers, or the pairs do not rise.
        """
        depths = f"the encoders have {num_image_layers} and {num_text_layers} layers"
        if isinstance(self.interaction_layers, int):
            k = self.interaction_layers
            if not 1 <= k <= min(num_image_layers, num_text_layers):
                raise ConfigError(
                    f"interaction_layers is {k}, but {depths}: choose from 1 to "
                    f"{min(num_image_layers, num_text_layers)}, or give pairs of layers."
                )
            return [(num_image_layers - k + i, num_text_layers - k + i) for i in range(k)]
        pairs = [(pair[0], pair[1]) for pair in self.interaction_layers if len(pair) == 2]
        for side, depth in ((0, num_image_layers), (1, num_text_layers)):
            layers = [pair[side] for pair in pairs]
            rising = layers == sorted(set(layers))
            if not pairs or len(pairs) != len(self.interaction_layers) or not rising:
                raise ConfigError(
                    f"interaction_layers {self.interaction_layers} must be a list of pairs "
                    "[image layer, text layer] in which both numbers rise from pair to pair."
                )
            if layers[0] < 0 or layers[-1] >= depth:
                raise ConfigError(
                    f"interaction_layers {self.interaction_layers} names a layer that is not "
                    f"there: {depths}, counted from 0."
                )
        return pairs


class EPIC(nn.Module):
    """Two frozen encoders that exchange what their prompts gather, and a head on top.

    Args:
        image_encoder: frozen, see :class:`epic_pl.nn.encoders.base.Encoder`.
        text_encoder: frozen.
        num_classes: C.
        config: the switches of the method.

    Raises:
        ConfigError: if ``config`` does not fit the encoders' depths.
    """

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        num_classes: int,
        config: EPICConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or EPICConfig()
        pairs = config.layer_pairs(image_encoder.num_layers, text_encoder.num_layers)
        tower = JointTower if config.prompt_attention == "joint" else ReadOnlyTower
        self.image_tower: Tower[Any] = tower(image_encoder, [pair[0] for pair in pairs])
        self.text_tower: Tower[Any] = tower(text_encoder, [pair[1] for pair in pairs])
        widths = (image_encoder.width, text_encoder.width)
        self.num_steps = steps = len(pairs)
        self.prompts = TemporalPrompts(
            steps, config.num_prompts, *widths, config.first_prompt, config.prompt_init_std
        )
        # the last step's prompts go nowhere, so there is nothing to consolidate after it
        hubs = (
            0
            if config.interaction == "none"
            else min(1, steps - 1) * (1 if config.share_hub else steps - 1)
        )
        self.hubs = nn.ModuleList(
            InteractionHub(
                *widths,
                config.hub_width,
                config.temperature,
                config.learn_temperature,
                config.hub_activation,
                config.dropout,
            )
            for _ in range(hubs)
        )
        self.absent_image = nn.Parameter(torch.zeros(widths[0]))
        self.absent_text = nn.Parameter(torch.zeros(widths[1]))
        parts = list(widths) * (2 if config.head_inputs == "pooled+prompts" else 1)
        self.head = ClassificationHead(parts, num_classes, config.head_dropout, config.head_norm)

    @property
    def image_encoder(self) -> Encoder:
        """The frozen image encoder."""
        return self.image_tower.encoder

    @property
    def text_encoder(self) -> Encoder:
        """The frozen text encoder."""
        return self.text_tower.encoder

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)`` of a batch; docs/method.md has the equations."""
        image_present, text_present = self._presence(batch)
        # extraction layers: nothing to train upstream, so no gradient and no stored activation
        image, text = self._extract(batch, image_present, text_present)
        image_prompts, text_prompts = self.prompts.first(len(batch["attention_mask"]))  # (B, n, d)
        for step in range(self.num_steps):
            if step > 0:
                image_prompts, text_prompts = self._consolidate(
                    step, image_prompts, text_prompts, image_present, text_present
                )
                image_prompts, text_prompts = self.prompts.activate(
                    step, image_prompts, text_prompts
                )
            image, image_prompts = self.image_tower.acquire(step, image, image_prompts)
            text, text_prompts = self.text_tower.acquire(step, text, text_prompts)
        features = [
            _stand_in(self.image_tower.pool(image), image_present, self.absent_image),
            _stand_in(self.text_tower.pool(text), text_present, self.absent_text),
        ]
        if self.config.head_inputs == "pooled+prompts":
            features += [image_prompts.mean(dim=1), text_prompts.mean(dim=1)]
        logits: Tensor = self.head(features)  # (B, C)
        return logits

    def _extract(
        self, batch: Batch, image_present: Tensor | None, text_present: Tensor | None
    ) -> tuple[Any, Any]:
        """Both towers before step 1: run, or restored from a feature cache."""
        text_mask = batch["attention_mask"].bool()  # (B, N_t)
        if "image_features" in batch:
            image = self.image_tower.restore(batch["image_features"], None, image_present)
        else:
            image = self.image_tower.extract(batch["pixel_values"], None, image_present)
        if "text_features" in batch:
            text = self.text_tower.restore(batch["text_features"], text_mask, text_present)
        else:
            text = self.text_tower.extract(batch["input_ids"], text_mask, text_present)
        return image, text

    def _consolidate(
        self,
        step: int,
        image_prompts: Tensor,
        text_prompts: Tensor,
        image_present: Tensor | None,
        text_present: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Let the outputs of the step before exchange; they pass as they are without a hub."""
        if not self.hubs:
            return image_prompts, text_prompts
        hub = self.hubs[0 if self.config.share_hub else step - 1]
        consolidated: tuple[Tensor, Tensor] = hub(
            image_prompts, text_prompts, image_present, text_present
        )
        return consolidated

    def _presence(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Which modalities count ``(B,)``, training drops included; None twice if all do."""
        probability = self.config.modality_dropout if self.training else 0.0
        given = "image_present" in batch or "text_present" in batch
        if not given and probability == 0:
            return None, None
        mask = batch["attention_mask"]
        everyone = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        image_present = batch.get("image_present", everyone).bool()
        text_present = batch.get("text_present", everyone).bool()
        if probability > 0:
            image_present, text_present = drop_modalities(image_present, text_present, probability)
        return image_present, text_present


def _stand_in(pooled: Tensor, present: Tensor | None, vector: Tensor) -> Tensor:
    """``pooled (B, d)`` with the learned ``vector (d,)`` where a sample's modality is absent.

    The vector is part of the graph even if nobody is absent: under DDP each trained tensor must
    get a gradient in every step.
    """
    if present is None:
        present = torch.ones(len(pooled), dtype=torch.bool, device=pooled.device)
    return torch.where(present[:, None], pooled, vector)
