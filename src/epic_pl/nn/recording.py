"""Records the attention of EPIC's prompts in every step, and the hubs' similarities.

Shape legend: B batch, N tokens, n prompts, h heads, K steps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from epic_pl.nn.encoders.base import read_mask
from epic_pl.nn.epic import EPIC
from epic_pl.nn.towers import JointTower, ReadOnlyTower
from epic_pl.utils.types import Batch


class Attention(NamedTuple):
    """Attention weights of one layer, averaged over heads; each prompt's weights sum to one.

    ``tokens (B, n, N)`` on the encoder's tokens, ``prompts (B, n, n)`` on the prompts.
    """

    tokens: Tensor
    prompts: Tensor


class Recording(NamedTuple):
    """Attention weights and similarities of one forward pass.

    ``image`` and ``text`` have the attention of the prompts in each of the K steps.
    ``similarities`` are ``S (B, n, n)`` of each exchange, image prompts in rows; before step 1
    ``(B, P, n)`` with P patches. They are empty without hubs.
    """

    image: list[Attention]
    text: list[Attention]
    similarities: list[Tensor]


@torch.no_grad()
def recorded(model: EPIC, batch: Batch) -> tuple[Tensor, Recording]:
    """Logits ``(B, C)`` of a batch and a recording of its attention.

    The logits come from an ordinary forward pass, the recording from a separate one.
    """
    recording, present = Recording([], [], []), model.presence(batch)
    image, text = model.extract(batch, present)
    prompts, exchange = model.first_prompts(image, text, present)
    for step in range(model.num_steps):
        if step:
            prompts, exchange = model.next_prompts(step, prompts, present)
        if exchange is not None:
            recording.similarities.append(exchange.similarities)
        recording.image.append(_attention(model.image_tower, step, image, prompts.image))
        recording.text.append(_attention(model.text_tower, step, text, prompts.text))
        image, text, prompts = model.acquire(step, image, text, prompts)
    return model(batch).logits, recording


def _attention(
    tower: JointTower | ReadOnlyTower, step: int, state: Any, prompts: Tensor
) -> Attention:
    """Attention of prompts ``(B, n, d)`` in the layer of ``step``."""
    encoder, layer = tower.encoder, tower.layers[step]
    memory, mask = tower.memory(step, state)
    queries = encoder.queries(layer, prompts)  # (B, h, n, d / h)
    both = (memory, encoder.memory(layer, prompts))
    scores = torch.cat([part.scores(queries) for part in both], dim=-1)  # (B, h, n, N + n)
    scores = scores * queries.shape[-1] ** -0.5
    seen = read_mask(mask, scores.shape[-1])
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    weights = scores.softmax(dim=-1).mean(dim=1)  # (B, n, N + n)
    return Attention(*weights.split([memory.length(), prompts.shape[1]], dim=-1))
