"""Shares of several processes, and tables that they write."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epic_pl import part_files
from epic_pl.errors import ConfigError, DataError
from epic_pl.part_files import PartWriter, Share


def test_shares_of_shards_and_their_ranks_are_all_different():
    shares = [Share.of(f"{shard}/3", rank, 2) for shard in (1, 2, 3) for rank in (0, 1)]
    assert shares == [Share(index, 6) for index in range(6)]
    assert Share.of(None, 1, 2) == Share(1, 2)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(shard):
    with pytest.raises(ConfigError, match="1/8 to 8/8"):
        Share.of(shard)


def test_a_writer_that_was_killed_continues_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "BATCHES", 2)

    def write(share, batches=99, key="a"):
        writer = PartWriter(tmp_path / "out", 25, 3, share, key)
        rows = writer.rows
        for start in range(0, len(rows), 3)[:batches]:
            writer.add(pa.table({"row": rows[start : start + 3]}))
        return rows, str(writer)

    rows, said = write(Share(1, 2), batches=3)  # killed in the middle of its second part
    assert rows == [*range(6, 12), *range(18, 24)]
    assert said == f"1 of 5 files are in {tmp_path / 'out'}, others are still to be written"
    damaged = tmp_path / "out" / "part-000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert write(Share(1, 2))[0] == rows
    assert write(Share(1, 2))[0] == []
    assert write(Share(0, 1))[0] == [*range(6), *range(12, 18), 24]
    assert pq.read_table(tmp_path / "out")["row"].to_pylist() == [*range(25)]
    with pytest.raises(DataError, match="another model"):
        write(Share(0, 1), key="b")
