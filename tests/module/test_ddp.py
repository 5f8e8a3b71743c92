"""Two processes on the CPU through the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from tiny_models import METHODS

import tiny_runs
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.module.postprocess import Postprocessor
from epic_pl.run.epic_cli import run
from tiny_runs import differing
from tolerance import assert_same

pytestmark = pytest.mark.slow

# DDP's launcher starts this file again as the second rank, so all loops share one start-up
SCRIPT = """
import json, os, sys
import lightning as L
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
import tiny_runs
from epic_pl.run.epic_cli import run
from tiny_models import METHODS

torch.set_num_threads(1)
config, vit, bert = sys.argv[1:]
ddp = ["--config", config, "--config", "ddp.yaml", "--trainer.devices", "2"]


def keep(module, trainer, name):
    torch.save(tiny_runs.trained(module), f"{name}.rank{trainer.global_rank}.pt")
    trainer.strategy.barrier()


cli = run(["fit", *ddp, "--config", "every_step.yaml"])
keep(cli.model, cli.trainer, "straight")
mean_loss = cli.trainer.callback_metrics["train/loss_epoch"]
torch.save(mean_loss, f"loss.rank{cli.trainer.global_rank}.pt")
folder = "runs/fit/version_0/checkpoints"
cli = run(["fit", *ddp, "--ckpt_path", f"{folder}/step4.ckpt"])
keep(cli.model, cli.trainer, "resumed")
cli = run(["test", *ddp, "--ckpt_path", f"{folder}/last.ckpt"])
metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
cli = run(["validate", *ddp, "--ckpt_path", f"{folder}/last.ckpt"])
metrics |= {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
if cli.trainer.is_global_zero:
    open("metrics.json", "w").write(json.dumps(metrics))
run(["predict", *ddp, "--ckpt_path", f"{folder}/last.ckpt"])

nodes = ["--config", config, "--config", "multi_node.yaml", "--trainer.accelerator", "cpu"]
nodes += ["--trainer.devices", "2", "--trainer.num_nodes", "1", "--cache.level", "auto"]
for name in ("EPIC", "LoRA"):
    cli = run(["fit", *nodes, "--model.method", name, "--trainer.logger", "false"])
    assert cli.trainer.global_step and cli.trainer.precision == "bf16-mixed"
    keep(cli.model, cli.trainer, f"nodes_{name}")


wide = tiny_runs.HEAD | {"network": "wide"}  # which has experts


def accumulate(name, ckpt_path=None):
    L.seed_everything(0 if ckpt_path is None else 77)
    data = tiny_runs.table_data("data/table.csv", vit, bert, batch_size_per_device=2)
    module = tiny_runs.module(vit, bert, optim={"lr": 1e-2}, modality_dropout=0.5, head=wide)
    callbacks = [] if ckpt_path else [tiny_runs.EveryBatch(".")]
    trainer = tiny_runs.trainer(
        ".", devices=2, strategy="ddp", max_epochs=2, accumulate_grad_batches=2,
        callbacks=callbacks, enable_checkpointing=bool(callbacks),
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    assert trainer.global_step == 4
    keep(module, trainer, name)


accumulate("window")
accumulate("window_resumed", "batch4.ckpt")

# on each rank samples with both modalities, with either and with the other
rows = [
    row | {"image_present": number % 3 != 0, "text_present": number % 3 != 1}
    for number, row in enumerate(tiny_runs.samples(24))
]
for name in METHODS:
    if name == "Trees":  # grow from a DataModule: tests/test_columns_on_every_road.py
        continue
    module = tiny_runs.module(vit, bert, method=name, optim={"lr": 1e-2}, head=wide)
    before = tiny_runs.trained(module)
    trainer = tiny_runs.trainer(".", devices=2, strategy="ddp", max_epochs=1)
    trainer.fit(module, tiny_runs.loader(rows, 2))
    after = tiny_runs.trained(module)
    torch.save((before, after), f"{name}.rank{trainer.global_rank}.pt")
    trainer.strategy.barrier()

# of seven samples, Lightning's own sampler repeats one
trainer.test(module, tiny_runs.loader(tiny_runs.samples(7), 2), verbose=False)
assert module.outputs.merged().sample_id == [f"sample-{number}" for number in range(7)]

model, batch = torch.load("joined.pt", weights_only=False)
rank = torch.distributed.get_rank()
part = {key: value[rank * 4 : rank * 4 + 4] for key, value in batch.items()}
distributed = DistributedDataParallel(model)
F.cross_entropy(distributed(part).logits, part["labels"]).backward()
gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
torch.save((gradients, dict(model.head.named_buffers())), f"joined.rank{rank}.pt")
"""
EVERY_STEP = """
trainer:
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {filename: "step{step}", save_top_k: -1, every_n_train_steps: 1,
                  auto_insert_metric_name: false}
"""
# so that all parts of the head learn, though not in every step
LOSES_SOME = """\
  head: {boundary: true, similarity: true, network: squeezed}
  modality_dropout: 0.5
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir, make):
    """The folder in which two ranks have fitted, resumed, tested and predicted."""
    folder = tmp_path_factory.mktemp("ddp")
    # three steps of two rows on each of two ranks; they validate and test other numbers of rows
    tiny_runs.table(folder / "data", train=12, val=5, test=7)
    config = tiny_runs.table_config(
        folder / "data", tiny_vit_dir, tiny_tokenizer_dir, batch_size_per_device=2
    )
    text = config.read_text()
    config.write_text(text.replace("model:\n", f"model:\n{LOSES_SOME}"))
    assert config.read_text() != text
    (folder / "every_step.yaml").write_text(EVERY_STEP)
    (folder / "script.py").write_text(SCRIPT)
    torch.save(_joined(make), folder / "joined.pt")
    command = [sys.executable, "script.py", config, tiny_vit_dir, tiny_tokenizer_dir]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    tests = Path(tiny_runs.__file__).parent
    environment["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests / "nn")])
    # of a launcher that this test may itself run under
    for name in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder, env=environment, timeout=280, **kept)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


def _joined(make):
    """A model in training, and a batch in which one rank has more missing modalities."""
    torch.manual_seed(0)
    model = make(options={"dropout": 0.0}, head=tiny_runs.HEAD | {"dropout": 0.0}).model.train()
    (batch,) = tiny_runs.loader(tiny_runs.samples(8), 8, drop=["sample_id"])
    batch["image_present"] = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1], dtype=torch.bool)
    batch["text_present"] = torch.tensor([1, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    return model, batch


def _weights(folder, name, rank):
    return torch.load(folder / f"{name}.rank{rank}.pt", weights_only=True)


def test_both_ranks_end_with_the_same_weights_and_all_have_moved(two_ranks):
    end = _weights(two_ranks, "straight", 0)
    assert not differing(end, _weights(two_ranks, "straight", 1))
    path = two_ranks / "runs" / "fit" / "version_0" / "checkpoints" / "step1.ckpt"
    checkpoint = read_checkpoint(str(path))
    early = {key: checkpoint["state_dict"][key] for key in end}
    assert set(differing(end, early)) == set(end)
    assert len(checkpoint["resume_states"]) == 2
    # the mean over the rows of both
    assert _weights(two_ranks, "loss", 0) == _weights(two_ranks, "loss", 1)


# half-accumulated gradients, which differ from rank to rank, used to be lost
@pytest.mark.parametrize(
    ("name", "resumed"), [("straight", "resumed"), ("window", "window_resumed")]
)
def test_resume_ends_with_the_same_weights(name, resumed, two_ranks):
    for rank in (0, 1):
        end = _weights(two_ranks, name, rank)
        assert not differing(end, _weights(two_ranks, resumed, rank))
    states = read_checkpoint(str(two_ranks / "batch4.ckpt"))["resume_states"]
    assert len(states) == 2
    assert differing(*(state["gradients"] for state in states))


def test_two_ranks_standardise_and_learn_as_one_process_on_the_joined_batch(two_ranks, make):
    model, batch = _joined(make)
    F.cross_entropy(model(batch).logits, batch["labels"]).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    statistics = dict(model.head.named_buffers())
    assert statistics["image.standardize_encoder.count"] == 4
    for rank in (0, 1):
        ours = torch.load(two_ranks / f"joined.rank{rank}.pt", weights_only=True)
        assert_same(ours, (gradients, statistics))


def test_seven_samples_count_seven(two_ranks, workdir, monkeypatch):
    monkeypatch.chdir(two_ranks)
    last = "runs/fit/version_0/checkpoints/last.ckpt"
    config = str(two_ranks / "data" / "tiny.yaml")
    alone = run(["test", "--config", config, "--ckpt_path", last]).trainer.callback_metrics
    both = json.loads(Path("metrics.json").read_text())
    for name in ("loss", "accuracy", "f1_macro", "ece", "ece_uncalibrated"):
        assert_same(both[f"test/{name}"], alone[f"test/{name}"])
    # fitted on the validation rows of both ranks, as one process does on all of them
    cli = run(["validate", "--config", config, "--ckpt_path", last])
    assert_same(both["val/loss"], cli.trainer.callback_metrics["val/loss"])
    fitted, refitted = cli.model.postprocessor, Postprocessor("multiclass", 3)
    assert fitted.temperature != 1
    with torch.no_grad():
        batches = list(cli.datamodule.val_dataloader())
        logits = torch.cat([cli.model.eval()(batch).logits for batch in batches])
    refitted.fit(logits, torch.cat([batch["labels"] for batch in batches]))
    assert_same(fitted.state_dict(), refitted.state_dict(), trained=True)
    run(["predict", "--config", config, "--ckpt_path", last, "--predictions.output", "one.parquet"])
    (one,) = two_ranks.rglob("one.parquet")
    (merged,) = two_ranks.rglob("predictions.parquet")
    one, merged = pq.read_table(one), pq.read_table(merged)
    assert merged["sample_id"].to_pylist() == [f"test{number}" for number in range(7)]
    for name in (each for each in one.column_names if each.startswith("probability_")):
        assert_same(merged[name].to_pylist(), one[name].to_pylist())
    assert not list(two_ranks.rglob(".predictions*"))  # no file that is half written


def test_every_method_ends_with_the_same_weights_on_both_ranks_and_all_have_moved(two_ranks):
    for name in (each for each in METHODS if each != "Trees"):
        (before, after), (_, other) = (
            torch.load(two_ranks / f"{name}.rank{rank}.pt", weights_only=True) for rank in (0, 1)
        )
        assert not differing(after, other)
        assert set(differing(after, before)) == set(after)
