"""Two processes on the CPU through the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import tiny_runs
from epic_pl.cli import run
from epic_pl.module.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

# DDP's launcher starts this file again as the second rank, so all loops share one start-up
SCRIPT = """
import json, os, sys
import torch
from epic_pl.module import head_start, modality_balance, seen_rows
from epic_pl.cli import run
from epic_pl.nn.heads.similarity import Agreement

torch.set_num_threads(1)
# the head starts from these few rows too, on the second rank with another sign, as hardware may
for module in (head_start, modality_balance, seen_rows):
    module.FEWEST_ROWS = 8
if os.environ.get("LOCAL_RANK") == "1":
    start = Agreement.start_from_rows

    def with_another_sign(self, *rows):
        start(self, *rows)
        for down in (self.similarity.down_image, self.similarity.down_text):
            down.weight.neg_()

    Agreement.start_from_rows = torch.no_grad()(with_another_sign)
ddp = ["--config", sys.argv[1], "--config", "ddp.yaml", "--trainer.devices", "2"]


def keep(cli, name):
    weights = {k: p.detach().clone() for k, p in cli.model.named_parameters() if p.requires_grad}
    torch.save(weights, f"{name}.rank{cli.trainer.global_rank}.pt")
    cli.trainer.strategy.barrier()


keep(run(["fit", *ddp, "--config", "every_step.yaml"]), "straight")
folder = "runs/fit/version_0/checkpoints"
keep(run(["fit", *ddp, "--ckpt_path", f"{folder}/step4.ckpt"]), "resumed")
cli = run(["test", *ddp, "--ckpt_path", f"{folder}/last.ckpt"])
if cli.trainer.is_global_zero:
    metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    open("metrics.json", "w").write(json.dumps(metrics))
run(["predict", *ddp, "--ckpt_path", f"{folder}/last.ckpt"])
"""
EVERY_STEP = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        filename: step{step}
        every_n_train_steps: 1
        save_top_k: -1
        auto_insert_metric_name: false
"""


# so that all that may learn of who is alone does, though not in every step
LOSES_SOME = """\
  missing_aware_head: true
  modality_dropout: 0.5
"""


def _run(command, folder):
    """Run to the end with both ranks' output kept, or fail with it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    # of a launcher that this test may itself run under
    for name in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """The folder in which two ranks have fitted, resumed, tested and predicted."""
    folder = tmp_path_factory.mktemp("ddp")
    tiny_runs.table(folder / "data")  # 12 rows: three steps of two rows on each of two ranks
    config = tiny_runs.table_config(folder / "data", tiny_vit_dir, tiny_tokenizer_dir, batch_size=2)
    text = config.read_text()
    config.write_text(text.replace("model:\n", f"model:\n{LOSES_SOME}"))
    assert config.read_text() != text
    (folder / "every_step.yaml").write_text(EVERY_STEP)
    (folder / "script.py").write_text(SCRIPT)
    _run([sys.executable, "script.py", str(config)], folder)
    return folder


def _weights(folder, name, rank):
    return torch.load(folder / f"{name}.rank{rank}.pt", weights_only=True)


def _differing(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def test_both_ranks_end_with_the_same_weights_and_all_have_moved(two_ranks):
    end = _weights(two_ranks, "straight", 0)
    assert not _differing(end, _weights(two_ranks, "straight", 1))
    path = two_ranks / "runs" / "fit" / "version_0" / "checkpoints" / "step1.ckpt"
    checkpoint = read_checkpoint(str(path))
    early = {key: checkpoint["state_dict"][key] for key in end}
    # nobody of this data is absent, so the stand-ins get a gradient of zero
    still = {"model.absent_image", "model.absent_text"}
    assert set(end) - set(_differing(end, early)) <= still
    assert len(checkpoint["rng_states"]) == 2


def test_resume_in_the_middle_of_an_epoch_ends_with_the_same_weights(two_ranks):
    for rank in (0, 1):
        straight = _weights(two_ranks, "straight", rank)
        assert not _differing(straight, _weights(two_ranks, "resumed", rank))


def test_seven_samples_count_seven(two_ranks, monkeypatch):
    monkeypatch.chdir(two_ranks)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    last = "runs/fit/version_0/checkpoints/last.ckpt"
    config = str(two_ranks / "data" / "tiny.yaml")
    alone = run(["test", "--config", config, "--ckpt_path", last]).trainer.callback_metrics
    both = json.loads(Path("metrics.json").read_text())
    for name in ("test/accuracy", "test/f1_macro", "test/ece", "test/ece_uncalibrated"):
        assert both[name] == pytest.approx(float(alone[name]))
    # fitted on the validation rows of both ranks, and anew by one process on all of them
    saved = read_checkpoint(last)["state_dict"]["calibration_temperature"]
    assert saved != 1
    weight = read_checkpoint(last)["state_dict"]["model.interaction_weight"]
    assert weight != 1
    refitted = run(["validate", "--config", config, "--ckpt_path", last]).model
    torch.testing.assert_close(refitted.model.interaction_weight, weight, rtol=1e-4, atol=0)
    torch.testing.assert_close(refitted.calibration_temperature, saved, rtol=1e-4, atol=0)
    run(["predict", "--config", config, "--ckpt_path", last, "--predictions.output", "one.parquet"])
    (one,) = two_ranks.rglob("one.parquet")
    (merged,) = two_ranks.rglob("predictions.parquet")
    one, merged = pq.read_table(one), pq.read_table(merged)
    assert merged["sample_id"].to_pylist() == [f"test{number}" for number in range(7)]
    for name in (each for each in one.column_names if each.startswith("probability_")):
        assert merged[name].to_pylist() == pytest.approx(one[name].to_pylist(), abs=1e-6)
    assert not list(two_ranks.rglob(".predictions*"))  # the ranks' parts are gone


def test_the_command_itself_starts_its_second_rank(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    tiny_runs.table(tmp_path / "data")
    config = tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, tiny_tokenizer_dir)
    options = ["--config", str(config), "--config", "ddp.yaml", "--trainer.devices", "2"]
    command = [str(Path(sys.executable).with_name("epic-pl")), "fit", *options]
    printed = _run([*command, "--trainer.max_epochs", "1"], tmp_path)
    assert "MEMBER: 2/2" in printed
    assert len(list(tmp_path.rglob("best.ckpt"))) == 1
