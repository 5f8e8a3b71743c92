import json
import shutil
from dataclasses import replace

import pytest
from transformers import (
    BertConfig,
    CamembertConfig,
    CLIPConfig,
    CLIPImageProcessor,
    RobertaConfig,
    SiglipConfig,
    SiglipTextConfig,
)

from epic_pl.data.preprocessing import ImagePreprocessing, TextPreprocessing
from epic_pl.data.pretrained import (
    image_file,
    image_preprocessing,
    load_tokenizer,
    text_preprocessing,
)
from epic_pl.utils.errors import AssetError, ConfigError, EncoderError

PLAIN = ImagePreprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=0.5)


def test_a_prompt_has_an_end():
    with pytest.raises(ConfigError, match="20,000,000 characters, more than 10,000"):
        TextPreprocessing(64, clean=False, prompt="a " * 10**7)


def test_a_timm_folder_is_prepared_as_timm_says(tiny_vit_dir, tmp_path):
    folder = shutil.copytree(tiny_vit_dir, tmp_path / "both")
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP))
    assert image_preprocessing(str(folder)) == image_preprocessing(f"local-dir:{tiny_vit_dir}")
    assert image_file(str(folder)) == str(folder / "config.json")


@pytest.mark.parametrize("prefix", ["", "hf-hub:timm/"])
@pytest.mark.parametrize("revision", ["", "@abc123"])
def test_timm_name(prefix, revision):
    own = image_preprocessing(f"{prefix}vit_base_patch16_224.augreg_in21k{revision}")
    assert (own.size, own.mean, own.crop_pct) == (224, (0.5, 0.5, 0.5), 0.9)


@pytest.mark.parametrize(("name", "revision"), [("org/vit", "v1"), ("org/vit@v1", None)])
def test_revisions_reach_every_hub(name, revision, monkeypatch):
    asked = []
    monkeypatch.setattr("epic_pl.utils.assets.encoders.model_info", lambda *_, **__: None)
    config = {"input_size": (3, 8, 8), "mean": (0,) * 3, "std": (1,) * 3}
    monkeypatch.setattr(
        "timm.models.load_model_config_from_hf",
        lambda name: asked.append(name) or (config, None, None),
    )
    clip = CLIPImageProcessor(size=8, crop_size=8)
    monkeypatch.setattr(
        "transformers.AutoImageProcessor.from_pretrained",
        lambda name, revision, **_: asked.append((name, revision)) or clip,
    )
    image_preprocessing(f"hf-hub:{name}", revision=revision)
    image_preprocessing(name, revision=revision)
    assert asked == ["org/vit@v1", ("org/vit", "v1")]


@pytest.mark.parametrize(
    ("own", "chosen", "expected"),
    [
        (("crop", 0.9), "auto", ("crop", 0.9)),
        (("crop", 0.9), "pad", ("pad", 1.0)),
        (("squash", 0.9), "squash", ("squash", 0.9)),
        (("squash", 0.9), "crop", ("crop", 0.9)),
    ],
)
def test_another_way_to_make_images_square_keeps_all_edges(own, chosen, expected):
    made = replace(PLAIN, resize=own[0], crop_pct=own[1]).with_resize(chosen)
    assert (made.resize, made.crop_pct) == expected


LENGTH = {"max_position_embeddings": 16}


# its texts had no padding, and one that was cut shorter another pooled token
@pytest.mark.parametrize(
    ("config", "length"),
    [
        (SiglipConfig(text_config=LENGTH), 16),
        (SiglipTextConfig(**LENGTH), 16),
        (SiglipTextConfig(), 64),
        (BertConfig(), None),
    ],
)
def test_texts_are_padded_where_the_encoder_was_trained_so(config, length, tmp_path):
    config.save_pretrained(tmp_path)
    own = text_preprocessing(str(tmp_path), TextPreprocessing(9, clean=True, prompt="none"))
    assert own == TextPreprocessing(length or 9, True, padded=length is not None)


def test_the_maximum_length_of_sentence_transformers_is_the_tokenizers(
    tiny_tokenizer_dir, tmp_path
):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    assert load_tokenizer(str(folder)).model_max_length == 7
    assert load_tokenizer(str(tiny_tokenizer_dir)).model_max_length == 64


def test_a_clip_without_a_description_is_prepared_as_openai_does(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": {}}')
    assert image_preprocessing(str(tmp_path)).mean[0] == pytest.approx(0.48145466)


@pytest.mark.parametrize(
    ("load", "name", "kind", "message"),
    [
        (image_preprocessing, "no_such_vit", EncoderError, "'no_such_vit'"),
        (image_preprocessing, "somebody/resnet", AssetError, "'somebody/resnet'"),
        (image_preprocessing, "", EncoderError, None),
        (load_tokenizer, "nobody/nothing", AssetError, "'nobody/nothing'.*local folder"),
        (load_tokenizer, "", (AssetError, EncoderError), None),
    ],
)
def test_encoders_that_cannot_be_loaded_are_named(tmp_path, load, name, kind, message):
    with pytest.raises(kind, match=message or str(tmp_path)):
        load(name or str(tmp_path))


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig, CLIPConfig, CamembertConfig])
def test_a_folder_without_a_vocabulary_is_refused(kind, tmp_path):
    kind().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"without a vocabulary.*tokenizer\.json") as error:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_a_folder_with_a_sentencepiece_model_alone_says_what_to_install(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    (tmp_path / "spm.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(EncoderError, match=r"spm\.model.*sentencepiece.*tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_local_folder_asks_no_hub(tiny_tokenizer_dir, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("network"))
    assert load_tokenizer(str(tiny_tokenizer_dir), revision="main").pad_token == "[PAD]"


CLIP = {"size": {"shortest_edge": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TIMM = {"architecture": "x", "input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        *(("preprocessor_config.json", {"size": size}) for size in ({}, "x", {"shortest_edge": 0})),
        *(("preprocessor_config.json", {"image_mean": mean}) for mean in (3, ["a", "b", "c"])),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}),
        ("preprocessor_config.json", {"resample": []}),
        ("processor_config.json", {"image_processor": 3}),
        *(("config.json", {"input_size": size}) for size in ("x", [3, 0, 0])),
        ("config.json", {"mean": None}),
        ("config.json", {"crop_pct": -1}),
        ("config.json", {"interpolation": "x"}),
    ],
    ids=str,
)
def test_damaged_preprocessing_is_named(file, entry, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    sound = TIMM if file == "config.json" else CLIP
    (tmp_path / file).write_text(json.dumps(sound | entry))
    with pytest.raises(AssetError) as error:
        image_preprocessing(str(tmp_path))
    assert str(tmp_path / file) in str(error.value)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", "{cut"),
        ("tokenizer.json", "null"),
        ("tokenizer.json", {"model": {"type": "x"}}),
        ("tokenizer.json", {"added_tokens": "x"}),
        # Rust code fails, which raises no Exception
        ("tokenizer.json", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "CAAA"}}),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", {"tokenizer_class": 3}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer_config.json", {"model_max_length": -1}),
    ],
    ids=str,
)
def test_damaged_files_of_a_tokenizer_are_named(file, change, tiny_tokenizer_dir, tmp_path):
    path = shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert") / file
    content = path.read_text()
    path.unlink()
    if change is not None:
        changed = isinstance(change, dict) and json.dumps(json.loads(content) | change)
        path.write_text(changed or change)
    with pytest.raises(AssetError) as error:
        load_tokenizer(str(path.parent))
    assert str(path) in str(error.value)
