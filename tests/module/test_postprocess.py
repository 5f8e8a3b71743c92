from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

import tiny_runs
from drawn_labels import drawn
from epic_pl.module import EPICModule
from epic_pl.module.postprocess import (
    BINS,
    Postprocessor,
    calibration_error,
    error_by_chance,
    fit_thresholds,
    reliability_bins,
)
from epic_pl.nn import HeadConfig
from epic_pl.nn.temperature import HIGHEST, LOWEST, fit_bias, fit_temperature
from tolerance import assert_same

TASKS = ("multiclass", "multilabel")


def _ece(given, labels):
    """Guo et al., eq. 3, by torchmetrics."""
    if labels.ndim == 2:
        return float(binary_calibration_error(given.flatten(), labels.flatten(), n_bins=BINS))
    return float(multiclass_calibration_error(given, labels, given.shape[1], n_bins=BINS))


@pytest.mark.parametrize("task", TASKS)
def test_the_calibration_error_is_that_of_torchmetrics_and_the_fit_lowers_it(task):
    logits, labels = drawn(task, 4.0)
    errors = []
    for temperature in (1.0, fit_temperature(logits, labels, task)):
        scaled = logits / temperature
        given = scaled.sigmoid() if task == "multilabel" else scaled.softmax(dim=1)
        errors.append(calibration_error(reliability_bins(given, labels)))
        assert_same(errors[-1], _ece(given, labels))
    assert errors[1] < 0.5 * errors[0]


