"""``epic-pl doctor --encoder``: one encoder, its methods, and bytes in a feature store."""

import re
import shutil

import pytest
import transformers as hf
from transformers import ConvNextV2Config, ConvNextV2Model

import tiny_runs
from epic_pl.utils.files import write_json

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    **{"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
}


@pytest.fixture
def ask(told, workdir):
    """The exit code of the doctor, what it says of an encoder, and its error."""
    (workdir / "own.yaml").write_text("model: {encoders: {image_size: 32}}")

    def ask(encoder, *options):
        return told("doctor", "--config", "own.yaml", "--encoder", encoder, *options)

    return ask


@pytest.fixture
def convnext(workdir):
    """A model of transformers that gives features, in a folder with the name of one of timm's."""
    folder = workdir / "deit3-small-own"
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "image_size": 64}
    ConvNextV2Model(ConvNextV2Config(**sizes)).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", PROCESSOR)
    return folder


def methods(text: str) -> dict[str, str]:
    """The end of its line for each method."""
    lines = (line.strip().partition(": ") for line in text.splitlines() if line.startswith("  "))
    return {name: rest for names, _, rest in lines for name in names.split(", ")}


def test_an_image_encoder(ask, tiny_vit_dir, tmp_path):
    code, text, _ = ask(tiny_vit_dir, "--table", tiny_runs.table(tmp_path / "data"))
    assert code == 0
    for part in ("TimmViTEncoder of VisionTransformer", "3 layers of width 32", "pooling auto"):
        assert part in text
    for part in ("size=32", "mean=(0.5, 0.5, 0.5)", "config.json", "parameters", "23 rows"):
        assert part in text
    found = methods(text)
    assert {"EPIC", "MaPLe", "Parts", "LoRA", "PMF"} <= set(found)
    # 17 tokens of 32 float16 and a digest; pooled and boundary features
    assert found["LinearProbe"] == "tokens 1.1 kB / 25.4 kB, layers 144 bytes / 3.3 kB"
    assert found["EPIC"] == "tokens 1.1 kB / 25.4 kB, layers 5.6 kB / 128.4 kB"
    assert found["PMF"] == "tokens 1.1 kB / 25.4 kB"
    assert found["LoRA"].startswith("nothing. It trains inside the encoders")


def test_a_text_encoder(ask, tiny_tokenizer_dir, tmp_path):
    code, text, _ = ask(tiny_tokenizer_dir, "--table", tiny_runs.table(tmp_path / "data"))
    assert code == 0
    for part in ("TransformersEncoder of BertModel", "max_tokens=64", "from its tokenizer"):
        assert part in text
    # 64 tokens, a digest and a length; pooled and boundary features
    assert methods(text)["Parts"] == "tokens 4.1 kB / 94.8 kB, layers 4.2 kB / 97.7 kB"


def test_an_encoder_of_features_alone(ask, convnext):
    code, text, _ = ask(convnext)
    assert code == 0
    assert "WholeModelEncoder of ConvNextV2Model" in text
    assert "features alone of width 32" in text
    assert re.search(r"ConvNextV2Model cannot be run layer by layer.*deit3_small_patch16", text)
    found = methods(text)
    assert found["Parts"].startswith("tokens")
    for name in ("EPIC", "NoInteraction", "MaPLe", "PMF"):
        assert re.match("refused. Prompts .*LinearProbe.*docs/extend.md", found[name])


def test_two_towers_are_both_described(ask, tiny_tokenizer_dir, tmp_path):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / "clip")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    image = {**sizes, "image_size": 32, "patch_size": 8}
    config = hf.CLIPConfig(text_config={**sizes, "vocab_size": 120}, vision_config=image)
    hf.CLIPModel(config).save_pretrained(folder)
    _, text, _ = ask(folder)
    assert "of CLIPVisionTransformer" in text or "of CLIPVisionModel" in text
    assert "of CLIPTextTransformer" in text or "of CLIPTextModel" in text


def test_an_encoder_that_cannot_run_names_the_nearest(ask, workdir):
    folder = workdir / "eva02-base"
    write_json(folder / "config.json", {"model_type": "new"})
    write_json(folder / "preprocessor_config.json", PROCESSOR)
    code, _, error = ask(folder)
    assert code == 1
    assert re.search(r"eva02_base_patch\S+ of timm", error)
    assert "docs/extend.md" in error


def test_no_encoder(ask, told, workdir):
    code, text, error = ask(workdir / "nothing")
    assert (code, text) == (1, "")
    assert "nothing' cannot be loaded: there is no such folder here, and " in error
    code, _, error = told("doctor", "--table", "table.csv")
    assert (code, "--encoder NAME" in error) == (1, True)
