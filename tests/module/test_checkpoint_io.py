"""A checkpoint is written whole or not at all; reading one runs no code."""

import contextlib
import errno
import functools
import io
import json
import os
import random
import zipfile
from unittest.mock import Mock

import pytest
import torch

from epic_pl.module.checkpoint_io import (
    DurableCheckpointIO,
    newest_checkpoint,
    read_checkpoint,
    refuse_classes,
)
from epic_pl.utils.errors import CheckpointError

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
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
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


def test_the_first_file_of_the_newest_folder_is_found(tmp_path):
    names, root = ("best.ckpt", "last.ckpt"), tmp_path / "[r*ns]?"
    with pytest.raises(CheckpointError, match=r"no best.ckpt or last.ckpt in .*version_\*"):
        newest_checkpoint(root, "version_*", names)
    files = DurableCheckpointIO()
    for number, name in enumerate(["best.ckpt", "last.ckpt", "last.ckpt"]):
        path = root / f"version_{number // 2}" / name
        files.save_checkpoint(OLD, path)
        os.utime(path, (number, number))
    assert newest_checkpoint(root, "version_*", names) == str(root / "version_1" / "last.ckpt")
    assert newest_checkpoint(root / "version_0", ".", names).endswith("version_0/best.ckpt")


def test_reads_what_torch_saves_from_a_path_or_an_open_file(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, path)
    with path.open("rb") as file:
        for source in (str(path), file):
            assert read_checkpoint(source)["epoch"] == 3
    for source, words in ((tmp_path / "gone.ckpt", "no checkpoint at"), (tmp_path, "is a folder")):
        with pytest.raises(CheckpointError, match=words) as error:
            read_checkpoint(str(source))
        assert f"{source}'" in str(error.value)


