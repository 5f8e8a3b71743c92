import json
import os
import shutil
import socket
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
from architectures import IMAGES, TEXTS, write_hf
from safetensors.torch import load_file, save_file
from tiny_models import (
    batch,
    bert,
    clip_text,
    clip_vision,
    hf_text,
    image_encoder,
    scramble,
    vit,
)
from transformers import AutoModel, CLIPConfig, CLIPModel, modeling_utils

from epic_pl.data.pretrained import image_preprocessing, load_tokenizer
from epic_pl.nn import EPIC, Pair
from epic_pl.nn.encoders import (
    TransformersEncoder,
    build_image_encoder,
    build_text_encoder,
)
from epic_pl.nn.towers import FrozenTower, JointTower, TrainedTower
from epic_pl.utils.errors import AssetError, EncoderError
from epic_pl.utils.files import write_json
from tolerance import assert_same

WAYS_OUT = "pypi:dinov2-small.*pypi:all-minilm-l6-v2"


def folder_of(model, path) -> str:
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def clip_dir(tmp_path):
    vision, text = clip_vision().config, clip_text().config
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    return folder_of(scramble(CLIPModel(config)), tmp_path / "clip")


def change_config(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    entries = config if key in config else config.get("model_args", config)
    entries[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(params=["vit", "bert"])
def either(request):
    """An encoder's folder and the function that builds it."""
    kind, build = {
        "vit": ("tiny_vit_dir", build_image_encoder),
        "bert": ("tiny_tokenizer_dir", build_text_encoder),
    }[request.param]
    return request.getfixturevalue(kind), build


# what loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "possible"), [("SigLIP", 48), ("DINOv3", 48), ("AIMv2", 32)])
def test_another_image_size_of_transformers(name, possible, tmp_path):
    folder = write_hf(tmp_path, *IMAGES[name]())
    native, larger = (build_image_encoder(folder, image_size=size) for size in (None, 48))
    for encoder, side in ((native, 32), (larger, possible)):
        images = encoder.example(1, 0, torch.Generator())
        assert images.shape == (1, 3, side, side)
        assert encoder.embed(images).shape[1] == encoder.num_prefix_tokens + (side // 8) ** 2
    assert larger.fingerprint == native.fingerprint


@pytest.mark.parametrize(
    ("build", "other"),
    [(build_image_encoder, "text_model."), (build_text_encoder, "vision_model.")],
)
def test_a_tower_of_a_file_of_two_reads_its_own_tensors_alone(build, other, tmp_path):
    folder = write_hf(tmp_path, *IMAGES["SigLIP"]())
    whole = build(folder)
    damaged = {}
    change_weights(
        tmp_path,
        lambda weights: {
            name: damaged.setdefault(name, weight.flatten()[:1].clone() * float("nan"))
            if name.startswith(other)
            else weight
            for name, weight in weights.items()
        },
    )
    assert damaged
    alone = build(folder)
    assert alone.fingerprint == whole.fingerprint
    assert not any(name.startswith(other) for name in alone.model.state_dict())


MEAN, CLS = ({f"pooling_mode_{name}": True} for name in ("mean_tokens", "cls_token"))


# it pooled the first token whatever the files say
@pytest.mark.parametrize(
    ("said", "given", "pooled"),
    [
        (MEAN | {"pooling_mode_cls_token": False, "include_prompt": True}, "auto", "mean"),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, "auto", "mean"),
        (CLS, "auto", "auto"),
        ({}, "auto", "auto"),
        (MEAN, "cls", "cls"),
        (MEAN, "mean", "mean"),
    ],
)
@pytest.mark.parametrize("place", ["1_Pooling", "2_Other"])
def test_a_sentence_transformers_folder_is_pooled_as_it_says(
    said, given, pooled, place, tiny_tokenizer_dir, tmp_path, make
):
    folder = Path(shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert"))
    write_json(folder / place / "config.json", said)
    if place != "1_Pooling":
        kinds = {"": "models.Transformer", place: "models.Pooling"}
        modules = [{"path": path, "type": kind} for path, kind in kinds.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
    contradicts = said == MEAN and given == "cls"
    told = pytest.warns(UserWarning, match=f"{place}/config.json.* mean, but model.encoders.text")
    with told if contradicts else nullcontext():
        encoder = build_text_encoder(str(folder), pooling=given)
    assert encoder.pooling == pooled
    assert getattr(encoder.model, "pooler", None) is None
    ids, mask = torch.randint(5, 60, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    hidden = AutoModel.from_pretrained(folder)(ids, mask).last_hidden_state
    expected = hidden[:, 0]
    if pooled == "mean":
        expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    seen = mask.bool()
    tokens = encoder.run_layers(0, encoder.num_layers, encoder.embed(ids), seen)
    assert_same(encoder.pool(tokens, seen), expected)
    assert encoder.fingerprint == build_text_encoder(str(tiny_tokenizer_dir)).fingerprint
    # a checkpoint finds it again without those files
    module = make(encoders={"text": {"name": str(folder), "pooling": given}, "precision": "auto"})
    module.check_device(torch.device("cpu"))  # chooses the precision
    assert module.hparams["encoders"]["text"]["pooling"] == pooled


@pytest.mark.parametrize(
    "said", [{"pooling_mode_max_tokens": True}, MEAN | CLS, {"pooling_mode": ["mean", "max"]}]
)
def test_a_pooling_that_is_not_supported_is_refused_unless_another_is_set(
    said, tiny_tokenizer_dir, tmp_path
):
    folder = Path(shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert"))
    write_json(folder / "1_Pooling" / "config.json", said)
    with pytest.raises(EncoderError, match=r"1_Pooling/config.json.*text.pooling to mean or cls"):
        build_text_encoder(str(folder))
    with pytest.warns(UserWarning, match="1_Pooling"):
        assert build_text_encoder(str(folder), pooling="mean").pooling == "mean"


@pytest.fixture
def dense_folder(tiny_tokenizer_dir, tmp_path):
    """A text encoder whose mean is followed by two dense layers, 32 to 48 to 32."""
    folder = Path(shutil.copytree(tiny_tokenizer_dir, tmp_path / "dense"))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Dense": "Dense"}
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in (kinds | {"4_Normalize": "Normalize"}).items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for path, sizes, activation in (("2_Dense", (32, 48), "Tanh"), ("3_Dense", (48, 32), "GELU")):
        config = {"in_features": sizes[0], "out_features": sizes[1], "bias": path == "2_Dense"}
        config["activation_function"] = f"torch.nn.modules.activation.{activation}"
        write_json(folder / path / "config.json", config)
        layer = torch.nn.Linear(*sizes, bias=config["bias"])
        weights = {f"linear.{name}": weight for name, weight in layer.state_dict().items()}
        save_file(weights, folder / path / "model.safetensors")
    write_json(folder / "1_Pooling" / "config.json", MEAN)
    return folder


@pytest.mark.parametrize("tower", [FrozenTower, JointTower, TrainedTower])
def test_dense_layers_follow_the_pooling(tower, dense_folder):
    encoder = build_text_encoder(str(dense_folder))
    ids, mask = torch.randint(5, 60, (3, 7)), torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    mean = encoder.pool(encoder.run_layers(0, 3, encoder.embed(ids), mask), mask)
    layers = [load_file(dense_folder / f"{n}_Dense" / "model.safetensors") for n in (2, 3)]
    weight, bias = layers[0]["linear.weight"], layers[0]["linear.bias"]
    hidden = torch.tanh(mean @ weight.T + bias)
    expected = torch.nn.functional.gelu(hidden @ layers[1]["linear.weight"].T)
    made = tower(encoder, [2])
    assert_same(made.extract(ids, mask).pool().output, expected)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert encoder.num_parameters == sum(p.numel() for p in encoder.parameters())


def test_dense_layers_are_part_of_the_fingerprint(dense_folder, tiny_tokenizer_dir):
    def fingerprint():
        return build_text_encoder(str(dense_folder)).fingerprint

    first, path = fingerprint(), dense_folder / "3_Dense"
    assert first == fingerprint() != build_text_encoder(str(tiny_tokenizer_dir)).fingerprint
    change_config(path, "activation_function", "torch.nn.modules.linear.Identity")
    second = fingerprint()
    change_weights(path, lambda weights: {name: -weight for name, weight in weights.items()})
    assert len({first, second, fingerprint()}) == 3
    # another pooling than they were trained with leaves them out
    with pytest.warns(UserWarning, match="1_Pooling"):
        cls = build_text_encoder(str(dense_folder), pooling="cls").fingerprint
    assert cls == build_text_encoder(str(tiny_tokenizer_dir)).fingerprint


@pytest.mark.parametrize(
    ("file", "old", "new", "kind", "message"),
    [
        ("modules.json", "models.Dense", "models.LSTM", EncoderError, "mean with LSTM.*to mean"),
        ("modules.json", "3_Dense", "2_Dense", EncoderError, "48 numbers, not the encoder's 32"),
        ("modules.json", "3_Dense", "1_Pooling", AssetError, "1_Pooling"),
        ("2_Dense/config.json", "activation.Tanh", "NoLayer", AssetError, "2_Dense"),
        ("2_Dense/config.json", "48", "40", AssetError, "2_Dense"),
    ],
)
def test_modules_that_cannot_follow_the_pooling_are_named(
    file, old, new, kind, message, dense_folder
):
    path = dense_folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(kind, match=message):
        build_text_encoder(str(dense_folder))


def test_the_last_token_is_pooled_where_a_causal_folder_says_so(tiny_tokenizer_dir, tmp_path):
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "lasttoken"})
    made, config = TEXTS["Qwen3"]()
    encoder = build_text_encoder(write_hf(tmp_path, made, config))
    tokens, mask = torch.randn(2, 4, 32), torch.tensor([[True] * 4, [True, True, False, False]])
    norm = encoder.model.norm
    expected = norm(torch.stack([tokens[0, 3], tokens[1, 1]]))
    assert_same(encoder.pool(tokens, mask), expected)
    shutil.copytree(tiny_tokenizer_dir, tmp_path, dirs_exist_ok=True)
    with pytest.raises(EncoderError, match="lasttoken"):
        build_text_encoder(str(tmp_path))


@pytest.mark.parametrize("files", [{}, {"1_Pooling/config.json": MEAN}])
def test_a_hub_name_is_pooled_as_its_cached_files_say(files, tiny_tokenizer_dir, tmp_path):
    snapshot = tmp_path / "models--me--bert" / "snapshots" / "abc"
    shutil.copytree(tiny_tokenizer_dir, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    for name, content in files.items():
        write_json(snapshot / name, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert build_text_encoder("me/bert").pooling == ("mean" if files else "auto")


def test_a_lone_clip_tower_in_a_folder(tmp_path):
    image = build_image_encoder(folder_of(clip_vision(), tmp_path / "v"))
    text = build_text_encoder(folder_of(clip_text(), tmp_path / "t"))
    assert isinstance(image, TransformersEncoder)
    assert isinstance(text, TransformersEncoder)


def test_half_precision_folders_work_with_float_prompts(tmp_path):
    text = build_text_encoder(folder_of(scramble(bert()).half(), tmp_path / "half"))
    model = EPIC(interaction_layers=2).build(Pair(image_encoder(), text), 3)
    assert model(batch([2], dtype=torch.float32)).logits.dtype == torch.float32


def test_revision_pins_a_timm_name(monkeypatch):
    monkeypatch.setattr("epic_pl.utils.assets.encoders.model_info", lambda *_, **__: None)
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name) or vit())
    build_image_encoder("vit_tiny_patch16_224", revision="abc123")
    build_image_encoder("hf-hub:org/some_vit", revision="abc123")
    build_image_encoder("vit_tiny_patch16_224@abc123")
    build_image_encoder("vit_tiny_patch16_224")
    assert asked == [
        "hf-hub:timm/vit_tiny_patch16_224@abc123",
        "hf-hub:org/some_vit@abc123",
        "hf-hub:timm/vit_tiny_patch16_224@abc123",
        "vit_tiny_patch16_224",
    ]


# random weights -------------------------------------------------------------------------------


def test_random_weights_are_always_the_same_and_leave_the_generators_alone(either, tmp_path):
    source, build = either
    folder = shutil.copytree(source, tmp_path / "doubled")
    change_weights(folder, lambda weights: {name: 2 * w for name, w in weights.items()})
    folder = str(folder)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(folder, pretrained=False).fingerprint
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert build(folder, pretrained=False).fingerprint == first
    assert build(folder, pretrained=True).fingerprint != first


# fingerprints ---------------------------------------------------------------------------------


def test_a_fingerprint_is_of_the_weights_before_they_are_resampled(tiny_vit_dir, monkeypatch):
    native = build_image_encoder(str(tiny_vit_dir)).fingerprint
    path = "timm.models.vision_transformer.resample_abs_pos_embed"
    # another CPU rounds differently
    monkeypatch.setattr(path, lambda table, **_: table.new_full((1, 37, 32), 0.1))
    encoder = build_image_encoder(str(tiny_vit_dir), image_size=48)
    assert encoder.model.pos_embed.shape == (1, 37, 32)
    assert encoder.fingerprint == native


def test_resizing_gives_the_position_embedding_that_timm_would_load(tiny_vit_dir):
    source = f"local-dir:{tiny_vit_dir}"
    expected = timm.create_model(source, pretrained=True, num_classes=0, img_size=48).eval()
    encoder = build_image_encoder(str(tiny_vit_dir), image_size=48)
    assert torch.equal(encoder.model.pos_embed, expected.pos_embed)
    image = torch.randn(1, 3, 48, 48)
    assert torch.equal(encoder.model(image), expected(image))


@pytest.mark.parametrize(
    ("either", "option", "value"),
    [
        ("vit", "act_layer", "quick_gelu"),
        ("vit", "num_heads", 2),
        ("bert", "hidden_act", "relu"),
        ("bert", "num_attention_heads", 2),
        ("bert", "layer_norm_eps", 1e-3),
    ],
    indirect=["either"],
)
def test_equal_weights_in_another_configuration_have_another_fingerprint(
    either, option, value, tmp_path
):
    source, build = either
    copy = shutil.copytree(source, tmp_path / "copy")
    first = build(str(source)).fingerprint
    assert build(str(copy)).fingerprint == first  # wherever the folder lies
    change_config(copy, option, value)
    assert build(str(copy)).fingerprint != first


def naflex():
    kind, config = TEXTS["SigLIP 2 text"]()
    return kind(config)


# what does not load ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch16_225", r"(?s)similar: .*Supported encoders"),
        ("no_such_model", r"(?s)similar: .*Supported encoders"),
        ("vit_tiny_patch16", "vit_tiny_patch16_224"),
    ],
)
def test_timm_names_that_are_no_supported_model(name, message):
    with pytest.raises(EncoderError, match=message) as error:
        build_image_encoder(name, pretrained=False)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("build", "model", "message"),
    [
        (
            build_image_encoder,
            lambda: hf_text("roberta"),
            r"type 'roberta'.*no vision encoder.*Supported",
        ),
        (build_text_encoder, clip_vision, r"clip_vision_model.*Supported"),
        (build_image_encoder, naflex, r"no features: .*one image size \(not NaFlex\)"),
    ],
    ids=["text as image", "image as text", "NaFlex"],
)
def test_unsupported_hugging_face_architectures(build, model, message, tmp_path):
    with pytest.raises(EncoderError, match=message):
        build(folder_of(model(), tmp_path))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (build_image_encoder, "vit_tiny_patch16_224.augreg_in21k"),
        (build_image_encoder, "hf-hub:timm/no_such_vit"),
        (build_image_encoder, "openai/clip-vit-base-patch32"),
        (build_text_encoder, "google-bert/bert-base-uncased"),
        (build_text_encoder, "no-such-org/no-such-model"),
        (build_text_encoder, "no-such-model"),
    ],
)
def test_unreachable_names_tell_the_ways_out(build, name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ways_out = rf"(?s)folder.*HF_HUB_OFFLINE=1.*{WAYS_OUT}.*model.encoders.pretrained to false"
    with pytest.raises(AssetError, match=ways_out) as error:
        build(name)
    assert repr(name) in str(error.value)


# the hub's library repeated each request five times, for 23 seconds
@pytest.mark.parametrize("name", ["google/siglip2-base-patch16-224", "vit_tiny_patch16_224"])
@pytest.mark.parametrize(
    "load", [build_image_encoder, build_text_encoder, image_preprocessing, load_tokenizer]
)
def test_a_hub_out_of_reach_is_asked_once(load, name, monkeypatch, tmp_path):
    asked = []

    def unknown(*address, **options):
        asked.append(address)
        raise socket.gaierror("unknown host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to try again"))
    if load is image_preprocessing and "/" not in name:
        load(name)  # timm has the values of its own names
        assert asked == []
        return
    with pytest.raises(AssetError, match=r"unknown host.*set HF_HUB_OFFLINE=1"):
        load(name)
    assert len(asked) == 1


