"""What stores are going to get, told and compared with the free disk before anything is written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.filesize import decimal

from epic_pl.errors import CacheError
from epic_pl.features.spec import StoreSpec

Item = TypeVar("Item")

_SLACK = 64_000_000  # bytes of disk that stay free


@dataclass(frozen=True)
class Addition:
    """What a store is going to get.

    Attributes:
        spec: of the store.
        items: number of items that it lacks.
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
    """Tell what all stores together are going to get, and compare it with the free disk.

    Args:
        root: the folder of all stores.
        additions: one a store.
        show: print it, unless there is nothing to add.

    Raises:
        CacheError: too little is free.
    """
    some = [each for each in additions if each.items]
    if not some:
        return
    what = f"{' and '.join(map(str, some))}, in {root}"
    needed, free_bytes = sum(each.nbytes for each in some), _free(root)
    total, free = decimal(needed), decimal(free_bytes)
    if needed + _SLACK > free_bytes:
        raise CacheError(
            f"Caching {what} needs {total}, and {decimal(_SLACK)} that stay free, but {free} are "
            "free there. Store smaller numbers (cache.dtype float16 or int8; now "
            f"{some[0].spec.dtype}) or another level, choose another cache folder (or set "
            "EPIC_PL_CACHE to one), or remove old stores with `epic-pl cache clear`."
        )
    if show:
        print(f"Caching {what}: {total} in all, {free} free", flush=True)


def _free(root: Path) -> int:
    while not root.exists():  # it is made when it is written to
        root = root.parent
    return shutil.disk_usage(root).free


def spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """At most so many of the items, from all along them."""
    return items[:: max(1, -(-len(items) // count))]
