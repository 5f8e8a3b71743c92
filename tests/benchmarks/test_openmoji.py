"""``benchmarks/openmoji.py`` (``make demo``) on a fabricated OpenMoji and tiny encoders."""

import json

import pytest

import tiny_openmoji


@pytest.mark.slow
def test_the_demo_trains_compares_predicts_and_explains(
    monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capfd
):
    import openmoji

    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_openmoji.fill_cache(tmp_path / "cache")
    tiny = tiny_openmoji.fit_options(tiny_vit_dir, tiny_tokenizer_dir)
    arguments = [*tiny, "--trainer.check_val_every_n_epoch=1"]
    monkeypatch.setattr("sys.argv", ["openmoji.py", *arguments])
    openmoji.main()
    rows = json.loads((tmp_path / "runs/demo/comparison.json").read_text())
    methods = [row["method"] for row in rows if row["metric"] == "accuracy"]
    assert methods == ["majority", "epic", "no_interaction", "linear_probe"]
    printed = capfd.readouterr().out
    assert "no_interaction" in printed
    assert "CC BY-SA 4.0" in printed
    assert list(tmp_path.rglob("predictions.parquet"))
    assert (tmp_path / "runs/demo/explanation/index.html").is_file()
