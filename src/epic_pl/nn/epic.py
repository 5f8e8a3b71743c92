"""EPIC: frozen dual encoder, temporal prompts on intermediate layers, similarity-based interaction.

Source: *EPIC: Efficient Prompt Interaction for Text-Image Classification*, arXiv 2507.07415.
docs/method.md has the equations and their sources::

    image ── frozen layers ──┐ acquire ──┐          ┌ acquire ── ... ── pool ──┐
                    prompts ─┘           ├ hub ─ G ─┤                          ├── head ── logits
                    prompts ─┐           │          │                          │
    text ─── frozen layers ──┘ acquire ──┘          └ acquire ── ... ── pool ──┘

By default the first prompts come from tokens, and another hub lies before the first step.

Shape legend: B batch, d_v and d_t widths, n prompts, K steps, C classes.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from epic_pl.nn.base import DualEncoder, Method, Output, Recording, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.segments import segment_means
from epic_pl.nn.heads import ClassificationHead, HeadConfig, where_parts_fit
from epic_pl.nn.interaction import (
    BottleneckHub,
    Exchange,
    Hub,
    InteractionHub,
    ParameterFreeHub,
    ScaledCosine,
)
from epic_pl.nn.pair import Pair, Presence
from epic_pl.nn.prompts import FirstPrompt, Generation, TemporalPrompts
from epic_pl.nn.recording import prompt_attention
from epic_pl.nn.towers import JointTower, ReadOnlyTower
from epic_pl.utils.types import Batch
from epic_pl.utils.validate import check_choices, check_positive, check_probabilities

PromptAttention = Literal["joint", "read_only"]

_ROWS = 4  # samples at a time in the first exchange, with activation checkpointing


class EPICModel(DualEncoder):
    """Two frozen encoders with interacting prompts, and a classification head.

    Args:
        encoders: the frozen image and text encoder.
        num_classes: number of classes C.
        method: options of the method.
        head: parts of the head.
        modality_dropout: probability with which a training sample loses one modality.

    Raises:
        ConfigError: if ``method`` does not fit the encoders' depths.
    """

    image_tower: JointTower | ReadOnlyTower
    text_tower: JointTower | ReadOnlyTower

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        method: "EPIC",
        head: HeadConfig,
        modality_dropout: float,
    ) -> None:
        pairs = layer_pairs(method.interaction_layers, encoders)
        layers = Pair(*zip(*pairs, strict=True))
        joint = method.prompt_attention == "joint"
        tower: type[JointTower | ReadOnlyTower] = JointTower if joint else ReadOnlyTower
        n = method.num_prompts
        self.from_tokens = method.first_prompt == "tokens"
        super().__init__(
            tower(encoders.image, layers.image, self.from_tokens),
            tower(encoders.text, layers.text, self.from_tokens),
            modality_dropout,
        )
        self.method = method
        self.num_steps = len(pairs)
        self.prompts = TemporalPrompts(
            self.num_steps,
            n,
            self.widths,
            method.first_prompt,
            method.generation,
            method.prompt_init_std,
        )
        self.hubs = nn.ModuleList(self._build_hubs())
        self.head = ClassificationHead(
            self.widths,
            num_classes,
            head,
            prompts=True,
            num_part_features=3 * n if self.hubs and self.from_tokens else 0,
        )

    def _build_hubs(self) -> list[InteractionHub]:
        # the head takes the last step's prompts as they are, so no hub follows it
        exchanges = range(self.num_steps - 1 + self.from_tokens)
        if self.method.hub == "none":
            return []
        if self.method.hub == "parameter_free":
            return [ParameterFreeHub(self.widths)] if exchanges else []  # one for all steps
        return [
            BottleneckHub(self.widths, self.method.hub_width, self.method.dropout)
            for _ in exchanges
        ]

    def forward(self, batch: Batch) -> Output:
        """Logits and features of a batch, as in the equations of docs/method.md."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        prompts, exchange = self.first_prompts(image, text, present)
        part_features = None if exchange is None else where_parts_fit(exchange.similarities)
        for step in range(self.num_steps):
            if step:
                prompts, following = self.next_prompts(step, prompts, present)
                exchange = exchange or following
            image, text, prompts = self.acquire(step, image, text, prompts)
        compared = None if exchange is None else exchange.compared
        return self.classify(self.pool(image, text), prompts, present, part_features, compared)

    def acquire(
        self, step: int, image: Any, text: Any, prompts: Pair[Tensor]
    ) -> tuple[Any, Any, Pair[Tensor]]:
        """States of both towers after the step's layer, and the outputs of the prompts."""
        image, acquired_image = self.image_tower.acquire(step, image, prompts.image)
        text, acquired_text = self.text_tower.acquire(step, text, prompts.text)
        return image, text, Pair(acquired_image, acquired_text)

    def first_prompts(
        self, image: Any, text: Any, present: Presence
    ) -> tuple[Pair[Tensor], Exchange | None]:
        """The prompts of step 1, and the exchange before that step, with ``S (B, P, n)``.

        With "tokens", all patches and the parts of the text exchange information before the first
        step, so that image prompts depend on the text. Without hubs they start from image cells.
        """
        if not self.from_tokens:
            return self.prompts.first(len(text.mask)), None
        learned = self.prompts.first_image
        if not self.hubs:
            patches, parts = self._patches_and_parts(image, text, slice(None))
            return Pair(segment_means(patches, len(learned)) + learned, parts), None
        exchange = self._first_exchange(image, text, present)
        matched, parts = exchange.prompts
        return Pair(matched + learned, parts), exchange

    def _patches_and_parts(self, image: Any, text: Any, rows: slice) -> Pair[Tensor]:
        patches = self.image_tower.content_tokens(image.boundary_tokens[rows])
        words, mask = self.text_tower.content_tokens(text.boundary_tokens[rows]), text.mask[rows]
        return Pair(patches, self.prompts.parts(words, mask))

    def _first_exchange(self, image: Any, text: Any, present: Presence) -> Exchange:
        """The exchange of patches and parts.

        With activation checkpointing a few samples are computed at a time, to save memory.
        """

        def exchange(rows: slice) -> Exchange:
            there = Pair(*(None if side is None else side[rows] for side in present))
            prompts = self._patches_and_parts(image, text, rows)
            return cast(InteractionHub, self.hubs[0]).exchange_parts(prompts, there)

        if not self.image_encoder.recomputes:
            return exchange(slice(None))
        starts = range(0, len(text.mask), _ROWS)
        runs = [self.image_encoder.checkpointed(exchange, slice(i, i + _ROWS)) for i in starts]
        prompts, similarities, compared = zip(*runs, strict=True)
        joined = [Pair(*map(torch.cat, zip(*pairs, strict=True))) for pairs in (prompts, compared)]
        return Exchange(joined[0], torch.cat(similarities), joined[1])

    def next_prompts(
        self, step: int, acquired: Pair[Tensor], present: Presence
    ) -> tuple[Pair[Tensor], Exchange | None]:
        """The prompts of a later step, and the exchange from which they are generated."""
        if not self.hubs:
            return self.prompts.activate(step, acquired), None
        hub = self.hubs[(step - 1 + self.from_tokens) % len(self.hubs)]
        exchange: Exchange = self.image_encoder.checkpointed(hub, acquired, present)
        return self.prompts.activate(step, exchange.prompts), exchange

    @torch.no_grad()
    def record(self, batch: Batch) -> Recording:
        """Attention of the prompts and similarities of the hubs, computed in a forward pass."""
        recording, present = Recording([], [], []), self.presence(batch)
        image, text = self.extract(batch, present)
        prompts, exchange = self.first_prompts(image, text, present)
        for step in range(self.num_steps):
            if step:
                prompts, exchange = self.next_prompts(step, prompts, present)
            if exchange is not None:
                recording.similarities.append(exchange.similarities)
            recording.image.append(prompt_attention(self.image_tower, step, image, prompts.image))
            recording.text.append(prompt_attention(self.text_tower, step, text, prompts.text))
            image, text, prompts = self.acquire(step, image, text, prompts)
        return recording

    @property
    def matcher(self) -> ScaledCosine | None:
        """The similarity of the first exchange."""
        return self.hubs[0].similarity if self.hubs else super().matcher  # type: ignore[return-value]  # of a ModuleList