CONFIG, WEIGHTS = "config.json", "model.safetensors"
DAMAGES = {
    "no JSON": (CONFIG, lambda path: path.write_text("{not json")),
    "null": (CONFIG, lambda path: path.write_text("null")),
    "deep": (CONFIG, lambda path: path.write_text("[" * 10**5)),
    "no weights": (WEIGHTS, lambda path: path.unlink()),
    "a folder": (WEIGHTS, lambda path: path.unlink() or path.mkdir()),  # root reads any file
    "empty": (WEIGHTS, lambda path: path.write_bytes(b"")),
    "a page": (WEIGHTS, lambda path: path.write_bytes(b"<html>Not found</html>")),
    "cut": (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:2000])),
    "other shapes": (WEIGHTS, lambda path: change_weights(path.parent, doubled_matrices)),
    "a layer less": (WEIGHTS, lambda path: change_weights(path.parent, without_a_layer)),
}
WRONG_ENTRIES = [
    ("vit", "architecture", 3),
    ("vit", "num_heads", 0),
    ("vit", "depth", 100_000),  # more than the weights have, and less
    ("vit", "depth", 2),
    ("bert", "num_hidden_layers", 10_000),
    ("bert", "num_hidden_layers", 2),
    ("vit", "embed_dim", "wide"),
    ("vit", "img_size", "x"),
    ("bert", "model_type", []),
    ("bert", "hidden_size", "x"),
    ("bert", "hidden_act", "x"),
    ("bert", "pad_token_id", 10**6),
    ("bert", "dtype", "x"),
]


