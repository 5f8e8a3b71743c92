import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.classification import BinaryCalibrationError

import tiny_runs
from epic_pl.errors import CheckpointError
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint
from epic_pl.module.metrics import F1Thresholds
from epic_pl.module.postprocess import (
    BINS,
    HIGHEST,
    LOWEST,
    ValidationFit,
    calibration_error,
    error_by_chance,
    fit_interaction_weight,
    fit_temperature,
    move_thresholds,
)

TASKS = ("multiclass", "multilabel")


def _drawn(task, sharpness, count=400, classes=5, seed=0):
    """Logits whose labels are drawn from the probabilities at ``logits / sharpness``."""
    generator = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(count, classes, generator=generator)
    if task == "multilabel":
        labels = torch.bernoulli(true.sigmoid(), generator=generator).int()
    else:
        labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator)[:, 0]
    return true * sharpness, labels


def _loss(logits, labels, task):
    """Mean negative log-likelihood, one pseudo-sample of two being wrong."""
    count, classes = logits.shape
    wrong = 1 / (count + 2)
    if task == "multilabel":
        targets = torch.where(labels > 0, 1 - wrong, wrong)
        return F.binary_cross_entropy_with_logits(logits.double(), targets.double())
    # torch spreads the smoothing over all classes, the right one too
    smoothing = wrong * classes / (classes - 1)
    return F.cross_entropy(logits.double(), labels, label_smoothing=smoothing)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_where_a_dense_search_finds_the_lowest_loss(task, sharpness):
    logits, labels = _drawn(task, sharpness)
    tried = torch.logspace(-1, 1, 20_001, dtype=torch.float64)
    losses = [float(_loss(logits / t, labels, task)) for t in tried[::100]]
    near = 100 * int(np.argmin(losses))
    window = tried[max(near - 100, 0) : near + 101]
    best = window[int(np.argmin([float(_loss(logits / t, labels, task)) for t in window]))]
    fitted = fit_temperature(logits, labels, task)
    assert fitted == pytest.approx(float(best), rel=3e-4)
    assert fitted == pytest.approx(sharpness, rel=0.2)  # what the labels were drawn with


@pytest.mark.parametrize("task", TASKS)
def test_logits_that_say_nothing_leave_it_and_those_that_are_all_wrong_meet_the_bound(task):
    logits, labels = _drawn(task, 1.0)
    broken = logits.clone()
    broken[3, 1] = float("nan")
    for silent in (logits[:0], torch.zeros_like(logits), broken):
        assert fit_temperature(silent, labels[: len(silent)], task) == 1.0
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
        assert given.max() == pytest.approx((count + 1) / (count + 2), abs=1e-4)


def test_many_mistakes_outweigh_the_two_samples_more():
    logits, labels = _drawn("multiclass", 3.0, count=4000)
    tried = torch.linspace(2.5, 3.5, 401)
    losses = [float(F.cross_entropy(logits / temperature, labels)) for temperature in tried]
    plain = float(tried[int(np.argmin(losses))])
    assert fit_temperature(logits, labels, "multiclass") == pytest.approx(plain, rel=0.01)


def test_batches_are_fitted_as_one():
    logits, labels = _drawn("multiclass", 2.0)
    metric = ValidationFit("multiclass")
    assert metric.compute().tolist() == [1, 1]
    metric.reset()
    for part in range(0, 400, 90):
        metric.update(logits[part : part + 90].bfloat16().float(), labels[part : part + 90])
    expected = fit_temperature(logits.bfloat16().float(), labels, "multiclass")
    weight, temperature = metric.compute().tolist()
    assert weight == 1  # nothing to weigh
    assert temperature == pytest.approx(expected)


# ------------------------------------------------------------------ the interaction's weight


def _believed(true_share, task, count=400, seed=0):
    """Logits whose labels are drawn from ``pooled + true_share * (logits - pooled)``."""
    generator = torch.Generator().manual_seed(seed)
    pooled, added = 1.5 * torch.randn(2, count, 5, generator=generator)
    true = pooled + true_share * added
    if task == "multilabel":
        return pooled + added, pooled, torch.bernoulli(true.sigmoid(), generator=generator).int()
    labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator)[:, 0]
    return pooled + added, pooled, labels


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("true_share", [0.0, 0.3, 1.0, 1.6])
def test_the_weight_is_what_labels_were_drawn_with_whatever_the_temperature(task, true_share):
    logits, pooled, labels = _believed(true_share, task)
    weight = fit_interaction_weight(logits, pooled, labels, task)
    assert weight == pytest.approx(true_share, abs=0.2)
    assert fit_interaction_weight(5 * logits, 5 * pooled, labels, task) == pytest.approx(weight)


