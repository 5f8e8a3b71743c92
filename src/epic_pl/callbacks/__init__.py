"""Lightning callbacks: cost, stored features, predictions to a table, plots to pictures."""

from epic_pl.callbacks.cost import CostMeter
from epic_pl.callbacks.feature_cache import FeatureCache
from epic_pl.callbacks.plots import ConfusionMatrixPlot
from epic_pl.callbacks.predictions import PredictionWriter
from epic_pl.callbacks.subsets import SubsetAccuracy

__all__ = [
    "ConfusionMatrixPlot",
    "CostMeter",
    "FeatureCache",
    "PredictionWriter",
    "SubsetAccuracy",
]
