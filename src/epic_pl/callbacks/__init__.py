"""Lightning callbacks: checkpoints, cost, stored features, predictions, plots."""

from epic_pl.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from epic_pl.callbacks.cost import CostMeter
from epic_pl.callbacks.feature_cache import FeatureCache
from epic_pl.callbacks.predictions import PredictionWriter
from epic_pl.callbacks.subsets import SubsetAccuracy

__all__ = [
    "BestCheckpoint",
    "CostMeter",
    "FeatureCache",
    "LastCheckpoint",
    "PredictionWriter",
    "SubsetAccuracy",
]
