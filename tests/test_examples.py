import runpy
from pathlib import Path

import tiny_runs
from epic_pl.module import EPICModule

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_pipeline.py"


def test_own_pipeline_fits_and_its_checkpoint_loads(
    workdir, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir
):
    tiny_runs.table(workdir, train=18, val=0, test=0)
    encoders = ["--image_encoder", str(tiny_vit_dir), "--text_encoder", str(tiny_tokenizer_dir)]
    arguments = [str(EXAMPLE), "table.csv", *encoders, "--interaction_layers", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    made = runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert made["trainer"].global_step == 6
    assert made["model"].class_names == ["blue", "green", "red"]
    loaded = EPICModule.load_from_checkpoint("own_pipeline.ckpt")
    assert not tiny_runs.differing(loaded.state_dict(), made["model"].state_dict())
