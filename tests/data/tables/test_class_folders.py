"""Images in a folder for each class."""

import re

import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.data.inspection.init import write_config
from epic_pl.data.tables.folders import read_class_folders
from epic_pl.data.tables.formats import read_table
from epic_pl.inference.bulk import read_source
from epic_pl.utils.errors import DataError

NAMES = ("cat/1.jpg", "cat/2.PNG", "dog/1.jpg", "dog/3.jpg", "dog/4.jpg", "cat/5.jpg")


def _write(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 0, 0)).save(root / name)


def test_an_image_has_its_folders_class_and_the_text_beside_it(tmp_path):
    _write(tmp_path, *NAMES, "cat/.cache/6.jpg")
    (tmp_path / "dog" / "1.txt").write_text("\ufeffa dog, sitting\n", "utf-8")
    (tmp_path / "notes.txt").write_text("of the folder")
    rows = read_class_folders(tmp_path).to_pylist()
    assert {row["image"]: row["label"] for row in rows} == {name: name[:3] for name in NAMES}
    assert {row["image"]: row["text"] for row in rows if row["text"]} == {
        "dog/1.jpg": "a dog, sitting"
    }


def test_splits_above_the_classes_are_taken(tmp_path):
    _write(tmp_path, *(f"{split}/{name}" for split in ("train", "Validation") for name in NAMES))
    data = TableDataModule(
        table=str(tmp_path), text_columns=None, test_size=0, image_encoder="", text_encoder=""
    )
    counts = {split: data.read_split(split).table.num_rows for split in ("train", "val", "test")}
    assert counts == {"train": 6, "val": 6, "test": 0}
    assert data.class_names == ["cat", "dog"]


CAPTIONS = [
    ("cat/captions.csv", "file_name,caption\n1.jpg,a cat\n"),
    ("metadata.csv", "file_name,text,width\ncat/1.jpg,a cat,40\n"),
    ("cat/metadata.jsonl", '{"file_name": "1.jpg", "what it is": "a cat"}\n'),
]


