"""The scripts of docs/after_training.md, on files as the commands write them."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "after_training"


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script in this process, and gives what it prints."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def script(name, *arguments):
        path = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr("sys.argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return script


def _predictions(folder, seed, ids, truth, columns):
    folder = folder / "runs" / f"LateFusionMLP-{seed}-0a1b"
    folder.mkdir(parents=True)
    scores = {f"probability_{name}": values for name, values in columns.items()}
    rows = {"sample_id": ids, "image_path": [f"{each}.jpg" for each in ids], "truth": truth}
    pq.write_table(pa.table(rows | scores), folder / "predictions.parquet")


def test_suspects_are_rows_whose_models_prefer_another_class(tmp_path, script):
    _predictions(tmp_path, 0, ["a", "b"], ["cat", "dog"], {"cat": [0.9, 0.6], "dog": [0.1, 0.4]})
    _predictions(tmp_path, 1, ["b", "c"], ["dog", "dog"], {"cat": [0.8, 0.9], "dog": [0.2, 0.1]})
    rows = list(csv.DictReader(script("label_errors_of_runs", tmp_path).splitlines()))
    assert [(row["sample_id"], row["given"], row["proposed"]) for row in rows] == [
        ("c", "dog", "cat"),
        ("b", "dog", "cat"),
    ]
    assert float(rows[1]["agreement"]) == np.float64((0.4 + 0.2) / 2 - (0.6 + 0.8) / 2)


def test_suspects_of_several_labels_are_given_or_lacking(tmp_path, script):
    scores = {"red": [0.95, 0.05], "big": [0.1, 0.5]}
    _predictions(tmp_path, 0, ["a", "b"], [["big"], ["red"]], scores)
    rows = list(csv.DictReader(script("label_errors_of_runs", tmp_path).splitlines()))
    told = [(row["sample_id"], row["given"], row["proposed"]) for row in rows]
    assert sorted(told[:2]) == [("a", "", "red"), ("b", "red", "")]
    assert told[2:] == [("a", "big", ""), ("b", "", "big")]


def _features(folder, image, text):
    folder.mkdir()
    ids = [str(row) for row in range(len(text))]
    columns = {"sample_id": ids, "image": image, "text": [*map(list, text)]}
    pq.write_table(pa.table(columns), folder / "part-0.parquet")


@pytest.mark.parametrize("mark", [[], ["|"]])
def test_suspects_are_rows_that_regression_of_the_features_doubts(tmp_path, mark, script):
    rng = np.random.default_rng(0)
    kinds = np.arange(100) % 2
    image = rng.normal(size=(100, 4)) + 8 * np.where(kinds, 1, -1)[:, None]
    _features(tmp_path / "features", image.tolist(), rng.normal(size=(100, 2)))
    cells = [("cat", "dog")[kind] + "|pet" * len(mark) for kind in kinds]
    cells[7] = cells[6]  # a cat
    cells[9] = ""
    lines = "".join(f"{row};{cell};{row}.jpg\n" for row, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"nr;kind;photo\n{lines}")
    said = script("label_errors", tmp_path / "features", tmp_path / "t.csv", "kind", *mark)
    first, *others = csv.DictReader(said.splitlines())
    if mark:  # two labels are wrong in the row: one is given, one is lacking
        told = {(row["row"], row["given"], row["proposed"]) for row in (first, others[0])}
        assert told == {("7", "cat", ""), ("7", "", "dog")}
    else:
        assert (first["row"], first["given"], first["proposed"]) == ("7", "cat", "dog")
    assert "9" not in {row["row"] for row in others}
    assert (first["photo"], first["kind"]) == ("7.jpg", cells[7])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["none", "t.csv", "kind"], "There are no features at none: write them by epic-pl embed."),
        (["features", "none.csv", "kind"], "Table none.csv does not exist"),
        (["features", "t.csv", "kin"], "t.csv has no column kin: it has nr, kind."),
        (["features", "short.csv", "kind"], "The 4 rows of features are not the 3 of short.csv: "),
        (["features", "long.csv", "kind"], "The 4 rows of features are not the 5 of long.csv: "),
        (["named", "t.csv", "kind"], "named names rows, as 'a': embed t.csv without --id."),
    ],
)
def test_features_of_another_table_are_refused(tmp_path, given, said, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _features(tmp_path / "features", [[1.0]] * 4, [[1.0, 0.0]] * 4)
    named = pq.read_table("features").to_pydict() | {"sample_id": ["a", "b", "c", "3"]}
    (tmp_path / "named").mkdir()
    pq.write_table(pa.table(named), "named/part-0.parquet")
    for name, rows in (("short", 3), ("t", 4), ("long", 5)):
        lines = "".join(f"{row},cat\n" for row in range(rows))
        (tmp_path / f"{name}.csv").write_text(f"nr,kind\n{lines}")
    with pytest.raises(SystemExit) as end:
        script("label_errors", *given)
    assert end.value.code.startswith(said)
    assert "\n" not in end.value.code


def test_rows_that_embed_has_skipped_are_not_judged(tmp_path, script):
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 2
    image = rng.normal(size=(40, 4)) + 8 * np.where(kinds, 1, -1)[:, None]
    _features(tmp_path / "features", image.tolist(), rng.normal(size=(40, 2)))
    part = tmp_path / "features" / "part-0.parquet"
    pq.write_table(pq.read_table(part).filter(np.arange(40) != 5), part)
    cells = [("cat", "dog")[kind] for kind in kinds]
    cells[5] = cells[7] = "cat"
    lines = "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"nr,kind\n{lines}")
    said = script("label_errors", tmp_path / "features", tmp_path / "t.csv", "kind")
    assert [row["row"] for row in csv.DictReader(said.splitlines())] == ["7"]


def test_the_least_certain_rows_come_next_without_near_duplicates(tmp_path, script):
    image = [[1.0, 0.0, 0.0], [1.0, 0.01, 0.0], None, [0.0, 0.0, 2.0]]
    _features(tmp_path / "features", image, [[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    with (tmp_path / "answers.csv").open("w") as file:
        file.write("sample_id,label,margin\n0,cat,0.1\n1,cat,0.05\n2,dog,0.3\n3,dog,0.2\n")
    said = script("label_next", tmp_path / "answers.csv", tmp_path / "features", 3)
    assert [row["sample_id"] for row in csv.DictReader(said.splitlines())] == ["1", "3", "2"]
    (tmp_path / "answers.csv").write_text("sample_id,label,margin\n0,cat,0.1\n7,cat,0.05\n")
    with pytest.raises(SystemExit, match="are not the 4 of"):
        script("label_next", tmp_path / "answers.csv", tmp_path / "features", 3)


def test_a_shift_of_one_modality_is_told_and_drawn(tmp_path, script):
    rng = np.random.default_rng(0)
    for name, shift in (("june", 0.0), ("july", 1.0)):
        image = rng.normal(size=(400, 16)) * np.linspace(3, 1, 16) + shift
        _features(tmp_path / name, [*image.tolist(), None], rng.normal(size=(401, 8)).tolist())
    figure = tmp_path / "drift.png"
    said = script("drift", tmp_path / "june", tmp_path / "july", figure).splitlines()
    assert said[0].startswith("image: has changed (D 0.")
    assert said[1].startswith("text: no change seen (D 0.")
    assert figure.read_bytes().startswith(b"\x89PNG")
