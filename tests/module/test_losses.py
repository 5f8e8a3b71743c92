import csv
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from tiny_models import batch
from tiny_models import make as make_model
from torch import nn

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.losses import (
    ClassificationLoss,
    MatchingLoss,
    build_matching_loss,
    prior_logits,
    resolve_weights,
)
from epic_pl.nn import HeadConfig
from epic_pl.nn.hub import Matched, ScaledCosine
from epic_pl.utils.errors import ConfigError
from tolerance import assert_differ, assert_same

NAMES = ["no", "yes", "maybe"]


@pytest.mark.parametrize("weights", [None, [1.0, 5.0, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_multilabel_loss(weights, dtype):
    logits, labels = torch.randn(6, 3), torch.rand(6, 3) < 0.4
    p, y = logits.sigmoid(), labels.float()
    positive = torch.tensor(weights or [1.0] * 3) * y * p.log()
    expected = -(positive + (1 - y) * (1 - p).log()).mean()
    loss = ClassificationLoss("multilabel", weights=weights)
    torch.testing.assert_close(loss(logits, labels.to(dtype)), expected)
    assert not loss.state_dict()
    assert weights is None or loss.to(torch.float64).weights.dtype == torch.float64


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 4.0, 0.5, 2.0]])
def test_multiclass_loss(weights, smoothing):
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    weight = torch.tensor(weights or [1.0] * 4)
    probabilities = logits.softmax(dim=1)
    total = 0.0
    for row, label in zip(probabilities, labels.tolist(), strict=True):
        target = [smoothing / 4 + (1 - smoothing) * (c == label) for c in range(4)]
        total -= sum(target[c] * weight[c] * row[c].log() for c in range(4))
    loss = ClassificationLoss("multiclass", smoothing, weights)
    torch.testing.assert_close(loss(logits, labels), total / weight[labels].sum())


def test_balanced_class_weights_give_every_class_the_same_total():
    weights = resolve_weights("class_weights", "balanced", "multiclass", [0.5, 0.4, 0.1, 0.0])
    assert weights == pytest.approx([0.5, 0.625, 2.5, 1.0])
    labels = torch.tensor([0] * 5 + [1] * 4 + [2])
    loss = ClassificationLoss("multiclass", weights=weights)
    totals = [float(loss.weights[labels[labels == c]].sum()) for c in range(3)]
    assert totals == pytest.approx([2.5] * 3)


