"""Encoders with random weights, small enough for tests, in the layouts of the real ones."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizerFast, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
a an the of and in on with is not this that it image photo red green blue yellow black
white big small round square circle cat dog bird fish car house tree sun moon star flower
face smiling food apple cake soup bread pizza flag hand heart true false one two three
""".split()  # noqa: SIM905 - readable as text


def write_bert(folder: Path, width: int = 32) -> Path:
    """A BERT with random weights and its WordPiece tokenizer, as ``save_pretrained`` leaves them.

    Three layers. Letters are in the vocabulary, so any lower-case word has tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    pieces = dict.fromkeys([*SPECIAL, *WORDS, *letters, *(f"##{c}" for c in letters)])
    vocab = {piece: index for index, piece in enumerate(pieces)}
    bert = BertTokenizerFast(vocab)
    # a tokenizer that is read from tokenizer.json as it stands there
    PreTrainedTokenizerFast(
        tokenizer_object=bert.backend_tokenizer, model_max_length=64, **bert.special_tokens_map
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


def write_vit(folder: Path, width: int = 32) -> Path:
    """A random ViT as timm's ``local-dir:`` reads it: 3 layers, 32 px, patches of 8."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"embed_dim": width, "depth": 3, "num_heads": 4, "img_size": 32, "patch_size": 8}
    arguments = {**sizes, "num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "num_features": width,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
