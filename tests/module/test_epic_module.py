"""EPICModule in a plain Trainer: loops, optimisation, checkpoints, and what is refused."""

import itertools
import math
import time
import warnings
from copy import deepcopy

import lightning as L
import pytest
import torch

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.config import OptimConfig
from epic_pl.module.optim import build_optimizer, warmup_cosine
from epic_pl.nn.heads.inputs import Standardization
from epic_pl.run.epic_cli import build
from epic_pl.utils.errors import ConfigError, DataError, TrainingError
from epic_pl.utils.validate import check_batch
from tiny_runs import differing, trained
from tolerance import assert_same

MULTICLASS = ("accuracy", "f1_macro")
MULTILABEL = ("f1_micro", "f1_macro", "f1_samples", "f1_weighted")


@pytest.mark.parametrize(
    ("task", "classes", "names"),
    [
        ("multiclass", 2, MULTICLASS),
        ("multiclass", 3, MULTICLASS),
        ("multiclass", 6, (*MULTICLASS, "accuracy_top5")),
        ("multilabel", 4, MULTILABEL),
    ],
)
def test_a_plain_trainer_and_loader_run_all_four_loops(task, classes, names, make, tmp_path):
    multilabel = task == "multilabel"
    rows = tiny_runs.samples(8, classes=classes, multilabel=multilabel)
    model, trainer = make(num_classes=classes, task=task), tiny_runs.trainer(tmp_path, max_epochs=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(model, tiny_runs.loader(rows), tiny_runs.loader(rows))
    assert not [each for each in told if "eval mode" in str(each.message)]  # frozen encoders are
    expected = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *names)}
    ranking = "map" if multilabel else "auroc"
    expected.add(f"val/{ranking}")  # in training it would keep the scores of an epoch
    logged = set(trainer.callback_metrics)
    assert logged == expected | {"train/loss_step", "train/loss_epoch"}
    (tested,) = trainer.test(model, tiny_runs.loader(rows, 3), verbose=False)
    tuned = [f"{name}_tuned" for name in names] if multilabel else []
    more = (*tuned, ranking, "ece", "ece_uncalibrated")
    assert set(tested) == {f"test/{name}" for name in ("loss", *names, *more)}

    predictions = trainer.predict(model, tiny_runs.loader(rows, 3, drop=["labels"]))
    ids = [key for part in predictions for key in part["sample_id"]]
    assert ids == [row["sample_id"] for row in rows]
    probabilities = torch.cat([part["probabilities"] for part in predictions])
    assert probabilities.shape == (8, classes)
    if multilabel:
        return
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(8))
    labels = torch.stack([row["labels"] for row in rows])
    share = (probabilities.argmax(dim=1) == labels).float().mean()
    assert tested["test/accuracy"] == pytest.approx(float(share))


def test_head_and_prompts_follow_the_schedule_at_their_own_rates_step_by_step(make, tmp_path):
    rates = tiny_runs.Rates()
    model = make(optim={"lr": 1e-2, "prompt_lr": 1e-3, "warmup": 0.3, "weight_decay": 0.1})
    trainer = tiny_runs.trainer(tmp_path, max_epochs=5, callbacks=[rates])
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    factors = [warmup_cosine(step, 10, 0.3) for step in range(10)]
    assert factors[0] == pytest.approx(0.25)
    assert factors[3] == 1
    width = model.model.head.num_features
    for prefix, peak in (("head", 1e-2 * 1000 / width), ("prompts", 1e-3)):
        for suffix in ("", "_no_decay"):
            taken = [step[prefix + suffix] for step in rates.steps]
            assert taken == pytest.approx([peak * factor for factor in factors])
    decays = {g["name"]: g["weight_decay"] for g in trainer.optimizers[0].param_groups}
    assert decays == {"head": 0.1, "head_no_decay": 0, "prompts": 0.1, "prompts_no_decay": 0}


