import pickle
import sys

import fabricate
import numpy as np
import pytest

from epic_pl.data import MMIMDBDataModule
from epic_pl.errors import ConfigError, DataError

ENCODERS = {"image_encoder": "vit_tiny_patch16_224", "text_encoder": "unused", "image_size": 32}


def _data(root, **options) -> MMIMDBDataModule:
    return MMIMDBDataModule(data_dir=str(root), **ENCODERS, **options)


def _genres(data, row):
    return [data.class_names[code] for code in row["label"]]


@pytest.mark.parametrize(("images", "labels"), [("dataset", "dataset"), ("images", "labels")])
@pytest.mark.parametrize("nested", ["", "mmimdb"])
@pytest.mark.parametrize("val", ["dev", "val"])
def test_one_folder_and_two_folders_give_the_same_films(tmp_path, images, labels, nested, val):
    fabricate.mm_imdb(tmp_path / nested, images=images, labels=labels, val=val)
    data = _data(tmp_path)
    assert data.task == "multilabel"
    assert data.class_names == fabricate.GENRES
    assert data.num_classes == 23
    rows = {split: fabricate.rows_of(data, split) for split in ("train", "val", "test")}
    assert {split: [row["sample_id"] for row in part] for split, part in rows.items()} == {
        "train": ["0000005", "0000006", "0000008", "0000009"],
        "val": ["0000010", "0000011"],
        "test": ["0000012", "0000014"],
    }
    assert [_genres(data, row) for row in rows["train"]] == [
        ["Drama", "Romance"],
        ["Comedy"],  # News is ignored
        ["Film-Noir"],
        ["Sci-Fi"],
    ]
    assert all(row["image"].size == (40, 36) for part in rows.values() for row in part)


def test_films_left_without_a_genre_are_dropped_and_counted(tmp_path, caplog):
    fabricate.mm_imdb(tmp_path)
    with caplog.at_level("INFO"):
        assert len(fabricate.rows_of(_data(tmp_path), "test")) == 2
    assert "test: 2 rows" in caplog.text
    assert "1 dropped because no genre is left" in caplog.text
    assert "1 without a plot" in caplog.text


def test_the_longest_plot_is_the_default_and_no_plot_an_absent_text(tmp_path):
    fabricate.mm_imdb(tmp_path)
    data = _data(tmp_path)
    texts = [row["text"] for row in fabricate.rows_of(data, "train")]
    assert texts == ["a much longer plot", "a comedy", None, "robots and more"]
    assert data.preprocessing["text"]["source"] == "plot:longest"


def test_all_plots_are_training_samples_and_leave_validation_and_test_alone(tmp_path):
    fabricate.mm_imdb(tmp_path)
    data = _data(tmp_path, plot="all")
    train = fabricate.rows_of(data, "train")
    assert [row["sample_id"] for row in train[:4]] == [
        "0000005",
        "0000005#1",
        "0000005#2",
        "0000006",
    ]
    assert [row["text"] for row in train[:3]] == ["short", "a much longer plot", "mid plot"]
    assert len(train) == 7
    assert [row["text"] for row in fabricate.rows_of(data, "test")] == ["fast cars", "dust"]


def test_an_unknown_genre_is_named_with_its_file(tmp_path):
    fabricate.mm_imdb(tmp_path)
    about = {"genres": ["Drama", "Slapstick"], "plot": ["x"]}
    fabricate.write_json(tmp_path / "dataset" / "0000010.json", about)
    with pytest.raises(DataError, match=r"0000010\.json .*Slapstick"):
        _data(tmp_path).setup("validate")


def test_missing_files_posters_and_lists_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"one folder: split\.json \(missing\).*HDF5: .*mmimdb\.tar"
    ):
        _ = _data(tmp_path).class_names
    fabricate.mm_imdb(tmp_path)
    (tmp_path / "dataset" / "0000011.jpeg").unlink()
    with pytest.raises(DataError, match=r"val split of .* 1 pictures .*0000011\.jpeg"):
        _data(tmp_path).setup("validate")
    (tmp_path / "dataset" / "0000010.json").unlink()
    with pytest.raises(DataError, match=r"0000010\.json"):
        _data(tmp_path).setup("validate")
    fabricate.write_json(tmp_path / "split.json", {"train": []})
    with pytest.raises(DataError, match=r"split\.json has no list dev or val"):
        _data(tmp_path).setup("validate")


def test_film_numbers_get_their_zeros_back(tmp_path):
    fabricate.mm_imdb(tmp_path)
    fabricate.write_json(tmp_path / "split.json", {"dev": [10, "0000011"]})
    data = _data(tmp_path)
    data.setup("validate")
    assert data.dataset("val").table["sample_id"].to_pylist() == ["0000010", "0000011"]


@pytest.mark.parametrize(("centred", "nested"), [(True, ""), (False, "dataset/data")])
def test_hdf5_gives_the_same_films_with_posters_the_right_way_round(tmp_path, centred, nested):
    pytest.importorskip("h5py")
    fabricate.mm_imdb_hdf5(tmp_path / nested, centred=centred)
    data = _data(tmp_path)
    train, test = fabricate.rows_of(data, "train"), fabricate.rows_of(data, "test")
    assert [row["sample_id"] for row in train] == ["0000005", "0000006", "0000008", "0000009"]
    assert [row["sample_id"] for row in test] == ["0000012", "0000014"]
    # the file's own genre order is turned into the usual one
    assert [_genres(data, row) for row in train[:2]] == [["Drama", "Romance"], ["Comedy"]]
    assert [row["text"] for row in test] == ["fast cars", "dust"]
    assert [row["text"] for row in train[:3]] == ["a much longer plot", "a comedy", None]
    assert train[0]["image"].size == (20, 32)
    assert np.abs(np.array(train[0]["image"]).reshape(-1, 3) - [200, 100, 50]).max() <= 1
    assert data.preprocessing["text"]["source"] == "hdf5"
    # loader workers may be spawned
    again = pickle.loads(pickle.dumps(data.dataset("test")))
    assert again[0]["image"].shape == (3, 32, 32)


def test_hdf5_says_what_is_missing(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    fabricate.mm_imdb_hdf5(tmp_path, vocabulary=False)
    with pytest.raises(DataError, match=r"metadata\.json, .*is missing.*convert it once"):
        _ = _data(tmp_path).class_names
    for broken in ({}, {"ix_to_word": ["a"]}):
        fabricate.write_json(tmp_path / "metadata.json", broken)
        with pytest.raises(DataError, match=r"metadata\.json.*ix_to_word"):
            _data(tmp_path).setup("test")
    fabricate.write_json(tmp_path / "metadata.json", {"ix_to_word": {}})
    with pytest.raises(ConfigError, match="longest plot only"):
        _ = _data(tmp_path, plot="all").class_names
    with h5py.File(tmp_path / "multimodal_imdb.hdf5", "a") as file:
        del file["images"]
    with pytest.raises(DataError, match="has no images"):
        _data(tmp_path).setup("test")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="pip install h5py"):
        _data(tmp_path).setup("test")
