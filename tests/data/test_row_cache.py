"""A later start opens the rows that an earlier one read, as long as the files are as they were."""

import json
import os
import zlib
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import fabricate
import numpy as np
import pyarrow as pa
import pytest

from epic_pl.data import (
    MMIMDBDataModule,
    SNLIVEDataModule,
    TableDataModule,
    row_cache,
)
from epic_pl.data.row_cache import ImageRecord, cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.utils.errors import DataError

MODULES = {"snli_ve": SNLIVEDataModule, "mm_imdb": MMIMDBDataModule}
KEPT = [layout for layout in fabricate.LAYOUTS if layout[0] in MODULES]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Builds the DataModule of a layout, whose files the first call makes."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))

    def build(name, layout, cls=None, **options):
        if not (tmp_path / "data").exists():
            fabricate.LAYOUTS[name, layout][0](tmp_path / "data")
        options |= {"data_dir": str(tmp_path / "data")}
        return (cls or MODULES[name])(**fabricate.ENCODERS | options)

    return build


@pytest.fixture
def reads(monkeypatch):
    """Splits whose annotation files were read."""
    seen = []
    write = row_cache._write_arrow

    def spy(path, table, facts):
        if facts:
            seen.append(path)
        write(path, table, facts)

    monkeypatch.setattr(row_cache, "_write_arrow", spy)
    return seen


def _tables(data):
    data.setup()
    splits = data.own_splits
    return data.class_names, {split: data.dataset(split).table.to_pydict() for split in splits}


@pytest.mark.parametrize(("name", "layout"), KEPT)
def test_a_second_start_reads_no_annotation_file(name, layout, make, reads, tmp_path, caplog):
    def start():
        caplog.clear()
        with caplog.at_level("INFO"):
            data = make(name, layout)
            tables = _tables(data)
        return data, tables, [line for line in caplog.messages if "rows of" in line]

    _, *first = start()
    assert reads
    reads.clear()
    data, *second = start()
    assert reads == []
    assert second == first
    assert data.dataset("train")[1]["image"] is not None

    source = tmp_path / "data" / fabricate.LAYOUTS[name, layout][1]
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    assert _tables(make(name, layout)) == first[0]
    assert reads


def test_other_options_have_other_rows(make):
    first = _tables(make("snli_ve", "new key"))
    other = _tables(make("snli_ve", "new key", premise=True))
    assert other[1] != first[1]
    assert _tables(make("snli_ve", "new key")) == first
    assert _tables(make("snli_ve", "new key", premise=True)) == other


def test_a_cache_that_cannot_be_written_costs_time_only(make, reads, tmp_path, monkeypatch):
    first = _tables(make("snli_ve", "new key"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "file"))
    reads.clear()
    assert _tables(make("snli_ve", "new key")) == first
    assert reads


def _offset_beyond_the_file(path, table):
    """Text offsets that lead far beyond the text's bytes, as `validate` finds them."""
    text = table["text"].combine_chunks()
    offsets = np.frombuffer(text.buffers()[1], np.int32)[: len(text) + 1].copy()
    content = path.read_bytes()
    assert content.count(offsets.tobytes()) >= 1
    offsets[-1] = 2**30
    content = content[:-4].replace(np.sort(offsets)[:-1].tobytes(), offsets[1:].tobytes())
    path.write_bytes(content + zlib.crc32(content).to_bytes(4))


DAMAGES = {
    "bytes": lambda path, table: path.write_bytes(path.read_bytes()[:-200]),
    "pipe": lambda path, table: (path.unlink(), os.mkfifo(path)),
    "link": lambda path, table: (path.unlink(), path.symlink_to("/etc/passwd")),
    "offsets": _offset_beyond_the_file,
    "columns": lambda path, table: _rewrite(path, table.rename_columns(list("abcd"))),
    "types": lambda path, table: _rewrite(
        path, table.set_column(3, "label", table["label"].cast(pa.string()))
    ),
    "more": lambda path, table: _rewrite(path, table.append_column("columns", table["text"])),
    "no facts": lambda path, table: _rewrite(path, table, b"{}"),
    "facts": lambda path, table: _rewrite(path, table, b'{"classes": "abc"}'),
    "text": lambda path, table: _flip(path, b"three", 1),
    "class": lambda path, table: _flip(path, b'["x"', 16),
    "labels": lambda path, table: _exchange_labels(path, table),
    "checksum": lambda path, table: path.write_bytes(path.read_bytes()[:-1]),
    "short": lambda path, table: path.write_bytes(b"abc"),
    "empty": lambda path, table: path.write_bytes(b""),
}


