"""From a table to a served model, with encoders in local folders as their hub pages lay them out.

Image processors, tokenizers and configs are those of the real ones; models are tiny, with random
weights.
"""

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from architectures import (
    FEATURE_TEXTS,
    FEATURE_TIMMS,
    IMAGE,
    IMAGES,
    TEXTS,
    sizes,
    write_hf,
    write_timm,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import tiny_runs
from epic_pl import Classifier
from epic_pl.run.epic_cli import run
from tolerance import assert_same

LETTERS = "▁abcdefghijklmnopqrstuvwxyz0123456789,"


def dinov3(folder: Path) -> str:
    write_hf(folder, *IMAGES["DINOv3"]())
    hf.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def modernbert(folder: Path) -> str:
    """Pairs of bytes, in a tokenizer of no class of its own."""
    write_hf(folder, *TEXTS["ModernBERT"]())
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["a blue square, number 0123456789", "green red"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{each[1:-1].lower()}_token": each for each in special},
    ).save_pretrained(folder)
    return str(folder)


def siglip2(folder: Path) -> str:
    """Both towers of a checkpoint of one size, of the class SiglipModel, with Gemma's tokenizer."""
    vocabulary = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *LETTERS]
    text = sizes(vocab_size=len(vocabulary), max_position_embeddings=64, projection_size=32)
    config = hf.SiglipConfig(text_config=text, vision_config=IMAGE)
    write_hf(folder, hf.SiglipModel, config)
    hf.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = hf.GemmaTokenizer(ids, [], model_max_length=64, padding_side="right")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def convnext(folder: Path) -> str:
    return write_timm(folder, *FEATURE_TIMMS["ConvNeXt"])


def deberta(folder: Path) -> str:
    write_hf(folder, *FEATURE_TEXTS["DeBERTa"]())
    special = [(each, 0.0) for each in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")]
    pieces = [*special, *((each, -5.0) for each in LETTERS)]
    hf.DebertaV2Tokenizer(pieces, unk_id=3, model_max_length=40).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "text", "method"),
    [
        pytest.param(dinov3, modernbert, "EPIC", id="DINOv3 and ModernBERT"),
        pytest.param(siglip2, None, "EPIC", id="both towers of SigLIP 2"),
        pytest.param(convnext, deberta, "Parts", id="ConvNeXt and DeBERTa"),
    ],
)
def test_a_table_becomes_a_served_model(image, text, method, folder, told, started):
    image = image(folder / "image encoder")
    text = text(folder / "text encoder") if text else image
    tiny_runs.table(folder / "table")
    code, _, error = told("data", "init", folder / "table")
    assert code == 0, error
    options = [
        f"--config={folder / 'table' / 'epic.yaml'}",
        f"--model.encoders.image.name={image}",
        f"--model.encoders.text.name={text}",
        f"--model.method={method}",
        "--model.encoders.precision=same",  # as exported models, in float32
        "--model.encoders.image_size=48",  # not that of the pretraining
        "--model.method.interaction_layers=2",
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    fitted = run(["fit", *options])
    encoders = fitted.model.encoders
    assert (encoders.image.pooling, encoders.text.pooling) == ("auto", "auto")
    (checkpoint,) = folder.parent.rglob("last.ckpt")
    tested = run(["test", *options, "--ckpt_path=best"])
    assert 0 <= tested.trainer.callback_metrics["test/accuracy"] <= 1

    classifier = Classifier.load(checkpoint, device="cpu")
    images = [*sorted((folder / "table" / "images").glob("test*.png"))[:3], None]
    texts = ["a red square, number 1", "a blue square", None, "green"]
    items = [{"image": i, "text": t} for i, t in zip(images, texts, strict=True)]
    expected = classifier.probabilities(items)
    assert len({tuple(row) for row in expected}) == len(items)

    classifier.save_pretrained(folder / "saved")
    saved = Classifier.load(folder / "saved", device="cpu")
    np.testing.assert_array_equal(saved.probabilities(items), expected)

    output = folder / "onnx"
    code, said, error = told("export", checkpoint, "--output", output)
    assert code == 0, error
    assert float(said.split("probabilities: ")[1].split()[0]) <= 1e-5
    assert_same(Classifier.load(output).probabilities(items), expected)
    command = [sys.executable, "-B", str(output / "predict.py"), str(images[0]), texts[0]]
    (label,) = classifier(items[:1], top_k=1)[0]
    assert label["label"] in subprocess.check_output(command, text=True)

    with started(saved) as client:
        image = base64.b64encode(images[0].read_bytes()).decode()
        answer = client.post("/classify", json={"image": image, "text": texts[0], "top_k": 1})
    assert_same(answer.json()["labels"], [label])
