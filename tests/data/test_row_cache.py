"""A later start opens the rows that an earlier one read, as long as the files are as they were."""

import json
import os
from functools import partial

import fabricate
import pytest

from epic_pl.data import (
    Food101DataModule,
    HatefulMemesDataModule,
    MMIMDBDataModule,
    SNLIVEDataModule,
    folder,
)
from epic_pl.data.datasets import food101
from epic_pl.data.folder import FolderDataModule
from epic_pl.data.row_cache import digest_of_files, digest_of_names

LAYOUTS = {
    **{
        source: (
            partial(fabricate.food101, source=source, words=50),
            partial(Food101DataModule, text_source=source, val_size=3),
        )
        for source in ("titles", "split_json", "page_text", "jsonl")
    },
    "snli_ve": (fabricate.snli_ve, SNLIVEDataModule),
    "hateful_memes": (fabricate.hateful_memes, partial(HatefulMemesDataModule, predict="test")),
    "one folder": (fabricate.mm_imdb, MMIMDBDataModule),
    "two folders": (
        partial(fabricate.mm_imdb, images="images", labels="labels"),
        MMIMDBDataModule,
    ),
    "HDF5": (fabricate.mm_imdb_hdf5, MMIMDBDataModule),
}
# a file that the rows are read from
SOURCES = {
    "titles": "texts/train_titles.csv",
    "split_json": "text.json",
    "page_text": "texts_txt/waffles/waffles_1.txt",
    "jsonl": "dev.jsonl",
    "snli_ve": "snli_ve_train.jsonl",
    "hateful_memes": "train.jsonl",
    "one folder": "dataset/0000006.json",
    "two folders": "labels/0000006.json",
    "HDF5": "metadata.json",
}


@pytest.fixture
def make(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))

    def build(layout, cls=None, **options):
        return (cls or LAYOUTS[layout][1])(
            data_dir=str(tmp_path / "data"),
            image_encoder=str(tiny_vit_dir),
            text_encoder=str(tiny_tokenizer_dir),
            **options,
        )

    return build


@pytest.fixture
def reads(monkeypatch):
    """Splits whose annotation files were read."""
    seen = []
    table = folder.sample_table
    monkeypatch.setattr(folder, "sample_table", lambda *a, **k: seen.append(1) or table(*a, **k))
    release = food101.read_release
    monkeypatch.setattr(food101, "read_release", lambda *a: seen.append("all") or release(*a))
    return seen


def _tables(data):
    data.setup()
    splits = data.own_splits
    return data.class_names, {split: data.dataset(split).table.to_pydict() for split in splits}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_start_reads_no_annotation_file(layout, make, reads, tmp_path, caplog):
    if layout == "HDF5":
        pytest.importorskip("h5py")
    LAYOUTS[layout][0](tmp_path / "data")
    with caplog.at_level("INFO"):
        first = _tables(make(layout))
    said = [line for line in caplog.messages if "rows of" in line]
    assert reads
    reads.clear()
    caplog.clear()
    with caplog.at_level("INFO"):
        data = make(layout)
        assert _tables(data) == first
    assert reads == []
    assert [line for line in caplog.messages if "rows of" in line] == said
    assert data.dataset("train")[1]["image"] is not None

    source = tmp_path / "data" / SOURCES[layout]
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert _tables(make(layout)) == first
    assert reads


def test_a_film_that_is_mended_in_place_is_read(make, tmp_path):
    fabricate.mm_imdb(tmp_path / "data")
    _tables(make("one folder"))
    path = tmp_path / "data" / "dataset" / "0000006.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plot": ["another comedy"]}))
    assert "another comedy" in _tables(make("one folder"))[1]["train"]["text"]


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("titles", {"val_size": 4}),
        ("titles", {"split_seed": 7}),
        ("page_text", {"max_text_tokens": 5}),
        ("snli_ve", {"premise": True}),
        ("one folder", {"plot": "first"}),
        ("one folder", {"plot": "all"}),
        ("hateful_memes", {"train": "dev_unseen"}),
    ],
)
def test_other_options_have_other_rows(layout, options, make, tmp_path):
    LAYOUTS[layout][0](tmp_path / "data")
    first = _tables(make(layout))
    other = _tables(make(layout, **options))
    assert other[1] != first[1]
    assert _tables(make(layout)) == first
    assert _tables(make(layout, **options)) == other


def test_a_picture_that_is_new_in_a_class_of_pages_is_a_new_row(make, tmp_path):
    fabricate.food101(tmp_path / "data", "page_text")
    assert len(_tables(make("page_text"))[1]["test"]["text"]) == 6
    fabricate.picture(tmp_path / "data" / "images" / "test" / "waffles" / "waffles_9.jpg")
    assert len(_tables(make("page_text"))[1]["test"]["text"]) == 7


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(
    make, reads, tmp_path, monkeypatch
):
    fabricate.snli_ve(tmp_path / "data")
    first = _tables(make("snli_ve"))
    for path in (tmp_path / "cache" / "manifests").iterdir():
        path.write_bytes(b"no manifest")
    assert _tables(make("snli_ve")) == first
    (tmp_path / "file").touch()
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "file"))
    reads.clear()
    assert _tables(make("snli_ve")) == first
    assert reads


class Lower(SNLIVEDataModule):
    """Reads otherwise, and does not say from what."""

    ending = ""

    def read_split(self, split):
        rows = super().read_split(split)
        rows.texts = [f"{text}{self.ending}" for text in rows.texts.to_pylist()]
        return rows


def test_a_subclass_that_reads_otherwise_is_read_at_every_start(make, tmp_path, monkeypatch):
    fabricate.snli_ve(tmp_path / "data")
    monkeypatch.setattr(folder.SplitRows, "__setattr__", object.__setattr__)  # it is frozen
    for ending in "?!":
        monkeypatch.setattr(Lower, "ending", ending)
        assert _tables(make("snli_ve", Lower))[1]["val"]["text"][0].endswith(ending)
    assert FolderDataModule.row_origin(make("snli_ve"), "train") is None


def test_digests_know_names_sizes_and_times_of_what_they_look_at(tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "x.json"
    file.write_text("1")
    files, names = digest_of_files([tmp_path / "a"], ".json"), digest_of_names([tmp_path / "a"])
    (tmp_path / "a" / "x.jpeg").touch()
    assert digest_of_files([tmp_path / "a"], ".json") == files
    assert digest_of_names([tmp_path / "a"]) != names
    file.write_text("12")
    larger = digest_of_files([tmp_path / "a"], ".json")
    os.utime(file, ns=(0, 0))
    assert len({files, larger, digest_of_files([tmp_path / "a"], ".json")}) == 3
