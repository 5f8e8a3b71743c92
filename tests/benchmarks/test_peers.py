"""``benchmarks/peers.py`` with another program in the place of AutoGluon."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_folds import emoji  # noqa: F401  # a fixture

import peers

# what the worker is asked for and gives, without AutoGluon
WORKER = """
import csv, json, sys
from pathlib import Path
request = json.loads(Path(sys.argv[1]).read_text())
read = lambda split: list(csv.DictReader(open(request[split], newline="")))
classes = sorted({row["label"] for row in read("train")})
truth = [row["label"] for row in read("test")]
run = {"classes": classes, "truth": truth, "epochs": 1, "latency_ms": 5, "megabytes": 2}
run["probabilities"] = [[float(name == label) for name in classes] for label in truth]
runs = [run | {"seconds": budget} for budget in request["budgets"]]
Path(sys.argv[1]).with_name("result.json").write_text(json.dumps({"runs": runs}))
"""


@pytest.fixture
def main(tmp_path, tiny, monkeypatch, capsys):
    """Runs the command; EPIC runs in this process, and the encoders are tiny."""
    start = subprocess.run

    def run(command, **options):
        if peers._EPIC not in command:
            return start(command, **options)
        path = Path(command[-1])
        peers.epic(json.loads(path.read_text()), path.parent)
        return subprocess.CompletedProcess(command, 0)

    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(peers, "_WORKER", worker)
    monkeypatch.setattr(peers, "resolve", str)
    monkeypatch.setattr(peers, "SETTINGS", {"all weights": {}})
    monkeypatch.setattr(subprocess, "run", run)

    def call(*words):
        given = ["peers.py", "--autogluon", sys.executable, "--json", *words, *tiny]
        monkeypatch.setattr("sys.argv", [*given, "--trainer.max_epochs=1"])
        peers.main()
        printed = capsys.readouterr().out  # also what EPIC prints, which has a log else
        return json.loads(printed[printed.index("[\n") :])

    return call


@pytest.mark.slow
def test_the_same_rows_are_asked_and_times_are_multiples_of_epics(main, monkeypatch):
    own, once, four = main("--times=1,4", "--folder=out")
    assert own["method"] == "EPIC"
    assert 0 <= own["accuracy"] <= 100
    assert own["saved_mb"] > 0
    assert (once["accuracy"], once["auroc"]) == (100, 100)
    assert four["seconds"] == pytest.approx(4 * once["seconds"], abs=2)
    assert once["seconds"] == pytest.approx(own["seconds"], abs=1)
    with Path("out/one_word/seed0/test.csv").open(newline="") as file:
        asked = list(csv.DictReader(file))
    assert list(asked[0]) == ["image", "label", "text"]
    monkeypatch.setattr(peers, "_WORKER", Path("nowhere.py"))  # finished runs are not repeated
    assert main("--times=1,4", "--folder=out") == [own, once, four]


def test_several_labels_become_whether_a_row_has_the_one_nearest_to_half(here):
    source = here / "films"
    source.mkdir()
    labels = ["drama|crime", "drama", "drama|war", "crime", "comedy", "crime|war"] * 20
    rows = [["image", "text", "label", "split"]]
    for number, label in enumerate(labels):
        (source / f"{number}.png").write_bytes(b"")
        rows.append([f"{number}.png", f"text {number}", label, "train"])
    with (source / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    config = peers.write_table(str(source), here / "out")
    with (config.parent / "table.csv").open(newline="") as file:
        found = [row["label"] for row in csv.DictReader(file)]
    assert found == ["crime" if "crime" in label else "not crime" for label in labels]
