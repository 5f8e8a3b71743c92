"""The shipped configs through the real command line, on tiny copies of the data."""

import fabricate
import pyarrow.parquet as pq
import pytest

from epic_pl import data
from epic_pl.cli.main import main
from epic_pl.data.inspection.check import check_data
from epic_pl.run.epic_cli import run
from epic_pl.utils.config_files import find_config, read_yaml

# the first layout of each dataset, on which all commands are run
NAMES = {name: layout for name, layout in reversed(fabricate.LAYOUTS)}
# ids of what predict reads, in the order of the data
PREDICTED = {
    "food101": [f"{dish}_4" for dish in fabricate.DISHES[::-1]],
    "snli_ve": [
        f"9{n}.jpg#2r1{label[0]}" for n in range(1008, 1012) for label in fabricate.ENTAILMENT
    ],
    "mm_imdb": [f"{n:07d}" for n in range(51, 74)],
    "hateful_memes": ["1260", "1261", "1262", "1263"],
}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["epic-pl"])  # LightningCLI warns of pytest's own


def _made(name, layout, root):
    """Options of the data, which are made in a folder."""
    fabricate.LAYOUTS[name, layout][0](root)
    own = {"food101": {"val_size": 3, "text_source": layout}, "hateful_memes": {"predict": "test"}}
    return {"data_dir": str(root), **own.get(name, {})}


@pytest.mark.parametrize(("name", "layout"), fabricate.LAYOUTS)
def test_every_layout_is_checked_without_a_warning(
    name, layout, tmp_path, tiny_vit_dir, tiny_tokenizer_dir
):
    kind = getattr(data, read_yaml(find_config(f"{name}.yaml"))["data"]["class_path"])
    names = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
    problems = check_data(kind(**names, **_made(name, layout, tmp_path)), workers=1).problems
    told = [each.text for each in problems if each.severity != "note"]
    # the tiny tokenizer has hardly any words
    assert [text for text in told if not text.startswith("The text encoder")] == []


@pytest.mark.parametrize(
    "name",
    [
        "mm_imdb",
        *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "mm_imdb"),
    ],
)
def test_every_dataset_trains(name, tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    given = _made(name, NAMES[name], tmp_path / "data")
    given |= {"num_workers": 0, "batch_size_per_device": 4}
    options = [
        *(f"--config={name}.yaml", *(f"--data.init_args.{key}={given[key]}" for key in given)),
        f"--model.encoders.image.name={tiny_vit_dir}",
        f"--model.encoders.text={{name: {tiny_tokenizer_dir}}}",
        "--model.encoders.image_size=32",
        "--model.method.interaction_layers=2",
        "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={tmp_path / 'runs'}",
    ]
    cli = run(["fit", *options, "--trainer.max_epochs=1"])
    config = read_yaml(find_config(f"{name}.yaml"))
    monitor = config.get("early_stopping", {"monitor": "val/accuracy"})["monitor"]
    assert monitor in cli.trainer.callback_metrics
    options += ["--ckpt_path", cli.kept]
    assert options[-1]
    assert run(["test", *options]).trainer.callback_metrics["test/loss"] > 0
    run(["predict", *options])
    (predictions,) = (tmp_path / "runs").rglob("predictions.parquet")
    table = pq.read_table(predictions)
    assert table["sample_id"].to_pylist() == PREDICTED[name]
    names = [f"probability_{name}" for name in cli.datamodule.class_names]
    sure = ["margin", "entropy"]
    assert table.column_names == ["sample_id", "image_path", "label", *sure, *names]


MISSING = {
    "food101": ("no texts/train_titles.csv", "upmcfood101", "--data.init_args.data_dir"),
    "snli_ve": ("no snli_ve_train.jsonl or snli_ve_train.jsonl.gz", "necla-ml"),
    "mm_imdb": ("no split.json", "mmimdb.tar"),
    "hateful_memes": ("no train.jsonl", "hatefulmemeschallenge"),
}


@pytest.mark.parametrize("name", MISSING)
def test_without_data_fit_says_how_to_get_it_before_any_encoder_is_touched(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for kind in ("image", "text"):
        monkeypatch.setattr(f"epic_pl.module.config.build_{kind}_encoder", None)
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", f"{name}.yaml"])
    assert caught.value.code == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("epic-pl: DataError:")
    for part in (str(tmp_path / "data" / name), "or get it: ", *MISSING[name]):
        assert part in message
