import json
import shutil

import timm

import tiny_runs
from epic_pl.module.companions import encoder_line, encoder_lines
from epic_pl.module.config import EncoderConfig
from epic_pl.nn.encoders import FeaturesEncoder


def test_a_line_for_each_encoder_tells_how_its_inputs_are_prepared(
    make, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, caplog
):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert")
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    data = tiny_runs.table_data(tiny_runs.table(tmp_path), tiny_vit_dir, folder)
    options = {"encoders": {"text": {"name": str(folder)}}, "preprocessing": data.preprocessing}
    model = make(**options)
    image, text = encoder_lines(model)
    for word in (str(tiny_vit_dir), "TimmViTEncoder", "3 layers of width 32", "pooling auto"):
        assert word in image
    for word in ("size=32", "mean=(0.5, 0.5, 0.5)", "resize='crop'", "vit0/config.json"):
        assert word in image
    for word in (str(folder), "pooling mean", "max_tokens=64", "prompt='query: '"):
        assert word in text
    assert "from 1_Pooling/config.json; its prompts: query, document" in text
    with caplog.at_level("INFO"):
        tiny_runs.trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(model, data)
    assert image in caplog.text
    assert text in caplog.text
    assert list(encoder_lines(make()))[1].endswith("inputs of another pipeline")


def test_a_line_says_why_an_encoder_gives_features_alone():
    encoder = FeaturesEncoder(timm.create_model("test_convnext", num_classes=0))
    line = encoder_line(EncoderConfig("mine"), encoder, None)
    assert "FeaturesEncoder of ConvNeXt with features alone of width" in line
    assert line.endswith("only VisionTransformer and Eva are run layer by layer.")
