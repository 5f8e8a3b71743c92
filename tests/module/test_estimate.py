import re

import pytest
import torch

import tiny_runs
from epic_pl.module import estimate as estimates
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
    items = r"to encode 16 images \([\d,.]+/s\) and 12 texts once, then"
    assert re.search(rf": \d+ \w+ {items} \d+ \w+ for 3 epochs in each of 6 runs\. Short", said)
    assert "--cache.level" not in said
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_without_stored_features_the_estimate_names_them(
    workdir, cache, tiny_vit_dir, tiny_tokenizer_dir
):
    built = _built(workdir, tiny_vit_dir, tiny_tokenizer_dir, "--cache.level=off")
    said = estimate(*built)
    assert re.search(r"without starting: \d+ \w+ for 3 epochs\. Shorter", said)
    assert "stored features (--cache.level " in said


# a run of 13 1/3 rows in each of 3 epochs; 16 images and 12 texts are encoded
@pytest.mark.parametrize(
    ("image_s", "text_s", "step_s", "runs", "said"),
    [
        (0.1, 0.05, 0.02, 6, ("8 seconds", "2 seconds", "1 second")),
        (0.1, 0.05, 0.02, 1, ("3 seconds", "2 seconds", "1 second")),
        (0.001, 0.001, 0.3, 2, ("25 seconds", "1 second", "12 seconds")),
        (20, 10, 6, 2, ("15 minutes", "7 minutes", "4 minutes")),
        (0.1, 0.05, 1000, 1, ("11 hours", "2 seconds", "11 hours")),
    ],
)
def test_the_parts_of_an_estimate_add_up_to_its_total(
    image_s,
    text_s,
    step_s,
    runs,
    said,
    workdir,
    cache,
    tiny_vit_dir,
    tiny_tokenizer_dir,
    monkeypatch,
):
    monkeypatch.setattr(estimates, "_trial", lambda *_: [image_s, text_s, step_s])
    built = _built(workdir, tiny_vit_dir, tiny_tokenizer_dir, "--cache.level=layers")
    total, encoding, run = said
    text = estimate(*built, runs=runs)
    kind = " and testing the runs" if runs > 1 else ""
    assert text.startswith(f"about {total} in all (cpu), without starting{kind}: {encoding} to ")
    assert re.search(rf" once, then {run} for 3 epochs( in each of {runs} runs)?\. Sh", text)
