"""Shares of several processes, and tables that they write."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epic_pl.utils import part_files
from epic_pl.utils.errors import ConfigError, DataError
from epic_pl.utils.part_files import ALL, PartWriter, Share


def test_shares_of_shards_and_their_ranks_are_all_different():
    shares = [Share.of(f"{shard}/3", rank, 2) for shard in (1, 2, 3) for rank in (0, 1)]
    assert shares == [Share(index, 6) for index in range(6)]
    assert Share.of(None, 1, 2) == Share(1, 2)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(shard):
    with pytest.raises(ConfigError, match="1/8 to 8/8"):
        Share.of(shard)


class Table:
    """Twenty-five rows, whose hashes are words."""

    def __init__(self, rows="rows", files="files"):
        self.rows, self.files = rows, files

    def __len__(self):
        return 25

    def digest(self):
        return self.rows

    def files_digest(self, rows):
        return f"{self.files} {rows}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a table in parts of two batches; returns the rows of the share, and what is said."""
    monkeypatch.setattr(part_files, "BATCHES", 2)

    def write(share=ALL, batches=99, table=None, size=3, model="model", **options):
        writer = PartWriter(tmp_path / "out", table or Table(), size, share, model, **options)
        rows = writer.rows
        for start in range(0, len(rows), size)[:batches]:
            writer.add(pa.table({"row": rows[start : start + size]}))
        return rows, str(writer)

    return write


def test_a_writer_that_was_killed_continues(write, tmp_path):
    rows, said = write(Share(1, 2), batches=3)  # killed in the middle of its second part
    assert rows == [*range(6, 12), *range(18, 24)]
    assert said == f"1 of 5 files are in {tmp_path / 'out'}, others are still to be written"
    damaged = tmp_path / "out" / "part-000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert write(Share(1, 2))[0] == rows
    assert write(Share(1, 2))[0] == []
    assert write(Share(0, 1))[0] == [*range(6), *range(12, 18), 24]
    assert pq.read_table(tmp_path / "out")["row"].to_pylist() == [*range(25)]


@pytest.mark.parametrize(
    "changed",
    [{"model": "b"}, {"table": Table(rows="b")}, {"size": 4}, {"top_k": 2}, {"other": 1}],
    ids=" ".join,
)
def test_parts_of_another_model_table_or_option_are_refused_whoever_wrote_them(changed, write):
    write(Share(0, 2), top_k=1)
    with pytest.raises(DataError, match="another model"):
        write(**{"share": Share(1, 2), "top_k": 1, **changed})


def test_a_share_refuses_its_own_parts_of_files_that_have_changed(write):
    write(Share(0, 2))
    assert write(Share(1, 2), table=Table(files="replaced"))[0]  # it looks at its own files alone
    with pytest.raises(DataError, match="image files"):
        write(Share(0, 2), table=Table(files="replaced"))
