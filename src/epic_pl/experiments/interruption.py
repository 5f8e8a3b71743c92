"""Ends of a process from outside: a signal, or the death of its parent."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let the first SIGTERM raise KeyboardInterrupt, as Ctrl-C does, and ignore later ones.

    Batch systems, ``timeout`` and ``kill`` send it. Only for the main thread.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # a second signal must not cut the cleaning up short
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def end_with(parent: int, poll_s: float = 0.5, grace_s: float = 10) -> None:
    """Let this process end soon after its parent process, even if that was killed.

    It gets SIGTERM first, so that loader workers end as well, and is ended for good ``grace_s``
    seconds later.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
