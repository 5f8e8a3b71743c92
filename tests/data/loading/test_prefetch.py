"""The prefetching thread alone and in the loader: order, position, errors, and its end."""

import gc
import threading
import time

import pytest
from torch.utils.data import Dataset

from epic_pl.data.loading.loader import ResumableDataLoader
from epic_pl.data.loading.prefetch import prefetched
from epic_pl.data.loading.sampler import TrainSampler
from epic_pl.errors import ConfigError, DataError

ROWS, BATCH = 23, 2


def _threads():
    return [
        thread for thread in threading.enumerate() if thread.name.startswith("epic_pl-prefetch")
    ]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if _threads():
        gc.collect()  # what a failed run has left in a traceback
    assert not _threads()


def _until(condition):
    """Wait for another thread, at most as long as a test may take."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("the other thread did nothing")


# ------------------------------------------------------------------ alone


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_all_items_in_their_order_from_another_thread(ahead):
    def items():
        for number in range(20):
            yield number, threading.current_thread().name.partition("_0")[0]

    ready = prefetched(items(), ahead)
    assert not _threads()  # nothing is read before the first item is asked for
    assert list(ready) == [(number, "epic_pl-prefetch") for number in range(20)]
    assert list(ready) == []
    assert not _threads()


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_loaded_than_asked_for(ahead):
    loaded = []
    ready = prefetched((loaded.append(number) or number for number in range(20)), ahead)
    assert next(ready) == 0
    _until(lambda: len(loaded) == 1 + ahead)
    assert next(ready) == 1
    _until(lambda: len(loaded) == 2 + ahead)
    time.sleep(0.05)
    assert len(loaded) == 2 + ahead
    ready.close()
    assert len(loaded) == 2 + ahead
    assert list(ready) == []


def test_an_error_comes_as_it_was_after_what_came_before_it():
    def items():
        yield 1
        raise DataError("Sample 'x': gone.")

    ready = prefetched(items(), 5)
    assert next(ready) == 1
    with pytest.raises(DataError, match="Sample 'x': gone"):
        next(ready)
    assert list(ready) == []


# ------------------------------------------------------------------ in the loader


class Numbers(Dataset):
    """Row i and the epoch; ``bad`` cannot be read."""

    def __init__(self, bad=None):
        self.bad, self.epoch, self.read = bad, 0, 0

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        self.read += 1
        if index == self.bad:
            raise DataError(f"Sample {index} is broken.")
        return index + 1000 * self.epoch

    def set_epoch(self, epoch):
        self.epoch = epoch


def _loader(prefetch, data=None, **options):
    data = data or Numbers()
    sampler = TrainSampler(data, seed=7)
    return ResumableDataLoader(
        data, batch_size=BATCH, sampler=sampler, prefetch=prefetch, **options
    )


def _take(loader, count=None):
    batches = []
    for batch in loader:
        batches.append(batch.tolist())
        if len(batches) == count:
            break
    return batches


@pytest.mark.parametrize("prefetch", [1, 4])
def test_only_batches_that_were_handed_out_count(prefetch):
    whole = _take(_loader(0))
    loader = _loader(prefetch)
    batches = iter(loader)
    for number in (1, 2, 3):
        assert next(batches).tolist() == whole[number - 1]
        _until(lambda taken=number: loader.dataset.read >= (taken + prefetch) * BATCH)
        assert loader.state_dict() == {"epoch": 0, "batches": number}
    state = loader.state_dict()
    batches.close()
    resumed = _loader(prefetch)
    resumed.load_state_dict(state)
    assert _take(resumed) == whole[3:]
    assert _take(resumed) == whole


def test_breaking_off_ends_the_thread_and_the_next_epoch_is_whole():
    loader = _loader(2)
    begun = iter(loader)
    next(begun)
    assert len(_threads()) == 1
    begun.close()
    assert not _threads()
    loader.sampler.set_epoch(1)
    reference = _loader(0)
    reference.sampler.set_epoch(1)
    assert _take(loader) == _take(reference)
    assert not _threads()


def test_a_broken_sample_is_told_by_its_own_error():
    with pytest.raises(DataError, match=r"^Sample 5 is broken\.$"):
        _take(_loader(2, Numbers(bad=5)))


def test_workers_and_prefetch_are_refused():
    with pytest.raises(ConfigError, match="prefetch is 1 and num_workers 2"):
        _loader(1, num_workers=2)
