"""``benchmarks/openmoji.py``, what ``make demo`` does, on a table and tiny encoders."""

import json

import pytest

import tiny_runs


@pytest.fixture
def demo():
    import openmoji

    return openmoji


@pytest.mark.slow
def test_runs_and_probes_become_a_table(
    demo, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capsys
):
    tiny_runs.table(tmp_path, train=90, val=0, test=0)
    config = tiny_runs.table_config(tmp_path, tiny_vit_dir, tiny_tokenizer_dir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    arguments = ["--config", str(config), "--methods", "epic", "--splits", "2"]
    arguments += ["--folder", "demo", "--json", "--trainer.max_epochs=5"]
    # shared out anew for each split
    arguments += ["--data.split_column=null"]
    monkeypatch.setattr("sys.argv", ["openmoji.py", *arguments])
    demo.main()
    said = capsys.readouterr().out
    (rows,) = json.loads(said.splitlines()[-1]).values()
    assert [row["method"] for row in rows] == [
        "majority class",
        "linear probe, image",
        "linear probe, text",
        "linear probe, image + text",
        "EPIC",
    ]
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)
    # the table's colours and words say what the class is
    assert rows[3]["accuracy"] > rows[0]["accuracy"]
    assert "EPIC over the best probe" in said
    assert "Calibration error of EPIC" in said
    assert "Training took" in said
