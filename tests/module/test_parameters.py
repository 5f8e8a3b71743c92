import json
import shutil

import pytest
import timm

import tiny_runs
from epic_pl.data.preprocessing import Preprocessing
from epic_pl.data.pretrained import image_preprocessing
from epic_pl.module.config import EncoderConfig
from epic_pl.module.parameters import (
    ParameterTable,
    count_parameters,
    encoder_line,
    trainable_share,
)
from epic_pl.nn.encoders import WholeModelEncoder


@pytest.fixture(scope="module")
def model(make):
    return make(num_classes=4, options={"interaction_layers": 3}).model


def test_counts_cover_the_model(model):
    counts = count_parameters(model)
    total = sum(p.numel() for p in model.parameters())
    assert sum(trained + frozen for trained, frozen in counts.values()) == total
    for part, (trained, frozen) in counts.items():
        assert (trained == 0) is part.endswith("tower")
        assert (frozen == 0) is not part.endswith("tower")
    # first prompts, norm and score of the words, and offsets of two further steps
    assert counts["prompts"] == ((2 * 3 - 1) * 2 * 32 + 8 * 32 + 3 * 32, 0)  # eight parts
    # of each hub four matrices, two biases and a temperature
    assert counts["hubs"] == (3 * (4 * 32 * 8 + 2 * 8 + 1), 0)
    # a linear map of pooled outputs and mean prompts, and two missing-modality embeddings
    assert counts["head"] == (2 * 2 * 32 * 4 + 4 + 2 * 32, 0)


@pytest.mark.parametrize("method", ["FullFineTuning", "LoRA"])
def test_the_share_is_of_the_encoders_as_they_came(method, make):
    model = make(method=method).model
    came_with = sum(p.numel() for p in make().model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable_share(model) == pytest.approx(trained / came_with)


def test_a_fit_with_the_table_starts_with_every_part_and_the_share(make, tmp_path, capsys):
    module, loader = make(), tiny_runs.loader(tiny_runs.samples())
    tiny_runs.trainer(tmp_path, max_steps=1).fit(module, loader)
    assert not capsys.readouterr().out  # enable_model_summary is False
    tiny_runs.trainer(tmp_path, max_steps=1, callbacks=[ParameterTable()]).fit(module, loader)
    printed = capsys.readouterr().out
    for part, (trained, frozen) in count_parameters(module.model).items():
        row = next(line for line in printed.splitlines() if part in line)
        assert f"{trained:,}" in row
        assert f"{frozen:,}" in row
    assert f"Trainable share: {trainable_share(module.model):.2%}" in printed


def test_a_fit_names_both_encoders_in_one_line_and_counts_its_steps(make, tmp_path, capsys, caplog):
    module, loader = make(), tiny_runs.loader(tiny_runs.samples(12))
    options = {"callbacks": [ParameterTable()], "accumulate_grad_batches": 2}
    with caplog.at_level("INFO"):
        tiny_runs.trainer(tmp_path, max_epochs=3, **options).fit(module, loader)
    (line,) = (line for line in caplog.messages if "Encoder" in line)
    image, text = module.encoders.image.name, module.encoders.text.name
    assert line == f"Encoders: {image} and {text}"
    assert "Training: 3 epochs of 2 steps\n" in capsys.readouterr().out
    tiny_runs.trainer(tmp_path, max_epochs=-1, max_steps=1, **options).fit(module, loader)
    assert "Training:" not in capsys.readouterr().out


def test_a_line_tells_how_the_inputs_of_an_encoder_are_prepared(
    make, tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert")
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    data = tiny_runs.table_data(tiny_runs.table(tmp_path), tiny_vit_dir, folder)
    module = make(encoders={"text": {"name": str(folder)}})
    given, model = Preprocessing.find(data.preprocessing), module.model
    image = encoder_line(module.encoders.image, model.image_encoder, given.image)
    text = encoder_line(module.encoders.text, model.text_encoder, given.text)
    for word in (str(tiny_vit_dir), "TimmViTEncoder", "3 layers of width 32", "pooling auto"):
        assert word in image
    for word in ("size=32", "mean=(0.5, 0.5, 0.5)", "resize='crop'", "vit0/config.json"):
        assert word in image
    for word in (str(folder), "pooling mean", "max_tokens=64", "prompt='query: '"):
        assert word in text
    assert "from 1_Pooling/config.json; its prompts: query, document" in text


def test_a_line_says_why_an_encoder_gives_features_alone(tiny_vit_dir):
    encoder = WholeModelEncoder(timm.create_model("test_convnext", num_classes=0))
    options = image_preprocessing(str(tiny_vit_dir))
    line = encoder_line(EncoderConfig(str(tiny_vit_dir)), encoder, options)
    assert "WholeModelEncoder of ConvNeXt with features alone of width" in line
    assert line.endswith("only VisionTransformer and Eva are run layer by layer.")
