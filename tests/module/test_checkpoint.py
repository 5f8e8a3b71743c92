import contextlib
import functools
import json
import math
import os
import pickle
import random
import re
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F

from epic_pl.errors import CheckpointError
from epic_pl.module.checkpoint import (
    CHECKPOINT_KEY,
    FORMAT_VERSION,
    adapter_state,
    check_class_names,
    check_encoder,
    complete_state,
    read_checkpoint,
    refuse_classes,
    require_info,
)


@pytest.fixture
def model(make):
    return make(epic={"interaction_layers": 3}).model


KEY = "hubs.1.down_image.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weight: {}, ["lacks"]),
        (lambda weight: {"hubs.9.up": weight}, ["lacks", "hubs.9.up", "unknown"]),
        (lambda weight: {KEY: weight[:-1]}, ["shape", "(7, 32)", "(8, 32)"]),
        (lambda weight: {KEY: F.pad(weight[:, :-1], (0, 1), value=math.nan)}, ["NaN"]),
        (lambda weight: {KEY: F.pad(weight[:, :-1], (0, 1), value=math.inf)}, ["infinite"]),
    ],
    ids=["missing", "renamed", "misshapen", "nan", "inf"],
)
def test_what_does_not_fit_is_refused_by_name(model, change, words):
    adapter = adapter_state(model, model.state_dict())
    adapter |= change(adapter.pop(KEY))
    with pytest.raises(CheckpointError) as error:
        complete_state(model, adapter)
    for word in [KEY, *words]:
        assert word in str(error.value)


def test_a_checkpoint_cannot_bring_encoder_weights(model):
    with pytest.raises(CheckpointError, match=r"encoder\.model.*unknown"):
        complete_state(model, dict(model.state_dict()))


def test_an_encoder_is_known_by_its_weights_and_another_is_refused_by_name():
    bert = {"name": "bert", "revision": "rev1", "fingerprint": "a" * 64}
    check_encoder("text", bert, bert | {"name": "./bert", "revision": None})
    with pytest.raises(CheckpointError) as error:
        check_encoder("text", bert, {"name": "roberta", "revision": None, "fingerprint": "b" * 64})
    for word in ("text encoder", "'bert'", "rev1", "a" * 12, "'roberta'", "b" * 12):
        assert word in str(error.value)


def test_info_is_required_and_other_formats_are_refused():
    identity = {"name": "vit", "revision": None, "fingerprint": "ab"}
    info = {"format_version": FORMAT_VERSION, "image_encoder": identity, "text_encoder": identity}
    assert require_info({CHECKPOINT_KEY: info}) is info
    with pytest.raises(CheckpointError, match="not a checkpoint of EPICModule"):
        require_info({"state_dict": {}})
    for other in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        with pytest.raises(CheckpointError, match=f"format {other}, .* reads format"):
            require_info({CHECKPOINT_KEY: {"format_version": other}})
    # found by make fuzz: tensors, which cannot be compared, in place of plain values
    for other in (torch.zeros(2), torch.eye(2).to_sparse(), None):
        with pytest.raises(CheckpointError, match=r"(?s)format .*, .* reads format"):
            require_info({CHECKPOINT_KEY: {"format_version": other}})
        damaged = {**info, "text_encoder": {**identity, "revision": torch.zeros(2), "name": other}}
        with pytest.raises(CheckpointError, match="text_encoder is damaged"):
            require_info({CHECKPOINT_KEY: damaged})


def test_class_names_must_agree_in_order_where_both_sides_have_some():
    names = ["blue", "green", "red"]
    for here in (names, None, ["a", "b"]):  # another number of classes is told by the shapes
        check_class_names(names, here)
    check_class_names(None, names)
    for here in (["blue", "red", "green"], ["blue", "lime", "red"]):
        with pytest.raises(CheckpointError, match=f"class 1 is 'green', the data's is '{here[1]}'"):
            check_class_names(names, here)


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


GARBAGE = {
    "empty": b"",
    "text": b"not a checkpoint at all\n",
    "html": b"<!doctype html><html></html>",
    "json": b'{"state_dict": {}}',
    "zip": b"PK\x05\x06" + bytes(18),
    "noise": bytes(range(256)) * 4,
    "pickle of a list": pickle.dumps([1, 2]),
    "high pickle protocol": b"\x80\x7f.",
    "stack underflow": b"\x80\x02R.",
    "bad utf-8": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "bad memo": b"\x80\x02h\x05.",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage(content, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "bad.ckpt"))):
        read_checkpoint(str(tmp_path / "bad.ckpt"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_flipped_bit_changes_what_is_read_and_cut_files_are_damaged(tmp_path):
    path, generator = tmp_path / "a.ckpt", random.Random(0)
    weights = torch.randn(200)
    torch.save({"state_dict": {"w": weights}, "epoch": 3}, path)
    content = path.read_bytes()
    for _ in range(300):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(CheckpointError):
            read = read_checkpoint(str(path))
            assert read.keys() == {"state_dict", "epoch"}
            assert read["epoch"] == 3
            assert torch.equal(read["state_dict"]["w"], weights)
    for kept in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(str(path))


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, torch.ones(1)], ids=str)
def test_other_content(content, tmp_path):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_checkpoint(str(tmp_path / "other.ckpt"))


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("key", ["extra", "hyper_parameters"])
def test_pickled_code_in_a_file_is_never_run(key, tmp_path):
    path, target = tmp_path / "trap.ckpt", tmp_path / "sprung"
    content = {"state_dict": {}, key: Trap(target)}
    for save in (torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))):
        save(content, path)
        with pytest.raises(CheckpointError, match="code to be run"):
            read_checkpoint(str(path))
        assert not target.exists()


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch pwned", "shell": True}}


@pytest.mark.parametrize(
    "options",
    [
        {"method_options": {"a": POPEN}},
        {"method_options": {"a": [[{"b": (POPEN,)}]]}},
        POPEN,
        {"_class_path": "subprocess.Popen"},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module (subprocess.Popen)"},
        {"epic": {"hub": {"class_path": "subprocess.Popen"}}},
        # the command line's parser reads strings as YAML
        {"method_options": {"a": json.dumps(POPEN)}},
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
    refuse_classes({"class_names": names, "preprocessing": {"image_encoder": "pypi:a"}}, "a.ckpt")
