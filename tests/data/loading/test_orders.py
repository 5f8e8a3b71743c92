"""Orders alone, in the sampler and through the real loader."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import Dataset

from epic_pl.data.loading.loader import ResumableDataLoader
from epic_pl.data.loading.orders import (
    balanced,
    by_length,
    class_counts,
    in_blocks,
    labels_of,
    shuffled,
    training_order,
)
from epic_pl.data.loading.sampler import TrainSampler
from epic_pl.errors import ConfigError

ROWS, BATCH, BLOCK = 1003, 4, 16
LENGTHS = np.random.default_rng(0).integers(1, 200, ROWS)
ORDERS = {
    "random": shuffled(ROWS),
    "length": by_length(LENGTHS, BATCH),
    "blocks": in_blocks(ROWS, BLOCK),
}


class Numbers(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return index


def epoch_of(name, seed=0, epoch=0, ranks=1, rank=0):
    sampler = TrainSampler(Numbers(), seed=seed, order=ORDERS[name], num_replicas=ranks, rank=rank)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", ORDERS)
def test_every_row_comes_once_and_only_padding_comes_again(name, ranks):
    shares = [epoch_of(name, ranks=ranks, rank=rank) for rank in range(ranks)]
    assert {len(share) for share in shares} == {-(-ROWS // ranks)}
    counts = Counter(row for share in shares for row in share)
    assert set(counts) == set(range(ROWS))
    assert sum(counts.values()) - ROWS == -ROWS % ranks
    assert max(counts.values()) <= 2


@pytest.mark.parametrize("name", ORDERS)
def test_an_epoch_depends_on_seed_and_epoch_only(name):
    one = epoch_of(name, seed=3, epoch=1)
    assert one == epoch_of(name, seed=3, epoch=1)
    # none repeats more places than chance would
    for other in (epoch_of(name, 3, 2), epoch_of(name, 2, 2), epoch_of(name, 4, 1)):
        assert np.mean(np.array(one) == np.array(other)) < 0.02
    assert all(type(row) is int for row in one[:3])


@pytest.mark.parametrize("name", ORDERS)
def test_few_rows_and_many_ranks(name):
    orders = {"random": shuffled(2), "length": by_length(np.array([5, 1]), 4)}
    order = orders.get(name, in_blocks(2, 1024))
    shares = [list(TrainSampler([0, 1], order=order, num_replicas=5, rank=r)) for r in range(5)]
    assert [len(share) for share in shares] == [1] * 5
    assert {row for share in shares for row in share} == {0, 1}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ORDERS)
def test_the_loader_goes_on_in_the_middle_of_an_epoch(name, ranks):
    def loader(rank):
        sampler = TrainSampler(Numbers(), seed=7, order=ORDERS[name], num_replicas=ranks, rank=rank)
        return ResumableDataLoader(Numbers(), batch_size=BATCH, sampler=sampler)

    for rank in range(ranks):
        first = loader(rank)
        first.sampler.set_epoch(2)
        whole = [batch.tolist() for batch in first]
        begun = iter(first)
        assert [next(begun).tolist() for _ in range(31)] == whole[:31]
        resumed = loader(rank)
        resumed.load_state_dict(first.state_dict())
        assert [batch.tolist() for batch in resumed] == whole[31:]


# ------------------------------------------------------------------ length


def _padding(rows):
    batches = [LENGTHS[rows[start : start + BATCH]] for start in range(0, len(rows), BATCH)]
    return sum(int((batch.max() - batch).sum()) for batch in batches)


def test_equal_lengths_share_a_batch():
    for ranks in (1, 2):
        for rank in range(ranks):
            by_chance = _padding(epoch_of("random", ranks=ranks, rank=rank))
            assert _padding(epoch_of("length", ranks=ranks, rank=rank)) < 0.1 * by_chance


def test_ranks_get_batches_of_similar_length_at_the_same_step():
    one, two = (np.array(epoch_of("length", ranks=2, rank=rank)) for rank in (0, 1))
    whole = len(one) // BATCH * BATCH
    longest = [LENGTHS[share[:whole]].reshape(-1, BATCH).max(axis=1) for share in (one, two)]
    assert np.abs(longest[0] - longest[1]).mean() < 4
    # and batches come in no order of their own
    assert abs(np.corrcoef(longest[0], np.arange(whole // BATCH))[0, 1]) < 0.3


def test_the_short_last_batch_has_rows_of_any_length():
    rest = [np.mean(LENGTHS[epoch_of("length", epoch=epoch)[-3:]]) for epoch in range(100)]
    assert ROWS % BATCH == 3
    assert np.mean(rest) == pytest.approx(LENGTHS.mean(), abs=15)


def test_rows_of_one_length_meet_others_in_every_epoch():
    order = by_length(np.full(40, 7), 4)
    batches = [
        {frozenset(batch) for batch in order(np.random.default_rng(seed), 40, 1).reshape(-1, 4)}
        for seed in (0, 1)
    ]
    assert len(batches[0] & batches[1]) < 3


# ------------------------------------------------------------------ blocks


def test_neighbours_in_time_are_neighbours_in_the_table():
    rows = np.array(epoch_of("blocks"))
    for start in range(0, ROWS, 8 * BLOCK):
        # eight blocks, one more where the table's short last block has moved the cut
        assert len(set(rows[start : start + 8 * BLOCK] // BLOCK)) <= 9
    within = rows[: 8 * BLOCK]
    assert np.mean(np.diff(within) == 1) < 0.05  # shuffled among themselves
    assert len(set(np.array(epoch_of("random"))[: 8 * BLOCK] // BLOCK)) > 40


@pytest.mark.parametrize("name", ["length", "balanced"])
def test_texts_and_labels_that_are_drawn_anew_cannot_be_ordered(name):
    with pytest.raises(ConfigError, match="a Numbers are drawn anew"):
        training_order(name, Numbers(), 4)


def test_an_absent_text_has_no_length():
    class Rows(Numbers):
        table = pa.table({"text": pa.chunked_array([["äb c"], [None, ""]])})

    order = training_order("length", Rows(), 3)
    assert order(np.random.default_rng(0), 3, 1)[-1] == 0


# ------------------------------------------------------------------ balance

SINGLE = pa.chunked_array([[0, 0, 0], [1, 0, 2]])
SEVERAL = pa.chunked_array([[[0], [0, 1]], [[0, 2], [0], []]], pa.list_(pa.int64()))


def test_counts_of_single_labels_and_of_several():
    assert class_counts(SINGLE, 4).tolist() == [4, 1, 1, 0]
    assert class_counts(SEVERAL, 4).tolist() == [4, 1, 1, 0]


def test_every_class_is_drawn_equally_often():
    """A row of several labels weighs their mean; rows of none are a class of their own."""
    for labels, weights in (
        (SINGLE, [1 / 4, 1 / 4, 1 / 4, 1, 1 / 4, 1]),
        (SEVERAL, [1 / 4, 5 / 8, 5 / 8, 1 / 4, 1]),
    ):
        drawn = balanced(labels)(np.random.default_rng(0), 20_000, 1)
        shares = np.bincount(drawn) / 20_000
        assert shares == pytest.approx(np.array(weights) / sum(weights), abs=0.02)


def test_unknown_labels_cannot_be_balanced():
    class Rows:
        table = pa.table({"label": pa.array([0, None])})

    with pytest.raises(ConfigError, match="1 of 2 training rows have no label"):
        labels_of(Rows())
