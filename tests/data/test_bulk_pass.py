"""A pass over a table by several processes, which may be killed."""

import os

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import Dataset

from epic_pl.data import bulk_pass, row_cache
from epic_pl.data.bulk_pass import BulkPass
from epic_pl.data.rows import Rows, sample_table
from epic_pl.utils.errors import DataError
from epic_pl.utils.share import ALL, Share

EMPTY = pa.table({"id": pa.array([], pa.string())})


class Ids(Dataset):
    """The ids of rows."""

    def __init__(self, table):
        self.ids = table["sample_id"].to_pylist()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, row):
        return self.ids[row]


class Stored:
    """The same, from a dataset of stored features, which gives the rows of a batch at once."""

    def __init__(self, table):
        self.ids = table["sample_id"].to_pylist()

    def __getitems__(self, rows):
        return [self.ids[row] for row in rows]


@pytest.fixture
def rows(tmp_path, cache):
    """Twenty-five rows, each with an image of its own; the eighth has a broken one."""
    for number in range(25):
        fabricate.image(tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_bytes(b"no image")
    names = [str(number) for number in range(25)]
    table = sample_table(names, [f"{name}.png" for name in names], ["text"] * 25, [0] * 25)
    return Rows(table, tmp_path, tmp_path / "rows.csv")


@pytest.fixture
def write(tmp_path, rows, monkeypatch):
    """Writes parts of two batches; returns the batches of the share, and what is said."""
    monkeypatch.setattr(bulk_pass, "BATCHES", 2)

    def write(
        share=ALL,
        batches=99,
        table=rows,
        size=3,
        policy="error",
        model="model",
        name="out",
        kind=Ids,
        **more,
    ):
        made = BulkPass(tmp_path / name, table, size, share, policy, model, **more)
        usable, note = made.check(None, EMPTY)
        given = list(made.loader(kind(usable.table), list))
        for ids in given[:batches]:
            made.add(pa.table({"id": ids}))
        return given, str(made), note

    return write


def ids(folder):
    return [int(name) for name in pq.read_table(folder)["id"].to_pylist()]


def test_a_pass_that_was_killed_continues(write, tmp_path):
    given, said, _ = write(Share(1, 2), batches=3)  # killed in the middle of its second part
    assert given == [[str(row) for row in range(at, at + 3)] for at in (6, 9, 18, 21)]
    assert said == f"1 of 5 files are in {tmp_path / 'out'}, others are still to be written"
    damaged = tmp_path / "out" / "part-000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert write(Share(1, 2))[0] == given
    assert write(Share(1, 2))[0] == []
    assert write(Share(7, 8))[0] == []  # there are fewer parts
    assert sum(map(len, write()[0])) == 13
    assert ids(tmp_path / "out") == [*range(25)]


def test_rows_of_stored_features_are_read_a_batch_at_a_time(write):
    assert write(name="stored", kind=Stored)[0] == write()[0]


@pytest.mark.parametrize("policy", ["skip", "absent"])
def test_a_bad_row_moves_no_other_one_to_another_part(policy, write, tmp_path):
    write(name="one", policy=policy)
    notes = [write(Share(index, 3), policy=policy)[2] for index in (2, 0, 1)]
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 5
    for path in files:
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert ids(tmp_path / "out") == [row for row in range(25) if policy == "absent" or row != 7]
    assert [bool(note) for note in notes] == [False, False, True]
    other = {"skip": "absent", "absent": "skip"}[policy]
    with pytest.raises(DataError, match="other options"):
        write(policy=other)


def test_a_part_without_usable_rows_is_a_file_and_a_table_without_any_is_refused(
    write, tmp_path, rows
):
    write(Share(0, 5))
    for row in range(6, 12):
        (tmp_path / f"{row}.png").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"6\.png"):
        write()
    assert "12 rows" not in write(policy="skip")[2]  # what error has begun may be continued
    assert len(pq.read_table(tmp_path / "out" / "part-000001.parquet")) == 0
    assert ids(tmp_path / "out") == [*range(6), *range(12, 25)]
    for row in range(25):
        (tmp_path / f"{row}.png").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"No row of .*can be used"):
        write(policy="skip", name="none")
    with pytest.raises(DataError, match="has no rows"):
        write(table=Rows(rows.table.slice(0, 0), tmp_path, rows.source))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("changed", [{"model": "b"}, {"size": 4}, {"top_k": 2}, {"other": 1}])
def test_parts_of_another_model_or_option_are_refused_whoever_wrote_them(changed, write, rows):
    write(Share(0, 2), top_k=1)
    with pytest.raises(DataError, match="another model"):
        write(**{"share": Share(1, 2), "top_k": 1, **changed})
    shorter = Rows(rows.table.slice(0, 24), rows.image_root, rows.source)
    with pytest.raises(DataError, match="other rows"):
        write(Share(1, 2), top_k=1, table=shorter)


def test_a_share_refuses_its_own_parts_of_rows_or_files_that_have_changed(write, rows, tmp_path):
    write(Share(0, 2))
    column = [*rows.table["text"].to_pylist()]
    column[12] = "another"
    other = rows.table.set_column(2, "text", pa.array(column))
    changed = Rows(other, rows.image_root, rows.source)
    assert write(Share(1, 2), table=changed)[0]  # it looks at its own rows alone
    with pytest.raises(DataError, match="other rows or image files"):
        write(Share(0, 2), table=changed)
    os.utime(tmp_path / "13.png", (0, 0))
    with pytest.raises(DataError, match="image files"):
        write(Share(0, 2))


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_share_looks_once_at_each_of_its_own_images(policy, write, monkeypatch, tmp_path):
    looked, hashed, stat, digest = [], [], os.stat, bulk_pass.rows_digest

    def spy(path, *given, **more):
        if str(path).endswith(".png"):
            looked.append(os.path.basename(path))
        return stat(path, *given, **more)

    monkeypatch.setattr(row_cache.os, "stat", spy)
    monkeypatch.setattr(
        bulk_pass, "rows_digest", lambda part: hashed.append(len(part)) or digest(part)
    )
    write(Share(2, 4), policy=policy)  # rows 12 to 17
    assert sorted(looked) == [f"{row}.png" for row in range(12, 18)]
    assert hashed == [6]
