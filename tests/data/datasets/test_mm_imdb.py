import json
import pickle
import sys

import fabricate
import h5py
import numpy as np
import pytest

from epic_pl.data import MMIMDBDataModule
from epic_pl.data.datasets.mm_imdb_hdf5 import HDF5PictureDataset
from epic_pl.errors import ConfigError, DataError


def _data(root, **options):
    return MMIMDBDataModule(data_dir=str(root), **fabricate.ENCODERS, **options)


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
    parts = [fabricate.rows_of(data, split) for split in ("train", "val", "test")]
    assert [[row["sample_id"] for row in part] for part in parts] == [
        ["0000005", "0000006", "0000008", "0000009"],
        ["0000010", "0000011"],
        ["0000012", "0000014"],
    ]
    genres = [["Drama", "Romance"], ["Comedy"], ["Film-Noir"], ["Sci-Fi"]]  # News is ignored
    assert [_genres(data, row) for row in parts[0]] == genres
    assert all(row["image"].size == (40, 36) for part in parts for row in part)


def test_films_left_without_a_genre_are_dropped_and_counted(tmp_path, caplog):
    fabricate.mm_imdb(tmp_path)
    with caplog.at_level("INFO"):
        _data(tmp_path).setup()
    for note in ("test: 2 rows", "1 dropped because no genre is left", "1 without a plot"):
        assert note in caplog.text


@pytest.mark.parametrize(
    ("options", "first", "last"),
    [({}, "a much longer plot", "robots and more"), ({"plot": "first"}, "short", "robots")],
)
def test_the_plot_is_an_option_and_no_plot_an_absent_text(tmp_path, options, first, last):
    fabricate.mm_imdb(tmp_path)
    data = _data(tmp_path, **options)
    texts = [row["text"] for row in fabricate.rows_of(data, "train")]
    assert texts == [first, "a comedy", None, last]
    assert data.preprocessing["text"]["source"] == f"plot:{options.get('plot', 'longest')}"


def test_all_plots_are_training_samples_and_leave_validation_and_test_alone(tmp_path):
    fabricate.mm_imdb(tmp_path)
    data = _data(tmp_path, plot="all")
    train = fabricate.rows_of(data, "train")
    ids = ["0000005", "0000005#1", "0000005#2", "0000006"]
    assert [row["sample_id"] for row in train[:4]] == ids
    assert [row["text"] for row in train[:3]] == ["short", "a much longer plot", "mid plot"]
    assert len(train) == 7
    assert [row["text"] for row in fabricate.rows_of(data, "test")] == ["fast cars", "dust"]


STRINGS = "must be a list of strings"


@pytest.mark.parametrize(
    ("genres", "plot", "message"),
    [
        (["Drama", "Slapstick"], ["x"], "names a genre .*: Slapstick"),
        (None, ["x"], f"genres {STRINGS}"),
        ([["Drama"]], ["x"], f"genres {STRINGS}"),
        ("Drama", ["x"], f"genres {STRINGS}"),
        (["Drama"], [1], f"plot {STRINGS}"),
        (["Drama"], ["cut \ud83d"], ""),
    ],
)
def test_a_broken_film_is_named(tmp_path, genres, plot, message):
    fabricate.mm_imdb(tmp_path)
    film = {"genres": genres, "plot": plot}
    fabricate.write_json(tmp_path / "dataset" / "0000010.json", film)
    with pytest.raises(DataError, match=rf"0000010\.json.*{message}"):
        _data(tmp_path).setup("validate")


@pytest.mark.parametrize("films", [None, [None], [["0000010"]], "0000010", [True]])
def test_a_broken_list_is_named(tmp_path, films):
    fabricate.mm_imdb(tmp_path)
    fabricate.write_json(tmp_path / "split.json", {"dev": films})
    with pytest.raises(DataError, match=rf"split\.json: list 'dev' {STRINGS}"):
        _data(tmp_path).setup("validate")
    fabricate.write_json(tmp_path / "split.json", {"train": films})
    with pytest.raises(DataError, match=r"split\.json has no list dev or val"):
        _data(tmp_path).setup("validate")


@pytest.mark.parametrize(
    ("name", "message"),
    [("11.jpeg", r"val split of .* 1 pictures .*0000011\.jpeg"), ("10.json", r"0000010\.json")],
)
def test_missing_posters_and_films_are_named(tmp_path, name, message):
    fabricate.mm_imdb(tmp_path)
    (tmp_path / "dataset" / f"00000{name}").unlink()
    with pytest.raises(DataError, match=message):
        _data(tmp_path).setup("validate")


def test_film_numbers_get_their_zeros_back(tmp_path):
    fabricate.mm_imdb(tmp_path)
    fabricate.write_json(tmp_path / "split.json", {"dev": [10, "0000011"]})
    data = _data(tmp_path)
    data.setup("validate")
    assert data.dataset("val").table["sample_id"].to_pylist() == ["0000010", "0000011"]


@pytest.mark.parametrize(("centred", "nested"), [(True, ""), (False, "dataset/data")])
def test_hdf5_gives_the_same_films_with_posters_the_right_way_round(tmp_path, centred, nested):
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
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="pip install h5py"):
        _data(tmp_path).setup("test")


OTHER_GENRES = json.dumps([*fabricate.GENRES[:-1], "News"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda file: file.attrs.update(split=file.attrs["split"][:4]),
            "no rows of test in its split",
        ),
        (
            lambda file: file["genres"].attrs.update(target_names=OTHER_GENRES),
            r"genres .*News, not",
        ),
        (lambda file: file.pop("images"), "has no images"),
    ],
)
def test_another_hdf5_file_is_refused(tmp_path, edit, message):
    fabricate.mm_imdb_hdf5(tmp_path)
    path = tmp_path / "multimodal_imdb.hdf5"
    with h5py.File(path, "a") as file:
        edit(file)
    with pytest.raises(DataError, match=message):
        _data(tmp_path).setup("test")
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        _data(tmp_path).setup("test")


@pytest.mark.parametrize("policy", ["error", "skip", "absent"])
def test_posters_of_an_hdf5_file_take_the_policy(tmp_path, policy, monkeypatch):
    fabricate.mm_imdb_hdf5(tmp_path)
    with h5py.File(tmp_path / "multimodal_imdb.hdf5", "a") as file:
        fewer = file["images"][:9]
        del file["images"]
        file["images"] = fewer  # the last film's poster, in test, is lost
    data = _data(tmp_path, on_bad_sample=policy)
    data.setup("test")
    if policy == "error":
        with pytest.raises(DataError, match=r"'0000014': Row 9 of .*\.hdf5 cannot be read"):
            data.dataset("test")[1]
        return
    images = data.dataset("test").table["image"].to_pylist()
    assert images == (["7"] if policy == "skip" else ["7", None])
    read, seen = HDF5PictureDataset.read, []
    monkeypatch.setattr(HDF5PictureDataset, "read", lambda *a: seen.append(a[1]) or read(*a))
    _data(tmp_path, on_bad_sample=policy).setup("test")
    assert seen == ["9"]  # sound posters are not decoded again