@pytest.mark.parametrize("task", TASKS)
def test_the_weight_is_the_mean_under_the_likelihoods(task):
    logits, pooled, labels = _believed(0.5, task, count=12)
    weights = np.linspace(0, 2, 11)
    likelihoods = []
    for weight in weights:
        weighed = (pooled + weight * (logits - pooled)).double()
        losses = [_loss(weighed / t, labels, task) for t in np.logspace(-1, 1, 400)]
        terms = labels.numel() if task == "multilabel" else len(labels)
        likelihoods.append(np.exp(-terms * float(min(losses))))
    expected = np.dot(weights, likelihoods) / np.sum(likelihoods)
    fitted = fit_interaction_weight(logits, pooled, labels, task)
    assert fitted == pytest.approx(expected, abs=1e-3)


def test_few_rows_leave_the_weight_near_one_and_none_or_broken_ones_at_one():
    logits, pooled, labels = _believed(0.0, "multiclass")
    few = fit_interaction_weight(logits[:2], pooled[:2], labels[:2], "multiclass")
    assert 0.7 < few < 1.2
    assert fit_interaction_weight(logits[:0], pooled[:0], labels[:0], "multiclass") == 1
    logits[3, 1] = torch.nan
    assert fit_interaction_weight(logits, pooled, labels, "multiclass") == 1


@pytest.mark.parametrize("attention", ["joint", "read_only"])
def test_a_fit_weighs_the_interaction_for_test_and_prediction_but_not_for_validation(
    attention, make, tmp_path
):
    model = make(prompt_attention=attention)
    rows = tiny_runs.samples(24, seed=1)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=2)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples(24)), tiny_runs.loader(rows, 5))
    weight = float(model.model.interaction_weight)
    assert 0 < weight < 2
    assert weight != pytest.approx(1, abs=0.01)
    assert float(trainer.logged_metrics["val/interaction_weight"]) == pytest.approx(weight)

    batch = next(iter(tiny_runs.loader(rows, len(rows))))
    model.eval()
    with torch.no_grad():
        given = model(batch)
        model.model.interaction_weight.fill_(1)
        full = model(batch)
        model.model.interaction_weight.fill_(0)
        pooled = model(batch)
    torch.testing.assert_close(given, torch.lerp(pooled, full, weight))
    assert not torch.allclose(given, full)
    expected = fit_interaction_weight(full, pooled, batch["labels"], "multiclass")
    assert weight == pytest.approx(expected, abs=1e-3)
    assert float(model.calibration_temperature) == pytest.approx(
        fit_temperature(given, batch["labels"], "multiclass"), rel=1e-3
    )
    # validation measures what it fits to without the fit, and finds the same again
    model.model.interaction_weight.fill_(0.123)
    (validated,) = trainer.validate(model, tiny_runs.loader(rows, 5), verbose=False)
    assert validated["val/loss"] == pytest.approx(
        float(model.objective(full, batch["labels"])), rel=1e-4
    )
    assert float(model.model.interaction_weight) == pytest.approx(weight, abs=1e-3)
    # and it travels, also from and to models without
    path = tmp_path / "weighed.ckpt"
    trainer.save_checkpoint(path)
    again = EPICModule.load_from_checkpoint(path)
    assert torch.equal(again.model.interaction_weight, model.model.interaction_weight)
    warm = make(prompt_attention=attention, warm_start=str(path))
    assert torch.equal(warm.model.interaction_weight, model.model.interaction_weight)
    without = EPICModule.load_from_checkpoint(path, weigh_interaction=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(without(batch), full)
    trainer.test(without, tiny_runs.loader(rows), verbose=False)
    trainer.save_checkpoint(path)
    back = EPICModule.load_from_checkpoint(path, weigh_interaction=True)
    assert back.model.interaction_weight == 1


def test_a_validation_that_is_cut_short_leaves_nothing(make, tmp_path):
    model, rows = make(), tiny_runs.samples(24, seed=1)
    model.validated.update(100 * torch.randn(4, 4), torch.tensor([0, 1, 2, 3]))
    tiny_runs.trainer(tmp_path).validate(model, tiny_runs.loader(rows), verbose=False)
    other = make()
    other.load_state_dict(model.state_dict())
    tiny_runs.trainer(tmp_path).validate(other, tiny_runs.loader(rows), verbose=False)
    assert torch.equal(model.calibration_temperature, other.calibration_temperature)


def test_without_calibration_each_weight_is_judged_at_the_temperature_one():
    logits, pooled, labels = _believed(0.8, "multiclass")
    sure = 4 * logits, 4 * pooled, labels
    calibrated = fit_interaction_weight(*sure, "multiclass")
    plain = fit_interaction_weight(*sure, "multiclass", calibrate=False)
    losses = [
        float(_loss(torch.lerp(sure[1], sure[0], float(w)), labels, "multiclass"))
        for w in np.linspace(0, 2, 11)
    ]
    assert plain == pytest.approx(0.2 * int(np.argmin(losses)), abs=0.1)
    assert plain < calibrated - 0.1
    metric = ValidationFit("multiclass", calibrate=False)
    metric.update(sure[0], labels, sure[1])
    assert metric.compute().tolist() == pytest.approx([plain, 1])


def test_without_weighing_and_without_anything_to_weigh_there_is_no_weight(make, tmp_path):
    alone = {"head_inputs": "pooled", "head_similarity": False, "prompt_attention": "joint"}
    for options in ({"weigh_interaction": False}, {"method": "linear_probe"}, alone):
        model = make(**options)
        rows = tiny_runs.loader(tiny_runs.samples(8))
        trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
        trainer.fit(model, rows, rows)
        assert model.model.interaction_weight is None
        assert "val/interaction_weight" not in trainer.logged_metrics
        assert "model.interaction_weight" not in model.state_dict()


def _ece(confidences, hits, bins=15):
    """Guo et al., eq. 3, one bin and one sample at a time."""
    total = 0.0
    for index in range(bins):
        inside = [
            (c, h)
            for c, h in zip(confidences, hits, strict=True)
            if min(int(c * bins), bins - 1) == index
        ]
        if inside:
            accuracy = sum(h for _, h in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("task", TASKS)
def test_the_calibration_error_is_that_of_a_loop_and_the_fit_lowers_it(task):
    logits, labels = _drawn(task, 4.0)
    errors = []
    for temperature in (1.0, fit_temperature(logits, labels, task)):
        scaled = logits / temperature
        given = scaled.sigmoid() if task == "multilabel" else scaled.softmax(dim=1)
        metric = calibration_error(task, 5)
        metric.update(given[:150], labels[:150])
        metric.update(given[150:], labels[150:])
        errors.append(float(metric.compute()))
        if task == "multilabel":
            reference = _ece(given.flatten().tolist(), labels.flatten().tolist())
        else:
            best, index = given.max(dim=1)
            reference = _ece(best.tolist(), (index == labels).tolist())
        assert errors[-1] == pytest.approx(reference, abs=1e-5)
    assert errors[1] < 0.5 * errors[0]


def test_moved_thresholds_assign_the_same_labels():
    logits, _ = _drawn("multilabel", 1.0)
    at, temperature = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]), torch.tensor(2.5)
    moved = move_thresholds(at, temperature)
    assert torch.equal(logits.sigmoid() >= moved, (logits / temperature).sigmoid() >= at)
    assert moved[[0, 2, 4]].tolist() == [0.0, 0.5, 1.0]


