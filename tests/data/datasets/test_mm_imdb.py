import fabricate
import pytest

from epic_pl.data import MMIMDBDataModule
from epic_pl.utils.errors import DataError


def _data(root, **options):
    return MMIMDBDataModule(data_dir=str(root), **fabricate.ENCODERS, **options)


def _genres(data, row):
    return [data.class_names[code] for code in row["label"]]


@pytest.mark.parametrize(("images", "labels"), [("dataset", "dataset"), ("images", "labels")])
@pytest.mark.parametrize("nested", ["", "mmimdb"])
def test_one_folder_and_two_folders_give_the_same_films(tmp_path, images, labels, nested):
    fabricate.mm_imdb(tmp_path / nested, images=images, labels=labels)
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
    for note in (
        "test: 2 rows",
        "films dropped because no genre is left: 1",
        "films without a plot: 1",
    ):
        assert note in caplog.text


def test_the_longest_plot_is_the_text_and_no_plot_an_absent_one(tmp_path, tiny_tokenizer_dir):
    fabricate.mm_imdb(tmp_path)
    data = _data(tmp_path)
    data.text_encoder = str(tiny_tokenizer_dir)
    texts = [row["text"] for row in fabricate.rows_of(data, "train")]
    assert texts == ["a much longer plot", "a comedy", None, "robots and more"]
    assert data.preprocessing["text"]["source"] == "plot:longest"


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
    with pytest.raises(DataError, match=r"split\.json has no list dev"):
        _data(tmp_path).setup("validate")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("11.jpeg", r"split\.json.*: rows with a bad image: 1 .*0000011\.jpeg"),
        ("10.json", r"0000010\.json"),
    ],
)
def test_missing_posters_and_films_are_named(tmp_path, name, message):
    fabricate.mm_imdb(tmp_path)
    (tmp_path / "dataset" / f"00000{name}").unlink()
    with pytest.raises(DataError, match=message):
        _data(tmp_path).setup("validate")
