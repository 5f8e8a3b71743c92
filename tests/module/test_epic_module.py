import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import f1_score

import tiny_runs
from epic_pl.errors import CheckpointError, ConfigError, DataError, TrainingError
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint
from epic_pl.module.metrics import F1Thresholds
from epic_pl.module.schedule import warmup_cosine
from epic_pl.nn.encoders import Encoder
from epic_pl.validate import check_batch


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    return lambda **options: tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, **options)


@pytest.fixture
def fitted(make, tmp_path):
    """A module trained for an epoch, and its checkpoint."""
    model = make(class_names=["blue", "green", "red"], preprocessing={"image": {"size": 32}})
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    path = tmp_path / "fitted.ckpt"
    trainer.save_checkpoint(path)
    return model, path


def _frozen(model):
    return {
        f"{name}.{key}": value.clone()
        for name, child in model.named_modules()
        if isinstance(child, Encoder)
        for key, value in child.state_dict().items()
    }


def _trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


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
    weight = "val/interaction_weight"
    assert logged == expected | {"train/loss_step", "train/loss_epoch", weight}
    trainer.validate(model, tiny_runs.loader(rows), verbose=False)
    (tested,) = trainer.test(model, tiny_runs.loader(rows, 3), verbose=False)
    tuned = [f"{name}_tuned" for name in names] if multilabel else []
    calibration = ("ece", "ece_uncalibrated")
    assert set(tested) == {f"test/{name}" for name in ("loss", *names, *tuned, *calibration)}

    predictions = trainer.predict(model, tiny_runs.loader(rows, 3, drop=["labels"]))
    ids = [key for part in predictions for key in part["sample_id"]]
    probabilities = torch.cat([part["probabilities"] for part in predictions])
    assert ids == [row["sample_id"] for row in rows]
    labels = torch.stack([row["labels"] for row in rows])
    if multilabel:
        assert probabilities.shape == (8, classes)
        hits = (probabilities >= 0.5) == labels.bool()
        true = ((probabilities >= 0.5) & labels.bool()).sum()
        assert tested["test/f1_micro"] == pytest.approx(
            float(2 * true / (2 * true + (~hits).sum()))
        )
    else:
        assert torch.allclose(probabilities.sum(dim=1), torch.ones(8))
        share = (probabilities.argmax(dim=1) == labels).float().mean()
        assert tested["test/accuracy"] == pytest.approx(float(share))


def test_fit_starts_with_the_parameter_table(make, tmp_path, capsys):
    tiny_runs.trainer(tmp_path, max_steps=1).fit(make(), tiny_runs.loader(tiny_runs.samples()))
    printed = capsys.readouterr().out
    for part in ("image encoder", "text encoder", "prompts", "interaction hub", "head", "total"):
        assert part in printed
    assert "Trainable share: 5.23% of the encoders' parameters" in printed


class Rates(L.Callback):
    """Notes each step's learning rates by group."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append({group["name"]: group["lr"] for group in optimizer.param_groups})


def test_head_and_prompts_follow_the_schedule_at_their_own_rates_step_by_step(make, tmp_path):
    rates = Rates()
    model = make(lr=1e-2, prompt_lr=1e-3, warmup=0.3, weight_decay=0.1)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=5, callbacks=[rates])
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    factors = [warmup_cosine(step, 10, 3) for step in range(10)]
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
    trainer = tiny_runs.trainer(tmp_path, max_epochs=-1, max_time={"seconds": 1}, callbacks=[rates])
    trainer.fit(make(lr=1e-2), tiny_runs.loader(tiny_runs.samples()))
    assert {step["head"] for step in rates.steps} == {1e-2}


def test_frozen_weights_stay_bit_identical_and_trained_ones_all_move(make, tmp_path):
    model = make(modality_dropout=0.5)
    frozen, trained = _frozen(model), _trained(model)
    trainer = tiny_runs.trainer(tmp_path, max_epochs=3)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples(16)))
    assert all(torch.equal(value, frozen[key]) for key, value in _frozen(model).items())
    still = [key for key, value in _trained(model).items() if torch.equal(value, trained[key])]
    assert not still


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
    model = make(modality_dropout=1.0, dropout=0.0)
    torch.manual_seed(0)
    dropped = model.train()(batch)
    assert not torch.allclose(dropped, model.eval()(batch), atol=1e-4)
    assert torch.equal(model(batch), model(batch))


# ------------------------------------------------------------------ checkpoints


def test_a_checkpoint_is_small_plain_and_holds_no_encoder(fitted):
    model, path = fitted
    checkpoint = torch.load(path, weights_only=True)
    on_validation = {"calibration_temperature", "model.interaction_weight"}
    assert set(checkpoint["state_dict"]) == {*_trained(model), *on_validation}
    assert path.stat().st_size < 120_000  # the encoders alone have 300 kB

    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    assert plain(dict(checkpoint["hyper_parameters"]))
    assert plain(checkpoint["epic_pl"])
    assert checkpoint["epic_pl"]["class_names"] == ["blue", "green", "red"]
    assert checkpoint["epic_pl"]["preprocessing"] == {"image": {"size": 32}}


def test_load_from_checkpoint_gives_the_same_logits_and_names(fitted):
    model, path = fitted
    loaded = EPICModule.load_from_checkpoint(path)
    batch = next(iter(tiny_runs.loader(tiny_runs.samples())))
    assert torch.equal(loaded.eval()(batch), model.eval()(batch))
    assert loaded.class_names == ["blue", "green", "red"]
    assert dict(loaded.hparams) == dict(model.hparams)


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


@pytest.fixture
def other_vit(tiny_vit_dir, tmp_path):
    """The same architecture with one weight changed."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other_vit"
    folder.mkdir()
    weights = load_file(tiny_vit_dir / "model.safetensors")
    weights["blocks.0.attn.qkv.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text((tiny_vit_dir / "config.json").read_text())
    return folder


def test_other_encoder_weights_are_refused_by_fingerprint(
    fitted, other_vit, tiny_vit_dir, tiny_tokenizer_dir
):
    _, path = fitted
    with pytest.raises(CheckpointError) as error:
        EPICModule.load_from_checkpoint(path, image_encoder=str(other_vit))
    for part in ("image encoder", str(tiny_vit_dir), str(other_vit), "model.image_encoder"):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match="fingerprint"):
        tiny_runs.module(other_vit, tiny_tokenizer_dir, warm_start=str(path))


