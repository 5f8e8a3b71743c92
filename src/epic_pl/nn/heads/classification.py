"""The classification head.

Shape legend: B batch, C classes, w width of a part.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.heads.similarity import Agreement

HeadNorm = Literal["parts", "joint"]


class AloneHead(nn.Module):
    """``Linear(Dropout(h_m))``: logits that only a sample without a picture or a text gets.

    Beside a modality that nearly decides, what the other one says is a correction, and few of its
    vectors are best; alone it has to name the class. So this map may see more of a modality than
    the one that all samples share. It starts at zero, and sees nothing of the absent one.

    Args:
        widths: of the parts, which are the picture's and the text's in turn.
        num_classes: C.
        dropout: probability with which a feature is dropped in training.
        scales: what the LayerNorm of each part starts at.
        summaries: how many parts, the first ones, are what the encoders say.
    """

    head_decay = ("linear.weight",)
    """Its tensors that decay as ``head_weight_decay`` says."""

    def __init__(
        self,
        widths: list[int],
        num_classes: int,
        dropout: float = 0.0,
        scales: Sequence[float] | None = None,
        summaries: int = 2,
    ) -> None:
        super().__init__()
        self.norms = _part_norms(widths, scales)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(widths), num_classes, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.summaries = summaries

    def start_from_rows(self, part: int, mean: Tensor, scale: float) -> None:
        """Let a part's LayerNorm give ``scale * (x - mean)`` at first, where x is normalised."""
        _standardise(self.norms[part], mean, scale)

    def forward(
        self,
        parts: list[Tensor],
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        summaries_only: bool = False,
    ) -> Tensor:
        """Parts ``(B, w)`` to logits ``(B, C)``, zero where both modalities are present, or none.

        ``image_present`` and ``text_present`` are ``(B,)`` bool. With ``summaries_only`` the
        logits are what the first parts give, those of no prompts.
        """
        everyone = parts[0].new_ones(parts[0].shape[0], dtype=torch.bool)
        image = everyone if image_present is None else image_present
        text = everyone if text_present is None else text_present
        alone = (image & ~text, text & ~image)
        seen = []
        for number, (norm, part) in enumerate(zip(self.norms, parts, strict=True)):
            here = alone[number % 2][:, None]
            if summaries_only and number >= self.summaries:
                here = torch.zeros_like(here)
            # not even a NaN in the place of what does not count gets on; and the norms are in the
            # graph in any case: DDP wants a gradient in every step
            seen.append(norm(torch.where(here, part, 0)) * here)
        logits: Tensor = self.linear(self.dropout(torch.cat(seen, dim=-1)))
        return logits


class ClassificationHead(nn.Module):
    """``logits = Linear(Dropout(h))`` with ``h`` the normalised features of all parts.

    Encoders differ in scale (DINOv2's class token has six times the standard deviation of MiniLM's
    mean): under one LayerNorm over the joined features the smaller one hardly counts.

    Args:
        widths: of the parts, in their order.
        num_classes: C.
        dropout: probability with which a feature is dropped in training.
        norm: "parts": a LayerNorm for each part; "joint": one over all.
        agreement: adds a linear map of how alike both modalities are.
        scales: what the LayerNorm of each part starts at ("parts" only); a part with less weighs
            less, and is learned by heart later.
        alone: adds logits that only samples without a picture or without a text get.
        summaries: how many parts, the first ones, are what the encoders make of picture and text in
            turn; others are of prompts.
    """

    head_decay = ("linear.weight",)
    """Its tensors that decay as ``head_weight_decay`` says."""

    def __init__(
        self,
        widths: list[int],
        num_classes: int,
        dropout: float = 0.0,
        norm: HeadNorm = "parts",
        agreement: Agreement | None = None,
        scales: Sequence[float] | None = None,
        alone: AloneHead | None = None,
        summaries: int = 2,
    ) -> None:
        super().__init__()
        self.norms = _part_norms(widths, scales) if norm == "parts" else None
        self.norm = nn.LayerNorm(sum(widths)) if norm == "joint" else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(widths), num_classes)
        self.agreement = agreement
        self.alone = alone
        self.summaries = summaries
        self._widths = widths

    @property
    def has_summaries(self) -> bool:
        """Whether there are summaries of both modalities to start from; a method may mix them."""
        return len(self._widths) >= self.summaries

    @torch.no_grad()
    def start_from_names(self, part: int, names: Tensor, scale: float) -> None:
        """Point a part's weights at the names of the classes, encoded as that part is.

        Few rows a class say less than the class's name does. What all names have in common says
        nothing, so it is taken out.

        Args:
            part: which one, counted from 0.
            names: ``(C, w)``.
            scale: length of each class's weights for the part; that of random ones is about
                ``sqrt(w / (3 * sum of widths))``, 0.29 for one of four equal parts.
        """
        start = sum(self._widths[:part])
        names = F.layer_norm(names, names.shape[-1:])  # as the part will be
        names = F.normalize(names - names.mean(dim=0), dim=-1)
        self.linear.weight[:, start : start + self._widths[part]] = scale * names

    def start_from_rows(self, part: int, mean: Tensor, scale: float) -> None:
        """Let a part's LayerNorm give ``scale * (x - mean)`` at first, where x is normalised.

        Args:
            part: which one, counted from 0.
            mean: ``(w,)``, of the normalised part over rows.
            scale: the inverse of its standard deviation, or what a modality's weight makes of it.
        """
        assert self.norms is not None, "one norm over all parts has no part to start"
        _standardise(self.norms[part], mean, scale)

    def forward(
        self,
        parts: list[Tensor],
        alone: list[Tensor] | None = None,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        summaries_only: bool = False,
    ) -> Tensor:
        """Parts ``(B, w)`` to logits ``(B, C)``; the agreement has its own.

        ``alone`` are the parts of :class:`AloneHead`, ``image_present`` and ``text_present (B,)``
        bool who is there: they count where the head has one. With ``summaries_only`` the logits
        are what the first parts give, those of no prompts.
        """
        if self.norms is not None:
            parts = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        features = torch.cat(parts, dim=-1)  # (B, sum of widths)
        if self.norm is not None:
            features = self.norm(features)
        if summaries_only:
            rest = sum(self._widths[self.summaries :])
            features = F.pad(features[:, : features.shape[1] - rest], (0, rest))
        logits: Tensor = self.linear(self.dropout(features))
        if self.alone is not None:
            logits = logits + self.alone(alone, image_present, text_present, summaries_only)
        return logits


def _part_norms(widths: Sequence[int], scales: Sequence[float] | None) -> nn.ModuleList:
    norms = [nn.LayerNorm(width) for width in widths]
    for norm, scale in zip(norms, scales or [1.0] * len(widths), strict=True):
        nn.init.constant_(norm.weight, scale)
    return nn.ModuleList(norms)


@torch.no_grad()
def _standardise(norm: nn.Module, mean: Tensor, scale: float) -> None:
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.fill_(scale)
    norm.bias.copy_(-scale * mean)
