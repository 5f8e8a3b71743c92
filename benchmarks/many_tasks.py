"""Cost of further tasks on the same encoders: seconds of a batch, and resident memory.

A :class:`~epic_pl.MultiTaskClassifier` is given more and more models. Its time for a batch of
prepared items covers both encoders, all models and their probabilities, but not reading and
decoding images, which happens once for all tasks, too:

    python benchmarks/many_tasks.py                       # about two minutes
    python benchmarks/many_tasks.py --batch 1 --json
    python benchmarks/many_tasks.py --methods EPIC,Parts,LateFusionMLP

Weights are random, which does not change the cost. In every round each number of tasks is timed
once; the cost of a further task is its share of the time of one task within the same round, and the
table has medians over rounds, with the lowest and highest. Memory is that of the process without
mapped files, after a batch; the first row is that of a classifier by itself. On a machine that
others use, ``--threads 1`` gives steadier times.
"""

import argparse
import copy
import gc
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from common import WORDS, build_parser, device_name, show
from epic_pl import Classifier, MultiTaskClassifier
from epic_pl.module import EPICModule
from epic_pl.module.callbacks.cost import own_memory
from epic_pl.module.config import EncoderConfig, EncodersConfig
from epic_pl.nn.encoders import build_image_encoder, build_text_encoder
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.pair import Pair
from epic_pl.utils.types import Sample


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    show(measure(options), options.json)


def parse_arguments() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("--tasks", default="1,2,5,10,20", help="numbers of tasks, increasing")
    parser.add_argument("--methods", default="EPIC", help="of the tasks, in turn")
    parser.add_argument("--image-encoder", default="pypi:dinov2-small")
    parser.add_argument("--text-encoder", default="pypi:all-minilm-l6-v2")
    parser.add_argument("--size", type=int, default=224, help="of every image, in pixels")
    parser.add_argument("--tokens", type=int, default=40, help="of every text")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=101, help="of every task")
    parser.add_argument("--layers", type=int, default=2, help="that EPIC reads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of tasks."""
    counts, names = [int(n) for n in options.tasks.split(",")], options.methods.split(",")
    Untrained.given = Pair(
        build_image_encoder(options.image_encoder, pretrained=False, image_size=options.size),
        build_text_encoder(options.text_encoder, pretrained=False),
    )
    tasks: dict[str, Classifier] = {}
    together, memory = {}, {}
    start = own_memory()
    for count in counts:
        for index in range(len(tasks), count):
            tasks[str(index)] = build(options, names[index % len(names)])
            MultiTaskClassifier({name: tasks[name] for name in ("0", str(index))})  # shares
        together[count] = MultiTaskClassifier(tasks)
        samples = fabricate(options, together[count])
        together[count].sample_probabilities(samples)
        gc.collect()
        memory[count] = own_memory() - start
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr, flush=True)
        for count, classifier in together.items():
            begin = time.perf_counter()
            classifier.sample_probabilities(samples)
            seconds[count].append(time.perf_counter() - begin)
    return [
        {
            "tasks": count,
            "seconds": round(statistics.median(seconds[count]), 4),
            "share_of_further_task": share(seconds[count], seconds[counts[0]], count - counts[0]),
            "memory_mb": round(memory[count] / 1e6),
            "device": device_name(),
        }
        for count in counts
    ]


def share(many: list[float], one: list[float], further: int) -> str:
    """Time of a further task over that of the first: the median, lowest and highest of rounds."""
    if further == 0:
        return ""
    shares = [(m - o) / further / o for m, o in zip(many, one, strict=True)]
    return f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


class Untrained(EPICModule):
    """A module with copies of given encoders, which are made faster than random weights."""

    given: Pair[Encoder]

    def build_encoders(self) -> Pair[Encoder]:
        """Copies of the given encoders."""
        return copy.deepcopy(self.given)


def build(options: argparse.Namespace, method: str) -> Classifier:
    """An untrained model of the method, with encoders of its own."""
    encoders = EncodersConfig(
        EncoderConfig(options.image_encoder), EncoderConfig(options.text_encoder)
    )
    image = {"size": options.size, "mean": [0.5] * 3, "std": [0.5] * 3}
    text = {"clean": False, "max_tokens": options.tokens}
    preprocessing = {"image": image, "text": text}
    chosen: Any = {"class_path": method, "init_args": {"interaction_layers": options.layers}}
    return Classifier(Untrained(options.classes, encoders, chosen, preprocessing=preprocessing))


def fabricate(options: argparse.Namespace, classifier: MultiTaskClassifier) -> list[Sample]:
    """A batch of prepared items with texts of more words than tokens are read."""
    rng = np.random.default_rng(0)
    shape = (options.batch, options.size, options.size, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    texts = [" ".join(rng.choice(WORDS, options.tokens)) for _ in images]
    return [
        classifier.prepare({"image": image, "text": text})
        for image, text in zip(images, texts, strict=True)
    ]


if __name__ == "__main__":
    main()
