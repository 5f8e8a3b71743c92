"""Images a second into a feature store, beside a bare timm loop at its best setting.

    python benchmarks/encode.py [--images 512] [--threads 1] [--json]

The reference is timm's model of the same architecture on batches that are in memory, in float32 and
in bfloat16 at several batch sizes, of which the fastest counts. `loaded` is the same model and
setting with a DataLoader of timm's own transform that reads the same JPEGs. `store` is a filling of
EPIC's store from these files with `precision: auto`: hashing, decoding, encoding and writing. They
take turns, and the best of `--rounds` turns counts.
"""

import argparse
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common import build_parser, show
from epic_pl.data import TableDataModule
from epic_pl.module import EPICModule
from epic_pl.module.callbacks import FeatureCache

_ARCHITECTURE = "vit_small_patch14_dinov2.lvd142m"  # of pypi:dinov2-small
_BATCHES = (16, 32, 64, 128)


class Files:
    """The JPEGs of a folder through a transform."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            pixels: torch.Tensor = self.transform(image.convert("RGB"))
            return pixels


class Reference:
    """A bare timm loop.

    Args:
        size: of the images in pixels.
        device: of the model.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.device = device
        model = timm.create_model(_ARCHITECTURE, pretrained=False, img_size=size, num_classes=0)
        self.model = model.eval().to(device)
        config = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=model)
        self.transform = timm.data.create_transform(**config)
        self.size = size
        self.batch, self.low = 32, False

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor, low: bool) -> None:
        """One pass, to its end."""
        context: Any = torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()
        with context:
            self.model.forward_features(batch.to(self.device, non_blocking=True)).sum().item()

    def rate(self, images: int, batch: int, low: bool) -> float:
        """Images a second of batches that are in memory."""
        pixels = torch.randn(batch, 3, self.size, self.size).to(self.device)
        self.encode(pixels, low)
        start, passes = time.perf_counter(), max(1, images // batch)
        for _ in range(passes):
            self.encode(pixels, low)
        return passes * batch / (time.perf_counter() - start)

    def best(self, images: int) -> float:
        """The rate of the fastest setting, which later rates of files use."""
        settings = [(batch, low) for batch in _BATCHES for low in (False, True)]
        rates = {setting: self.rate(images, *setting) for setting in settings}
        self.batch, self.low = max(rates, key=lambda setting: rates[setting])
        return max(rates.values())

    def rate_of_files(self, paths: list[Path], workers: int) -> float:
        """Images a second with loading, from the start of the loader on."""
        files: Any = Files(paths, self.transform)
        start = time.perf_counter()
        for pixels in DataLoader(files, self.batch, num_workers=workers):
            self.encode(pixels, self.low)
        return len(paths) / (time.perf_counter() - start)


def fabricate(folder: Path, index: int) -> str:
    """A JPEG of smooth shapes with some grain: about 60 kB, as a photograph of 500 x 375 pixels."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{index}.jpg", quality=85)
    return f"{index}.jpg"


def table_of(folder: Path, rows: int, size: int) -> TableDataModule:
    """Rows with an image each, ready for a fit."""
    table = folder / "table.csv"
    with table.open("w") as file:
        file.write("image,text,label,split\n")
        for i in range(rows):
            file.write(f"{fabricate(folder, i)},,class{i % 4},{'val' if i < 4 else 'train'}\n")
    data = TableDataModule(
        table=str(table),
        split_column="split",
        test_size=0.0,
        image_encoder="pypi:dinov2-small",
        text_encoder="pypi:all-minilm-l6-v2",
        image_size=size,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def fill(module: EPICModule, data: TableDataModule, folder: Path, threads: int) -> float:
    """Rows a second into an empty store."""
    cache = FeatureCache("layers", folder=str(folder), threads=threads)
    start = time.perf_counter()
    cache.fill(module, data, "fit")
    rate = sum(len(data.dataset(s)) for s in ("train", "val")) / (time.perf_counter() - start)
    shutil.rmtree(folder)
    return rate


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The best rates and their ratios."""
    device = torch.device(given.device)
    reference = Reference(given.size, device)
    with tempfile.TemporaryDirectory() as scratch:
        folder, store = Path(scratch), Path(scratch) / "store"
        images = table_of(folder, given.images, given.size)
        module = EPICModule.from_config(
            "table.yaml",
            images.num_classes,
            method=given.method,
            encoders={"image_size": given.size},
        )
        module.check_device(device)
        module.to(device)
        paths = sorted(folder.glob("*.jpg"))
        best = {"model_images": 0.0, "loaded_images": 0.0, "store_images": 0.0}
        for _ in range(given.rounds):
            now = {
                "model_images": reference.best(given.images // 4),
                "loaded_images": reference.rate_of_files(paths, given.workers),
                "store_images": fill(module, images, store, given.workers),
            }
            best = {name: max(rate, now[name]) for name, rate in best.items()}
    measured: dict[str, Any] = {f"{name}_per_s": round(rate, 1) for name, rate in best.items()}
    measured |= {
        "timm_batch": reference.batch,
        "timm_bfloat16": reference.low,
        "epic_precision": str(module.model.image_encoder.precision).removeprefix("torch."),
        "store_by_model": round(best["store_images"] / best["model_images"], 3),
        "store_by_loaded": round(best["store_images"] / best["loaded_images"], 3),
    }
    return measured


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=112, help="of an image, pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--method", default="NoPrompts", help="whose fields are stored")
    parser.add_argument("--workers", type=int, default=2, help="processes or threads that decode")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    show([measure(given)], given.json)


if __name__ == "__main__":
    main()
