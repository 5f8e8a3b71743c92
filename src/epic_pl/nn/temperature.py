"""The temperature and the bias of logits, and the likelihood of labels under them.

Shape legend: N samples, C classes, k candidates.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.utils.types import Task

# bounds of the temperature; validation rows cannot determine more extreme values
HIGHEST = 10.0
LOWEST = 1 / HIGHEST
# bisection steps over log(HIGHEST / LOWEST), enough for the precision of float32
_HALVINGS = 30
# standard deviation of a bias before a row is seen; chosen among 0.15, 0.25, 0.35 and 0.5 on
# held-out rows of folds (docs/results.md)
_BIAS_STD = 0.25
_STEPS = 500
_SMALL = 1e-6  # a step that ends the search


def fit_temperature(logits: Tensor, labels: Tensor, task: Task) -> float:
    """The temperature T for which the labels are most likely under ``logits / T``.

    Guo et al., *On Calibration of Modern Neural Networks*, arXiv 1706.04599. The mean negative
    log-likelihood (multilabel: binary cross-entropy over all labels) is convex in 1 / T, so the
    zero of its slope is found by bisection over log T, in float64. Uninformative logits (empty, not
    finite, or of equal classes) give 1.

    Without errors on validation the maximum likelihood is at T = 0. So targets are smoothed as in
    Platt's scaling (*Probabilistic Outputs for Support Vector Machines*, 1999). This acts like two
    additional samples (multilabel: pairs of sample and label), one of them wrong.

    Args:
        logits: ``(N, C)``.
        labels: ``(N,)`` class indices, or ``(N, C)`` 0/1 for multilabel.
        task: "multiclass" (categorical likelihood) or "multilabel" (a Bernoulli for each label).

    Returns:
        T, between :data:`LOWEST` and :data:`HIGHEST`.
    """
    logits = logits.cpu().double()
    if not len(logits) or not bool(torch.isfinite(logits).all()):
        return 1.0
    truth = _targets(labels.cpu(), logits, task)
    if task == "multiclass":
        logits = logits - logits.amax(dim=1, keepdim=True)  # equal ones have a slope of exactly 0
    high = math.log(HIGHEST)
    low = -high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        scaled = logits / math.exp(middle)
        given = scaled.sigmoid() if task == "multilabel" else scaled.softmax(dim=-1)
        slope = float(((given - truth) * logits).sum())  # of the loss in 1 / T
        if slope == 0:
            break
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def fit_bias(logits: Tensor, labels: Tensor, std: float = _BIAS_STD) -> Tensor:
    """The bias b ``(C,)`` of classes under which labels are most likely, a priori N(0, std^2).

    A model that is surer of one class on training rows than on others decides too rarely for it.
    Alexandari et al., *Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label
    Shift Adaptation*, arXiv 1901.06852, fit it without the prior. Each class takes Newton's step
    for itself again and again (generalised iterative scaling), since a joint step would need the
    square of C. Logits that are not finite give 0.

    Args:
        logits: ``(N, C)``, already divided by their temperature.
        labels: class indices ``(N,)``.
        std: standard deviation of the prior.
    """
    logits = logits.cpu().double()
    bias = logits.new_zeros(logits.shape[1])
    if not bool(torch.isfinite(logits).all()):
        return bias
    wanted = _targets(labels.cpu(), logits, "multiclass").sum(dim=0)
    for _ in range(_STEPS):
        given = (logits + bias).softmax(dim=-1).sum(dim=0)
        step = (wanted - given - bias / std**2) / (given + 1 / std**2)
        bias += step
        if step.abs().max() < _SMALL:
            break
    return bias


def bias_evidence(logits: Tensor, labels: Tensor, bias: Tensor, std: float = _BIAS_STD) -> float:
    """A lower bound of the log Bayes factor of some bias, a priori N(0, std^2), over none.

    Laplace's approximation at the bias of :func:`fit_bias` (Kass and Raftery, *Bayes Factors*,
    1995), with Hadamard's bound of the determinant, which needs no square of C. If no bias is
    needed, a factor of k or more occurs with a probability of at most 1 / k.

    Args:
        logits: ``(N, C)``, those of :func:`fit_bias`.
        labels: class indices ``(N,)``.
        bias: ``(C,)``.
        std: standard deviation of the prior.
    """
    logits, labels = logits.cpu().double(), labels.cpu()
    losses = [sample_losses(each, labels, "multiclass").sum() for each in (logits, logits + bias)]
    given = (logits + bias).softmax(dim=-1)
    curvature = (given * (1 - given)).sum(dim=0)  # of the loss
    volume = torch.log1p(std**2 * curvature).sum()
    return float(losses[0] - losses[1] - (bias**2).sum() / (2 * std**2) - volume / 2)


def most_likely(candidates: Tensor, labels: Tensor, task: Task) -> int:
    """Index of the logits under which labels are most likely, each at its own temperature.

    Args:
        candidates: ``(N, k, C)``.
        labels: ``(N,)`` class indices, or ``(N, C)`` 0/1 for multilabel.
        task: "multiclass" (categorical likelihood) or "multilabel" (a Bernoulli for each label).
    """
    losses = [
        sample_losses(logits / fit_temperature(logits, labels, task), labels.cpu(), task).mean()
        for logits in candidates.cpu().double().unbind(dim=1)
    ]
    return int(torch.stack(losses).argmin())


def sample_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Negative log-likelihood ``(N,)`` of labels; multilabel: the mean over classes."""
    if task == "multiclass":
        return F.cross_entropy(logits, labels, reduction="none")
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    return losses.mean(dim=1)


def _targets(labels: Tensor, logits: Tensor, task: Task) -> Tensor:
    """Smoothed targets ``(N, C)``."""
    wrong = 1 / ((logits.numel() if task == "multilabel" else len(logits)) + 2)
    if task == "multilabel":
        return labels.double() * (1 - 2 * wrong) + wrong
    others = torch.full_like(logits, wrong / (logits.shape[1] - 1))
    return others.scatter_(1, labels.long()[:, None], 1 - wrong)
