"""Fixtures of all tests: tiny encoders in the layouts of the real ones, fixed seeds, no network."""

import gc
import json
import os
import random
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizerFast, PreTrainedTokenizerFast

torch.set_num_threads(1)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
a an the of and in on with is not this that it picture photo red green blue yellow black
white big small round square circle cat dog bird fish car house tree sun moon star flower
face smiling food apple cake soup bread pizza flag hand heart true false one two three
""".split()  # noqa: SIM905 - readable as text


def pytest_collection_finish() -> None:
    """What modules leave behind is no garbage: looking through it takes a tenth of the tests."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _session_cache(tmp_path_factory):
    """Rows and stores of tests stay out of the developer's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPIC_PL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _real_cache_of_fetched_assets(request, monkeypatch):
    if request.node.get_closest_marker("assets"):
        monkeypatch.delenv("EPIC_PL_CACHE")


@pytest.fixture(autouse=True)
def _seeded():
    os.environ.pop("PL_GLOBAL_SEED", None)  # of an earlier test's seed_everything
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for code under test that draws from it
    torch.manual_seed(0)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A folder of the test's own, in which the command line is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epic-pl"])  # LightningCLI warns of pytest's own
    return tmp_path


@pytest.fixture(scope="session")
def make(tiny_vit_dir, tiny_tokenizer_dir):
    """Builds EPICModule on the tiny encoders; takes what tiny_runs.module takes."""
    import tiny_runs

    return partial(tiny_runs.module, tiny_vit_dir, tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory) -> Path:
    """A BERT with random weights and its WordPiece tokenizer, as ``save_pretrained`` leaves them.

    Three layers of width 32. Letters are in the vocabulary, so any lower-case word has tokens.
    """
    folder = tmp_path_factory.mktemp("tiny_bert")
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
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit_dir(tmp_path_factory) -> Path:
    """A random ViT as timm's ``local-dir:`` reads it: 3 layers, 32 px, patches of 8, width 32."""
    folder = tmp_path_factory.mktemp("tiny_vit")
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 32, "patch_size": 8}
    arguments = {**sizes, "num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "num_features": 32,
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
