"""What happens to prompts inside a forward pass, for explanations.

Shape legend: B batch, N tokens, P patches, m parts, n prompts, h heads, d width, K steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import key_mask
from epic_pl.nn.encoders.memory import Memory
from epic_pl.nn.heads.inputs import Pooled
from epic_pl.nn.pair import where_present
from epic_pl.nn.towers import State, Tower


class Attention(NamedTuple):
    """Attention weights of the prompts in one layer, averaged over heads.

    ``tokens (B, n, N)`` are weights on the encoder's tokens, ``prompts (B, n, n)`` on the prompts.
    The weights of each prompt on both sum to one.
    """

    tokens: Tensor
    prompts: Tensor


class Recording(NamedTuple):
    """Attention and similarities of one forward pass, for explanations.

    ``image`` and ``text`` have the attention of the prompts in each of the K steps.
    ``similarities`` has ``S (B, n, n)`` of each hub, with image prompts in rows. If the first
    prompts come from tokens, the first one is ``(B, P, m)``, with P patches in rows, and ``parts
    (B, m, N)`` has the weights of tokens in the m parts of the text. Without hubs both are empty.
    """

    image: list[Attention]
    text: list[Attention]
    similarities: list[Tensor]
    parts: Tensor | None = None


@dataclass(frozen=True)
class RecordedState:
    """A state that keeps the attention of the prompts in each step.

    It is zero where the modality is missing by ``present (B,)``, since nothing uses its prompts.
    """

    tower: Tower
    state: State
    present: Tensor | None
    attention: list[Attention] = field(default_factory=list)

    @property
    def mask(self) -> Tensor | None:
        """As that of the state."""
        return self.state.mask

    def content_tokens(self) -> Tensor:
        """As those of the state."""
        return self.state.content_tokens()

    def acquire(self, step: int, prompts: Tensor) -> tuple[Self, Tensor]:
        """As that of the state."""
        weights = prompt_attention(self.tower, step, self.state, prompts)
        self.attention.append(Attention(*(where_present(part, self.present) for part in weights)))
        state, acquired = self.state.acquire(step, prompts)
        return replace(self, state=state), acquired

    def memory(self, step: int) -> tuple[Memory, Tensor | None]:
        """As that of the state."""
        return self.state.memory(step)

    def pool(self) -> Pooled:
        """As that of the state."""
        return self.state.pool()


@contextmanager
def recorded_outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list to which each call of a module in the context adds its output."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def prompt_attention(tower: Tower, step: int, state: State, prompts: Tensor) -> Attention:
    """Attention of prompts ``(B, n, d)`` to tokens and prompts in the layer of ``step``."""
    encoder, layer = tower.encoder, tower.layers[step]
    memory, mask = state.memory(step)
    with tower.autocast(prompts=True):
        queries, *own = encoder.heads(layer, prompts, memory, mask)  # (B, h, n, d / h)
    both = (memory, Memory(*own))
    scores = torch.cat([part.scores(queries) for part in both], dim=-1)  # (B, h, n, N + n)
    scores = scores * queries.shape[-1] ** -0.5
    seen = key_mask(mask, scores.shape[-1])
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    weights = scores.softmax(dim=-1).mean(dim=1)  # (B, n, N + n)
    tokens = memory.length()
    return Attention(weights[..., :tokens], weights[..., tokens:])
