"""Parts of a classification head, which any method may use."""

from epic_pl.nn.heads.classification import ClassificationHead, HeadConfig, Pooled
from epic_pl.nn.heads.network import where_parts_fit

__all__ = ["ClassificationHead", "HeadConfig", "Pooled", "where_parts_fit"]
