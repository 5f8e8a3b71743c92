"""Division of work among independent processes."""

import re
from dataclasses import dataclass

from epic_pl.utils.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """The pieces of work of one process: every ``count``-th, starting at ``index``."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, shard: str | None, rank: int = 0, ranks: int = 1) -> "Share":
        """The share of one of the ranks that work on a shard.

        Args:
            shard: ``i/n`` with i from 1 to n, such as ``3/8``; None is all.
            rank: rank of this process, from 0.
            ranks: number of processes that work on this shard.

        Raises:
            ConfigError: if ``shard`` has another form.
        """
        given = re.fullmatch(r"(\d{1,9})/(\d{1,9})", "1/1" if shard is None else shard)
        number, count = map(int, given.groups()) if given else (0, 0)
        if not 1 <= number <= count:
            raise ConfigError(f"shard is {shard!r}: write i/n, such as 1/8 to 8/8 for 8 processes.")
        return cls((number - 1) * ranks + rank, count * ranks)


ALL = Share()
