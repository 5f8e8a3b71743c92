"""``benchmarks/step_cost.py`` on tiny encoders: its rows, and their reference rate."""

import json
from functools import partial
from types import SimpleNamespace

import pytest

import matmul
import step_cost
import tiny_runs
from epic_pl.module.callbacks import FeatureCache


@pytest.mark.slow
def test_a_row_for_each_method(monkeypatch, capsys, tiny_vit_dir, tiny_tokenizer_dir):
    monkeypatch.setitem(matmul._SHAPES, "cpu", ((256, 256, 256),))
    monkeypatch.setattr(step_cost, "best_rate", partial(matmul.best_rate, seconds=0.01))
    start_worker = step_cost.start_worker

    def here(options, name, folder, *more):
        """A worker in this process, except for the one that fills the cache."""
        if more:
            return start_worker(options, name, folder, *more)
        worker = ["--worker", name, "--folder", folder]
        step_cost.work(step_cost.parse_arguments([*options.arguments, *worker]))
        return capsys.readouterr().out.splitlines()[-1]

    monkeypatch.setattr(step_cost, "start_worker", here)
    names, bert = "epic_joint,epic_read_only_cached", str(tiny_tokenizer_dir)
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", bert, "--tokenizer", bert]
    tiny += ["--model", '{"epic": {"interaction_layers": 2}}', "--batch", "4", "--rows", "8"]
    options = ["--seconds", "0", "--methods", names, "--threads", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["step_cost.py", *tiny, *options])
    step_cost.main()
    joint, cached = json.loads(capsys.readouterr().out)
    assert [joint["method"], cached["method"]] == names.split(",")
    measured = {"samples_per_s", "peak_memory_mb", "gflop_per_sample", "flops_share", "device"}
    assert measured <= set(joint) == set(cached)
    assert joint["trainable"] == cached["trainable"] > 0
    assert joint["cache_bytes_per_sample"] == joint["cache_gb_per_s"] == 0
    assert cached["cache_gb_per_s"] == pytest.approx(
        cached["samples_per_s"] * cached["cache_bytes_per_sample"] / 1e9, abs=1e-3
    )


def test_operations_are_counted_without_compilation(tiny_vit_dir, tiny_tokenizer_dir):
    module = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir)
    batches = tiny_runs.loader(tiny_runs.samples())
    data = SimpleNamespace(train_dataloader=lambda: batches)
    plain = step_cost.count_flops(module, data, FeatureCache())
    assert plain > 1000
    weight = next(each for each in module.model.parameters() if each.requires_grad)
    module.model._compiled_call_impl = lambda batch: weight.sum().expand(4, 3)
    assert step_cost.count_flops(module, data, FeatureCache()) == plain


def test_rounds_give_medians_and_shares_of_the_best_rate(monkeypatch, capsys):
    paces = {"full": iter([1.0, 2.0, 4.0]), "pmf": iter([3.0, 4.0, 20.0])}
    rates, filled = iter([100.0, 400.0, *[200.0] * 5]), []

    def start_worker(options, name, folder, *more):
        if more:
            filled.append(name)
            return ""
        row = {"method": name, "device": "some", "gflop_per_sample": 20.0, "trainable": 10}
        row |= {"samples_per_s": next(paces[name]), "peak_memory_mb": 5.0}
        return json.dumps({**row, "cache_bytes_per_sample": 5_000_000})

    monkeypatch.setattr(step_cost, "matmul_rate", lambda _: next(rates))
    monkeypatch.setattr(step_cost, "start_worker", start_worker)
    monkeypatch.setitem(step_cost.METHODS, "pmf", step_cost.Setting("pmf", level="layers"))
    options = step_cost.parse_arguments(["--rounds", "3", "--rows", "1", "--batch", "1"])
    full, pmf = step_cost.run_all(options, ["full", "pmf"])
    assert (full["samples_per_s"], pmf["samples_per_s"]) == (2.0, 4.0)
    assert (full["flops_share"], pmf["cache_gb_per_s"]) == (0.1, 0.02)
    assert filled == ["pmf"]  # once
    assert step_cost.ratio(pmf, full) == "3.0x (2.0-5.0)"
    step_cost.show([full, pmf], options)
    assert "3.0x (2.0-5.0)" in capsys.readouterr().out