def test_without_an_end_the_rate_stays_at_its_peak(make, tmp_path):
    class Stopped(tiny_runs.Rates):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 5

    rates = Stopped()
    trainer = tiny_runs.trainer(tmp_path, max_epochs=-1, callbacks=[rates])
    trainer.fit(make(optim={"prompt_lr": 1e-2}), tiny_runs.loader(tiny_runs.samples()))
    assert {step["prompts"] for step in rates.steps} == {1e-2}


# it used to be trained without dropout and feature statistics
@pytest.mark.parametrize("method", ["EPIC", "FullFineTuning"])
def test_a_module_in_eval_mode_is_trained_as_any_other(method, make, tmp_path):
    weights, rows = [], tiny_runs.loader(tiny_runs.samples())
    for trains in (True, False):
        torch.manual_seed(0)
        model = make(method=method).train(trains)
        torch.manual_seed(0)
        tiny_runs.trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(model, rows, rows)
        weights.append(model.state_dict())
        thawed = method == "FullFineTuning"
        assert all(tower.encoder.training == thawed for tower in model.model.towers)
        assert model.model.head.training
    assert not differing(*weights)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": None}, "no labels.*predict"),
        ({"attention_mask": None}, "no 'attention_mask'"),
        ({"labels": torch.tensor(3)}, "'sample-0' has label 3.*num_classes"),
        ({"labels": torch.tensor(-1)}, "label -1"),
        ({"labels": torch.tensor(1.0)}, "labels are torch.float32"),
        ({"labels": torch.tensor([0, 1, 0])}, r"shape \(4, 3\)"),
        ({"pixel_values": torch.zeros(3, 16, 32)}, r"pixel_values .*\(4, 3, 16, 32\).*3, 32, 32"),
        ({"pixel_values": torch.zeros(1, 32, 32)}, r"pixel_values .*\(4, 1, 32, 32\).*3, 32, 32"),
    ],
)
def test_a_wrong_batch_is_refused_before_anything_is_trained(change, named, make, tmp_path):
    rows = [{**row, **change} for row in tiny_runs.samples(4)]
    drop = [key for key, value in change.items() if value is None]
    model, trainer = make(), tiny_runs.trainer(tmp_path, max_epochs=1)
    before = trained(model)
    for loop in (trainer.fit, trainer.validate, trainer.test):
        with pytest.raises(DataError, match=named):
            loop(model, tiny_runs.loader(rows, drop=drop))
    assert not differing(trained(model), before)


@pytest.mark.parametrize(("task", "wrong"), [("multiclass", 3), ("multilabel", 0.5)])
def test_a_wrong_label_late_in_an_epoch_is_named(task, wrong, make, tmp_path):
    rows = tiny_runs.samples(8, multilabel=task == "multilabel")
    for row in rows:
        row["labels"] = row["labels"].float() if task == "multilabel" else row["labels"]
    rows[6]["labels"] = torch.full_like(rows[6]["labels"], wrong)
    for loop in ("fit", "validate", "test"):
        with pytest.raises(DataError, match=rf"'sample-6' has label {wrong}"):
            getattr(tiny_runs.trainer(tmp_path, max_epochs=1), loop)(
                make(task=task), tiny_runs.loader(rows)
            )


@pytest.mark.parametrize("key", ["pixel_values", "input_ids", "image_present", "text_present"])
def test_a_batch_of_unequal_parts_or_no_dictionary_is_refused(key):
    made = tiny_runs.batch()
    made["image_present"] = made["text_present"] = torch.ones(4, dtype=torch.bool)
    check_batch(made, "multiclass", 3)
    with pytest.raises(DataError, match=rf"{key} has shape \(3.*4 samples"):
        check_batch({**made, key: made[key][:3]}, "multiclass", 3)
    with pytest.raises(DataError, match=rf"{key} has shape \(\)"):
        check_batch({**made, key: torch.tensor(True)}, "multiclass", 3)
    with pytest.raises(DataError, match="A batch is a list"):
        check_batch([made[key]], "multiclass", 3)


