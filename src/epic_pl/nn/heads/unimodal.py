"""Logits of its own for a sample with a missing modality.

Shape legend: B batch, C classes, D features, K layer means, d encoder width.
"""

import torch
from torch import Tensor, nn

from epic_pl.nn.heads.standardization import Standardization
from epic_pl.nn.pair import Pair, Presence


class UnimodalHead(nn.Module):
    """``Linear_m([h_m; layer means])``, added for samples that have modality m alone.

    Beside a modality that nearly decides, the other one only corrects; alone it has to name the
    class, and more of its layers help. Not part of the paper. The weights are zero at the start.

    Args:
        widths: D_v and D_t.
        mean_widths: K d_v and K d_t, zero without layer means.
        num_classes: number of classes C.
        dropout: probability with which a feature is dropped in training.
    """

    def __init__(
        self, widths: Pair[int], mean_widths: Pair[int], num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.standardize_image, self.standardize_text = map(Standardization, mean_widths)
        self.linear_image, self.linear_text = (
            nn.Linear(width + means, num_classes, bias=False)
            for width, means in zip(widths, mean_widths, strict=True)
        )
        nn.init.zeros_(self.linear_image.weight)
        nn.init.zeros_(self.linear_text.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Pair[Tensor], means: Pair[Tensor], present: Presence) -> Tensor:
        """Logits ``(B, C)``, zero for samples with both modalities or none.

        Args:
            features: ``(B, D_v)`` and ``(B, D_t)``.
            means: layer means ``(B, K d_v)`` and ``(B, K d_t)``.
            present: masks.
        """
        image, text = (_mask(mask, features.image) for mask in present)
        means_image = self.standardize_image(means.image, image)
        means_text = self.standardize_text(means.text, text)
        from_image = self.linear_image(self.dropout(torch.cat([features.image, means_image], -1)))
        from_text = self.linear_text(self.dropout(torch.cat([features.text, means_text], -1)))
        # in the graph for every sample: DDP waits for a gradient of each tensor in every step
        logits: Tensor = torch.where((image & ~text)[:, None], from_image, 0) + torch.where(
            (text & ~image)[:, None], from_text, 0
        )
        return logits


def _mask(present: Tensor | None, features: Tensor) -> Tensor:
    if present is not None:
        return present
    return torch.ones(features.shape[0], dtype=torch.bool, device=features.device)
