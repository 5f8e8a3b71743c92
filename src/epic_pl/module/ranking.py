"""Metrics of a ranking of samples, also of weighted ones: mean average precision and AUROC.

Shape legend: N samples, C classes, D weightings, K distinct scores of positives.
"""

import torch
from torch import Tensor

from epic_pl.utils.types import Task

RANKING: dict[Task, str] = {"multiclass": "auroc", "multilabel": "map"}
"""Name of each task's metric that needs no threshold."""


def ranking_scores(
    task: Task, scores: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean over classes of average precision (multilabel), or of AUROC of one class against rest.

    The values are those of scikit-learn for rows repeated ``weights`` times, also with tied scores.
    A class that has no positive, or for AUROC no negative, is left out of the mean. Of two classes
    AUROC is that of the second.

    Args:
        task: multiclass or multilabel.
        scores: ``(N, C)``, higher for likelier classes, on the CPU.
        labels: class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel.
        weights: ``(N, D)`` float64, how often each row counts; None is once.

    Returns:
        ``(D,)`` float64; NaN where all classes are left out.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2], [0.8, 0.6], [0.1, 0.7]])
        >>> ranking_scores("multilabel", scores, torch.tensor([[1, 0], [0, 1], [1, 0]]))
        tensor([0.6667], dtype=torch.float64)
    """
    weights = scores.new_ones(len(scores), 1, dtype=torch.double) if weights is None else weights
    columns = [1] if task == "multiclass" and scores.shape[1] == 2 else range(scores.shape[1])
    total = weights.new_zeros(weights.shape[1])
    ranked = torch.zeros_like(total)
    for column in columns:
        truth = labels[:, column] == 1 if labels.ndim == 2 else labels == column
        value = _score(task, scores[:, column].contiguous(), truth, weights)
        known = value.isfinite()
        total += torch.where(known, value, 0)
        ranked += known
    return total / ranked


def _score(task: Task, scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The metric of one class, ``(D,)``, from scores ``(N,)`` and truth ``(N,)`` bool.

    Only the scores of positives matter, so rows are counted at and between these, not sorted.
    """
    levels: Tensor = scores[truth].unique()  # type: ignore[no-untyped-call]  # (K,), ascending
    # 2k + 1 at the k-th of them, 2k below it
    place = torch.bucketize(scores, levels) + torch.bucketize(scores, levels, right=True)
    places = 2 * len(levels) + 1
    counts = weights.new_zeros(2 * places, weights.shape[1])  # of negatives, then of positives
    counts.index_add_(0, place + places * truth, weights)
    negatives, positives = counts[:places], counts[places + 1 :: 2]  # (K, D)
    below, tied = negatives.cumsum(0)[1::2] - negatives[1::2], negatives[1::2]
    found, others = positives.sum(0), negatives.sum(0)
    if task == "multiclass":
        return (positives * (below + tied / 2)).sum(0) / (found * others)
    hits = found - positives.cumsum(0) + positives
    # where a level has no weight, its precision does not count
    return (positives * hits / (hits + others - below).clamp(min=1)).sum(0) / found
