"""Samplers, the loader alone, and the loader in a Trainer."""

import os
import signal
from functools import partial
from itertools import islice

import fabricate
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data import DataLoader, Dataset

from epic_pl.data.loading import (
    EvalSampler,
    ResumableDataLoader,
    TrainSampler,
    processed_batches,
)
from epic_pl.utils.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS, BATCH = 13, 2  # seven batches, the last of one sample
AT = {"batch_size": BATCH, "ranks": 1}
MANY = 1003


def make_sampler(seed=0, ranks=1, rank=0):
    return TrainSampler(range(MANY), seed=seed, num_replicas=ranks, rank=rank)


def epoch_of(seed=0, epoch=0, ranks=1, rank=0):
    sampler = make_sampler(seed, ranks, rank)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_take_turns_in_one_order_of_all_rows_and_are_padded_evenly(ranks):
    one = epoch_of()
    assert sorted(one) == list(range(MANY))
    shares = [epoch_of(ranks=ranks, rank=rank) for rank in range(ranks)]
    taken = [row for rows in zip(*shares, strict=True) for row in rows]
    assert taken == [*one, *one[: -MANY % ranks]]


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


class Numbers(Dataset):
    """Row i; with ``fresh``, the epoch is mixed into the value as drawn negatives would be."""

    def __init__(self, fresh=False):
        self.fresh, self.epoch = fresh, 0

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return index + (1000 * self.epoch if self.fresh else 0)

    def set_epoch(self, epoch):
        self.epoch = epoch


def make_loader(fresh=False, workers=0, **kwargs):
    data = Numbers(fresh)
    return ResumableDataLoader(
        data, batch_size=BATCH, sampler=TrainSampler(data, seed=7), num_workers=workers, **kwargs
    )


def take(loader, count=None):
    return [batch.tolist() for batch in islice(loader, count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_goes_on_where_it_stopped(workers):
    whole = take(make_loader())
    loader = make_loader(workers=workers)
    assert take(loader, 3) == whole[:3]
    state = loader.state_dict()
    assert state == AT | {"epoch": 0, "batches": 3}
    other = make_loader(workers=workers)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert len(other) == 7
    assert take(other) == whole[3:]
    assert other.state_dict() == state | {"batches": 7}


class Kept(Numbers):
    """Sends its own process what a scheduler sends to a whole job."""

    def __getitem__(self, index):
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        return index


def test_workers_leave_it_to_the_first_process_to_answer_signals():
    assert len(list(ResumableDataLoader(Kept(), batch_size=BATCH, num_workers=1))) == 7


def test_global_random_state_is_not_consumed():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    take(make_loader())
    assert torch.equal(torch.rand(3), expected)


def report(_):
    return os.environ["TOKENIZERS_PARALLELISM"], torch.get_num_threads(), torch.initial_seed()


def test_workers_are_quiet_and_seeded_by_epoch(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    loader = make_loader(workers=2, collate_fn=report)
    first = list(loader)
    assert {batch[:2] for batch in first} == {("false", 1)}
    assert list(loader) == first
    loader.sampler.set_epoch(1)
    assert list(loader) != first


def test_persistent_workers_are_refused():
    with pytest.raises(ConfigError, match="persistent_workers"):
        make_loader(workers=1, persistent_workers=True)


class Recorder(L.LightningModule):
    """Notes batches, and fails in the step that is given as (epoch, batch)."""

    def __init__(self, failing=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.failing = [], failing

    def training_step(self, batch, batch_idx):
        if self.failing == (self.current_epoch, batch_idx):
            raise RuntimeError("out of memory")
        self.seen.append((self.current_epoch, batch_idx, batch.tolist()))
        return self.layer(batch.float()[:, None]).mean()

    def validation_step(self, batch, batch_idx):
        self.layer(batch.float()[:, None])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(root, loader, *, validate=False, epochs=3, resume=None, every=None, module=None, **options):
    module = module or Recorder()
    checkpoints = ModelCheckpoint(
        root, filename="{step}", save_top_k=-1, every_n_train_steps=every, save_last=True
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[checkpoints, OnExceptionCheckpoint(root)],
        **fabricate.QUIET,
        **options,
    )
    loader.processed = partial(processed_batches, trainer)
    val = DataLoader(Numbers(), batch_size=4) if validate else None
    trainer.fit(module, loader, val, ckpt_path=resume, weights_only=True)
    return module.seen


# mid-epoch, at the last batch of an epoch, at the first of the next
STEPS = (1, 4, 7, 8, 14, 18)


@pytest.mark.parametrize(
    ("options", "workers", "steps"),
    [
        ({}, 0, STEPS),
        ({}, 2, (4,)),
        ({"validate": True}, 0, STEPS),
        ({"validate": True}, 2, (7,)),
        ({"validate": True, "val_check_interval": 3, "every": None}, 0, (3,)),
        ({"limit_train_batches": 4}, 0, (2, 4, 5)),
    ],
)
def test_resume_at_any_step_sees_the_same_samples(tmp_path, options, workers, steps):
    straight = fit(tmp_path / "a", make_loader(fresh=True), **{"every": 1} | options)
    batches = options.get("limit_train_batches", 7)
    assert len(straight) == 3 * batches
    for epoch in range(3) if batches == 7 else ():
        values = [v for e, _, batch in straight if e == epoch for v in batch]
        assert sorted(values) == [1000 * epoch + i for i in range(ROWS)]
    for step in steps:
        loader = make_loader(fresh=True, workers=workers)
        saved = tmp_path / "a" / f"step={step}.ckpt"
        resumed = fit(tmp_path / "b", loader, resume=saved, **options)
        assert resumed == straight[step:], f"resumed after step {step}"


@pytest.mark.parametrize(("failing", "workers"), [((0, 0), 0), ((1, 6), 0), ((1, 6), 2)])
def test_batch_of_a_failed_step_is_trained_on_after_the_restart(tmp_path, failing, workers):
    def loader():
        return make_loader(fresh=True, workers=workers)

    straight = fit(tmp_path / "a", make_loader(fresh=True), epochs=2)
    module = Recorder(failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path / "b", loader(), module=module, epochs=2)
    resumed = fit(tmp_path / "c", loader(), resume=tmp_path / "b" / "on_exception.ckpt", epochs=2)
    assert module.seen + resumed == straight


def test_lightning_may_replace_the_sampler_to_overfit(tmp_path):
    seen = fit(tmp_path, make_loader(), epochs=2, overfit_batches=2)
    assert [batch for *_, batch in seen] == [[0, 1], [2, 3]] * 2
