"""EPIC and the methods that it is compared with, each with its options and its model in one file.

For a method of your own, write a class in your package and name it by its import path; see
docs/extend.md.
"""

from epic_pl.nn.base import Method
from epic_pl.nn.epic import EPIC, NoInteraction
from epic_pl.nn.methods.ensemble import Ensemble
from epic_pl.nn.methods.fine_tuned import FullFineTuning, LoRA
from epic_pl.nn.methods.maple import MaPLe
from epic_pl.nn.methods.no_prompts import LateFusionMLP, LinearProbe, NoPrompts, Trees
from epic_pl.nn.methods.parts import Parts
from epic_pl.nn.methods.pmf import PMF

__all__ = [
    "EPIC",
    "PMF",
    "Ensemble",
    "FullFineTuning",
    "LateFusionMLP",
    "LinearProbe",
    "LoRA",
    "MaPLe",
    "Method",
    "NoInteraction",
    "NoPrompts",
    "Parts",
    "Trees",
]
