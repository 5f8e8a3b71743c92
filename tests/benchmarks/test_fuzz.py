"""``benchmarks/fuzz.py`` for some cases of each target, and what it says of a finding."""

import os
import random
import time

import pytest

import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_files_end_in_errors_of_the_package(target, tmp_path):
    run = fuzz.TARGETS[target](tmp_path)
    assert [found for case in range(60) if (found := fuzz.one_case(run, 1, case))] == []


def test_a_case_is_always_the_same_input():
    first, again = (fuzz.exchanged_bytes(b"abc" * 20, random.Random("1/7")) for _ in range(2))
    assert first == again != b"abc" * 20
    value = {"a": [1, {"b": "c"}]}
    changed = [fuzz.exchanged_values(value, random.Random(f"1/{case}")) for case in range(20)]
    assert any(each != value for each in changed)
    assert value == {"a": [1, {"b": "c"}]}


def test_an_exception_a_crash_and_a_hang_are_findings_and_the_run_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.5)
    monkeypatch.setattr(fuzz, "CONTEXT", "fork")  # so that it has the target below
    monkeypatch.setitem(fuzz.TARGETS, "broken", lambda folder: broken)

    def broken(rng):
        time.sleep(0.01)
        kind = rng.randrange(10)
        if kind == 0:
            raise KeyError("a")
        if kind == 1:
            os._exit(3)
        if kind == 2:
            time.sleep(60)

    worker, kinds = fuzz.Worker("broken", 0, 0, 1), set()
    expected = {"KeyError", "exit code 3", "more than 0 s"}
    while kinds != expected:  # however long other processes have the cores
        time.sleep(0.05)
        kinds |= {found["kind"].split(" in ")[0] for found in worker.findings()}
    worker.end()
    assert worker.executions > 2


def test_a_run_of_some_seconds_counts_and_tells(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fuzz, "CONTEXT", "fork")
    monkeypatch.setitem(fuzz.TARGETS, "broken", lambda folder: lambda rng: 1 / 0)
    options = ["--target", "broken", "--minutes", "0.01", "--jobs", "1", "--seed", "3"]
    monkeypatch.setattr("sys.argv", ["fuzz.py", *options])
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    assert fuzz.main() == 1
    said = capsys.readouterr().out
    assert "executions, 1 findings" in said
    assert "ZeroDivisionError in test_fuzz.py" in said
    assert "--target broken --seed 3 --case 0" in said
