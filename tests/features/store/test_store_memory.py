import multiprocessing

import numpy as np
import pytest
import torch

from epic_pl.features.store.memory import BufferPool, copy_all


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def shuffled_copy_is_right():
    source = np.arange(2_000_000).reshape(20, -1)  # 16 MB: enough for threads
    order = np.random.default_rng(0).permutation(20)
    out = np.full_like(source, -1)
    copy_all([*((out[to], source[at]) for to, at in enumerate(order[:-1])), (out[19], 0)])
    return np.array_equal(out[:19], source[order[:-1]]) and not out[19].any()


def test_threads_copy_every_row(two_threads):
    assert shuffled_copy_is_right()


def test_a_forked_loader_worker_gets_threads_of_its_own(two_threads):
    assert shuffled_copy_is_right()  # the parent's threads exist by now
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(shuffled_copy_is_right).get(timeout=30)


def test_an_error_in_any_thread_comes_out(two_threads):
    fine, wrong = np.zeros((3, 500_000)), np.zeros((2, 7))
    for copies in ([(fine, 1), (fine, wrong)], [(fine, wrong), (fine, 1)]):
        with pytest.raises(ValueError, match="broadcast"):
            copy_all(copies)


def test_the_pool_asks_for_pinned_memory_only_where_there_is_a_gpu():
    taken = BufferPool(pin_memory=True).take(3, 5)
    assert taken.shape == (3, 5)
    assert taken.is_pinned() == torch.cuda.is_available()
