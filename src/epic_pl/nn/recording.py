"""The attention of prompts in a frozen layer.

Shape legend: B batch, N tokens, n prompts, h heads, d width.
"""

from typing import Any

import torch
from torch import Tensor

from epic_pl.nn.base import Attention
from epic_pl.nn.encoders.base import read_mask
from epic_pl.nn.encoders.reading import Memory
from epic_pl.nn.pair import where_present
from epic_pl.nn.towers import JointTower, ReadOnlyTower


def prompt_attention(
    tower: JointTower | ReadOnlyTower,
    step: int,
    state: Any,
    prompts: Tensor,
    present: Tensor | None,
) -> Attention:
    """Attention of prompts ``(B, n, d)`` to tokens and prompts in the layer of ``step``.

    It is zero where the modality is missing by ``present (B,)``, since nothing uses its prompts.
    """
    encoder, layer = tower.encoder, tower.layers[step]
    memory, mask = tower.memory(step, state)
    with tower.autocast(prompts=True):
        queries, *own = encoder.heads(layer, prompts, memory, mask)  # (B, h, n, d / h)
    both = (memory, Memory(*own))
    scores = torch.cat([part.scores(queries) for part in both], dim=-1)  # (B, h, n, N + n)
    scores = scores * queries.shape[-1] ** -0.5
    seen = read_mask(mask, scores.shape[-1])
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    weights = where_present(scores.softmax(dim=-1).mean(dim=1), present)  # (B, n, N + n)
    tokens = memory.length()
    return Attention(weights[..., :tokens], weights[..., tokens:])
