import json
import os

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.data.tables import build
from epic_pl.utils.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    (folder / "img").mkdir(parents=True)
    for index in range(30):
        Image.new("RGB", (40, 40), (index * 8, 0, 0)).save(folder / "img" / f"{index}.png")
    return folder


def _rows(**columns):
    """Rows of a table, with ``columns`` as functions of the row's number."""
    return [
        {"image": f"img/{i}.png", "text": f"text {i}", "label": "ab"[i % 2]}
        | {name: of(i) for name, of in columns.items()}
        for i in range(30)
    ]


def _make(folder, rows, **options):
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    return _again(folder, **options)


def _again(folder, **options):
    options = fabricate.ENCODERS | {"table": str(folder / "t.parquet")} | options
    return TableDataModule(**options)


def _new(folder):
    """A table to predict on, without labels."""
    fabricate.write_jsonl(folder / "new.jsonl", [{"image": "img/3.png", "text": "never seen"}])
    return str(folder / "new.jsonl")


def _column(data, split, name="label"):
    return data.read_split(split).table[name].to_pylist()


def _sizes(data):
    return [len(_column(data, split)) for split in ("train", "val", "test")]


def test_classes_and_task_are_known_after_construction_and_splits_are_stratified(folder):
    data = _make(folder, _rows())
    assert (data.class_names, data.task) == (["a", "b"], "multiclass")
    data.setup()
    assert _sizes(data) == [24, 3, 3]
    # three rows cannot be halved: within one row of the share
    assert {sum(_column(data, split)) for split in ("val", "test")} <= {1, 2}
    sample = data.dataset("val")[0]
    assert sample["image"].shape == (3, 32, 32)
    assert sample["text"] == f"text {sample['sample_id']}"


def test_split_column_is_followed_and_what_it_lacks_is_cut_off_train(folder):
    names = ["training", "TEST", " dev "]
    data = _make(folder, _rows(split=lambda i: names[i % 3]), split_column="split")
    assert _sizes(data) == [10, 10, 10]
    data = _make(folder, _rows(split=lambda i: "test" if i < 10 else "train"), split_column="split")
    assert _sizes(data) == [18, 2, 10]
    assert _column(data, "test", "sample_id") == [str(i) for i in range(10)]


@pytest.mark.parametrize("split", ["test", "predict"])
def test_split_without_any_label_of_a_multilabel_table_is_for_predict_alone(folder, split):
    rows = _rows(split=lambda i: split if i < 5 else "train", label=lambda i: ("x|y", "x")[i % 2])
    for row in rows[:5]:
        row["label"] = ("", None)[row["image"] == "img/1.png"]
    rows[20]["label"] = None  # no class applies
    data = _make(folder, rows, split_column="split", label_separator="|")
    assert _column(data, "predict", "sample_id") == [str(i) for i in range(5)]
    assert _column(data, "predict") == [None] * 5
    cut = [label for name in ("train", "val", "test") for label in _column(data, name)]
    assert len(cut) == 25
    assert cut.count([]) == 1


@pytest.mark.parametrize("lists", [True, False])
def test_labels_that_predictions_could_not_join_are_refused(folder, lists):
    rows = _rows(label=lambda i: ["x|y", "z"] if lists else ("x|y,z", "x|y")[i % 2])
    with pytest.raises(DataError, match=r"class 'x\|y' of column 'label' .*label_separator to \|"):
        _make(folder, rows, label_separator=None if lists else ",")
    one = _rows(label=lambda i: ("x|y", "z")[i % 2])  # one class a row is never joined
    assert _make(folder, one).class_names == ["x|y", "z"]


def test_a_separator_that_no_cell_contains_is_told(folder):
    rows = _rows(label=lambda i: ("x/y", "x")[i % 2])
    for _ in range(2):  # then from the cache
        with pytest.warns(UserWarning, match="several labels: is label_separator ',' right"):
            _make(folder, rows, label_separator=",")


@pytest.mark.parametrize("separator", [None, "|"])
def test_a_predict_table_with_known_classes_needs_no_other(folder, separator):
    options = {"predict_table": _new(folder), "label_separator": separator}
    options["table"] = str(folder / "gone.csv")
    data = _again(folder, classes=["y", "x"], **options)
    assert (data.class_names, data.num_classes) == (["y", "x"], 2)
    assert data.task == ("multilabel" if separator else "multiclass")
    data.setup("predict")
    assert len(data.dataset("predict")) == 1
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        data.setup("fit")
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        _again(folder, **options)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("separator", [None, "|"])
def test_splits_that_cannot_be_measured_are_refused(folder, split, separator):
    names = [split] * 5 + ["predict"] * 5 + ["train"] * 20
    none, known = ("", "x|y") if separator else ([], ["x"])
    rows = _rows(split=lambda i: names[i], label=lambda i: known if i >= 10 else none)
    with pytest.raises(DataError, match=f"No row of the {split} split .5 rows. has a label"):
        _make(folder, rows, split_column="split", label_separator=separator)


