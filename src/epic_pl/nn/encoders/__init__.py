"""Frozen pretrained encoders with a common interface."""

from epic_pl.nn.encoders.base import Encoder, key_mask, masked_mean
from epic_pl.nn.encoders.build import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.hf_transformer import TransformersEncoder
from epic_pl.nn.encoders.memory import Memory, attend
from epic_pl.nn.encoders.timm_eva import TimmEvaEncoder
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder
from epic_pl.nn.encoders.whole_model import WholeModelEncoder

__all__ = [
    "Encoder",
    "Memory",
    "TimmEvaEncoder",
    "TimmViTEncoder",
    "TransformersEncoder",
    "WholeModelEncoder",
    "attend",
    "build_image_encoder",
    "build_text_encoder",
    "key_mask",
    "masked_mean",
]
