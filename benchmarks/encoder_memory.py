"""Memory of an image encoder of 400 M parameters by the precision in which its weights are held.

    python benchmarks/encoder_memory.py [--device cuda] [--json]

SigLIP So400m of timm and of transformers, with random weights in folders, as image encoder of
:class:`~epic_pl.module.config.EncodersConfig`, each in a process of its own. `MB` is what the
encoder adds to the private memory of the process (or of the card), `peak` the most during loading,
`batch` the most in a forward pass of `--images` images without gradient.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import timm
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, SiglipVisionConfig, SiglipVisionModel

from common import build_parser, show
from epic_pl.module.config import EncoderConfig, EncodersConfig
from epic_pl.nn.encoders import build_text_encoder
from epic_pl.nn.towers import FrozenTower

_TIMM = "vit_so400m_patch14_siglip_224"
_SIZES = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16}
_SIZES |= {"intermediate_size": 4304, "image_size": 224, "patch_size": 14}


class Peak:
    """Private memory of this process in MB, or of a card: the most within a context, and now."""

    def __init__(self, device: str) -> None:
        self.cuda = device != "cpu"
        self.most = self.first = self.now()
        self._over = threading.Event()

    def now(self) -> float:
        """The present memory in MB."""
        if self.cuda:
            return torch.cuda.memory_allocated() / 1e6
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self.now())

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self.cuda:
            self.most = torch.cuda.max_memory_allocated() / 1e6


def write(library: str, folder: Path) -> None:
    """The folder of a random encoder, and of a tiny text encoder."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=60, **sizes)).save_pretrained(folder / "text")
    if library == "transformers":
        SiglipVisionModel(SiglipVisionConfig(**_SIZES)).save_pretrained(folder / "image")
        return
    model = timm.create_model(_TIMM, num_classes=0)
    (folder / "image").mkdir()
    save_file(model.state_dict(), folder / "image/model.safetensors")
    known = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": _TIMM, "num_classes": 0, "pretrained_cfg": known}
    (folder / "image/config.json").write_text(json.dumps(config))


def measure(precision: Any, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One row, of this process."""
    sides = [EncoderConfig(str(folder / side)) for side in ("image", "text")]
    build_text_encoder(sides[1].name)  # imports
    with Peak(given.device) as loading:
        encoder = EncodersConfig(*sides, precision=precision).build().image.to(given.device)
    held = loading.now()
    images = torch.randn(given.images, 3, 224, 224, device=given.device)
    tower = FrozenTower(encoder, [encoder.num_layers - 1])
    start = time.process_time()
    with Peak(given.device) as running, torch.no_grad():
        tower.extract(images, None)
    return {
        "parameters": f"{encoder.num_parameters / 1e6:.0f} M",
        "precision": precision,
        "MB": round(held - loading.first),
        "peak": round(loading.most - loading.first),
        "batch": round(running.most - loading.first),
        "seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        library, precision, folder = given.part
        if precision == "write":
            write(library, Path(folder))
        else:
            print(json.dumps({"model": library, **measure(precision, Path(folder), given)}))
        return
    rows = []
    for library in ("timm", "transformers"):
        with tempfile.TemporaryDirectory() as folder:
            for what in ("write", "same", "bf16", "bf16-true"):
                run = [sys.executable, *sys.argv, "--part", library, what, folder]
                text = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout
                rows += [json.loads(text)] if what != "write" else []
    show(rows, given.json)


if __name__ == "__main__":
    main()
