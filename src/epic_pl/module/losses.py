"""What each task optimises.

Shape legend: B batch, C classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.types import Task

Weights = list[float] | Literal["balanced"] | None


class Objective(nn.Module):
    """The loss of a task and how its logits become probabilities.

    The focal loss (Lin et al., arXiv 1708.02002) scales each term by ``(1 - p)^gamma``, where p is
    the probability that the model gives to the truth: what is learned already weighs less.

    Args:
        task: "multiclass" (one class a sample) or "multilabel" (any number).
        label_smoothing: of the cross-entropy; multiclass only.
        pos_weight: ``(C,)`` weights of the positives; multilabel only.
        class_weights: ``(C,)`` weights of the samples of each class; multiclass only. As in
            :func:`torch.nn.functional.cross_entropy`, the mean is over weights.
        focal_gamma: the focal loss's exponent; 0 is plain cross-entropy.
    """

    pos_weight: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        task: Task,
        label_smoothing: float = 0.0,
        pos_weight: Sequence[float] | None = None,
        class_weights: Sequence[float] | None = None,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        self.task = task
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        for name, values in (("pos_weight", pos_weight), ("class_weights", class_weights)):
            weight = None if values is None else torch.tensor(list(values))
            self.register_buffer(name, weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits ``(B, C)`` and labels ``(B,)`` or, multilabel, ``(B, C)``."""
        if self.task == "multilabel":
            return self._multilabel(logits, labels.to(logits.dtype))
        return self._multiclass(logits, labels)

    def _multilabel(self, logits: Tensor, labels: Tensor) -> Tensor:
        reduction = "none" if self.focal_gamma else "mean"
        loss = F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=self.pos_weight, reduction=reduction
        )
        if not self.focal_gamma:
            return loss
        # 1 - p of the truth is the sigmoid of the logit turned against it
        return (loss * self._focus((logits * (1 - 2 * labels)).sigmoid())).mean()

    def _multiclass(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(
            logits,
            labels,
            self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none" if self.focal_gamma else "mean",
        )
        if not self.focal_gamma:
            return loss
        log_p = logits.log_softmax(dim=-1).gather(1, labels[:, None])[:, 0]  # (B,)
        weights = (
            torch.ones_like(loss) if self.class_weights is None else self.class_weights[labels]
        )
        return (loss * self._focus(-log_p.expm1())).sum() / weights.sum()

    def _focus(self, missing: Tensor) -> Tensor:
        # at 0 the slope of x^gamma is infinite for gamma below 1
        return missing.clamp(min=torch.finfo(missing.dtype).tiny) ** self.focal_gamma

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, C)`` float32: softmax, or a sigmoid for each label."""
        logits = logits.float()
        return logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=-1)


def resolve_weights(
    name: str, weights: Weights, task: Task, frequencies: Sequence[float] | None
) -> list[float] | None:
    """Weights as numbers; "balanced" computes them from how often each class occurs.

    Multiclass: ``1 / (C f)``, so that every class weighs the same in total. Multilabel: ``(1 - f) /
    f``, so that a label's positives weigh as much as its negatives. A class that never occurs, or
    a label that always does, keeps weight 1.

    Args:
        name: of the option, for the message.
        weights: of the option.
        task: decides on the formula.
        frequencies: f, ``(C,)``: share of the training rows that have each class.

    Raises:
        ConfigError: "balanced" without frequencies.
    """
    if weights != "balanced":
        return weights
    if frequencies is None:
        raise ConfigError(
            f"{name} is 'balanced', which needs class_frequencies, the share of training rows of "
            "each class. epic-pl fit takes them from the data; in code of your own pass "
            "class_frequencies=datamodule.class_frequencies, or give the weights as numbers."
        )
    if task == "multilabel":
        return [(1 - f) / f if 0 < f < 1 else 1.0 for f in frequencies]
    return [1 / (len(frequencies) * f) if f > 0 else 1.0 for f in frequencies]
