"""What becomes of bad pictures in the datasets that lie in a folder."""

import logging

import fabricate
import pytest
from PIL import Image

from epic_pl.data import HatefulMemesDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.row_cache import PictureRecord
from epic_pl.errors import DataError


@pytest.fixture
def make(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    """Hateful Memes: of the 8 training pictures one is missing and one corrupt."""
    fabricate.hateful_memes(tmp_path / "data")
    (tmp_path / "data" / "img" / "01236.png").unlink()
    (tmp_path / "data" / "img" / "01237.png").write_text("<html>not found</html>")

    def build(cls=HatefulMemesDataModule, **options):
        data = cls(
            data_dir=str(tmp_path / "data"),
            image_encoder=str(tiny_vit_dir),
            text_encoder=str(tiny_tokenizer_dir),
            **options,
        )
        data.setup("fit")
        return data.dataset("train")

    return build


def test_error_names_the_missing_picture_at_the_start(make):
    with pytest.raises(
        DataError, match=r"train split of .*1 rows name them: 1236 \(img/01236\.png\)"
    ):
        make()


def test_skip_leaves_rows_out_and_counts_them(make, caplog):
    with caplog.at_level(logging.INFO):
        dataset = make(on_bad_sample="skip")
    assert dataset.table["sample_id"].to_pylist() == [str(n) for n in range(1238, 1244)]
    assert "train: 8 rows" in caplog.text
    assert "2 rows skipped for their picture" in caplog.text


def test_absent_keeps_the_text_and_counts(make, caplog):
    with caplog.at_level(logging.INFO):
        dataset = make(on_bad_sample="absent")
    assert len(dataset) == 8
    samples = [dataset[row] for row in range(8)]
    assert [sample["image"] is None for sample in samples] == [True, True, *[False] * 6]
    assert samples[1]["text"] == "meme 1237"
    assert "2 rows without their picture" in caplog.text


def test_pictures_are_decoded_once_and_bad_ones_again(make, tmp_path, monkeypatch):
    make(on_bad_sample="skip")
    read, seen = ImageTextDataset.read, []
    monkeypatch.setattr(ImageTextDataset, "read", lambda *a: seen.append(a[1]) or read(*a))
    assert len(make(on_bad_sample="skip")) == 6
    assert seen == ["img/01237.png"]
    Image.new("RGB", (40, 36)).save(tmp_path / "data" / "img" / "01237.png")  # mended
    assert len(make(on_bad_sample="skip")) == 7
    seen.clear()
    assert len(make(on_bad_sample="skip")) == 7
    assert seen == []


def test_a_damaged_record_counts_as_none(tmp_path):
    record = PictureRecord(tmp_path)
    record.add(["a.png", "b.png"], {"b.png": "cut"})
    assert record.read() == {"a.png": None, "b.png": "cut"}
    assert record.unreadable(["a.png"], None) == {}  # known to be sound
    record.path.write_bytes(b"no table")
    assert record.read() == {}
