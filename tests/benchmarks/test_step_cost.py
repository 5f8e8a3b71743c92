"""``benchmarks/step_cost.py`` on tiny encoders: its rows, and what it measures against."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny_runs
from epic_pl.callbacks import FeatureCache

NEEDED = {"method", "samples_per_s", "peak_memory_mb", "trainable", "cache_bytes_per_sample"}


@pytest.fixture
def step_cost():
    import step_cost

    return step_cost


@pytest.mark.slow
def test_a_row_for_each_method(step_cost, monkeypatch, capsys, tiny_vit_dir, tiny_tokenizer_dir):
    import matmul

    # the machine's rate is told of matrices that take no seconds
    monkeypatch.setitem(matmul._SHAPES, "cpu", ((256, 256, 256),))
    monkeypatch.setattr(step_cost, "best_rate", partial(matmul.best_rate, seconds=0.01))
    names, bert = "epic_joint,epic_read_only_cached", str(tiny_tokenizer_dir)
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", bert, "--tokenizer", bert]
    tiny += ["--model", '{"epic": {"interaction_layers": 2}}', "--batch", "4", "--rows", "8"]
    options = ["--seconds", "0", "--methods", names, "--threads", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["step_cost.py", *tiny, *options])
    step_cost.main()
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == names.split(",")
    more = {"gflop_per_sample", "timed_steps", "device", "flops_share", "cache_gb_per_s"}
    joint, cached = rows
    for row in rows:
        assert set(row) == NEEDED | more
        assert row["samples_per_s"] > 0
        assert row["peak_memory_mb"] > 0
        assert 0 < row["flops_share"] < 1
    assert joint["trainable"] == cached["trainable"] > 0
    assert joint["cache_bytes_per_sample"] == joint["cache_gb_per_s"] == 0
    assert cached["cache_gb_per_s"] == pytest.approx(
        cached["samples_per_s"] * cached["cache_bytes_per_sample"] / 1e9, abs=1e-3
    )


def test_a_method_that_is_not_there_is_refused_with_a_list(step_cost, monkeypatch):
    monkeypatch.setattr("sys.argv", ["step_cost.py", "--methods", "epic_joint,epic"])
    with pytest.raises(SystemExit, match=r"No method epic; there are: full, .*epic_read_only_cach"):
        step_cost.main()


def test_operations_are_those_of_the_module_as_written(
    step_cost, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, monkeypatch
):
    module = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir)
    batches = tiny_runs.loader(tiny_runs.samples())
    data = SimpleNamespace(train_dataloader=lambda: batches)
    cache = FeatureCache()
    plain = step_cost.count_flops(module, data, cache)
    assert plain > 1000
    module.model._compiled_call_impl = lambda batch: module.model.absent_text.sum().expand(4, 3)
    assert step_cost.count_flops(module, data, cache) == plain
    assert module.model._compiled_call_impl is not None


def test_the_rate_is_that_of_all_threads_in_the_trainers_precision(step_cost, monkeypatch):
    import matmul

    timed = []

    class Timer:
        def __init__(self, statement, globals, num_threads):
            self.factors, self.threads = globals, num_threads

        def blocked_autorange(self, min_run_time):
            (left, right) = self.factors["left"], self.factors["right"]
            assert left.shape[1] == right.shape[0]
            timed.append((left.dtype, self.threads))
            return SimpleNamespace(times=[2.0, 1.0, 4.0])

    monkeypatch.setattr(matmul, "Timer", Timer)
    monkeypatch.setitem(matmul._SHAPES, "cpu", ((8, 4, 2), (10, 10, 10)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = SimpleNamespace(precision="bf16-mixed", model="{}", threads=3)
    assert step_cost.matmul_rate(options) == 2 * 1000 / 1e9
    assert timed == [(torch.bfloat16, 3)] * 2
    options = SimpleNamespace(
        precision="32-true", model='{"encoders": {"precision": "fp16"}}', threads=1
    )
    timed.clear()
    step_cost.matmul_rate(options)
    assert {dtype for dtype, _ in timed} == {torch.float32, torch.float16}


def test_every_row_is_measured_against_the_best_rate_of_the_run(step_cost, monkeypatch):
    rates = iter([100.0, 400.0, 200.0])
    row = {
        "samples_per_s": 10.0,
        "peak_memory_mb": 5.0,
        "gflop_per_sample": 20.0,
        "cache_bytes_per_sample": 5_000_000,
    }
    monkeypatch.setattr(step_cost, "matmul_rate", lambda _: next(rates))
    monkeypatch.setattr(step_cost, "start_worker", lambda *_: json.dumps(row))
    options = SimpleNamespace(rows=1, batch=1, tokens=3, rounds=1)
    rows = step_cost.run_all(options, ["full", "pmf"])
    assert [row["flops_share"] for row in rows] == [0.5, 0.5]
    assert [row["cache_gb_per_s"] for row in rows] == [0.05, 0.05]


def test_rounds_give_the_middle_of_all_and_ratios_of_their_own(step_cost, monkeypatch, capsys):
    paces = {"full": iter([1.0, 2.0, 4.0]), "pmf": iter([3.0, 4.0, 20.0])}
    filled = []

    def start_worker(options, name, folder, *more):
        if more:
            filled.append(name)
            return ""
        row = {"method": name, "device": "some", "gflop_per_sample": 2.0, "trainable": 10}
        pace = {"samples_per_s": next(paces[name]), "peak_memory_mb": 5.0}
        return json.dumps({**row, **pace, "cache_bytes_per_sample": 0})

    monkeypatch.setattr(step_cost, "matmul_rate", lambda _: 100.0)
    monkeypatch.setattr(step_cost, "start_worker", start_worker)
    monkeypatch.setitem(step_cost.METHODS, "pmf", step_cost.Setting("pmf", level="layers"))
    arguments = ["--rounds", "3", "--rows", "1", "--batch", "1"]
    options = step_cost.parse_arguments(arguments)
    full, pmf = step_cost.run_all(options, ["full", "pmf"])
    assert (full["samples_per_s"], pmf["samples_per_s"]) == (2.0, 4.0)
    assert pmf["rounds_samples_per_s"] == [3.0, 4.0, 20.0]
    assert filled == ["pmf"]  # once
    assert step_cost.ratio(pmf, full) == "3.0x (2.0-5.0)"
    step_cost.show([full, pmf], options)
    assert "3.0x (2.0-5.0)" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_bench_passes_options_on():
    command = ["make", "--no-print-directory", "--dry-run", "bench", "ARGS=--batch 8 --json"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("step_cost.py --batch 8 --json")