def test_an_address_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}}, path)
    for address in (path.as_uri(), "ftp://host/a.ckpt", "s3://bucket/a.ckpt", "memory://a.ckpt"):
        with pytest.raises(CheckpointError, match=f"'{address}' is an address: download"):
            read_checkpoint(address)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "a.ckpt"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"a\.ckpt' cannot be read"):
        read_checkpoint(str(path))


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    monkeypatch.setattr("torch.load", Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        read_checkpoint(str(tmp_path / "a.ckpt"))


def _saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _deflated(content):
    """A saved file with the same entries, of which the last is compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as saved, zipfile.ZipFile(buffer, "w") as archive:
        for name in saved.namelist():
            kind = zipfile.ZIP_DEFLATED if name == saved.namelist()[-1] else None
            archive.writestr(name, saved.read(name), kind)
    return buffer.getvalue()


NO_CHECKPOINTS = {
    "empty": (b"", "cannot be read"),
    "text": (b"not a checkpoint at all\n", "cannot be read"),
    "zip": (b"PK\x05\x06" + bytes(18), "cannot be read"),
    "noise": (bytes(range(256)) * 4, "cannot be read"),
    "pickled code": (b"cbuiltins\nopen\n(S'pwned'\nS'w'\ntR.", "code to be run"),
    "stack underflow": (b"\x80\x02R.", "cannot be read"),
    "bad utf-8": (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "cannot be read"),
    "compressed": (_deflated(_saved({"state_dict": {"w": torch.ones(9)}})), "damaged"),
    "a list": (_saved([1, 2]), "no state_dict"),
    "weights": (_saved({"weights": 1}), "no state_dict"),
    "a tensor": (_saved(torch.ones(1)), "no state_dict"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(("content", "words"), NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused_by_name(content, words, workdir):
    (workdir / "bad.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"'bad\.ckpt' .*{words}"):
        read_checkpoint("bad.ckpt")
    assert not (workdir / "pwned").exists()


def test_a_flipped_bit_or_a_cut_file_is_damage(tmp_path):
    path, weights = tmp_path / "a.ckpt", torch.randn(200)
    content = _saved({"state_dict": {"w": weights}, "epoch": 3})
    flipped = bytearray(content)
    flipped[content.index(weights.numpy().tobytes())] ^= 1  # torch.load would take it
    for damaged in (flipped, *(content[: int(len(content) * kept)] for kept in (0.1, 0.5, 0.99))):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(str(path))
    generator = random.Random(0)
    for _ in range(300):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(CheckpointError):  # refused, or a bit of no effect
            read = read_checkpoint(str(path))
            assert torch.equal(read["state_dict"].pop("w"), weights)
            assert read == {"state_dict": {}, "epoch": 3}


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch pwned", "shell": True}}


@pytest.mark.parametrize(
    "options",
    [
        {"method_options": {"a": POPEN}},
        {"method_options": {"a": [[{"b": (POPEN,)}]]}},
        POPEN,
        {"_class_path": "subprocess.Popen"},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module (subprocess.Popen)"},
        {"options": {"hub": {"class_path": "subprocess.Popen"}}},
        # the command line's parser reads strings as YAML
        {"method_options": {"a": json.dumps(POPEN)}},
        {"preprocessing": {"a.class_path": "subprocess.Popen"}},
        {"init_args": {"class_path": "subprocess.Popen"}},
        {"preprocessing": "{class_path: subprocess.Popen}"},
        {"preprocessing": '["{\\"class\\\\u005fpath\\": \\"subprocess.Popen\\"}"]'},
    ],
    ids=str,
)
def test_hyperparameters_that_name_a_class_are_refused_at_any_depth(options, tmp_path):
    with pytest.raises(CheckpointError, match=r"subprocess\.Popen"):
        refuse_classes(options, "a.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": options}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt' name a class"):
        read_checkpoint(str(tmp_path / "a.ckpt"))


@pytest.mark.parametrize(
    "options",
    [
        "[" * 600,
        "[" * 70 + "{class_path: subprocess.Popen}" + "]" * 70,
        "&a {class_path: subprocess.Popen, b: *a}",
        [[[POPEN, "a"]] * 1000] * 1000,
        functools.reduce(lambda inner, _: [inner], range(5000), "a"),
    ],
    ids=["unclosed", "deep", "circle", "many", "list"],
)
def test_hyperparameters_too_deep_to_be_looked_through_are_refused(options):
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        refuse_classes({"preprocessing": options}, "a.ckpt")


def test_values_that_a_loader_may_refuse_do_not_hide_a_class():
    for value in ("2024-99-99", "!!bool x", "!!python/name:os.system x"):
        refuse_classes({"class_names": [value]}, "a.ckpt")
        with pytest.raises(CheckpointError, match=r"subprocess\.Popen"):
            refuse_classes(f"{{a: {value}, class_path: subprocess.Popen}}", "a.ckpt")


def test_strings_that_only_look_like_code_are_no_classes():
    names = ["a: b", "[x", "class_path", "subprocess.Popen", "{a: b}", "- c", ""]
    names += ["Dr. No: 1962", "{a.b: c}"]
    refuse_classes({"class_names": names, "preprocessing": {"image_encoder": "pypi:a"}}, "a.ckpt")


def test_names_and_values_of_a_table_are_data(tmp_path):
    names = ["class_path: subprocess.Popen", "[x", "St. Louis: downtown"]
    columns = {"numbers": {"price.usd": [1.0]}, "categories": {"class_path": names}}
    options = {"class_names": names, "preprocessing": {"columns": columns}}
    content = {"state_dict": {}, "hyper_parameters": options}
    torch.save(content, tmp_path / "a.ckpt")
    assert read_checkpoint(str(tmp_path / "a.ckpt"))["hyper_parameters"] == options
    for damaged in ({"class_names": [POPEN]}, {"preprocessing": {"columns": {"numbers": POPEN}}}):
        torch.save({**content, "hyper_parameters": damaged}, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError, match=r"a\.ckpt'.* damaged"):
            read_checkpoint(str(tmp_path / "a.ckpt"))
