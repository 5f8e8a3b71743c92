"""Checkpoints of EPICModule: what they hold, how they are loaded, and which are refused."""

import io
import math
from dataclasses import replace
from functools import partial

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import weights_digest
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.module.config import (
    EncoderConfig,
    EncodersConfig,
    OptimConfig,
    as_config,
)
from epic_pl.module.losses import CrossEntropy
from epic_pl.nn import EPIC, HeadConfig
from epic_pl.utils.errors import CheckpointError, ConfigError
from tiny_runs import differing, trained
from tolerance import assert_same

NAMES = ["blue", "green", "red"]


def test_load_from_checkpoint_gives_the_same_logits_and_names(fitted, tmp_path):
    model, path = fitted
    assert path.stat().st_size < 120_000  # the encoders alone have 300 kB
    batch = tiny_runs.batch()
    with path.open("rb") as file:
        for source in (path, str(path), file, io.BytesIO(path.read_bytes())):
            loaded = EPICModule.load_from_checkpoint(source)
            assert torch.equal(loaded.eval()(batch).logits, model.eval()(batch).logits)
    assert loaded.class_names == NAMES
    assert dict(loaded.hparams) == dict(model.hparams)
    with pytest.raises(ConfigError, match="leave out hparams_file"):
        EPICModule.load_from_checkpoint(path, hparams_file=tmp_path / "hparams.yaml")


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
        "method": replace(
            EPIC(3, 5, [[0, 1], [2, 2]], "read_only", "parameter_free", 7, "linear"),
            **{"first_prompt": "from_text", "prompt_init_std": 0.5, "dropout": 0.4},
        ),
        "head": HeadConfig(boundary=True, similarity=True, dropout=0.3),
        "loss": CrossEntropy(0.2, "balanced"),
        "optim": OptimConfig(0.1, 0.2, 0.3, 0.4),
    }
    shares = [0.5, 0.25, 0.25]
    model = EPICModule(3, class_frequencies=shares, modality_dropout=0.1, **configs)
    tiny_runs.save(model, tmp_path / "nested.ckpt")
    assert torch.load(tmp_path / "nested.ckpt", weights_only=True)["hyper_parameters"]
    loaded = EPICModule.load_from_checkpoint(tmp_path / "nested.ckpt")
    for name, config in configs.items():
        assert type(loaded.hparams[name]) is dict
        # no option is at its default, so each would be missed
        saved = loaded.hparams[name]
        saved = saved.get("init_args", saved)
        assert as_config(type(config), saved) == config
    assert loaded.method == loaded.model.method == configs["method"]
    assert loaded.loss.weights.tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert dict(loaded.hparams) == dict(model.hparams)
    assert not differing(loaded.state_dict(), model.state_dict())


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


def _rename(checkpoint):
    state = checkpoint["state_dict"]
    state["model.head.classifier.weigth"] = state.pop("model.head.classifier.weight")


def _temperature(value):
    key, tensor = "postprocessor.temperature", torch.tensor(value)
    return lambda checkpoint: checkpoint["state_dict"].update({key: tensor})


# how each key, shape or value is refused is in test_checkpoint.py
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_rename, r"lacks model\.head\.classifier\.weight and it"),
        (lambda checkpoint: checkpoint["epic_pl"].update(format_version=1), "format 1"),
        *((_temperature(value), "temperature is") for value in (0.0, 1e-38, -1.0, 1e3)),
        (_temperature(math.inf), "temperature holds NaN, or"),
    ],
)
def test_a_changed_checkpoint_is_refused_however_it_is_loaded(
    change, named, fitted, make, tmp_path
):
    checkpoint, path = read_checkpoint(str(fitted[1])), tmp_path / "changed.ckpt"
    change(checkpoint)
    torch.save(checkpoint, path)
    rows = tiny_runs.loader(tiny_runs.samples())
    test = partial(tiny_runs.trainer(tmp_path).test, make(), rows, weights_only=True)
    for load in (
        lambda: EPICModule.load_from_checkpoint(path),
        lambda: make(warm_start=str(path)),
        lambda: test(ckpt_path=str(path)),
    ):
        with pytest.raises(CheckpointError, match=named):
            load()


