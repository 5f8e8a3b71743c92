"""``run.json``: what a run was made of, and what came out."""

import json
from pathlib import Path

import torch

from epic_pl import Classifier
from epic_pl.run.epic_cli import run
from epic_pl.utils.config_files import read_yaml


def record_of(cli):
    return json.loads((Path(cli.trainer.log_dir) / "run.json").read_text())


def test_a_run_of_its_own_config_has_the_same_record(config):
    table = Path("data/table.csv")
    cli = run(["fit", "--config", config, "--model.optim.lr=0.01", "--trainer.max_epochs=1"])
    record = record_of(cli)
    made_of, result = record["made_of"], record["result"]
    assert result["step"] == 3
    assert result["metrics"]["val/accuracy"] == float(cli.trainer.callback_metrics["val/accuracy"])
    assert {"torch", "lightning", "epic_pl", "train rows", "val rows", "device"} <= set(made_of)
    again = ["fit", "--config", str(Path(cli.trainer.log_dir) / "config.yaml")]
    again += ["--trainer.default_root_dir", "again"]
    assert record_of(run(again)) == record
    table.write_text(table.read_text().replace("square, number 1", "square, the number 1"))
    other = record_of(run(again))
    assert other["made_of"]["train rows"] != made_of["train rows"]
    assert other["result"]["weights"] != result["weights"]


def test_a_run_keeps_the_precision_that_auto_chose(config, monkeypatch):
    def here(able):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": able}, raising=False)

    here(True)
    fit = ["fit", "--config", config, "--model.encoders.precision", "auto"]
    fit += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    cli = run(fit)
    assert record_of(cli)["made_of"]["precision of the encoders"] == "bf16"
    options = read_yaml(str(Path(cli.trainer.log_dir) / "config.yaml"))["model"]["init_args"]
    assert options["encoders"]["precision"] == "bf16"
    best = cli.kept
    here(False)  # another machine
    module = run([*fit, "--ckpt_path", "last"]).model
    assert module.encoders.precision == "bf16"
    assert module.model.text_encoder.precision == torch.bfloat16
    assert Classifier.load(best, device="cpu").module.encoders.precision == "bf16"
    assert run(fit).model.encoders.precision == "same"  # a new run
