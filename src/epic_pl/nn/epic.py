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

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any, Literal

import torch
from torch import Tensor

from epic_pl.nn.base import DualEncoder, Method, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output
from epic_pl.nn.hub import Consolidated, HubKind, Matched, ScaledCosine, build_hubs, where_parts_fit
from epic_pl.nn.pair import Pair, Presence
from epic_pl.nn.prompts import FirstPrompt, Generation, TemporalPrompts
from epic_pl.nn.recording import RecordedState, Recording, recorded_outputs
from epic_pl.nn.towers import JointTower, ReadOnlyTower
from epic_pl.utils.types import Batch
from epic_pl.utils.validate import check_choices, check_positive, check_probabilities

PromptAttention = Literal["joint", "read_only"]


class EPICModel(DualEncoder):
    """Two frozen encoders with interacting prompts, and a classification head.

    Args:
        encoders: the frozen image and text encoder.
        num_classes: number of classes C.
        method: options of the method.
        head: parts of the head.

    Raises:
        ConfigError: if ``method`` does not fit the encoders' depths.
    """

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "EPIC", head: HeadConfig
    ) -> None:
        pairs = layer_pairs(method.interaction_layers, encoders)
        layers = Pair(*zip(*pairs, strict=True))
        joint = method.prompt_attention == "joint"
        tower: type[JointTower | ReadOnlyTower] = JointTower if joint else ReadOnlyTower
        self.from_tokens = method.first_prompt == "tokens"
        super().__init__(
            tower(encoders.image, layers.image, self.from_tokens),
            tower(encoders.text, layers.text, self.from_tokens),
        )
        self.method = method
        self.num_steps = len(pairs)
        self.prompts = TemporalPrompts(
            self.num_steps,
            method.num_prompts,
            self.widths,
            method.first_prompt,
            method.generation,
            method.prompt_init_std,
            method.num_parts,
        )
        # the head takes the last step's prompts as they are, so no hub follows it
        number = self.num_steps - 1 + self.from_tokens
        self.hubs = build_hubs(method.hub, number, self.widths, method.hub_width, method.dropout)
        self.head = ClassificationHead(
            self.widths,
            num_classes,
            head,
            prompts=True,
            num_part_features=3 * method.num_parts * (method.hub != "none" and self.from_tokens),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits and features of a batch, as in the equations of docs/method.md."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)  # U at the first interaction layers
        encoder = self.image_encoder  # knows whether hubs run again in the backward pass
        hubs: Iterator[Any] = cycle(self.hubs)  # one for each consolidation, or the same for all
        first: Consolidated | None = None
        if self.from_tokens:
            consolidate = partial(self.consolidate_tokens, next(hubs))
            first = encoder.checkpointed_by_rows(
                consolidate,
                image.content_tokens(),
                text.content_tokens(),
                text.mask,
                present.image,
                present.text,
            )
        prompts = self.prompts.first(batch["attention_mask"].shape[0], first)  # P^1
        for step in range(self.num_steps):
            if step:
                consolidated = encoder.checkpointed(next(hubs), prompts, present)  # C^k
                first = first or consolidated
                prompts = self.prompts.activate(step, consolidated.prompts)  # P^{k+1}
            image, acquired_image = image.acquire(step, prompts.image)
            text, acquired_text = text.acquire(step, prompts.text)
            prompts = Pair(acquired_image, acquired_text)  # Z^k
        pooled = Pair(image.pool(), text.pool())
        if first is None or first.similarities is None or first.projected is None:
            return self.classify(batch, pooled, prompts, present)
        places = where_parts_fit(first.similarities) if self.from_tokens else None
        hub: Any = self.hubs[0]
        matched = Matched(*first.projected, hub.similarity.temperature)
        return self.classify(batch, pooled, prompts, present, places, matched)

    def consolidate_tokens(
        self, hub: Any, patches: Tensor, words: Tensor, mask: Tensor, *present: Tensor | None
    ) -> Consolidated:
        """Image patches and parts of the text before step 1, from which the first prompts start.

        So those of the image depend on the text.
        """
        parts = self.prompts.parts(words, mask)
        tokens, number = Pair(patches, parts), self.method.num_prompts
        consolidated: Consolidated = hub.of_tokens(tokens, Presence(*present), number)
        return consolidated

    @torch.no_grad()
    def record(self, batch: Batch) -> Recording:
        """Attention of the prompts and similarities of the hubs, computed in a forward pass."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)
        image = RecordedState(self.image_tower, image, present.image)
        text = RecordedState(self.text_tower, text, present.text)
        cosines = [part for part in self.hubs.modules() if isinstance(part, ScaledCosine)]
        with recorded_outputs(cosines) as similarities:
            self({**batch, "states": (image, text)})
        parts = None
        if self.from_tokens and similarities and text.mask is not None:
            parts = self.prompts.parts.weights(text.content_tokens(), text.mask)
        return Recording(image.attention, text.attention, similarities, parts)


@dataclass(frozen=True)
class EPIC(Method):
    """Options of EPIC; the defaults are those of the experiments on tables.

    docs/method.md defines each option, and says which values are closest to the paper.

    Attributes:
        num_prompts: number of prompts n of each modality.
        num_parts: number of parts m of the text that are located in the image, with
            ``first_prompt`` "tokens"; the first prompts are means of m / n neighbours.
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

    num_prompts: int = 2
    num_parts: int = 8
    interaction_layers: int | list[list[int]] = 2
    prompt_attention: PromptAttention = "read_only"
    hub: HubKind = "bottleneck"
    hub_width: int = 128
    generation: Generation = "offset"
    first_prompt: FirstPrompt = "tokens"
    prompt_init_std: float = 0.02
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "num_prompts", "num_parts", "hub_width", "prompt_init_std")
        check_probabilities(self, "dropout")


@dataclass(frozen=True)
class NoInteraction(EPIC):
    """EPIC whose prompts stay in their modality: without hubs; options as in :class:`EPIC`.

    Example:
        >>> NoInteraction().build(encoders, num_classes=3).hubs
        ModuleList(
          (0): NoHub()
        )
    """

    hub: HubKind = field(default="none", init=False)
