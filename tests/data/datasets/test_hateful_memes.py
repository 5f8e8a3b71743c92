import fabricate
import pytest

from epic_pl.data import HatefulMemesDataModule
from epic_pl.utils.errors import DataError


def _data(root, **options):
    return HatefulMemesDataModule(data_dir=str(root), **fabricate.ENCODERS, **options)


def _size(data, split):
    data.setup({"train": "fit", "val": "validate"}.get(split, split))
    return len(data.dataset(split))


def test_splits_classes_and_rows(tmp_path):
    fabricate.hateful_memes(tmp_path)
    data = _data(tmp_path)
    assert (data.class_names, data.task) == (["not_hateful", "hateful"], "multiclass")
    assert [_size(data, split) for split in ("train", "val", "test", "predict")] == [8, 4, 4, 4]
    # ids are numbers in the file, and names of images have leading zeros
    for n, row in enumerate(fabricate.rows_of(data, "train")):
        values = row["sample_id"], row["text"], row["label"], row["image"].size
        assert values == (f"{1236 + n}", f"meme {1236 + n}", n % 2, (40, 36))


def test_which_files_are_used_is_an_option(tmp_path):
    fabricate.hateful_memes(tmp_path)
    data = _data(tmp_path, val="dev_unseen", test="test_unseen")
    assert [_size(data, split) for split in ("val", "test", "predict")] == [3, 5, 5]


def test_unlabelled_rows_can_be_predicted_but_not_tested(tmp_path):
    fabricate.hateful_memes(tmp_path)
    data = _data(tmp_path, predict="test")
    data.setup("predict")
    assert [row["label"] for row in map(data.dataset("predict").row, range(4))] == [None] * 4
    with pytest.raises(DataError, match=r"test\.jsonl is the test split, but 4 of its 4 rows"):
        _data(tmp_path, test="test").setup("test")


def test_splits_that_read_one_file_are_one(tmp_path):
    fabricate.hateful_memes(tmp_path, names={"train": 4, "dev": 2, "test": 3})  # as on Kaggle
    data = _data(tmp_path, val="dev", test="dev", predict="test")
    assert data.own_splits == ["train", "val", "predict"]
    assert [_size(data, split) for split in ("val", "test", "predict")] == [2, 2, 3]
    assert _data(tmp_path, predict="dev_seen").own_splits == ["train", "val", "test"]
    with pytest.raises(DataError, match=r"has no dev_seen\.jsonl.*init_args\.val=dev"):
        _ = _data(tmp_path).class_names
