"""What a checkpoint costs, beside full fine-tuning: time to write and to read it, and bytes.

ViT-B/16 at 224 pixels and BERT-base with random weights, 101 classes, after one optimiser step, so
that the optimiser's state is there; the median of several:

    python benchmarks/checkpoint.py --json
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint

METHODS = ("epic", "full")
_TOKENS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    rows = [measure(method, arguments.rounds) for method in METHODS]
    if arguments.json:
        print(json.dumps(rows))
        return
    table = Table("method", "trained", "MB", "ms to write", "ms to read", "writing, of full")
    for row in rows:
        cells = [f"{row['megabytes']:,.1f}", f"{row['write_ms']:,.0f}", f"{row['read_ms']:,.0f}"]
        share = f"1/{rows[-1]['write_ms'] / row['write_ms']:.0f}"
        table.add_row(row["method"], f"{row['trainable']:,}", *cells, share)
    Console().print(table)


def measure(method: str, rounds: int) -> dict[str, Any]:
    """A method's row."""
    L.seed_everything(0, verbose=False)
    module = EPICModule(
        "vit_base_patch16_224",
        "bert-base-uncased",
        num_classes=101,
        pretrained=False,
        method=method,
        prompt_attention="read_only",
    )
    sample = {
        "pixel_values": torch.randn(3, 224, 224),
        "input_ids": torch.randint(5, 1000, (_TOKENS,)),
        "attention_mask": torch.ones(_TOKENS, dtype=torch.long),
        "labels": torch.tensor(0),
        "sample_id": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            default_root_dir=folder,
            max_steps=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader([sample, sample], batch_size=2))
        path = Path(folder) / "one.ckpt"
        return {
            "method": method,
            "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
            "write_ms": median_ms(lambda: trainer.save_checkpoint(path), rounds),
            "read_ms": median_ms(lambda: read_checkpoint(str(path)), rounds),
            "megabytes": path.stat().st_size / 1e6,
        }


def median_ms(call: Callable[[], object], rounds: int) -> float:
    """Milliseconds of a call, the median of several."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
