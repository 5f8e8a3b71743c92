import gc
import mmap
import time

import pytest
import torch

import tiny_runs
from epic_pl.module.callbacks import CostMeter, cost


def test_steps_after_the_first_two_are_timed(make, tmp_path):
    meter = CostMeter()
    assert (meter.samples_per_s, meter.peak_memory_mb) == (0.0, 0.0)
    rows = tiny_runs.loader(tiny_runs.samples(10), batch_size=2)
    tiny_runs.trainer(tmp_path, callbacks=[meter], max_epochs=2).fit(make(), rows)
    assert (meter.timed_steps, meter.timed_samples) == (8, 16)
    assert meter.samples_per_s == pytest.approx(16 / meter.timed_seconds)


@pytest.mark.slow
def test_memory_of_a_step_counts_and_that_before_does_not(make, tmp_path):
    def pages(megabytes):  # new ones: an allocator may take what earlier tests left it
        held = mmap.mmap(-1, megabytes * 1_000_000)
        held.write(bytes(len(held)))
        return held

    def hold(module, inputs):
        with pages(100):  # gone after the step's first moments
            time.sleep(0.5)  # for the watching thread, also on a busy machine

    before, meter, module = pages(200), CostMeter(), make()
    module.register_forward_pre_hook(hold)
    gc.collect()  # what earlier tests left must not be given back in the middle of this one
    rows = tiny_runs.loader(tiny_runs.samples(10), batch_size=2)
    tiny_runs.trainer(tmp_path, callbacks=[meter], max_epochs=1).fit(module, rows)
    assert 90 < meter.peak_memory_mb < 180
    before.close()


def test_mapped_files_are_not_own_memory(tmp_path, monkeypatch):
    path = tmp_path / "mapped.bin"
    path.write_bytes(b"\1" * 32_000_000)
    before = cost.own_memory()
    mapped = torch.from_file(str(path), shared=True, size=32_000_000, dtype=torch.uint8)
    assert mapped.sum() == 32_000_000
    assert cost.own_memory() - before < 16_000_000
    monkeypatch.setattr(cost, "_STATUS", tmp_path / "absent")  # on a system without /proc
    assert cost.own_memory() == 0
