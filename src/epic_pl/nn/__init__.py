"""Modules in pure torch, without Lightning: encoders, prompts, interaction, heads and methods."""

from epic_pl.nn.base import DualEncoder, Method
from epic_pl.nn.epic import EPIC, EPICModel
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Output
from epic_pl.nn.hub import BottleneckHub, ParameterFreeHub
from epic_pl.nn.pair import Pair, Presence
from epic_pl.nn.prompts import TemporalPrompts

__all__ = [
    "EPIC",
    "BottleneckHub",
    "ClassificationHead",
    "DualEncoder",
    "EPICModel",
    "HeadConfig",
    "Method",
    "Output",
    "Pair",
    "ParameterFreeHub",
    "Presence",
    "TemporalPrompts",
]
