import fabricate
import pytest

from epic_pl.data.images import read_image
from epic_pl.data.pictures import missing_pictures, picture_file, refuse_outside
from epic_pl.errors import DataError


def test_links_that_lead_nowhere_or_in_a_circle_folders_and_odd_names_are_missing(tmp_path):
    fabricate.picture(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").symlink_to("1.jpg")
    (tmp_path / "3.jpg").symlink_to("nothing.jpg")
    (tmp_path / "4.jpg").symlink_to("4.jpg")
    (tmp_path / "5.jpg").mkdir()
    names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", ".", "a\0/b.jpg"]
    assert list(missing_pictures(names, tmp_path)) == names[2:]
    for path in ("a\0.jpg", "4.jpg"):
        with pytest.raises(DataError):
            read_image(picture_file(tmp_path, path))


@pytest.mark.parametrize("path", ["../1.jpg", "x/../../1.jpg", "/1.jpg"])
def test_paths_that_leave_the_image_root_are_refused(tmp_path, path):
    refuse_outside(["1.jpg", "x/../1.jpg"], tmp_path, tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl: 1 picture paths lead out of .*1\.jpg"):
        refuse_outside(["1.jpg", path], tmp_path, tmp_path / "rows.jsonl")
