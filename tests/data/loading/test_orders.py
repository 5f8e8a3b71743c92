"""Orders and samplers."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from epic_pl.data.loading import orders
from epic_pl.data.loading.sampler import EvalSampler, TrainSampler
from epic_pl.errors import ConfigError

ROWS, BLOCK = 1003, 16
ORDERS = {"random": orders.shuffled(ROWS), "blocks": orders.in_blocks(ROWS, BLOCK)}


def make_sampler(name, seed=0, ranks=1, rank=0):
    return TrainSampler(range(ROWS), seed=seed, order=ORDERS[name], num_replicas=ranks, rank=rank)


def epoch_of(name, seed=0, epoch=0, ranks=1, rank=0):
    sampler = make_sampler(name, seed, ranks, rank)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", ORDERS)
def test_ranks_take_turns_in_one_order_of_all_rows_and_are_padded_evenly(name, ranks):
    one = epoch_of(name)
    assert sorted(one) == list(range(ROWS))
    shares = [epoch_of(name, ranks=ranks, rank=rank) for rank in range(ranks)]
    taken = [row for rows in zip(*shares, strict=True) for row in rows]
    assert taken == [*one, *one[: -ROWS % ranks]]


@pytest.mark.parametrize("name", ORDERS)
def test_an_epoch_depends_on_seed_and_epoch_only(name):
    one = epoch_of(name, seed=3, epoch=1)
    assert one == epoch_of(name, seed=3, epoch=1)
    # none repeats more places than chance would
    for other in (epoch_of(name, 3, 2), epoch_of(name, 2, 2), epoch_of(name, 4, 1)):
        assert np.mean(np.array(one) == np.array(other)) < 0.02
    assert all(type(row) is int for row in one[:3])


@pytest.mark.parametrize("name", ORDERS)
def test_a_rank_goes_on_in_the_middle_of_an_epoch(name):
    sampler = make_sampler(name, seed=7, ranks=2, rank=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.start = 124
    assert list(sampler) == whole[124:]
    assert list(sampler) == whole


def test_neighbours_in_time_are_neighbours_in_the_table():
    rows = np.array(epoch_of("blocks"))
    for start in range(0, ROWS, 8 * BLOCK):
        # one more where the table's short last block has moved the cut
        assert len(set(rows[start : start + 8 * BLOCK] // BLOCK)) <= 9
    within = rows[: 8 * BLOCK]
    assert np.mean(np.diff(within) == 1) < 0.05  # shuffled among themselves
    assert len(set(np.array(epoch_of("random"))[: 8 * BLOCK] // BLOCK)) > 40


SINGLE = pa.chunked_array([[0, 0, 0], [1, 0, 2]])
SEVERAL = pa.chunked_array([[[0], [0, 1]], [[0, 2], [0], []]], pa.list_(pa.int64()))


@pytest.mark.parametrize(
    ("labels", "weights"),
    [(SINGLE, [1 / 4, 1 / 4, 1 / 4, 1, 1 / 4, 1]), (SEVERAL, [1 / 4, 5 / 8, 5 / 8, 1 / 4, 1])],
)
def test_every_class_is_drawn_equally_often(labels, weights):
    """A row of several labels weighs their mean; rows of none are a class of their own."""
    assert orders.class_counts(labels, 4).tolist() == [4, 1, 1, 0]
    drawn = orders.balanced(labels)(np.random.default_rng(0), 20_000, 1)
    shares = np.bincount(drawn) / 20_000
    assert shares == pytest.approx(np.array(weights) / sum(weights), abs=0.02)


def test_unknown_labels_cannot_be_balanced():
    rows = SimpleNamespace(table=pa.table({"label": [0, None]}))
    with pytest.raises(ConfigError, match="a range are drawn anew"):
        orders.training_order("balanced", range(3))
    with pytest.raises(ConfigError, match="1 of 2 training rows have no label"):
        orders.labels_of(rows)


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