def test_classes_that_had_no_names_can_be_given_some(make, tmp_path):
    path = tmp_path / "nameless.ckpt"
    tiny_runs.save(make(), path)
    assert EPICModule.load_from_checkpoint(path, class_names=NAMES).class_names == NAMES
    assert EPICModule.load_from_checkpoint(path).class_names == ["0", "1", "2"]


def test_warm_start_takes_weights_but_neither_optimiser_nor_epoch(fitted, make, tmp_path):
    model, path = fitted
    warm = make(warm_start=str(path), optim={"lr": 5e-3})
    assert not differing(trained(warm), trained(model))
    assert "warm_start" not in warm.hparams
    rates = tiny_runs.Rates()
    trainer = tiny_runs.trainer(tmp_path, max_epochs=2, callbacks=[rates])
    trainer.fit(warm, tiny_runs.loader(tiny_runs.samples()))
    assert trainer.current_epoch == 2
    assert trainer.global_step == len(rates.steps) == 4
    peak = 5e-3 * 1000 / warm.model.head.num_features
    assert max(step["head"] for step in rates.steps) == pytest.approx(peak)


@pytest.mark.parametrize("validated", [True, False])
def test_a_warm_start_calibrates_anew_or_not_at_all_and_a_resume_goes_on(make, tmp_path, validated):
    old, path = make(task="multilabel"), tmp_path / "old.ckpt"
    old.postprocessor.temperature.fill_(7)
    old.postprocessor.thresholds.fill_(0.25)
    old.calibration_rows = 50
    tiny_runs.save(old, path)
    rows = tiny_runs.loader(tiny_runs.samples(multilabel=True))
    warm = make(task="multilabel", warm_start=str(path))
    assert float(warm.postprocessor.temperature) == 7  # its own, until it is trained
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    trainer.fit(warm, rows, rows if validated else None)
    post = warm.postprocessor
    assert (float(post.temperature) != 1) == validated
    assert float(post.temperature) != 7
    assert not (post.thresholds == 0.25).any()
    assert warm.calibration_rows == (8 if validated else None)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    fitted, again = float(post.temperature), make(task="multilabel")
    trainer = tiny_runs.trainer(tmp_path, max_epochs=2)
    trainer.fit(again, rows, ckpt_path=tmp_path / "new.ckpt")
    assert float(again.postprocessor.temperature) == fitted


def prompted(method, num_prompts):
    """Options of a model with prompts, or of an ensemble of such models."""
    own = {"num_prompts": num_prompts, "first_prompt": "tokens", "hub_width": 8}
    if method == "EPIC":
        return {"options": own}
    # as many members as known classes
    of = {"class_path": "EPIC", "init_args": {**own, "prompt_attention": "joint"}}
    return {"method": method, "options": {"of": of, "members": 3}}


# the experts kept the old prior, which summed to 1.4 with the new class's share
@pytest.mark.parametrize("method", ["EPIC", "Ensemble"])
@pytest.mark.parametrize("names", [NAMES, [*NAMES, "violet"]])
def test_experts_of_a_warm_start_have_the_prior_of_its_own_data(method, names, make, tmp_path):
    head, path = {"network": "wide"}, tmp_path / "old.ckpt"
    before, now = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8] if names == NAMES else [0.1, 0.1, 0.4, 0.4]
    own = {"head": head, **prompted(method, 4)}
    old = make(class_names=NAMES, class_frequencies=before, **own)
    (known,) = (stack.head.experts for stack in old.model.stacks)
    with torch.no_grad():
        for expert in (known.image, known.text):
            expert.weight.normal_()
    tiny_runs.save(old, path)
    shared = {"num_classes": len(names), "class_names": names, "class_frequencies": now}
    warm = make(warm_start=str(path), **own, **shared)
    (experts,) = (stack.head.experts for stack in warm.model.stacks)
    priors = experts.prior.softmax(dim=-1)  # those of all members are alike
    torch.testing.assert_close(priors, torch.tensor(now).expand_as(priors))
    # what they know of a sample stays: its likelihood in each class, as a ratio to the prior
    batch = tiny_runs.batch()
    with torch.no_grad():
        outputs = [module.eval().model(batch) for module in (old, warm)]
    for side in ("image", "text"):
        gave, gives = (
            torch.stack([one.trained[side] for one in output.members or [output]], dim=-2)
            for output in outputs
        )
        assert_same((gives - experts.prior)[..., :3], gave - known.prior)
    # a resumed run keeps its prior, whatever data it is given
    resumed = EPICModule.load_from_checkpoint(path, class_frequencies=[0.3, 0.3, 0.4])
    (kept,) = (stack.head.experts for stack in resumed.model.stacks)
    torch.testing.assert_close(kept.prior, known.prior)


