"""The classification head and its optional parts, for any method."""

from epic_pl.nn.heads.classification import ClassificationHead, Head, HeadConfig, Output, TreesHead
from epic_pl.nn.heads.inputs import Pooled

__all__ = ["ClassificationHead", "Head", "HeadConfig", "Output", "Pooled", "TreesHead"]
