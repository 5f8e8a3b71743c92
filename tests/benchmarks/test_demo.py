"""``benchmarks/openmoji.py`` (``make demo``) on a fabricated OpenMoji and tiny encoders."""

import json
import re

import tiny_openmoji
import tiny_runs


def test_the_demo_trains_compares_predicts_and_explains(
    monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capfd
):
    import openmoji

    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny_runs.workers_here(monkeypatch)
    tiny_openmoji.fill_cache(tmp_path / "cache")
    tiny = tiny_openmoji.fit_options(tiny_vit_dir, tiny_tokenizer_dir)
    arguments = [*tiny, "--trainer.check_val_every_n_epoch=1"]
    monkeypatch.setattr("sys.argv", ["openmoji.py", *arguments])
    openmoji.main()
    rows = json.loads((tmp_path / "runs/demo/comparison.json").read_text())
    methods = [row["method"] for row in rows if row["metric"] == "accuracy"]
    assert methods == ["majority", "epic", "no_prompts", "linear_probe"]
    printed = capfd.readouterr().out
    table = printed[printed.index("== Test accuracy") :]
    for name in ("linear probe", "no prompts (EPIC's head)", "EPIC"):
        assert re.search(rf"^  {re.escape(name)} +\d+\.\d%$", table, re.MULTILINE)
    # one store a modality: EPIC's features serve the controls as well
    stores = sorted(
        path.name.split("-")[0] for path in (tmp_path / "cache/features").glob("[it]*-*")
    )
    assert stores == ["image", "text"]
    assert "CC BY-SA 4.0" in printed
    assert list(tmp_path.rglob("predictions.parquet"))
    assert (tmp_path / "runs/demo/explanation/index.html").is_file()