@pytest.mark.parametrize(
    ("method", "network", "task"),
    [
        ("EPIC", "none", "multiclass"),
        ("EPIC", "wide", "multilabel"),
        ("EPIC", "squeezed", "multiclass"),
        ("Ensemble", "none", "multilabel"),
        ("Ensemble", "wide", "multiclass"),
        ("Ensemble", "squeezed", "multilabel"),
    ],
)
def test_a_warm_start_keeps_known_classes_and_starts_new_ones_anew(
    method, network, task, make, tmp_path
):
    # as many prompts as classes: tensors of prompts are none of classes
    shared = {"task": task, **prompted(method, 5)}
    shared |= {"head": {"similarity": True, "boundary": True, "network": network}}
    old, path = make(class_names=["red", "blue", "green"], **shared), tmp_path / "old.ckpt"
    with torch.no_grad():
        for stack in old.model.stacks:
            for parameter in stack.head.parameters():
                parameter.normal_(std=0.1)
    tiny_runs.save(old, path)
    names, rare = ["amber", "blue", "green", "red", "violet"], [0.1, 0.2, 0.3, 0.3, 0.1]
    shared |= {"num_classes": 5, "class_names": names, "class_frequencies": rare}
    torch.manual_seed(0)
    anew = make(**shared)
    torch.manual_seed(0)
    warm = make(warm_start=str(path), **shared)
    batch = tiny_runs.batch()
    with torch.no_grad():
        outputs = [module.eval().model(batch) for module in (old, warm)]
    # experts have the prior of the new data
    logits = [
        torch.stack([one.trained["joint"] for one in given.members or [given]]) for given in outputs
    ]
    assert_same(logits[1][..., [3, 1, 2]], logits[0])
    known, fresh, axis = trained(warm), trained(anew), int(method == "Ensemble")
    widened = [key for key in known if known[key].shape[axis:][:1] == (5,) and "head" in key]
    assert widened
    for key in widened:
        new = [tensor[key].movedim(axis, 0)[[0, 4]] for tensor in (known, fresh)]
        assert torch.equal(*new)
    # prompts are none of classes, even if their numbers grow alike
    wider = shared | prompted(method, 7)
    seven = {"num_classes": 7, "class_names": [*names, "x", "y"], "class_frequencies": None}
    tiny_runs.save(warm, tmp_path / "five.ckpt")
    with pytest.raises(CheckpointError, match="prompts"):
        make(warm_start=str(tmp_path / "five.ckpt"), **wider | seven)
    # a checkpoint with a class that the data lacks does not fit
    three = {"num_classes": 3, "class_names": ["red", "blue", "green"], "class_frequencies": None}
    tiny_runs.save(warm, path)
    with pytest.raises(CheckpointError, match=r"was trained on other classes .* 5 classes"):
        make(warm_start=str(path), **shared | three)


