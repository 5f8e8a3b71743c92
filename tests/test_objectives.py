import itertools

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from epic_pl.objectives import Objective, build_metrics


def measured(task, scores, labels, splits=(0, 7, 8, 30)):
    """Metrics over batches of unequal size."""
    metrics = build_metrics(task, scores.shape[1], "test/")
    edges = [*splits, len(scores)]
    for start, stop in itertools.pairwise(edges):
        metrics.update(scores[start:stop], labels[start:stop])
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("num_classes", [2, 5, 9])
def test_multiclass_metrics(num_classes):
    probabilities = torch.randn(50, num_classes).softmax(dim=1)
    labels = torch.randint(num_classes, (50,))
    predicted = probabilities.argmax(dim=1)
    expected = {
        "test/accuracy": accuracy_score(labels, predicted),
        "test/f1_macro": f1_score(labels, predicted, average="macro"),
    }
    if num_classes > 5:
        hits = [
            int(label in sorted(range(num_classes), key=lambda c, row=row: -row[c])[:5])
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
        ]
        assert 0 < sum(hits) < 50
        expected["test/accuracy_top5"] = sum(hits) / 50
    assert measured("multiclass", probabilities, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", ["mixed", "empty rows", "a label that never occurs"])
def test_multilabel_metrics(case):
    probabilities, labels = torch.rand(50, 4), (torch.rand(50, 4) < 0.3).int()
    if (
        case == "empty rows"
    ):  # nothing true and nothing predicted counts as 0, as scikit-learn has it
        probabilities[:20], labels[:20] = 0.1, 0
    elif case == "a label that never occurs":
        probabilities[:, 2], labels[:, 2] = 0.1, 0
    predicted = probabilities > 0.5
    expected = {
        f"test/f1_{average}": f1_score(labels, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "samples", "weighted")
    }
    assert len({round(score, 6) for score in expected.values()}) == 4  # a mix-up would show
    assert measured("multilabel", probabilities, labels) == pytest.approx(expected, abs=1e-6)


def test_metrics_start_anew_after_reset():
    metrics = build_metrics("multilabel", 3, "val/")
    labels = torch.randint(2, (8, 3))
    metrics.update(1.0 - labels, labels)
    metrics.reset()
    metrics.update(labels.float(), labels)
    assert metrics.compute()["val/f1_micro"] == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multiclass_loss(smoothing):
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    target = torch.full((6, 4), smoothing / 4)
    target[torch.arange(6), labels] += 1 - smoothing
    expected = -(target * (logits - logits.exp().sum(dim=1, keepdim=True).log())).sum(dim=1).mean()
    objective = Objective("multiclass", label_smoothing=smoothing)
    torch.testing.assert_close(objective(logits, labels), expected)


@pytest.mark.parametrize("pos_weight", [None, [1.0, 5.0, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_multilabel_loss(pos_weight, dtype):
    logits, labels = torch.randn(6, 3), torch.rand(6, 3) < 0.4
    p, y = logits.sigmoid(), labels.float()
    weight = torch.tensor(pos_weight or [1.0] * 3)
    expected = -(weight * y * p.log() + (1 - y) * (1 - p).log()).mean()
    objective = Objective("multilabel", pos_weight=pos_weight)
    torch.testing.assert_close(objective(logits, labels.to(dtype)), expected)


def test_pos_weight_moves_with_the_model_and_stays_out_of_checkpoints():
    objective = Objective("multilabel", pos_weight=[1.0, 2.0])
    assert objective.to(torch.float64).pos_weight.dtype == torch.float64
    assert not objective.state_dict()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_probabilities_are_float32(task):
    logits = torch.randn(5, 4, dtype=torch.bfloat16)
    probabilities = Objective(task).probabilities(logits)
    assert probabilities.dtype == torch.float32
    exact = logits.double()
    expected = exact.exp() / exact.exp().sum(1, keepdim=True)
    if task == "multilabel":
        expected = 1 / (1 + (-exact).exp())
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-6)
