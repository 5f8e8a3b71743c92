"""What is fitted on validation: how much the interaction is believed, and the temperature.

Shape legend: B batch, N samples, C classes.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError
from torchmetrics.utilities import dim_zero_cat

from epic_pl.types import Task

# beyond these, validation does not say how sure the model may be
HIGHEST = 10.0
LOWEST = 1 / HIGHEST
BINS = 15
# halvings of log(HIGHEST / LOWEST): far below what a float32 can tell apart
_HALVINGS = 30
# the likelihood is flat at its best temperature, so that a coarser one has nearly the same
_ROUGH_HALVINGS = 18
# twice as much as in training where the summaries say nothing and only disturb
_WEIGHTS = torch.linspace(0, 2, 11, dtype=torch.float64)


def fit_temperature(logits: Tensor, labels: Tensor, task: Task) -> float:
    """The temperature T at which ``logits / T`` give the labels the highest likelihood.

    Guo et al., *On Calibration of Modern Neural Networks*, arXiv 1706.04599. The mean negative
    log-likelihood (multilabel: binary cross-entropy over all labels) is convex in 1 / T, so the
    zero of its slope is found by bisection over log T, in float64. Logits that say nothing of T
    (none at all, all equal, or not finite) give 1.

    Where validation holds no mistake, the likelihood alone would let T fall to nothing. So labels
    count as in Platt's scaling (*Probabilistic Outputs for Support Vector Machines*, 1999): as if
    two more samples had been seen, one of them wrong, by ``(N + 1) / (N + 2)`` and the rest spread
    over the other classes. With more than a few dozen mistakes that changes nothing to speak of.

    Args:
        logits: ``(N, C)``.
        labels: ``(N,)`` class indices, or ``(N, C)`` 0/1 for multilabel.
        task: decides on the likelihood.

    Returns:
        T, between :data:`LOWEST` and :data:`HIGHEST`.
    """
    logits = logits.cpu().double()
    if not len(logits) or not bool(torch.isfinite(logits).all()):
        return 1.0
    return _bisect(logits, _targets(labels.cpu(), logits, task), task, _HALVINGS)


def _bisect(logits: Tensor, truth: Tensor, task: Task, halvings: int) -> float:
    """The best temperature of finite logits ``(N, C)`` in float64, for the truth ``(N, C)``."""
    high = math.log(HIGHEST)
    low = -high
    for _ in range(halvings):
        middle = (low + high) / 2
        scaled = logits / math.exp(middle)
        given = scaled.sigmoid() if task == "multilabel" else scaled.softmax(dim=-1)
        slope = float(((given - truth) * logits).sum())  # of the loss in 1 / T
        if slope == 0:
            break
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def fit_interaction_weight(
    logits: Tensor, pooled: Tensor, labels: Tensor, task: Task, calibrate: bool = True
) -> float:
    """How much of ``logits - pooled`` to add to ``pooled``.

    Few samples are soon learned by heart through the prompts: in training they are right, and sure,
    where they will not be. So what they add is weighed where nothing was trained. The weight is the
    mean of eleven from 0 to 2, each counting by the likelihood that it gives the labels at its best
    temperature, as in :func:`fit_temperature`: the posterior's mean from a flat prior, which
    validation of few rows leaves near 1, as in training.

    Args:
        logits: ``(N, C)``, of all that the head sees.
        pooled: ``(N, C)``, of the summaries alone.
        labels: ``(N,)`` class indices, or ``(N, C)`` 0/1 for multilabel.
        task: decides on the likelihood.
        calibrate: False judges each weight at the temperature 1.

    Returns:
        The weight, from 0 to 2; 1 where logits are not finite, or there are none.
    """
    logits, pooled, labels = logits.cpu().double(), pooled.cpu().double(), labels.cpu()
    if not len(logits) or not bool((logits.isfinite() & pooled.isfinite()).all()):
        return 1.0
    truth = _targets(labels, logits, task)
    likelihoods = []
    for weight in _WEIGHTS:
        weighed = torch.lerp(pooled, logits, weight)
        if calibrate:
            weighed = weighed / _bisect(weighed, truth, task, _ROUGH_HALVINGS)
        likelihoods.append(-_loss(weighed, truth, task))
    return float(torch.stack(likelihoods).softmax(dim=0) @ _WEIGHTS)


def _loss(logits: Tensor, truth: Tensor, task: Task) -> Tensor:
    """Negative log-likelihood, a sum over samples (and labels)."""
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    return F.cross_entropy(logits, truth, reduction="sum")


def _targets(labels: Tensor, logits: Tensor, task: Task) -> Tensor:
    """What is taken for the truth, ``(N, C)``."""
    wrong = 1 / (len(logits) + 2)
    if task == "multilabel":
        return labels.double() * (1 - 2 * wrong) + wrong
    others = torch.full_like(logits, wrong / (logits.shape[1] - 1))
    return others.scatter_(1, labels.long()[:, None], 1 - wrong)


class ValidationFit(Metric):
    """Gathers logits and labels of all ranks, for the interaction's weight and the temperature.

    Args:
        task: decides on the likelihood.
        calibrate: False leaves the temperature at 1.
    """

    full_state_update = False
    logits: list[Tensor]
    pooled: list[Tensor]
    labels: list[Tensor]

    def __init__(self, task: Task, calibrate: bool = True) -> None:
        super().__init__()
        self.task, self.calibrate = task, calibrate
        for name in ("logits", "pooled", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, pooled: Tensor | None = None) -> None:
        """Take in a batch.

        Args:
            logits: ``(B, C)``.
            labels: ``(B,)`` or ``(B, C)``.
            pooled: ``(B, C)``, of the summaries alone, if a method has them.
        """
        self.logits.append(logits.float())
        self.pooled.append((logits if pooled is None else pooled).float())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """``(2,)``: :func:`fit_interaction_weight` (1 without ``pooled``), :func:`fit_temperature`.

        The temperature is that of the weighed logits.
        """
        if not len(self.logits):  # one tensor once ranks have met
            return torch.ones(2, device=self.device)
        logits, pooled, labels = map(dim_zero_cat, (self.logits, self.pooled, self.labels))
        weight = 1.0
        if not torch.equal(logits, pooled):
            weight = fit_interaction_weight(logits, pooled, labels, self.task, self.calibrate)
        temperature = 1.0
        if self.calibrate:
            temperature = fit_temperature(torch.lerp(pooled, logits, weight), labels, self.task)
        return torch.tensor([weight, temperature], device=self.device)

    def weighed(self, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits ``(B, C)`` as they will be given out, and labels, of this rank's batches."""
        for logits, pooled, labels in zip(self.logits, self.pooled, self.labels, strict=True):
            yield torch.lerp(pooled, logits, weight), labels


