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
from torch import Tensor

from epic_pl.nn.base import DualEncoder, Method, Recording, layer_pairs
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output
from epic_pl.nn.interaction import Compared, Exchange, Hub, build_hubs, where_parts_fit
from epic_pl.nn.pair import Pair, Presence
from epic_pl.nn.prompts import FirstPrompt, Generation, TemporalPrompts
from epic_pl.nn.recording import prompt_attention
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

    image_tower: JointTower | ReadOnlyTower
    text_tower: JointTower | ReadOnlyTower

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "EPIC", head: HeadConfig
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
        # the head takes the last step's prompts as they are, so no hub follows it
        exchanges = self.num_steps - 1 + self.from_tokens
        bottleneck = method.hub_width, method.dropout
        self.hubs = build_hubs(method.hub, exchanges, self.widths, *bottleneck)
        self.head = ClassificationHead(
            self.widths,
            num_classes,
            head,
            prompts=True,
            num_part_features=3 * n if method.hub != "none" and self.from_tokens else 0,
        )

    def forward(self, batch: Batch) -> Output:
        """Logits and features of a batch, as in the equations of docs/method.md."""
        return self._run(batch, None)

    @torch.no_grad()
    def record(self, batch: Batch) -> Recording:
        """Attention of the prompts and similarities of the hubs, computed in a forward pass."""
        recording = Recording([], [], [])
        self._run(batch, recording)
        return recording

    def _run(self, batch: Batch, recording: Recording | None) -> Output:
        """The output of a batch; attention and similarities are added to a ``recording``."""
        present = self.presence(batch)
        image, text = self.extract(batch, present)  # U at the first interaction layers
        first = exchange = self.compare_tokens(image, text, present)
        prompts = self.prompts.first(text.mask.shape[0], first)  # P^1
        for step in range(self.num_steps):
            if step:
                exchange = self.consolidate(step, prompts, present)  # C^k
                first = first or exchange
                prompts = self.prompts.activate(step, exchange.prompts)  # P^{k+1}
            if recording is not None:
                if exchange is not None and exchange.similarities is not None:
                    recording.similarities.append(exchange.similarities)
                of_image = self.image_tower, step, image, prompts.image, present.image
                recording.image.append(prompt_attention(*of_image))
                of_text = self.text_tower, step, text, prompts.text, present.text
                recording.text.append(prompt_attention(*of_text))
            image, text, prompts = self.acquire(step, image, text, prompts)  # Z^k
        return self.classify(self.pool(image, text), prompts, present, *self.read(first))

    def compare_tokens(self, image: Any, text: Any, present: Presence) -> Exchange | None:
        """The exchange of image patches and parts of the text before step 1.

        The first prompts start from it, so those of the image depend on the text. None if the first
        prompts are learned vectors alone.
        """
        if not self.from_tokens:
            return None
        given = image.tokens, text.tokens, text.mask, present.image, present.text
        return cast(Exchange, self.image_encoder.checkpointed_by_rows(self._compare, *given))

    def _compare(
        self, image: Tensor, text: Tensor, mask: Tensor, *present: Tensor | None
    ) -> Exchange:
        patches = self.image_tower.content_tokens(image)
        parts = self.prompts.parts(self.text_tower.content_tokens(text), mask)
        return cast(Exchange, self.hub(0).exchange_parts(Pair(patches, parts), Presence(*present)))

    def acquire(
        self, step: int, image: Any, text: Any, prompts: Pair[Tensor]
    ) -> tuple[Any, Any, Pair[Tensor]]:
        """States of both towers after the step's layer, and what the prompts acquired there."""
        image, acquired_image = self.image_tower.acquire(step, image, prompts.image)
        text, acquired_text = self.text_tower.acquire(step, text, prompts.text)
        return image, text, Pair(acquired_image, acquired_text)

    def consolidate(self, step: int, acquired: Pair[Tensor], present: Presence) -> Exchange:
        """The exchange of the prompts between the layers of the step before and of ``step``."""
        return cast(Exchange, self.image_encoder.checkpointed(self.hub(step), acquired, present))

    def hub(self, step: int) -> Any:
        """The hub before a step, which is the same for all steps if it has no parameters."""
        return self.hubs[(step - (not self.from_tokens)) % len(self.hubs)]

    def read(self, first: Exchange | None) -> tuple[Tensor | None, Compared | None]:
        """What the head and the matching loss read of the first exchange.

        They are the locations of the text's parts in the image, ``(B, 3 n)``, if tokens were
        compared, and the vectors that were compared.
        """
        if first is None or first.similarities is None or first.compared is None:
            return None, None
        hub: Any = self.hubs[0]
        compared = Compared(*first.compared, hub.similarity.temperature)
        return where_parts_fit(first.similarities) if self.from_tokens else None, compared


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

    num_prompts: int = 2
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
        >>> NoInteraction().build(encoders, num_classes=3).hubs
        ModuleList(
          (0): NoHub()
        )
    """

    hub: Hub = field(default="none", init=False)
