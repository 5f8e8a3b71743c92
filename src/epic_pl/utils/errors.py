"""The errors of epic_pl: each message names the file, row or option and the way out."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with control characters and surrogates replaced by their escapes."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a process or a generator; no other BaseException means that, least of all Rust's."""


class EpicError(Exception):
    """Base of all errors that users can fix; the command line prints them without a traceback."""

    def __str__(self) -> str:
        return printable(super().__str__())


class AssetError(EpicError):
    """A pretrained encoder or a demo file could not be fetched, or is damaged."""


class EncoderError(EpicError):
    """An encoder's name, architecture or inputs are not supported."""


class DataError(EpicError):
    """A dataset's files, rows, labels or images are missing or broken."""


class CheckpointError(EpicError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class UntrustedError(CheckpointError):
    """A file names a class of a package that the user has not named."""


class CacheError(EpicError):
    """A feature store is missing, incomplete, damaged, or not the requested one."""


class ConfigError(EpicError):
    """An option is wrong, or options contradict each other."""


class TrainingError(EpicError):
    """Training cannot go on, for example because the loss is not finite."""


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn the ImportError of an optional dependency into advice to install its extra.

    Raises:
        ConfigError: instead of an ImportError.
    """
    try:
        yield
    except ImportError as error:
        way_out = f"pip install 'epic_pl[{extra}]'"
        raise ConfigError(f"{purpose} needs {error.name}: {way_out}.") from error


@contextmanager
def raised_as(
    kind: type[EpicError], problem: str, way_out: str = "", *errors: type[BaseException]
) -> Iterator[None]:
    """Turn errors, by default all, into "PROBLEM: ERROR. WAY OUT."; an EpicError stays itself.

    A failure of a library in Rust is a BaseException, and must be named to be turned.

    Raises:
        EpicError: of class ``kind``.
    """
    try:
        yield
    except (EpicError, *ENDINGS):
        raise
    except errors or Exception as error:  # noqa: B030
        raise kind(f"{problem}: {first_line(error)}. {way_out}".rstrip()) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion, such as " Did you mean ...?", for a misspelt word; empty without a close one.

    A name that lacks sections before its last word, all or some, matches the first that begins and
    ends like it.
    """
    names, (section, _, last) = list(known), word.rpartition(".")
    close = [name for name in names if name.startswith(section) and name.endswith(f".{last}")]
    if not close:  # in whatever case
        cases = {name.lower(): name for name in reversed(names)}
        near = difflib.get_close_matches(word.lower(), cases, n=1)
        close = [cases[name] for name in near]
    return f" Did you mean {close[0]!r}?" if close else ""


def counted(count: int, nouns: str) -> str:
    """A number with its noun, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {nouns.removesuffix('s') if count == 1 else nouns}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its last mark; its type if it has none."""
    return str(error).strip().partition("\n")[0].rstrip(".!") or type(error).__name__
