"""``benchmarks/soak.py`` for some seconds, and what it says of a run that differs."""

import json
import random

import pytest

import soak


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one_and_any_other_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "_KILLS", 1)
    config, tally = soak.fabricate(tmp_path), soak.Tally()
    reference = soak.Soak(config, "every_step", tmp_path / "reference", tally)
    reference.undisturbed()
    killed = soak.Soak(config, "every_step", tmp_path / "killed", tally)
    killed.disturbed(reference, random.Random(9))
    assert sum(tally.kills.values()) >= 1
    assert not tally.findings, tally.findings
    for path in reference.folder.rglob("run.json"):
        record = json.loads(path.read_text())
        record["result"]["weights"] = "others"
        path.write_text(json.dumps(record))
    killed.compare(reference)
    assert "not as in the undisturbed run: weights" in tally.findings[0]
