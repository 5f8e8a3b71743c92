"""A trained model for inference.

Shape legend: B batch, C classes.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.data.processor import Processor
from epic_pl.module import EPICModule
from epic_pl.utils.types import Batch, Task


class TrainedModel:
    """A trained module on a device, for inference.

    Args:
        module: the module.
        device: its device; None is the machine's accelerator, or its CPU.

    Raises:
        ConfigError: if the device cannot compute in the encoders' precision.
    """

    def __init__(self, module: EPICModule, device: str | torch.device | None) -> None:
        if device is None:
            device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.device = torch.device(device)
        module.check_device(self.device)
        self.module = module.to(self.device).eval()
        self.class_names: list[str] = list(module.class_names)
        self.task: Task = module.task
        self.method: str = module.method_name
        encoders = module.encoders
        self.encoders = {"image": encoders.image.name, "text": encoders.text.name}

    @property
    def thresholds(self) -> npt.NDArray[np.float32] | None:
        """Minimum probability at which each label is assigned, ``(C,)``; None for multiclass."""
        return self.module.postprocessor.threshold_array()

    @property
    def never_missing(self) -> list[str]:
        """Modalities that every training sample had."""
        return self.module.model.head.never_missing

    @property
    def digest(self) -> str:
        """A hash of weights, encoders, options, and of how this device computes."""
        return self.module.digest()

    def processor(self) -> Processor:
        """The processor that makes batches as in training."""
        return self.module.processor

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities ``(B, C)`` of a batch on any device."""
        batch = self.module.transfer_batch_to_device(batch, self.device, 0)
        if self.module.training:  # true after a fit; eval() itself takes milliseconds
            self.module.eval()
        scores: Tensor = self.module.postprocessor(self.module(batch).logits)
        return scores.cpu().numpy()