def test_balanced_pos_weight_gives_positives_the_weight_of_negatives():
    frequencies = [0.5, 0.1, 0.0, 1.0]
    weights = resolve_weights("pos_weight", "balanced", "multilabel", frequencies)
    assert weights == pytest.approx([1.0, 9.0, 1.0, 1.0])
    # at p = 1/2 everywhere, the gradient on a balanced label's logit adds up to nothing
    labels = torch.zeros(10, 4)
    labels[0, 1] = 1
    logits = torch.zeros(10, 4, requires_grad=True)
    ClassificationLoss("multilabel", weights=weights)(logits, labels).backward()
    assert float(logits.grad[:, 1].sum()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_prior_logits_have_the_lowest_loss_of_all_that_see_no_input(task, weights):
    labels = torch.tensor([0] * 13 + [1] * 5 + [2] * 2)
    if task == "multilabel":
        labels = (torch.rand(20, 3) < torch.tensor([0.7, 0.3, 0.15])).long()
        labels[0], labels[1] = 0, 1  # no label is there always or never
    counts = torch.bincount(labels) if labels.ndim == 1 else labels.sum(dim=0)
    frequencies = (counts / len(labels)).tolist()
    loss = ClassificationLoss(task, weights=weights)
    tensor = None if weights is None else torch.tensor(weights)
    prior = prior_logits(task, 3, frequencies, tensor).requires_grad_()
    loss(prior.expand(len(labels), 3), labels).backward()
    torch.testing.assert_close(prior.grad, torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_prior_logits_are_finite_for_classes_that_never_or_always_occur(task):
    assert prior_logits(task, 3, [0.0, 1.0, 0.0]).isfinite().all()
    output = torch.softmax if task == "multiclass" else lambda x, dim: x.sigmoid()
    assert output(prior_logits(task, 4, None), dim=0).tolist() == pytest.approx([0.25] * 4)


def slow_matching(image, text, rows, temperature) -> float:
    """Pair by pair: each row against all texts, and against all images."""

    def fit(i, j) -> float:
        scores = [
            [float(torch.cosine_similarity(a, b, dim=0)) / temperature for b in text[j]]
            for a in image[i]
        ]
        columns = [list(column) for column in zip(*scores, strict=True)]
        means = [
            sum(math.log(sum(map(math.exp, line))) for line in lines) / len(lines)
            for lines in (scores, columns)
        ]
        return sum(means) / 2

    size, losses = len(image), []
    for i in rows:
        others = [[fit(i, j) for j in range(size)], [fit(j, i) for j in range(size)]]
        losses += [math.log(sum(map(math.exp, fits))) - fits[i] for fits in others]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("n", [1, 4])
def test_agrees_pair_by_pair(n):
    cosine = ScaledCosine().double().train()
    loss = MatchingLoss([1, 2])
    image, text = (torch.randn(5, n, 6).double() for _ in range(2))
    labels = torch.tensor([1, 0, 2, 1, 0])
    text[3] = 0  # missing
    expected = slow_matching(image, text, [0, 2], 0.1)
    value = loss(Matched(image, text, cosine.temperature), labels).detach()
    assert_same(value, expected)


def test_no_matched_row_is_no_loss():
    cosine = ScaledCosine().train()
    loss = MatchingLoss([1])
    image, text = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, 2, 4)
    value = loss(Matched(image, text, cosine.temperature), torch.zeros(3, dtype=torch.long))
    value.backward()
    assert float(value.detach()) == 0


@pytest.mark.parametrize("name", ["EPIC", "Parts", "NoPrompts"])
@pytest.mark.parametrize("first_prompt", ["tokens", "independent"])
def test_what_is_compared_knows_nothing_of_the_other_modality(name, first_prompt):
    own = {"first_prompt": first_prompt} if name == "EPIC" else {}
    options = {"interaction_layers": 3, **own}
    model = make_model(name, head=HeadConfig(similarity=True), **options)
    made, other = batch([5, 3]), batch([4, 2], seed=1)  # other texts
    image, text, _ = model(made).matched
    same, another, _ = model(other | {"pixel_values": made["pixel_values"]}).matched
    assert_same(same, image)
    assert_differ(another, text)


@pytest.mark.parametrize("name", ["NoPrompts", "NoInteraction", "PMF"])
def test_other_methods_match_where_they_have_a_similarity(name):
    made = batch([5, 3])
    plain, similar = (make_model(name, head=HeadConfig(similarity=on)) for on in (False, True))
    assert plain(made).matched is None
    compared = similar(made).matched
    assert (compared is None) is (name == "PMF")
    if compared is not None:
        assert torch.equal(compared.temperature, similar.head.similarity.cosine.temperature)


def test_unknown_classes_are_named(make):
    with pytest.raises(ConfigError, match=r"matched_classes names 'true'.*no, yes, maybe"):
        make(class_names=NAMES, loss={"matched_classes": ["true"]})
    assert build_matching_loss(None, NAMES) is None


def test_the_loss_joins_the_training_loss_alone(make, tmp_path):
    options = {"num_classes": 2, "class_names": ["no", "yes"]}
    losses = []
    for matched in (None, ["yes"]):
        torch.manual_seed(0)
        model = make(loss={"matched_classes": matched}, **options)
        trainer = tiny_runs.trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
        rows = tiny_runs.samples(8, classes=2, seed=1)
        trainer.fit(model, tiny_runs.loader(rows, 8), tiny_runs.loader(rows, 8))
        losses.append(trainer.callback_metrics)
    plain, matching = losses
    assert "train/matching_loss" not in plain
    both = plain["train/loss"] + matching["train/matching_loss"]
    torch.testing.assert_close(matching["train/loss"], both)


class Recorded(EPICModule):
    """Keeps what its loss is called with, and what it gives."""

    def compute_loss(self, logits, labels, batch):
        loss = super().compute_loss(logits, labels, batch)
        self.calls.append((logits.detach(), float(loss)))
        return loss


@pytest.mark.parametrize(("every", "steps"), [(1, [*"0123"]), (2, ["1", "3"]), (0, [])])
def test_terms_are_logged_in_the_steps_that_are_written(every, steps, make, tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, logger=logger, log_every_n_steps=every)
    trainer.fit(make(head={"network": "wide"}), tiny_runs.loader(tiny_runs.samples(7), 2))
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss_step")]
    assert [row["step"] for row in rows] == steps
    for row in rows:  # a step's own terms, not those of the one before
        terms = sum(float(row[f"train/{name}_loss"]) for name in ("joint", "image", "text"))
        assert float(row["train/loss_step"]) == pytest.approx(terms)
    if every == 1:  # the mean over rows; the last batch has one
        losses = [float(row["train/loss_step"]) for row in rows]
        mean = (2 * sum(losses[:3]) + losses[3]) / 7
        assert float(trainer.callback_metrics["train/loss_epoch"]) == pytest.approx(mean)


@pytest.mark.parametrize("network", ["none", "wide"])
def test_what_is_trained_is_what_is_logged(network, make, tmp_path, monkeypatch):
    """Each classifier of the head has one loss; their sum with the matching loss is optimised."""
    monkeypatch.setattr(tiny_runs, "EPICModule", Recorded)
    names = {"num_classes": 2, "class_names": ["no", "yes"], "loss": {"matched_classes": ["yes"]}}
    model = make(head={"network": network, "dropout": 0.0}, options={"dropout": 0.0}, **names)
    model.calls = []
    rows = tiny_runs.batch(8, classes=2)
    trainer = tiny_runs.trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    optimised = []
    model.on_before_backward = lambda loss: optimised.append(float(loss))
    with torch.no_grad():
        for part in model.model.head.modules():  # so that the parts' logits differ
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight)
    trained = []
    model.model.register_forward_hook(lambda _, __, output: trained.append(output.trained))
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples(8, classes=2), 8))
    parts = {
        name: float(F.cross_entropy(z, rows["labels"], label_smoothing=0.05))
        for name, z in trained[0].items()
    }
    assert list(parts) == (["joint"] if network == "none" else ["joint", "image", "text"])
    assert [loss for _, loss in model.calls] == pytest.approx([*parts.values()])
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name, value in parts.items():
        assert logged[f"train/{name}_loss"] == pytest.approx(value)
    total = sum(parts.values()) + logged["train/matching_loss"]
    assert [logged["train/loss"]] == optimised == pytest.approx([total])
    assert len({round(value, 4) for value in parts.values()}) == len(parts)


class SecondPass(EPICModule):
    """Runs the model a second time, on the batch without its texts."""

    def compute_loss(self, logits, labels, batch):
        absent = torch.zeros(len(labels), dtype=torch.bool)
        self({**batch, "text_present": absent})
        return super().compute_loss(logits, labels, batch)


def test_the_loss_is_of_the_pass_of_the_step_and_keeps_nothing(make, tmp_path, monkeypatch):
    losses = []
    for kind in (EPICModule, SecondPass):
        monkeypatch.setattr(tiny_runs, "EPICModule", kind)
        torch.manual_seed(0)
        model = make(num_classes=2, class_names=["no", "yes"], loss={"matched_classes": ["yes"]})
        trainer = tiny_runs.trainer(tmp_path, max_steps=1)
        trainer.fit(model, tiny_runs.loader(tiny_runs.samples(8, classes=2, seed=1), 8))
        losses.append(float(trainer.callback_metrics["train/matching_loss"]))
        model.train()(tiny_runs.batch(classes=2))
        deepcopy(model)  # fails on tensors with a graph
    assert losses[0] == losses[1] > 0
