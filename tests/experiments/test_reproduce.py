"""``epic-pl reproduce``, and the record of a run that it compares with."""

import json
import os
from pathlib import Path

import pytest

from epic_pl.cli import run
from epic_pl.errors import ConfigError
from epic_pl.experiments.reproduce import reproduce
from epic_pl.files import try_read_json


def test_a_run_gives_the_same_weights_again_and_what_has_changed_is_named(config, tmp_path, capsys):
    cli = run(["fit", "--config", config, "--trainer.deterministic", "true"])
    folder = Path(cli.trainer.log_dir)
    record = json.loads((folder / "run.json").read_text())
    made_of, result = record["made_of"], record["result"]
    assert result["step"] == 6
    assert result["metrics"]["val/accuracy"] == float(cli.trainer.callback_metrics["val/accuracy"])
    assert {"torch", "lightning", "epic_pl", "train rows", "val rows", "device"} <= set(made_of)
    assert reproduce(folder) == 0
    said = capsys.readouterr().out
    assert "bit-identical" in said
    assert " then, " not in said
    table = tmp_path / "data" / "table.csv"
    table.write_text(table.read_text().replace("square, number 1", "square, the number 1"))
    record["made_of"] |= {"torch": "1.0", "lightning\x1b[2J": "\ud800"}
    (folder / "run.json").write_text(json.dumps(record))
    assert reproduce(folder) == 1
    said = capsys.readouterr().out
    evil = r"lightning\x1b[2J: \ud800 then"  # does not command the terminal
    for part in ("torch: 1.0 then", evil, "train rows: ", "are other than those of"):
        assert part in said


def test_what_cannot_be_reproduced_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match=r"has no run.json and config.yaml"):
        reproduce(tmp_path)
    one = run(["fit", "--config", config, "--trainer.max_epochs", "1"])
    last = str(Path(one.trainer.log_dir) / "checkpoints" / "last.ckpt")
    resumed = run(["fit", "--config", config, "--ckpt_path", last])
    with pytest.raises(ConfigError, match=r"was resumed from .*last.ckpt"):
        reproduce(Path(resumed.trainer.log_dir))
    last = str(Path(resumed.trainer.log_dir) / "checkpoints" / "last.ckpt")
    finished = run(["fit", "--config", config, "--ckpt_path", last])
    records = [Path(cli.trainer.log_dir) / "run.json" for cli in (one, resumed, finished)]
    weights = [json.loads(record.read_text())["result"]["weights"] for record in records]
    assert weights[1] == weights[2]
    records[0].write_text(json.dumps({"made_of": {}}))
    with pytest.raises(ConfigError, match="did not come to its end"):
        reproduce(Path(one.trainer.log_dir))


RESULT = {"metrics": {}, "weights": ""}


@pytest.mark.parametrize(
    ("record", "config"),
    [
        ({"result": RESULT}, "{}"),
        ({"made_of": [1], "result": RESULT}, "{}"),
        ({"made_of": {}, "result": None}, "{}"),
        ({"made_of": {}, "result": {"metrics": {}}}, "{}"),
        ({"made_of": {}, "result": RESULT | {"metrics": [1]}}, "{}"),
        ({"made_of": {}, "result": RESULT | {"metrics": {"a": "x"}}}, "{}"),
        ({"made_of": {}, "result": RESULT | {"metrics": {"a": 10**400}}}, "{}"),
        ({"made_of": {}, "result": RESULT}, "[1]"),
        ({"made_of": {}, "result": RESULT}, ""),
    ],
)
def test_a_damaged_record_is_refused_before_anything_is_trained(record, config, workdir):
    (workdir / "theirs").mkdir()
    (workdir / "theirs" / "run.json").write_text(json.dumps(record))
    (workdir / "theirs" / "config.yaml").write_text(config)
    with pytest.raises(ConfigError, match=r"theirs has no run.json and config.yaml"):
        reproduce(Path("theirs"), trusted_only=True)


def test_small_files_are_small_and_regular(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert try_read_json(path) is None
    with path.open("wb") as file:
        file.truncate(2**42)
    assert try_read_json(path) is None
    path.unlink()
    os.mkfifo(path)
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    assert try_read_json(path) is None
