"""Removal of markup and addresses from web texts: an option of every dataset, off by default."""

import html
import re

# a letter must follow <, so that "3 < 4" stays; no second <, so that time is linear in the length
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
# up to a blank or a Chinese, Japanese or Korean letter, since these scripts need no blank
_ADDRESS = re.compile(
    r"(?:https?://|(?<![a-z0-9_])www\.)[^\s<>\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]+",
    re.IGNORECASE,
)
# to eight digits, more than any character has, since Python reads no numbers of 4,301 digits
_ENTITY = re.compile(r"&#0*([0-9]{1,8})[0-9]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean_text(text: str) -> str:
    """A text as a browser would show it.

    HTML tags, web addresses and control characters become blanks. Entities such as ``&amp;`` become
    their characters. Any white space becomes one blank, or none at the ends. A text of nothing
    else becomes an empty string, which still counts as present.
    """
    text = html.unescape(_ENTITY.sub(r"&#\1", _TAG.sub(" ", text)))
    for pattern in (_ADDRESS, _CONTROL):
        text = pattern.sub(" ", text)
    return " ".join(text.split())
