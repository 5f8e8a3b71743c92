"""What stores will get: compared with the free disk before, and shown as a bar while written."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from epic_pl.errors import CacheError
from epic_pl.features.store.spec import StoreSpec

_SLACK = 64_000_000  # bytes of disk that stay free


@dataclass(frozen=True)
class Addition:
    """Items that a store will get.

    Attributes:
        spec: of the store.
        items: number of missing items.
        bytes_per_item: on the disk; of ragged ones the mean, as estimated.
    """

    spec: StoreSpec
    items: int
    bytes_per_item: float

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return int(self.items * self.bytes_per_item)

    def __str__(self) -> str:
        return (
            f"{self.spec.kind} features of {self.items:,} items, about {decimal(self.nbytes)} "
            f"({decimal(int(self.bytes_per_item))} each, {self.spec.dtype})"
        )


def require_disk(root: Path, additions: Sequence[Addition], show: bool) -> None:
    """Compare the size of all additions together with the free disk.

    Args:
        root: the folder of all stores.
        additions: one for each store.
        show: print the sizes, unless there is nothing to add.

    Raises:
        CacheError: too little is free.
    """
    some = [each for each in additions if each.items]
    if not some:
        return
    existing = root
    while not existing.exists():  # created with the first store
        existing = existing.parent
    needed, free = sum(each.nbytes for each in some), shutil.disk_usage(existing).free
    what = f"{' and '.join(map(str, some))}, in {root}"
    if needed + _SLACK > free:
        raise CacheError(
            f"Caching {what} needs {decimal(needed)}, and {decimal(_SLACK)} that stay free, but "
            f"{decimal(free)} are free there. Store smaller numbers (cache.dtype float16 or int8; "
            f"now {some[0].spec.dtype}) or another level, choose another cache folder (or set "
            "EPIC_PL_CACHE to one), or remove old stores with `epic-pl cache clear`."
        )
    if show:
        print(f"Caching {what}: {decimal(needed)} in all, {decimal(free)} free", flush=True)


@contextmanager
def progress_bar(
    title: str, total: float, show: bool, console: Console | None = None
) -> Iterator[Callable[[float], None]]:
    """A bar with MB/s and the time that is left; yields a function that counts written bytes.

    Args:
        title: what is written.
        total: bytes, as estimated; it grows where a rank writes shards of others.
        show: draw it.
        console: where; standard error by default.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console or Console(file=sys.stderr),
        speed_estimate_period=60,
        disable=not show,
    )
    task, done = bar.add_task(title, total=total), 0.0

    def advance(nbytes: float) -> None:
        nonlocal done
        done += nbytes
        bar.update(task, completed=done, total=max(total, done))

    with bar:
        yield advance
