"""``benchmarks/openmoji.py``, what ``make demo`` does, on a table and tiny encoders."""

import json

import pytest
from epic_pl.experiments.compare.files import write_json

import tiny_runs
from epic_pl.experiments.compare.plan import Run


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
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
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
    assert "Training and testing took" in said
    assert "from before" not in said


def _run(folder, key="now"):
    return Run("epic", "epic", 0, (), folder, key)


def test_what_an_interrupted_demo_has_done_is_kept(demo, tmp_path):
    runs = [_run(tmp_path / name) for name in "abc"]
    for each in runs[:2]:
        each.prepare()
    write_json(runs[0].folder / "result.json", {"key": "now"})
    write_json(runs[1].folder / "result.json", {"key": "of other options"})
    assert demo.runs_kept(runs) == {runs[0]}
    assert runs[0].result()


def test_what_is_done_is_trained_anew_and_nothing_else_goes(demo, tmp_path):
    runs = [_run(tmp_path / name) for name in "ab"]
    (tmp_path / "fit").mkdir()
    for each in runs:
        each.prepare()
        write_json(each.folder / "result.json", {"key": "now"})
    assert demo.runs_kept(runs) == set()
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


@pytest.mark.slow
def test_a_failed_run_ends_the_demo(demo, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    failing = Run("epic", "epic", 0, ("--config", "nowhere.yaml"), tmp_path / "run", "key")
    with pytest.raises(SystemExit, match="Not all runs"):
        demo.train([failing], 1)
    assert "nowhere.yaml" in capsys.readouterr().out
