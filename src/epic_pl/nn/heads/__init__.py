"""Parts of a classification head, which any method may use."""

from epic_pl.nn.heads.classification import ClassificationHead, HeadConfig, Pooled

__all__ = ["ClassificationHead", "HeadConfig", "Pooled"]
