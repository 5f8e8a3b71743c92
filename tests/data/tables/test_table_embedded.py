"""Tables that hold their images as bytes, as an ``Image`` feature of Hugging Face does."""

import errno
import shutil
from pathlib import Path

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.data.images import read_image
from epic_pl.data.inspection.check import check_data
from epic_pl.data.row_cache import ImageRecord
from epic_pl.data.tables import columns
from epic_pl.data.tables.columns import read_image_paths, unpack_images
from epic_pl.utils.errors import DataError

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(shade):
    return fabricate.encoded(Image.new("RGB", (40, 36), (shade, 0, 0)))


def rows(images=()):
    """Sound rows, with ``images`` put in by row."""
    # one name for all, as happens
    cells = {i: {"bytes": png(20 * i), "path": "image.png"} for i in range(12)} | dict(images)
    return [
        {"image": cells[i], "text": f"text {i}", "label": i % 2, "split": split}
        for i, split in enumerate(SPLITS)
    ]


def save(folder, table):
    """With an Image feature and a ClassLabel."""
    schema = {"image": KIND, "text": pa.string(), "label": pa.int64(), "split": pa.string()}
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "text": {"_type": "Value"}, "label": label}
    fabricate.save_to_disk(folder, pa.Table.from_pylist(table, pa.schema(schema)), features)


@pytest.fixture
def make(tmp_path, tiny_tokenizer_dir):
    def build(**options):
        own = {"table": str(tmp_path / "d"), "text_encoder": str(tiny_tokenizer_dir)}
        return TableDataModule(**fabricate.ENCODERS | {"split_column": "split"} | own | options)

    return build


@pytest.mark.parametrize("column", ["split", None])  # a saved dataset's is found without a name
def test_embedded_images_are_read_and_numbers_are_class_names(make, tmp_path, column):
    save(tmp_path / "d", rows({3: {"bytes": None, "path": None}, 4: None}))
    data = make(split_column=column)
    data.setup()
    assert [len(data.dataset(split)) for split in dict.fromkeys(SPLITS)] == [8, 2, 2]
    assert data.class_names == ["cat", "dog"]
    samples = [fabricate.raw(data.dataset("train"), i) for i in range(8)]
    shades = [s["image"] and s["image"].getpixel((0, 0))[0] for s in samples]
    assert shades == [0, 20, 40, None, None, 100, 120, 140]
    assert data.dataset("val")[0]["image"].shape == (3, 32, 32)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_plain_bytes_are_images_and_null_is_none(make, tmp_path, kind):
    table = rows()
    cells = pa.array([None, *(row["image"]["bytes"] for row in table[1:])], kind)
    data = pa.Table.from_pylist(table)
    read, root = unpack_images(data.set_column(0, "image", cells), "image")
    paths = read_image_paths(read, "image").to_pylist()
    assert paths[0] is None
    assert [read_image(root / path).getpixel((0, 0))[0] for path in paths[1:4]] == [20, 40, 60]
    nothing, _ = unpack_images(pa.table({"image": pa.nulls(2, kind)}), "image")
    assert read_image_paths(nothing, "image").to_pylist() == [None, None]


@pytest.mark.parametrize("damage", ["removed", "overwritten", "folder removed", "link to nothing"])
@pytest.mark.usefixtures("cache")
def test_a_damaged_unpacked_image_is_written_again(damage, make, tmp_path, monkeypatch):
    def first():
        (data := make()).setup()
        assert len(data.dataset("train")) == 8
        assert fabricate.raw(data.dataset("train"), 1)["image"].getpixel((0, 0)) == (20, 0, 0)
        return data.dataset("train")

    save(tmp_path / "d", rows())
    file = (train := first()).image_root / train.row(1)["image"]
    content = file.read_bytes()
    if damage == "overwritten":
        file.write_bytes(bytes(len(content)))
    elif damage == "folder removed":
        shutil.rmtree(file.parents[1])
    else:
        file.unlink()
        if damage != "removed":
            file.symlink_to(tmp_path / "nothing")
    first()
    assert file.read_bytes() == content
    assert not file.is_symlink()
    assert [*file.parent.iterdir()] == [file]
    # and what is sound is neither read nor written again
    monkeypatch.setattr(columns, "_unpacked", None)
    first()


@pytest.mark.usefixtures("cache")
def test_a_full_disk_leaves_no_part_of_an_image_under_its_name(monkeypatch):
    def write(path, content):
        with path.open("wb") as file:
            file.write(content[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    table = pa.table({"image": [png(20)]})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(DataError, match="cannot be written"):
            unpack_images(table, "image")
    read, root = unpack_images(table, "image")
    (name,) = read["image"].to_pylist()
    assert [file for file in root.rglob("[!.]*") if file.is_file()] == [root / name]
    assert (root / name).read_bytes() == png(20)


def test_equal_content_is_one_image_for_splits_checks_and_stored_features(make, tmp_path):
    same = {"bytes": png(20), "path": "another name.png"}
    save(tmp_path / "d", rows({3: same, 9: same}))
    data = make()
    lines = [problem.text for problem in check_data(data, workers=1).problems]
    assert "Images, by content, in more than one split: 1 (3 rows)" in lines
    paths = data.read_split("train").table["image"].to_pylist()
    assert paths[1] == paths[3] == data.read_split("val").table["image"][1].as_py()
    record = ImageRecord(data.read_split("train").image_root, "digests")
    assert record.digests([paths[1]])[paths[1]] in paths[1]  # named by content
    # where splits are cut, the rows of one image stay together
    table = rows(dict.fromkeys(range(3, 12, 2), same))
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "t.parquet")
    cut = make(table=str(tmp_path / "t.parquet"), split_column=None, val_size=0.25, test_size=0.25)
    splits = [cut.read_split(split).table["image"].to_pylist() for split in dict.fromkeys(SPLITS)]
    assert sum(paths[1] in part for part in splits) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html>404", "a web page"), (png(7)[:60], "cannot be read")],
)
def test_embedded_images_pass_the_checks_of_files(make, tmp_path, content, reason):
    save(tmp_path / "d", rows({3: {"bytes": content, "path": "3.png"}}))
    findings = check_data(make(), workers=1)
    (problem,) = [p for p in findings.problems if p.severity == "error"]
    assert problem.text == "Rows whose image is corrupt: 1"
    assert reason in problem.examples[0]
    data = make(on_bad_sample="skip")
    data.setup()
    assert len(data.dataset("train")) == 7


def test_rows_to_predict_bring_their_own_images(make, tmp_path):
    def predicted(name):
        data = make(predict_table=str(tmp_path / name))
        data.setup("predict")
        return fabricate.raw(data.dataset("predict"), 0)["image"].getpixel((0, 0))

    save(tmp_path / "d", rows())
    Image.new("RGB", (40, 40), (0, 0, 9)).save(tmp_path / "file.png")
    for content, pixel in ((png(250), (250, 0, 0)), (None, (0, 0, 9))):
        images = pa.array([{"bytes": content, "path": "file.png"}], KIND)
        pq.write_table(pa.table({"image": images, "text": ["new"]}), tmp_path / "new.parquet")
        assert predicted("new.parquet") == pixel
    # and images in files are predicted on beside a table that holds its own
    (tmp_path / "new.csv").write_text("image,text\nfile.png,new\n")
    assert predicted("new.csv") == (0, 0, 9)


def test_a_cache_that_cannot_be_written_is_named(make, tmp_path, monkeypatch):
    save(tmp_path / "d", rows())
    (tmp_path / "file").touch()
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"column 'image' cannot be written .* EPIC_PL_CACHE"):
        make()
