"""``benchmarks/multabench.py`` on a fabricated copy, in the layout that ``load_split`` reads."""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import folds

TABLE, FOLDER = "MUL_IMAGE_POKEMON_HEIGHT", "extended-img-cls-pokemon-height"
WORDS = (f"--tables={TABLE}", "--folds=4", "--methods=LinearProbe,EPIC")
HEIGHTS = ("tall", "short", "middle")


@pytest.fixture
def script(monkeypatch):
    """The script, loaded by its path, since its name is that of the package."""
    try:
        importlib.metadata.version("multabench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs multabench")
    path = Path(__file__).parents[2] / "benchmarks" / "multabench.py"
    spec = importlib.util.spec_from_file_location("on_multabench", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def split(script, workdir):
    """A fold of a copy with one table of 66 rows, where some texts are missing."""
    folder, numbers = workdir / "data" / FOLDER, range(66)
    columns = {
        "name": [f"name {number}" for number in numbers],
        "sprite": [f"images/{number}.png" for number in numbers],
        "lore": [f"lore {number}" if number % 7 else None for number in numbers],
        "height": [HEIGHTS[number % 3] for number in numbers],
    }
    for path in columns["sprite"]:
        fabricate.image(folder / path)
    pd.DataFrame(columns).to_parquet(folder / "data.parquet")
    metadata = {"target": "height", "image_col": "sprite", "task_type": "cls"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return script.bench.load_split(TABLE, 4, data_dir=str(workdir / "data"))


@pytest.mark.slow
def test_results_are_the_benchmarks_score_of_its_own_test_rows(
    script, split, here, tiny, monkeypatch, capsys
):
    def main(*words):
        given = ["multabench.py", "--data-dir=data", "--folder=out", *WORDS, *words, *tiny]
        monkeypatch.setattr("sys.argv", given)
        script.main()
        return capsys.readouterr().out

    printed = main("--json")
    rows = json.loads(printed[printed.index("[\n") :])
    assert [(row["model"], row["fold"], row["metric"]) for row in rows] == [
        ("LinearProbe", 4, "log_loss"),
        ("EPIC", 4, "log_loss"),
    ]
    for row in rows:
        (path,) = Path("out").glob(f"{TABLE}/10k-fold4/runs/{row['model']}-0-*/predictions.parquet")
        answers = {Path(a["image_path"]).name: a for a in pq.read_table(path).to_pylist()}
        assert len(answers) == len(split.y_test) == row["n_test"]
        probabilities = [
            answers[Path(image).name][f"probability_{sorted(HEIGHTS).index(height)}"]
            for image, height in zip(split.x_test["sprite"], split.y_test, strict=True)
        ]
        assert row["test_error"] == pytest.approx(-np.log(probabilities).mean(), rel=1e-5)
    published = script.bench.load_published_results()
    written = pd.read_csv("out/models/EPIC.csv")
    assert [*written] == [*published]
    assert written["test_error"].tolist() == [pytest.approx(rows[1]["test_error"])]
    monkeypatch.setattr(folds, "train_and_test", None)  # finished runs are not repeated
    *_, probe, epic = main().splitlines()
    others = published[(published["dataset"] == TABLE) & (published["fold"] == 4)]["test_error"]
    for line, row in ((probe, rows[0]), (epic, rows[1])):
        *_, error, rank = map(str.strip, line.strip("|").split("|"))
        assert error == f"{row['test_error']:.3f}"
        assert rank == f"{1 + sum(others < row['test_error'])} of {1 + len(others)}"
    table = pq.read_table(path)
    pq.write_table(table[1:], path)  # a row without an answer is not left out of the score
    with pytest.raises(SystemExit, match=r"test rows are missing"):
        main()
