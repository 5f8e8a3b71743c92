"""The shipped configs through the real command line, on tiny copies of the data."""

from pathlib import Path

import fabricate
import pyarrow.parquet as pq
import pytest
import yaml

from epic_pl.cli import main, run
from epic_pl.config_files import find_config
from epic_pl.module import EPICModule

MAKE = {
    "food101": lambda root: fabricate.food101(root, "titles"),
    "snli_ve": fabricate.snli_ve,
    "mm_imdb": fabricate.mm_imdb,
    "hateful_memes": fabricate.hateful_memes,
}
OPTIONS = {
    "food101": ["--data.init_args.val_size", "3"],
    "hateful_memes": ["--data.init_args.predict", "test"],
}
# ids of what predict reads, in the order of the data
PREDICTED = {
    "food101": [f"{dish}_{n}" for dish in fabricate.DISHES[::-1] for n in (7, 6)],
    "snli_ve": [
        f"9{n}.jpg#2r1{label[0]}" for n in range(1008, 1012) for label in fabricate.ENTAILMENT
    ],
    "mm_imdb": ["0000012", "0000014"],
    "hateful_memes": ["1260", "1261", "1262", "1263"],
}


def _config(name):
    return yaml.safe_load(Path(find_config(f"{name}.yaml")).read_text())


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["epic-pl"])  # LightningCLI warns of pytest's own


@pytest.mark.parametrize("name", list(MAKE))
def test_fit_validate_test_and_predict_on_the_shipped_config(
    name, tmp_path, tiny_vit_dir, tiny_tokenizer_dir
):
    MAKE[name](tmp_path / "data")
    runs = tmp_path / "runs"
    options = [
        *("--config", f"{name}.yaml"),
        *("--data.init_args.data_dir", str(tmp_path / "data")),
        *("--data.init_args.num_workers", "0"),
        *("--data.init_args.batch_size_per_device", "4"),
        *("--model.image_encoder", str(tiny_vit_dir)),
        *("--model.text_encoder", str(tiny_tokenizer_dir)),
        *("--model.image_size", "32"),
        *("--model.interaction_layers", "2"),
        *("--trainer.max_epochs", "1"),
        *("--trainer.accelerator", "cpu"),
        *("--trainer.default_root_dir", str(runs)),
        *OPTIONS.get(name, []),
    ]
    cli = run(["fit", *options])
    metrics = cli.trainer.callback_metrics
    assert _config(name)["checkpoint"]["monitor"] in metrics
    best = cli.trainer.checkpoint_callback.best_model_path
    assert best

    run(["validate", *options, "--ckpt_path", best])
    assert run(["test", *options, "--ckpt_path", best]).trainer.callback_metrics["test/loss"] > 0
    run(["predict", *options, "--ckpt_path", best])
    (predictions,) = runs.rglob("predictions.parquet")
    table = pq.read_table(predictions)
    assert table["sample_id"].to_pylist() == PREDICTED[name]
    names = [f"probability_{each}" for each in cli.datamodule.class_names]
    assert table.column_names == ["sample_id", "label", *names]


@pytest.mark.parametrize("name", list(MAKE))
def test_without_data_fit_says_how_to_get_it_before_any_encoder_is_touched(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("an encoder was built")

    monkeypatch.setattr("epic_pl.module.build_image_encoder", refuse)
    monkeypatch.setattr("epic_pl.module.build_text_encoder", refuse)
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", f"{name}.yaml"])
    assert caught.value.code == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("epic-pl: DataError:")
    assert str(tmp_path / "data" / name) in message
    assert "(missing)" in message
    assert "How to get it:" in message


@pytest.mark.parametrize("name", list(MAKE))
def test_a_config_can_be_printed_from_any_folder_without_data(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run(["fit", "--config", f"{name}.yaml", "--print_config"])
    assert caught.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["init_args"]["data_dir"] == f"data/{name}"
    assert printed["model"]["text_encoder"] == "google-bert/bert-base-uncased"


@pytest.mark.parametrize(("name", "classes"), [("food101", 101), ("snli_ve", 3), ("mm_imdb", 23)])
def test_the_recipes_train_at_most_one_percent_of_the_encoders(name, classes):
    options = _config(name)["model"]
    task = "multilabel" if name == "mm_imdb" else "multiclass"
    model = EPICModule(**options, num_classes=classes, task=task, pretrained=False)
    count = {True: 0, False: 0}
    for parameter in model.parameters():
        count[parameter.requires_grad] += parameter.numel()
    assert 0 < count[True] <= 0.01 * count[False]
