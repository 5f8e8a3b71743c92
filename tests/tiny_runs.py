"""Tiny data and runs for tests that go through the real Trainer or the real command line."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from PIL import Image
from torch.utils.data import DataLoader

from epic_pl.data import TableDataModule
from epic_pl.experiments import runs, training
from epic_pl.module import EPICModule
from epic_pl.module.config import plain
from epic_pl.run.epic_cli import run
from epic_pl.utils.files import try_read_json

COLOURS = {"blue": (30, 60, 220), "green": (40, 190, 60), "red": (220, 40, 30)}
COLUMNS = {"split_column": "split", "id_column": "id"}
SIDE = 32
HEAD = {"boundary": True, "similarity": True}


def samples(
    count: int = 8, *, classes: int = 3, multilabel: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows as somebody else's Dataset might give them: a DataLoader's own collation suffices."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        shape = (classes,) if multilabel else ()
        labels = torch.randint(2 if multilabel else classes, shape, generator=generator)
        rows.append(
            {
                "pixel_values": torch.randn(3, SIDE, SIDE, generator=generator),
                "input_ids": torch.randint(5, 60, (6,), generator=generator),
                "attention_mask": torch.ones(6, dtype=torch.long),
                "labels": labels,
                "sample_id": f"sample-{number}",
            }
        )
    return rows


def loader(rows: Sequence[dict[str, Any]], batch_size: int = 4, *, drop: Sequence[str] = ()):
    """Batches of ``rows`` without the keys in ``drop``."""
    kept = [{key: value for key, value in row.items() if key not in drop} for row in rows]
    return DataLoader(kept, batch_size=batch_size)


def batch(count: int = 4, **options: Any) -> dict[str, Any]:
    """The rows of :func:`samples` as one batch."""
    (only,) = loader(samples(count, **options), count)
    return only


def module(vit: Path, bert: Path, **options: Any) -> EPICModule:
    """EPICModule on the tiny encoders; nested options are dictionaries of what differs.

    ``method`` names the method, and ``options`` are its own.
    """
    method, given = options.pop("method", "EPIC"), options.pop("options", {})
    if method == "EPIC":
        given = {"prompt_attention": "joint", "hub_width": 8} | given
    if isinstance(method, str):
        method = {"class_path": method, "init_args": given}
    encoders = {"image": {"name": str(vit)}, "text": {"name": str(bert)}}
    head = {"boundary": False, "similarity": False, "network": "none"}
    return EPICModule(
        **{
            "num_classes": 3,
            **options,
            "encoders": encoders | plain(options.get("encoders", {})),
            "method": method,
            "head": head | plain(options.get("head", {})),
        }
    )


def trainer(root: Path, **options: Any) -> L.Trainer:
    """A Trainer on one CPU that keeps its files below ``root``."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(default_root_dir=root, **{**quiet, **options})


def save(module: EPICModule, path: Path) -> None:
    """Write a checkpoint of a module that was not trained."""
    saver = trainer(path.parent)
    saver.strategy.connect(module)
    saver.save_checkpoint(path)


def fit(root: Path, config: str, *options: str) -> SimpleNamespace:
    """Fit in a folder by the command line; the folder, the config and the last checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["epic-pl"])
        run(["fit", "--config", config, *options])
    (checkpoint,) = root.rglob("last.ckpt")
    return SimpleNamespace(root=root, config=config, checkpoint=str(checkpoint))


def table(root: Path, *, train: int = 12, val: int = 4, test: int = 7, corrupt: str = "") -> Path:
    """A CSV of coloured squares with split and label columns; ``corrupt`` names an image."""
    (root / "images").mkdir(parents=True)
    colours = list(COLOURS)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "text", "label", "split"])
        for split, count in (("train", train), ("val", val), ("test", test)):
            for number in range(count):
                name, colour = f"{split}{number}", colours[number % len(colours)]
                path = root / "images" / f"{name}.png"
                Image.new("RGB", (40, 36), COLOURS[colour]).save(path)
                if name == corrupt:
                    path.write_bytes(path.read_bytes()[:60])
                text = f"a {colour} square, number {number}"
                writer.writerow([name, f"images/{name}.png", text, colour, split])
    return root / "table.csv"


@contextmanager
def changed_rows(table: Path) -> Iterator[list[dict[str, str]]]:
    """The rows of a CSV file, which is written again with what was changed in them."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    yield rows
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table_data(path: Path, vit: Path, bert: Path, **options: Any) -> TableDataModule:
    """The data of :func:`table`."""
    encoders = {"image_encoder": str(vit), "text_encoder": str(bert)}
    return TableDataModule(table=str(path), **COLUMNS, **encoders, **options)


def table_config(root: Path, vit: Path, bert: Path, **options: Any) -> Path:
    """A config that fits the table of ``root`` on the tiny encoders within a second or two.

    ``options`` are those of the data.
    """
    trainer = {"default_root_dir": "runs", "accelerator": "cpu", "devices": 1, "max_epochs": 2}
    encoders = {"image": {"name": str(vit)}, "text": {"name": str(bert)}}
    data = {"table": str(root / "table.csv"), "batch_size_per_device": 4, **COLUMNS, **options}
    config = {
        "seed_everything": 0,
        "trainer": {**trainer, "log_every_n_steps": 1},
        "model": {"encoders": encoders, "method": {"interaction_layers": 2, "hub_width": 8}},
        "data": {"class_path": "TableDataModule", "init_args": data},
    }
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def workers_here(monkeypatch) -> None:
    """Let the runs of a comparison take place in this process, without a start-up for each."""

    def in_this_process(run: runs.Run, work: runs.Work) -> None:
        run.failure = runs.attempt(run, work)
        run.result = None if run.failure else try_read_json(run.folder / "result.json")

    monkeypatch.setattr(runs, "in_new_process", in_this_process)
    monkeypatch.setattr(training, "in_new_process", in_this_process)


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the trained parameters."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not bit-identical; both must have the same names."""
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def every_step(folder: Path, **options: Any) -> ModelCheckpoint:
    """Saves ``step1.ckpt``, ``step2.ckpt`` and so on, one for each optimiser step."""
    options = {"filename": "step{step}", "every_n_train_steps": 1} | options
    return ModelCheckpoint(folder, save_top_k=-1, auto_insert_metric_name=False, **options)


class EveryBatch(Checkpoint):
    """Saves after every batch and validation, in the middle of accumulation windows too."""

    def __init__(self, folder):
        self.folder, self.batches = Path(folder), 0

    def on_train_batch_end(self, trainer, *_):
        self.batches += 1
        trainer.save_checkpoint(self.folder / f"batch{self.batches}.ckpt")

    def on_validation_end(self, trainer, *_):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"validation{self.batches}.ckpt")


class Rates(L.Callback):
    """Notes each step's learning rates by group."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append({group["name"]: group["lr"] for group in optimizer.param_groups})