# ------------------------------------------------------------------ in the module


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    return lambda **options: tiny_runs.module(
        tiny_vit_dir, tiny_tokenizer_dir, num_classes=4, **options
    )


def _rows(task, seed, count=12):
    return tiny_runs.samples(count, classes=4, multilabel=task == "multilabel", seed=seed)


def _fit(model, task, root):
    trainer = tiny_runs.trainer(root, max_epochs=2)
    trainer.fit(
        model, tiny_runs.loader(_rows(task, 1)), tiny_runs.loader(_rows(task, 2), batch_size=5)
    )
    trainer.save_checkpoint(root / "fitted.ckpt")
    return model, root / "fitted.ckpt"


def _logits(model, rows):
    batch = next(iter(tiny_runs.loader(rows, len(rows))))
    with torch.no_grad():
        return model.eval()(batch), batch["labels"]


@pytest.mark.parametrize("task", TASKS)
def test_fit_leaves_the_temperature_of_its_last_validation_in_the_checkpoint(task, make, tmp_path):
    model, path = _fit(make(task=task, ema_decay=0.9, lr=1e-2), task, tmp_path)
    expected = fit_temperature(*_logits(model, _rows(task, 2)), task)  # of the averaged weights
    assert LOWEST < expected < HIGHEST
    assert expected != pytest.approx(1.0)
    assert float(model.calibration_temperature) == pytest.approx(expected, rel=1e-4)
    again = EPICModule.load_from_checkpoint(path)
    assert torch.equal(again.calibration_temperature, model.calibration_temperature)
    content = read_checkpoint(str(path))
    del content["state_dict"]["calibration_temperature"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="it lacks calibration_temperature"):
        EPICModule.load_from_checkpoint(path)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_calibrated_unless_told_otherwise_and_say_the_same(task, make, tmp_path):
    _, path = _fit(make(task=task, lr=1e-2), task, tmp_path)
    rows = _rows(task, 3)
    given, assigned = {}, {}
    for calibrate in (True, False):
        model = EPICModule.load_from_checkpoint(path, calibrate=calibrate)
        parts = tiny_runs.trainer(tmp_path).predict(model, tiny_runs.loader(rows, drop=["labels"]))
        given[calibrate] = torch.cat([part["probabilities"] for part in parts])
        logits, _ = _logits(model, rows)
        scaled = logits / model.calibration_temperature if calibrate else logits
        expected = scaled.sigmoid() if task == "multilabel" else scaled.softmax(dim=1)
        torch.testing.assert_close(given[calibrate], expected)
        if task == "multilabel":
            assigned[calibrate] = given[calibrate] >= model.label_thresholds()
        else:
            assigned[calibrate] = given[calibrate].argmax(dim=1)
    assert not torch.allclose(given[True], given[False], atol=1e-4)
    assert torch.equal(assigned[True], assigned[False])


