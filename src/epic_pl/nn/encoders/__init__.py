"""Frozen pretrained encoders with a common interface."""

from epic_pl.nn.encoders.base import Encoder, masked_mean, read_mask
from epic_pl.nn.encoders.build import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.clip import CLIPImageEncoder, CLIPTextEncoder
from epic_pl.nn.encoders.hf import HFTextEncoder
from epic_pl.nn.encoders.reading import Memory, read_attention
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder

__all__ = [
    "CLIPImageEncoder",
    "CLIPTextEncoder",
    "Encoder",
    "HFTextEncoder",
    "Memory",
    "TimmViTEncoder",
    "build_image_encoder",
    "build_text_encoder",
    "masked_mean",
    "read_attention",
    "read_mask",
]
