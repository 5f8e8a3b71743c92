"""Cleaning is an option of every dataset, and happens before anything is made of a text."""

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epic_pl.data import TableDataModule
from epic_pl.data.clean_text import clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("a &amp; b &#39;c&#39; &eacute;", "a & b 'c' \u00e9"),
        ("<p class='x'>one<br/>two</p><!-- three -->", "one two"),
        ("if 3 < 4 and 5 > 4, 1<2", "if 3 < 4 and 5 > 4, 1<2"),
        ("&lt;b&gt; is a tag", "<b> is a tag"),
        ("see https://a.example/x?y=1#z or HTTP://b.example now", "see or now"),
        ("at www.example.com today", "at today"),
        ("awww.so cute", "awww.so cute"),
        ("good!https://a.example/caf\u00e9 yes", "good! yes"),
        ("\u8bf7\u770bhttps://x.com/a\u3002\u5f88\u597d", "\u8bf7\u770b \u3002\u5f88\u597d"),
        ("\x00a\x07b\x85c\x7f", "a b c"),
        ("  a \n\n\tb\u00a0\u2003c&nbsp; ", "a b c"),
        ("&#65;&#065;&#1114112;b", "AA\ufffdb"),
        (f"a &#{'9' * 5000}; b &#{'0' * 5000}65;", "a \ufffd b A"),
        ("<br>", ""),
        ("", ""),
        ("\U0001f468\u200d\U0001f373 \u65e5\u672c", "\U0001f468\u200d\U0001f373 \u65e5\u672c"),
    ],
)
def test_what_a_reader_does_not_see_goes(text, cleaned):
    assert clean_text(text) == cleaned


@pytest.fixture
def make(tmp_path):
    fabricate.image(tmp_path / "0.png")
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    texts = ["<b>red</b>", "red", None, "a &amp; b", "<br>", "x", "y", "z"]
    table = {"image": ["0.png"] * 8, "text": texts, "label": [*"ab"] * 4, "split": splits}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")

    def build(**options):
        options = {"table": str(tmp_path / "t.parquet"), "split_column": "split"} | options
        return TableDataModule(**fabricate.ENCODERS, **options)

    return build


def _texts(data, split="train"):
    data.setup()
    dataset = data.dataset(split)
    return [dataset.row(row)["text"] for row in range(len(dataset))]


def test_it_is_off_by_default_and_part_of_what_a_checkpoint_keeps(make):
    assert _texts(make()) == ["<b>red</b>", "red", None, "a &amp; b"]
    assert _texts(make(clean_text=True), "val") == ["", "x"]
    assert make().text_preprocessing.clean is False
    assert make(clean_text=True).text_preprocessing.clean is True


def test_stored_features_and_samples_are_of_the_cleaned_text(make):
    data = make(clean_text=True)
    assert _texts(data) == ["red", "red", None, "a & b"]
    dataset = data.dataset("train")
    # what the feature cache takes the digest of
    assert dataset.distinct()[1] == ["red", "a & b"]
    assert dataset.table["text"].to_pylist() == ["red", "red", None, "a & b"]
    assert dataset[3]["text"] == "a & b"
