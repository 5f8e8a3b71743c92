"""A trained model for inference.

Shape legend: B batch, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.data.processor import Processor
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import require_info
from epic_pl.utils.errors import CheckpointError
from epic_pl.utils.plugins import find_class
from epic_pl.utils.types import Batch, Task


def build_trained(
    checkpoint: dict[str, Any], source: Path, image_encoder: str | None, text_encoder: str | None
) -> EPICModule:
    """Build a trained module on the CPU, in evaluation mode; name encoders that have moved.

    Args:
        checkpoint: content of a checkpoint, whose options are checked.
        source: the file that it was read from.
        image_encoder: current name of the image encoder; None is the checkpoint's.
        text_encoder: likewise for the text encoder.

    Raises:
        CheckpointError: if it is no checkpoint of this package, is damaged, or an encoder differs.
    """
    kind = find_class(EPICModule, require_info(checkpoint, source)["module"], source)
    try:
        encoders = checkpoint["hyper_parameters"]["encoders"]
        for side, name in (("image", image_encoder), ("text", text_encoder)):
            encoders[side]["name"] = name or encoders[side]["name"]
    except (LookupError, TypeError) as error:
        raise CheckpointError(f"{source} is damaged: its options name no encoders.") from error
    return kind.from_content(checkpoint, source).eval()


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
        thresholds = self.module.postprocessor.thresholds
        return None if thresholds is None else thresholds.float().cpu().numpy()

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
        return Processor.of(self.module)

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities ``(B, C)`` of a batch on any device."""
        batch = self.module.transfer_batch_to_device(batch, self.device, 0)
        if self.module.training:  # true after a fit; eval() itself takes milliseconds
            self.module.eval()
        scores: Tensor = self.module.postprocessor(self.module(batch).logits)
        return scores.cpu().numpy()
