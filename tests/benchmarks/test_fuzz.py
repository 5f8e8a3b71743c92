"""``benchmarks/fuzz.py``: some files of each target, and what the command says of a finding."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

import fuzz
from epic_pl.data.processor import Processor


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_files_end_in_errors_of_the_package(target, tmp_path):
    fuzz.property_of(target, tmp_path, examples=60)()


def test_a_request_that_fails_or_costs_too_much_is_a_finding(tmp_path, monkeypatch):
    _, case = fuzz.forms(tmp_path)
    head = (
        b"POST /classify HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    )
    sent = head + b'{"text": "a"}', 20
    case(sent)
    for limit in ("REQUEST_S", "REQUEST_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(fuzz, limit, 0)
            with pytest.raises(AssertionError, match=r"\d (s|MiB)"):
                case(sent)
    monkeypatch.setattr(Processor, "prepare", lambda *_: {}["unforeseen"])
    with pytest.raises(KeyError, match="unforeseen"):
        case(sent)


def test_changes_leave_the_sound_value_as_it_is():
    value, seen = {"a": [1, {"b": "c"}]}, []
    given(fuzz.changed(value))(lambda each: seen.append(each))()
    assert sum(each != value for each in seen) > len(seen) / 2
    assert value == {"a": [1, {"b": "c"}]}


BROKEN = """
import os, sys, time
sys.path.insert(0, {benchmarks!r})
import fuzz
from hypothesis import strategies as st

def broken(folder):
    def case(kind):
        if kind == 3:
            {what}
    return st.integers(0, 3), case

fuzz.__file__, fuzz.LIMIT_S, fuzz.TARGETS = __file__, {limit}, {{"broken": broken}}
sys.exit(fuzz.main())
"""


@pytest.mark.parametrize(
    ("what", "limit", "said"),
    [
        pytest.param('raise KeyError("a")', 60, "KeyError: 'a'", id="exception"),
        pytest.param("time.sleep(60)", 1, 'broken.py", line 10', id="hang"),
    ],
)
@pytest.mark.slow
def test_findings_are_told_and_their_inputs_kept(what, limit, said, workdir):
    pytest.importorskip("atheris")
    script = workdir / "broken.py"
    folder = str(Path(fuzz.__file__).parent)
    script.write_text(BROKEN.format(benchmarks=folder, what=what, limit=limit))
    options = ["--target", "broken", "--minutes", "0.05", "--jobs", "1"]
    command = [sys.executable, str(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert said in done.stdout
    assert "broken: " in done.stdout
    kept = Path("runs/fuzz/broken-0")
    assert kept.is_file()
    again = [*command[:4], "--input", str(kept)]
    if "raise" in what:
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        assert "KeyError: 'a'" in done.stderr