@pytest.mark.parametrize(("file", "content"), CAPTIONS)
def test_captions_are_read_from_a_file_beside_or_above_the_images(tmp_path, file, content):
    _write(tmp_path, *NAMES, "cat/.old/6.jpg")
    (tmp_path / "cat" / ".old" / "captions.csv").write_text("file_name,caption\n6.jpg,old\n")
    (tmp_path / "dog" / "1.txt").write_text("a dog")
    texts = {"cat/1.jpg": "a cat", "dog/1.jpg": "a dog"}
    options = {"test_size": 0, "image_encoder": "", "text_encoder": ""}

    def rows(**more):
        data = TableDataModule(table=str(tmp_path), **options, **more)
        rows = data.read_split("predict" if more else "train").table.to_pylist()
        return {row["image"]: row["text"] for row in rows if row["text"]}

    (tmp_path / file).write_text(content)
    table = read_table(tmp_path).to_pylist()
    assert {row["image"]: row["text"] for row in table if row["text"]} == texts
    assert rows(predict_table=str(tmp_path)) == texts
    (tmp_path / file).write_text(content.replace("a cat", "two cats"))
    assert rows(predict_table=str(tmp_path)) == texts | {"cat/1.jpg": "two cats"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,caption\n9.jpg,a cat\n", r"1 of 1 captions .* such as cat/9\.jpg"),
        ("name,caption\n1.jpg,a cat\n", r"captions.csv has \['name', 'caption'\], but needs"),
        ("file_name,a,b\n1.jpg,a,b\n", r"has \['file_name', 'a', 'b'\], but needs"),
    ],
)
def test_captions_that_fit_no_image_or_column_are_refused(tmp_path, content, message):
    _write(tmp_path, *NAMES)
    (tmp_path / "cat" / "captions.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path)


def test_data_init_writes_a_config_for_the_folder(tmp_path):
    _write(tmp_path / "images", *NAMES)
    config, said = write_config(tmp_path / "images")
    assert config == tmp_path / "images" / "epic.yaml"
    for role in ("images +image", "text +no column", "label +label", "left out +no column"):
        assert re.search(rf"  {role}\n| {role} of texts\n", said)


def test_images_elsewhere_and_texts_in_other_encodings_are_named(tmp_path):
    _write(tmp_path, *NAMES)
    (tmp_path / "cat" / "1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"1\.txt cannot be read as UTF-8.*iconv"):
        read_class_folders(tmp_path)
    _write(tmp_path, "loose.jpg")
    with pytest.raises(DataError, match=r"CLASS/IMAGE, but has loose\.jpg"):
        read_class_folders(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cat/1.txt", "a cat"),
        ("cat/captions.csv", "file_name,text\n1.jpg,a cat\n"),
        ("metadata.jsonl", '{"file_name": "cat/1.jpg", "text": "a cat"}'),
    ],
)
def test_texts_are_not_read_through_links_out_of_the_folder(name, content, tmp_path):
    folder = tmp_path / "images"
    _write(folder, *NAMES)
    for place in (folder / "own", tmp_path / "private"):
        place.write_text(content)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(place)
        for read in (read_table, lambda path: read_source(path).table):
            if place.parent == folder:
                assert read(folder)["text"].drop_null().to_pylist() == ["a cat"]
                continue
            with pytest.raises(DataError, match=rf"{name} cannot be read.*leads outside of"):
                read(folder)


def test_a_folder_to_predict_has_all_images_below_it_by_their_paths(tmp_path):
    _write(tmp_path / "classes", *NAMES)
    new = tmp_path / "new"
    _write(new, "b.jpg", "in/deep/a.png", "in/c.jpg", ".thumbnails/b.jpg", "in/.trash/d.jpg")
    (new / "in" / "c.txt").write_text("a cat")

    def predicted(**options):
        encoders = {"image_encoder": "", "text_encoder": "", "test_size": 0}
        data = TableDataModule(**{"table": str(tmp_path / "classes")} | encoders | options)
        return data.read_split("predict")

    (tmp_path / "classes" / "cat" / "1.txt").write_text("a cat")
    rows = predicted(predict_table=str(new))
    expected = {"b.jpg": None, "in/c.jpg": "a cat", "in/deep/a.png": None}
    table = rows.table.to_pydict()
    assert dict(zip(table["sample_id"], table["text"], strict=True)) == expected
    assert table["image"] == list(expected)
    assert (rows.image_root, rows.table["label"].null_count) == (new, 3)
    (new / "in" / "deep" / "e.jpg").write_bytes(b"")  # which the row cache notices
    rows = predicted(text_columns=None, predict_table=str(new))
    assert rows.table["image"].to_pylist() == [
        *list(expected)[:2],
        *sorted(["in/deep/a.png", "in/deep/e.jpg"]),
    ]
    assert rows.table["text"].null_count == 4
    (tmp_path / "empty" / "in").mkdir(parents=True)
    with pytest.raises(DataError, match=r"No images \(.*\.jpg.*empty or its subfolders"):
        predicted(text_columns=None, predict_table=str(tmp_path / "empty"))
    with pytest.raises(DataError, match="new is a folder of images, but image_column is null"):
        predicted(table="gone", classes=["cat"], image_column=None, predict_table=str(new))


def test_images_that_join_a_class_later_are_noticed(tmp_path):
    _write(tmp_path, *NAMES)
    options = {"text_columns": None, "image_encoder": "", "text_encoder": "", "test_size": 0}
    before = TableDataModule(table=str(tmp_path), **options).read_split("train").table.num_rows
    _write(tmp_path, "cat/new.jpg")
    after = TableDataModule(table=str(tmp_path), **options).read_split("train").table.num_rows
    assert after == before + 1


def test_classes_may_be_called_as_splits_are(tmp_path):
    _write(tmp_path, "train/1.jpg", "test/1.jpg")
    rows = read_class_folders(tmp_path).to_pylist()
    assert [row["label"] for row in rows] == ["test", "train"]
    assert "split" not in rows[0]
