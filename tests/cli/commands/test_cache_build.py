"""``epic-pl cache build`` through the real command line, and the runs that read what it stored."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

import tiny_runs
from epic_pl.cli.main import main
from epic_pl.features.items import Items
from epic_pl.module.callbacks import feature_cache
from epic_pl.utils.errors import ConfigError, DataError
from tolerance import assert_same

OPTIONS = ["--model.method.prompt_attention", "read_only", "--cache.level", "layers"]
DDP = ["--config", "ddp.yaml", "--trainer.devices", "2"]
SHARD_BYTES = 20_000
# slow enough for a second rank to get its share
SCRIPT = f"""
import os, time
import torch
from epic_pl.module.callbacks import feature_cache
from epic_pl.features.items import Items
from epic_pl.cli.main import main

encode = Items.encode


def slowly(items, keys, layer=None):
    time.sleep(0.1)
    with open("encoded-" + os.environ.get("LOCAL_RANK", "0"), "a") as file:
        file.write("x" * len(keys))
    return encode(items, keys, layer)


feature_cache.SHARD_BYTES = {SHARD_BYTES}
Items.encode = slowly
torch.set_num_threads(1)
"""


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    """A folder with a table and its config, which is also the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    tiny_runs.table(tmp_path / "data")
    tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, tiny_tokenizer_dir)
    return tmp_path


def options(project):
    folder = str(project / "features")
    return ["--config", str(project / "data" / "tiny.yaml"), *OPTIONS, "--cache.folder", folder]


@pytest.fixture
def build(project, told):
    return lambda *more: told("cache", "build", *options(project), *more)


def test_encoders_run_on_the_trainers_device_or_are_refused_before_anything_is_stored(
    project, build, monkeypatch
):
    # another name of the only device there is: the module tells where it was moved
    device = torch.device("cpu", 0)
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", device)
    seen, encode = set(), Items.encode

    def spy(items, keys, layer=None):
        seen.add(items.device)
        return encode(items, keys, layer)

    def refuse(precision, device):
        raise ConfigError(f"{precision} on {device}")

    with monkeypatch.context() as lacking:
        lacking.setattr("epic_pl.module.config.check_precision", refuse)
        code, _, error = build("--model.encoders.precision", "fp16")
    assert code == 1
    assert "fp16 on cpu" in error
    assert not (project / "features").exists()
    monkeypatch.setattr(Items, "encode", spy)
    assert build()[0] == 0
    assert seen == {device}


def test_a_test_split_that_is_not_there_is_left_out_and_told(project, build, told):
    table = project / "data" / "table.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if not row.endswith(",test")) + "\n")
    code, said, _ = build("--data.init_args.test_size", "0")
    assert code == 0
    assert "Not stored, since it cannot be read: " in said
    assert told("cache", "info", "--folder", project / "features")[0] == 0


def gone(*_, **__):
    raise DataError("the images are gone")


def test_what_the_command_stored_is_all_that_later_runs_need(project, build, monkeypatch, capsys):
    given = options(project)
    code, said, progress = build()
    assert code == 0
    assert "Caching image features of 3 items" in said
    assert "image features" in progress
    encode = Items.encode

    def encode_blank(items, inputs, layer=None):
        assert len(inputs[0]) == 1, "a stored item was encoded again"
        return encode(items, inputs, layer)

    monkeypatch.setattr(Items, "encode", encode_blank)
    monkeypatch.setattr("epic_pl.data.dataset.read_image", gone)
    main(["fit", *given, "--trainer.max_epochs", "1"])
    (best,) = project.glob("runs/fit/*/checkpoints/last.ckpt")
    main(["test", *given, "--ckpt_path", str(best)])
    main(["predict", *given, "--ckpt_path", str(best)])
    assert "Caching" not in capsys.readouterr().out


def run(root, *commands, launcher=(), fails=False):
    """Run commands one after another in a new folder; what all processes printed."""
    root.mkdir()
    stores = ["--cache.folder", str(root / "features")]
    script = root / "script.py"
    script.write_text(SCRIPT + "\n".join(f"main({[*command, *stores]})" for command in commands))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    for variable in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)  # of a launcher that this test may itself run under
    command, pipes = [sys.executable, *launcher, str(script)], {"capture_output": True}
    done = subprocess.run(command, cwd=root, env=environment, text=True, timeout=200, **pipes)
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def stored(root):
    """Content of all files of the stores."""
    folder = root / "features"
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*")}


@pytest.mark.slow
def test_two_ranks_share_the_work_and_fit_as_they_do_from_images(project, monkeypatch):
    given = [*options(project), "--cache.batch_size", "2", "--cache.dtype", "float32"]
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", SHARD_BYTES)
    whole, encode = [], Items.encode
    monkeypatch.setattr(
        Items,
        "encode",
        lambda items, keys, layer=None: whole.extend(keys) or encode(items, keys, layer),
    )
    main(["fit", *given, "--trainer.max_epochs", "1"])
    assert len(stored(project)) > 10
    folder, fit = project / "two", ["fit", *given, *DDP, "--trainer.max_epochs", "1"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    commands = [[*fit, "--cache.level", level] for level in ("layers", "off")]
    printed = run(folder, *commands, launcher=torchrun)
    assert printed.count("Caching") == 1  # by one rank
    assert stored(folder) == stored(project)
    shares = {path.name: len(path.read_text()) for path in folder.glob("encoded-*")}
    assert sorted(shares) == ["encoded-0", "encoded-1"]
    assert max(shares.values()) < len(whole)
    losses = []
    for path in sorted(folder.glob("runs/fit/version_*/metrics.csv")):
        with path.open() as file:
            rows = [row["val/loss"] for row in csv.DictReader(file)]
        losses.append([float(value) for value in rows if value])
    cached, live = losses
    assert len(cached) == 1
    assert_same(cached, live, trained=True)


@pytest.mark.slow
def test_a_rank_that_fails_ends_all(project):
    broken = project / "data" / "images" / "val1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    printed = run(project / "two", ["cache", "build", *options(project), *DDP], fails=True)
    assert "val1.png" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_shards_store_together_what_one_command_does(project, told, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", SHARD_BYTES)
    given, parts = ["cache", "build", *options(project)], project / "parts"
    assert told(*given)[0] == 0
    for shard in ("2/2", "1/2"):
        assert stored(parts) != stored(project)
        assert told(*given, "--cache.folder", parts / "features", "--shard", shard)[0] == 0
    assert stored(parts) == stored(project)
    code, _, error = told(*given, "--shard", "3/2")
    assert code == 1
    assert "'3/2'" in error