def _rename(state):
    state["model.head.linear.weigth"] = state.pop("model.head.linear.weight")


def _miss(state):
    del state["model.prompts.text"]


def _add(state):
    state["model.surplus"] = torch.zeros(1)


def _diverge(state):
    state["model.prompts.text"][0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_rename, r"lacks model\.head\.linear\.weight and it has model\.head\.linear\.weigth"),
        (_miss, r"lacks model\.prompts\.text"),
        (_add, r"has model\.surplus, unknown here"),
        (_diverge, r"model\.prompts\.text holds NaN"),
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
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    trainer.fit(make(), tiny_runs.loader(tiny_runs.samples()))
    trainer.save_checkpoint(path)
    names = ["blue", "green", "red"]
    assert EPICModule.load_from_checkpoint(path, class_names=names).class_names == names
    assert EPICModule.load_from_checkpoint(path).class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warmup": 500}, "warmup is a share.*500"),
        ({"pooled_loss": -1.0}, "pooled_loss is at least 0"),
        ({"class_name_scale": -0.5}, "class_name_scale is at least 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_an_encoder_is_loaded(options, words):
    with pytest.raises(ConfigError, match=words):
        EPICModule("not/there", "not/there", 3, **options)


def test_other_class_count_is_refused(fitted, make):
    with pytest.raises(CheckpointError, match="number of classes"):
        make(num_classes=4, warm_start=str(fitted[1]))


def test_warm_start_takes_weights_but_neither_optimiser_nor_epoch(fitted, make, tmp_path):
    model, path = fitted
    warm = make(warm_start=str(path), lr=5e-3)
    assert all(torch.equal(value, _trained(model)[key]) for key, value in _trained(warm).items())
    assert "warm_start" not in warm.hparams
    rates = Rates()
    trainer = tiny_runs.trainer(tmp_path, max_epochs=2, callbacks=[rates])
    trainer.fit(warm, tiny_runs.loader(tiny_runs.samples()))
    assert trainer.current_epoch == 2
    assert trainer.global_step == len(rates.steps) == 4
    assert max(step["head"] for step in rates.steps) == pytest.approx(5e-3)


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


def test_a_warm_start_refuses_weights_that_meant_something_else(fitted, make, tmp_path):
    checkpoint = torch.load(fitted[1], weights_only=True)
    checkpoint["epic_pl"]["format_version"] = 1
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="format 1"):
        make(warm_start=str(tmp_path / "old.ckpt"))


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
def test_a_wrong_batch_is_refused_before_anything_is_trained(change, named, loop, make, tmp_path):
    rows = [{**row, **change} for row in tiny_runs.samples(4)]
    drop = [key for key, value in change.items() if value is None]
    model = make()
    before = _trained(model)
    with pytest.raises(DataError, match=named):
        getattr(tiny_runs.trainer(tmp_path, max_epochs=1), loop)(
            model, tiny_runs.loader(rows, drop=drop)
        )
    assert all(torch.equal(value, before[key]) for key, value in _trained(model).items())


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
    ("options", "named"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": 1, "task": "multilabel"}, "question of two classes"),
        ({"class_names": ["a", "b"]}, "class_names has 2"),
        ({"task": "multilabel", "pos_weight": [1.0]}, "pos_weight has 1"),
        ({"interaction_layers": 9}, "3 and 3 layers"),
    ],
)
def test_options_that_do_not_fit_are_named(options, named, make):
    with pytest.raises(ConfigError, match=named):
        make(**options)


