"""The example of an encoder family: MPNet, whose attention the package has no layer for."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, MPNetConfig, MPNetModel

import tiny_runs
from epic_pl import Classifier
from epic_pl.cli.main import main
from epic_pl.nn.towers import ReadOnlyTower
from tolerance import assert_same

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_encoder"
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


@pytest.fixture
def folder(tmp_path, tiny_tokenizer_dir, monkeypatch):
    """A tiny MPNet with random weights, and a tokenizer."""
    monkeypatch.syspath_prepend(EXAMPLE)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokenizer.save_pretrained(tmp_path / "mpnet")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = MPNetConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)
    MPNetModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "mpnet")
    return tmp_path / "mpnet"


@pytest.fixture
def encoder(folder):
    from mpnet import MPNetEncoder

    return MPNetEncoder.from_name(str(folder), revision=None, pretrained=True, pooling="mean")


def test_its_layers_equal_the_librarys(encoder):
    ids = torch.randint(5, 20, (2, 6))
    expected = encoder.model(input_ids=ids, attention_mask=MASK.long()).last_hidden_state
    found = encoder.run_layers(0, 3, encoder.embed(ids), MASK)
    assert_same(found[MASK], expected[MASK])
    changed = torch.where(MASK, ids, 7)
    again = encoder.run_layers(0, 3, encoder.embed(changed), MASK)
    assert_same(encoder.pool(again, MASK), encoder.pool(found, MASK))


def test_prompts_read_as_tokens_without_a_bias(encoder):
    """A layer with a bias of zero, on tokens and prompts as one sequence."""
    torch.manual_seed(0)
    ids, prompts, tower = (
        torch.randint(5, 20, (2, 6)),
        torch.randn(2, 3, 16),
        ReadOnlyTower(encoder, [1]),
    )
    tokens = tower.entering(ids, MASK)
    hidden = torch.where(torch.cat([MASK, MASK.new_ones(2, 3)], 1), 0.0, -torch.inf)
    layer = encoder.model.encoder.layer[1]
    expected = layer(torch.cat([tokens, prompts], 1), hidden[:, None, None])[0][:, 6:]
    for training in (True, False):  # an answer must not run them with the tokens, at a place
        with torch.set_grad_enabled(training):
            _, read = tower.extract(ids, MASK).acquire(0, prompts)
        assert_same(read, expected)


def test_a_run_with_it_predicts_after_loading(folder, tmp_path, tiny_vit_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_runs.table(tmp_path / "data", train=8)
    config = tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, folder)
    family = "--model.encoders.text.family=mpnet.MPNetEncoder"
    main(["fit", "--config", str(config), family, "--cache.level=layers"])
    (best,) = tmp_path.rglob("last.ckpt")
    classifier = Classifier.load(best, trust=["mpnet"], device="cpu")
    image = next((tmp_path / "data").rglob("*.png"))
    (answer,) = classifier([{"image": str(image), "text": "a red square"}])
    assert {each["label"] for each in answer} == {"red", "green", "blue"}
