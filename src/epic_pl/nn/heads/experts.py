"""Classifiers of each modality alone, beside the one that sees both.

Shape legend: B batch, C classes, D features of a modality.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.nn.pair import Pair, Presence


class ExpertLogits(NamedTuple):
    """Logits ``(B, C)`` of each expert and of the joint classifier, and the prior ``(C,)``."""

    image: Tensor
    text: Tensor
    joint: Tensor
    prior: Tensor

    @property
    def averaged(self) -> Tensor:
        """Mean of the joint logits and of the experts' product, ``(B, C)``.

        If image and text are independent given the class, then ``p(c | image, text)`` is
        proportional to ``p(c | image) p(c | text) / p(c)``.
        """
        return (self.joint + self.image + self.text - self.prior) / 2

    @property
    def candidates(self) -> Tensor:
        """Logits ``(B, 2, C)`` without and with the experts."""
        return torch.stack([self.joint, self.averaged], dim=1)


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

    def forward(self, features: Pair[Tensor], present: Presence, joint: Tensor) -> ExpertLogits:
        """Logits of both experts on ``features (B, D)``, the prior where one is missing."""
        image, text = (
            logits if mask is None else torch.where(mask[:, None], logits, self.prior)
            for logits, mask in zip(
                (self.image(features.image), self.text(features.text)), present, strict=True
            )
        )
        return ExpertLogits(image, text, joint, self.prior)

    def choose(self, logits: ExpertLogits) -> Tensor:
        """The logits ``(B, C)`` of the model: the averaged ones, or the joint ones alone."""
        return torch.where(self.used, logits.averaged, logits.joint)
