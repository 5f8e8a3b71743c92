"""A progress bar in bytes, with MB/s and the time that is left."""

import sys
from types import TracebackType

from rich import progress
from rich.console import Console


class Progress:
    """Shows how much of a store is written; quiet where it is not shown.

    Args:
        title: what is written.
        total: bytes, as estimated.
        show: draw it.
        console: where; standard error by default.
    """

    def __init__(
        self, title: str, total: float, show: bool, console: Console | None = None
    ) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(),
            console=console or Console(file=sys.stderr),
            speed_estimate_period=60,
            disable=not show,
        )
        self._done, self._total = 0.0, total
        self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, nbytes: float) -> None:
        """Count bytes that were written; helping other ranks makes the total larger."""
        self._done += nbytes
        self._total = max(self._total, self._done)
        self._bar.update(self._task, completed=self._done, total=self._total)
