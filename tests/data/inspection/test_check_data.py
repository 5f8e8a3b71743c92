"""Each problem of a dataset is a line of the report with its level."""

import os

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import ImageTextDataModule, TableDataModule
from epic_pl.data.inspection.check import check_data
from epic_pl.data.inspection.report import write_page
from epic_pl.data.rows import Rows, sample_table
from epic_pl.utils.errors import DataError

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


BLUE = Image.new("RGB", (40, 40), "blue")
TRUNCATED = fabricate.encoded(Image.effect_noise((64, 64), 80), "PNG")[:900]


@pytest.fixture(autouse=True)
def images(folder):
    for index in range(12):
        Image.new("RGB", (40 + index, 60), (index * 20, 0, 0)).save(folder / f"{index}.png")


@pytest.fixture
def encoders(tiny_vit_dir, tiny_tokenizer_dir):
    return {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}


@pytest.fixture
def make(folder, encoders):
    def make(options):
        table = str(folder / "t.parquet")
        return TableDataModule(table=table, split_column="split", **encoders, **options)

    return make


@pytest.fixture
def check(folder, make):
    """Findings in a table of twelve rows, some cells and files of which are replaced."""

    def check(options=(), content=(), **cells):
        for row, image in dict(content).items():
            (folder / f"{row}.png").write_bytes(image)
        rows = [
            {"image": f"{i}.png", "text": f"text {i}", "label": "ab"[i % 2], "split": SPLITS[i]}
            for i in range(12)
        ]
        for name, values in cells.items():
            for row, value in values.items():
                rows[row][name] = value
        pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
        findings = check_data(make(dict(options)), workers=1)
        assert findings.rows.num_rows == 12  # none is left out without a line
        return findings

    return check


def _lines(findings, level=None):
    return [p.text for p in findings.problems if level in (None, p.severity)]


BAD_IMAGES = [
    ({"image": {3: "../3.png"}}, "outside", ""),
    ({"image": {3: "/etc/passwd"}}, "outside", ""),
    ({"image": {3: "link.png"}}, "outside", ""),
    ({"image": {3: "circle.png"}}, "missing", ""),
    ({"image": {3: "https://x.org/3.png"}}, "missing", ""),
    ({"image": {3: "3\0.png"}}, "missing", "null"),
    ({"image": {3: "."}}, "missing", "no regular file"),
    ({"image": {3: "pipe.png"}}, "missing", "no regular file"),
    ({"image": {3: "x" * 300}}, "missing", "File name too long"),
    ({"content": {3: TRUNCATED}}, "corrupt", "3.png cannot be read"),
    ({"content": {3: b""}}, "corrupt", "empty (0 bytes)"),
    ({"content": {3: fabricate.encoded(BLUE, "PPM")}}, "corrupt", "none of JPEG"),
]


@pytest.mark.parametrize(("change", "kind", "example"), BAD_IMAGES)
def test_a_bad_image_is_an_error_with_its_reason(folder, check, change, kind, example):
    BLUE.save(folder.parent / "x.png")
    (folder / "link.png").symlink_to(folder.parent / "x.png")
    (folder / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "pipe.png")
    findings = check(**change)
    (problem,) = [p for p in findings.problems if p.severity == "error"]
    assert problem.text.startswith(f"Rows whose image is {kind}")
    assert problem.examples[0].startswith("train 3: ")
    assert example in problem.examples[0]
    assert ("on_bad_sample" in problem.examples[-1]) == (kind != "outside")  # the way out
    assert not findings.can_train


def test_a_cmyk_image_with_the_wrong_extension_is_no_problem(check):
    text = dict.fromkeys(range(12), "a red cat")
    text |= {i: f"{'a ' * i}cat" for i in range(12)}
    findings = check(content={3: fabricate.encoded(BLUE.convert("CMYK"), "JPEG")}, text=text)
    assert not _lines(findings, "error") + _lines(findings, "warning")


@pytest.mark.parametrize(
    ("policy", "level"), [("error", "error"), ("skip", "warning"), ("absent", "warning")]
)
def test_an_empty_row_is_a_problem_with_a_way_out(check, policy, level):
    cells = dict.fromkeys((1, 3), None)
    findings = check({"on_bad_sample": policy, "val_size": 0}, image=cells, text=cells)
    (problem,) = [p for p in findings.problems if "neither image nor text" in p.text]
    assert (problem.severity, findings.can_train) == (level, policy != "error")
    assert problem.text.endswith(": 2")
    assert problem.examples[:2] == ["train 1", "train 3"]
    assert "skip leaves these rows out, absent those without a text" in problem.examples[-1]
    assert findings.class_counts["train"].tolist() == [4, 4 if policy == "error" else 2]


