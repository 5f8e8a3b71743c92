"""EPIC: efficient prompt interaction for text-image classification on PyTorch Lightning.

A trained model classifies with :class:`~epic_pl.classifier.Classifier`, and several models on the
same encoders with :class:`~epic_pl.multitask.MultiTaskClassifier`::

    from epic_pl import Classifier, MultiTaskClassifier

Import all else from its own module, so that importing the package stays cheap::

    from epic_pl.module import EPICModule
    from epic_pl.data import OpenMojiDataModule
"""

from typing import TYPE_CHECKING, Any

from epic_pl.version import __version__

if TYPE_CHECKING:
    from epic_pl.classifier import Classifier
    from epic_pl.multitask import MultiTaskClassifier

__all__ = ["Classifier", "MultiTaskClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Classifier":
        from epic_pl.classifier import Classifier

        return Classifier
    if name == "MultiTaskClassifier":
        from epic_pl.multitask import MultiTaskClassifier

        return MultiTaskClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
