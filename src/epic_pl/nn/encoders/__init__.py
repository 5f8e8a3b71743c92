"""Frozen pretrained encoders with a common interface."""

from epic_pl.nn.encoders.base import Encoder, masked_mean, read_mask
from epic_pl.nn.encoders.build import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.features import FeaturesEncoder
from epic_pl.nn.encoders.hf_transformer import TransformersEncoder
from epic_pl.nn.encoders.reading import Memory, read_attention
from epic_pl.nn.encoders.timm_eva import TimmEvaEncoder
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder

__all__ = [
    "Encoder",
    "FeaturesEncoder",
    "Memory",
    "TimmEvaEncoder",
    "TimmViTEncoder",
    "TransformersEncoder",
    "build_image_encoder",
    "build_text_encoder",
    "masked_mean",
    "read_attention",
    "read_mask",
]