# ------------------------------------------------------------------ thresholds


@pytest.fixture
def tuned(make, tmp_path):
    """A multilabel module that was validated once, that data, other data, and its checkpoint."""
    model = make(num_classes=4, task="multilabel", class_names=list("abcd"))
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    rows = [tiny_runs.samples(12, classes=4, multilabel=True, seed=seed) for seed in (1, 2, 3)]
    trainer.fit(model, tiny_runs.loader(rows[0]), tiny_runs.loader(rows[1], 5))
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    return model, rows[1], rows[2], tmp_path / "tuned.ckpt"


def _scores(model, rows):
    batch = next(iter(tiny_runs.loader(rows, len(rows))))
    model.eval()
    with torch.no_grad():
        return (model(batch) / model.calibration_temperature).sigmoid(), batch["labels"]


def test_thresholds_are_tuned_on_validation_and_never_on_test(tuned, tmp_path):
    model, val, test, _ = tuned
    tuner = F1Thresholds(4)
    tuner.update(*_scores(model, val))
    expected = tuner.compute()
    assert len(set(expected.tolist())) > 1
    torch.testing.assert_close(model.thresholds, expected)

    (tested,) = tiny_runs.trainer(tmp_path).test(model, tiny_runs.loader(test, 5), verbose=False)
    torch.testing.assert_close(model.thresholds, expected)
    scores, labels = _scores(model, test)
    for name, at in (("f1_macro", 0.5), ("f1_macro_tuned", expected)):
        reference = f1_score(labels, scores >= at, average="macro", zero_division=0)
        assert tested[f"test/{name}"] == pytest.approx(reference, abs=1e-6)
    assert tested["test/f1_macro"] != tested["test/f1_macro_tuned"]


def test_thresholds_travel_in_the_checkpoint_which_stays_strict(tuned, make):
    model, _, _, path = tuned
    again = EPICModule.load_from_checkpoint(path)
    assert torch.equal(again.thresholds, model.thresholds)
    warm = make(num_classes=4, task="multilabel", warm_start=str(path))
    assert torch.equal(warm.thresholds, model.thresholds)
    content = read_checkpoint(str(path))
    del content["state_dict"]["thresholds"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="it lacks thresholds"):
        EPICModule.load_from_checkpoint(path)


def test_the_sanity_check_tunes_nothing(make, tmp_path):
    model = make(num_classes=4, task="multilabel")
    rows = tiny_runs.samples(8, classes=4, multilabel=True)
    seen = []

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(pl_module.thresholds.tolist())

    trainer = tiny_runs.trainer(tmp_path, max_steps=1, callbacks=[Look()])
    trainer.fit(model, tiny_runs.loader(rows), tiny_runs.loader(rows))
    assert seen == [[0.5] * 4]


def test_a_multiclass_module_has_no_thresholds(make):
    model = make()
    assert model.thresholds is None
    assert "thresholds" not in model.state_dict()


# ------------------------------------------------------------------ class imbalance


def test_balanced_weights_come_from_the_frequencies_and_back_from_the_checkpoint(make, tmp_path):
    options = {"class_weights": "balanced", "class_frequencies": [0.5, 0.25, 0.25]}
    model = make(**options, focal_gamma=1.5)
    assert model.objective.class_weights.tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    trainer = tiny_runs.trainer(tmp_path, max_steps=1)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    trainer.save_checkpoint(tmp_path / "balanced.ckpt")
    again = EPICModule.load_from_checkpoint(tmp_path / "balanced.ckpt")
    assert again.objective.class_weights.tolist() == model.objective.class_weights.tolist()
    assert again.objective.focal_gamma == 1.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"class_weights": "balanced"}, "needs class_frequencies"),
        ({"pos_weight": [1.0] * 3}, "pos_weight is for multilabel tasks"),
        ({"task": "multilabel", "class_weights": [1.0] * 3}, "use pos_weight instead"),
        ({"class_weights": [1.0, 2.0]}, "class_weights has 2 entries"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "at least 0"),
        ({"class_weights": [1.0, float("nan"), 1.0]}, "finite"),
        ({"class_frequencies": [0.5, 0.5]}, "class_frequencies has 2 entries"),
        ({"focal_gamma": -1.0}, "focal_gamma must be finite"),
    ],
)
def test_loss_options_that_do_not_fit_are_refused(options, said, make):
    with pytest.raises(ConfigError, match=said):
        make(**options)
