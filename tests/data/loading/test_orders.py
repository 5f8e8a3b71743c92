"""Orders alone, in the sampler and through the real loader."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import Dataset

from epic_pl.data.loading.loader import ResumableDataLoader
from epic_pl.data.loading.orders import (
    balanced,
    class_counts,
    in_blocks,
    labels_of,
    shuffled,
    training_order,
)
from epic_pl.data.loading.sampler import TrainSampler
from epic_pl.errors import ConfigError

ROWS, BATCH, BLOCK = 1003, 4, 16
ORDERS = {"random": shuffled(ROWS), "blocks": in_blocks(ROWS, BLOCK)}


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


def test_neighbours_in_time_are_neighbours_in_the_table():
    rows = np.array(epoch_of("blocks"))
    for start in range(0, ROWS, 8 * BLOCK):
        # eight blocks, one more where the table's short last block has moved the cut
        assert len(set(rows[start : start + 8 * BLOCK] // BLOCK)) <= 9
    within = rows[: 8 * BLOCK]
    assert np.mean(np.diff(within) == 1) < 0.05  # shuffled among themselves
    assert len(set(np.array(epoch_of("random"))[: 8 * BLOCK] // BLOCK)) > 40


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

    with pytest.raises(ConfigError, match="a Numbers are drawn anew"):
        training_order("balanced", Numbers())
    with pytest.raises(ConfigError, match="1 of 2 training rows have no label"):
        labels_of(Rows())