@dataclass(frozen=True)
class EPIC(Method):
    """Options of EPIC; the defaults are those of the experiments on tables.

    docs/method.md defines each option, and says which values are closest to the paper.

    Attributes:
        num_prompts: number of prompts n of each modality.
        interaction_layers: K (the last K layers of each encoder), or pairs
            ``[image layer, text layer]``, counted from 0, in which both numbers increase.
        prompt_attention: "joint": tokens and prompts attend to each other; "read_only": prompts
            attend to the frozen tokens, but tokens never to prompts.
        hub: "bottleneck", "parameter_free", or "none" (prompts stay unimodal).
        hub_width: width r of the bottleneck.
        generation: how the prompts of the next step are generated, "offset" or "linear".
        first_prompt: "tokens" (parts of the text, and the image patches that match each part),
            "independent" (learned vectors), or "from_text" (image prompts mapped from the text's).
        prompt_init_std: standard deviation of the initial prompts.
        dropout: dropout rate of the hub's inputs and messages.

    Example:
        >>> EPIC(num_prompts=2, hub_width=8).build(encoders, num_classes=3)(batch).logits.shape
        torch.Size([4, 3])
    """

    model = EPICModel

    num_prompts: int = 4
    interaction_layers: int | list[list[int]] = 2
    prompt_attention: PromptAttention = "read_only"
    hub: Hub = "bottleneck"
    hub_width: int = 128
    generation: Generation = "offset"
    first_prompt: FirstPrompt = "tokens"
    prompt_init_std: float = 0.02
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "num_prompts", "hub_width", "prompt_init_std")
        check_probabilities(self, "dropout")


@dataclass(frozen=True)
class NoInteraction(EPIC):
    """EPIC whose prompts stay in their modality: without hubs; options as in :class:`EPIC`.

    Example:
        >>> len(NoInteraction().build(encoders, num_classes=3).hubs)
        0
    """

    hub: Hub = field(default="none", init=False)
