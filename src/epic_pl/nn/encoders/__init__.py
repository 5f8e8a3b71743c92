"""Frozen pretrained encoders with a common interface."""

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.build import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.clip import CLIPImageEncoder, CLIPTextEncoder
from epic_pl.nn.encoders.hf import HFTextEncoder
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder

__all__ = [
    "CLIPImageEncoder",
    "CLIPTextEncoder",
    "Encoder",
    "HFTextEncoder",
    "TimmViTEncoder",
    "build_image_encoder",
    "build_text_encoder",
]
