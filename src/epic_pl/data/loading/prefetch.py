"""A thread that loads the next batches while the present one is worked on."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any


class Prefetcher(Iterator[Any]):
    """What ``batches`` gives, in its order, loaded up to ``ahead`` items early by a thread.

    The thread starts with the first item and ends with the last one, with an error, which
    :meth:`__next__` raises as it was, or with :meth:`close`, which waits for it.

    Args:
        batches: read by the thread alone from now on; must not touch global random states.
        ahead: items loaded and not yet handed out, at most; at least 1.
    """

    def __init__(self, batches: Iterator[Any], ahead: int) -> None:
        self._batches = batches
        self._free = threading.Semaphore(ahead)
        self._loaded: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._closed = False
        # a daemon: nobody waits for batches that an interpreter at its end will not use
        self._thread = threading.Thread(target=self._load, name="epic_pl-prefetch", daemon=True)

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        if self._thread.ident is None:
            self._thread.start()
        batch, error = self._loaded.get()
        if error is not None:
            self.close()
            raise error
        self._free.release()
        return batch

    def close(self) -> None:
        """End the thread after the item that it is loading."""
        self._closed = True
        self._free.release()
        # the collector may close an abandoned prefetcher in the very thread that it waits for
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _load(self) -> None:
        try:
            while self._free.acquire() and not self._closed:
                self._loaded.put((next(self._batches), None))
        except BaseException as error:  # the end of the batches too, which is an error to `next`
            self._loaded.put((None, error))