def test_thresholds_are_tuned_on_the_probabilities_that_are_given_out(make, tmp_path):
    model, _ = _fit(make(task="multilabel", lr=1e-2), "multilabel", tmp_path)
    logits, labels = _logits(model, _rows("multilabel", 2))
    tuner = F1Thresholds(4)
    tuner.update((logits / model.calibration_temperature).sigmoid(), labels.int())
    assert torch.equal(model.thresholds, tuner.compute())
    assert model.label_thresholds() is model.thresholds


@pytest.mark.parametrize("task", TASKS)
def test_without_calibration_the_temperature_is_one_even_after_a_warm_start(task, make, tmp_path):
    _, path = _fit(make(task=task, lr=1e-2), task, tmp_path)
    warm = make(task=task, calibrate=False, warm_start=str(path))
    assert float(warm.calibration_temperature) != 1.0
    plain, _ = _fit(warm, task, tmp_path)
    assert float(plain.calibration_temperature) == 1.0
    if task == "multilabel":
        torch.testing.assert_close(plain.label_thresholds(), plain.thresholds)


@pytest.mark.parametrize("task", TASKS)
def test_test_logs_the_error_of_both(task, make, tmp_path):
    model, _ = _fit(make(task=task, lr=1e-2), task, tmp_path)
    rows = _rows(task, 3, count=40)
    (tested,) = tiny_runs.trainer(tmp_path).test(model, tiny_runs.loader(rows, 7), verbose=False)
    logits, labels = _logits(model, rows)
    for name, scale in (("ece", float(model.calibration_temperature)), ("ece_uncalibrated", 1.0)):
        if task == "multilabel":
            given = (logits / scale).sigmoid()
            reference = _ece(given.flatten().tolist(), labels.flatten().tolist())
        else:
            best, index = (logits / scale).softmax(dim=1).max(dim=1)
            reference = _ece(best.tolist(), (index == labels).tolist())
        assert tested[f"test/{name}"] == pytest.approx(reference, abs=1e-5)
    assert tested["test/ece"] != tested["test/ece_uncalibrated"]


@pytest.mark.parametrize("count", [200, 20_000])
def test_error_by_chance_is_that_of_answers_drawn_from_their_probabilities(count):
    generator = torch.Generator().manual_seed(3)
    sure = 0.4 + 0.6 * torch.rand(count, generator=generator)
    mean, low, high = error_by_chance(sure)
    errors = []
    for _ in range(60):
        metric = BinaryCalibrationError(n_bins=BINS, norm="l1")
        # of answers: torchmetrics pairs a probability with a label
        metric.update(sure.clamp(max=1 - 2**-24), torch.bernoulli(sure, generator=generator).int())
        errors.append(float(metric.compute()))
    errors = torch.tensor(errors)
    spread = float(errors.std())
    assert mean == pytest.approx(float(errors.mean()), abs=spread)
    assert low < mean < high
    assert low == pytest.approx(float(errors.quantile(0.05)), abs=2 * spread)
    assert high == pytest.approx(float(errors.quantile(0.95)), abs=2 * spread)


def test_answers_that_are_sure_leave_nothing_to_chance():
    assert error_by_chance(torch.ones(50)) == pytest.approx((0, 0, 0), abs=1e-6)
