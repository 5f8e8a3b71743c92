"""EPIC: efficient prompt interaction for text-image classification on PyTorch Lightning.

All public names are imported on first use, so that importing the package stays cheap::

    from epic_pl import Classifier, EPICModule, TableDataModule
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epic_pl.utils.version import __version__

if TYPE_CHECKING:
    from epic_pl.data import (
        Food101DataModule,
        HatefulMemesDataModule,
        ImageTextDataModule,
        MMIMDBDataModule,
        OpenMojiDataModule,
        SNLIVEDataModule,
        TableDataModule,
    )
    from epic_pl.data.processor import Processor
    from epic_pl.inference.classifier import Classifier
    from epic_pl.inference.multitask import MultiTaskClassifier
    from epic_pl.module import EncoderConfig, EncodersConfig, EPICModule, HeadConfig, OptimConfig

# modules of the public names; a later one imports the earlier ones
_ROOMS = ("data", "data.processor", "module", "inference.classifier", "inference.multitask")
__all__ = [
    "Classifier",
    "EPICModule",
    "EncoderConfig",
    "EncodersConfig",
    "Food101DataModule",
    "HatefulMemesDataModule",
    "HeadConfig",
    "ImageTextDataModule",
    "MMIMDBDataModule",
    "MultiTaskClassifier",
    "OpenMojiDataModule",
    "OptimConfig",
    "Processor",
    "SNLIVEDataModule",
    "TableDataModule",
    "__version__",
]


def __getattr__(name: str) -> Any:
    for room in _ROOMS if name in __all__ else ():
        if hasattr(module := import_module(f"epic_pl.{room}"), name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
