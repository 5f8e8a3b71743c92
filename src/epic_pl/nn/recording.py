"""Records what EPIC's prompts attend to in every step, and the hubs' similarities.

The model runs unchanged; attention weights are computed a second time beside it, so that nothing
is slower while nothing records.

Shape legend: B batch, N tokens, n prompts, h heads, K steps.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from epic_pl.lazy_tensor import whole
from epic_pl.nn.encoders.base import Encoder, read_mask
from epic_pl.nn.encoders.reading import Memory, Unprojected
from epic_pl.nn.epic import EPIC
from epic_pl.nn.interaction import Exchange
from epic_pl.types import Batch


class Attention(NamedTuple):
    """The mean over heads of one layer's attention weights; a prompt's sum to one over both.

    ``tokens (B, n, N)`` of the encoder's tokens; ``prompts (B, n, n)`` of the prompts.
    """

    tokens: Tensor
    prompts: Tensor


@dataclass
class Recording:
    """Of one forward pass.

    Attributes:
        image: K attentions of the image's prompts.
        text: K of the text's.
        similarities: ``S (B, n, n)`` of each exchange, rows the image's prompts; the one before
            step 1 is ``(B, P, n)`` of P patches. None without hubs.
    """

    image: list[Attention] = field(default_factory=list)
    text: list[Attention] = field(default_factory=list)
    similarities: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def recorded(model: EPIC, batch: Batch) -> tuple[Tensor, Recording]:
    """Logits ``(B, C)`` of a batch and what was looked at; not compiled, if the model is."""
    with _listening(model) as recording:
        # calling the module would take the compiled path, which a listener cannot enter
        return model.forward(batch), recording


@contextmanager
def _listening(model: EPIC) -> Iterator[Recording]:
    """A recording that forward passes within add to."""
    recording = Recording()

    def hear(hub: Any, inputs: Any, exchange: Exchange) -> None:
        recording.similarities.append(exchange.scores)

    with ExitStack() as listeners:
        for hub in model.hubs:
            listeners.enter_context(hub.register_forward_hook(hear))
        listeners.enter_context(_listening_to(model.image_encoder, recording.image))
        listeners.enter_context(_listening_to(model.text_encoder, recording.text))
        yield recording


@contextmanager
def _listening_to(encoder: Encoder, heard: list[Attention]) -> Iterator[None]:
    """An instance's layers note what prompts see in them."""
    run_layer, read_layer = encoder.run_layer, encoder.read_layer

    def run(
        index: int, tokens: Tensor, mask: Tensor | None = None, extra: Tensor | None = None
    ) -> Any:
        if extra is None:
            return run_layer(index, tokens, mask)
        seen = encoder._attention_mask(mask, tokens, extra.shape[1])
        heard.append(_attention(encoder, index, extra, encoder.memory(index, tokens), seen))
        return run_layer(index, tokens, mask, extra)

    def read(
        index: int, stream: Tensor, memory: Memory | Unprojected, mask: Tensor | None = None
    ) -> Tensor:
        assert isinstance(memory, Memory)  # the other is of a last layer that ends in the first
        seen = read_mask(mask, memory.length() + stream.shape[1])
        heard.append(_attention(encoder, index, stream, memory, seen))
        return read_layer(index, stream, memory, mask)

    # the whole last layer, whose positions are in their usual order
    own = {"run_layer": run, "read_layer": read, "ends_in_first": lambda index: False}
    vars(encoder).update(own)
    try:
        yield
    finally:
        for name in own:
            del vars(encoder)[name]


def _attention(
    encoder: Encoder, index: int, stream: Tensor, memory: Memory, seen: Tensor | None
) -> Attention:
    """Of the stream ``(B, m, d)`` over memory and stream; ``seen`` is SDPA's mask over both."""
    queries = encoder.queries(index, stream)  # (B, h, m, d / h)
    both = (memory.keys, encoder.memory(index, stream).keys)
    keys = torch.cat([whole(part).to(queries.dtype) for part in both], dim=2)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5  # (B, h, m, N + m)
    if seen is not None:
        rows = seen if seen.shape[2] == 1 else seen[:, :, -stream.shape[1] :]
        scores = scores.masked_fill(~rows, float("-inf"))
    weights = scores.softmax(dim=-1).mean(dim=1)  # (B, m, N + m)
    length = memory.length()
    return Attention(weights[..., :length], weights[..., length:])
