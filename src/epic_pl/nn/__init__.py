"""Pure torch: encoders, prompts, interaction, heads, the EPIC model. No Lightning in this room."""

from epic_pl.nn.epic import EPIC, EPICConfig
from epic_pl.nn.heads.classification import ClassificationHead
from epic_pl.nn.interaction import InteractionHub
from epic_pl.nn.prompts import TemporalPrompts

__all__ = ["EPIC", "ClassificationHead", "EPICConfig", "InteractionHub", "TemporalPrompts"]
