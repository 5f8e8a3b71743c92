from unittest.mock import Mock

import pytest
import torch

import tiny_openmoji
import tiny_runs
from controls import scenes
from controls.scenes import ScenesDataModule
from controls.subsets import SubsetAccuracy
from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import Postprocessor


@pytest.fixture
def data(monkeypatch, tmp_path, tiny_vit_dir, tiny_tokenizer_dir) -> ScenesDataModule:
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scenes, "_ROWS", {"val": 25, "test": 25})
    monkeypatch.setattr(scenes, "_CHUNK", 9)
    tiny_openmoji.fill_named_cache(tmp_path / "cache")
    encoders = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
    return ScenesDataModule(**encoders, batch_size_per_device=4)


@pytest.mark.slow
def test_accuracies_are_those_of_the_rows_of_each_kind(
    data, tmp_path, tiny_vit_dir, tiny_tokenizer_dir
):
    model = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, num_classes=2)
    trainer = tiny_runs.trainer(tmp_path, callbacks=[SubsetAccuracy()])
    [logged] = trainer.test(model, datamodule=data, verbose=False)
    trainer.validate(model, datamodule=data, verbose=False)
    assert "val/accuracy_relation" in trainer.callback_metrics
    rows = data.dataset("test").table.to_pylist()
    truth = {row["sample_id"]: row["label"] for row in rows}
    right = {kind: [] for kind in scenes.KINDS}
    for batch in trainer.predict(model, datamodule=data):
        for name, label in zip(batch["sample_id"], batch["probabilities"].argmax(1), strict=True):
            right[name.split("-")[-1]].append(int(label) == truth[name])
    counts = {kind: len(answers) for kind, answers in right.items()}
    assert counts == {"existence": 9, "conjunction": 8, "relation": 8}
    for kind, answers in right.items():
        assert logged[f"test/accuracy_{kind}"] == pytest.approx(sum(answers) / len(answers))


def test_data_without_kinds_logs_none(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    model = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir)
    trainer = tiny_runs.trainer(tmp_path, callbacks=[SubsetAccuracy()])
    [logged] = trainer.test(model, tiny_runs.loader(tiny_runs.samples(4), 2), verbose=False)
    assert not [name for name in logged if name.startswith("test/accuracy_")]


def test_answers_are_compared_with_the_labels_of_their_own_rows():
    logits = torch.eye(2)[[0, 1, 1, 0, 0, 0]]
    labels = torch.tensor([1, 1, 0, 0, 0, 1])  # of any other rows, the shares would differ
    kinds = dict(zip("abcdef", ("odd", "even") * 3, strict=True))
    data = Mock(spec=ImageTextDataModule, task="multiclass")
    data.subsets, data.subset_of = ("even", "odd"), kinds.get
    module, logged = Mock(spec=EPICModule, postprocessor=Postprocessor("multiclass", 2)), {}
    module.outputs = Mock(merged=lambda: SplitOutputs(logits, labels, sample_id=list("abcdef")))
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    trainer = Mock(datamodule=data, testing=True)
    SubsetAccuracy().on_test_epoch_end(trainer, module)
    assert logged == {
        "test/accuracy_even": pytest.approx(2 / 3),
        "test/accuracy_odd": pytest.approx(1 / 3),
    }
    module.postprocessor.bias[0] = 9  # of calibrated answers, as the accuracy of all rows
    SubsetAccuracy().on_test_epoch_end(trainer, module)
    assert logged["test/accuracy_even"] == pytest.approx(1 / 3)
    assert logged["test/accuracy_odd"] == pytest.approx(2 / 3)
