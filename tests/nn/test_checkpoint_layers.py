"""Gradient checkpointing: the same gradients from less that is kept for the backward pass."""

import pytest
import torch
from tiny_models import batch, either_attention, image_encoder, make, text_encoder
from torch.autograd.graph import saved_tensors_hooks

from epic_pl.nn import HeadConfig
from tiny_runs import differing
from tolerance import assert_same


def _batch(missing=False):
    """With ``missing``, the second sample has no image and the last one no text."""
    return batch([9, 5, 8, 7], *([1, 0, 1, 1], [1, 1, 1, 0]) if missing else ())


def _model(image=None, **options):
    encoders = image or image_encoder(5), text_encoder(5)
    options = {"interaction_layers": 3, "hub_width": 8, "dropout": 0.3, **options}
    return make("EPIC", *encoders, head=HeadConfig(dropout=0.3), **options).train()


def _gradients(model, *, checkpoint_layers, missing=False):
    for encoder in (model.image_encoder, model.text_encoder):
        encoder.checkpoint_layers = checkpoint_layers
    model.zero_grad()
    for name, buffer in model.head.named_buffers():  # as before the first step
        buffer.fill_(1.0 if name.endswith("variance") else 0.0)
    torch.manual_seed(1)  # of dropout
    logits = model(_batch(missing)).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def _assert_the_same_gradients(model, rounded=False, **options):
    plain, again = (_gradients(model, checkpoint_layers=each, **options) for each in (False, True))
    assert_same(again, plain)
    assert rounded or not differing(again, plain)


# pairs that leave layers between and behind them, which gradient flows through too
@pytest.mark.parametrize("layers", [3, [[0, 1], [2, 3]]])
@either_attention
def test_gradients_are_the_same(layers, attention):
    _assert_the_same_gradients(_model(interaction_layers=layers, prompt_attention=attention))


def test_gradients_are_the_same_where_dropout_wakes_inside_an_encoder():
    image = image_encoder(5, proj_drop_rate=0.3)
    model = _model(image)
    image.thaw()
    _assert_the_same_gradients(model.train())


@pytest.mark.parametrize("missing", [False, True])
@either_attention
def test_gradients_are_the_same_if_the_first_hub_takes_some_rows_at_a_time(
    attention, missing, monkeypatch
):
    monkeypatch.setattr("epic_pl.nn.encoders.base._ROWS", 3)
    # dropout draws other numbers for other shapes
    model = _model(prompt_attention=attention, dropout=0.0)
    _assert_the_same_gradients(model, rounded=True, missing=missing)


def _saved(model, checkpoint_layers):
    """Bytes that autograd saves for the backward pass, inputs of checkpointed layers left out."""
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for encoder in (model.image_encoder, model.text_encoder):
        encoder.checkpoint_layers = checkpoint_layers
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(_batch()).logits
    assert logits.requires_grad
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}  # there anyway
    return sum(size for storage, size in saved.items() if storage not in weights)


@pytest.mark.parametrize("first_prompt", ["independent", "tokens"])
@either_attention
def test_less_is_kept_for_the_backward_pass(first_prompt, attention):
    model = _model(first_prompt=first_prompt, interaction_layers=5, prompt_attention=attention)
    assert _saved(model, checkpoint_layers=True) < _saved(model, checkpoint_layers=False) / 3


def test_each_layer_that_gradient_flows_through_runs_twice_and_no_other():
    model = _model(interaction_layers=[[1, 2], [3, 4]])
    runs = []
    for name, layers in (
        ("image", model.image_encoder.model.blocks),
        ("text", model.text_encoder.model.encoder.layer),
    ):
        for index, layer in enumerate(layers):
            # keys and values are computed by the first part of a layer
            second = layer.mlp if name == "image" else layer.intermediate
            second.register_forward_pre_hook(lambda *_, key=(name, index): runs.append(key))
    _gradients(model, checkpoint_layers=True)
    counts = {key: runs.count(key) for key in sorted(set(runs))}
    image = {("image", 0): 1} | {("image", index): 2 for index in range(1, 5)}
    text = {("text", 0): 1, ("text", 1): 1} | {("text", index): 2 for index in range(2, 5)}
    assert counts == image | text
