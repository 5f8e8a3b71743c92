import fabricate
import pytest

from epic_pl.data.layout import Layout, image_folder, locate
from epic_pl.errors import DataError

TWO = (Layout("new", ("a.json|b.json", "images/")), Layout("old", ("old.csv",)))


def test_the_first_complete_layout_is_taken_and_says_where_each_part_is(tmp_path):
    (tmp_path / "old.csv").touch()
    assert locate("X", tmp_path, TWO, how_to_get="").layout.name == "old"
    (tmp_path / "images").mkdir()
    (tmp_path / "b.json").touch()
    found = locate("X", tmp_path, TWO, how_to_get="")
    assert found.layout.name == "new"
    assert found.paths["a.json|b.json"] == tmp_path / "b.json"


def test_the_error_tells_what_is_missing_of_each_layout_where_and_how_to_get_it(tmp_path):
    (tmp_path / "inner" / "images").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        locate("X", tmp_path, TWO, how_to_get="Fetch it from there.", nested=("inner",))
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"Looked in {tmp_path / 'inner'} for",
        "a.json or b.json (missing), images/ (found); or old: old.csv (missing)",
        f"Also looked in {tmp_path},",
        "Fetch it from there.",
    ):
        assert part in message


@pytest.mark.parametrize("where", ["a", "b", "a/b", "b/b"])
def test_an_image_folder_is_found_nested_once_or_twice(tmp_path, where):
    (tmp_path / "a").mkdir(exist_ok=True)  # empty, or the outer one
    fabricate.image(tmp_path / where / "1.jpg")
    assert image_folder("X", [tmp_path], ("a", "b"), "") == tmp_path / where


def test_no_image_folder_names_every_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").touch()
    with pytest.raises(DataError) as caught:
        image_folder("X", [tmp_path], ("a", "b"), "Fetch them.")
    for part in ("Fetch them.", *(str(tmp_path / place) for place in ("a", "b", "a/b", "b/a"))):
        assert part in str(caught.value)
