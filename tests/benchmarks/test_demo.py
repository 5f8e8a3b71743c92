"""``benchmarks/openmoji.py`` (``make demo``) on a fabricated OpenMoji and tiny encoders."""

import json
import re
import shutil
from pathlib import Path

import pytest

import openmoji
import tiny_runs

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_demo_trains_compares_predicts_and_explains(
    on_openmoji, monkeypatch, tmp_path, capfd, cache, tiny_vit_dir, tiny_tokenizer_dir
):
    arguments = ["openmoji.py", *on_openmoji, "--trainer.check_val_every_n_epoch=1"]
    monkeypatch.setattr("sys.argv", arguments)
    openmoji.main()
    rows = json.loads((tmp_path / "runs/demo/comparison.json").read_text())
    methods = [row["method"] for row in rows if row["metric"] == "accuracy"]
    assert methods == ["majority", "EPIC", "frozen_features", "LinearProbe"]
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
    encoders = {"dinov2-small": tiny_vit_dir, "all-minilm-l6-v2": tiny_tokenizer_dir}
    assert_readme_runs(cache, encoders)


def assert_readme_runs(cache: Path, encoders: dict[str, Path]) -> None:
    """Run README's Python after the demo, with tiny encoders and the fabricated images."""
    shutil.copytree(cache / "openmoji-17.0.0-32px", drawn := cache / "openmoji-17.0.0-112px")
    shutil.copy(next(drawn.glob("*.png")), drawn / "1F34E.png")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("112", "32").replace("clf(", "answer = clf(")
    for name, folder in encoders.items():
        code = code.replace(f"pypi:{name}", str(folder))
    code = code.replace("L.Trainer(", "tiny_runs.trainer('.', ")
    made = {"tiny_runs": tiny_runs}
    exec(compile(code, str(README), "exec"), made)
    assert {one["label"] for one in made["answer"]} == {"entailment", "not_entailment"}
    assert made["model"].trainer.global_step > 0