def test_a_warm_start_with_so_many_classes_that_they_share_trees_grows_these_anew(make, tmp_path):
    names, path = [f"class {number:02}" for number in range(22)], tmp_path / "old.ckpt"
    options = {"head": {"network": "wide", "columns": 4}}
    old = make(num_classes=19, class_names=names[:19], **options)
    old.model.head.trees.leaves.fill_(1.0)
    old.model.head.trees.inputs.fill_(3)
    tiny_runs.save(old, path)
    warm = make(num_classes=22, class_names=names, warm_start=str(path), **options)
    assert warm.model.head.trees.inputs.shape[0] == 1
    assert not any(buffer.any() for buffer in warm.model.head.trees.buffers())
    weight = "head.experts.columns.weight"
    known = [each.model.get_parameter(weight)[:19] for each in (old, warm)]
    assert torch.equal(*known)
    # trees of each class, however many, as earlier versions had
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    state["model.head.trees.inputs"] = state["model.head.trees.inputs"][:5]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"trees\.inputs is .* Trees of more than 20 classes"):
        make(num_classes=19, class_names=names[:19], warm_start=str(path), **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_classes": 4}, "number of classes"),
        ({"method": "LinearProbe"}, "it has .*unknown here"),
        # such names used to be accepted, and predictions bore the wrong ones
        ({"class_names": ["blue", "red", "green"]}, "green, red.*than the data's.*red, green"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused(options, named, fitted, make):
    with pytest.raises(CheckpointError, match=named):
        make(warm_start=str(fitted[1]), **options)


def test_a_new_fit_of_loaded_weights_draws_as_its_own_seed_says(fitted, tmp_path):
    draws = []
    for seed in (0, 1):
        model = EPICModule.load_from_checkpoint(fitted[1])
        L.seed_everything(seed)
        trainer = tiny_runs.trainer(tmp_path, max_steps=1)
        trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
        draws.append(torch.rand(1))
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("loops", value) for value in (None, [1], {"z": 1}, "lacking")),
        *(("optimizer_states", value) for value in (1, [1], "lacking")),
        *(("lr_schedulers", value) for value in (None, [1], "lacking")),
        *(("resume_states", value) for value in ({"z": 1}, [1], "lacking")),
    ],
    ids=str,
)
def test_training_does_not_go_on_from_damaged_parts(part, value, fitted, make, tmp_path):
    content = torch.load(fitted[1], weights_only=True) | {part: value}
    if value == "lacking":
        del content[part]
    torch.save(content, tmp_path / "changed.ckpt")
    model = make(**{name: fitted[0].hparams[name] for name in ("class_names", "preprocessing")})
    rows, trainer = tiny_runs.loader(tiny_runs.samples()), tiny_runs.trainer(tmp_path, max_epochs=2)
    with pytest.raises(CheckpointError, match=f"{part} is (damaged|missing)"):
        trainer.fit(model, rows, ckpt_path=str(tmp_path / "changed.ckpt"), weights_only=True)


# ------------------------------------------------------------------ what a model is known by


METHODS_OF_EACH_KIND = ["EPIC", "LinearProbe", "FullFineTuning", "LoRA", "PMF", "MaPLe", "Ensemble"]


@pytest.mark.parametrize("method", METHODS_OF_EACH_KIND)
def test_the_digest_changes_with_each_tensor_that_is_trained(method, make):
    model = make(method=method)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    digests = {model.digest()}
    for parameter in parameters:  # also of the encoders, where the method changes them
        parameter.data.view(-1)[0] += 1
        digests.add(model.digest())
    assert len(digests) == 1 + len(parameters)


@pytest.mark.parametrize(
    "changed",
    [
        {"class_names": ["blue", "red", "green"]},
        {"preprocessing": {"image": {"size": 32}, "text": {"max_tokens": 64, "clean": True}}},
        {"preprocessing": {"image": {"size": 32}, "text": {"max_tokens": 63, "clean": False}}},
        {"preprocessing": {"image": {"size": 16}, "text": {"max_tokens": 64, "clean": False}}},
        {"options": {"prompt_attention": "read_only"}},
        {"encoders": {"precision": "bf16"}},
    ],
    ids=str,
)
def test_the_digest_changes_with_each_option(changed, make):
    prepared = {"image": {"size": 32}, "text": {"max_tokens": 64, "clean": False}}
    one = make(class_names=NAMES, preprocessing=prepared)
    other = make(**{"class_names": NAMES, "preprocessing": prepared, **changed})
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other)
    assert one.digest() != other.digest()


def test_the_digest_changes_with_calibration_encoders_and_device_and_not_in_a_file(
    make, fitted, monkeypatch
):
    assert EPICModule.load_from_checkpoint(fitted[1]).digest() == fitted[0].digest()
    model = make(task="multilabel")
    digests = {model.digest()}
    for buffer in (model.postprocessor.temperature, model.postprocessor.thresholds[1:]):
        buffer += 0.1
        digests.add(model.digest())
    for encoder in (model.model.image_encoder, model.model.text_encoder):
        encoder._fingerprint = "another"
        digests.add(model.digest())
    model.model.image_encoder.precision = torch.bfloat16  # as "auto" may choose
    digests.add(model.digest())
    for number in (1, 0):  # one kind of device
        monkeypatch.setattr(EPICModule, "device", torch.device("cuda", number))
        digests.add(model.digest())
    assert len(digests) == 7
