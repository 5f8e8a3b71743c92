"""``run.json``: what a run was made of, and what came out."""

import json
from pathlib import Path

import tiny_runs
from epic_pl.cli.epic_cli import run


def record_of(cli):
    return json.loads((Path(cli.trainer.log_dir) / "run.json").read_text())


def test_a_run_of_its_own_config_has_the_same_record(workdir, tiny_vit_dir, tiny_tokenizer_dir):
    table = tiny_runs.table(workdir / "data")
    config = tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir)
    cli = run(["fit", "--config", str(config), "--model.optim.lr", "0.01"])
    record = record_of(cli)
    made_of, result = record["made_of"], record["result"]
    assert result["step"] == 6
    assert result["metrics"]["val/accuracy"] == float(cli.trainer.callback_metrics["val/accuracy"])
    assert {"torch", "lightning", "epic_pl", "train rows", "val rows", "device"} <= set(made_of)
    again = ["fit", "--config", str(Path(cli.trainer.log_dir) / "config.yaml")]
    again += ["--trainer.default_root_dir", "again"]
    assert record_of(run(again)) == record
    table.write_text(table.read_text().replace("square, number 1", "square, the number 1"))
    other = record_of(run(again))
    assert other["made_of"]["train rows"] != made_of["train rows"]
    assert other["result"]["weights"] != result["weights"]
