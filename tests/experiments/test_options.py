"""The hash of options, by which earlier results are found again."""

import os

import fabricate
import pyarrow as pa
import pytest

from epic_pl.experiments.options import options_key

CHANGES = {
    "other content of equal length": lambda d, file: os.utime(file, ns=(0, 0)),
    "other length": lambda d, file: (file.write_bytes(b"x"), os.utime(file, ns=(1, 1))),
    "removed": lambda d, file: file.unlink(),
    "renamed": lambda d, file: file.rename(file.with_name(f"z{file.suffix}")),
    "another label": lambda d, file: file.rename(d / "train" / file.name),
    "added": lambda d, file: (file.parent / "z.txt").touch(),
}


def _classes(folder):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fabricate.image(folder / split / name / f"{name}.png")
    return folder / "test" / "cat" / "cat.png"


def _dataset(folder):
    fabricate.save_to_disk(folder, pa.table({"text": ["a"]}), {"text": {"_type": "Value"}})
    (folder / "train").mkdir(exist_ok=True)
    return next(folder.rglob("*.arrow"))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("write", [_classes, _dataset])
def test_a_folder_that_is_a_table_has_the_hash_of_its_files(write, change, tmp_path):
    def key():
        return options_key({"data": {"init_args": {"table": str(folder)}}})

    file = write(folder := tmp_path / "d")
    os.utime(file, ns=(1, 1))
    before = key()
    (folder / ".hidden").touch()
    (folder / "runs" / "compare" / "config").mkdir(parents=True)  # of commands that start there
    (folder / "runs" / "compare" / "config" / "comparison.json").touch()
    assert key() == before
    CHANGES[change](folder, file)
    assert key() != before
