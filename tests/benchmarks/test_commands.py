"""Each script runs on fabricated data and tiny encoders, and prints what it is for."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fine_tuning
import fuzz
import peers
import soak
import tiny_runs
from epic_pl.data.processor import Processor
from epic_pl.experiments import runs

# an environment with AutoGluon, whose answers are right
AUTOGLUON = f"""#!{sys.executable}
import csv, json, sys
from pathlib import Path
request = json.loads(Path(sys.argv[2]).read_text())
train, truth = ([row["label"] for row in csv.DictReader(open(request[split], newline=""))]
                for split in ("train", "test"))
run = dict(classes=sorted({{*train}}), truth=truth, epochs=1, latency_ms=5, megabytes=2)
run["probabilities"] = [[float(name == label) for name in run["classes"]] for label in truth]
runs = [run | dict(seconds=budget) for budget in request["budgets"]]
Path(sys.argv[2]).with_name("result.json").write_text(json.dumps(dict(runs=runs)))
"""
# script (the first is fast) and options, and what is printed; TINY are options of fit
COMMANDS = [
    ("scenes --count 2 --size 32 --output scenes.png", r"scenes\.png: .*OpenMoji"),
    ("folds --tasks one_word --folds 0 --methods LinearProbe,logistic TINY", r"logistic \| \d"),
    ("columns toys --methods LateFusionMLP --seeds 1 --ways with,alone TINY",
     r"LateFusionMLP-alone \| \d.*\n.*trees, columns alone \| \d.*\n.*with components \| \d"),
    ("fine_tuning --tasks openmoji --folds 0 --seeds 1 --budgets 1 --jobs 1 "
     "--strategies LateFusionMLP,LastLayers,LoRA TINY --data.batch_size_per_device 4 "
     "--figure f.svg",
     r"EPIC \|(.*\n)*.*LateFusionMLP \|(.*\n)*.*LastLayers \|(.*\n)*.*LoRA \| [1-9]"),
    ("step_cost --methods LinearProbe --image-encoder VIT --text-encoder BERT "
     "--tokenizer BERT --seconds 0 --steps 1 --batch 4 --rows 8 --threads 1 "
     '--model {"method":{"interaction_layers":2}}', r"LinearProbe \| [1-9]"),
    ("trees --sizes 3x40,21x60 --inputs 60", "largest_leaf"),
    ("latency --size 32 --methods LinearProbe --rounds 1 --image-encoder VIT --text-encoder BERT",
     r"encoders \| .* 1\.00 .*\n.*LinearProbe \| [1-9]"),
    ("serve runs --settings classifier,batched --concurrency 1 --seconds 1 --rounds 1",
     r"classifier \| 1 \| [1-9].*\n.*batched \| 1 \| [1-9]"),
    ("soak --minutes 0 --jobs 1 --variants every_step",
     r"every_step +[1-9]\d* runs\n\d+ kills .*; 0 findings"),
    ("peers --autogluon AG --times 1,4 TINY --trainer.max_epochs=1",
     r"EPIC \| \d.*\n.*\n.*AutoGluon frozen encoders, 4 times the time \| 100\.0 \| 100\.0 \|"),
]  # fmt: skip


@pytest.fixture
def call(monkeypatch, capfd):
    """Runs a script in this process; gives its output."""

    def call(words):
        monkeypatch.setattr("sys.argv", [f"{words[0]}.py", *words[1:]])
        assert not importlib.import_module(words[0]).main()
        return capfd.readouterr().out

    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(*each, id=each[0].split()[0], marks=[pytest.mark.slow] * (number > 0))
        for number, each in enumerate(COMMANDS)
    ],
)
def test_command(
    words, expected, call, monkeypatch, request, here, tiny, tiny_vit_dir, tiny_tokenizer_dir
):
    name = words.split()[0]
    request.getfixturevalue({"scenes": "on_named", "serve": "trained"}.get(name, "emoji"))
    if name == "columns":
        with tiny_runs.changed_rows(tiny_runs.table(Path("toys"))) as rows:
            for number, row in enumerate(rows):
                row |= {"price": 10.5 + number % 3, "brand": "ab"[number % 2], "text": "a toy"}
    if name == "fine_tuning":
        monkeypatch.setattr(fine_tuning, "in_new_process", runs.in_new_process)
        monkeypatch.setattr(fine_tuning, "PILOT_STEPS", 3)
        for key, each in fine_tuning.STRATEGIES.items():
            monkeypatch.setitem(fine_tuning.STRATEGIES, key, each._replace(rates=each.rates[:1]))
    monkeypatch.setattr(soak, "_KILLS", 1)
    monkeypatch.setattr(peers, "resolve", str)
    monkeypatch.setattr(peers, "SETTINGS", {"frozen encoders": {}})
    Path("ag").write_text(AUTOGLUON)
    Path("ag").chmod(0o755)
    put = {"VIT": [str(tiny_vit_dir)], "BERT": [str(tiny_tokenizer_dir)], "TINY": tiny}
    put["AG"] = [str(Path("ag").resolve())]
    printed = call([part for word in words.split() for part in put.get(word, [word])])
    assert re.search(expected, printed), printed


def test_a_run_that_differs_from_the_undisturbed_one_is_found(tmp_path):
    tally, made = soak.Tally(), []
    for name, weights in (("one", "1"), ("other", "2")):
        made.append(soak.Soak(tmp_path, "joint", tmp_path / name, tally))
        (record := tmp_path / name / "fit/version_0/run.json").parent.mkdir(parents=True)
        record.write_text(json.dumps({"result": {"weights": weights, "metrics": {}}}))
        (tmp_path / name / "log.txt").touch()
    made[0].compare(made[0])
    assert not tally.findings
    made[0].compare(made[1])
    assert "not as in the undisturbed run: weights" in tally.findings[0]


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_files_end_in_errors_of_the_package(target, tmp_path):
    fuzz.property_of(target, tmp_path, examples=60)()


def test_a_request_that_fails_or_costs_too_much_is_a_finding(tmp_path, monkeypatch):
    _, case = fuzz.forms(tmp_path)
    sent = "/classify", b"application/json", b'{"text": "a"}', 5, False
    case(sent)
    for limit in ("REQUEST_S", "REQUEST_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(fuzz, limit, 0)
            with pytest.raises(AssertionError, match=r"\d (s|MiB)"):
                case(sent)
    monkeypatch.setattr(Processor, "prepare", lambda *_: {}["unforeseen"])
    with pytest.raises(KeyError, match="unforeseen"):
        case(sent)


BROKEN = """
import sys
import fuzz
from hypothesis import strategies as st

def broken(folder):
    def case(kind):
        if kind == 3:
            raise KeyError("a")
    return st.integers(0, 3), case

fuzz.__file__, fuzz.TARGETS = __file__, {"broken": broken}
sys.exit(fuzz.main())
"""


@pytest.mark.slow
def test_findings_are_told_and_their_inputs_kept(workdir, monkeypatch):
    pytest.importorskip("atheris")
    monkeypatch.setenv("PYTHONPATH", str(Path(fuzz.__file__).parent), prepend=":")
    Path("broken.py").write_text(BROKEN)
    command = [sys.executable, "broken.py", "--target", "broken", "--jobs", "1"]
    done = subprocess.run([*command, "--minutes", "0.05"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "KeyError: 'a'" in done.stdout
    again = [*command, "--input", "runs/fuzz/broken-0"]
    assert "KeyError: 'a'" in subprocess.run(again, capture_output=True, text=True).stderr