def _copy_of_1(row):
    return {"image": {row: "1.png"}, "text": {row: "text 1"}}


def _named(*names):
    return {"label": {row: names[row % 2] for row in range(12)}}


GERMAN = {"text": dict.fromkeys(range(12), "Straße")}
SHARED_TEXT = {"text": {1: "one title", 8: "one title"}}
LONG_TEXTS = {"text": {i: "a " * 50 for i in range(3)}}


@pytest.mark.parametrize(
    ("cells", "level", "line", "example"),
    [
        ({"image": {3: None}}, "note", "Rows without an image (missing modality): 1", None),
        ({"text": {3: " "}}, "note", "Rows without a text (missing modality): 1", None),
        ({"text": {3: "nan", 5: "NaN"}}, "warning", "absent ones empty): 2", "train 3"),
        (SHARED_TEXT, "note", "in more than one split, with other images: 1 (2", "train 1 = val 8"),
        (
            {"image": {9: "1.png"}},
            "warning",
            "Images, by content, in more than one split: 1",
            "train 1",
        ),
        (_copy_of_1(9), "warning", "and text, in more than one split: 1", "train 1 = val 9"),
        (_copy_of_1(3), "warning", "repeated within a split: 1 (2 rows)", "train 1 = train 3"),
        (_copy_of_1(2), "warning", "with different labels: 1 (2 rows)", "train b = train a"),
        ({"label": {3: "rare"}}, "warning", "Classes with a single training row: 1", "rare"),
        ({"label": {8: "b"}}, "note", "Classes without a row in the val split: 1", "a"),
        ({"label": {1: "A", 3: "A"}}, "warning", "Classes that differ in case", "'A' / 'a'"),
        ({"label": {1: "A"}}, "error", "a single row: correct its label", "'A' / 'a'"),
        (
            _named("caf\u00e9", "cafe\u0301"),
            "warning",
            "Classes that differ",
            "'cafe\\u0301' / 'caf",
        ),
        (_named("b\u200b", "b"), "warning", "Classes that differ", "'b' / 'b\\u200b'"),
        (_named("sci fi", "scifi"), "warning", "Classes that differ", "'sci fi' / 'scifi'"),
        (_named("NA", "b"), "warning", "Classes that could be missing values", "NA"),
        (GERMAN, "warning", "The text encoder's tokenizer splits 100% of the words", None),
        ({}, "note", "Texts have 7 tokens", None),
        (LONG_TEXTS, "warning", "are truncated at 20", None),
        ({"split": {11: "predict"}, "label": {11: None}}, "note", "Rows for predict: 1", None),
    ],
)
def test_each_problem_has_a_level_and_an_example(check, cells, level, line, example):
    options = {"max_text_tokens": 20, "val_size": 1, "test_size": 0}
    findings = check(options, **cells)
    (problem,) = [p for p in findings.problems if line in p.text]
    assert problem.severity == level
    assert findings.can_train == (level != "error")
    assert example is None or problem.examples[0].startswith(example)


def test_a_text_that_cleaning_leaves_empty_is_told(check):
    findings = check({"clean_text": True}, text={3: "<br>"})
    assert "Texts that are empty: 1" in _lines(findings, "warning")


def test_of_a_huge_text_the_tokens_that_could_matter_are_counted(check):
    findings = check({"max_text_tokens": 20}, text={3: "a red cat " * 10**4})
    assert findings.rows["tokens"].to_pylist()[3] == 20 * 1000 * 3 // 10 + 2