def _rewrite(path, table, facts=None):
    facts = facts or pa.ipc.open_file(path.read_bytes()[:-4]).schema.metadata[b"epic_pl"]
    row_cache._write_arrow(path, table, json.loads(facts))


def _flip(path, where, bits):
    """Change one byte of a value."""
    content = bytearray(path.read_bytes())
    content[content.index(where)] ^= bits
    path.write_bytes(content)


def _exchange_labels(path, table):
    values = table["label"].combine_chunks().buffers()[1].to_pybytes()[:24]
    content = path.read_bytes()
    assert content.count(values) == 1
    path.write_bytes(content.replace(values, values[8:16] + values[:8] + values[16:]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_doctored_cache_is_read_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "table"
    source.touch()
    texts, reads = ["one", "two", "three"], []

    def read():
        reads.append(1)
        table = sample_table(["a", "b", "c"], [None] * 3, texts, [0, 1, 0])
        return Rows(table, tmp_path, source, ["x", "y"], {"n": 1})

    for count in (1, 1):
        assert cached_rows("x", [source], {}, read).table["text"].to_pylist() == texts
        assert len(reads) == count
    (path,) = (tmp_path / "cache" / "rows").glob("*.arrow")
    DAMAGES[damage](path, read().table)
    reads.clear()
    assert cached_rows("x", [source], {}, read).table["text"].to_pylist() == texts
    assert len(reads) == 1
    assert not path.is_symlink()


@pytest.mark.parametrize("columns", [["image"], ["image", "fact", "more"], ["x", "y"]])
def test_a_doctored_record_of_images_is_empty(columns, tmp_path, cache):
    (tmp_path / "a.png").touch()
    record = ImageRecord(tmp_path)
    record.add({"a": None})
    assert record.read() == {"a": None}
    _rewrite(record.path, pa.table({name: ["a"] for name in columns}), b"{}")
    assert record.read() == {}


def test_digests_are_of_the_content_and_remembered_until_a_file_changes(
    tmp_path, cache, monkeypatch
):
    for name, content in (("a.png", b"a"), ("copy.png", b"a"), ("b.png", b"b")):
        (tmp_path / name).write_bytes(content)
    names = ["a.png", "copy.png", "b.png"]
    first = ImageRecord(tmp_path, "digests").digests(names)
    assert first["a.png"] == first["copy.png"] != first["b.png"]
    os.utime(tmp_path / "b.png", ns=(1, 1))
    read, seen = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path.name) or read(path))
    assert ImageRecord(tmp_path, "digests").digests(names) == first
    assert seen == ["b.png"]


class Louder(SNLIVEDataModule):
    ending = ""

    def read_split(self, split):
        rows = super().read_split(split)
        texts = [f"{text}{self.ending}" for text in rows.table["text"].to_pylist()]
        return replace(rows, table=rows.table.set_column(2, "text", [texts]))


def test_what_a_subclass_makes_of_the_rows_is_not_kept(make, monkeypatch):
    for ending in "?!":
        monkeypatch.setattr(Louder, "ending", ending)
        assert _tables(make("snli_ve", "new key", Louder))[1]["val"]["text"][0].endswith(ending)


def _start(queue, table):
    """What each of several ranks does that start at once."""
    write = row_cache._write_arrow
    row_cache._write_arrow = lambda *args: queue.put(os.getpid()) or write(*args)
    queue.put(TableDataModule(table=table, **fabricate.ENCODERS).class_names)


def test_one_process_of_a_machine_reads_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    lines = [f"{i}.png,text {i},{'ab'[i % 2]}\n" for i in range(2000)]
    (tmp_path / "t.csv").write_text("image,text,label\n" + "".join(lines))
    context = get_context("fork")
    arguments = (queue := context.Queue(), str(tmp_path / "t.csv"))
    ranks = [context.Process(target=_start, args=arguments) for _ in range(3)]
    for rank in ranks:
        rank.start()
    said = [queue.get(timeout=60) for _ in range(4)]
    for rank in ranks:
        rank.join()
    assert said.count(["a", "b"]) == 3


def test_a_file_that_is_gone_is_reported_by_the_reader(tmp_path):
    def read():
        raise DataError("there is no such file")

    with pytest.raises(DataError, match="no such file"):
        cached_rows("x", [tmp_path / "gone"], {}, read)