class ClassCalibrationError(MulticlassCalibrationError):
    """Calibration error of the most probable class, from ``(B, C)``."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in a batch's probabilities ``(B, C)`` and labels ``(B,)``."""
        super().update(_below_one(preds), target)


class LabelCalibrationError(BinaryCalibrationError):
    """Calibration error over all pairs of sample and label, from ``(B, C)``."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in a batch's probabilities and 0/1 labels, each ``(B, C)``."""
        super().update(_below_one(preds).flatten(), target.flatten())


def _below_one(probabilities: Tensor) -> Tensor:
    """With 1 in the last bin; torchmetrics would open another one for it."""
    return probabilities.clamp(max=1 - 2**-24)


def calibration_error(task: Task, num_classes: int) -> Metric:
    """Expected calibration error over :data:`BINS` equal bins.

    Multiclass: of the most probable class. Multilabel: of each label's probability.
    """
    if task == "multilabel":
        return LabelCalibrationError(n_bins=BINS, norm="l1")
    return ClassCalibrationError(num_classes, n_bins=BINS, norm="l1")


@torch.no_grad()
def error_by_chance(probabilities: Tensor, draws: int = 500) -> tuple[float, float, float]:
    """Calibration error of answers that are right exactly as often as they say.

    With few samples its bins never come out even, so no error below this one can be told from
    none. Right and wrong are drawn from the probabilities themselves.

    Args:
        probabilities: ``(M,)``, of the answers that :func:`calibration_error` judges.
        draws: how often.

    Returns:
        The error's mean, and its 5th and 95th percentile.
    """
    sure = _below_one(probabilities.double().cpu())
    bins = (sure * BINS).long()
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(draws):
        right = (torch.rand(len(sure), generator=generator) < sure).double()
        gaps = torch.zeros(BINS, dtype=torch.double).index_add_(0, bins, sure - right)
        errors.append(gaps.abs().sum() / len(sure))
    error = torch.stack(errors)
    low, high = error.quantile(torch.tensor([0.05, 0.95], dtype=torch.double)).tolist()
    return float(error.mean()), low, high


def move_thresholds(thresholds: Tensor, temperature: Tensor) -> Tensor:
    """Thresholds of uncalibrated probabilities that assign what ``thresholds (C,)`` do of others.

    Args:
        thresholds: of probabilities at ``temperature``.
        temperature: scalar.
    """
    return (thresholds.logit() * temperature).sigmoid()
