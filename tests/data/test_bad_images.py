"""Images that are missing, corrupt or elsewhere."""

import os

import fabricate
import pytest

from epic_pl.data import HatefulMemesDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.image_files import image_file, missing_images, refuse_outside
from epic_pl.data.images import read_image
from epic_pl.data.row_cache import ImageRecord
from epic_pl.errors import DataError


@pytest.fixture
def make(tmp_path):
    """Hateful Memes: of the 8 training images one is missing and one corrupt."""
    fabricate.hateful_memes(tmp_path)
    (tmp_path / "img" / "01236.png").unlink()
    (tmp_path / "img" / "01237.png").write_text("<html>not found</html>")

    def build(policy):
        options = {"data_dir": str(tmp_path), "on_bad_sample": policy}
        data = HatefulMemesDataModule(**fabricate.ENCODERS, **options)
        data.setup("fit")
        return data.dataset("train")

    return build


def test_error_names_the_missing_image_at_the_start(make):
    with pytest.raises(
        DataError, match=r"train\.jsonl: .*1 rows name them: 1236 \(img/01236\.png\)"
    ):
        make("error")


def test_images_are_decoded_once_and_bad_ones_again(make, tmp_path, monkeypatch):
    rest = [str(n) for n in range(1238, 1244)]
    assert make("skip").table["sample_id"].to_pylist() == rest
    read, seen = ImageTextDataset.read, []
    monkeypatch.setattr(ImageTextDataset, "read", lambda *a: seen.append(a[1]) or read(*a))
    dataset = make("absent")
    assert seen == ["img/01237.png"]
    samples = [dataset[row] for row in range(8)]
    assert [sample["image"] is None for sample in samples] == [True, True, *[False] * 6]
    assert samples[1]["text"] == "meme 1237"
    fabricate.image(tmp_path / "img" / "01237.png")  # repaired
    assert make("skip").table["sample_id"].to_pylist() == ["1237", *rest]
    seen.clear()
    assert len(make("skip")) == 7
    assert seen == []
    broken = tmp_path / "img" / "01238.png"
    stat = broken.stat()
    broken.write_bytes(bytes(stat.st_size))  # as long as it was
    os.utime(broken, ns=(0, stat.st_mtime_ns + 1))
    (tmp_path / "img" / "01239.png").write_bytes(b"")
    os.utime(tmp_path / "img" / "01239.png", ns=(0, stat.st_mtime_ns))
    assert make("skip").table["sample_id"].to_pylist() == ["1237", *rest[2:]]
    assert sorted(seen) == ["img/01238.png", "img/01239.png"]


def test_a_damaged_record_counts_as_none(tmp_path):
    record = ImageRecord(tmp_path)
    problems = {"a.png": None, "b.png": "cut"}
    record.add(problems)
    assert record.read() == problems
    assert record.unreadable(["a.png"], None) == {}  # known to be sound
    record.path.write_bytes(b"no table")
    assert record.read() == {}


def test_links_that_lead_nowhere_or_in_a_circle_folders_and_odd_names_are_missing(tmp_path):
    fabricate.image(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").symlink_to("1.jpg")
    (tmp_path / "3.jpg").symlink_to("nothing.jpg")
    (tmp_path / "4.jpg").symlink_to("4.jpg")
    (tmp_path / "5.jpg").mkdir()
    names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", ".", "a\0/b.jpg"]
    assert list(missing_images(names, tmp_path)) == names[2:]
    for path in ("a\0.jpg", "4.jpg"):
        with pytest.raises(DataError):
            read_image(image_file(tmp_path, path))


@pytest.mark.parametrize("path", ["../1.jpg", "x/../../1.jpg", "/1.jpg"])
def test_paths_that_leave_the_image_root_are_refused(tmp_path, path):
    refuse_outside(["1.jpg", "x/../1.jpg"], tmp_path, tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl: 1 image paths lead out of .*1\.jpg"):
        refuse_outside(["1.jpg", path], tmp_path, tmp_path / "rows.jsonl")
