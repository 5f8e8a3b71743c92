"""Feature standardisation before a linear layer.

Shape legend: B batch, D features.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from epic_pl.nn.pair import where_present

# minimum weight of a batch in the running statistics
_MOMENTUM = 0.05
# maximum of the stored sample count, which half precision can represent
_MAX_COUNT = 32_768
_EPSILON = 1e-6


class Standardization(nn.Module):
    """``(x - mean) / std`` for each feature, with running statistics of the training samples.

    Encoders differ in scale; without this layer features with the larger variance dominate. It is
    the linear-probe recipe of MAE (arXiv 2111.06377, ``BatchNorm1d(affine=False)``), but training
    uses the running statistics, too, so it computes the same function as evaluation. Samples whose
    modality is missing are excluded, and ranks share their statistics.

    Args:
        width: number of features D.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Standardised ``features (B, D)``; only rows that are ``present (B,)`` are counted."""
        if self.training:
            self._update(features.detach(), present)
        scale = (self.variance + _EPSILON).rsqrt()
        return ((features - self.mean) * scale).to(features.dtype)

    @torch.no_grad()
    def _update(self, features: Tensor, present: Tensor | None) -> None:
        features = features.to(self.mean.dtype)
        weights = torch.ones_like(features[:, :1]) if present is None else present[:, None]
        total = _over_ranks(
            torch.cat([where_present(features, present).sum(dim=0), weights.sum()[None].float()])
        )
        number = total[-1]
        mean = total[:-1] / number.clamp(min=1)
        variance = _over_ranks(where_present((features - mean).square(), present).sum(dim=0))
        variance = variance / number.clamp(min=1)
        share = number / (self.count + number).clamp(min=1)
        share = torch.where(number > 0, share.clamp(min=_MOMENTUM), 0.0)
        delta = mean - self.mean
        moved = self.variance + share * (variance - self.variance)
        moved = moved + share * (1 - share) * delta.square()
        self.count.add_(number).clamp_(max=_MAX_COUNT)
        self.mean += share * delta
        # one sample has no variance
        self.variance.copy_(torch.where(self.count > 1, moved, self.variance))


def _over_ranks(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes of a distributed run."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
