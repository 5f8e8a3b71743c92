import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny_models import bert, clip_text, clip_vision, hf_text, scramble, vit
from transformers import AutoModel, CLIPConfig, CLIPModel, GPT2Config, GPT2Model

from epic_pl.errors import AssetError, EncoderError
from epic_pl.nn import EPIC, EPICConfig, Pair
from epic_pl.nn.encoders import (
    CLIPImageEncoder,
    CLIPTextEncoder,
    HFTextEncoder,
    TimmViTEncoder,
    build_image_encoder,
    build_text_encoder,
)

WAYS_OUT = "pypi:dinov2-small.*pypi:all-minilm-l6-v2"


def folder_of(model, path) -> str:
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def clip_dir(tmp_path):
    vision, text = clip_vision().config, clip_text().config
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    return folder_of(scramble(CLIPModel(config)), tmp_path / "clip")


def altered(source, target, change):
    """A copy of an encoder's folder with its tensors changed."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    save_file(change(weights), target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


# what loads -----------------------------------------------------------------------------------


def test_timm_folder(tiny_vit_dir):
    encoder = build_image_encoder(str(tiny_vit_dir))
    assert isinstance(encoder, TimmViTEncoder)
    assert (encoder.width, encoder.num_layers) == (32, 3)
    saved = load_file(tiny_vit_dir / "model.safetensors")
    assert all(torch.equal(encoder.model.state_dict()[name], saved[name]) for name in saved)
    larger = build_image_encoder(str(tiny_vit_dir), image_size=48)
    assert larger.embed(torch.randn(1, 3, 48, 48)).shape == (1, 37, 32)


def test_bert_folder(tiny_tokenizer_dir):
    encoder = build_text_encoder(str(tiny_tokenizer_dir), pooling="mean")
    assert isinstance(encoder, HFTextEncoder)
    assert (encoder.width, encoder.num_layers, encoder.pooling) == (32, 3, "mean")
    assert getattr(encoder.model, "pooler", None) is None
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tiny_tokenizer_dir)(ids).last_hidden_state
        ours = encoder.run_layers(0, 3, encoder.embed(ids))
    torch.testing.assert_close(ours, expected)


def test_both_towers_of_one_clip_folder(clip_dir):
    image, text = build_image_encoder(clip_dir), build_text_encoder(clip_dir)
    assert isinstance(image, CLIPImageEncoder)
    assert isinstance(text, CLIPTextEncoder)
    whole = CLIPModel.from_pretrained(clip_dir)
    saved = {
        "image": whole.vision_model.state_dict(),
        "text": whole.text_model.state_dict(),
    }
    for side, encoder in (("image", image), ("text", text)):
        ours = encoder.model.state_dict()
        assert ours.keys() == saved[side].keys()
        assert all(torch.equal(ours[name], value) for name, value in saved[side].items())


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_a_lone_clip_tower_in_a_folder(kind, tmp_path):
    if kind == "vision":
        assert isinstance(
            build_image_encoder(folder_of(clip_vision(), tmp_path / "v")), CLIPImageEncoder
        )
    else:
        assert isinstance(
            build_text_encoder(folder_of(clip_text(), tmp_path / "t")), CLIPTextEncoder
        )


@pytest.mark.parametrize("pretrained", [True, False])
def test_no_hugging_face_encoder_attends_eagerly(pretrained, clip_dir, tiny_tokenizer_dir):
    encoders = [
        build_image_encoder(clip_dir, pretrained=pretrained),
        build_text_encoder(clip_dir, pretrained=pretrained),
        build_text_encoder(str(tiny_tokenizer_dir), pretrained=pretrained),
    ]
    # registered attention may wrap SDPA; "eager" would build the whole matrix of scores
    assert all("eager" not in e.model.config._attn_implementation for e in encoders)


def test_half_precision_folders_work_with_float_prompts(tmp_path, tiny_vit_dir):
    text = build_text_encoder(folder_of(scramble(bert()).half(), tmp_path / "half"))
    model = EPIC(
        Pair(build_image_encoder(str(tiny_vit_dir)), text), 3, EPICConfig(interaction_layers=2)
    )
    ids = torch.tensor([[3, 4]])
    made = {"pixel_values": torch.randn(1, 3, 32, 32), "input_ids": ids, "attention_mask": ids > 0}
    assert model(made).dtype == torch.float32


def test_revision_pins_a_timm_name(monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name) or vit())
    build_image_encoder("vit_tiny_patch16_224", revision="abc123")
    build_image_encoder("hf-hub:org/some_vit", revision="abc123")
    build_image_encoder("vit_tiny_patch16_224")
    assert asked == [
        "hf-hub:timm/vit_tiny_patch16_224@abc123",
        "hf-hub:org/some_vit@abc123",
        "vit_tiny_patch16_224",
    ]


# random weights -------------------------------------------------------------------------------


def test_random_weights_are_always_the_same_and_leave_the_generators_alone(
    tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    def doubled(weights):
        return {name: 2 * value for name, value in weights.items()}

    vit_dir = altered(tiny_vit_dir, tmp_path / "vit", doubled)
    bert_dir = altered(tiny_tokenizer_dir, tmp_path / "bert", doubled)

    def build(pretrained):
        return [
            build_image_encoder(vit_dir, pretrained=pretrained),
            build_text_encoder(bert_dir, pretrained=pretrained),
        ]

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = [encoder.fingerprint for encoder in build(pretrained=False)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert [encoder.fingerprint for encoder in build(pretrained=False)] == first
    for random, trained in zip(first, build(pretrained=True), strict=True):
        assert random != trained.fingerprint


# what does not load ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_base_patch16_225", "no_such_model"])
def test_unknown_timm_names(name):
    with pytest.raises(EncoderError, match=r"(?s)names alike.*Supported image encoders") as error:
        build_image_encoder(name)
    assert repr(name) in str(error.value)


def test_a_near_name_is_offered():
    with pytest.raises(EncoderError, match="vit_tiny_patch16_224"):
        build_image_encoder("vit_tiny_patch16", pretrained=False)


def test_unsupported_timm_architecture():
    with pytest.raises(EncoderError, match=r"'resnet18' is a ResNet.*Supported"):
        build_image_encoder("resnet18", pretrained=False)


def test_unsupported_hugging_face_architectures(tmp_path, clip_dir):
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, n_positions=8)
    gpt2 = folder_of(GPT2Model(config), tmp_path / "gpt2")
    with pytest.raises(EncoderError, match=r"gpt2.*Supported.*roberta"):
        build_text_encoder(gpt2)
    roberta = folder_of(hf_text("roberta"), tmp_path / "roberta")
    with pytest.raises(EncoderError, match=r"type 'roberta'.*Supported image"):
        build_image_encoder(roberta)
    vision = folder_of(clip_vision(), tmp_path / "vision")
    with pytest.raises(EncoderError, match=r"clip_vision_model.*Supported"):
        build_text_encoder(vision)


def test_an_architecture_that_the_library_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    for build in (build_image_encoder, build_text_encoder):
        with pytest.raises(EncoderError, match="nonsense") as error:
            build(str(tmp_path))
        assert str(tmp_path) in str(error.value)


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
    with pytest.raises(AssetError, match=rf"(?s)folder.*{WAYS_OUT}.*pretrained to false") as error:
        build(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("build", [build_image_encoder, build_text_encoder])
def test_a_folder_that_is_not_there(build, tmp_path):
    missing = str(tmp_path / "nothing")
    with pytest.raises((AssetError, EncoderError)) as error:
        build(missing)
    assert missing in str(error.value)


@pytest.mark.parametrize("build", [build_image_encoder, build_text_encoder])
def test_a_folder_without_a_config(build, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises((AssetError, EncoderError)) as error:
        build(str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("build", [build_image_encoder, build_text_encoder])
def test_a_broken_config(build, tmp_path):
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises((AssetError, EncoderError)) as error:
        build(str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"cut"], ids=str)
@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_broken_weights(kind, content, tiny_vit_dir, tiny_tokenizer_dir, tmp_path):
    target = tmp_path / "broken"
    shutil.copytree(tiny_vit_dir if kind == "vit" else tiny_tokenizer_dir, target)
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000] if content == b"cut" else content)
    with pytest.raises(AssetError, match=WAYS_OUT) as error:
        (build_image_encoder if kind == "vit" else build_text_encoder)(str(target))
    assert str(target) in str(error.value)


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_weights_that_lack_a_layer_are_never_filled_in_at_random(
    kind, tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    source, build, layer = {
        "vit": (tiny_vit_dir, build_image_encoder, "blocks.1."),
        "bert": (tiny_tokenizer_dir, build_text_encoder, "encoder.layer.1."),
    }[kind]
    folder = altered(
        source, tmp_path / "partial", lambda w: {k: v for k, v in w.items() if layer not in k}
    )
    with pytest.raises(AssetError) as error:
        build(folder)
    assert folder in str(error.value)


def test_pickled_weights_are_never_read(tmp_path, tiny_tokenizer_dir):
    target = tmp_path / "pickled"
    shutil.copytree(tiny_tokenizer_dir, target)
    torch.save(load_file(target / "model.safetensors"), target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    with pytest.raises(AssetError, match="safetensors"):
        build_text_encoder(str(target))
