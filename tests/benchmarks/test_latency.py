"""``benchmarks/latency.py`` on tiny encoders."""

import json

import pytest

import latency


@pytest.mark.slow
def test_a_row_for_the_encoders_each_method_and_loading(
    monkeypatch, capsys, tiny_vit_dir, tiny_tokenizer_dir
):
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", str(tiny_tokenizer_dir)]
    options = ["--size", "32", "--methods", "EPIC,LinearProbe", "--rounds", "2", "--json"]
    monkeypatch.setattr("sys.argv", ["latency.py", *tiny, *options])
    latency.main()
    rows = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in rows] == ["encoders", "EPIC", "LinearProbe", "import", "load"]
    assert all(row["ms"] > 0 for row in rows)
    assert rows[0]["over_encoders"] == "1.00 (1.00 to 1.00)"
