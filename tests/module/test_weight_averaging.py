"""Lightning's callbacks that change weights: averages are saved and resumed, pruning is refused."""

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelPruning

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import frozen_keys
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.module.postprocess import Postprocessor
from epic_pl.nn.heads import choice
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same

ROWS = tiny_runs.samples(12, multilabel=True, seed=1)


EPIC = {"dropout": 0.0, "hub_width": 8}
OF_EPIC = {"class_path": "EPIC", "init_args": EPIC | {"prompt_attention": "joint"}}
METHODS = {"EPIC": EPIC, "Ensemble": {"of": OF_EPIC, "members": 2}}
methods = pytest.mark.parametrize("method", METHODS)


def _fit(make, folder, epochs, *callbacks, method, ckpt_path=None):
    """A module trained under an average, its validation rows being the training rows."""
    torch.manual_seed(0)
    # no dropout: a plain loader draws seeds of its own, and keeps no position within an epoch
    head = {"dropout": 0.0, "network": "wide"}
    own = {"method": method, "options": METHODS[method], "head": head}
    model = make(task="multilabel", optim={"lr": 1e-2}, **own)
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    averages = EMAWeightAveraging(decay=0.5)
    trainer = tiny_runs.trainer(
        folder,
        max_epochs=epochs,
        callbacks=[averages, *callbacks],
        enable_checkpointing=bool(callbacks),
    )
    rows = tiny_runs.loader(ROWS)
    trainer.fit(model, rows, rows, ckpt_path=ckpt_path, weights_only=True)
    return model


# they used to be fitted to the average's outputs, but written to the weights of the last step
@methods
def test_checkpoints_hold_the_average_fitted_to_its_own_outputs(
    method, make, tmp_path, monkeypatch
):
    monkeypatch.setattr(choice, "_ENOUGH_TO_CHOOSE", len(ROWS))
    monkeypatch.setattr(choice, "most_likely", lambda *_: 1)
    model = _fit(make, tmp_path, 2, tiny_runs.EveryBatch(tmp_path), method=method)
    (batch,) = tiny_runs.loader(ROWS, len(ROWS))
    path = tmp_path / "validation6.ckpt"
    averaged = EPICModule.load_from_checkpoint(path)
    for kept in (model, averaged):
        assert [bool(each.chosen.all()) for each in kept.model.choices] == [True]
        expected = Postprocessor("multilabel", 3)
        with torch.no_grad():
            expected.fit(kept.eval()(batch).logits, batch["labels"])
        fitted = kept.postprocessor.state_dict()
        assert_same(fitted, expected.state_dict(), trained=True)
    assert float(model.postprocessor.temperature) != pytest.approx(1.0)
    content, frozen = read_checkpoint(str(path)), frozen_keys(model)
    assert not frozen & content["state_dict"].keys()
    assert not frozen & content["current_model_state"].keys()
    assert tiny_runs.differing(content["state_dict"], content["current_model_state"])


@methods
def test_a_resumed_run_goes_on_with_weights_and_average(method, make, tmp_path):
    kept = tiny_runs.every_step(tmp_path, every_n_train_steps=None, save_on_train_epoch_end=True)
    whole = _fit(make, tmp_path, 2, kept, method=method)
    resumed = _fit(make, tmp_path, 2, method=method, ckpt_path=tmp_path / "step3.ckpt")
    assert not tiny_runs.differing(whole.state_dict(), resumed.state_dict())


def test_pruning_is_refused(make, tmp_path):
    trainer = tiny_runs.trainer(tmp_path, callbacks=[ModelPruning("l1_unstructured", amount=0.5)])
    with pytest.raises(ConfigError, match="ModelPruning"):
        trainer.fit(make(), tiny_runs.loader(tiny_runs.samples()))
