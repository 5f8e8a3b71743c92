"""Shares of several processes."""

import pytest

from epic_pl.utils.errors import ConfigError
from epic_pl.utils.share import Share


def test_shares_of_shards_and_their_ranks_are_all_different():
    shares = [Share.of(f"{shard}/3", rank, 2) for shard in (1, 2, 3) for rank in (0, 1)]
    assert shares == [Share(index, 6) for index in range(6)]
    assert Share.of(None, 1, 2) == Share(1, 2)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(shard):
    with pytest.raises(ConfigError, match="1/8 to 8/8"):
        Share.of(shard)
