"""The temperature of logits, and the likelihood of labels at it.

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


def fit_temperature(logits: Tensor, labels: Tensor, task: Task) -> float:
    """The temperature T for which the labels are most likely under ``logits / T``.

    Guo et al., *On Calibration of Modern Neural Networks*, arXiv 1706.04599. The mean negative
    log-likelihood (multilabel: binary cross-entropy over all labels) is convex in 1 / T, so the
    zero of its slope is found by bisection over log T, in float64. Uninformative logits (empty, all
    equal, or not finite) give 1.

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
