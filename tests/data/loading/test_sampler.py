"""Samplers."""

import numpy as np
import pytest

from epic_pl.data.loading.sampler import EvalSampler, TrainSampler

ROWS = 1003


def make_sampler(seed=0, ranks=1, rank=0):
    return TrainSampler(range(ROWS), seed=seed, num_replicas=ranks, rank=rank)


def epoch_of(seed=0, epoch=0, ranks=1, rank=0):
    sampler = make_sampler(seed, ranks, rank)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_take_turns_in_one_order_of_all_rows_and_are_padded_evenly(ranks):
    one = epoch_of()
    assert sorted(one) == list(range(ROWS))
    shares = [epoch_of(ranks=ranks, rank=rank) for rank in range(ranks)]
    taken = [row for rows in zip(*shares, strict=True) for row in rows]
    assert taken == [*one, *one[: -ROWS % ranks]]


def test_an_epoch_depends_on_seed_and_epoch_only():
    one = epoch_of(seed=3, epoch=1)
    assert one == epoch_of(seed=3, epoch=1)
    # none repeats more places than chance would
    for other in (epoch_of(3, 2), epoch_of(2, 2), epoch_of(4, 1)):
        assert np.mean(np.array(one) == np.array(other)) < 0.02
    assert all(type(row) is int for row in one[:3])


def test_a_rank_goes_on_in_the_middle_of_an_epoch():
    sampler = make_sampler(seed=7, ranks=2, rank=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.start = 124
    assert list(sampler) == whole[124:]
    assert list(sampler) == whole


class Followers(list):
    def set_epoch(self, epoch):
        self.epoch = epoch


def test_set_epoch_resets_start_only_if_it_differs_and_reaches_the_dataset():
    rows = Followers(range(10))
    sampler = TrainSampler(rows)
    sampler.set_epoch(2)
    sampler.start = 4
    sampler.set_epoch(2)
    assert (sampler.start, rows.epoch) == (4, 2)
    sampler.set_epoch(3)
    assert (sampler.start, rows.epoch) == (0, 3)


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_eval_sampler_reads_every_row_once_in_order(world):
    parts = [EvalSampler(range(7), num_replicas=world, rank=r) for r in range(world)]
    assert [list(part) for part in parts] == [list(range(7))[r::world] for r in range(world)]
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]


def test_rank_comes_from_torch_distributed(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    assert list(EvalSampler(range(8))) == [3, 7]
    assert TrainSampler(range(8)).num_replicas == 4
