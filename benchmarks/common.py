"""What the benchmarks share: parser, printed rows, and the words of fabricated texts."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "two", "man", "woman", "dogs", "red", "running", "outside", "near", "the", "on")


def build_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the first line of a module's docstring and the option ``--json``."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows of the same keys as JSON or as a Markdown table."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))


def device_name() -> str:
    """Name of the GPU, or of the processor with the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else 'CPU'}, {torch.get_num_threads()} threads"
