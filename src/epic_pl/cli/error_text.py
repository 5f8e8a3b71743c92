"""Errors of the command line as one paragraph, without a traceback or a parser's alternatives."""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.utilities.exceptions import SIGTERMException

from epic_pl.utils.errors import EpicError, did_you_mean, printable

MENDABLE = (EpicError, ImportError, OSError)
"""Errors that a user can mend, if they name what is missing."""

# jsonargparse's messages on alternatives of a union, such as that `data` is optional
_PARSER_NOISE = re.compile(
    r"(Parser key \"\w+\":\s*)?Problem with given class_path '[\w.]+':\s*"
    r"|(- )?Does not validate against any of the Union subtypes.*?Errors:\s*- "
    r"|- Expected a <class 'NoneType'>.*|Given value type:.*",
    re.DOTALL,
)
_UNKNOWN = re.compile(r"(?:unrecognized arguments: --|does not accept option ')([\w.-]+)")
_UNKNOWN_OF_CLASS = re.compile(r"class_path '([\w.]+)\.(\w+)':\s*Option '(\w+)[\w.]*' is not")
_VALUE = re.compile(r"(?:Got|Given) value: (.*)|: '(.*)'$|(\S+) does not conform", re.MULTILINE)
_KIND = re.compile(r"<class '(\w+)'>|Not of type (\w+Int)|Literal\[('.*?)\]")


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Print an error that a user can fix as one paragraph on stderr, and exit with code 1.

    The code is 130 after Ctrl-C, and 143 after SIGTERM.
    """
    try:
        yield
    except (*MENDABLE, ArgumentError) as error:
        text = message_of(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            file = error.filename or "what is written"
            text = f"{os.strerror(error.errno)}: make room for {file} or move it."
        elif isinstance(error, OSError) and (not error.filename or error.errno == errno.ENOENT):
            raise
        print(f"epic-pl: {type(error).__name__}: {printable(text)}", file=sys.stderr)
        traceback.clear_frames(error.__traceback__)  # else exit waits for loader workers
        raise SystemExit(1) from None
    except KeyboardInterrupt as end:
        print(f"Interrupted: {end}" if end.args else "Interrupted.", file=sys.stderr)
        traceback.clear_frames(end.__traceback__)
        raise SystemExit(128 + signal.SIGINT) from None
    except SIGTERMException:  # Lightning would exit with 0
        raise SystemExit(128 + signal.SIGTERM) from None


@contextmanager
def suggestions(*parsers: ArgumentParser) -> Iterator[None]:
    """Add to an error of parsers which option, or which value of one, was probably meant."""
    try:
        yield
    except ArgumentError as error:
        text, meant = str(error), ""
        if match := _UNKNOWN.search(text):
            names = [name for parser in parsers for name in parser._option_string_actions]
            meant = did_you_mean(match[1], [name.removeprefix("--") for name in names])
        elif match := _UNKNOWN_OF_CLASS.search(text):
            kind = getattr(sys.modules.get(match[1]), match[2], object)
            bases = (vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base))
            meant = did_you_mean(
                match[3], [name for init in bases for name in signature(init).parameters]
            )
        if meant and not hasattr(error, "__notes__"):
            error.add_note(meant)
        raise


def message_of(error: Exception) -> str:
    """An error's message without a loader worker's traceback or the parser's alternatives."""
    kind = type(error)
    text = str(error).rpartition(f"{kind.__module__}.{kind.__name__}: ")[2]
    if isinstance(error, ModuleNotFoundError) and error.name:
        text += f": pip install {error.name.partition('.')[0]}"
    if isinstance(error, ArgumentError):
        meant = "".join(getattr(error, "__notes__", ()))
        text = _wrong_value(text) or _PARSER_NOISE.sub("", text).strip().rstrip(".") + f".{meant}"
        text += (
            " `epic-pl COMMAND --help` lists the options, `epic-pl fit --model.help EPICModule` "
            "and --data.help CLASS those of a class."
        )
    return " ".join(text.split())


def _wrong_value(text: str) -> str:
    """An option's value, and what it must be; empty for other errors of a parser."""
    options, said = re.findall(r'Parser key "([\w.]+)":', text), text.rpartition("Parser key")[2]
    value = _VALUE.search(said)
    named = _KIND.findall(said[: value and value.end()].partition("Given value type")[0])
    kinds = [kind for kind in dict.fromkeys(map("".join, named)) if kind != "NoneType"]
    if not (options and value and kinds) or "class_path" in said:
        return ""
    words = [f"one of {kind}" if "'" in kind else f"of type {kind}" for kind in kinds]
    given = "".join(filter(None, value.groups()))
    meant = did_you_mean(given, re.findall(r"'([^']*)'", "".join(kinds)))
    return f"{'.'.join(options)} is {given!r}, but must be {' or '.join(words)}.{meant}"
