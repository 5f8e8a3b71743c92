"""Texts from the web without markup and addresses: an option of every dataset, off by default."""

import html
import re
from typing import Any

from torch.utils.data import Dataset

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import EntailmentPairs
from epic_pl.errors import ConfigError

# a letter must follow, so that "3 < 4" stays; and no < within, so that time grows with length only
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
# to the next blank, or letter of Chinese, Japanese or Korean, which may follow without one
_ADDRESS = re.compile(
    r"(?:https?://|(?<![a-z0-9_])www\.)[^\s<>\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]+",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean_text(text: str) -> str:
    """A text as its reader sees it.

    HTML tags, web addresses and control characters become blanks, entities such as ``&amp;`` the
    characters that they stand for, and white space of any kind and length one blank, none at the
    ends. A text of nothing else is empty afterwards, which is not absent.
    """
    text = html.unescape(_TAG.sub(" ", text))
    for pattern in (_ADDRESS, _CONTROL):
        text = pattern.sub(" ", text)
    return " ".join(text.split())


def clean_texts(dataset: Dataset[Any]) -> None:
    """Clean all texts of a dataset, before anything is made of them."""
    if isinstance(dataset, ImageTextDataset):
        dataset.map_texts(clean_text)
    elif isinstance(dataset, EntailmentPairs):
        dataset.names = [clean_text(name) for name in dataset.names]
    else:
        raise ConfigError(
            f"data.clean_text is true, but the texts of a {type(dataset).__name__} cannot be "
            "changed: let build_dataset return an ImageTextDataset, or leave clean_text out."
        )
