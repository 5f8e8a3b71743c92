"""EPICModule: training, validation, test and prediction on PyTorch Lightning."""

from epic_pl.module.config import EncoderConfig, EncodersConfig, OptimConfig
from epic_pl.module.epic_module import EPICModule
from epic_pl.module.losses import CrossEntropy, Loss
from epic_pl.nn import EPIC, HeadConfig, Method

__all__ = [
    "EPIC",
    "CrossEntropy",
    "EPICModule",
    "EncoderConfig",
    "EncodersConfig",
    "HeadConfig",
    "Loss",
    "Method",
    "OptimConfig",
]
