"""The control without messages trains all of EPIC but these."""

import torch

import tiny_runs


def test_all_but_the_messages_is_trained(make, tmp_path):
    module = make(method="controls.messages.NoMessages")
    before = {name: value.clone() for name, value in module.model.named_parameters()}
    tiny_runs.trainer(tmp_path, max_epochs=1).fit(module, tiny_runs.loader(tiny_runs.samples()))
    first, *others = module.model.hubs
    for name, value in module.model.named_parameters():
        assert torch.equal(value, before[name]) or value.requires_grad
    assert not any(p.requires_grad for hub in others for p in hub.parameters())
    assert not torch.cat([first.up_image.weight, first.up_text.weight]).any()
    name = "hubs.0.down_image.weight"
    assert not torch.equal(first.down_image.weight, before[name])
