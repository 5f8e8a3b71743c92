"""From a trained module's logits to its results: the one place that asks the module for them.

Shape legend: B batch, C classes.
"""

import torch
from torch import Tensor, nn

from epic_pl.module import EPICModule
from epic_pl.types import Task


class Postprocessor(nn.Module):
    """Calibrated probabilities of logits, and the classes that they assign.

    Args:
        task: softmax for one class a sample, sigmoid for any number.
        temperature: divides the logits.
        thresholds: ``(C,)`` of a multilabel task, else None.
    """

    temperature: Tensor
    thresholds: Tensor | None

    def __init__(
        self, task: Task, temperature: float = 1.0, thresholds: Tensor | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.register_buffer("temperature", torch.tensor(temperature))
        self.register_buffer("thresholds", thresholds)

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities ``(B, C)`` float32."""
        return self.uncalibrated(logits.float() / self.temperature)

    def uncalibrated(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, C)`` float32 of the logits as they are."""
        logits = logits.float()
        return logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=-1)

    def predict(self, probabilities: Tensor) -> Tensor:
        """Class indices ``(B,)``, or 0/1 ``(B, C)`` of a multilabel task."""
        if self.thresholds is None:
            return probabilities.argmax(dim=-1)
        return (probabilities >= self.thresholds).long()


def postprocessor_of(module: EPICModule) -> Postprocessor:
    """A copy of a module's postprocessor, on the CPU."""
    thresholds = module.label_thresholds()
    return Postprocessor(
        module.task,
        float(module.calibration_temperature) if module.calibrate else 1.0,
        None if thresholds is None else thresholds.float().cpu(),
    )