def doubled_matrices(weights):
    return {name: w.repeat(2, 1) if w.ndim == 2 else w for name, w in weights.items()}


def without_a_layer(weights):
    layers = ("blocks.1.", "encoder.layer.1.")
    return {name: w for name, w in weights.items() if not name.startswith(layers)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_error_that_names_the_file(either, damage, tmp_path):
    (source, build), (file, change) = either, DAMAGES[damage]
    path = shutil.copytree(source, tmp_path / "broken") / file
    change(path)
    with pytest.raises(AssetError, match=WAYS_OUT) as error:
        build(str(path.parent))
    assert str(path) in str(error.value)
    if damage in ("empty", "a page", "cut"):  # the config is sound
        assert CONFIG not in str(error.value)


@pytest.mark.parametrize(("either", "key", "value"), WRONG_ENTRIES, indirect=["either"])
def test_a_wrong_entry_of_a_config_is_one_error_that_names_the_file(either, key, value, tmp_path):
    source, build = either
    folder = shutil.copytree(source, tmp_path / "broken")
    change_config(folder, key, value)
    with pytest.raises(AssetError, match=WAYS_OUT) as error:
        build(str(folder))
    assert str(folder / "config.json") in str(error.value)


def test_a_folder_that_is_missing_or_of_an_unknown_architecture_is_named(either, tmp_path):
    source, build = either
    with pytest.raises(AssetError, match="gone"):
        build(str(tmp_path / "gone"))
    folder = shutil.copytree(source, tmp_path / "unknown")
    (folder / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(EncoderError, match=r"unknown.config\.json.*nonsense"):
        build(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(EncoderError, match=r"unknown.config\.json"):
        build(str(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_of_another_user_are_not_taken_for_missing(either, tmp_path):
    source, build = either
    target = shutil.copytree(source, tmp_path / "private")
    (target / "model.safetensors").chmod(0)
    with pytest.raises(AssetError, match=r"model\.safetensors: .*Permission denied"):
        build(str(target))


def test_pickled_weights_are_never_read(tmp_path, tiny_tokenizer_dir):
    target = shutil.copytree(tiny_tokenizer_dir, tmp_path / "pickled")
    torch.save(load_file(target / "model.safetensors"), target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    with pytest.raises(AssetError, match="safetensors"):
        build_text_encoder(str(target))


@pytest.mark.parametrize(
    ("file", "change", "loads"),
    [
        ("config.json", {"model_type": "other"}, False),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, False),
        ("config.json", {}, True),
        ("tokenizer_config.json", {"tokenizer_class": "X"}, True),
    ],
)
def test_code_in_a_folder_is_never_run(file, change, loads, tmp_path, tiny_tokenizer_dir):
    folder = tmp_path / "theirs"
    shutil.copytree(tiny_tokenizer_dir, folder)
    code = f"open({str(tmp_path / 'run')!r}, 'w')\nclass X: pass\n"
    for name in ("modeling_x.py", "__init__.py"):
        (folder / name).write_text(code)
    kinds = ("AutoConfig", "AutoModel", "AutoTokenizer")
    content = json.loads((folder / file).read_text()) | change
    content["auto_map"] = {kind: "modeling_x.X" for kind in kinds}
    (folder / file).write_text(json.dumps(content))
    if loads:
        build_text_encoder(str(folder))
        load_tokenizer(str(folder))
    else:
        with pytest.raises(EncoderError, match=r"config\.json"):
            build_text_encoder(str(folder))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tower", "entry"),
    [
        ("", {"attn_implementation": "owner/kernel"}),
        ("", {"_attn_implementation": "owner/kernel"}),
        ("", {"attn_implementation": {"": "eager", "vision_config": "owner/kernel"}}),
        ("", {"_experts_implementation": "sonicmoe"}),
        ("vision_config", {"attn_implementation": "owner/kernel"}),
        ("text_config", {"_attn_implementation": "owner/kernel"}),
    ],
    ids=str,
)
def test_no_file_of_a_folder_names_a_kernel(tower, entry, clip_dir, monkeypatch):
    builds = (build_image_encoder, build_text_encoder)
    sound = [build(clip_dir).fingerprint for build in builds]
    file = Path(clip_dir) / "config.json"
    config = json.loads(file.read_text())
    (config[tower] if tower else config).update(entry)
    file.write_text(json.dumps(config))
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", pytest.fail)
    for build, fingerprint in zip(builds, sound, strict=True):
        encoder = build(clip_dir)
        assert encoder.fingerprint == fingerprint
        assert encoder.model.config._experts_implementation != "sonicmoe"
