"""Lightning callbacks: checkpoints, cost, stored features, predictions, plots."""

from epic_pl.module.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from epic_pl.module.callbacks.cost import CostMeter
from epic_pl.module.callbacks.feature_cache import FeatureCache
from epic_pl.module.callbacks.predictions import PredictionWriter

__all__ = [
    "BestCheckpoint",
    "CostMeter",
    "FeatureCache",
    "LastCheckpoint",
    "PredictionWriter",
]
