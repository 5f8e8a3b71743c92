"""How much the picture should weigh beside the text, in closed form from a few rows.

Shape legend: R rows, P vectors of a modality, C classes, d width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_ROWS = 32
"""Of fewer rows neither mean nor balance says much."""

# vectors that differ by less are one and the same
_LEAST_SPREAD = 1e-3

# of the picture's features over the text's, 1 first: what nothing speaks against is kept
_RATIOS: list[float] = [
    1.0,
    *(2.0 ** (sign * half / 2) for half in range(1, 6) for sign in (1, -1)),
]
_STRENGTHS: list[float] = [2.0**power for power in range(-6, 4)]
_STANDARD_ERRORS = 2.0


@dataclass
class PooledRows:
    """What an encoder says of rows, in P vectors of each: the pooled output, and what is beside it.

    Args:
        values: ``(R, P, d)``.
        present: ``(R,)`` bool: which rows have the modality at all.
    """

    values: Tensor
    present: Tensor

    @property
    def normalised(self) -> Tensor:
        """``(R, P, d)``: as the head's LayerNorms give them at first."""
        return F.layer_norm(self.values, self.values.shape[-1:])

    @property
    def pooled_mean(self) -> Tensor:
        """``(P d,)``: of those present, as they are pooled."""
        return self.values[self.present].mean(dim=0).flatten()

    @property
    def mean(self) -> Tensor:
        """``(P, d)``: of those present, normalised."""
        return self.normalised[self.present].mean(dim=0)

    @property
    def spreads(self) -> Tensor:
        """``(P,)``: standard deviation over those present, normalised, as a mean over features."""
        if int(self.present.sum()) < 2:
            return torch.zeros(self.values.shape[1])
        return self.normalised[self.present].var(dim=0).mean(dim=-1).sqrt()

    @property
    def spread(self) -> float:
        """The same over all P vectors."""
        return float(self.spreads.square().mean().sqrt())

    @property
    def evened(self) -> Tensor:
        """``(P,)``: what gives each of the P vectors the spread of all; 0 where it has none."""
        even = self.spread / self.spreads
        return torch.where(self.spreads > _LEAST_SPREAD, even, 0.0)

    @property
    def scales(self) -> Tensor:
        """``(P,)``: what the P vectors are multiplied by to vary by 1 together, none by more."""
        length = max(self.spread, _LEAST_SPREAD) * self.values.shape[1] ** 0.5
        return self.evened.div(length)

    @property
    def centred(self) -> Tensor:
        """``(R, P d)``: normalised, without the mean, with one spread; zero for the absent."""
        centred = (self.normalised - self.mean) * self.evened[:, None]
        return centred.flatten(1) * self.present[:, None]

    @property
    def tells(self) -> bool:
        """Whether there are rows enough, and not all the same."""
        enough = int(self.present.sum()) >= FEWEST_ROWS
        return enough and bool(self.values.isfinite().all()) and self.spread > _LEAST_SPREAD


def modality_balance(image: Tensor, text: Tensor, targets: Tensor) -> float:
    """By what to multiply a picture's features so that a linear map of both modalities errs least.

    What both modalities say about the classes is put together by a linear map, and whichever is
    large is fitted first, telling or not. For each ratio of the two and each strength a ridge
    regression is judged by its squared leave-one-out errors, which have a closed form (Hastie,
    Tibshirani and Friedman, *The Elements of Statistical Learning*, section 7.10). Of the ratios
    that are not worse than the best by more than two standard errors, the one nearest to 1 is
    taken: as pair differences, over the rows. Where the best does not beat the classes' mean by as
    much, no linear map tells anything, as in entailment, and nothing speaks against 1.

    Args:
        image: ``(R, d_v)``, centred.
        text: ``(R, d_t)``, centred.
        targets: ``(R, C)``, one-hot or multi-hot.

    Returns:
        The picture's factor, were the text's 1: from 0.18 to 5.7.
    """
    image, text, targets = (tensor.detach().double().cpu() for tensor in (image, text, targets))
    kernels = image @ image.T / image.shape[1], text @ text.T / text.shape[1]  # (R, R)
    targets = targets - targets.mean(dim=0)
    errors = torch.stack(
        [_leave_one_out(ratio * kernels[0] + kernels[1] / ratio, targets) for ratio in _RATIOS]
    )  # (ratios, R)
    best = errors[errors.mean(dim=1).argmin()]
    # the mean is of all rows, here as in the regressions
    if not bool(_is_worse(targets.square().sum(dim=1), best)):
        return 1.0
    good: list[bool] = (~_is_worse(errors, best)).tolist()
    return _RATIOS[good.index(True)]


def _is_worse(errors: Tensor, best: Tensor) -> Tensor:
    """Which of errors ``(..., R)`` exceed the best's ``(R,)`` by more than chance explains."""
    worse = errors - best
    standard_error = worse.std(dim=-1) / best.shape[0] ** 0.5
    return worse.mean(dim=-1).gt(_STANDARD_ERRORS * standard_error)


def _leave_one_out(kernel: Tensor, targets: Tensor) -> Tensor:
    """Squared errors ``(R,)`` of a kernel ridge regression at its best strength.

    With ``G = K + λI`` and ``a = G⁻¹ y``, the error on the row that was left out is
    ``a_i / (G⁻¹)_ii``.
    """
    values, vectors = torch.linalg.eigh(kernel)
    turned = vectors.T @ targets  # (R, C)
    scale = float(kernel.trace()) / len(kernel)
    candidates: list[Tensor] = []
    for strength in _STRENGTHS:
        inverse = 1 / (values.clamp(min=0) + max(strength * scale, 1e-9))  # (R,)
        dual = vectors @ (inverse[:, None] * turned)  # (R, C)
        candidates.append((dual / (vectors**2 @ inverse)[:, None]).square().sum(dim=1))
    return min(candidates, key=lambda errors: float(errors.mean()))


def part_scales(
    image: PooledRows, text: PooledRows, balance: float
) -> tuple[list[float], list[float]]:
    """What the head multiplies both modalities' normalised vectors by, P numbers each.

    Afterwards those of pictures vary ``balance`` times as much beside those of texts as before, and
    both together as if each varied by 1. Among the vectors of a modality no one varies more.
    """
    lengths = 1.0, 1.0  # the one that says something is alone
    if image.tells and text.tells:
        ratio = balance * image.spread / text.spread
        length = (2 / (1 + ratio**2)) ** 0.5
        lengths = ratio * length, length
    image_scales, text_scales = (
        (length * side.scales).tolist() for side, length in zip((image, text), lengths, strict=True)
    )
    return image_scales, text_scales
