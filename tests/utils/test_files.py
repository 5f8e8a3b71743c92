"""Files appear whole, whatever stops their writer, and broken ones are named."""

import json
import os
import time

import pytest

from epic_pl.utils.errors import DataError
from epic_pl.utils.files import (
    folder_beside,
    read_json,
    replacing,
    try_read_json,
    write_json,
    write_text,
)


def test_a_file_is_replaced_as_a_whole_by_the_last_of_several_writers(tmp_path):
    path = tmp_path / "new" / "file.json"
    with replacing(path) as first:
        first.write_text("{")
        write_json(path, {"name": "größe"})
        assert try_read_json(path) == {"name": "größe"}
        first.write_text('{"name": 1}')
    assert json.loads(path.read_text()) == {"name": 1}
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_file_as_it_was(error, tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "before")
    with pytest.raises(type(error)) as raised, replacing(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file.txt"]
    if isinstance(error, OSError):
        assert raised.value.filename == str(path)


def test_what_killed_processes_have_left_is_removed_and_no_other_file(tmp_path):
    names = (f".{'1a' * 8}.partial", f".{'2b' * 8}.partial", ".film.mkv.partial")
    for name in names:
        (tmp_path / name).touch()
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (0, 0))
    write_text(tmp_path / "file.txt", "text")
    assert sorted(os.listdir(tmp_path)) == sorted((*names[1:], "file.txt"))


def test_a_clock_that_jumps_removes_no_file_that_is_being_written(tmp_path, monkeypatch):
    with replacing(tmp_path / "a") as partial:
        partial.touch()
        monkeypatch.setattr("time.time", lambda: partial.stat().st_mtime + 3600)
        write_text(tmp_path / "b", "text")
        assert partial.exists()


@pytest.mark.parametrize("age", [0, 601])
def test_a_folder_beside_is_removed_with_what_killed_processes_left(tmp_path, age):
    left = tmp_path / f".{'1a' * 8}.partial"
    (left / "inner").mkdir(parents=True)
    os.utime(left, (time.time() - age,) * 2)
    with pytest.raises(KeyboardInterrupt), folder_beside(tmp_path / "made") as made:  # noqa: PT012
        (made / "file").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ([] if age else [left.name])


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": 1'])
def test_json_that_holds_no_object_is_none(content, tmp_path):
    (tmp_path / "file.json").write_text(content)
    assert try_read_json(tmp_path / "file.json") is None
    assert try_read_json(tmp_path / "absent.json") is None


def test_json_is_read_only_from_small_regular_files(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert try_read_json(path) is None
    with path.open("wb") as file:
        file.truncate(2**42)
    assert try_read_json(path) is None
    path.unlink()
    os.mkfifo(path)
    assert try_read_json(path) is None


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[1]", b'{"a": "cut \\ud83d"}', b"[" * 100_000]
)
def test_json_names_the_file_that_is_broken(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
