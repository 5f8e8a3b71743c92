"""Texts from the web without markup and addresses: an option of every dataset, off by default."""

import html
import re

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
