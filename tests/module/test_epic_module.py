"""EPICModule in a plain Trainer: loops, optimisation, checkpoints, and what is refused."""

import io
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

import tiny_runs
from epic_pl.errors import CheckpointError, ConfigError, DataError, TrainingError
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint
from epic_pl.module.config import (
    EncoderConfig,
    EncodersConfig,
    OptimConfig,
    PostprocessConfig,
    as_config,
)
from epic_pl.module.losses import LossConfig
from epic_pl.module.optim import warmup_cosine
from epic_pl.nn import EPICConfig, HeadConfig
from epic_pl.nn.encoders import Encoder
from epic_pl.nn.methods import METHODS
from epic_pl.validate import check_batch
from tiny_runs import differing, trained

NAMES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def fitted(make, tmp_path_factory):
    """A module trained for an epoch, and its checkpoint."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("fitted")
    model = make(class_names=NAMES, preprocessing={"image": {"size": 32}})
    trainer = tiny_runs.trainer(root, max_epochs=1)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    trainer.save_checkpoint(root / "fitted.ckpt")
    return model, root / "fitted.ckpt"


def _frozen(model):
    return {
        f"{name}.{key}": value.clone()
        for name, child in model.named_modules()
        if isinstance(child, Encoder)
        for key, value in child.state_dict().items()
    }


MULTICLASS = ("accuracy", "f1_macro")
BINARY = (*MULTICLASS, "auroc")
MULTILABEL = ("f1_micro", "f1_macro", "f1_samples", "f1_weighted")


@pytest.mark.parametrize(
    ("task", "classes", "names"),
    [
        ("multiclass", 2, BINARY),
        ("multiclass", 3, MULTICLASS),
        ("multiclass", 6, (*MULTICLASS, "accuracy_top5")),
        ("multilabel", 4, MULTILABEL),
    ],
)
def test_a_plain_trainer_and_loader_run_all_four_loops(task, classes, names, make, tmp_path):
    multilabel = task == "multilabel"
    rows = tiny_runs.samples(8, classes=classes, multilabel=multilabel)
    model, trainer = make(num_classes=classes, task=task), tiny_runs.trainer(tmp_path, max_epochs=1)
    trainer.fit(model, tiny_runs.loader(rows), tiny_runs.loader(rows))
    expected = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *names)}
    logged = set(trainer.callback_metrics)
    assert logged == expected | {"train/loss_step", "train/loss_epoch"}
    (tested,) = trainer.test(model, tiny_runs.loader(rows, 3), verbose=False)
    tuned = [f"{name}_tuned" for name in names] if multilabel else []
    calibration = ("ece", "ece_uncalibrated")
    assert set(tested) == {f"test/{name}" for name in ("loss", *names, *tuned, *calibration)}

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


def test_fit_starts_with_the_parameter_table(make, tmp_path, capsys):
    tiny_runs.trainer(tmp_path, max_steps=1).fit(make(), tiny_runs.loader(tiny_runs.samples()))
    printed = capsys.readouterr().out
    for part in ("image encoder", "text encoder", "prompts", "interaction hub", "head", "total"):
        assert part in printed
    assert "Trainable share: " in printed


class Rates(L.Callback):
    """Notes each step's learning rates by group."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append({group["name"]: group["lr"] for group in optimizer.param_groups})


