"""Cost of five members in one pass beside one model: an answer, and a step of training.

    python benchmarks/ensemble.py                     # 112 pixels, about five minutes
    python benchmarks/ensemble.py --size 224 --members 10 --json

An answer is a forward pass on prepared images and texts of 16 tokens; a step is one of AdamW on 16
rows, from images or from stored features in float16. Weights are random, which does not change the
cost. Both models are timed once a round, in processor time of one thread, since a shared machine's
clock also counts others' work: the ratio is the median over rounds, with the lowest and highest.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch

from common import build_parser, device_name, show
from epic_pl.module import EPICModule
from epic_pl.nn.towers import shared_features

_CLASSES, _TOKENS, _ROWS = 101, 16, 16


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    show(
        [row for name in options.methods.split(",") for row in measure(options, name)], options.json
    )


def parse_arguments() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("--methods", default="EPIC,LateFusionMLP")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--image-encoder", default="pypi:dinov2-small")
    parser.add_argument("--text-encoder", default="pypi:all-minilm-l6-v2")
    parser.add_argument("--size", type=int, default=112, help="of every image, in pixels")
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


def measure(options: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    """A row for each size of a batch that is answered, and for each kind of training step."""
    ensemble = {"class_path": "Ensemble", "init_args": {"of": name, "members": options.members}}
    models = [build(options, method).eval() for method in (name, ensemble)]
    for rows in (1, _ROWS):
        batch = fabricate(options, rows)
        yield compare(options, f"{name}, answer, batch {rows}", [answer(m, batch) for m in models])
    batch = fabricate(options, _ROWS)
    for what, given in (("images", batch), ("stored features", stored(models[1], batch))):
        steps = [step(model.train(), given) for model in models]
        yield compare(options, f"{name}, step from {what}", steps)


def compare(
    options: argparse.Namespace, what: str, calls: list[Callable[[], object]]
) -> dict[str, Any]:
    """Milliseconds of both calls, and their ratio within a round."""
    seconds: list[list[float]] = []
    for number in range(options.rounds + 1):
        ticks = [time.process_time()]
        for call in calls:
            call()
            ticks.append(time.process_time())
        if number:  # the first round warms up
            seconds.append([end - begin for begin, end in pairwise(ticks)])
    ratios = [many / one for one, many in seconds]
    one, many = (statistics.median(column) * 1000 for column in zip(*seconds, strict=True))
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    timed = {"one_ms": round(one, 1), f"{options.members}_ms": round(many, 1)}
    return {"what": what, **timed, "ratio": spread, "device": device_name()}


def build(options: argparse.Namespace, method: Any) -> EPICModule:
    """An untrained model with the defaults for tables."""
    names = {"image": {"name": options.image_encoder}, "text": {"name": options.text_encoder}}
    encoders = {**names, "image_size": options.size, "pretrained": False}
    return EPICModule.from_config("table.yaml", _CLASSES, method=method, encoders=encoders)


def fabricate(options: argparse.Namespace, rows: int) -> Any:
    """A batch of noise."""
    return {
        "pixel_values": torch.randn(rows, 3, options.size, options.size),
        "input_ids": torch.randint(1000, 2000, (rows, _TOKENS)),
        "attention_mask": torch.ones(rows, _TOKENS, dtype=torch.long),
        "labels": torch.randint(_CLASSES, (rows,)),
    }


def stored(module: EPICModule, batch: Any) -> Any:
    """The batch as a feature store gives it."""
    towers, kept = module.model.towers, {"attention_mask", "labels"}
    (image,) = shared_features([towers.image], batch["pixel_values"], None)
    mask = batch["attention_mask"].bool()
    (text,) = shared_features([towers.text], batch["input_ids"], mask)
    features = {"image_features": image, "text_features": text}
    half = {side: {k: v.half() for k, v in fields.items()} for side, fields in features.items()}
    return {key: batch[key] for key in kept} | half


def answer(module: EPICModule, batch: Any) -> Callable[[], object]:
    """A forward pass."""

    @torch.inference_mode()
    def run() -> object:
        return module(batch)

    return run


def step(module: EPICModule, batch: Any) -> Callable[[], object]:
    """A step of AdamW."""
    made: Any = module.configure_optimizers()
    optimizer = made["optimizer"]

    def run() -> None:
        optimizer.zero_grad()
        losses = module._training_losses(module(batch), batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    main()