def test_images_of_a_predict_table_lie_in_its_own_folder(folder, tmp_path):
    other = tmp_path / "other"
    (other / "img").mkdir(parents=True)
    Image.new("RGB", (40, 40), (0, 0, 255)).save(other / "img" / "3.png")
    new = _new(other)
    data = _make(folder, _rows(), predict_table=new)
    data.setup("predict")
    sample = fabricate.raw(data.dataset("predict"), 0)
    assert (sample["text"], sample["image"].getpixel((0, 0))) == ("never seen", (0, 0, 255))
    asked = _make(folder, _rows(), predict_table=new, image_root=str(folder))
    asked.setup("predict")
    assert fabricate.raw(asked.dataset("predict"), 0)["image"].getpixel((0, 0)) == (24, 0, 0)
    (other / "img" / "3.png").unlink()
    data = _make(folder, _rows(), predict_table=new)
    data.setup("predict")
    with pytest.raises(
        DataError, match=r"new\.jsonl .*: rows with a bad image: 1 \(0\)\. .*under .*other: there"
    ):
        data.dataset("predict")


def test_lists_and_separated_cells_are_multilabel(folder):
    tags = [["x"], ["x", "y"], []]
    data = _make(folder, _rows(label=lambda i: tags[i % 3]))
    assert (data.class_names, data.task) == (["x", "y"], "multilabel")
    cells = ["x", "x | y", None]
    other = _make(folder, _rows(label=lambda i: cells[i % 3]), label_separator="|")
    assert other.read_split("train").table.equals(data.read_split("train").table)
    assert [0, 1] in _column(data, "train")
    assert [] in _column(data, "train")
    for write in (json.dumps, repr):
        written = _make(folder, _rows(label=lambda i, write=write: write(tags[i % 3])))
        assert written.read_split("train").table.equals(data.read_split("train").table)


@pytest.mark.parametrize(
    ("values", "classes"),
    [  # whole numbers are one class however they are written
        ([10, 9], ["9", "10"]),
        ([0.0, 1.0], ["0", "1"]),
        (["10.5", "9.0"], ["9.0", "10.5"]),
        ([True, False], ["false", "true"]),
        (["ice cream", "Apple"], ["Apple", "ice cream"]),
        (["[indoor]", "[outdoor]"], ["[indoor]", "[outdoor]"]),
        (["0", "1.0", "1", "0.0"], ["0", "1"]),
        (["1.0", "1.5"], ["1.0", "1.5"]),
        (["0.0", "1.0"], ["0.0", "1.0"]),
    ],
)
def test_labels_of_any_scalar_type_are_classes(folder, values, classes):
    rows = _rows(label=lambda i: values[i % len(values)])
    assert _make(folder, rows).class_names == classes


def test_classes_option_fixes_their_order(folder):
    data = _make(folder, _rows(), classes=["b", "never", "a"])
    assert data.class_names == ["b", "never", "a"]
    assert set(_column(data, "train")) == {0, 2}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("text", "text 0"),
        (["title", "text"], "T0 text 0"),
        ("{title}: {text}!", "T0: text 0!"),
        ("{title}. {none}", "T0."),
        ("{none}", None),
        (None, None),
    ],
)
def test_texts_are_joined(folder, spec, expected):
    rows = _rows(title=lambda i: f"T{i}", none=lambda i: None if i != 1 else "")
    data = _make(folder, rows, text_columns=spec, val_size=0, test_size=0)
    assert _column(data, "train", "text")[0] == expected


@pytest.mark.parametrize("option", ["text_columns", "image_column"])
@pytest.mark.parametrize("spec", ["{text.__class__}", "{text!r}", "{text:>9}", "{}", "{text"])
def test_templates_name_columns_and_nothing_else(folder, spec, option):
    with pytest.raises((ConfigError, DataError), match=option):
        _make(folder, _rows(), **{option: spec})


def test_paths_may_be_a_template_and_have_blanks_around_them(folder):
    def paths(number=lambda i: i if i else None, **options):
        rows = _rows(number=number, image=lambda i: f" img/{i}.png ")
        return _column(_make(folder, rows, val_size=0, test_size=0, **options), "train", "image")

    assert paths()[:2] == ["img/0.png", "img/1.png"]
    templated = paths(image_column="img/{number}.png")
    assert templated == [None, *paths()[1:]]
    padded = paths(lambda i: f"{i} " if i else " ", image_column="img/{number}.png")
    assert padded == templated


def test_empty_cells_are_absent_modalities(folder):
    rows = _rows()
    rows[0]["image"], rows[1]["text"], rows[2]["image"] = None, None, " "
    data = _make(folder, rows, val_size=0, test_size=0)
    assert _column(data, "train", "image")[:3] == [None, "img/1.png", None]
    assert _column(data, "train", "text")[:3] == ["text 0", None, "text 2"]
    rows[1]["text"] = " \t"
    blank = _make(folder, rows, val_size=0, test_size=0)
    assert _column(blank, "train", "text")[:3] == ["text 0", None, "text 2"]