class StopAfter(L.Callback):
    """Ends a training that has no end."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.steps


def test_head_and_prompts_follow_the_schedule_at_their_own_rates_step_by_step(make, tmp_path):
    rates = Rates()
    optim = {"lr": 1e-2, "prompt_lr": 1e-3, "warmup": 0.3, "weight_decay": 0.1}
    model = make(optim=optim)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=5, callbacks=[rates])
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    factors = [warmup_cosine(step, 10, 0.3) for step in range(10)]
    assert factors[0] == pytest.approx(0.25)
    assert factors[3] == 1
    for prefix, peak in (("head", 1e-2), ("prompts", 1e-3)):
        for suffix in ("", "_no_decay"):
            taken = [step[prefix + suffix] for step in rates.steps]
            assert taken == pytest.approx([peak * factor for factor in factors])
    decays = {g["name"]: g["weight_decay"] for g in trainer.optimizers[0].param_groups}
    assert decays == {"head": 0.1, "head_no_decay": 0, "prompts": 0.1, "prompts_no_decay": 0}


def test_without_an_end_the_rate_stays_at_its_peak(make, tmp_path):
    rates = Rates()
    stop = StopAfter(5)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=-1, callbacks=[rates, stop])
    trainer.fit(make(optim={"lr": 1e-2}), tiny_runs.loader(tiny_runs.samples()))
    assert {step["head"] for step in rates.steps} == {1e-2}


def test_frozen_weights_stay_bit_identical_and_trained_ones_all_move(make, tmp_path):
    model = make(modality_dropout=0.5)
    frozen, before = _frozen(model), trained(model)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=3)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples(16)))
    assert all(torch.equal(value, frozen[key]) for key, value in _frozen(model).items())
    after = trained(model)
    assert set(differing(before, after)) == set(before)


def test_train_never_wakes_an_encoder(make, tmp_path):
    model = make().train()
    encoders = [m for m in model.modules() if isinstance(m, Encoder)]
    assert len(encoders) == 2
    assert not any(part.training for encoder in encoders for part in encoder.modules())
    assert model.model.head.training
    tiny_runs.trainer(tmp_path, max_steps=1).fit(model, tiny_runs.loader(tiny_runs.samples()))
    assert not any(part.training for encoder in encoders for part in encoder.modules())


@pytest.mark.parametrize("absent", ["image", "text"])
def test_prediction_with_one_modality_does_not_depend_on_the_other(absent, make, tmp_path):
    model, trainer = make().eval(), tiny_runs.trainer(tmp_path)
    key, other = {
        "image": ("pixel_values", torch.randn(3, 32, 32)),
        "text": ("input_ids", torch.randint(5, 60, (6,))),
    }[absent]
    rows = [row | {f"{absent}_present": torch.tensor(False)} for row in tiny_runs.samples(4)]
    changed = [row | {key: other} for row in rows]
    results = [
        trainer.predict(model, tiny_runs.loader(each, drop=["labels"]))[0]["probabilities"]
        for each in (rows, changed, tiny_runs.samples(4))
    ]
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert not torch.allclose(results[0], results[2], atol=1e-4)


def test_modality_dropout_acts_in_training_only(make):
    batch = next(iter(tiny_runs.loader(tiny_runs.samples())))
    model = make(modality_dropout=1.0, epic={"dropout": 0.0}, head={"dropout": 0.0})
    torch.manual_seed(0)
    dropped = model.train()(batch)
    assert not torch.allclose(dropped, model.eval()(batch), atol=1e-4)
    assert torch.equal(model(batch), model(batch))


# ------------------------------------------------------------------ checkpoints


def test_a_checkpoint_is_small_plain_and_holds_no_encoder(fitted):
    model, path = fitted
    checkpoint = torch.load(path, weights_only=True)
    held = set(checkpoint["state_dict"])
    assert set(trained(model)) < held
    # running statistics, and what is fitted on validation
    rest = {key.rpartition(".")[2] for key in held - set(trained(model))}
    assert rest == {"mean", "variance", "count", "temperature"}
    assert path.stat().st_size < 120_000  # the encoders alone have 300 kB

    assert tiny_runs.is_plain(dict(checkpoint["hyper_parameters"]))
    assert tiny_runs.is_plain(checkpoint["epic_pl"])
    assert checkpoint["epic_pl"]["class_names"] == ["blue", "green", "red"]
    assert checkpoint["epic_pl"]["preprocessing"] == {"image": {"size": 32}}


def test_load_from_checkpoint_gives_the_same_logits_and_names(fitted, tmp_path):
    model, path = fitted
    batch = next(iter(tiny_runs.loader(tiny_runs.samples())))
    with path.open("rb") as file:
        for source in (path, str(path), file, io.BytesIO(path.read_bytes())):
            loaded = EPICModule.load_from_checkpoint(source)
            assert torch.equal(loaded.eval()(batch), model.eval()(batch))
    assert loaded.class_names == NAMES
    assert dict(loaded.hparams) == dict(model.hparams)
    with pytest.raises(ConfigError, match="leave out hparams_file"):
        EPICModule.load_from_checkpoint(path, hparams_file=tmp_path / "hparams.yaml")


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch pwned", "shell": True}}


@pytest.mark.parametrize(
    "options",
    [
        {"method_options": {"a": POPEN}},
        {"method_options": "{a: {class_path: trap_module.Trap}}"},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "method_options": POPEN},
    ],
    ids=["nested", "string", "instantiator"],
)
@pytest.mark.parametrize("opened", [False, True], ids=["path", "open file"])
def test_classes_that_a_checkpoint_names_are_not_built(
    options, opened, fitted, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap_module.py").write_text("open('pwned', 'w')")
    checkpoint = read_checkpoint(str(fitted[1]))
    checkpoint["hyper_parameters"] |= options
    torch.save(checkpoint, "trap.ckpt")
    source = io.BytesIO((tmp_path / "trap.ckpt").read_bytes()) if opened else "trap.ckpt"
    with pytest.raises(CheckpointError, match="name a class to build"):
        EPICModule.load_from_checkpoint(source)
    assert not (tmp_path / "pwned").exists()


def test_every_nested_option_survives_a_checkpoint_as_plain_types(
    tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    configs = {
        "encoders": EncodersConfig(
            EncoderConfig(str(tiny_vit_dir), "v1", "mean"),
            EncoderConfig(str(tiny_tokenizer_dir), pooling="mean"),
            image_size=16,
            precision="bf16",
            checkpoint_layers=True,
        ),
        "epic": EPICConfig(3, [[0, 1], [2, 2]], "read_only", "parameter_free", 7, "linear"),
        "head": HeadConfig(boundary=True, similarity=True, unimodal=True, dropout=0.3),
        "loss": LossConfig(0.2, "balanced", None, 1.5, [0.5, 0.25, 0.25]),
        "optim": OptimConfig(0.1, 0.2, 0.3, 0.4),
        "postprocess": PostprocessConfig(calibrate=False),
    }
    configs["epic"] = replace(
        configs["epic"], first_prompt="from_text", prompt_init_std=0.5, dropout=0.4
    )
    model = EPICModule(3, method_options={"num_prompts": 2}, modality_dropout=0.1, **configs)
    trainer = tiny_runs.trainer(tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "nested.ckpt")
    assert torch.load(tmp_path / "nested.ckpt", weights_only=True)["hyper_parameters"]
    loaded = EPICModule.load_from_checkpoint(tmp_path / "nested.ckpt")
    for name, config in configs.items():
        assert type(loaded.hparams[name]) is dict
        # no option is at its default, so each would be missed
        assert as_config(type(config), loaded.hparams[name]) == config
    assert loaded.model.config == replace(configs["epic"], num_prompts=2)
    assert loaded.loss.class_weights.tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert dict(loaded.hparams) == dict(model.hparams)
    assert not differing(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epic": {"hub_widht": 8}}, "EPICConfig has no hub_widht; it has .*hub_width"),
        ({"optim": {"lr": 0.1, "lrr": 0.1}}, "OptimConfig has no lrr"),
        ({"encoders": {"image": {"nmae": "x"}}}, "EncoderConfig has no nmae"),
        ({"encoders": {"image": {}}}, "EncoderConfig: .*'name'"),
        ({"encoders": {"image": "vit"}}, "EncoderConfig is made of named options, not of 'vit'"),
    ],
    ids=str,
)
def test_unknown_missing_and_misplaced_options_are_refused_by_name(options, named, make):
    with pytest.raises(ConfigError, match=named):
        make(**options)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_what_was_trained_in_another_precision_loads_and_goes_on(precision, make, tmp_path):
    rows, path = tiny_runs.loader(tiny_runs.samples()), tmp_path / "trained.ckpt"
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, precision=precision)
    trainer.fit(make(), rows)
    trainer.save_checkpoint(path)
    loaded = EPICModule.load_from_checkpoint(path).state_dict()
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(loaded[key], value.to(loaded[key])) for key, value in saved.items())
    on = tiny_runs.trainer(tmp_path, max_epochs=2, precision=precision)
    on.fit(make(), rows, ckpt_path=str(path), weights_only=True)
    assert on.current_epoch == 2


def test_other_encoder_weights_are_refused_by_fingerprint(
    fitted, tmp_path, tiny_vit_dir, tiny_tokenizer_dir
):
    weights = load_file(tiny_vit_dir / "model.safetensors")
    weights["blocks.0.attn.qkv.weight"][0, 0] += 1
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny_vit_dir / "config.json").read_text())
    encoders = dict(fitted[0].hparams["encoders"]) | {"image": {"name": str(tmp_path)}}
    with pytest.raises(CheckpointError) as error:
        EPICModule.load_from_checkpoint(fitted[1], encoders=encoders)
    for part in ("image encoder", str(tiny_vit_dir), str(tmp_path), "model.encoders.image"):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match="fingerprint"):
        tiny_runs.module(tmp_path, tiny_tokenizer_dir, warm_start=str(fitted[1]))


def _rename(state):
    state["model.head.classifier.weigth"] = state.pop("model.head.classifier.weight")


def _miss(state):
    del state["model.prompts.first_text"]


def _add(state):
    state["model.surplus"] = torch.zeros(1)


def _diverge(state):
    state["model.prompts.first_text"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            _rename,
            r"lacks model\.head\.classifier\.weight and it has model\.head\.classifier\.weigth",
        ),
        (_miss, r"lacks model\.prompts\.first_text"),
        (_add, r"has model\.surplus, unknown here"),
        (_diverge, r"model\.prompts\.first_text holds NaN"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused_by_its_key(change, named, fitted, make, tmp_path):
    _, path = fitted
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointError, match=named):
        EPICModule.load_from_checkpoint(tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointError, match=named):
        tiny_runs.trainer(tmp_path).test(
            make(),
            tiny_runs.loader(tiny_runs.samples()),
            ckpt_path=str(tmp_path / "changed.ckpt"),
            weights_only=True,
        )


def test_classes_that_had_no_names_can_be_given_some(make, tmp_path):
    path = tmp_path / "nameless.ckpt"
    trainer = tiny_runs.trainer(tmp_path, max_steps=1)
    trainer.fit(make(), tiny_runs.loader(tiny_runs.samples()))
    trainer.save_checkpoint(path)
    assert EPICModule.load_from_checkpoint(path, class_names=NAMES).class_names == NAMES
    assert EPICModule.load_from_checkpoint(path).class_names == ["0", "1", "2"]


def test_warm_start_takes_weights_but_neither_optimiser_nor_epoch(fitted, make, tmp_path):
    model, path = fitted
    warm = make(warm_start=str(path), optim={"lr": 5e-3})
    assert not differing(trained(warm), trained(model))
    assert "warm_start" not in warm.hparams
    rates = Rates()
    trainer = tiny_runs.trainer(tmp_path, max_epochs=2, callbacks=[rates])
    trainer.fit(warm, tiny_runs.loader(tiny_runs.samples()))
    assert trainer.current_epoch == 2
    assert trainer.global_step == len(rates.steps) == 4
    assert max(step["head"] for step in rates.steps) == pytest.approx(5e-3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_classes": 4}, "number of classes"),
        ({"method": "linear_probe"}, "it has .*unknown here"),
        # they were taken, and every class got another one's weights
        ({"class_names": ["blue", "red", "green"]}, "class 1 is 'green', the data's is 'red'"),
        ({"class_names": ["blue", "green", "lime"]}, "class 2 is 'red', the data's is 'lime'"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused(options, named, fitted, make):
    with pytest.raises(CheckpointError, match=named):
        make(warm_start=str(fitted[1]), **options)


def test_a_warm_start_of_an_earlier_format_is_refused(fitted, make, tmp_path):
    checkpoint = read_checkpoint(str(fitted[1]))
    checkpoint["epic_pl"]["format_version"] = 1
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="format 1"):
        make(warm_start=str(tmp_path / "old.ckpt"))


class _Draws(L.Callback):
    def on_train_batch_end(self, *_):
        self.number = torch.rand(1).item()


def test_a_new_fit_of_loaded_weights_draws_as_its_own_seed_says(fitted, tmp_path):
    draws = []
    for seed in (0, 1):
        model = EPICModule.load_from_checkpoint(fitted[1])
        L.seed_everything(seed)
        draw = _Draws()
        trainer = tiny_runs.trainer(tmp_path, max_steps=1, callbacks=[draw])
        trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
        draws.append(draw.number)
    assert draws[0] != draws[1]


def test_callbacks_of_others_still_find_their_metric(make, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max", filename="best")
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1, callbacks=[best], enable_checkpointing=True)
    rows = tiny_runs.loader(tiny_runs.samples())
    trainer.fit(make(), rows, rows)
    assert read_checkpoint(str(tmp_path / "best.ckpt"))["epoch"] == 0


# ------------------------------------------------------------------ bad batches


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": None}, "no labels.*predict"),
        ({"attention_mask": None}, "no 'attention_mask'"),
        ({"labels": torch.tensor(3)}, r"outside 0 to 2: num_classes \(3\)"),
        ({"labels": torch.tensor(-1)}, "is -1"),
        ({"labels": torch.tensor([0, 1, 0])}, r"shape \(4, 3\)"),
    ],
)
@pytest.mark.parametrize("loop", ["fit", "validate", "test"])
def test_a_wrong_batch_is_refused_before_anything_istrained(change, named, loop, make, tmp_path):
    rows = [{**row, **change} for row in tiny_runs.samples(4)]
    drop = [key for key, value in change.items() if value is None]
    model = make()
    before = trained(model)
    with pytest.raises(DataError, match=named):
        getattr(tiny_runs.trainer(tmp_path, max_epochs=1), loop)(
            model, tiny_runs.loader(rows, drop=drop)
        )
    assert all(torch.equal(value, before[key]) for key, value in trained(model).items())


@pytest.mark.parametrize("key", ["pixel_values", "input_ids", "image_present", "text_present"])
def test_a_batch_of_unequal_parts_is_refused(key):
    made = next(iter(tiny_runs.loader(tiny_runs.samples(4))))
    made["image_present"] = made["text_present"] = torch.ones(4, dtype=torch.bool)
    check_batch(made, "multiclass", 3)
    with pytest.raises(DataError, match=rf"{key} has shape \(3.*4 samples"):
        check_batch({**made, key: made[key][:3]}, "multiclass", 3)
    with pytest.raises(DataError, match=rf"{key} has shape \(\)"):
        check_batch({**made, key: torch.tensor(True)}, "multiclass", 3)


def test_predictions_need_ids(make, tmp_path):
    with pytest.raises(DataError, match="sample_id"):
        tiny_runs.trainer(tmp_path).predict(
            make(), tiny_runs.loader(tiny_runs.samples(), drop=["sample_id"])
        )


def test_a_loss_that_is_not_finite_names_step_and_samples(make, tmp_path):
    rows = tiny_runs.samples(8)
    rows[5]["pixel_values"] = torch.full((3, 32, 32), float("nan"))
    with pytest.raises(TrainingError) as error:
        tiny_runs.trainer(tmp_path, max_epochs=1).fit(make(), tiny_runs.loader(rows))
    for part in ("nan at step 1", "sample-4, sample-5, sample-6, sample-7", "gradient_clip_val"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": 1, "task": "multilabel"}, "question of two classes"),
        ({"class_names": ["a", "b"]}, "class_names has 2"),
        ({"task": "multilabel", "loss": {"pos_weight": [1.0]}}, "pos_weight has 1"),
        ({"epic": {"interaction_layers": 9}}, "3 and 3 layers"),
        ({"optim": {"warmup": 500}}, "warmup is a probability, not 500"),
        ({"optim": {"lr": 0.0}}, "lr must be positive"),
        ({"modality_dropout": -0.1}, "modality_dropout is a probability"),
        ({"head": {"dropout": 2.0}}, "dropout is a probability"),
        ({"epic": {"hub": "sometimes"}}, "hub is 'sometimes', but may be 'bottleneck'"),
        ({"encoders": {"precision": "fp8"}}, "precision is 'fp8', but may be 'same'"),
        ({"loss": {"class_weights": "balanced"}}, "needs class_frequencies"),
        ({"loss": {"pos_weight": [1.0] * 3}}, "pos_weight is for multilabel tasks"),
        ({"task": "multilabel", "loss": {"class_weights": [1.0] * 3}}, "use pos_weight instead"),
        ({"loss": {"class_weights": [1.0, 2.0]}}, "class_weights has 2 entries"),
        ({"loss": {"class_weights": [1.0, -2.0, 1.0]}}, "at least 0"),
        ({"loss": {"class_weights": [1.0, float("nan"), 1.0]}}, "finite"),
        ({"loss": {"class_frequencies": [0.5, 0.5]}}, "class_frequencies has 2 entries"),
        ({"loss": {"focal_gamma": -1.0}}, "focal_gamma must be finite"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options, words, make):
    with pytest.raises(ConfigError, match=words):
        make(**options)


# ------------------------------------------------------------------ missing modalities


# zeros were expected there: NaN in place of a missing image became NaN logits
@pytest.mark.parametrize("name", METHODS)
def test_what_stands_in_place_of_a_missing_modality_changes_nothing(name, make):
    batch = next(iter(tiny_runs.loader(tiny_runs.samples())))
    batch["image_present"] = torch.tensor([True, False, True, False])
    batch["text_present"] = torch.tensor([True, True, False, True])
    broken = {**batch, "pixel_values": batch["pixel_values"].clone()}
    broken["pixel_values"][[1, 3]] = float("nan")
    batch["pixel_values"][[1, 3]] = 0
    head = {"boundary": True, "similarity": True, "unimodal": True, "dropout": 0.0}
    losses, gradients = [], []
    for each in (batch, broken):
        torch.manual_seed(0)
        model = make(method=name, head=head, epic={"dropout": 0.0}).train()
        model.log = model.log_dict = lambda *_, **__: None
        torch.manual_seed(0)
        loss = model.training_step(each, 1)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
        gradients[-1]["logits"] = model.eval()(each).detach()
    assert torch.equal(*losses)
    assert not differing(*gradients)
    assert all(bool(torch.isfinite(value).all()) for value in gradients[1].values())


# ------------------------------------------------------------------ subclasses


HOOKS = {
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_validation_epoch_start",
    "on_validation_epoch_end",
    "on_save_checkpoint",
    "on_load_checkpoint",
}


class Logbook(L.LightningModule):
    """Notes the hooks that reach it."""


def _noting(name):
    def hook(self, *args):
        self.__dict__.setdefault("called", set()).add(name)
        return getattr(super(Logbook, self), name)(*args)

    return hook


for _name in HOOKS:
    setattr(Logbook, _name, _noting(_name))


class Subclass(EPICModule, Logbook):
    """EPICModule's hooks come before the other class's."""


# setup, on_fit_start and others did not reach it
def test_hooks_of_another_base_class_run_too(fitted, tmp_path):
    model = Subclass(**fitted[0].hparams)
    rows = tiny_runs.loader(tiny_runs.samples(4))
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    trainer.fit(model, rows, rows)
    trainer.save_checkpoint(tmp_path / "subclass.ckpt")
    assert model.called == HOOKS - {"on_load_checkpoint"}
    assert "on_load_checkpoint" in Subclass.load_from_checkpoint(tmp_path / "subclass.ckpt").called
