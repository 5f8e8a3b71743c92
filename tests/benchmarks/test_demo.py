"""``make demo`` on fabricated things and tiny encoders."""

import json
import re
from pathlib import Path

import pytest

import demo
import tiny_runs
from epic_pl.run.epic_cli import run

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_demo_trains_compares_predicts_and_explains(
    on_named, monkeypatch, tmp_path, capfd, cache, tiny_vit_dir, tiny_tokenizer_dir
):
    monkeypatch.setattr(demo, "SIDE", 32)
    monkeypatch.setattr(demo, "SCENES", {"val": 8, "test": 8})
    options = [*on_named, "--trainer.check_val_every_n_epoch=1"]
    monkeypatch.setattr("sys.argv", ["demo.py", "--rows=48", *options])
    demo.main()
    rows = json.loads((tmp_path / "runs/demo/comparison.json").read_text())
    methods = [row["method"] for row in rows if row["metric"] == "accuracy"]
    assert sorted(methods) == sorted(["majority", *demo.SHOWN])
    printed = capfd.readouterr().out
    table = printed[printed.index("== Accuracy on test statements") :]
    for name in demo.SHOWN.values():
        assert re.search(rf"^  {re.escape(name)}( +\d+\.\d%){{4}}$", table, re.MULTILINE)
    # one store a modality of more than a row: EPIC's features serve the controls as well
    stores = [path.parent.name for path in (cache / "features").glob("*/spec.json")
              if '"memory"' in path.read_text()]  # fmt: skip
    assert sorted(name.split("-")[0] for name in stores) == ["image", "text"]
    assert "CC BY-SA 4.0" in printed
    assert list(tmp_path.rglob("predictions.parquet"))
    assert "runs/demo/explanation/index.html" in table
    drawn = (tmp_path / "runs/demo/explanation").glob("*.png")
    assert len(list(drawn)) == demo.ON_PAGE
    (checkpoint,) = (tmp_path / "runs/demo").glob("runs/EPIC-*/checkpoints/last.ckpt")
    run(["validate", "--config", "scenes.yaml", *on_named, "--ckpt_path", str(checkpoint)])
    encoders = {"dinov2-small": tiny_vit_dir, "all-minilm-l6-v2": tiny_tokenizer_dir}
    assert_readme_runs(encoders)


def assert_readme_runs(encoders: dict[str, Path]) -> None:
    """Run README's Python after the demo, with tiny encoders and the fabricated images."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("112", "32").replace("clf(", "answer = clf(")
    for name, folder in encoders.items():
        code = code.replace(f"pypi:{name}", str(folder))
    code = code.replace("L.Trainer(", "tiny_runs.trainer('.', ")
    made = {"tiny_runs": tiny_runs}
    exec(compile(code, str(README), "exec"), made)
    assert {one["label"] for one in made["answer"]} == {"true", "false"}
    assert made["model"].trainer.global_step > 0
