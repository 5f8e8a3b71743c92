"""Time of one answer beside that of the encoders alone, and of loading a model.

    python benchmarks/latency.py                              # 112 pixels, about two minutes
    python benchmarks/latency.py --size 224 --methods EPIC,LinearProbe --json

A :class:`~epic_pl.Classifier` with the defaults for tables answers for one JPEG file of 500 x 375
pixels and a text of twelve words, decoding included; `encoders` is a forward pass of both on the
prepared sample. Weights are random, which does not change the cost. Each is timed once a round, in
processor time of one thread, since a shared machine's clock also counts others' work. `import` and
`load` (of a saved model) are of a process of their own.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import WORDS, build_parser, device_name, show
from encode import fabricate
from epic_pl import Classifier
from epic_pl.module import EPICModule

_LOAD = """
import sys, time
start = time.process_time()
from epic_pl import Classifier
imported = time.process_time()
Classifier.load(sys.argv[1], device="cpu")
print(imported - start, time.process_time() - imported)
"""


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--methods", default="EPIC,Parts,LateFusionMLP,LinearProbe")
    parser.add_argument("--image-encoder", default="pypi:dinov2-small")
    parser.add_argument("--text-encoder", default="pypi:all-minilm-l6-v2")
    parser.add_argument("--size", type=int, default=112, help="of every image, in pixels")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        show(measure(options, Path(scratch)), options.json)


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for the encoders, for each method, and for loading the first."""
    rng = np.random.default_rng(0)
    image = folder / fabricate(folder, 0)
    text = " ".join(rng.choice(WORDS, 12))
    calls: dict[str, Callable[[], object]] = {}
    for name in options.methods.split(","):
        classifier = build(options, name)
        if not calls:
            calls["encoders"] = encode(classifier, image, text)
            classifier.save_pretrained(folder / "saved")
        calls[name] = lambda classifier=classifier: classifier(image=image, text=text)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.rounds + 1):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - begin)
    rows = [row(name, own, seconds["encoders"]) for name, own in seconds.items()]
    command = [sys.executable, "-c", _LOAD, str(folder / "saved")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    parts = zip(("import", "load"), loaded, strict=True)
    return rows + [row(name, [float(value)], None) for name, value in parts]


def row(name: str, own: list[float], encoders: list[float] | None) -> dict[str, Any]:
    """Milliseconds, and the ratio to those of the encoders within a round."""
    over = [mine / other for mine, other in zip(own, encoders, strict=True)] if encoders else []
    spread = f"{statistics.median(over):.2f} ({min(over):.2f} to {max(over):.2f})" if over else ""
    milliseconds = round(1000 * statistics.median(own), 1)
    return {"what": name, "ms": milliseconds, "over_encoders": spread, "device": device_name()}


def build(options: argparse.Namespace, method: str) -> Classifier:
    """An untrained model of the method."""
    names = {"image": {"name": options.image_encoder}, "text": {"name": options.text_encoder}}
    encoders = {**names, "image_size": options.size, "pretrained": False}
    image = {"size": options.size, "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocessing = {"image": image, "text": {"clean": False, "max_tokens": 32}}
    chosen = {"method": method, "encoders": encoders, "preprocessing": preprocessing}
    return Classifier(EPICModule.from_config("table.yaml", 101, **chosen))


def encode(classifier: Classifier, image: Path, text: str) -> Callable[[], object]:
    """A forward pass of both encoders on one prepared sample."""
    batch = classifier.processor([{"image": image, "text": text}])
    model = classifier.module.model

    @torch.inference_mode()
    def run() -> None:
        for tower, key in ((model.image_tower, "pixel_values"), (model.text_tower, "input_ids")):
            encoder = tower.encoder
            with tower.autocast():
                encoder.pooled(encoder.run_layers(0, encoder.num_layers, encoder.embed(batch[key])))

    return run


if __name__ == "__main__":
    main()
