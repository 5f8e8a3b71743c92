import pytest

from epic_pl.data.loading.sampler import EvalSampler, TrainSampler


class Rows(list):
    def set_epoch(self, epoch):
        self.epoch = epoch


def test_ranks_share_one_order_and_are_padded_evenly():
    one = list(TrainSampler(Rows(range(7)), seed=5, num_replicas=1, rank=0))
    ranks = [list(TrainSampler(Rows(range(7)), seed=5, num_replicas=2, rank=r)) for r in (0, 1)]
    assert [len(rank) for rank in ranks] == [4, 4]
    assert [row for pair in zip(*ranks, strict=True) for row in pair] == [*one, one[0]]


def test_set_epoch_resets_start_only_if_it_differs_and_reaches_the_dataset():
    rows = Rows(range(10))
    sampler = TrainSampler(rows)
    sampler.set_epoch(2)
    sampler.start = 4
    sampler.set_epoch(2)
    assert (sampler.start, rows.epoch) == (4, 2)
    sampler.set_epoch(3)
    assert (sampler.start, rows.epoch) == (0, 3)
    TrainSampler([1, 2]).set_epoch(1)  # a dataset without the method


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_eval_sampler_reads_every_row_once_in_order(world):
    parts = [EvalSampler(Rows(range(7)), num_replicas=world, rank=r) for r in range(world)]
    assert [list(part) for part in parts] == [list(range(7))[r::world] for r in range(world)]
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]


def test_rank_comes_from_torch_distributed(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    assert list(EvalSampler(Rows(range(8)))) == [3, 7]
    assert TrainSampler(Rows(range(8))).num_replicas == 4
