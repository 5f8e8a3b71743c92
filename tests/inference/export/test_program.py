"""Programs of a whole module; tests/nn/methods/test_exported.py has every method."""

import pytest
import torch
from torch import nn

from epic_pl.inference.export.program import Probabilities, export_program, random_inputs
from epic_pl.utils.errors import ConfigError
from tolerance import assert_differ, assert_same


@pytest.fixture
def build(make):
    def build(method):
        module = make(method=method)
        return Probabilities(module.model, module.postprocessor).eval()

    return build


class Undecided(nn.Module):
    """Goes one way or another by what it is given, which no trace can follow."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, parts):
        logits = self.head(parts)
        return logits if logits.sum() > 0 else -logits


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_encoders_stay_in_their_precision(build, precision):
    classifier = build("NoPrompts")
    inputs = random_inputs(classifier.model, 3, 8)
    with torch.no_grad():
        full = classifier(*inputs)
        for tower in classifier.model.towers:
            tower.encoder.precision = precision
        expected = classifier(*inputs)
    given = export_program(classifier).module()(*inputs)
    assert_same(given, expected)
    assert_differ(given, full)


def test_an_untraceable_model_is_an_error(build):
    classifier = build("NoPrompts")
    model = classifier.model
    model.head.classifier = Undecided(nn.Linear(model.head.num_features, 3))
    message = r"NoPromptsModel on VisionTransformer and BertModel.*EPICModule\.load_from_checkpoint"
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        export_program(classifier)


@pytest.mark.slow
def test_a_program_of_merged_patches_takes_any_number_of_rows(make):
    module = make(method="Parts", encoders={"image_size": 96})  # 12 patches a side
    classifier = Probabilities(module.model, module.postprocessor).eval()
    program = export_program(classifier).module()
    for rows in (1, 3):
        inputs = random_inputs(classifier.model, rows, 8)
        assert_same(program(*inputs), classifier(*inputs))
