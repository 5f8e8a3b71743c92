import pytest
import torch

from epic_pl.module.losses import ClassificationLoss, prior_logits, resolve_weights


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
