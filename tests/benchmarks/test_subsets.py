from unittest.mock import Mock

import pytest
import torch

from controls.subsets import SubsetAccuracy
from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import Postprocessor


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
