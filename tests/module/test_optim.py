import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import f1_score
from torch import nn

import tiny_runs
from epic_pl.module.config import OptimConfig
from epic_pl.module.losses import ClassificationLoss, CrossEntropy, prior_logits
from epic_pl.module.optim import build_optimizer, parameter_groups, warmup_cosine
from epic_pl.nn.heads import ClassificationHead, HeadConfig, Pooled
from epic_pl.nn.pair import Pair, Presence

CONFIG = OptimConfig(lr=1e-2, prompt_lr=1e-3, weight_decay=0.05)


def _by_name(model, key):
    """A setting of each trained tensor's group."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, CONFIG)
    return {names[id(p)]: group[key] for group in groups for p in group["params"]}


@pytest.mark.parametrize("first_prompt", ["independent", "from_text"])
def test_matrices_decay_and_the_head_has_a_rate_of_its_own(first_prompt, make):
    head = {"similarity": True}
    model = make(options={"first_prompt": first_prompt, "interaction_layers": 3}, head=head).model
    decays, rates = _by_name(model, "weight_decay"), _by_name(model, "lr")
    matrices = {
        f"hubs.{hub}.{way}_{side}.weight"
        for hub, way, side in itertools.product((0, 1), ("down", "up"), ("image", "text"))
    }
    matrices |= {"head.classifier.weight", "head.similarity.linear.weight"}
    matrices |= {f"head.similarity.down_{side}.weight" for side in ("image", "text")}
    if first_prompt == "from_text":
        matrices.add("prompts.coupling.weight")
    assert type(build_optimizer(model, CONFIG)) is torch.optim.AdamW
    assert decays.keys() == tiny_runs.trained(model).keys()
    assert {name for name, decay in decays.items() if decay} == matrices
    assert set(decays.values()) == {0, 0.05}
    for name, rate in rates.items():
        head_rate = 1e-2 * 1000 / model.head.num_features
        assert rate == (head_rate if name.startswith("head.") else 1e-3)


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        # never zero: the first step must train; past the end it stays down
        (110, 0.1, {0: 1 / 12, 4: 5 / 12, 10: 11 / 12, 11: 1.0, 110: 0.0, 200: 0.0}),
        (100, 0.0, {0: 1.0, 25: 0.5 * (1 + math.sqrt(0.5))}),
        (math.inf, 0.1, {0: 1.0, 5: 1.0, 10**9: 1.0}),
    ],
)
def test_known_points_of_the_schedule(total, warmup, expected):
    for step, factor in expected.items():
        assert warmup_cosine(step, total, warmup) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("total", [0, 1, 5])
def test_a_training_that_is_all_warmup(total):
    assert all(0 <= warmup_cosine(step, total, 1.0) <= 1 for step in range(20))


class _OnFeatures(nn.Module):
    """A linear probe on given features ``(N, 2 d)`` of both modalities."""

    encoder_lr, stacked = None, False

    @property
    def stacks(self):
        return (self,)

    def __init__(self, width, num_classes):
        super().__init__()
        plain = HeadConfig(boundary=False, similarity=False, network="none")
        self.head = ClassificationHead(Pair(width, width), num_classes, plain)

    def forward(self, features):
        pooled = Pair(*(Pooled(part, part) for part in features.chunk(2, dim=1)))
        return self.head(pooled, None, Presence())[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_linear_head_reaches_logistic_regression_on_the_same_features(task):
    # as many rows, labels and steps as a small table has under the config of `data init`
    rows, width, classes, steps, size = 1400, 64, 30, 900, 32
    latent = torch.randn(rows, 24)
    informative = latent @ torch.randn(24, 2 * width) + torch.randn(rows, 2 * width)
    features = 5 + informative * torch.logspace(-2, 1, 2 * width)  # encoders differ in scale
    truth = 0.7 * latent @ torch.randn(24, classes)
    if task == "multiclass":
        labels = (truth - torch.rand_like(truth).log().neg().log()).argmax(dim=1)
        counts = torch.bincount(labels[:700], minlength=classes)
    else:
        labels = (torch.rand_like(truth) < (truth - 6).sigmoid()).long()  # 6% of them
        counts = labels[:700].sum(dim=0)
    train, test = slice(0, 700), slice(700, None)

    model = _OnFeatures(width, classes)
    model.head.start_at(prior_logits(task, classes, (counts / 700).tolist()))
    loss = ClassificationLoss(task, CrossEntropy().label_smoothing)
    optimizer = build_optimizer(model, OptimConfig())
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warmup_cosine(step, steps, OptimConfig().warmup)
        drawn = torch.randint(700, (size,))
        optimizer.zero_grad()
        loss(model(features[drawn]), labels[drawn]).backward()
        optimizer.step()
    model.eval()
    logits = model(features[test]).detach()

    scaled = (features - features[train].mean(dim=0)) / features[train].std(dim=0)
    answers = labels[:, None] if task == "multiclass" else labels
    # weaker regularisation overfits 700 rows, and takes long
    fit = partial(LogisticRegressionCV, Cs=np.logspace(-4, 0, 4), cv=3, scoring="neg_log_loss")
    predicted = [fit().fit(scaled[train], y[train]).predict(scaled[test]) for y in answers.T]
    if task == "multiclass":
        expected = (predicted[0] == labels[test].numpy()).mean()
        reached = (logits.argmax(dim=1) == labels[test]).float().mean()
    else:
        expected = f1_score(labels[test], np.stack(predicted, axis=1), average="micro")
        reached = f1_score(labels[test], (logits > 0).int(), average="micro")
    assert reached > expected - 0.03
