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
        ({"image": {3: "../3.png"}}, "error", "1 rows have a picture that is outside", "train 3: "),
        ({"image": {3: None}}, "note", "1 rows have no picture", None),
        ({"text": {3: " "}}, "warning", "1 texts are empty", "train 3"),
        ({"text": {3: "nan", 5: "NaN"}}, "warning", "2 texts are nan", "train 3"),
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
    _, findings = check({"on_bad_sample": policy}, image={3: "../3.png"}, **absent)
    assert _lines(findings, "error") == [
        "1 rows have a picture that is outside",  # whatever the policy
        "The val split has no usable row",
    ]
    for row in (0, 2, 4, 6):  # all of class a
        (folder / f"{row}.png").write_bytes(b"")
    _, findings = check({"on_bad_sample": policy}, **absent)
    assert any("fewer than two classes" in text for text in _lines(findings, "error"))
    assert "1 classes never occur in training" in _lines(findings, "warning")


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
    """A DataModule that knows nothing of checks and lacks a label; its test split is broken."""

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
            [None if (split, i) == ("val", 5) else i % 2 for i in range(count)],
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
    assert _lines(findings, "error") == [
        "1 rows have a picture that is missing",
        "1 labels of the val split are unknown",
    ]
    assert "The test split cannot be built: test.jsonl is missing" in _lines(findings, "warning")
    assert findings.rows.num_rows == 600


def test_missing_pictures_of_a_public_dataset_are_reported(
    folder, tiny_vit_dir, tiny_tokenizer_dir
):
    folder.rename(folder.with_name("img"))
    folder = folder.parent
    for split in ("train", "dev_seen", "test_seen"):
        rows = [
            {"id": i, "img": f"img/{'no' if i == 3 else i}.png", "text": f"t {i}", "label": i % 2}
            for i in range(4 if split == "train" else 2)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoders = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
    findings = check_data(HatefulMemesDataModule(data_dir=str(folder), **encoders), workers=1)
    assert _lines(findings, "error") == ["1 rows have a picture that is missing"]
    assert findings.class_counts["train"].tolist() == [2, 2]


# ------------------------------------------------------------------ checks one after another


@pytest.mark.parametrize("policy", ["skip", "absent"])
def test_bad_rows_are_reported_again_until_they_are_repaired(folder, make, check, policy, caplog):
    options = {"on_bad_sample": policy}
    original = [(folder / f"{row}.png").read_bytes() for row in (3, 4)]
    (folder / "3.png").write_bytes(b"<html>")
    (folder / "4.png").unlink()
    lost = {"skip": "are skipped", "absent": "lose their picture"}[policy]
    for _ in range(2):
        _, findings = check(options)
        assert findings.can_train
        assert [text for text in _lines(findings, "warning") if "picture that is" in text] == [
            f"1 rows have a picture that is {kind}: these rows {lost}"
            for kind in ("missing", "corrupt")
        ]
        with caplog.at_level("INFO"):
            rows = make(options).build_dataset("train", lambda image: image).table
        assert "2 rows" in caplog.text  # what a run logs
        assert (rows.num_rows, rows["image"].null_count) == {"skip": (6, 0), "absent": (8, 2)}[
            policy
        ]
    for row, content in zip((3, 4), original, strict=True):
        (folder / f"{row}.png").write_bytes(content)
    assert not any("picture that is" in text for text in _lines(check(options)[1]))
    rows = make(options).build_dataset("train", lambda image: image).table
    assert (rows.num_rows, rows["image"].null_count) == (8, 0)


def test_a_picture_that_breaks_after_a_check_is_found_by_the_next(folder, make, check):
    assert check()[1].can_train
    (folder / "3.png").write_bytes(b"<html>")
    assert not check()[1].can_train
    # the result of the second check holds for later runs
    rows = make({"on_bad_sample": "skip"}).build_dataset("train", lambda image: image).table
    assert "3" not in rows["sample_id"].to_pylist()
