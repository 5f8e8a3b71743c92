"""Parts of a head that give several answers, of which validation chooses one.

Shape legend: B batch, N samples, C classes, k candidates, D features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.nn.temperature import most_likely
from epic_pl.utils.types import Task

# fewer validation rows are too few to tell which candidate is better
_ENOUGH_TO_CHOOSE = 30


class Choice(nn.Module):
    """The index of the candidate that is the answer, chosen on validation samples.

    Args:
        number: number of candidates k.
        default: index before validation, and if it has too few samples.
    """

    chosen: Tensor

    def __init__(self, number: int, default: int = 0) -> None:
        super().__init__()
        self.default, self.number = default, number
        self.register_buffer("chosen", torch.tensor(default))

    def reset(self) -> None:
        """Choose the default, as before validation."""
        self.chosen.fill_(self.default)

    def answer(self, candidates: Tensor) -> Tensor:
        """The chosen logits ``(B, C)`` among candidates ``(B, k, C)``."""
        return candidates.index_select(1, self.chosen[None])[:, 0]

    def choose(self, candidates: Tensor, labels: Tensor, task: Task) -> Tensor:
        """Choose the candidate under which labels are most likely, at 30 or more samples.

        Args:
            candidates: logits ``(N, k, C)`` of validation samples.
            labels: ``(N,)`` class indices, or ``(N, C)`` 0/1 for multilabel.
            task: "multiclass" or "multilabel".

        Returns:
            The chosen logits ``(N, C)``.
        """
        enough = len(candidates) >= _ENOUGH_TO_CHOOSE
        chosen = most_likely(candidates, labels, task) if enough else self.default
        self.chosen.fill_(chosen)
        return candidates[:, chosen]


class PenaltySweep(Choice):
    """Linear layers that differ in their penalty, trained at once; validation chooses one.

    Layer i minimises its loss plus ``p_i / 2 * |W_i|^2``, the objective of logistic regression. A
    sweep of penalties on frozen features is the protocol of DINOv2 (arXiv 2304.07193) and CLIP
    (arXiv 2103.00020).

    Args:
        num_features: number of features D.
        num_classes: number of classes C.
        penalties: p, at least one; the middle one is the default.
    """

    def __init__(self, num_features: int, num_classes: int, penalties: Sequence[float]) -> None:
        super().__init__(len(penalties), default=len(penalties) // 2)
        self.penalties = tuple(penalties)
        self.layers: Any = nn.ModuleList(nn.Linear(num_features, num_classes) for _ in penalties)

    @torch.no_grad()
    def start_at(self, prior: Tensor) -> None:
        """Let all layers give the logits ``prior (C,)`` until they are trained."""
        for layer in self.layers:
            layer.weight.zero_()
            layer.bias.copy_(prior)

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, k, C)`` of all layers on ``features (B, D)``."""
        return torch.stack([layer(features) for layer in self.layers], dim=1)

    def named(self, candidates: Tensor) -> dict[str, Tensor]:
        """The candidates ``(B, k, C)`` as logits ``(B, C)`` by the name of their penalty."""
        names = [f"penalty_{penalty:g}" for penalty in self.penalties]
        return dict(zip(names, candidates.unbind(dim=1), strict=True))

    def penalty(self) -> Tensor:
        """The sum of all layers' penalties."""
        norms = torch.stack([layer.weight.square().sum() for layer in self.layers])
        return (norms * norms.new_tensor(self.penalties)).sum() / 2