@pytest.mark.parametrize(
    ("columns", "image_column"),
    [
        ({"image": lambda i: f"img/{i // 3}.png"}, "image"),
        ({"image": lambda i: f"img/{i % 10}.png" if i < 10 else f"./img//{i % 10}.png"}, "image"),
        ({"text": lambda i: f"text {i // 3}"}, None),
    ],
)
def test_rows_of_one_image_or_of_one_text_without_are_in_one_split(folder, columns, image_column):
    data = _make(folder, _rows(**columns), image_column=image_column, val_size=0.2, test_size=0.2)
    (name,) = columns
    cells = [_column(data, split, name) for split in ("train", "val", "test")]
    groups = [{os.path.normpath(cell) for cell in part} for part in cells]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10


@pytest.mark.parametrize("column", ["image", "text"])
def test_empty_rows_of_one_modality_are_split_one_by_one_and_left_out(folder, column):
    rows = _rows(**{column: lambda i: None if i >= 22 else f"img/{i}.png"})
    other = {"image": {"text_columns": None}, "text": {"image_column": None}}[column]
    data = _make(folder, rows, on_bad_sample="skip", val_size=0.2, test_size=0.2, **other)
    assert [len(_column(data, split, "label")) for split in ("train", "val", "test")] == [18, 6, 6]
    assert set(_samples(data)) == {str(i) for i in range(22)}


def _samples(data):
    splits = ("train", "val", "test")
    return {row["sample_id"]: row for split in splits for row in fabricate.rows_of(data, split)}


@pytest.mark.parametrize(
    ("policy", "left_out", "note"),
    [
        (
            "skip",
            {"3", "4", "5"},
            "bad image, skipped: 2 (3, 4), rows with neither image nor text, skipped: 1 (5)",
        ),
        (
            "absent",
            {"3", "5"},
            "image, used without it: 2 (3, 4), rows with neither image nor text, skipped: 2 (3,",
        ),
    ],
)
def test_bad_images_and_empty_rows_are_counted_and_named(folder, policy, left_out, note, caplog):
    (folder / "img" / "3.png").unlink()
    (folder / "img" / "4.png").write_bytes(b"<html>404</html>")
    rows = _rows(split=lambda i: "train" if i < 20 else ("val", "test")[i % 2])
    rows[3]["text"] = rows[5]["text"] = rows[5]["image"] = None
    data = _make(folder, rows, on_bad_sample=policy, split_column="split")
    with caplog.at_level("INFO"):
        samples = _samples(data)
    assert "train: 20 rows of" in caplog.text
    assert note in caplog.text
    assert set(samples) == {str(i) for i in range(30)} - left_out
    if policy == "absent":
        assert (samples["4"]["image"], samples["4"]["text"]) == (None, "text 4")


def test_images_may_lie_elsewhere(folder, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "out.png")
    rows = _rows(image=lambda i: f"mine/img/{i}.png")
    rows[0]["image"], rows[1]["image"] = "out.png", str(tmp_path / "out.png")
    samples = _samples(_make(folder, rows, image_root=str(tmp_path)))
    assert all(sample["image"] is not None for sample in samples.values())


def test_rows_come_from_the_cache_while_table_and_options_are_the_same(folder, monkeypatch):
    data = _make(folder, _rows())
    monkeypatch.setattr(build, "read_table", None)
    for split in ("train", "val", "test"):
        assert _again(folder).read_split(split).table.equals(data.read_split(split).table)
    assert _again(folder).class_names == ["a", "b"]
    with pytest.raises(TypeError):  # read anew
        _again(folder, split_seed=1)
    os.utime(folder / "t.parquet", ns=(1, 1))
    with pytest.raises(TypeError):
        _again(folder)


def test_split_of_cached_rows_is_a_slice_of_the_memory_map(folder):
    _make(folder, _rows())
    before = pa.total_allocated_bytes()
    data = _again(folder)
    dataset = data.dataset_of_rows("train", data.read_split("train"))
    assert len(dataset)
    assert pa.total_allocated_bytes() - before < 4096


@pytest.mark.parametrize("said", ["?", "nan"])
def test_what_rows_to_predict_say_of_their_labels_is_no_class(folder, said):
    # nor does it keep 1.0 from being a whole number
    for labels, classes in (("ab", ["a", "b"]), (["0", "1.0", "0", "1"], ["0", "1"])):
        rows = _rows(
            split=lambda i: ("train", "val", "predict")[i % 3],
            label=lambda i, labels=labels: said if i % 3 == 2 else labels[i % len(labels)],
        )
        data = _make(folder, rows, split_column="split", test_size=0.2)
        assert data.class_names == classes
        assert _column(data, "predict") == [None] * 10
