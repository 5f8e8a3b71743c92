"""The loss of each task, and the matching loss of image and text.

Shape legend: B batch, C classes, n prompts (or one vector), r width of the common space.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.nn.hub import Matched
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Task
from epic_pl.utils.validate import check_length, check_probabilities

Weights = list[float] | Literal["balanced"] | None


class Loss(ABC):
    """The options of a loss; :meth:`build` makes the loss. A subclass is a frozen dataclass.

    A config names a loss of this package or of an installed plug-in by its class name, any other by
    its import path; docs/extend.md has an example.

    Attributes:
        matched_classes: names of the classes of matching pairs, if labels say whether image and
            text match: adds :class:`~epic_pl.module.losses.MatchingLoss`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Margin(Loss):
        ...     margin: float = 1.0
        ...     def build(self, task, num_classes, class_frequencies):
        ...         return nn.MultiMarginLoss(margin=self.margin)
        >>> Margin(0.5).build("multiclass", 3, None)(torch.zeros(1, 3), torch.tensor([2]))
        tensor(0.3333)
    """

    matched_classes: list[str] | None = None

    @abstractmethod
    def build(
        self, task: Task, num_classes: int, class_frequencies: list[float] | None
    ) -> nn.Module:
        """A module that maps logits ``(B, C)`` and labels to the mean loss.

        Args:
            task: "multiclass" with labels ``(B,)``, or "multilabel" with labels ``(B, C)``.
            num_classes: number of classes C.
            class_frequencies: share of the training rows of each class; None if unknown.

        Raises:
            ConfigError: if the options do not fit the task or the number of classes.
        """

    def prior(self, task: Task, num_classes: int, class_frequencies: list[float] | None) -> Tensor:
        """The constant logits ``(C,)`` with the lowest training loss, where the head starts."""
        return prior_logits(task, num_classes, class_frequencies)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy, or binary cross-entropy for multilabel tasks.

    Attributes:
        label_smoothing: label smoothing of the cross-entropy; multiclass only.
        class_weights: multiclass: C weights of the samples of each class, or "balanced".
        pos_weight: multilabel: C weights of the positives, or "balanced".
        matched_classes: as in :class:`Loss`.

    Example:
        >>> CrossEntropy(class_weights="balanced").build("multiclass", 2, [0.8, 0.2]).weights
        tensor([0.6250, 2.5000])
    """

    label_smoothing: float = 0.05
    class_weights: Weights = None
    pos_weight: Weights = None
    matched_classes: list[str] | None = None

    def __post_init__(self) -> None:
        check_probabilities(self, "label_smoothing")

    def build(
        self, task: Task, num_classes: int, class_frequencies: list[float] | None
    ) -> "ClassificationLoss":
        """The loss of a task with C classes."""
        own, other = "class_weights", "pos_weight"
        if task == "multilabel":
            own, other = other, own
        if getattr(self, other) is not None:
            raise ConfigError(f"{other} does not apply to {task} tasks: use {own} instead.")
        weights = resolve_weights(own, getattr(self, own), task, class_frequencies)
        check_length(own, weights, num_classes)
        if weights is not None and not all(0 < weight < inf for weight in weights):
            raise ConfigError(f"{own} must hold finite numbers above 0, got {weights}.")
        return ClassificationLoss(task, self.label_smoothing, weights)

    def prior(self, task: Task, num_classes: int, class_frequencies: list[float] | None) -> Tensor:
        """The constant logits ``(C,)`` with the lowest training loss under the loss's weights."""
        weights = self.build(task, num_classes, class_frequencies).weights
        return prior_logits(task, num_classes, class_frequencies, weights)


