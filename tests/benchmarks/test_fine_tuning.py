"""``benchmarks/fine_tuning.py`` on a fabricated OpenMoji and tiny encoders."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fine_tuning
from epic_pl.experiments import runs
from fine_tuning import EPIC, EVERY, STRATEGIES


def _write(folder: Path, name: str, options=(), right: str = "", **result) -> None:
    """A finished run; ``right`` has a letter for each test row, of which ``r`` is right."""
    folder.mkdir(parents=True)
    content = {"name": name, "options": list(options), "task": "multiclass", **result}
    (folder / "result.json").write_text(json.dumps(content))
    columns = {"sample_id": [str(row) for row in range(len(right))]}
    columns |= {"image_path": columns["sample_id"], "truth": ["a"] * len(right)}
    for label, scores in (("a", (0.9, 0.2)), ("b", (0.1, 0.8))):
        columns[f"probability_{label}"] = [scores[letter != "r"] for letter in right]
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def _trained(folder, name, epochs, rate, right, validation, seconds, level="off"):
    options = [f"--{STRATEGIES[name].rate}={rate}", "--seed_everything=0"]
    costs = {"processor_s": seconds, "peak_memory_mb": 7.0, "trainable": 2000}
    scores = {"metrics": {"accuracy": right.count("r") / len(right)}}
    scores["validation"] = {"accuracy": validation}
    more = {"epochs": epochs, "cache_level": level, **costs, **scores}
    _write(folder / f"{name}-{epochs}-{rate:g}-0", name, options, right, **more)


def test_differences_are_from_epic_as_it_is_and_rates_are_those_of_validation(tmp_path):
    fold = tmp_path / "table" / "fold0"
    _write(fold / f"{EPIC}-storing", EPIC, processor_s=5.0)
    rows = 60
    _trained(fold, EPIC, 10, 1e-3, "r" * 40 + "w" * 20, 0.6, 20.0, "layers")
    _trained(fold, EPIC, 30, 1e-3, "r" * 40 + "w" * 20, 0.6, 60.0, "layers")
    _trained(fold, EPIC, 10, 3e-3, "r" * rows, 0.5, 20.0, "layers")  # not chosen
    _trained(fold, "LoRA", 1, 5e-4, "r" * 58 + "w" * 2, 0.7, 25.0)
    _trained(fold, "LoRA", 1, 1.5e-4, "w" * rows, 0.2, 25.0)
    chosen = {"table": {EPIC: 1e-3, "LoRA": 5e-4}}
    (tmp_path / fine_tuning.RATES).write_text(json.dumps(chosen))
    found = fine_tuning.finished(tmp_path)
    lines = fine_tuning.summary(found)
    assert [(line["strategy"], line["epochs"]) for line in lines] == [
        (EPIC, 10),
        (EPIC, 30),
        ("LoRA", 1),
    ]
    epic, longer, lora = lines
    assert [line["seconds"] for line in lines] == ["25", "65", "25"]  # storing is counted
    assert (epic["score"], epic["over EPIC"], epic["p"]) == ("66.7", "", "")
    assert longer["over EPIC"] == "+0.0 (+0.0 to +0.0)"
    assert (longer["times EPIC"], longer["p"]) == ("2.6", "1.000")
    low, high = map(float, re.findall(r"[+-][\d.]+", lora["over EPIC"])[1:])
    assert lora["over EPIC"].startswith("+30.0 (")
    assert 15 < low < 30 < high < 45
    assert float(lora["p"]) < 0.01


@pytest.mark.parametrize(
    ("level", "budget", "epochs"),
    # 100 rows a second of the wall are 200 of the processor; EPIC takes 15 s, 5 of them storing
    [("off", 1, 6), ("layers", 1, 4), ("off", 0.01, 1), ("off", 99, fine_tuning.LONGEST * 9)],
)
def test_a_budget_is_spent_in_whole_epochs(level, budget, epochs, tmp_path):
    place = fine_tuning.Place.__new__(fine_tuning.Place)
    place.folder, place.shared, place.epochs, place.rows = tmp_path, (), 9, 500
    pilot = {"samples_per_s": 100.0, "seconds": 4.0, "processor_s": 2.0, "cache_level": level}
    _write(place.pilot("LoRA").folder, "LoRA", place.pilot("LoRA").options, **pilot)
    _write(place.storing().folder, EPIC, place.storing().options, processor_s=5.0)
    own = place.run(EPIC, 9)
    _write(own.folder, EPIC, own.options, processor_s=10.0)
    assert fine_tuning.affordable(place, "LoRA", budget) == epochs
    assert fine_tuning.affordable(place, EPIC, 1) == 9
    assert place.run("LoRA", 2, seed=1).seed == 1
    place.shared = ("--data.batch_size_per_device=8",)
    with pytest.raises(SystemExit, match="LoRA-pilot is of a run with other options"):
        place.pilot("LoRA")


def test_the_rate_is_that_of_the_best_validation_score():
    scores = [{"task": "multiclass", "validation": {"accuracy": x}} for x in (0.5, 0.7, 0.6)]
    assert fine_tuning.best_rate("LoRA", scores) == STRATEGIES["LoRA"].rates[1]


@pytest.mark.slow
def test_each_strategy_trains_and_the_curves_are_drawn(on_openmoji, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(fine_tuning, "in_new_process", runs.in_new_process)
    monkeypatch.setattr(fine_tuning, "PILOT_STEPS", 3)
    for name, strategy in STRATEGIES.items():  # tiny encoders have three layers
        options = tuple(option.replace("layers=4", "layers=2") for option in strategy.options)
        fewer = strategy._replace(rates=strategy.rates[:1], options=options)
        monkeypatch.setitem(EVERY, name, fewer)
    figure = tmp_path / "figure.svg"
    arguments = ["--tasks", "openmoji", "--folds", "0", "--seeds", "1", "--budgets", "1"]
    arguments += ["--jobs", "1", "--figure", str(figure), "--json", *on_openmoji]
    arguments += ["--data.batch_size_per_device", "4"]
    monkeypatch.setattr("sys.argv", ["fine_tuning.py", *arguments])
    assert fine_tuning.main() == 0
    printed = capfd.readouterr().out
    rows = json.loads(printed[printed.index("[\n") :])
    assert {row["strategy"] for row in rows} == set(STRATEGIES)
    assert all(0 <= row["score"] <= 100 and row["seconds"] > 0 for row in rows)
    trained = {row["strategy"]: row["trained"] for row in rows}
    assert trained["FullFineTuning"] > trained["LastLayers"] > trained["LateFusionMLP"]
    assert ">LoRA<" in figure.read_text()
    runs_of = {path.parent.name for path in tmp_path.glob("runs/fine_tuning/*/fold0/*/result.json")}
    assert {f"{row['strategy']}-{row['epochs']}-{row['rate']:g}-0" for row in rows} < runs_of
    monkeypatch.setattr(fine_tuning, "train", None)  # nothing is repeated
    assert fine_tuning.main() == 0
