"""``benchmarks/openmoji.py`` (``make demo``) on a fabricated OpenMoji and tiny encoders."""

import json
import re

import openmoji


def test_the_demo_trains_compares_predicts_and_explains(on_openmoji, monkeypatch, tmp_path, capfd):
    arguments = ["openmoji.py", *on_openmoji, "--trainer.check_val_every_n_epoch=1"]
    monkeypatch.setattr("sys.argv", arguments)
    openmoji.main()
    rows = json.loads((tmp_path / "runs/demo/comparison.json").read_text())
    methods = [row["method"] for row in rows if row["metric"] == "accuracy"]
    assert methods == ["majority", "epic", "frozen_features", "linear_probe"]
    printed = capfd.readouterr().out
    table = printed[printed.index("== Test accuracy") :]
    for name in ("linear probe", "no prompts", "EPIC"):
        assert re.search(rf"^  {re.escape(name)} +\d+\.\d%$", table, re.MULTILINE)
    # one store a modality: EPIC's features serve the controls as well
    stores = (tmp_path / "cache/features").glob("[it]*-*")
    assert sorted(path.name.split("-")[0] for path in stores) == ["image", "text"]
    assert "CC BY-SA 4.0" in printed
    assert list(tmp_path.rglob("predictions.parquet"))
    assert (tmp_path / "runs/demo/explanation/index.html").is_file()
