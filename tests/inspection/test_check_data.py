"""Each problem of a dataset is a line of the report with its level."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import HatefulMemesDataModule, ImageTextDataModule, TableDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.rows import sample_table
from epic_pl.errors import DataError
from epic_pl.inspection.check import check_data

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for index in range(12):
        Image.new("RGB", (40 + index, 60), (index * 20, 0, 0)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def make(folder, tiny_vit_dir, tiny_tokenizer_dir):
    def build(options=None):
        return TableDataModule(
            table=str(folder / "t.parquet"),
            split_column="split",
            image_encoder=str(tiny_vit_dir),
            text_encoder=str(tiny_tokenizer_dir),
            **(options or {}),
        )

    return build


@pytest.fixture
def check(folder, make):
    def run(options=None, **cells):
        rows = [
            {"image": f"{i}.png", "text": f"text {i}", "label": "ab"[i % 2], "split": SPLITS[i]}
            for i in range(12)
        ]
        for name, values in cells.items():
            for row, value in values.items():
                rows[row][name] = value
        pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
        data = make(options)
        return data, check_data(data, workers=1)

    return run


def _lines(findings, level=None):
    return [p.text for p in findings.problems if level in (None, p.level)]


@pytest.mark.parametrize(
    ("cells", "level", "line", "example"),
    [
        ({"image": {3: "no.png"}}, "error", "1 pictures are missing", "train 3: "),
        ({"image": {3: "../3.png"}}, "error", "1 pictures lie outside", "train 3: "),
        ({"image": {3: None}}, "note", "1 rows have no picture", None),
        ({"text": {3: None}}, "note", "1 rows have no text", None),
        ({"text": {3: " "}}, "warning", "1 texts are empty", "train 3"),
        ({"text": {3: "nan", 5: "None"}}, "warning", "2 texts are what pandas writes", "train 3"),
        (
            {"text": {1: "one title", 8: "one title"}},
            "note",
            "1 texts are in more than one split, with other pictures (2 rows)",
            "train 1 = val 8",
        ),
        ({"image": {9: "1.png"}}, "warning", "1 pictures, by content, are in more than", "train 1"),
        (
            {"image": {9: "1.png"}, "text": {9: "text 1"}},
            "warning",
            "1 samples, by picture and text, are in more than one split",
            "train 1 = val 9",
        ),
        (
            {"image": {3: "1.png"}, "text": {3: "text 1"}},
            "warning",
            "2 rows have the picture and text of another row",
            "train 1 = train 3",
        ),
        (
            {"image": {2: "1.png"}, "text": {2: "text 1"}},
            "warning",
            "2 rows have the same picture and text under different labels",
            "train b = train a",
        ),
        ({"label": {3: "rare"}}, "warning", "1 classes have one training row only", "rare"),
        ({"label": {8: "b"}}, "note", "1 classes have no row in the val split", "a"),
        ({"label": {1: "A", 3: "A"}}, "warning", "Classes that differ in case", "'A' / 'a'"),
        ({}, "note", "Texts have 7 tokens", None),
        ({"text": {i: "a " * 50 for i in range(3)}}, "warning", "are truncated at 20", None),
        ({"split": {11: "predict"}, "label": {11: None}}, "note", "1 rows are for predict", None),
    ],
)
def test_each_problem_has_a_level_and_an_example(check, cells, level, line, example):
    options = {"max_text_tokens": 20, "val_size": 1, "test_size": 0}
    _, findings = check(options, **cells)
    (problem,) = [p for p in findings.problems if line in p.text]
    assert problem.level == level
    assert findings.can_train == (level != "error")
    assert example is None or problem.examples[0].startswith(example)


@pytest.mark.parametrize("policy", ["skip", "absent"])
def test_rows_that_are_skipped_are_no_rows_of_their_split_and_class(folder, check, policy):
    absent = {"text": dict.fromkeys((0, 2, 4, 6, 8, 9, 10, 11), None)} if policy == "absent" else {}
    for row in (8, 9):
        (folder / f"{row}.png").unlink()
    _, findings = check({"on_bad_sample": policy}, **absent)
    assert _lines(findings, "error") == ["The val split is empty without the rows that are skipped"]
    for row in (0, 2, 4, 6):  # all of class a
        (folder / f"{row}.png").write_bytes(b"")
    _, findings = check({"on_bad_sample": policy}, **absent)
    line = "1 classes lose all of their training rows with those that are skipped"
    assert line in _lines(findings, "error")  # one class is left
    _, findings = check({"on_bad_sample": policy}, label={7: "c"}, **absent)
    assert line in _lines(findings, "warning")


@pytest.mark.parametrize("policy", ["skip", "absent"])
def test_no_policy_lets_a_path_lead_out(check, policy):
    _, findings = check({"on_bad_sample": policy}, image={3: "../3.png"})
    assert _lines(findings, "error") == ["1 pictures lie outside of the image root, in 1 rows"]


def test_files_of_one_content_within_a_split_are_counted_once_each(folder, check):
    for name in ("x.png", "y.png"):
        (folder / name).write_bytes((folder / "1.png").read_bytes())
    _, findings = check(image={3: "x.png", 5: "y.png", 7: "1.png"})
    (problem,) = [p for p in findings.problems if "one content under several names" in p.text]
    assert problem.level == "note"
    assert problem.text.startswith("3 files of 1 pictures")
    assert problem.examples == ["train 1.png = train x.png = train y.png"]
    _, findings = check(image={3: "1.png"})  # a file that several rows name is no copy
    assert not any("one content under several names" in text for text in _lines(findings))


def test_rows_to_predict_may_be_those_of_the_test_split(check):
    same = {"image": {11: "10.png"}, "text": {11: "text 10"}, "label": {11: None}}
    _, findings = check({"val_size": 0}, split={11: "predict"}, **same)
    assert not any("in more than one split" in text for text in _lines(findings))
    _, findings = check({"val_size": 0}, split={11: "predict"}, **same | {"image": {11: "1.png"}})
    assert any("in more than one split" in text for text in _lines(findings))


def test_multilabel_rows_are_counted_by_label(check):
    _, findings = check({"label_separator": "|"}, label={0: "a|b", 1: None})
    assert findings.class_counts["train"].tolist() == [4, 4]
    assert findings.rows["label"].to_pylist()[:2] == ["a|b", ""]


class Squares(ImageTextDataModule):
    """A DataModule that knows nothing of checks; its test split is broken."""

    root = None

    @property
    def class_names(self):
        return ["a", "b"]

    def build_dataset(self, split, transform):
        if split == "test":
            raise DataError("test.jsonl is missing")
        count = 300  # enough for a pool of processes
        table = sample_table(
            [f"{i}" for i in range(count)],
            [f"{split}{i}.png" for i in range(count)],
            ["text"] * count,
            [i % 2 for i in range(count)],
        )
        return ImageTextDataset(table, self.root, transform)


def test_any_data_module_is_checked_in_parallel(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    for split in ("train", "val"):
        for index in range(300):
            picture = Image.new("RGB", (8, 8), (index % 256, index // 256, len(split)))
            picture.save(tmp_path / f"{split}{index}.png")
    (tmp_path / "train299.png").unlink()
    data = Squares(image_encoder=str(tiny_vit_dir), text_encoder=str(tiny_tokenizer_dir))
    data.root = tmp_path
    findings = check_data(data, workers=2)
    assert _lines(findings, "error") == ["1 pictures are missing, in 1 rows"]
    assert "The test split cannot be built: test.jsonl is missing" in _lines(findings, "warning")
    assert findings.rows.num_rows == 600


def test_missing_pictures_of_a_public_dataset_are_reported(
    tmp_path, tiny_vit_dir, tiny_tokenizer_dir, monkeypatch
):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "img").mkdir()
    for split in ("train", "dev_seen", "test_seen"):
        rows = [
            {"id": i, "img": f"img/{split}{i}.png", "text": f"t {i}", "label": i % 2}
            for i in range(4)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows[: 3 if split == "train" else 4]:
            Image.new("RGB", (8, 8), (row["id"], len(split), 0)).save(tmp_path / row["img"])
    encoders = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
    findings = check_data(HatefulMemesDataModule(data_dir=str(tmp_path), **encoders), workers=1)
    assert _lines(findings, "error") == ["1 pictures are missing, in 1 rows"]
    assert findings.class_counts["train"].tolist() == [2, 2]