def test_predictions_need_ids(make, tmp_path):
    rows = tiny_runs.loader(tiny_runs.samples(), drop=["sample_id"])
    with pytest.raises(DataError, match="sample_id"):
        tiny_runs.trainer(tmp_path).predict(make(), rows)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_step_and_samples(value, make, monkeypatch, tmp_path):
    model = make()
    loss = model.compute_loss

    def compute_loss(logits, labels, batch):
        return loss(logits, labels, batch) * (
            float(value) if "sample-5" in batch["sample_id"] else 1
        )

    monkeypatch.setattr(model, "compute_loss", compute_loss)
    with pytest.raises(TrainingError) as error:
        tiny_runs.trainer(tmp_path, max_epochs=1).fit(model, tiny_runs.loader(tiny_runs.samples(8)))
    for part in (f"{value} at step 1", "sample-4, sample-5, sample-6, sample-7", "gradient_clip"):
        assert part in str(error.value)


def test_losses_of_validation_and_test_are_means_over_rows_and_nan_stays(make, tmp_path):
    model, trainer = make().eval(), tiny_runs.trainer(tmp_path)
    rows = tiny_runs.samples(7)
    (whole,) = tiny_runs.loader(rows, 7)
    with torch.no_grad():
        expected = float(model.loss(model(whole).logits, whole["labels"]))
    for loop, name in ((trainer.validate, "val/loss"), (trainer.test, "test/loss")):
        (logged,) = loop(model, tiny_runs.loader(rows, 3), verbose=False)
        assert logged[name] == pytest.approx(expected)
    rows[1]["pixel_values"] = torch.full((3, 32, 32), float("nan"))
    (logged,) = trainer.validate(model, tiny_runs.loader(rows, 3), verbose=False)
    assert math.isnan(logged["val/loss"])
    # validation resets its metrics in inference mode, training updates them outside of it
    rows = tiny_runs.loader(tiny_runs.samples(7), 3)
    tiny_runs.trainer(tmp_path, max_epochs=1, inference_mode=False).fit(model, rows, rows)


def test_steps_of_a_subclass_log_their_own_numbers_alone(make, tmp_path):
    class Own(EPICModule):
        def validation_step(self, batch, batch_idx):
            self.log("own", 1.0, batch_size=1)

        test_step = validation_step

    model, trainer = make(), tiny_runs.trainer(tmp_path)
    model.__class__ = Own
    for loop in (trainer.validate, trainer.test):
        assert loop(model, tiny_runs.loader(tiny_runs.samples(4)), verbose=False) == [{"own": 1.0}]


# training used to end in an AssertionError
def test_a_subclass_may_have_a_schedule_of_its_own(make, tmp_path):
    class Own(EPICModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.model.head.parameters(), lr=0.5)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    model, trainer = make(), tiny_runs.trainer(tmp_path, max_epochs=1)
    model.__class__ = Own
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples(4)))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


HOOKS = {
    *("setup", "on_fit_start", "on_train_start", "on_train_batch_start", "on_validation_start"),
    *("on_validation_epoch_end", "on_test_start", "on_test_epoch_end", "on_save_checkpoint"),
    "on_load_checkpoint",
}


# setup, on_fit_start and others used to end at EPICModule
def test_hooks_of_another_base_class_run_too(fitted, tmp_path):
    called = set()
    notes = {name: lambda *_, name=name: called.add(name) for name in HOOKS}

    class Subclass(EPICModule, type("Logbook", (L.LightningModule,), notes)):
        """EPICModule's hooks come before the other class's."""

    model, rows = Subclass(**fitted[0].hparams), tiny_runs.loader(tiny_runs.samples(4))
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    trainer.fit(model, rows, rows)
    trainer.save_checkpoint(tmp_path / "subclass.ckpt")
    trainer.test(model, rows, verbose=False)
    assert called == HOOKS - {"on_load_checkpoint"}
    Subclass.load_from_checkpoint(tmp_path / "subclass.ckpt")
    assert called == HOOKS


