import numpy as np
import pytest
import torch
import torch.nn.functional as F

from drawn_labels import drawn
from epic_pl.nn.temperature import HIGHEST, bias_evidence, fit_bias, fit_temperature, most_likely

TASKS = ("multiclass", "multilabel")


def _loss(logits, labels, task):
    """Mean negative log-likelihood, one pseudo-sample of two being wrong."""
    count, classes = logits.shape
    wrong = 1 / ((count * classes if task == "multilabel" else count) + 2)
    if task == "multilabel":
        targets = torch.where(labels > 0, 1 - wrong, wrong)
        return F.binary_cross_entropy_with_logits(logits.double(), targets.double())
    # torch spreads the smoothing over all classes, the right one too
    smoothing = wrong * classes / (classes - 1)
    return F.cross_entropy(logits.double(), labels, label_smoothing=smoothing)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_where_a_dense_search_finds_the_lowest_loss(task, sharpness):
    logits, labels = drawn(task, sharpness)
    tried = torch.logspace(-1, 1, 20_001, dtype=torch.float64)
    losses = [float(_loss(logits / t, labels, task)) for t in tried[::100]]
    near = 100 * int(np.argmin(losses))
    window = tried[max(near - 100, 0) : near + 101]
    best = window[int(np.argmin([float(_loss(logits / t, labels, task)) for t in window]))]
    fitted = fit_temperature(logits, labels, task)
    assert fitted == pytest.approx(float(best), rel=3e-4)
    assert fitted == pytest.approx(sharpness, rel=0.2)  # what the labels were drawn with


@pytest.mark.parametrize(("rows", "scale"), [(7, 1.0), (400, 1.0), (400, 300.0)])
def test_the_bias_is_the_optimum_that_autograd_finds(rows, scale):
    """A Gaussian prior of standard deviation 1/4 is a penalty of 8 times the sum of squares."""
    logits, labels = drawn("multiclass", 1.0)
    logits, labels = logits[:rows] * scale, labels[:rows]
    logits[:, 0] += 3 * scale  # which no row needs
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = rows * _loss(logits + bias, labels, "multiclass") + 8 * bias.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    fitted = fit_bias(logits, labels)
    torch.testing.assert_close(fitted, bias.detach(), atol=1e-4, rtol=1e-4)
    assert fitted[0] < fitted[1:].min()
    broken = logits.clone()
    broken[3, 1] = float("nan")
    for given in (logits[:0], broken):
        assert fit_bias(given, labels[: len(given)]).tolist() == [0] * logits.shape[1]


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_evidence_for_a_bias_is_below_the_integral_over_its_prior_by_little(shift):
    logits = torch.randn(200, 2, dtype=torch.float64)
    truth = logits - shift * torch.tensor([1.0, 0.0])
    labels = torch.distributions.Categorical(logits=truth).sample()
    steps = torch.linspace(-1.5, 1.5, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    density = torch.distributions.Normal(0.0, 0.25).log_prob(grid).sum(dim=1)
    likelihood = torch.stack([-F.cross_entropy(logits + b, labels, reduction="sum") for b in grid])
    none = -F.cross_entropy(logits, labels, reduction="sum")
    integral = torch.logsumexp(likelihood + density, dim=0) + 2 * (steps[1] - steps[0]).log()
    evidence = bias_evidence(logits, labels, fit_bias(logits, labels))
    # of two classes, the matrix that Hadamard's bound is of has a determinant of 1 + 2 a
    a = float((logits.softmax(dim=1)[:, 0] * logits.softmax(dim=1)[:, 1]).sum()) / 16
    bound = float(integral - none) - 0.5 * np.log((1 + a) ** 2 / (1 + 2 * a))
    assert evidence == pytest.approx(bound, abs=0.1)
    assert (evidence > 0) == (shift > 0)


@pytest.mark.parametrize("task", TASKS)
def test_uninformative_logits_leave_it_and_those_that_are_all_wrong_meet_the_bound(task):
    logits, labels = drawn(task, 1.0)
    broken = logits.clone()
    broken[3, 1] = float("nan")
    for uninformative in (logits[:0], torch.zeros_like(logits), broken):
        assert fit_temperature(uninformative, labels[: len(uninformative)], task) == 1.0
    if task == "multiclass":
        for equal in (0.1, -3.7, 1e4):  # in each row, though not in all
            rows = torch.linspace(equal, 2 * equal, len(logits))[:, None].expand_as(logits)
            assert fit_temperature(rows, labels, task) == 1.0
    wrong = (logits < 0).int() if task == "multilabel" else logits.argmin(dim=1)
    assert fit_temperature(logits, wrong, task) == pytest.approx(HIGHEST)


@pytest.mark.parametrize("task", TASKS)
def test_without_a_mistake_it_is_as_sure_as_the_number_of_samples_allows(task):
    for count in (8, 80):
        logits = torch.randn(count, 5).sign() * 2
        if task == "multiclass":
            logits = F.one_hot(torch.randint(5, (count,)), 5) * 2.0
        labels = (logits > 0).int() if task == "multilabel" else logits.argmax(dim=1)
        scaled = logits / fit_temperature(logits, labels, task)
        given = scaled.sigmoid() if task == "multilabel" else scaled.softmax(dim=1)
        answers = logits.numel() if task == "multilabel" else count
        assert given.max() == pytest.approx((answers + 1) / (answers + 2), abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_the_logits_under_which_labels_are_most_likely_at_any_confidence(task):
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(60, 3, generator=generator)
    labels = good.argmax(dim=1) if task == "multiclass" else (good > 0).float()
    labels[::6] = (labels[::6] + 1) % (3 if task == "multiclass" else 2)
    bad = 0.1 * torch.randn(60, 3, generator=generator)
    for first, second, expected in ((bad, good, 1), (good, bad, 0), (bad, 9 * good, 1)):
        assert most_likely(torch.stack([first, second], dim=1), labels, task) == expected
    assert most_likely(torch.stack([good, 9 * good], dim=1), labels, task) == 0  # equally likely
