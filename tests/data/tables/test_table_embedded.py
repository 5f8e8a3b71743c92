"""Tables that hold their pictures as bytes, as an ``Image`` feature of Hugging Face does."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.features.digests import PictureDigests
from epic_pl.inspection.check import check_data

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 36), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(**cells):
    table = [
        {
            "image": {"bytes": png(20 * i), "path": "picture.png"},  # one name for all, as happens
            "text": f"text {i}",
            "label": i % 2,
            "split": SPLITS[i],
        }
        for i in range(12)
    ]
    for name, values in cells.items():
        for row, value in values.items():
            table[row][name] = value
    return table


def save_to_disk(folder, table):
    """The layout of ``Dataset.save_to_disk``, with an Image feature and a ClassLabel."""
    folder.mkdir(parents=True)
    schema = pa.schema(
        [("image", KIND), ("text", pa.string()), ("label", pa.int64()), ("split", pa.string())]
    )
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as f, pa.ipc.new_stream(f, schema) as writer:
        # batches, as datasets writes them
        for start in range(0, len(table), 5):
            writer.write_table(pa.Table.from_pylist(table[start : start + 5], schema))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    features = {
        "image": {"_type": "Image"},
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "split": {"dtype": "string", "_type": "Value"},
    }
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


@pytest.fixture
def make(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    def build(**options):
        return TableDataModule(
            **{"table": str(tmp_path / "d"), "split_column": "split"} | options,
            image_encoder=str(tiny_vit_dir),
            text_encoder=str(tiny_tokenizer_dir),
        )

    return build


def test_embedded_pictures_are_read_and_numbers_are_class_names(make, tmp_path):
    save_to_disk(tmp_path / "d", rows(image={3: {"bytes": None, "path": None}, 4: None}))
    data = make()
    data.setup()
    assert data.class_names == ["cat", "dog"]
    samples = [data.dataset("train").raw(i) for i in range(8)]
    absent = [i for i, sample in enumerate(samples) if sample["image"] is None]
    assert absent == [3, 4]
    assert [s["image"].getpixel((0, 0))[0] for s in samples if s["image"]] == [
        20 * i for i in range(8) if i not in absent
    ]
    assert data.dataset("val")[0]["image"].shape == (3, 32, 32)


def test_equal_content_is_one_picture_for_splits_checks_and_stored_features(make, tmp_path):
    same = {"bytes": png(20), "path": "another name.png"}
    save_to_disk(tmp_path / "d", rows(image={3: same, 9: same}))
    data = make()
    findings = check_data(data, workers=1)
    lines = [p.text for p in findings.problems]
    assert "1 pictures, by content, are in more than one split (3 rows)" in lines
    paths = data.read_split("train").table["image"].to_pylist()
    assert paths[1] == paths[3] == data.read_split("val").table["image"][1].as_py()
    digests = PictureDigests(tmp_path / "memory.json")
    dataset = data.build_dataset("train", lambda image: image)
    assert digests.one(str(dataset.image_root), paths[1]) in paths[1]  # named by content
    # where splits are cut, the rows of one picture stay together
    table = rows(image=dict.fromkeys(range(3, 12, 2), same))
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "t.parquet")
    cut = make(table=str(tmp_path / "t.parquet"), split_column=None, val_size=0.25, test_size=0.25)
    splits = [
        cut.read_split(split).table["image"].to_pylist() for split in ("train", "val", "test")
    ]
    assert sum(paths[1] in part for part in splits) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html>404", "starts with '<html>"), (png(7)[:60], "cannot be read")],
)
def test_embedded_pictures_pass_the_checks_of_files(make, tmp_path, content, reason):
    save_to_disk(tmp_path / "d", rows(image={3: {"bytes": content, "path": "3.png"}}))
    findings = check_data(make(), workers=1)
    (problem,) = [p for p in findings.problems if p.level == "error"]
    assert problem.text == "1 rows have a picture that is corrupt"
    assert reason in problem.examples[0]
    data = make(on_bad_sample="skip")
    data.setup()
    assert len(data.dataset("train")) == 7


def test_rows_to_predict_bring_their_own_pictures(make, tmp_path):
    save_to_disk(tmp_path / "d", rows())
    pq.write_table(
        pa.table(
            {"image": pa.array([{"bytes": png(250), "path": "new.png"}], KIND), "text": ["new"]}
        ),
        tmp_path / "new.parquet",
    )
    data = make(predict_table=str(tmp_path / "new.parquet"))
    data.setup("predict")
    assert data.dataset("predict").raw(0)["image"].getpixel((0, 0)) == (250, 0, 0)
    # and pictures in files are predicted on beside a table that holds its own
    Image.new("RGB", (40, 40), (0, 0, 9)).save(tmp_path / "file.png")
    (tmp_path / "new.csv").write_text("image,text\nfile.png,new\n")
    data = make(predict_table=str(tmp_path / "new.csv"))
    data.setup("predict")
    assert data.dataset("predict").raw(0)["image"].getpixel((0, 0)) == (0, 0, 9)
