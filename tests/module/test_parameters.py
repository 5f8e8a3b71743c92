import pytest

import tiny_runs
from epic_pl.module.parameters import count_parameters, trainable_share


@pytest.fixture(scope="module")
def model(make):
    return make(num_classes=4, options={"interaction_layers": 3}).model


def test_counts_cover_the_model(model):
    counts = count_parameters(model)
    total = sum(p.numel() for p in model.parameters())
    assert sum(trained + frozen for trained, frozen in counts.values()) == total
    for part, (trained, frozen) in counts.items():
        assert (trained == 0) is part.endswith("encoder")
        assert (frozen == 0) is not part.endswith("encoder")
    # first prompts, norm and score of the words, and offsets of two further steps
    assert counts["prompts"] == (2 * 3 * 4 * 32 + 3 * 32, 0)
    # of each hub four matrices, two biases and a temperature
    assert counts["interaction hub"] == (3 * (4 * 32 * 8 + 2 * 8 + 1), 0)
    # a linear map of pooled outputs and mean prompts, and two missing-modality embeddings
    assert counts["head"] == (2 * 2 * 32 * 4 + 4 + 2 * 32, 0)


@pytest.mark.parametrize("method", ["FullFineTuning", "LoRA"])
def test_the_share_is_of_the_encoders_as_they_came(method, make):
    model = make(method=method).model
    came_with = sum(p.numel() for p in make().model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable_share(model) == pytest.approx(trained / came_with)


def test_fit_starts_with_a_table_of_every_part_and_the_share(make, tmp_path, capsys):
    module = make()
    tiny_runs.trainer(tmp_path, max_steps=1).fit(module, tiny_runs.loader(tiny_runs.samples()))
    printed = capsys.readouterr().out
    for part, (trained, frozen) in count_parameters(module.model).items():
        row = next(line for line in printed.splitlines() if part in line)
        assert f"{trained:,}" in row
        assert f"{frozen:,}" in row
    assert f"Trainable share: {trainable_share(module.model):.2%}" in printed
