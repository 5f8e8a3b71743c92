import multiprocessing

import numpy as np
import pytest
import torch

from epic_pl.features.store.memory import BufferPool, copy_all


@pytest.fixture(autouse=True)
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


def test_every_row_is_copied_also_in_a_forked_process():
    assert shuffled_copy_is_right()  # the parent's threads exist from here on
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(shuffled_copy_is_right).get(timeout=100)


def test_an_error_in_any_thread_is_raised():
    fine, wrong = np.zeros((3, 500_000)), np.zeros((2, 7))
    for copies in ([(fine, 1), (fine, wrong)], [(fine, wrong), (fine, 1)]):
        with pytest.raises(ValueError, match="broadcast"):
            copy_all(copies)


def test_memory_is_pinned_only_where_there_is_a_gpu():
    taken = BufferPool(pin_memory=True).take(3, 5)
    assert taken.shape == (3, 5)
    assert taken.is_pinned() == torch.cuda.is_available()
