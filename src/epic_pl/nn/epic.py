"""EPIC: frozen dual encoder, temporal prompts on intermediate layers, similarity-based interaction.

Source: *EPIC: Efficient Prompt Interaction for Text-Image Classification*, arXiv 2507.07415.
docs/method.md says line by line what the paper says and what is a reading of it.

Shape legend: B batch, N_v and N_t tokens, d_v and d_t widths, n prompts, K steps, P summaries of a
modality, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.nn.base import (
    DualEncoder,
    check_choices,
    check_positive,
    check_probabilities,
)
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads.classification import AloneHead, ClassificationHead, HeadNorm
from epic_pl.nn.heads.similarity import Agreement
from epic_pl.nn.interaction import MIN_TEMPERATURE, HubActivation, InteractionHub
from epic_pl.nn.prompts import FirstPrompt, TemporalPrompts
from epic_pl.nn.read_only_tower import ReadOnlySummary, ReadOnlyTower
from epic_pl.nn.towers import JointTower, PromptTower
from epic_pl.types import Batch

HeadInputs = Literal[
    "pooled",
    "pooled+prompts",
    "pooled+boundary",
    "pooled+boundary+prompts",
    "pooled+layers",
    "pooled+layers+prompts",
]
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
        read_only_summary: what stands for a modality where prompts only read: "frozen", the
            encoder's own output, or "stream", the copy of its token that travels with the prompts.
        head_inputs: "pooled" outputs; "boundary" adds the mean of the tokens that enter the first
            interaction layer, "layers" those of all K, "prompts" the mean of the last prompts. All
            but the prompts are a modality's summaries.
        head_similarity: the head also sees how alike both modalities are, by summaries and
            last prompts; not where ``interaction`` is "none".
        head_norm: "parts": each input of the head has a LayerNorm of its own; "joint": one for all.
        head_prompt_scale: what the head's LayerNorms of the prompts start at ("parts" only), those
            of the summaries at 1; and what prompts weigh beside them in the similarity.
        head_dropout: on the head's input.
        missing_aware_head: the head has weights that only samples without a modality use; they see
            the means of the tokens that enter all K interaction layers, whatever ``head_inputs``.
        weigh_interaction: what prompts and similarity add to the logits of the summaries is
            multiplied by a weight that validation chooses.
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
    read_only_summary: ReadOnlySummary = "frozen"
    head_inputs: HeadInputs = "pooled+boundary+prompts"
    head_similarity: bool = True
    head_norm: HeadNorm = "parts"
    head_prompt_scale: float = 0.3
    head_dropout: float = 0.1
    missing_aware_head: bool = False
    weigh_interaction: bool = True
    prompt_init_std: float = 0.02
    dropout: float = 0.1
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)
        if self.temperature < MIN_TEMPERATURE:
            raise ConfigError(
                f"temperature is {self.temperature}, but similarities are divided by at least "
                f"{MIN_TEMPERATURE}: below it nothing would be learned of it."
            )
        check_positive(
            self,
            "num_prompts",
            "hub_width",
            "prompt_init_std",
            "head_prompt_scale",
        )
        check_probabilities(self, "dropout", "head_dropout", "modality_dropout")

    def num_summaries(self, num_steps: int) -> int:
        """P: the pooled output, and a mean for each interaction layer that the head sees."""
        inputs = self.head_inputs.split("+")
        return 1 + (num_steps if "layers" in inputs else int("boundary" in inputs))

    @property
    def sees_prompts(self) -> bool:
        """Whether the head does, beside what compares them."""
        return "prompts" in self.head_inputs

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


class EPIC(DualEncoder):
    """Two frozen encoders that exchange what their prompts gather, and a head on top.

    Args:
        image_encoder: frozen, see :class:`epic_pl.nn.encoders.base.Encoder`.
        text_encoder: frozen.
        num_classes: C.
        config: the switches of the method.

    Raises:
        ConfigError: if ``config`` does not fit the encoders' depths, or leaves its prompts
            nothing to learn.
    """

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        num_classes: int,
        config: EPICConfig | None = None,
    ) -> None:
        config = config or EPICConfig()
        pairs = config.layer_pairs(image_encoder.num_layers, text_encoder.num_layers)
        num_summaries = config.num_summaries(len(pairs))
        tower: Callable[[Encoder, list[int]], PromptTower[Any]] = (
            JointTower
            if config.prompt_attention == "joint"
            else partial(ReadOnlyTower, pooled=config.read_only_summary)
        )
        super().__init__(
            tower(image_encoder, [pair[0] for pair in pairs]),
            tower(text_encoder, [pair[1] for pair in pairs]),
            config.modality_dropout,
            stand_ins=num_summaries,
        )
        self.image_tower: PromptTower[Any]
        self.text_tower: PromptTower[Any]
        self.config = config
        widths = (image_encoder.width, text_encoder.width)
        self.num_steps = steps = len(pairs)
        self.num_summaries = num_summaries
        num_means = steps if config.missing_aware_head else num_summaries - 1
        self.image_tower.num_means = self.text_tower.num_means = num_means
        self.text_layers_seen = tuple(pair[1] for pair in pairs[: num_summaries - 1])
        self.prompts = TemporalPrompts(
            steps, config.num_prompts, *widths, config.first_prompt, config.prompt_init_std
        )
        self.hubs = self._build_hubs(widths)
        self.head = self._build_head(widths, num_classes)
        self._adds = self.head.agreement is not None or config.sees_prompts
        if config.weigh_interaction and self._adds:
            self.interaction_weight = torch.ones(())

    def _build_hubs(self, widths: tuple[int, int]) -> nn.ModuleList:
        config = self.config
        # the last step's prompts go nowhere, so there is nothing to consolidate after it
        exchanges = self.num_steps - 1 if config.interaction == "similarity" else 0
        return nn.ModuleList(
            InteractionHub(
                *widths,
                config.hub_width,
                config.temperature,
                config.learn_temperature,
                config.hub_activation,
                config.dropout,
            )
            for _ in range(min(1, exchanges) if config.share_hub else exchanges)
        )

    def _build_head(self, widths: tuple[int, int], num_classes: int) -> ClassificationHead:
        config = self.config
        agreement = None
        if config.head_similarity and config.interaction == "similarity":
            agreement = Agreement(
                widths,
                config.hub_width,
                num_classes,
                config.head_prompt_scale,
                config.temperature,
                config.learn_temperature,
                self.num_summaries,
            )
        elif not config.sees_prompts and not self._pool_prompts():
            raise ConfigError(
                "The prompts would reach nothing that the head sees, so there would be nothing for "
                'them to learn. Set head_inputs to "pooled+boundary+prompts" or read_only_summary '
                'to "stream", which a mean-pooled encoder does not have.'
            )
        alone = None
        if config.missing_aware_head:
            parts, scales = self._parts(widths, 1 + self.num_steps)
            summaries = 2 * (1 + self.num_steps)
            alone = AloneHead(parts, num_classes, config.head_dropout, scales, summaries)
        parts, scales = self._parts(widths, self.num_summaries)
        return ClassificationHead(
            parts,
            num_classes,
            config.head_dropout,
            config.head_norm,
            agreement,
            scales,
            alone,
            2 * self.num_summaries,
        )

    def _parts(self, widths: tuple[int, int], num_summaries: int) -> tuple[list[int], list[float]]:
        """Widths, and scales at the start, of summaries and of what prompts add to them."""
        scales = [1.0] * num_summaries + [self.config.head_prompt_scale] * self.config.sees_prompts
        return list(widths) * len(scales), [scale for scale in scales for _ in widths]

    def _pool_prompts(self) -> bool:
        """Whether the prompts of both modalities reach what is pooled, through a hub if need be."""
        towers = (self.image_tower, self.text_tower)
        return (any if self.hubs else all)(tower.pools_prompts for tower in towers)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)`` of a batch; docs/method.md has the equations.

        What prompts and similarity add is weighed with ``interaction_weight``, but not in
        training mode.
        """
        image_present, text_present = self.presence(batch)
        # extraction layers: nothing to train upstream, so no gradient and no stored activation
        image, text = self.extract(batch, image_present, text_present)
        batch_size = batch["attention_mask"].shape[0]
        image_prompts, text_prompts = self.prompts.first(batch_size)  # (B, n, d)
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
        of_image = self._summaries(self.image_tower, image)  # (B, >= P, d_v)
        of_text = self._summaries(self.text_tower, text)  # (B, >= P, d_t)
        return self._answer(
            of_image, of_text, image_prompts, text_prompts, image_present, text_present
        )

    def _answer(
        self,
        of_image: Tensor,
        of_text: Tensor,
        image_prompts: Tensor,
        text_prompts: Tensor,
        image_present: Tensor | None,
        text_present: Tensor | None,
    ) -> Tensor:
        """Logits ``(B, C)`` of summaries, prompts ``(B, n, d)``, and how alike both sides are."""
        prompts: list[Tensor] = []
        if self.config.sees_prompts:
            prompts = [image_prompts.mean(dim=1), text_prompts.mean(dim=1)]
        alone = [*_in_turn(of_image, of_text), *prompts] if self.head.alone is not None else None
        of_image, of_text = of_image[:, : self.num_summaries], of_text[:, : self.num_summaries]
        said = self.stand_in(of_image.flatten(1), of_text.flatten(1), image_present, text_present)
        stood_in = (each.view_as(of) for each, of in zip(said, (of_image, of_text), strict=True))
        mapped = partial(
            self.head, [*_in_turn(*stood_in), *prompts], alone, image_present, text_present
        )
        logits: Tensor = mapped()  # (B, C)
        partials: list[Tensor] = []
        if self.head.agreement is not None:
            if self.config.sees_prompts:
                partials = [logits]
            logits = logits + self.head.agreement(
                torch.cat([of_image, image_prompts], dim=1),  # (B, P + n, d_v)
                torch.cat([of_text, text_prompts], dim=1),  # (B, P + n, d_t)
                image_present,
                text_present,
            )
        weight = None if self.training else self.interaction_weight
        if self._adds and (self.keeps_partial_logits or weight is not None):
            pooled: Tensor = mapped(summaries_only=True)
            if self.keeps_partial_logits:
                self.partial_logits = [pooled, *partials]
            elif weight is not None:
                # as it was fitted: not in half precision
                precise = torch.promote_types(logits.dtype, torch.float32)
                weighed = torch.lerp(pooled.to(precise), logits.to(precise), weight.to(precise))
                logits = weighed.to(logits.dtype)
        return logits

    def _summaries(self, tower: PromptTower[Any], state: Any) -> Tensor:
        """What the encoder says of a modality: pooled, and every mean that was kept."""
        pooled = tower.pool(state)[:, None]
        if tower.num_means == 0:
            return pooled
        return torch.cat([pooled, tower.layer_means(state)], dim=1)

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


def _in_turn(of_image: Tensor, of_text: Tensor) -> list[Tensor]:
    """P vectors each of ``(B, P, d_v)`` and ``(B, P, d_t)``: picture's and text's in turn."""
    pairs = zip(of_image.unbind(dim=1), of_text.unbind(dim=1), strict=True)
    return [vector for pair in pairs for vector in pair]
