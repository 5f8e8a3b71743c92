"""``benchmarks/step_cost.py`` on tiny encoders: its rows, and their medians."""

import json

import pytest

import step_cost


@pytest.mark.slow
def test_a_row_for_each_method(monkeypatch, capsys, tiny_vit_dir, tiny_tokenizer_dir):
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
    tiny += ["--model", '{"method": {"interaction_layers": 2}}', "--batch", "4", "--rows", "8"]
    options = ["--seconds", "0", "--methods", names, "--threads", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["step_cost.py", *tiny, *options])
    step_cost.main()
    joint, cached = json.loads(capsys.readouterr().out)
    assert [joint["method"], cached["method"]] == names.split(",")
    assert joint["samples_per_s"] > 0
    assert joint["over_epic_joint"] == "1.0x"
    assert joint["trainable"] == cached["trainable"] > 0
    assert joint["cache_bytes_per_sample"] == 0 < cached["cache_bytes_per_sample"]


def test_rounds_give_medians_and_ratios_within_a_round(monkeypatch):
    paces = {"FullFineTuning": iter([1.0, 2.0, 4.0]), "PMF": iter([3.0, 4.0, 20.0])}
    memory, filled = iter([5.0, 7.0] * 3), []

    def start_worker(options, name, folder, *more):
        if more:
            filled.append(name)
            return ""
        pace = next(paces[name])
        row = {"method": name, "samples_per_s": pace, "peak_memory_mb": next(memory)}
        return json.dumps(row)

    monkeypatch.setattr(step_cost, "start_worker", start_worker)
    monkeypatch.setitem(step_cost.METHODS, "PMF", step_cost.Setting("PMF", level="layers"))
    options = step_cost.parse_arguments(["--rounds", "3", "--rows", "1", "--batch", "1"])
    full, pmf = step_cost.run_all(options, ["FullFineTuning", "PMF"])
    assert (full["samples_per_s"], pmf["samples_per_s"]) == (2.0, 4.0)
    assert (full["peak_memory_mb"], pmf["peak_memory_mb"]) == (5.0, 7.0)
    assert filled == ["PMF"]  # once
    assert pmf["over_FullFineTuning"] == "3.0x (2.0-5.0)"
    assert full["over_PMF"] == "0.3x (0.2-0.5)"
