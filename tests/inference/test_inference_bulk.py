"""What writes a table part by part: epic-pl predict, epic-pl embed and the actors of Ray."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from epic_pl.cli.commands import embed
from epic_pl.data import bulk_pass
from epic_pl.data.bulk_pass import BulkPass
from epic_pl.inference.ray import Predictor
from epic_pl.run.epic_cli import run
from epic_pl.utils.errors import DataError
from epic_pl.utils.share import Share

COLUMNS = {"image": "image", "text": "text", "id": "id"}


def predict(model, config, output, shard):
    options = ["--trainer.default_root_dir", str(output.parent), "--predictions.output"]
    more = ["--shard", shard] if shard else []
    size = "--data.eval_batch_size_per_device=2"
    run(["predict", "--config", config, "--ckpt_path", model, *options, output.name, size, *more])


def encode(model, config, output, shard):
    embed.embed(Path(model), Path("data/table.csv"), output, **COLUMNS, shard=shard)


def predict_on_an_actor(model, config, output, shard):
    source = {"table": Path("data/table.csv"), **COLUMNS}
    options = {"top_k": 2, "batch_size": 4, "on_bad_sample": "error"}
    actor = Predictor({"path": model}, source, output=output, **options)
    actor(vars(Share.of(shard)))


@pytest.fixture(params=[pytest.param(predict, marks=pytest.mark.slow), encode, predict_on_an_actor])
def write(request, trained, tmp_path, monkeypatch):
    """Writes parts of a few rows into a folder."""
    monkeypatch.setattr(bulk_pass, "BATCHES", 1)
    monkeypatch.setattr(embed, "_BATCH_SIZE", 4)
    model = shutil.copy(trained.checkpoint, tmp_path / "model.ckpt")

    def write(name, shard=None):
        request.param(str(model), trained.config, tmp_path / name, shard)

    return write


def killed(call):
    """Make a call in a process that is killed after its second part."""
    child = os.fork()
    if not child:
        whole, parts = BulkPass._write, []

        def last(self, path, table):
            whole(self, path, table)
            parts.append(path)
            if len(parts) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        BulkPass._write = last
        try:
            call()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_pass_is_continued_and_shared_and_gives_the_files_of_one_process(
    write, tmp_path, trained
):
    write("one")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    killed(lambda: write("out"))
    kept = {path: path.stat().st_ino for path in (tmp_path / "out").glob("part-*")}
    assert {path.name for path in kept} == {"part-000000.parquet", "part-000001.parquet"}
    write("out", "2/2")
    assert len(kept) < len(list((tmp_path / "out").iterdir())) < len(expected)
    write("out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected
    assert all(path.stat().st_ino == number for path, number in kept.items())

    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    content["state_dict"][next(iter(content["state_dict"]))] += 1
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(DataError, match="another model"):
        write("out")
