"""The package's public face: a trained model that takes images and texts as they are."""

from epic_pl.classifier.classifier import Classifier

__all__ = ["Classifier"]
