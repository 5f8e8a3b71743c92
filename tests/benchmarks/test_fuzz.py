"""``benchmarks/fuzz.py``: some files of each target, and what counts as a finding."""

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
