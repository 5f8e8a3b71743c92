"""Errors of the command line as text, without a traceback."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import SIGTERMException

from epic_pl.utils.errors import EpicError, printable

MENDABLE = (EpicError, ImportError, OSError)
"""Errors that a user can fix."""


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Print an error that a user can fix on stderr, and exit with code 1.

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


def message_of(error: Exception) -> str:
    """An error's message without a loader worker's traceback: one paragraph, or a parser's list."""
    kind = type(error)
    text = str(error).rpartition(f"{kind.__module__}.{kind.__name__}: ")[2]
    if isinstance(error, ModuleNotFoundError) and error.name:
        text += f": pip install {error.name.partition('.')[0]}"
    if isinstance(error, ArgumentError):
        text += "\n`epic-pl COMMAND --help` lists the options; more help: `epic-pl --help`."
        return text
    return " ".join(text.split())
