"""``benchmarks/columns.py`` on a fabricated table and tiny encoders."""

import json

import pytest

import columns
import tiny_runs


@pytest.mark.slow
def test_each_way_of_the_columns_is_measured(here, tiny, tmp_path, monkeypatch, capfd):
    with tiny_runs.changed_rows(tiny_runs.table(tmp_path / "toys")) as rows:
        for number, row in enumerate(rows):
            colour = list(tiny_runs.COLOURS).index(row["label"])
            row |= {"price": 10.5 * colour + number % 3, "brand": "ab"[number // 3 % 2]}
            row["text"] = "something"
    arguments = [str(tmp_path / "toys"), "--methods=LateFusionMLP", "--seeds=1", "--json", *tiny]
    monkeypatch.setattr("sys.argv", ["columns.py", *arguments, "--data.max_text_tokens=24"])
    assert columns.main() == 0
    printed = capfd.readouterr().out
    found = {row["way"]: row for row in json.loads(printed[printed.index("[\n") :])}
    ways = [f"LateFusionMLP-{way}" for way in ("with", "without", "as_words", "alone")]
    assert [*found] == [*ways, "trees, columns alone", "trees, with components"]
    text = (tmp_path / "runs" / "columns" / "toys" / "table.csv").read_text()
    assert "something. price 1 of 8, brand a" in text