def test_logits_that_shun_a_class_are_calibrated_as_if_they_did_not():
    logits, labels = drawn("multiclass", 1.0, count=1200)
    half, shunned = len(logits) // 2, 3 * (logits - torch.eye(logits.shape[1])[1])
    plain, biased = (Postprocessor("multiclass", logits.shape[1]) for _ in range(2))
    plain.fit(logits[:half], labels[:half])
    biased.fit(shunned[:half], labels[:half])
    losses = [
        float(F.cross_entropy(post.calibrated(given[half:]), labels[half:]))
        for post, given in ((plain, logits), (biased, shunned), (plain, shunned / 3))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[2] > 1.03 * losses[0]
    assert biased.temperature == pytest.approx(3 * float(plain.temperature), rel=0.03)
    best = fit_temperature(biased.calibrated(shunned[:half]), labels[:half], "multiclass")
    assert best == pytest.approx(1, abs=0.01)
    first = fit_temperature(shunned[:half], labels[:half], "multiclass")
    moved = shunned / first + fit_bias(shunned[:half] / first, labels[:half])
    again = fit_temperature(moved[:half], labels[:half], "multiclass")
    torch.testing.assert_close(biased.calibrated(shunned), (moved / again).float())
    for seed in (0, 8):  # noise of the labels is no evidence, or weak evidence
        plain.fit(*drawn("multiclass", 1.0, count=200, seed=seed))
        assert not plain.bias.any()
    biased.reset()
    torch.testing.assert_close(biased(shunned), shunned.softmax(dim=1))


@pytest.mark.parametrize("count", [200, 20_000])
def test_error_by_chance_is_that_of_answers_drawn_from_their_probabilities(count):
    generator = torch.Generator().manual_seed(3)
    sure = 0.4 + 0.6 * torch.rand(count, generator=generator)
    mean, low, high = error_by_chance(sure.double())
    errors = []
    for _ in range(60):
        right = torch.bernoulli(sure, generator=generator).int()
        errors.append(_ece(sure[:, None].clamp(max=1 - 2**-24), right[:, None]))
    errors = torch.tensor(errors)
    spread = float(errors.std())
    assert mean == pytest.approx(float(errors.mean()), abs=spread)
    assert low < mean < high
    assert low == pytest.approx(float(errors.quantile(0.05)), abs=2 * spread)
    assert high == pytest.approx(float(errors.quantile(0.95)), abs=2 * spread)
    # sure answers leave nothing to chance
    assert error_by_chance(torch.ones(50, dtype=torch.float64)) == pytest.approx(
        (0, 0, 0), abs=1e-6
    )


def _fitted_by_search(scores, labels):
    """The rule of fit_thresholds, by counting at each threshold, in fractions of plain numbers."""

    def best(truth, given, near):
        tried = []
        for at in (step / 200 for step in range(201)):
            hits, found = (truth * (given >= at)).sum(), (given >= at).sum()
            f1 = 2 * hits / max(found + truth.sum(), 1)
            tried.append((-round(f1, 9), abs(at - near), at))
        return -min(tried)[0], min(tried)[2]

    labels, scores = labels.numpy(), scores.numpy()
    count = labels.sum()
    f1, _ = best(labels, scores, 0.5)
    start = 0.5 + (f1 / 2 - 0.5) * count / (count + 10)
    common = start + (best(labels, scores, start)[1] - start) * count / (count + 300)
    chosen = []
    for truth, given in zip(labels.T, scores.T, strict=True):
        moved = (best(truth, given, common)[1] - common) * truth.sum() / (truth.sum() + 300)
        chosen.append(common + moved)
    return chosen


@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize("rows", [7, 300])
def test_thresholds_are_those_of_a_plain_search(rows, sure):
    labels = (torch.rand(rows, 5) < torch.tensor([0.5, 0.1, 0.3, 0.2, 0.0])).int()
    # off the grid by half a step, where a threshold and a score could be equal but for rounding
    scores = (0.3 * torch.rand(rows, 5) + 0.25 * labels).mul(200).floor().add(0.5).div(200)
    if sure:  # a label that only a threshold of 1 tells, which is far from those of others
        scores[:, 0], scores[:, 1] = 0.0525 + 0.1 * labels[:, 0], 0.9975 + 0.0025 * labels[:, 1]
        scores[:, 2:], labels[:, 2:] = 0, 0
    thresholds = fit_thresholds(scores, labels).tolist()
    assert thresholds == pytest.approx(_fitted_by_search(scores, labels))
    assert len({round(each, 6) for each in thresholds}) > (rows > 7)


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_without_a_positive_thresholds_are_a_half(rows):
    labels = torch.zeros(rows, 3, dtype=torch.int)
    assert fit_thresholds(torch.rand(rows, 3), labels).tolist() == [0.5] * 3


def _gain(seed, base, spread, shift=0.0, rows=120):
    """By how much fitting raises micro and macro F1 on fresh rows, and the thresholds.

    Label c has logits around ``base[c]``, from which its 0/1 are drawn before ``shift``.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = base + spread * torch.randn(rows + 2000, len(base), generator=generator)
    labels = torch.bernoulli(logits.sigmoid(), generator=generator).int()
    scores = (logits + shift).sigmoid()
    postprocessor = Postprocessor("multilabel", len(base))
    postprocessor.thresholds.copy_(fit_thresholds(scores[:rows], labels[:rows]))
    fresh = scores[rows:]
    gains = []
    for average in ("micro", "macro"):
        at_half, fitted = (
            f1_score(labels[rows:], predicted, average=average, zero_division=0)
            for predicted in ((fresh >= 0.5).int(), postprocessor.predict(fresh))
        )
        gains.append(fitted - at_half)
    return gains, postprocessor.thresholds


# the best thresholds alone cost 0.06 of micro and 0.10 of macro F1 here
def test_thresholds_of_labels_with_few_positives_do_no_harm():
    base = torch.linspace(-14, -4, 40)
    gains, thresholds = zip(*(_gain(seed, base, 4.0) for seed in range(6)), strict=True)
    micro, macro = np.mean(gains, axis=0)
    assert micro > -0.005
    assert macro > -0.005
    for each in thresholds:  # ten labels with about one positive each, or none
        assert (each[:10] - each[:10].median()).abs().max() < 0.03


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_thresholds_of_miscalibrated_labels_with_many_positives_help(shift):
    (micro, macro), thresholds = _gain(0, torch.full((8,), -1.5), 3.0, shift, rows=600)
    assert min(micro, macro) > 0.05
    assert ((thresholds - 0.5) * shift > 0).all()


@pytest.mark.parametrize("used", [True, False])
def test_a_fit_keeps_what_validation_says_of_the_experts(used, make, monkeypatch, tmp_path):
    monkeypatch.setattr("epic_pl.nn.heads.choice.most_likely", lambda *_: int(not used))
    model, rows = make(num_classes=4, head=HeadConfig()), _rows("multiclass", 1, 32)
    averages = EMAWeightAveraging()
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, callbacks=[averages])
    trainer.fit(model, tiny_runs.loader(rows), tiny_runs.loader(rows, 5))
    output = model.eval()(next(iter(tiny_runs.loader(rows))))
    assert torch.equal(output.logits, output.candidates[:, int(not used)])
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    assert EPICModule.load_from_checkpoint(path).model.head.experts.chosen == int(not used)
    again = make(num_classes=4, head=HeadConfig(), warm_start=str(path))
    tiny_runs.trainer(tmp_path, max_epochs=0).fit(again, tiny_runs.loader(rows))
    assert again.model.head.experts.chosen == 0  # a new training decides anew


def test_a_probability_at_its_threshold_counts():
    postprocessor = Postprocessor("multilabel", 2)
    postprocessor.thresholds.copy_(torch.tensor([0.5, 0.25]))
    scores = torch.tensor([[0.5, 0.2], [0.49, 0.3]])
    assert postprocessor.predict(scores).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_are_float32_and_divided_by_the_temperature(task):
    logits = torch.randn(5, 4, dtype=torch.bfloat16)
    postprocessor = Postprocessor(task, 4)
    assert (postprocessor.thresholds is None) == (task == "multiclass")
    assert torch.equal(postprocessor(logits), postprocessor.uncalibrated(logits))
    postprocessor.temperature.fill_(2.5)
    for given, exact in (
        (postprocessor(logits), logits.double() / 2.5),
        (postprocessor.uncalibrated(logits), logits.double()),
    ):
        expected = exact.exp() / exact.exp().sum(1, keepdim=True)
        if task == "multilabel":
            expected = 1 / (1 + (-exact).exp())
        assert given.dtype == torch.float32
        assert_same(given, expected)


@pytest.mark.parametrize("task", TASKS)
def test_fit_takes_the_temperature_first_and_then_thresholds_of_what_is_given_out(task):
    logits, labels = drawn(task, 3.0)
    postprocessor = Postprocessor(task, 5)
    postprocessor.fit(logits, labels)
    expected = fit_temperature(logits, labels, task)
    assert float(postprocessor.temperature) == pytest.approx(expected, rel=0.03)
    if task == "multilabel":
        assert float(postprocessor.temperature) == pytest.approx(expected)
        thresholds = fit_thresholds((logits / expected).sigmoid(), labels)
        torch.testing.assert_close(postprocessor.thresholds, thresholds)
        postprocessor.fit(logits[:0], labels[:0])  # nothing to tune by
        torch.testing.assert_close(postprocessor.thresholds, thresholds)


def _rows(task, seed, count=12):
    return tiny_runs.samples(count, classes=4, multilabel=task == "multilabel", seed=seed)


def _held_out(task):
    """Validation rows, training rows among them; more labels hold, so that thresholds move."""
    if task == "multiclass":
        return _rows(task, 3)
    rows = _rows(task, 1, count=40)
    for row, other in zip(rows, _rows(task, 4, count=40), strict=True):
        row["labels"] |= other["labels"]
    return rows


def _logits(model, rows):
    (batch,) = tiny_runs.loader(rows, len(rows))
    with torch.no_grad():
        return model.eval()(batch).logits, batch["labels"]


@pytest.fixture(scope="module", params=TASKS)
def fitted(request, make, tmp_path_factory):
    """A task, a module that was validated after each of two epochs, and its checkpoint."""
    task, root = request.param, tmp_path_factory.mktemp("fitted")
    torch.manual_seed(0)
    shares = [0.5 if task == "multilabel" else 0.25] * 4
    names, optim = list("abcd"), {"lr": 3e-3}
    model = make(num_classes=4, task=task, class_names=names, class_frequencies=shares, optim=optim)
    trainer = tiny_runs.trainer(root, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(model, tiny_runs.loader(_rows(task, 1)), tiny_runs.loader(_held_out(task), 5))
    trainer.save_checkpoint(root / "fitted.ckpt")
    return task, model, root / "fitted.ckpt"


def test_fit_keeps_what_its_last_validation_gave(fitted):
    task, model, path = fitted
    expected = Postprocessor(task, 4)
    expected.fit(*_logits(model, _held_out(task)))
    fit = model.postprocessor
    assert LOWEST < float(fit.temperature) < HIGHEST
    assert float(fit.temperature) != pytest.approx(1.0)
    assert_same(fit.state_dict(), expected.state_dict(), trained=True)
    if task == "multilabel":
        assert len(set(fit.thresholds.tolist())) > 1
    again = EPICModule.load_from_checkpoint(path)
    assert not tiny_runs.differing(again.postprocessor.state_dict(), fit.state_dict())
    assert again.calibration_rows == len(_held_out(task))


# validate() used to refit both to the rows that it was given
def test_validate_and_test_leave_temperature_and_thresholds_as_they_are(fitted, tmp_path):
    task, model, path = fitted
    before = deepcopy(model.postprocessor.state_dict())
    others = tiny_runs.loader(_rows(task, 5), 5)
    trainer = tiny_runs.trainer(tmp_path)
    for loop in (trainer.validate, trainer.test):
        for source in ({}, {"ckpt_path": str(path), "weights_only": True}):
            loop(model, others, verbose=False, **source)
            assert not tiny_runs.differing(before, model.postprocessor.state_dict())


def test_the_sanity_check_fits_nothing_and_an_interrupted_validation_leaves_nothing(make, tmp_path):
    seen = []
    look = LambdaCallback(on_train_start=lambda *_: seen.append(deepcopy(model.postprocessor)))
    model, rows = make(num_classes=4, task="multilabel"), _rows("multilabel", 1)
    model.outputs.start()  # a validation that was interrupted
    model.outputs.add(tiny_runs.batch(4, multilabel=True, classes=4), 100 * torch.randn(4, 4))
    fresh = Postprocessor("multilabel", 4)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, callbacks=[look])
    trainer.fit(model, tiny_runs.loader(rows), tiny_runs.loader(rows, 5))
    assert not tiny_runs.differing(seen[0].state_dict(), fresh.state_dict())
    fresh.fit(*_logits(model, rows))
    fitted = model.postprocessor.state_dict()
    assert_same(fitted, fresh.state_dict(), trained=True)


def test_predictions_and_test_metrics_are_of_calibrated_probabilities(fitted, tmp_path):
    task, model, _ = fitted
    rows = _rows(task, 1, count=40)
    trainer = tiny_runs.trainer(tmp_path)
    parts = trainer.predict(model, tiny_runs.loader(rows, 7, drop=["labels"]))
    (tested,) = trainer.test(model, tiny_runs.loader(rows, 7), verbose=False)
    logits, labels = _logits(model, rows)
    post = model.postprocessor
    given = post(logits)
    assert_same(torch.cat([part["probabilities"] for part in parts]), given)
    for name, probabilities in (("ece", given), ("ece_uncalibrated", post.uncalibrated(logits))):
        assert_same(tested[f"test/{name}"], _ece(probabilities, labels))
    assert tested["test/ece"] != tested["test/ece_uncalibrated"]
    if task == "multilabel":
        for name, predicted in (
            ("f1_macro", given >= 0.5),
            ("f1_macro_tuned", given >= post.thresholds),
        ):
            reference = f1_score(labels, predicted, average="macro", zero_division=0)
            assert_same(tested[f"test/{name}"], reference)
        assert tested["test/f1_macro"] != tested["test/f1_macro_tuned"]


# validation used to measure the model without its interaction weight, test with it
def test_validation_and_test_measure_one_model(fitted, make, tmp_path):
    task, _, _ = fitted
    rows = tiny_runs.loader(_rows(task, 2, count=24), 5)
    model = make(num_classes=4, task=task, head={"boundary": True, "similarity": True})
    trainer = tiny_runs.trainer(tmp_path, max_epochs=2)
    trainer.fit(model, tiny_runs.loader(_rows(task, 1)), rows)
    fit = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (validated,) = trainer.validate(model, rows, verbose=False)
    if task == "multiclass":
        model.postprocessor.bias.zero_()  # the rest of calibration changes no decision
    (tested,) = trainer.test(model, rows, verbose=False)
    assert "val/f1_macro" in validated
    for name, value in validated.items():
        assert_same(fit[name], value)
        if name == "val/auroc":  # which the temperature changes with more than two classes
            continue
        # at 0.5 multilabel test metrics are of calibrated probabilities, with the same sign
        assert_same(tested[name.replace("val/", "test/")], value)
