import contextlib
import json
import pickle
import random

import pytest
import torch

from epic_pl.errors import CheckpointError
from epic_pl.module.checkpoint import (
    CHECKPOINT_KEY,
    FORMAT_VERSION,
    adapter_state,
    check_class_names,
    check_encoder,
    complete_state,
    frozen_keys,
    read_checkpoint,
    refuse_classes,
    require_info,
)


@pytest.fixture
def model(make):
    return make(epic={"interaction_layers": 3}).model


def test_an_adapter_holds_what_is_trained_and_all_buffers_outside_the_encoders(model):
    adapter = adapter_state(model, model.state_dict())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in model.named_buffers() if name.startswith("head.")}
    assert buffers  # the running statistics of the features
    assert set(adapter) == trained | buffers
    assert frozen_keys(model) == set(model.state_dict()) - set(adapter)


def test_round_trip_is_strict_and_keeps_own_encoders(model):
    adapter = {k: torch.randn_like(v) for k, v in adapter_state(model, model.state_dict()).items()}
    frozen = {key: model.state_dict()[key].clone() for key in frozen_keys(model)}
    model.load_state_dict(complete_state(model, adapter), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, adapter.get(key, frozen.get(key)))


def _without(adapter, key):
    del adapter[key]


def _renamed(adapter, key):
    adapter["hubs.9.down_image.weight"] = adapter.pop(key)


def _misshapen(adapter, key):
    adapter[key] = adapter[key][:-1]


def _poisoned(value):
    def change(adapter, key):
        adapter[key] = adapter[key].clone()
        adapter[key].view(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without, ["lacks"]),
        (_renamed, ["lacks", "hubs.9.down_image.weight", "unknown"]),
        (_misshapen, ["shape", "(7, 32)", "(8, 32)"]),
        (_poisoned(float("nan")), ["NaN"]),
        (_poisoned(float("inf")), ["infinite"]),
    ],
    ids=["missing", "renamed", "misshapen", "nan", "inf"],
)
def test_what_does_not_fit_is_refused_by_name(model, change, words):
    key = "hubs.1.down_image.weight"
    adapter = adapter_state(model, model.state_dict())
    change(adapter, key)
    with pytest.raises(CheckpointError) as error:
        complete_state(model, adapter)
    for word in [key, *words]:
        assert word in str(error.value)


def test_a_checkpoint_cannot_bring_encoder_weights(model):
    with pytest.raises(CheckpointError, match=r"encoder\.model.*unknown"):
        complete_state(model, dict(model.state_dict()))


def identity(name="bert", revision=None, fingerprint="a" * 64):
    return {"name": name, "revision": revision, "fingerprint": fingerprint}


def test_the_same_weights_are_the_same_encoder_wherever_they_lie():
    check_encoder("text", identity("org/bert", "v1"), identity("./bert"))


def test_another_encoder_is_refused_by_name():
    with pytest.raises(CheckpointError) as error:
        check_encoder("text", identity("bert", "rev1"), identity("roberta", None, "b" * 64))
    for word in ("text encoder", "'bert'", "rev1", "a" * 12, "'roberta'", "b" * 12):
        assert word in str(error.value)


def test_info_is_required_and_other_formats_are_refused():
    info = {"format_version": FORMAT_VERSION}
    assert require_info({CHECKPOINT_KEY: info}) is info
    with pytest.raises(CheckpointError, match="not a checkpoint of EPICModule"):
        require_info({"state_dict": {}})
    for other in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        with pytest.raises(CheckpointError, match=f"format {other}, .* reads format"):
            require_info({CHECKPOINT_KEY: {"format_version": other}})


def test_class_names_must_agree_in_order_where_both_sides_have_some():
    names = ["blue", "green", "red"]
    for here in (names, None, ["a", "b"]):  # another number of classes is told by the shapes
        check_class_names(names, here)
    check_class_names(None, names)
    for here in (["blue", "red", "green"], ["blue", "lime", "red"]):
        with pytest.raises(CheckpointError, match=f"class 1 is 'green', the data's is '{here[1]}'"):
            check_class_names(names, here)


# files ----------------------------------------------------------------------------------------


def test_reads_what_torch_saves_from_a_path_or_an_open_file(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, path)
    assert read_checkpoint(str(path))["epoch"] == 3
    with path.open("rb") as file:
        assert read_checkpoint(file)["epoch"] == 3


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(str(tmp_path / "gone.ckpt"))
    with pytest.raises(CheckpointError, match=f"{tmp_path}' is a folder"):
        read_checkpoint(str(tmp_path))


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "a.ckpt")

    monkeypatch.setattr("torch.load", refuse)
    with pytest.raises(PermissionError):
        read_checkpoint("a.ckpt")


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
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(str(path))
    assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bytes_end_in_our_error_or_not_at_all(tmp_path):
    path, generator = tmp_path / "flipped.ckpt", random.Random(0)
    torch.save({"state_dict": {"w": torch.ones(8)}, "epoch": 3}, path)
    content = path.read_bytes()
    for _ in range(200):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(flipped)
        with contextlib.suppress(CheckpointError):
            read_checkpoint(str(path))


def test_a_cut_file(tmp_path):
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.ones(500)}}, path)
    content = path.read_bytes()
    for kept in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(str(path))


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, torch.ones(1)], ids=str)
def test_other_content(content, tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_checkpoint(str(path))


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["bare pickle", "torch file", "hyperparameters"])
def test_pickled_code_in_a_file_is_never_run(kind, tmp_path):
    path, target = tmp_path / "trap.ckpt", tmp_path / "sprung"
    key = "hyper_parameters" if kind == "hyperparameters" else "extra"
    content = {"state_dict": {}, key: Trap(str(target))}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
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


def test_strings_that_only_look_like_code_are_no_classes():
    names = ["a: b", "[x", "class_path", "subprocess.Popen", "{a: b}", "- c", ""]
    refuse_classes({"class_names": names, "preprocessing": {"image_encoder": "pypi:a"}}, "a.ckpt")
