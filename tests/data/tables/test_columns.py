"""Columns of a table that reach the batch under their own names."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tiny_runs
from epic_pl.data import row_cache
from epic_pl.utils.errors import ConfigError, DataError

WEIGHTS = [0.5, 2, 1e-3, 1.25]
NOTES = ["by hand", "", None, "1"]
MORE = {"weight": WEIGHTS, "note": NOTES, "text": ["a", "b", "c", "d"], "part": [1, 2, 3, 4]}
MORE |= {"blank": [None]}


@pytest.fixture
def make(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    """Writes a table whose rows have the cells of some columns in turn, and builds its data."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    path = tiny_runs.table(tmp_path / "data")

    def make(more=MORE, suffix=".parquet", **options):
        with tiny_runs.changed_rows(path) as rows:  # null is empty there
            for number, row in enumerate(rows):
                row |= {name: cells[number % len(cells)] for name, cells in more.items()}
        pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
        options = {"batch_size_per_device": 5, "columns": list(more)} | options
        given = path.with_suffix(suffix), tiny_vit_dir, tiny_tokenizer_dir
        return lambda: tiny_runs.table_data(*given, **options), rows

    return make


@pytest.mark.parametrize(("suffix", "workers"), [(".parquet", 1), (".csv", 0)])
def test_a_batch_has_the_cells_of_its_rows(suffix, workers, make, monkeypatch):
    build, rows = make(suffix=suffix, num_workers=workers)
    made = [build()]
    monkeypatch.setattr(row_cache, "_write_arrow", None)  # the second one is from the cache
    made.append(build())
    for data in made:
        data.setup()
        expected, seen = {row["id"]: row for row in rows}, 0
        loaders = data.train_dataloader(), data.val_dataloader(), data.predict_dataloader()
        for batch in (batch for loader in loaders for batch in loader):
            of = [expected[name] for name in batch["sample_id"]]
            weights = torch.tensor([float(row["weight"]) for row in of])
            assert torch.equal(batch["weight"], weights)
            assert batch["part"].dtype == torch.float32
            assert batch["blank"] == [None] * len(of)
            empty = None if suffix == ".csv" else ""
            assert batch["note"] == [row["note"] if row["note"] != "" else empty for row in of]
            assert batch["text"] == [row["text"] for row in of]
            seen += len(of)
        assert seen == len(rows)


def test_cells_that_the_model_reads_are_cached_with_their_rows(make, monkeypatch):
    more = {"price": [1.5, None], "day": ["3.4.2001", ""]}
    options = {"number_columns": ["price"], "date_columns": {"day": "%d.%m.%Y"}, "columns": []}
    build, _ = make(more, **options)
    first = build()
    monkeypatch.setattr(row_cache, "_write_arrow", None)
    for data in (first, build()):
        assert data.column_preprocessing.dates == {"day": "%d.%m.%Y"}
        assert data.read_split("train").table["cells"][0].as_py()["price"] == 1.5


def test_without_the_option_a_batch_has_its_own_keys_alone(make):
    data = make(columns=None)[0]()
    data.setup("fit")
    assert not {*next(iter(data.train_dataloader()))} & {"weight", "note", "columns"}


def test_a_changed_cell_is_another_table_to_resume_on(make):
    digests = []
    for weight in (1.0, 1.0, 2.0):
        data = make({"weight": [weight]})[0]()
        data.setup("fit")
        digests.append(data.digests())
    assert digests[0] == digests[1]
    assert digests[1]["train"] != digests[2]["train"]


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ({"weight": [1.0]}, {"columns": ["wieght"]}, r"no column 'wieght' \(columns\).*'weight'\?"),
        ({"labels": [1.0]}, {}, "columns: a batch has a 'labels' already"),
        ({"weight": [1.0, None, 2.0]}, {}, r"Column 'weight' \(columns\).* rows 1 \(None\), 4 "),
        ({"weight": ["1", "", "2"]}, {}, r"Column 'weight' \(columns\).* rows 1 \(''\), 4 "),
        ({"weight": ["1", "", "2"]}, {"suffix": ".csv"}, r"'weight'.* rows 1 \(None\), 4 "),
        ({"weight": [1.0, float("nan")]}, {}, r"'weight'.* rows 1 \('nan'\), 3 "),
        ({"weight": [1.0, 1e39]}, {}, "'weight'.* rows 1 "),
        ({"weight": [[1.0]]}, {}, "'weight' holds list"),
    ],
)
def test_a_column_that_cannot_reach_the_batch_is_named(more, options, said, make):
    with pytest.raises((DataError, ConfigError), match=said):
        make(more, **options)[0]()


def test_rows_to_predict_need_the_columns_too(make, tmp_path):
    images = tmp_path / "data" / "images"
    data = make({"weight": [1.0]}, predict_table=str(images))[0]()
    with pytest.raises(DataError, match=r"no column 'weight' \(columns\)"):
        data.dataset("predict")
