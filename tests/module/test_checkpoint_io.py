"""A checkpoint is written whole or not at all."""

import errno
import os

import pytest
import torch

import tiny_runs
from epic_pl.errors import CheckpointError
from epic_pl.module.checkpoint import newest_readable, read_checkpoint
from epic_pl.module.checkpoint_io import DurableCheckpointIO

OLD, NEW = ({"state_dict": {"w": torch.full((3,), value)}} for value in (1.0, 2.0))


def stops(error):
    def stop(*_):
        raise error

    return stop


@pytest.mark.parametrize("at", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
    ids=["full disk", "killed"],
)
def test_what_was_there_stays_if_writing_fails(at, error, raised, said, tmp_path, monkeypatch):
    path, files = tmp_path / "deep" / "last.ckpt", DurableCheckpointIO()
    files.save_checkpoint(OLD, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, at, stops(error))
        with pytest.raises(raised, match=said):
            files.save_checkpoint(NEW, path)
    assert read_checkpoint(str(path))["state_dict"]["w"][0] == 1
    files.save_checkpoint(NEW, path)
    assert read_checkpoint(str(path))["state_dict"]["w"][0] == 2
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_a_trainer_writes_and_reads_through_it(make, tmp_path):
    rows = tiny_runs.loader(tiny_runs.samples())
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, plugins=[DurableCheckpointIO()])
    trainer.fit(make(), rows)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.fit(make(), rows, ckpt_path=str(tmp_path / "a.ckpt"), weights_only=True)
    assert trainer.global_step == 2


def test_the_newest_file_that_can_be_read_is_found(tmp_path):
    names, root = ("last.ckpt", "last.previous.ckpt"), tmp_path / "[r*ns]?"
    with pytest.raises(CheckpointError, match=r"There is no last.ckpt in .*version_\*"):
        newest_readable(root, "version_*", names)
    files = DurableCheckpointIO()
    for number, name in enumerate([*names, *names]):
        path = root / f"version_{number // 2}" / name
        files.save_checkpoint(OLD, path)
        os.utime(path, (number, number))
    newest = root / "version_1"
    assert newest_readable(root, "version_*", names) == str(newest / "last.ckpt")
    (newest / "last.ckpt").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="The one before it is taken"):
        assert newest_readable(newest, ".", names) == str(newest / "last.previous.ckpt")
