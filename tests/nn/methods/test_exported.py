"""Every method as torch.export traces it, which gives the same as the method."""

import pytest
import torch
from tiny_models import (
    ALL_PARTS,
    METHODS,
    batch,
    clip_image_encoder,
    clip_text_encoder,
    hf_text,
    image_encoder,
    logits,
    make,
    text_encoder,
)

from epic_pl.inference.description import INPUTS
from epic_pl.inference.export.program import Probabilities, export_program
from epic_pl.module.postprocess import Postprocessor
from epic_pl.nn import EPIC
from epic_pl.nn.encoders import TransformersEncoder
from epic_pl.nn.methods import LinearProbe, Trees
from epic_pl.nn.methods.parts import PartsModel
from tolerance import assert_same

# text lengths of each row, presence of image and text; the traced batch is two rows of five tokens
BATCHES = (
    ([6, 1, 3, 24], [1, 0, 1, 1], [1, 1, 0, 1]),
    ([7, 9], [1, 1], [1, 1]),
    ([2], [1], [1]),
    ([1], [0], [1]),
    ([3, 3, 3], [1, 1, 1], [0, 0, 0]),
)
# linear_probe and no_interaction are no_prompts and epic with less
DERIVED = ("EPIC", "NoInteraction", "LinearProbe")
CASES = [
    *((name, False, "joint") for name in METHODS if name not in DERIVED),
    *(("EPIC", clip, attention) for clip in (False, True) for attention in ("joint", "read_only")),
]
# test_export_command.py exports EPIC in the fast tests
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "clip", "attention"), CASES)
def test_a_traced_model_gives_the_models_probabilities(name, clip, attention):
    depth = 3 if name == "EPIC" else 2  # tracing takes time by the layer
    encoders = image_encoder(depth), text_encoder(depth)
    if clip:
        encoders = clip_image_encoder(), clip_text_encoder()
    # those that need a network have the one of all parts
    whole = attention == "read_only" or issubclass(METHODS[name].model, PartsModel)
    head = ALL_PARTS if whole else None
    several = {"of": [EPIC(hub_width=4), LinearProbe(), Trees()]} if name == "Ensemble" else {}
    model = make(name, *encoders, head=head, prompt_attention=attention, **several).float()
    assert_exports(model, BATCHES)


@pytest.mark.parametrize("text", ["roberta", "electra"])
def test_other_text_models(text):
    model = make("NoInteraction", text=TransformersEncoder(hf_text(text))).float()
    # RoBERTa's kin leave two of their 24 positions to padding
    assert_exports(model, BATCHES[1:])


def assert_exports(model, batches):
    postprocessor = Postprocessor("multiclass", 5)
    postprocessor.temperature.fill_(1.7)
    postprocessor.bias.copy_(torch.linspace(-1, 1, 5))
    classifier = Probabilities(model, postprocessor).eval()
    program = export_program(classifier).module()
    made = [batch(*rows, seed=seed, dtype=torch.float32) for seed, rows in enumerate(batches)]
    for rows in made:
        given = program(*(rows[key] for key in INPUTS))
        expected = (logits(model, rows) / 1.7 + postprocessor.bias).softmax(dim=1)
        assert_same(given, expected)
        assert expected.std(dim=1).min() > 0.01  # not all alike, which anything would match
