"""The matching loss: a picture is told from others by its own text, and the other way round.

Shape legend: B batch, n prompts (or one vector), r width of the common space.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.errors import ConfigError
from epic_pl.nn.interaction import ScaledCosine


class MatchingLoss:
    """InfoNCE (arXiv 1807.03748) in both directions within a batch, as CLIP's (arXiv 2103.00020).

    A label says that a pair matches, not what in it: of few rows, no alignment is learned. This
    loss learns it from the pairs that match, B - 1 others against each. How well picture i fits
    text j is the mean over prompts of ``logsumexp S_ij`` over the prompts of the other modality.
    Each rank of a distributed run compares within its own batch.

    Args:
        matcher: makes ``S`` of both modalities before either has seen the other.
        classes: labels of the rows that match.
    """

    def __init__(self, matcher: ScaledCosine, classes: Sequence[int]) -> None:
        self.matcher = matcher
        self.classes = torch.tensor(classes)
        self._heard: list[tuple[Tensor, Tensor]] | None = None
        matcher.register_forward_hook(self._hear)

    def _hear(self, matcher: ScaledCosine, given: Any, scores: Tensor) -> None:
        if self._heard is not None:
            self._heard.append(given)

    def __call__(self, forward: Callable[[], Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """What ``forward``, a pass of the model, returns, and the loss; 0 where no row matches."""
        self._heard = []
        try:
            logits = forward()
            return logits, self._loss(*self._heard[-1], labels)
        finally:  # other passes are not listened to, and a copy of the model holds no graph
            self._heard = None

    def _loss(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:  # (B, n, r) each
        size = len(labels)
        # what a missing modality would give is zero
        both = image.flatten(1).any(dim=1) & text.flatten(1).any(dim=1)
        rows = torch.isin(labels, self.classes.to(labels.device)) & both
        scores = self.matcher.forward(image.flatten(0, 1)[None], text.flatten(0, 1)[None])
        scores = scores.view(size, -1, size, text.shape[1])  # (B, n, B, n)
        fit = scores.logsumexp(dim=1).mean(dim=2) + scores.logsumexp(dim=3).mean(dim=1)
        own = torch.arange(size, device=labels.device)
        losses = sum(F.cross_entropy(each / 2, own, reduction="none") for each in (fit, fit.T))
        return (torch.where(rows, losses, 0).sum() / 2) / rows.sum().clamp(min=1)


def build_matching_loss(
    matcher: ScaledCosine | None, matched: Sequence[str] | None, class_names: Sequence[str]
) -> MatchingLoss | None:
    """The loss of a model; None where the data has no such classes, or the model no similarities.

    Raises:
        ConfigError: a class that does not exist.
    """
    for name in matched or ():
        if name not in class_names:
            raise ConfigError(
                f"model.loss.matched_classes names {name!r}; the classes are "
                f"{', '.join(class_names)}."
            )
    if not matched or matcher is None:
        return None
    return MatchingLoss(matcher, [class_names.index(name) for name in matched])
