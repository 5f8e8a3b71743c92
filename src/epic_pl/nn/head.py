"""The classification head. Shape legend: B batch, h joined width, C classes."""

from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """``logits = Linear(Dropout(LN(h)))``.

    Args:
        width: h, the width of the joined features.
        num_classes: C.
        dropout: probability with which a feature is dropped in training.
    """

    def __init__(self, width: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Joined features ``(B, h)`` to logits ``(B, C)``."""
        logits: Tensor = self.linear(self.dropout(self.norm(features)))
        return logits
