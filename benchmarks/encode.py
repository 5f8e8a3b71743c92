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
from itertools import product
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
_ENCODERS = {"image_encoder": "pypi:dinov2-small", "text_encoder": "pypi:all-minilm-l6-v2"}
_SETTINGS = [*product((16, 32, 64, 128), (False, True))]  # batch size, and whether in bfloat16


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
    names = [fabricate(folder, i) for i in range(rows)]
    lines = [f"{n},,class{i % 4},{'val' if i < 4 else 'train'}" for i, n in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["image,text,label,split", *lines, ""]))
    options: dict[str, Any] = {"split_column": "split", "test_size": 0.0, "image_size": size}
    data = TableDataModule(table=str(folder / "table.csv"), **options, **_ENCODERS)
    data.prepare_data()
    data.setup("fit")
    return data


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The best rates and their ratios."""
    device, size = torch.device(given.device), given.size
    reference = timm.create_model(_ARCHITECTURE, pretrained=False, img_size=size, num_classes=0)
    reference = reference.eval().to(device)
    config = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=reference)
    transform = timm.data.create_transform(**config)

    @torch.inference_mode()
    def rate(batches: Any, low: bool) -> float:
        """Images a second of the reference, from the start of the loader on."""
        start, count = time.perf_counter(), 0
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            for batch in batches:
                moved = batch.to(device, non_blocking=True)
                reference.forward_features(moved).sum().item()  # to its end
                count += len(batch)
        return count / (time.perf_counter() - start)

    def in_memory(batch: int, low: bool) -> float:
        pixels = torch.randn(batch, 3, size, size).to(device)
        rate([pixels], low)
        return rate([pixels] * max(1, given.images // 4 // batch), low)

    def read(paths: list[Path]) -> torch.Tensor:
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])

    with tempfile.TemporaryDirectory() as scratch:
        folder, store = Path(scratch), Path(scratch) / "store"
        data = table_of(folder, given.images, size)
        options: dict[str, Any] = {"method": given.method, "encoders": {"image_size": size}}
        module = EPICModule.from_config("table.yaml", data.num_classes, **options)
        module.check_device(device)
        module.to(device)
        rows = sum(len(data.dataset(split)) for split in ("train", "val"))
        paths: Any = sorted(folder.glob("*.jpg"))
        best = dict.fromkeys(("model_images", "loaded_images", "store_images"), 0.0)
        for _ in range(given.rounds):
            rates = {setting: in_memory(*setting) for setting in _SETTINGS}
            batch, low = max(rates, key=lambda setting: rates[setting])
            loader = DataLoader(paths, batch, num_workers=given.workers, collate_fn=read)
            loaded = rate(loader, low)
            start = time.perf_counter()
            cache = FeatureCache("layers", folder=str(store), threads=given.workers)
            cache.fill(module, data, "fit")
            now = (rates[batch, low], loaded, rows / (time.perf_counter() - start))
            best = {name: max(old, new) for (name, old), new in zip(best.items(), now, strict=True)}
            shutil.rmtree(store)
    measured: dict[str, Any] = {f"{name}_per_s": round(each, 1) for name, each in best.items()}
    return measured | {
        "timm_batch": batch,
        "timm_bfloat16": low,
        "epic_precision": str(module.model.image_encoder.precision).removeprefix("torch."),
        "store_by_model": round(best["store_images"] / best["model_images"], 3),
        "store_by_loaded": round(best["store_images"] / best["loaded_images"], 3),
    }


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
