"""The errors that epic_pl raises on purpose: each message names the culprit and the way out."""

import difflib
import re
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with its control characters and halves of a character spelled out."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class EpicError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""

    def __str__(self) -> str:
        return printable(super().__str__())


class AssetError(EpicError):
    """A pretrained encoder or a demo file could not be fetched or is not what it should be."""


class EncoderError(EpicError):
    """An encoder's name, architecture or inputs are not supported."""


class DataError(EpicError):
    """A dataset's files, rows, labels or images are missing or broken."""


class CheckpointError(EpicError):
    """A checkpoint does not fit the model that should load it."""


class UntrustedError(CheckpointError):
    """A file names a class of a package that the user has not named."""


class CacheError(EpicError):
    """A feature store is missing, incomplete, damaged, or not the one that is asked for."""


class ConfigError(EpicError):
    """Options that cannot hold together."""


class TrainingError(EpicError):
    """Training cannot go on, for example because the loss is not finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question for the known word that is closest to a misspelt one; empty without a close one.

    A name without its section, such as ``max_epochs``, means the first that ends in it.
    """
    names = list(known)
    close = [name for name in names if name.endswith(f".{word}")]
    if not close:  # in whatever case
        cases = {name.lower(): name for name in reversed(names)}
        near = difflib.get_close_matches(word.lower(), cases, n=1)
        close = [cases[name] for name in near]
    return f" Did you mean {close[0]!r}?" if close else ""


def counted(count: int, nouns: str) -> str:
    """A number and what is counted, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {nouns.removesuffix('s') if count == 1 else nouns}"


def first_line(error: BaseException) -> str:
    """Of another library's message, without a full stop; the error's type where it has none."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
