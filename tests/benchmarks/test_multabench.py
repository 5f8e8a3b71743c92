"""``benchmarks/multabench.py`` on a fabricated copy, in the layout that ``load_split`` reads."""

import importlib.metadata
import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

import folds
from epic_pl.experiments.runs import Run

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
        "weight": np.arange(66.0),
        "name": [f"name {number}" for number in numbers],
        "sprite": [f"images/{number}.png" for number in numbers],
        "kind": pd.Categorical(["water", "fire"] * 33),
        "lore": [f"lore {number}" if number % 7 else None for number in numbers],
        "seen": pd.date_range("2001-01-01 17:30", periods=66),
        "height": [HEIGHTS[number % 3] for number in numbers],
    }
    for path in columns["sprite"]:
        fabricate.image(folder / path)
    pd.DataFrame(columns).to_parquet(folder / "data.parquet")
    metadata = {"target": "height", "image_col": "sprite", "task_type": "cls"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return script.bench.load_split(TABLE, 4, data_dir=str(workdir / "data"))


@pytest.fixture
def main(script, here, tiny, monkeypatch, capsys):
    """Runs the command on the copy; the encoders are tiny. Gives its output and its errors."""

    def call(*words):
        given = ["multabench.py", "--data-dir=data", "--folder=out", *words, *tiny]
        monkeypatch.setattr("sys.argv", given)
        script.main()
        return capsys.readouterr()

    return call


@pytest.mark.slow
def test_results_are_the_benchmarks_score_of_its_own_test_rows(script, main, split, monkeypatch):
    printed = main(*WORDS, "--json").out
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
    *_, probe, epic = main(*WORDS).out.splitlines()
    others = published[(published["dataset"] == TABLE) & (published["fold"] == 4)]["test_error"]
    for line, row in ((probe, rows[0]), (epic, rows[1])):
        *_, error, rank = map(str.strip, line.strip("|").split("|"))
        assert error == f"{row['test_error']:.3f}"
        assert rank == f"{1 + sum(others < row['test_error'])} of {1 + len(others)}"


def test_a_fold_is_a_table_whose_columns_are_read_by_kind(script, main, split, monkeypatch):
    class Enough(Exception):
        pass

    def stop(runs):
        raise Enough

    monkeypatch.setattr(script, "finish", stop)
    with pytest.raises(Enough):
        main(*WORDS)
    table = pq.read_table(f"out/{TABLE}/10k-fold4/table.parquet").to_pandas()
    names = ["image", "text0", "text1", "number0", "category0", "date0", "label", "split"]
    assert [*table] == names
    config = yaml.safe_load(Path(f"out/{TABLE}/10k-fold4/epic.yaml").read_text())
    options = config["data"]["init_args"]
    assert options["text_columns"] == ["text0", "text1"]
    for kind in ("number", "category", "date"):
        assert options[f"{kind}_columns"] == [f"{kind}0"]
    for part, x, y in (
        ("train", split.x_train, split.y_train),
        ("test", split.x_test, split.y_test),
    ):
        rows = table[table["split"] == part]
        folder = Path("data").resolve() / FOLDER
        assert rows["image"].tolist() == [str(folder / path) for path in x["sprite"]]
        assert rows["number0"].tolist() == x["weight"].tolist()
        assert rows["category0"].tolist() == x["kind"].tolist()
        assert rows["date0"].tolist() == x["seen"].dt.strftime("%Y-%m-%d").tolist()
        assert rows["text0"].tolist() == x["name"].tolist()
        assert rows["text1"].isna().tolist() == x["lore"].isna().tolist()
        assert rows["text1"].dropna().tolist() == x["lore"].dropna().tolist()
        assert [sorted(HEIGHTS)[code] for code in rows["label"]] == y.tolist()


def test_predictions_of_two_classes_are_scored_by_row_number_and_none_may_lack(script, tmp_path):
    table = pa.table({"sample_id": ["4", "2", "3"], "probability_0": [0.2, 0.9, 0.4]})
    table = table.append_column("probability_1", pc.subtract(1, table["probability_0"]))
    task = script.bench.SupervisedTask.BINARY
    fold = script.Fold("A", 0, task, trained=2, truth=np.array([0, 1, 1]), config=Path("unused"))
    arguments = Namespace(folder=tmp_path, size="10k")
    pq.write_table(table, tmp_path / "predictions.parquet")
    run = Run("name", 0, (), tmp_path)
    assert script.judge(fold, "EPIC", run, arguments)["test_score"] == 1  # AUROC
    pq.write_table(table[1:], tmp_path / "predictions.parquet")
    with pytest.raises(SystemExit, match=r"name: test rows are missing"):
        script.judge(fold, "EPIC", run, arguments)


def test_tables_that_do_not_suit_are_skipped_and_those_that_are_missing_named(main, capsys):
    with pytest.raises(SystemExit, match=r"No table is left"):
        main("--tables=REG_IMAGE_AIRBNB_NYC,MUL_TEXT_WINE_REVIEW,MUL_IMAGE_CHEXPERT")
    assert capsys.readouterr().err.splitlines() == [
        "REG_IMAGE_AIRBNB_NYC is skipped: it is of regression.",
        "MUL_TEXT_WINE_REVIEW is skipped: it has no column of images.",
        "MUL_IMAGE_CHEXPERT is skipped: it has no column of texts.",
    ]
    with pytest.raises(SystemExit, match=r"core-img-cls-petfinder/data.parquet"):
        main("--tables=MUL_IMAGE_PETFINDER")
    with pytest.raises(SystemExit, match=r"No fold 6"):
        main(f"--tables={TABLE}", "--folds=6")
    with pytest.raises(SystemExit, match=r"No table PETFINDER"):
        main("--tables=PETFINDER")
