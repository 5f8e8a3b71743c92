"""Several models on the same encoders, which run once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from epic_pl import Classifier, MultiTaskClassifier
from epic_pl.inference.exported import ExportedModel
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same

IMAGE = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
TEXT = {"clean": False, "max_tokens": 20}
READ_ONLY = {"prompt_attention": "read_only", "interaction_layers": 2}
EARLIER = READ_ONLY | {"interaction_layers": [[0, 1], [2, 2]]}
SMALL = {"class_path": "EPIC", "init_args": READ_ONLY | {"hub_width": 8}}
ALL_PARTS = {"boundary": True, "similarity": True, "network": "wide"}


@pytest.fixture
def classifier(make):
    """Builds a classifier with random weights from options of EPICModule."""

    def classifier(image=None, text=None, **options):
        preprocessing = {"image": IMAGE | (image or {}), "text": TEXT | (text or {})}
        own = {} if "method" in options else {"options": READ_ONLY}
        module = make(**own | options, preprocessing=preprocessing)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return Classifier(module, "cpu")

    return classifier


@pytest.fixture
def tasks(classifier):
    return {
        "kind": classifier(),
        "labels": classifier(options=EARLIER, task="multilabel", num_classes=5, head=ALL_PARTS),
        "parts": classifier(method="Parts", options={"interaction_layers": 1}),
        "probe": classifier(method="LinearProbe", num_classes=2),
        "ensemble": classifier(method="Ensemble", options={"of": SMALL, "members": 2}),
    }


@pytest.fixture
def items():
    image = np.random.default_rng(0).integers(0, 255, (40, 36, 3), dtype=np.uint8)
    return [{"image": image, "text": "a red circle"}, {"text": "two dogs"}, {"image": image}]


def _encoded(classifier, side):
    """Notes the batch size of every pass of an encoder."""
    encoder, passes = getattr(classifier.module.model, f"{side}_encoder"), []
    embed = encoder.embed
    encoder.embed = lambda inputs, *mask: (passes.append(len(inputs)), embed(inputs, *mask))[1]
    return passes


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_probabilities_are_those_of_each_classifier_alone(tasks, items, batch_size):
    alone = {name: clf.probabilities(items, batch_size=batch_size) for name, clf in tasks.items()}
    together = MultiTaskClassifier(tasks)
    found = together.probabilities(items, batch_size=batch_size, progress=False)
    assert list(found) == list(tasks)
    for name, scores in alone.items():
        assert scores.std() > 0.01
        assert_same(found[name], scores)


def test_encoders_run_once_and_are_kept_once(tasks, items):
    together = MultiTaskClassifier(tasks)
    for side in ("image", "text"):
        kept = {id(getattr(clf.module.model, f"{side}_encoder")) for clf in tasks.values()}
        assert len(kept) == 1
    passes = [_encoded(tasks["probe"], side) for side in ("image", "text")]
    together.probabilities(items, batch_size=2, progress=False)
    assert passes == [[2, 1], [2, 1]]


def test_answers_are_by_task(tasks, items):
    together = MultiTaskClassifier(tasks)
    answers = together(items, top_k=2)
    for name, clf in tasks.items():
        alone = clf(items, top_k=2)
        for answer, expected in zip(answers, alone, strict=True):
            assert [each["label"] for each in answer[name]] == [each["label"] for each in expected]
    assert together(text="two dogs", top_k=2).keys() == tasks.keys()
    assert together([]) == []
    assert together.class_names["probe"] == ["0", "1"]
    assert together.task["labels"] == "multilabel"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"options": {"prompt_attention": "joint"}},
            "'kind' and 'other' .* Prompts change the tokens",
        ),
        ({"method": "FullFineTuning"}, "'kind' and 'other' .* trains inside the encoders"),
        (
            {"image": {"resize": "pad"}},
            "'kind' and 'other' .* preprocessing.image.resize: crop and pad",
        ),
        (
            {"text": {"clean": True}},
            "'kind' and 'other' .* preprocessing.text.clean: False and True",
        ),
        ({"text": {"max_tokens": 9}}, "preprocessing.text.max_tokens: 20 and 9"),
        (
            {"encoders": {"precision": "bf16"}},
            "precision of the image encoder: float32 and bfloat16",
        ),
        (
            {"encoders": {"image": {"pooling": "mean"}}},
            "'kind' and 'other' .* pooling of the image encoder: auto and mean",
        ),
    ],
)
def test_what_cannot_share_encoders_is_refused(classifier, make, options, said):
    if "image" in options.get("encoders", {}):
        name = make().encoders.image.name
        options = {"encoders": {"image": {"name": name, "pooling": "mean"}}}
    with pytest.raises(ConfigError, match=said):
        MultiTaskClassifier({"kind": classifier(), "other": classifier(**options)})


def test_encoders_with_other_weights_are_refused(classifier):
    other = classifier()
    other.module.model.text_encoder._fingerprint = "0"
    with pytest.raises(ConfigError, match=r"fingerprint of the text encoder: .* and 0\."):
        MultiTaskClassifier({"kind": classifier(), "other": other})


def test_another_tokenizer_or_device_is_refused(classifier):
    other = classifier()
    other.processor.text = replace(other.processor.text, tokenizer="another")
    with pytest.raises(ConfigError, match=r"they differ in .*tokenizer: \w+ and another"):
        MultiTaskClassifier({"kind": classifier(), "other": other})
    other = classifier()
    other.module.to("meta")
    with pytest.raises(ConfigError, match="they differ in device: cpu and meta"):
        MultiTaskClassifier({"kind": classifier(), "other": other})


def test_exported_models_are_refused(classifier):
    exported = classifier()
    exported._model = object.__new__(ExportedModel)
    exported._model.folder = Path("exported")
    with pytest.raises(ConfigError, match="'a' and 'b' cannot share encoders: exported is an expo"):
        MultiTaskClassifier({"a": classifier(), "b": exported})


@pytest.mark.parametrize(
    "call",
    [
        lambda clf: MultiTaskClassifier({}),
        lambda clf: MultiTaskClassifier([clf]),
        lambda clf: MultiTaskClassifier({"a": clf, "b": None}),
        lambda clf: MultiTaskClassifier({"a": "runs"}),
        lambda clf: MultiTaskClassifier.load(["runs"]),
    ],
)
def test_tasks_without_names_are_refused(classifier, call):
    with pytest.raises(ConfigError, match="at least one task, each with its name"):
        call(classifier())
