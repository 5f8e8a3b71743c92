"""Samples a second of the loader, beside decoding and resizing alone.

Fabricates JPEGs as the web has them (about 500 x 375 pixels) and a table of them with texts, then
reads them at 224 pixels: through ``TableDataModule`` and its training loader, as ``fit`` does,
and by a reference in as many processes, which opens, decodes and resizes each image with Pillow
and does nothing else. The two take turns, and each one's best round counts:

    python benchmarks/loader.py --json
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from epic_pl.data import TableDataModule

_SIZE = 224
_BATCH = 32
_WORDS = ("a", "two", "man", "woman", "dogs", "red", "running", "outside", "near", "the", "on")


def fabricate(folder: Path, images: int) -> Path:
    """A CSV of ``images`` rows and its JPEGs."""
    rng = np.random.default_rng(0)
    lines = ["image,text,label,split"]
    for index in range(images):
        # smooth shapes with some grain: about 60 kB, as a photograph of this size
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(
            folder / f"{index}.jpg", quality=85
        )
        text = " ".join(rng.choice(_WORDS, 12))
        lines.append(f"{index}.jpg,{text},class{index % 4},{'val' if index < 4 else 'train'}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def _decode(path: Path) -> int:
    """The reference: open an image, decode it, resize the shorter side."""
    with Image.open(path) as file:
        # decoding at half size, as the loader does
        file.draft(None, (2 * _SIZE, 2 * _SIZE))
        image = file.convert("RGB")
    scale = _SIZE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC).height


def _decode_all(paths: list[Path], workers: int) -> float:
    """Images a second of the reference, once its processes run."""
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        list(pool.map(_decode, paths[: 2 * workers]))
        start = time.perf_counter()
        list(pool.map(_decode, paths, chunksize=_BATCH))
        return len(paths) / (time.perf_counter() - start)


def _load_all(data: TableDataModule) -> float:
    """Samples a second of an epoch, from the first batch on."""
    batches = iter(data.train_dataloader())
    next(batches)  # the workers have started
    start, samples = time.perf_counter(), 0
    for batch in batches:
        samples += len(batch["pixel_values"])
    return samples / (time.perf_counter() - start)


def measure(images: int, workers: int, rounds: int) -> dict[str, Any]:
    """Both rates, best of ``rounds``, and their ratio."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = TableDataModule(
            table=str(fabricate(folder, images)),
            split_column="split",
            image_encoder="vit_base_patch16_224.augreg_in21k",
            text_encoder="pypi:all-minilm-l6-v2",
            image_size=_SIZE,
            batch_size_per_device=_BATCH,
            num_workers=workers,
        )
        data.prepare_data()
        data.setup("fit")
        paths = [folder / f"{index}.jpg" for index in range(4, images)]
        loader, reference = 0.0, 0.0
        for _ in range(rounds):
            reference = max(reference, _decode_all(paths, workers))
            loader = max(loader, _load_all(data))
    return {
        "images": images,
        "workers": workers,
        "loader_samples_per_s": round(loader, 1),
        "decode_samples_per_s": round(reference, 1),
        "ratio": round(loader / reference, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    measured = measure(options.images, options.workers, options.rounds)
    if options.json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        print(f"{name:>22}  {value}")


if __name__ == "__main__":
    main()
