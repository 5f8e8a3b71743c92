"""``epic-pl export``: a trained model as a folder that runs without this package."""

from epic_pl.evaluation.export.program import Classifier, export_program

__all__ = ["Classifier", "export_program"]
