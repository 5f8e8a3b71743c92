import pytest
import torch

from epic_pl.module.evaluator import Evaluator
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import Postprocessor
from epic_pl.report.tables import absence_table, draw_missing


def _complete(count=41):
    complete = torch.ones(count, dtype=torch.bool)
    complete[[0, 7, 20]] = False
    return complete


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_rate_is_the_share_of_samples_that_lose_one_modality(rate):
    complete = _complete()
    no_text, no_image = draw_missing(complete, rate, draw=3)
    assert not (no_text & no_image).any()
    assert not ((no_text | no_image) & ~complete).any()
    assert int((no_text | no_image).sum()) == round(rate * 38)
    assert abs(int(no_text.sum()) - int(no_image.sum())) <= 1


def test_draws_are_seeded_and_grow_with_the_rate():
    low, high = draw_missing(_complete(), 0.3, 1), draw_missing(_complete(), 0.7, 1)
    for fewer, more in zip(low, high, strict=True):
        assert torch.equal(fewer & more, fewer)
    again = draw_missing(_complete(), 0.3, 1)
    assert all(map(torch.equal, low, again))
    assert not torch.equal(low[0], draw_missing(_complete(), 0.3, 2)[0])


def test_a_split_without_texts_has_no_text_only_scores():
    nobody, everyone = torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    logits, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
    outputs = SplitOutputs(logits, labels, everyone, nobody)
    evaluator = Evaluator(["a", "b", "c"], Postprocessor("multiclass", 3))
    table = absence_table(evaluator, outputs, logits, -logits)
    rows = {row.pop("condition"): row for row in table}
    unknown = dict.fromkeys(["accuracy", "auroc", "f1_macro", "loss"])
    assert rows["text only"] == {"samples": 0, **unknown}
    # nobody has both, so nobody can lose one
    assert rows["70% missing a modality"] == pytest.approx(rows["unchanged"])
    assert rows["unchanged"] == rows["image only"]
    assert rows["unchanged"]["accuracy"] == 1.0