def test_from_config_is_what_the_command_line_builds(
    tmp_path, workdir, tiny_vit_dir, tiny_tokenizer_dir
):
    path = tiny_runs.table(tmp_path / "data")
    names = {"image": {"name": str(tiny_vit_dir)}, "text": {"name": str(tiny_tokenizer_dir)}}
    options = [f"--model.encoders.{side}.name={name['name']}" for side, name in names.items()]
    options += [f"--data.init_args.table={path}", "--model.encoders.text.pooling=auto"]
    options += ["--model.encoders.image_size=32"]
    built = build(["--config=table.yaml", *options]).module
    encoders = {**names, "image_size": 32}
    own = EPICModule.from_config("table.yaml", built.num_classes, encoders=encoders)
    for name in ("method", "head", "optim", "loss"):
        assert own.hparams[name] == built.hparams[name]
    assert own.encoders == built.encoders
    assert own.state_dict().keys() == built.state_dict().keys()
    head = EPICModule.from_config("table.yaml", 3, encoders=encoders, head={"boundary": False})
    assert head.hparams["head"]["similarity"]
    assert not head.hparams["head"]["boundary"]
    with pytest.raises(ConfigError, match=r"ddp.yaml has no section `model`"):
        EPICModule.from_config("ddp.yaml", 3)


# the running feature statistics are the one thing that sees the parts of a batch
@pytest.mark.parametrize("way", ["loop", "fabric"])
def test_a_loop_of_ones_own_trains_as_a_trainer_does(way, make, tmp_path):
    rows = tiny_runs.samples(8)
    module, expected = deepcopy(start := make(head={"network": "wide"})), deepcopy(start)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    expected.optim = module.optim = OptimConfig(warmup=0.0)
    expected.configure_optimizers = lambda: build_optimizer(expected.model, expected.optim)
    torch.manual_seed(0)
    trainer.fit(expected, tiny_runs.loader(rows))
    optimizer = build_optimizer(module.model, module.optim)
    trained, fabric = module, L.Fabric(accelerator="cpu", devices=1)
    if way == "fabric":
        trained, optimizer = fabric.setup(module, optimizer)
    torch.manual_seed(0)
    trained.train()
    for number, batch in enumerate(tiny_runs.loader(rows)):
        optimizer.zero_grad()
        loss = trained.training_step(batch, number)
        fabric.backward(loss) if way == "fabric" else loss.backward()
        optimizer.step()
    assert not tiny_runs.differing(tiny_runs.trained(module), tiny_runs.trained(expected))


def test_accumulated_gradients_are_those_of_one_large_batch(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Standardization, "_update", lambda *_: None)
    ends = []
    for size, parts in ((8, 4), (32, 1)):
        torch.manual_seed(0)
        model = make(head={**tiny_runs.HEAD, "dropout": 0.0}, options={"dropout": 0.0})
        trainer = tiny_runs.trainer(tmp_path, max_epochs=3, accumulate_grad_batches=parts)
        trainer.fit(model, tiny_runs.loader(tiny_runs.samples(32), size))
        assert trainer.global_step == 3
        ends.append(trained(model))
    assert_same(*ends, trained=True)


def test_a_step_frees_its_gradients_before_the_next_forward_pass(make, tmp_path):
    module, held = make(), []
    module.model.register_forward_pre_hook(
        lambda model, _: held.append(any(p.grad is not None for p in model.parameters()))
    )
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(module, tiny_runs.loader(tiny_runs.samples(16)))
    assert held == [False, True, False, True]  # those of the first half are needed


