import fabricate
import pytest

from epic_pl.data import SNLIVEDataModule
from epic_pl.utils.errors import DataError


def _data(root, **options):
    return SNLIVEDataModule(data_dir=str(root), **fabricate.ENCODERS | options)


@pytest.mark.parametrize("suffix", ["", ".jpg"])
@pytest.mark.parametrize("key", ["Flickr30K_ID", "Flikr30kID", ""])
def test_images_are_found_by_new_key_old_key_or_pair(tmp_path, key, suffix):
    fabricate.snli_ve(tmp_path, key=key, suffix=suffix)
    data = _data(tmp_path)
    pair = "9" if key else ""
    for split, first in (("train", 1000), ("val", 1004), ("test", 1008)):
        rows = fabricate.rows_of(data, split)
        paths = [f"{first + n}.jpg" for n in range(4) for _ in range(3)]
        assert data.dataset(split).table["image"].to_pylist() == paths
        ids = [f"{pair}{path}#2r1{'enc'[n % 3]}" for n, path in enumerate(paths)]
        assert [row["sample_id"] for row in rows] == ids
        assert all(row["image"].size == (40, 36) for row in rows)


def test_batches_name_the_image_that_rows_share(tmp_path, tiny_tokenizer_dir):
    fabricate.snli_ve(tmp_path)
    data = _data(tmp_path, text_encoder=str(tiny_tokenizer_dir), batch_size_per_device=4)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["sample_id"][0] == "91004.jpg#2r1e"
    assert batch["image_path"] == ["1004.jpg"] * 3 + ["1005.jpg"]


@pytest.mark.parametrize("premise", [False, True])
def test_classes_labels_and_the_text_that_the_results_name(tmp_path, premise):
    fabricate.snli_ve(tmp_path)
    data = _data(tmp_path, premise=premise)
    assert data.class_names == ["entailment", "neutral", "contradiction"]
    for n, row in enumerate(fabricate.rows_of(data, "train")):
        before = f"a caption of {1000 + n // 3} " if premise else ""
        assert row["text"] == f"{before}a dog is {data.class_names[row['label']]}"
    source = "premise+hypothesis" if premise else "hypothesis"
    assert data.text_origin == source


def test_rows_without_consensus_are_counted(tmp_path, caplog):
    fabricate.snli_ve(tmp_path)
    with caplog.at_level("INFO"):
        _data(tmp_path).setup("fit")
    assert f"12 rows of {tmp_path / 'snli_ve_train.jsonl'}" in caplog.text
    assert "rows dropped because their annotators disagree: 1; images: 4" in caplog.text


@pytest.mark.parametrize("outer", ["flickr30k_images", "flickr30k-images", "images"])
@pytest.mark.parametrize("inner", ["", "flickr30k_images", "flickr30k-images", "images"])
def test_image_folders_in_circulation_are_found(tmp_path, outer, inner):
    fabricate.snli_ve(tmp_path, folder=f"{outer}/{inner}")
    assert fabricate.rows_of(_data(tmp_path), "test")[0]["image"] is not None


def test_images_may_lie_elsewhere(tmp_path):
    fabricate.snli_ve(tmp_path / "text", folder="../images")
    data = _data(tmp_path / "text", image_dir=str(tmp_path / "images"))
    assert len(fabricate.rows_of(data, "test")) == 12


def test_missing_images_are_reported_on_class_names(tmp_path):
    fabricate.snli_ve(tmp_path, folder="elsewhere")
    with pytest.raises(DataError, match=r"has no .*flickr30k-images"):
        _ = _data(tmp_path).class_names
