"""What a card does, in one command of less than nine minutes: `python benchmarks/gpu.py`.

Step cost of all methods in bfloat16 (`step_cost.py`), the same of three methods compiled, images a
second into a feature store beside a bare timm loop (`encode.py`), and whether logits, gradients and
the weights after a step are those of the CPU in float32. It writes all of it as JSON to `--output`,
and exits with 1 if a part failed or the card and the CPU differ by more than 1%. `--device cpu
--quick` tries the command itself.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from common import device_name
from epic_pl.module import EPICModule
from epic_pl.nn.methods import EPIC, Parts

_FOLDER = Path(__file__).parent
_COMPILED = "linear_probe,epic_joint,epic_read_only_cached"
_TOLERANCE = 1e-2  # of the largest value; TF32 is off


def part(script: str, *options: str, seconds: float) -> Any:
    """The JSON that another benchmark prints, or the end of its error."""
    command = [sys.executable, str(_FOLDER / script), *options, "--json"]
    print(" ".join([script, *options]), "...", file=sys.stderr, flush=True)
    own = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=own)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds} s"}
    if done.returncode:
        return {"failed": done.stderr[-1000:]}
    return json.loads(done.stdout[min(i for i in map(done.stdout.find, "[{") if i >= 0) :])


def one_step(module: EPICModule, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits, gradients and weights after a step, on the CPU."""
    module.train()
    torch.manual_seed(0)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, eps=1e-3)
    moved = {name: value.to(module.device) for name, value in batch.items()}
    logits = module(moved).logits
    module.loss(logits, moved["labels"]).backward()
    values = {"logits": logits.detach()}
    gradients = [p.grad.flatten() for p in trained.values() if p.grad is not None]
    values["gradients"] = torch.cat(gradients)
    optimizer.step()
    values["weights"] = torch.cat([p.detach().flatten() for p in trained.values()])
    return {name: value.float().cpu() for name, value in values.items()}


def equality(device: str, size: int) -> list[dict[str, Any]]:
    """Largest difference from the CPU by method, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "pixel_values": torch.randn(8, 3, size, size, generator=generator),
        "input_ids": torch.randint(1000, 9000, (8, 20), generator=generator),
        "attention_mask": torch.ones(8, 20, dtype=torch.long),
        "labels": torch.arange(8) % 4,
        "image_present": torch.arange(8) != 3,
        "text_present": torch.arange(8) != 5,
    }
    rows = []
    methods = (EPIC(prompt_attention="joint", dropout=0.0), EPIC(dropout=0.0), Parts())
    options = {"head": {"dropout": 0.0}, "loss": {"label_smoothing": 0.0}}
    options["encoders"] = {"image_size": size, "precision": "same"}
    for method in methods:
        module = EPICModule.from_config("table.yaml", 4, method=method, **options)
        there = copy.deepcopy(module).to(device)
        expected, given = one_step(module, batch), one_step(there, batch)
        row: dict[str, Any] = {"method": str(method)}
        for name, value in expected.items():
            difference = (value - given[name]).abs().max() / value.abs().max()
            row[name] = float(difference)
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is available: try --device cpu --quick.")
    begin, cuda = time.perf_counter(), given.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else device_name()
    size = ["--size", "112", "--batch", "4"] if given.quick else ["--batch", "64", "--rows", "512"]
    steps = [*size, "--precision", "bf16-mixed", "--seconds", "1" if given.quick else "6"]
    fast = ["--methods", "linear_probe,epic_read_only_cached"] if given.quick else []
    compiled = ["--methods", _COMPILED, "--model", '{"compile": true}']
    encode = ["--device", given.device, "--images", "64" if given.quick else "4096"]
    encode += ["--workers", "2" if given.quick else "12", "--rounds", "1" if given.quick else "2"]
    if not given.quick:
        encode += ["--size", "224"]
    results = {
        "device": name,
        "torch": torch.__version__,
        "equality": equality(given.device, 112),
        "steps": part("step_cost.py", *steps, *fast, seconds=300),
        "encode": part("encode.py", *encode, seconds=120),
    }
    if not given.quick:
        results["compiled"] = part("step_cost.py", *steps, *compiled, seconds=180)
    results["seconds"] = round(time.perf_counter() - begin)
    given.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    failed = [k for k, value in results.items() if isinstance(value, dict) and "failed" in value]
    differ = [row for row in results["equality"] if max(list(row.values())[1:]) > _TOLERANCE]
    for line in (*failed, *differ):
        print("failed:", line, file=sys.stderr)
    return bool(failed or differ)


if __name__ == "__main__":
    sys.exit(main())