@pytest.mark.parametrize("method", ["EPIC", "LateFusionMLP"])
def test_a_missing_modality_that_training_never_lacked_is_harmless_and_told_once(
    method, make, tmp_path
):
    options = {"num_classes": 8, "task": "multilabel", "method": method}
    own = {"prompt_attention": "read_only"} if method == "EPIC" else {}
    model = make(options=own, optim={"prompt_lr": 0.1}, **options)
    rows = tiny_runs.samples(32, classes=8, multilabel=True)
    tiny_runs.trainer(tmp_path, max_epochs=5).fit(model, tiny_runs.loader(rows))
    assert model.model.head.never_missing == ["image", "text"]
    batch = tiny_runs.batch(32, classes=8, multilabel=True)
    model.eval()
    complete = model(batch).logits
    spread = complete.std()
    for name in ("image", "text"):
        batch[f"{name}_present"] = torch.zeros(32, dtype=torch.bool)
        assert (model(batch).logits - complete).abs().mean() < 3 * spread
        del batch[f"{name}_present"]
        lacking = [row | {f"{name}_present": torch.tensor(False)} for row in rows]
        trainer = tiny_runs.trainer(tmp_path)
        with pytest.warns(UserWarning, match=f"lack the {name}") as told:
            trainer.predict(model, tiny_runs.loader(lacking, 8))
        assert sum("lack the" in str(each.message) for each in told) == 1
    dropped = make(modality_dropout=0.5, **options)
    tiny_runs.trainer(tmp_path, max_epochs=1).fit(dropped, tiny_runs.loader(rows))
    assert dropped.model.head.never_missing == []


def test_training_starts_at_the_frequencies_of_the_labels(make):
    frequencies = [0.02, 0.3, 0.9]
    model = make(task="multilabel", class_frequencies=frequencies).eval()
    started = model(tiny_runs.batch(8)).logits.sigmoid().mean(dim=0)
    assert started.tolist() == pytest.approx(frequencies, abs=0.03)


@pytest.mark.parametrize("able", [True, False])
def test_auto_precision_is_that_of_the_hardware_whatever_a_clock_says(
    able, make, monkeypatch, caplog
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": able}, raising=False)
    # of two products in turn, the one in bfloat16 seems to take a second more or less
    seconds = itertools.cycle([0, 1, 1, 3] if able else [0, 3, 3, 4])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    module = make(encoders={"precision": "auto"})
    assert module.model.image_encoder.precision is None  # the device is not known yet
    with caplog.at_level("INFO"):
        module.check_device(torch.device("cpu"))
        module.check_device(torch.device("cpu"))
    dtype, chosen = (torch.bfloat16, "bf16") if able else (None, "same")
    assert {tower.encoder.precision for tower in module.model.towers} == {dtype}
    assert module.hparams["encoders"]["precision"] == module.encoders.precision == chosen
    assert module.hparams_initial["encoders"]["precision"] == chosen  # which loggers write
    assert caplog.text.count(f"run in {'bfloat16' if able else 'float32'}, since this cpu") == 1


def test_a_pass_before_a_fit_changes_nothing_of_the_fit(make, tmp_path):
    head = tiny_runs.HEAD | {"network": "wide"}
    rows, val = (tiny_runs.loader(tiny_runs.samples(40, seed=seed), 20) for seed in (0, 2))
    old = make(head=head)
    old.postprocessor.temperature.fill_(7)
    old.model.head.experts.chosen.fill_(1)
    path, ends = tmp_path / "old.ckpt", []
    tiny_runs.save(old, path)
    for before in (None, "validate", "test", "predict"):
        torch.manual_seed(0)
        model = make(head=head, warm_start=str(path), optim={"lr": 1e-2})
        trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
        if before:
            getattr(trainer, before)(model, val, ckpt_path=path, weights_only=True)
        torch.manual_seed(1)
        trainer.fit(model, rows, val)
        metrics = {name: value.clone() for name, value in trainer.callback_metrics.items()}
        ends.append({**model.state_dict(), **metrics})
        assert not tiny_runs.differing(ends[0], ends[-1]), before
