"""A method of your own: a gate that sees both modalities scales the pooled features of each."""

from dataclasses import dataclass

import torch
from torch import nn

from epic_pl.nn import HeadConfig, Output, Pair
from epic_pl.nn.encoders import Encoder
from epic_pl.nn.methods.no_prompts import NoPrompts, NoPromptsModel
from epic_pl.nn.pair import where_present
from epic_pl.utils.types import Batch


class GatedModel(NoPromptsModel):
    """The head on gated features of frozen encoders."""

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "Gated", head: HeadConfig
    ) -> None:
        super().__init__(encoders, num_classes, method, head)
        hidden, inputs = method.width, sum(self.widths)
        self.gate = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 2))

    def forward(self, batch: Batch) -> Output:
        """Logits of a batch; a missing modality counts as zeros."""
        present = self.presence(batch)
        pooled = [state.pool() for state in self.extract(batch, present)]
        both = [where_present(pooled[side].output, present[side]) for side in (0, 1)]
        gates = self.gate(torch.cat(both, dim=1)).sigmoid()  # (B, 2)
        scaled = (both[side] * gates[:, side : side + 1] for side in (0, 1))
        gated = [side._replace(output=output) for side, output in zip(pooled, scaled, strict=True)]
        return self.classify(batch, Pair(*gated), None, present)


@dataclass(frozen=True)
class Gated(NoPrompts):
    """Gated fusion; ``width`` is that of the gate's hidden layer."""

    model = GatedModel

    width: int = 64