@pytest.mark.parametrize("policy", ["skip", "absent"])
def test_rows_that_are_skipped_are_no_rows_of_their_split_and_class(folder, check, policy):
    options = {"on_bad_sample": policy}
    absent = {"text": dict.fromkeys((0, 2, 4, 6, 8, 9, 10, 11), None)} if policy == "absent" else {}
    for row in (8, 9):
        (folder / f"{row}.png").unlink()
    findings = check(options, image={3: "../3.png"}, **absent)
    assert _lines(findings, "error") == [
        "Rows whose image is outside of the image root: 1",  # whatever the policy
        "The val split has no usable row",
    ]
    findings = check(options | {"val_size": 0}, split={8: "test", 9: "test"})
    assert _lines(findings, "error") == ["The val split has no usable row"]
    findings = check(options, dict.fromkeys((0, 2, 4, 6), b""), **absent)  # all of class a
    assert any("fewer than two classes" in text for text in _lines(findings, "error"))
    assert "Classes without a training row: 1" in _lines(findings, "warning")


@pytest.mark.parametrize(("image", "leaks"), [("10.png", False), ("1.png", True)])
def test_rows_to_predict_may_be_those_of_the_test_split(check, image, leaks):
    cells = {"image": {11: image}, "text": {11: "text 10"}, "label": {11: None}}
    findings = check({"val_size": 0}, split={11: "predict"}, **cells)
    assert any("in more than one split" in text for text in _lines(findings)) == leaks


def test_multilabel_rows_are_counted_by_label(check):
    findings = check({"label_separator": "|"}, label={0: "a|b", 1: None, 9: ""})
    assert "Rows with an empty label (no class applies): 2" in _lines(findings, "note")
    assert findings.class_counts["train"].tolist() == [4, 4]
    assert findings.rows["label"].to_pylist()[:2] == ["a|b", ""]


class Squares(ImageTextDataModule):
    """A DataModule that knows nothing of checks and lacks a label; its test split is broken."""

    root = None  # where there are no rows
    class_names = ("a", "b")

    def read_split(self, split):
        if split == "test" or self.root is None:
            raise DataError(f"{split}.jsonl is missing")
        numbers = range(20)
        paths = [f"{split}{i}.png" for i in numbers]
        labels = [None if (split, i) == ("val", 5) else i % 2 for i in numbers]
        table = sample_table([f"{i}" for i in numbers], paths, ["text"] * 20, labels)
        return Rows(table, self.root, self.root)


def test_any_data_module_is_checked_in_parallel(tmp_path, encoders):
    for split in ("train", "val"):
        for index in range(20):
            image = Image.new("RGB", (8, 8), (index, 0, len(split)))
            image.save(tmp_path / f"{split}{index}.png")
    (tmp_path / "train19.png").unlink()
    data = Squares(**encoders)
    data.root = tmp_path
    findings = check_data(data, workers=2)
    assert _lines(findings, "error") == [
        "Rows whose image is missing: 1",
        "Rows of the val split without a label: 1",
    ]
    assert "The test split cannot be built: test.jsonl is missing" in _lines(findings, "warning")
    assert findings.rows.num_rows == 40


def test_the_page_of_a_dataset_without_rows_says_why(tmp_path, encoders):
    findings = check_data(Squares(**encoders))
    page = write_page(findings, tmp_path / "report.html").read_text()
    assert "Training cannot start: 4 errors." in page
    assert "The train split cannot be built: train.jsonl is missing" in page


@pytest.mark.parametrize(
    ("policy", "effect", "usable"),
    [("skip", "skipped", (6, 0)), ("absent", "kept without it", (8, 2))],
)
def test_images_that_break_after_a_check_are_reported_until_they_are_repaired(
    folder, make, check, caplog, policy, effect, usable
):
    options, original = {"on_bad_sample": policy}, (folder / "3.png").read_bytes()
    line = f"Rows whose image is {{}}, which are {effect}: 1"
    bad = [line.format(kind) for kind in ("missing", "corrupt")]
    for content, expected in ((original, []), (b"<html>", bad), (b"<html>", bad), (original, [])):
        if expected:
            (folder / "4.png").unlink(missing_ok=True)
        else:
            (folder / "4.png").write_bytes(original)
        findings = check(options, {3: content})
        assert findings.can_train
        found = _lines(findings, "warning")
        assert [text for text in found if "image is" in text] == expected
        with caplog.at_level("INFO"):
            data = make(options)
            data.setup("fit")
            rows = data.dataset("train").table
        counts = usable if expected else (8, 0)
        assert (rows.num_rows, rows["image"].null_count) == counts
        noted = {"skip": "image, skipped: 2", "absent": "image, used without it: 2"}[policy]
        assert (noted in caplog.text) == bool(expected)  # what a run logs
        caplog.clear()
