"""The outputs of a pass: batches and ranks joined, each sample once."""

import pytest
import torch

import tiny_runs
from epic_pl.module import outputs as module_outputs
from epic_pl.module.outputs import OutputCollector, SplitOutputs, merge_ranks
from epic_pl.utils.errors import DataError


def _of(ids, labels=True):
    """Outputs whose logits and labels tell the sample: its code, and twice that."""
    codes = torch.tensor([float(ord(key)) for key in ids])
    batch = {"sample_id": list(ids), "attention_mask": torch.ones(len(ids), 1)}
    batch["image_path"] = [key if key in "aeiou" else "" for key in ids]
    if labels:
        batch["labels"] = 2 * codes.long()
    logits = codes[:, None].repeat(1, 3)
    return SplitOutputs.of_batch(batch, logits, torch.stack([logits, -logits], dim=1))


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("expected", "ids"),
    [
        ("abcde", ["ace", "bd"]),  # uneven, as this package's sampler deals
        ("abcde", ["ad", "be", "c"]),
        ("abcde", ["ace", "bda"]),  # the first one repeated, as torch's does
        ("zaby", ["zb", "ay"]),
        ("aaabcd", ["aac", "abd"]),  # samplers repeat at the end, so these are three samples
        ("a", ["a", ""]),
        ("aab", ["aab"]),  # one process repeats nothing, so these are two samples
    ],
)
def test_ranks_come_together_in_the_order_of_the_data_each_sample_once(expected, ids, labels):
    empty = SplitOutputs(torch.empty(0, 3))
    merged = merge_ranks([_of(own, labels) if own else empty for own in ids])
    whole = _of(expected, labels)
    assert merged.sample_id == whole.sample_id
    assert merged.image_path == [key if key in "aeiou" else None for key in expected]
    for one, other in zip(merged, whole, strict=True):
        assert not isinstance(one, torch.Tensor) or torch.equal(one, other)


def test_without_ids_every_row_counts():
    parts = [_of("ac")._replace(sample_id=()), _of("ba")._replace(sample_id=())]
    assert merge_ranks(parts).logits[:, 0].tolist() == [ord(key) for key in "abca"]


def test_lost_rows_are_noticed_where_ranks_share_a_table(monkeypatch):
    parts = [_of("aceg"), _of("bd")]
    monkeypatch.setattr(module_outputs, "gather_objects", lambda _: parts)
    collector = OutputCollector(3)
    collector.start(2)
    with pytest.raises(DataError, match=r"\[4, 2\] rows"):
        collector.merged(even=True)
    assert len(collector.merged().sample_id) == 6


def test_batches_are_kept_on_the_cpu_from_start_to_clear():
    collector, rows = OutputCollector(3), tiny_runs.samples(7)
    batches = list(tiny_runs.loader(rows, 3))
    logits = torch.randn(7, 3, dtype=torch.bfloat16, requires_grad=True)
    collector.start()
    collector.add(batches[0], logits[:3])  # of a pass that was interrupted
    collector.start()
    assert collector._parts[0].logits.shape == (0, 3)
    for batch, part in zip(batches, logits.split(3), strict=True):
        batch["text_present"] = torch.arange(len(part)) > 0
        collector.add(batch, part)
        batch["labels"].fill_(9)  # as a worker may use its memory again
    merged = collector.merged()
    assert collector.merged() is merged
    assert merged.sample_id == [row["sample_id"] for row in rows]
    assert merged.image_path == []
    assert torch.equal(merged.logits, logits.detach().float())
    assert not merged.logits.requires_grad
    assert torch.equal(merged.labels, torch.stack([row["labels"] for row in rows]))
    assert merged.image_present.all()
    assert merged.text_present.tolist() == [False, True, True] * 2 + [False]
    collector.add(batches[0], logits[:3])  # of a loop of the user's own, after the pass
    assert collector.merged() is merged
    assert collector._parts is None
    collector.clear()
    collector.add(batches[0], logits[:3])
    with pytest.raises(RuntimeError, match="No outputs are kept"):
        collector.merged()
