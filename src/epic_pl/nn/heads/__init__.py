"""The classification head and its optional parts, for any method."""

from epic_pl.nn.heads.classification import ClassificationHead, HeadConfig, Output, TreesHead
from epic_pl.nn.heads.inputs import Pooled

__all__ = ["ClassificationHead", "HeadConfig", "Output", "Pooled", "TreesHead"]
