"""What ends a comparison from outside: a signal, or the death of the process that waits for it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_POLL_S = 0.5
# how long a run may take to leave by itself, once nobody waits for it
_GRACE_S = 10


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: the first one raises KeyboardInterrupt, later ones nothing.

    Batch systems and ``kill`` send it; without this the process would leave its runs behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set what a signal does
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # what cleans up now must not be cut short by a sender who has no patience
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def end_with(parent: int, poll_s: float = _POLL_S, grace_s: float = _GRACE_S) -> None:
    """Let this process end soon after ``parent``, the process that started it, is gone.

    It gets SIGTERM first, so that loader workers go as well, and is ended for good ``grace_s``
    seconds later. A kill that nobody can catch leaves nothing that trains on this way.
    """
    threading.Thread(target=_watch, args=(parent, poll_s, grace_s), daemon=True).start()


def _watch(parent: int, poll_s: float, grace_s: float) -> None:
    while os.getppid() == parent:
        time.sleep(poll_s)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(1)
