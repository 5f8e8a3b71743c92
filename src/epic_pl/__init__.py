"""EPIC: efficient prompt interaction for text-image classification on PyTorch Lightning.

A trained model classifies with :class:`~epic_pl.classifier.Classifier`::

    from epic_pl import Classifier

Import all else from its own module, so that importing the package stays cheap::

    from epic_pl.module import EPICModule
    from epic_pl.data import OpenMojiDataModule
"""

from typing import TYPE_CHECKING, Any

from epic_pl.version import __version__

if TYPE_CHECKING:
    from epic_pl.classifier import Classifier

__all__ = ["Classifier", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Classifier":
        from epic_pl.classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
