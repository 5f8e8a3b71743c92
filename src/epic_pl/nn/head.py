"""The classification head. Shape legend: B batch, C classes."""

from typing import Literal

import torch
from torch import Tensor, nn

HeadNorm = Literal["parts", "joint"]


class ClassificationHead(nn.Module):
    """``logits = Linear(Dropout(h))`` with ``h`` the normalised features of all parts.

    Encoders differ in scale (DINOv2's class token has six times the standard deviation of MiniLM's
    mean): under one LayerNorm over the joined features the smaller one hardly counts.

    Args:
        widths: of the parts, in their order.
        num_classes: C.
        dropout: probability with which a feature is dropped in training.
        norm: "parts": a LayerNorm for each part; "joint": one over all.
    """

    def __init__(
        self,
        widths: list[int],
        num_classes: int,
        dropout: float = 0.0,
        norm: HeadNorm = "parts",
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in widths) if norm == "parts" else None
        self.norm = nn.LayerNorm(sum(widths)) if norm == "joint" else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(widths), num_classes)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Parts ``(B, w)`` to logits ``(B, C)``."""
        if self.norms is not None:
            parts = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        features = torch.cat(parts, dim=-1)  # (B, sum of widths)
        if self.norm is not None:
            features = self.norm(features)
        logits: Tensor = self.linear(self.dropout(features))
        return logits
