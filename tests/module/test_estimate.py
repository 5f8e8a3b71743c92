import re

import torch

import tiny_runs
from epic_pl.module.estimate import estimate
from epic_pl.run.epic_cli import build


def _built(folder, vit, bert, *options):
    tiny_runs.table(folder / "data")
    config = tiny_runs.table_config(folder / "data", vit, bert)
    return build([f"--config={config}", "--trainer.max_epochs=3", *options])


def test_an_estimate_tells_the_work_and_leaves_the_module_as_it_was(
    workdir, cache, tiny_vit_dir, tiny_tokenizer_dir
):
    module, data, trainer = _built(
        workdir, tiny_vit_dir, tiny_tokenizer_dir, "--cache.level=layers"
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    said = estimate(module, data, trainer, runs=6)
    assert re.search(r"\): 16 images \([\d,.]+/s\) and 12 texts are encoded once, ", said)
    assert ", then 3 epochs of " in said
    assert re.search(r" \w+ in each of 6 runs\. Shorter with smaller images", said)
    assert "--cache.level" not in said
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_without_stored_features_the_estimate_names_them(
    workdir, cache, tiny_vit_dir, tiny_tokenizer_dir
):
    built = _built(workdir, tiny_vit_dir, tiny_tokenizer_dir, "--cache.level=off")
    said = estimate(*built)
    assert "): 3 epochs of " in said
    assert "stored features (--cache.level " in said
