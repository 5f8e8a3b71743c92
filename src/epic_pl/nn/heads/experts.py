"""Classifiers of each modality alone, beside the one that sees both.

Shape legend: B batch, C classes, D features of a modality.
"""

import torch
from torch import Tensor, nn

from epic_pl.nn.pair import Pair, Presence
from epic_pl.nn.temperature import most_likely
from epic_pl.utils.types import Task

# fewer validation rows are too few to tell whether experts help
_ENOUGH_TO_CHOOSE = 30


class ModalityExperts(nn.Module):
    """A linear classifier of each modality, and how its logits join those of both modalities.

    A network that also sees the weaker modality overfits to it: on SNLI-VE it is less accurate than
    on the text alone. Each expert is trained by a loss of its own, so it does not depend on the
    other modality. Where labels say whether both match, experts can only overfit: then validation
    rows are more likely without them, and :attr:`used` becomes False.

    Args:
        widths: D of the image and of the text.
        num_classes: number of classes C.
    """

    used: Tensor
    prior: Tensor

    def __init__(self, widths: Pair[int], num_classes: int) -> None:
        super().__init__()
        self.image, self.text = (nn.Linear(width, num_classes) for width in widths)
        self.register_buffer("used", torch.tensor(True))
        self.register_buffer("prior", torch.zeros(num_classes))

    @torch.no_grad()
    def start_at(self, prior: Tensor) -> None:
        """Let both experts give the logits ``prior (C,)`` until they are trained."""
        self.prior.copy_(prior)
        for expert in (self.image, self.text):
            expert.weight.zero_()
            expert.bias.copy_(prior)

    @torch.no_grad()
    def move_to(self, prior: Tensor) -> None:
        """Change the prior to ``prior (C,)``; what the experts tell beyond the prior stays."""
        for expert in (self.image, self.text):
            expert.bias.add_(prior.to(self.prior) - self.prior)
        self.prior.copy_(prior)

    def reset(self) -> None:
        """Use the experts, as before validation."""
        self.used.fill_(True)

    def forward(self, features: Pair[Tensor], present: Presence) -> Pair[Tensor]:
        """Logits ``(B, C)`` of both on ``features (B, D)``; the prior for a missing modality."""

        def logits(expert: nn.Module, given: Tensor, mask: Tensor | None) -> Tensor:
            made: Tensor = expert(given)
            return made if mask is None else torch.where(mask[:, None], made, self.prior)

        image = logits(self.image, features.image, present.image)
        return Pair(image, logits(self.text, features.text, present.text))

    def candidates(self, joint: Tensor, experts: Pair[Tensor]) -> Tensor:
        """Logits ``(B, 2, C)`` with and without the experts.

        With them it is the mean of the joint logits and of the experts' product. If image and text
        are independent given the class, then ``p(c | image, text)`` is proportional to
        ``p(c | image) p(c | text) / p(c)``.
        """
        averaged = (joint + experts.image + experts.text - self.prior) / 2
        return torch.stack([averaged, joint], dim=1)

    def answer(self, candidates: Tensor) -> Tensor:
        """The model's logits ``(B, C)`` among the candidates."""
        return torch.where(self.used, candidates[:, 0], candidates[:, 1])

    def choose(self, candidates: Tensor, labels: Tensor, task: Task) -> Tensor:
        """Use the experts if labels are more likely with them, at 30 or more samples.

        Args:
            candidates: logits ``(N, 2, C)`` of validation samples.
            labels: ``(N,)`` class indices, or ``(N, C)`` 0/1 for multilabel.
            task: "multiclass" or "multilabel".

        Returns:
            The chosen logits ``(N, C)``.
        """
        enough = len(candidates) >= _ENOUGH_TO_CHOOSE
        chosen = most_likely(candidates, labels, task) if enough else 0
        self.used.fill_(chosen == 0)
        return candidates[:, chosen]
