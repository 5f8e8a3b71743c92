"""The classification head and its optional parts, for any method."""

from epic_pl.nn.heads.classification import ClassificationHead, HeadConfig, Pooled
from epic_pl.nn.heads.network import where_parts_fit

__all__ = ["ClassificationHead", "HeadConfig", "Pooled", "where_parts_fit"]
