"""A thread that loads the next batches while a training step runs."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_NAME = "epic_pl-prefetch"
_END = object()


def prefetched(batches: Iterator[Any], ahead: int) -> Iterator[Any]:
    """The items of ``batches``, loaded up to ``ahead`` items early by a thread.

    The thread starts with the first item and ends with the last one, with an error, which is raised
    as it was, or when the generator is closed, which waits for the item that is being loaded.

    Args:
        batches: read by the thread alone from now on; must not touch global random states.
        ahead: items loaded and not yet handed out, at most; at least 1.
    """
    pool = ThreadPoolExecutor(1, _NAME)
    try:
        waiting = deque(pool.submit(next, batches, _END) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, batches, _END))
            yield item
            del item  # the next one is put together without this one beside it
    finally:
        # the garbage collector may close an abandoned generator in the very thread of the pool
        inside = threading.current_thread().name.startswith(_NAME)
        pool.shutdown(wait=not inside, cancel_futures=True)
