"""EPICModule: training, validation, test and prediction on PyTorch Lightning."""

from epic_pl.module.config import EncoderConfig, EncodersConfig, OptimConfig
from epic_pl.module.epic_module import EPICModule
from epic_pl.module.losses import LossConfig
from epic_pl.nn import EPICConfig, HeadConfig

__all__ = [
    "EPICConfig",
    "EPICModule",
    "EncoderConfig",
    "EncodersConfig",
    "HeadConfig",
    "LossConfig",
    "OptimConfig",
]
