"""``benchmarks/encoding_loops.py`` on a tiny encoder."""

import json

import pytest

import encoding_loops


@pytest.mark.slow
def test_a_row_for_each_loop_with_tokens_equal_to_the_first(monkeypatch, capsys, tiny_vit_dir):
    options = ["--size", "32", "--images", "8", "--rounds", "1", "--threads", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["encoding_loops.py", "--encoder", str(tiny_vit_dir), *options])
    encoding_loops.main()
    rows = {row["loop"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"eager, float32, batch 32", "torch.compile", "onnxruntime"} <= set(rows)
    for name, row in rows.items():
        assert row["images_per_s"] > 0
        assert float(row["cosine"]) > (0.99 if name == "bfloat16" else 0.99999)
