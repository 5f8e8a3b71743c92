import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from epic_pl.data.loading.sampler import TrainSampler
from epic_pl.module.seen_rows import evenly_spaced


def test_rows_are_evenly_spaced_from_32_to_512():
    loader = DataLoader(range(2048), batch_size=100, shuffle=True)
    seen = torch.cat(list(evenly_spaced(loader)))
    assert seen.tolist() == list(range(0, 2048, 4))
    few = evenly_spaced(DataLoader(range(40), batch_size=2))
    assert torch.cat(list(few)).tolist() == [*range(40)]
    assert evenly_spaced(DataLoader(range(31))) is None


HELD_OUT = range(60, 100)


class Refusing(SubsetRandomSampler):
    def __deepcopy__(self, _):
        raise AssertionError("needs an epoch first")


def rows_seen(**options):
    seen = evenly_spaced(DataLoader(range(100), **options))
    return seen and torch.cat(list(seen)).tolist()


@pytest.mark.parametrize(
    "sampler",
    [
        SubsetRandomSampler(range(60)),
        WeightedRandomSampler([1.0] * 60 + [0.0] * 40, 4000),
        TrainSampler(range(60)),
        BatchSampler(SubsetRandomSampler(range(60)), 7, drop_last=False),
        DistributedSamplerWrapper(SubsetRandomSampler(range(60)), num_replicas=2, rank=1),
    ],
    ids=["subset", "weighted", "another dataset", "batches", "a rank's share"],
)
def test_rows_that_no_step_trains_on_are_not_looked_at(sampler):
    batches = isinstance(sampler, BatchSampler)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    seen = rows_seen(**{"batch_sampler" if batches else "sampler": sampler})
    torch.set_rng_state(state)
    assert len(seen) > 40
    assert seen == sorted(set(seen) - set(HELD_OUT))


@pytest.mark.parametrize("sampler", [TrainSampler, DistributedSampler])
def test_a_rank_looks_at_rows_of_all(sampler):
    assert rows_seen(sampler=sampler(range(100), num_replicas=4, rank=1)) == [*range(100)]


def test_a_sampler_that_cannot_be_copied_is_left_alone():
    assert rows_seen(sampler=Refusing(range(60))) is None


def test_the_loader_goes_on_as_if_nobody_had_looked():
    def sampler():
        return SubsetRandomSampler(range(60), generator=torch.Generator().manual_seed(3))

    looked = sampler()
    rows_seen(sampler=looked)
    assert list(looked) == list(sampler())
