"""EPICModule: training, validation, test and prediction on PyTorch Lightning."""

from epic_pl.module.epic_module import EPICModule

__all__ = ["EPICModule"]