class ClassificationLoss(nn.Module):
    """Cross-entropy of a multiclass task, or binary cross-entropy of a multilabel task.

    Args:
        task: "multiclass" (one class per sample) or "multilabel" (any number).
        label_smoothing: label smoothing of the cross-entropy; multiclass only.
        weights: weights ``(C,)`` of the classes (multiclass; the mean is over weights, as in
            :func:`torch.nn.functional.cross_entropy`) or of each label's positives (multilabel).

    Example:
        >>> ClassificationLoss("multiclass")(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))
        tensor(0.6931)
    """

    weights: Tensor | None

    def __init__(
        self, task: Task, label_smoothing: float = 0.0, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.label_smoothing = label_smoothing
        values = None if weights is None else torch.tensor(list(weights))
        self.register_buffer("weights", values, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits ``(B, C)`` and labels ``(B,)`` or, multilabel, ``(B, C)``."""
        if self.task == "multilabel":
            labels = labels.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.weights)
        return F.cross_entropy(logits, labels, self.weights, label_smoothing=self.label_smoothing)


def resolve_weights(
    name: str, weights: Weights, task: Task, frequencies: Sequence[float] | None
) -> list[float] | None:
    """Weights as numbers; "balanced" computes them from the class frequencies f.

    Multiclass: ``1 / (C f)``, so that every class has the same total weight. Multilabel:
    ``(1 - f) / f``, so that a label's positives and negatives have the same total weight. A class
    that never occurs, or a label that always does, keeps weight 1.

    Args:
        name: name of the option, for the error message.
        weights: value of the option.
        task: "multiclass" or "multilabel", each with its own formula.
        frequencies: f, ``(C,)``: share of the training rows of each class.

    Raises:
        ConfigError: "balanced" without frequencies.

    Example:
        >>> resolve_weights("class_weights", "balanced", "multiclass", [0.8, 0.2])
        [0.625, 2.5]
    """
    if weights != "balanced":
        return weights
    if frequencies is None:
        raise ConfigError(f"{name} 'balanced' needs class_frequencies, which the DataModule has.")
    if task == "multilabel":
        return [(1 - f) / f if 0 < f < 1 else 1.0 for f in frequencies]
    return [1 / (len(frequencies) * f) if f > 0 else 1.0 for f in frequencies]


def prior_logits(
    task: Task, num_classes: int, frequencies: Sequence[float] | None, weights: Tensor | None = None
) -> Tensor:
    """The constant logits ``(C,)`` with the lowest training loss.

    Args:
        task: "multiclass" (softmax) or "multilabel" (sigmoid).
        num_classes: number of classes C.
        frequencies: share of the training rows of each class, ``(C,)``, clamped to at least
            0.1 / C and at most 1 - 0.1 / C; None gives all classes the share 1 / C.
        weights: weights of the classes, or of the positives, in the loss.

    Example:
        >>> prior_logits("multiclass", 2, [0.8, 0.2]).softmax(dim=0)
        tensor([0.8000, 0.2000])
    """
    share = torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)
    least = 0.1 / num_classes
    if frequencies is not None:
        share = torch.tensor(frequencies, dtype=torch.float64).clamp(least, 1 - least)
    weighted = share if weights is None else share * weights.double()
    if task == "multilabel":
        return torch.log(weighted / (1 - share)).float()
    return torch.log(weighted / weighted.sum()).float()


class MatchingLoss:
    """InfoNCE (arXiv 1807.03748) in both directions within a batch, as in CLIP (arXiv 2103.00020).

    A small training set has too few labels to learn the alignment of image and text. This loss
    learns it from matching pairs, with B - 1 negatives for each. The score of image i and text j is
    ``logsumexp S_ij`` over the prompts of one modality, averaged over the prompts of the other.
    Each rank of a distributed run compares within its own batch.

    Args:
        classes: labels of the rows that match.

    Example:
        >>> alike = Matched(torch.ones(4, 1, 8), torch.ones(4, 1, 8), torch.tensor(0.1))
        >>> MatchingLoss([1])(alike, torch.tensor([1, 0, 1, 1]))  # log B
        tensor(1.3863)
    """

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes = torch.tensor(classes)

    def __call__(self, matched: Matched, labels: Tensor) -> Tensor:
        """The loss of matched features, ``(B, n, r)`` each; 0 if no row matches.

        ``labels (B,)`` are class indices.
        """
        image, text, temperature = matched
        size = len(labels)
        # features of a missing modality are zero
        both = image.flatten(1).any(dim=1) & text.flatten(1).any(dim=1)
        rows = torch.isin(labels, self.classes.to(labels.device)) & both
        every = Matched(image.flatten(0, 1)[None], text.flatten(0, 1)[None], temperature)
        similarities = every.similarities().view(size, -1, size, text.shape[1])  # (B, n, B, n)
        fit = similarities.logsumexp(dim=1).mean(dim=2) + similarities.logsumexp(dim=3).mean(dim=1)
        own = torch.arange(size, device=labels.device)
        losses = sum(F.cross_entropy(logits / 2, own, reduction="none") for logits in (fit, fit.T))
        return (torch.where(rows, losses, 0).sum() / 2) / rows.sum().clamp(min=1)


def build_matching_loss(
    matched: Sequence[str] | None, class_names: Sequence[str]
) -> MatchingLoss | None:
    """The matching loss; None without matched classes.

    Raises:
        ConfigError: if a matched class does not exist.
    """
    for name in matched or ():
        if name not in class_names:
            raise ConfigError(
                f"model.loss.matched_classes names {name!r}, not one of {', '.join(class_names)}."
            )
    return MatchingLoss([class_names.index(name) for name in matched]) if matched else None
