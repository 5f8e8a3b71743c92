import csv
import runpy
from pathlib import Path

from PIL import Image

import tiny_runs
from epic_pl.module import EPICModule

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_pipeline.py"


def test_own_pipeline_fits_and_its_checkpoint_loads(
    tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir
):
    monkeypatch.chdir(tmp_path)
    with open("pairs.csv", "w", newline="") as file:
        csv.writer(file).writerow(["image", "text", "label"])
        for number in range(18):
            Image.new("RGB", (40, 30), (80 * (number % 3), 60, 90)).save(f"{number}.png")
            csv.writer(file).writerow([f"{number}.png", f"picture {number}", "abc"[number % 3]])
    encoders = ["--image_encoder", str(tiny_vit_dir), "--text_encoder", str(tiny_tokenizer_dir)]
    arguments = [str(EXAMPLE), "pairs.csv", *encoders, "--interaction_layers", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    made = runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert made["trainer"].global_step == 6
    assert made["model"].class_names == ["a", "b", "c"]
    loaded = EPICModule.load_from_checkpoint("own_pipeline.ckpt")
    assert not tiny_runs.differing(loaded.state_dict(), made["model"].state_dict())
