"""EPIC: efficient prompt interaction for text-image classification on PyTorch Lightning.

A trained model classifies with :class:`~epic_pl.classifier.Classifier`, and several models on the
same encoders with :class:`~epic_pl.multitask.MultiTaskClassifier`::

    from epic_pl import Classifier, MultiTaskClassifier

Import all else from its own module, so that importing the package stays cheap::

    from epic_pl.module import EPICModule
    from epic_pl.data import OpenMojiDataModule
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epic_pl.version import __version__

if TYPE_CHECKING:
    from epic_pl.classifier import Classifier
    from epic_pl.multitask import MultiTaskClassifier

_LAZY = {"Classifier": "epic_pl.classifier", "MultiTaskClassifier": "epic_pl.multitask"}
__all__ = ["Classifier", "MultiTaskClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
