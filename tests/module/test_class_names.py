import lightning as L
import pytest
import torch

import tiny_runs
from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.errors import ConfigError
from epic_pl.module import EPICModule
from epic_pl.module.class_names import encode_names
from epic_pl.nn.encoders import build_text_encoder

NAMES = ["red", "a_green-square", "something else altogether"]
WIDTH = 32


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    def build(seed=0, **options):
        torch.manual_seed(seed)
        options = {"class_names": NAMES, **options}
        model = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, **options)
        model.start_from_names()
        return model

    return build


def _text_weights(model):
    return model.model.head.linear.weight[:, WIDTH : 2 * WIDTH].detach()


def _expected(folder, scale, boundary=None):
    """Rows for what is pooled; with ``boundary`` for the mean of what enters that layer."""
    encoder, tokenizer = build_text_encoder(str(folder)), load_tokenizer(str(folder))
    rows = []
    for name in ("red", "a green square", "something else altogether"):
        ids = tokenizer(name, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            stop = encoder.num_layers if boundary is None else boundary
            tokens = encoder.run_layers(0, stop, encoder.embed(ids))
            said = encoder.pool(tokens)[0] if boundary is None else tokens[0].mean(dim=0)
        rows.append((said - said.mean()) / (said.var(unbiased=False) + 1e-5).sqrt())
    rows = torch.stack(rows)
    rows = rows - rows.mean(dim=0)
    return scale * rows / rows.norm(dim=1, keepdim=True)


def test_names_are_encoded_as_texts_are_one_by_one(tiny_tokenizer_dir):
    folder = str(tiny_tokenizer_dir)
    encoder, tokenizer = build_text_encoder(folder), load_tokenizer(folder)
    many = [f"class number {number}" for number in range(70)]  # more than a batch of them
    together = encode_names(encoder, tokenizer, many)
    assert together.shape == (70, 1, WIDTH)
    alone = torch.cat([encode_names(encoder, tokenizer, [name]) for name in many])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    dashes = encode_names(encoder, tokenizer, ["a_green-square", "-"])
    assert torch.equal(dashes[:1], encode_names(encoder, tokenizer, ["a green square"]))
    assert dashes.isfinite().all()
    several = encode_names(encoder, tokenizer, many, layers=[0, 1])
    assert several.shape == (70, 3, WIDTH)
    torch.testing.assert_close(several[:, :1], together)
    for layer in (0, 1):
        one = encode_names(encoder, tokenizer, many, layers=[layer])
        torch.testing.assert_close(several[:, 1 + layer], one[:, 1])


@pytest.mark.parametrize("method", ["epic", "prompts_only", "linear_probe", "full", "maple"])
def test_the_head_starts_from_the_names(method, make, tiny_tokenizer_dir):
    model, plain = make(method=method), make(method=method, class_name_scale=0.0)
    expected = _expected(tiny_tokenizer_dir, 0.5)
    torch.testing.assert_close(_text_weights(model), expected, atol=1e-5, rtol=1e-4)
    rest, plain_rest = (m.model.head.linear.weight.clone() for m in (model, plain))
    parts = [1]
    if method in ("epic", "prompts_only"):
        parts.append(3)
        expected = _expected(tiny_tokenizer_dir, 0.5, model.model.text_tower.layers[0])
        boundary = rest[:, 3 * WIDTH : 4 * WIDTH]
        torch.testing.assert_close(boundary, expected, atol=1e-5, rtol=1e-4)
    for part in parts:
        own = slice(part * WIDTH, (part + 1) * WIDTH)
        rest[:, own] = plain_rest[:, own]
    assert torch.equal(rest, plain_rest)


def test_every_layer_that_the_head_sees_starts_from_the_names(make, tiny_tokenizer_dir):
    module = make(interaction_layers=[[0, 0], [1, 1]], head_inputs="pooled+layers+prompts")
    weights = module.model.head.linear.weight.detach()
    for vector, layer in enumerate((None, 0, 1)):
        part = slice((2 * vector + 1) * WIDTH, (2 * vector + 2) * WIDTH)
        expected = _expected(tiny_tokenizer_dir, 0.5, layer)
        torch.testing.assert_close(weights[:, part], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [[1, 0], [0, 1]])
def test_the_text_boundary_is_that_of_the_text(layers, make, tiny_tokenizer_dir):
    weights = make(interaction_layers=[layers]).model.head.linear.weight.detach()
    expected = _expected(tiny_tokenizer_dir, 0.5, layers[1])
    torch.testing.assert_close(weights[:, 3 * WIDTH : 4 * WIDTH], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["pmf", "late_fusion_mlp"])
def test_a_method_with_another_head_starts_as_it_did(method, make):
    states = [
        make(method=method, class_name_scale=scale).model.state_dict() for scale in (0.5, 0.0)
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_without_names_or_without_pretrained_weights_the_head_is_random(make):
    without = make(class_names=None)
    assert torch.equal(_text_weights(without), _text_weights(make(class_name_scale=0.0)))
    one, other = (_text_weights(make(seed, pretrained=False)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(_text_weights(make(0)), _text_weights(make(1)))


class _AtStart(L.Callback):
    """Keeps the weights that a fit starts from."""

    def on_fit_start(self, trainer, pl_module):
        self.weights = _text_weights(pl_module).clone()


def _fit(model, folder, **options):
    """Fit for an epoch; what it started from, and the trainer."""
    start = _AtStart()
    trainer = tiny_runs.trainer(folder, max_epochs=1, callbacks=[start])
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()), **options)
    return start.weights, trainer


def test_a_fit_starts_from_the_names_and_nothing_else_encodes_them(
    tiny_vit_dir, tiny_tokenizer_dir, tmp_path, monkeypatch
):
    model = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, class_names=NAMES)
    expected = _expected(tiny_tokenizer_dir, 0.5)
    assert not torch.allclose(_text_weights(model), expected)
    started, trainer = _fit(model, tmp_path)
    torch.testing.assert_close(started, expected, atol=1e-5, rtol=1e-4)
    path = tmp_path / "trained.ckpt"
    trainer.save_checkpoint(path)
    monkeypatch.setattr(
        "epic_pl.module.head_start.encode_names", lambda *_: pytest.fail("names encoded")
    )
    again = EPICModule.load_from_checkpoint(path)
    trainer.test(again, tiny_runs.loader(tiny_runs.samples()), verbose=False)


def test_trained_weights_are_not_replaced_by_names(
    make, tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    model = make()
    _, trainer = _fit(model, tmp_path)
    path = tmp_path / "trained.ckpt"
    trainer.save_checkpoint(path)
    trained = _text_weights(model).clone()
    assert not torch.equal(trained, _text_weights(make()))
    warm = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, class_names=NAMES)
    warm.load_state_dict(model.state_dict())
    cold = tiny_runs.module(
        tiny_vit_dir, tiny_tokenizer_dir, class_names=NAMES, warm_start=str(path)
    )
    for again in (model, warm, cold, EPICModule.load_from_checkpoint(path)):
        assert torch.equal(_fit(again, tmp_path)[0], trained)


def test_a_text_encoder_without_tokenizer_files_says_so_and_is_used(
    tiny_vit_dir, tiny_tokenizer_dir, tmp_path, caplog
):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_tokenizer_dir / name).read_bytes())
    with caplog.at_level("INFO"):
        model = tiny_runs.module(tiny_vit_dir, tmp_path, class_names=NAMES)
        model.start_from_names()
    assert _text_weights(model).isfinite().all()
    assert "does not start from the names" in caplog.text
    assert str(tmp_path) in caplog.text


def test_a_negative_scale_is_refused(make):
    with pytest.raises(ConfigError, match=r"class_name_scale.*-1"):
        make(class_name_scale=-1.0)
