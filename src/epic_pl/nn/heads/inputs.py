"""The features of a modality that the classifiers of a head read.

Shape legend: B batch, n prompts, d encoder width, D features.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from epic_pl.nn.pair import where_present

# minimum weight of a batch in the running statistics
_MOMENTUM = 0.05
# maximum of the stored sample count, which half precision can represent
_MAX_COUNT = 32_768
_EPSILON = 1e-6


class Pooled(NamedTuple):
    """Pooled features of one modality.

    ``output (B, d)`` is the encoder's pooled output; the boundary features ``boundary (B, d)`` are
    the mean of the tokens that enter the first interaction layer.
    """

    output: Tensor
    boundary: Tensor


class EncoderFeatures(nn.Module):
    """The encoder's part of a modality's features: pooled output and, if asked, boundary features.

    Args:
        width: encoder width d.
        boundary: whether to include the boundary features.
    """

    def __init__(self, width: int, boundary: bool) -> None:
        super().__init__()
        self.boundary = boundary
        self.encoder_width = width * (1 + boundary)

    def of_encoder(self, pooled: Pooled) -> Tensor:
        """The features ``(B, D)`` of an encoder's ``pooled`` ones, before standardisation."""
        if not self.boundary:
            return pooled.output
        return torch.cat([pooled.output, pooled.boundary], dim=-1)


class ModalityFeatures(EncoderFeatures):
    """Features ``h_m (B, D)``: standardised pooled output, boundary features and mean prompt.

    If the modality is missing, a learned missing-modality embedding replaces the encoder's part.
    It is initialised as zero, the features' mean over the training set. In a unimodal sample, the
    mean prompts of both modalities are zero, since they could not interact.

    Args:
        width: encoder width d.
        boundary: whether to include the boundary features.
        prompts: whether to include the mean prompt.
    """

    def __init__(self, width: int, boundary: bool, prompts: bool) -> None:
        super().__init__(width, boundary)
        self.standardize_encoder = Standardization(self.encoder_width)
        self.missing = nn.Parameter(torch.zeros(self.encoder_width))
        self.standardize_prompts = Standardization(width) if prompts else None
        self.width = self.encoder_width + width * prompts

    def forward(
        self, pooled: Pooled, prompts: Tensor | None, present: Tensor | None, both: Tensor | None
    ) -> Tensor:
        """The features ``h_m (B, D)`` from ``pooled`` and prompts ``(B, n, d)``.

        ``present (B,)`` marks samples with the modality, ``both (B,)`` those with both.
        """
        output = self.of_encoder(pooled)
        features = self.standardize_encoder(output, present)
        # use the embedding in every step, since DDP waits for its gradient
        mask = torch.ones_like(output[:, 0], dtype=torch.bool) if present is None else present
        features = torch.where(mask[:, None], features, self.missing.to(features.dtype))
        if self.standardize_prompts is None or prompts is None:
            return features
        # prompts of unimodal samples would be outliers for the statistics of complete samples
        mean = self.standardize_prompts(prompts.mean(dim=1), both)
        return torch.cat([features, where_present(mean, both)], dim=-1)


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
        self.count.copy_((self.count + number).clamp(max=_MAX_COUNT))
        self.mean += share * delta
        # one sample has no variance
        self.variance.copy_(torch.where(self.count > 1, moved, self.variance))


def _over_ranks(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes of a distributed run."""
    if dist.is_available() and dist.is_initialized():
        values = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]  # torch
    return values


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks, also of the members of an ensemble that run in one pass."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: statistics get no gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], values: Tensor) -> tuple[Tensor, int]:
        return _SumOverRanks.apply(values), in_dims[0]  # type: ignore[no-untyped-call]  # torch
