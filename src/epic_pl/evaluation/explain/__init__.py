"""What the prompts of a trained model look at, sample by sample."""

from epic_pl.evaluation.explain.callback import PromptAttention
from epic_pl.evaluation.explain.samples import Explanation, explain

__all__ = ["Explanation", "PromptAttention", "explain"]
