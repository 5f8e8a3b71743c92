"""Start-up and memory of tables of many rows, and the size of stored features.

    python benchmarks/large_table.py [--rows 10000 100000 1000000] [--json]
    python benchmarks/large_table.py --bytes

Fabricates Parquet tables with a text of its own in each row and a thousand small JPEGs that rows
share, and runs ``epic-pl data check``; ``epic-pl fit`` on images up to its first step and a
validation batch; and ``fit`` on stored features of a thousand images and texts, the second time,
when the store is full. Encoders are tiny, so that the time is the table's. Each is a process of its
own; its memory is the highest of the process and its children. ``--bytes`` prints what a row takes
with the encoders of ``table.yaml``.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import tiny_encoders
from common import build_parser, show
from epic_pl.data import TableDataModule
from epic_pl.features.items import Images, Texts
from epic_pl.module import EPICModule

_IMAGES = 1000
_CLASSES = 100
_VALIDATION = 1000  # rows


def fabricate_images(folder: Path) -> None:
    """JPEGs of 96 pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(_IMAGES):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / f"{index}.jpg")


def fabricate_table(path: Path, rows: int, texts: int) -> Path:
    """A Parquet table of ``rows`` rows; the label follows the image."""
    index = np.arange(rows)
    image = (index * 7) % _IMAGES
    table = {
        "image": [f"images/{i}.jpg" for i in image],
        "text": [f"a small red star on the green house {i}" for i in index % texts],
        "label": [f"class{i}" for i in image % _CLASSES],
        "split": ["val" if i < _VALIDATION else "train" for i in index],
    }
    pq.write_table(pa.table(table), path)
    return path


def row_bytes() -> list[dict[str, Any]]:
    """Stored bytes of an image and of a text of 20 tokens, by size, method and level."""
    found = []
    for size in (112, 224):
        with tempfile.TemporaryDirectory() as scratch:
            fabricate_images(Path(scratch) / "images")
            table = fabricate_table(Path(scratch) / "table.parquet", 2 * _VALIDATION, 10)
            encoders = {"image_encoder": "pypi:dinov2-small"}
            encoders["text_encoder"] = "pypi:all-minilm-l6-v2"
            columns = {"text_columns": "text", "split_column": "split"}
            data = TableDataModule(table=str(table), image_size=size, **columns, **encoders)
            data.prepare_data()
            data.setup("fit")
            whole = [(method, "layers") for method in ("NoPrompts", "Parts", "EPIC")]
            for method, level in (*whole, ("EPIC", "tokens")):
                given = {"image_size": size, "precision": "same"}
                module = EPICModule.from_config("table.yaml", 2, method=method, encoders=given)
                shared: Any = (module.device, data, [data.dataset("train")], level, "float16")
                towers = module.model.image_tower, module.model.text_tower
                image = Images(towers[0], *shared, 1).request(Path(scratch)).spec.nbytes(1)
                text = Texts(towers[1], *shared).request(Path(scratch)).spec.nbytes(1, 20)
                row = {"pixels": size, "method": method, "level": level}
                found.append(row | {"image_bytes": image, "text_bytes": text})
    return found


# a process begins with the memory of the one that forks it, so that a small one must do that
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def run(*command: str) -> str:
    """Seconds and the most resident memory in MB of ``epic-pl`` with these arguments."""
    words = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "epic_pl", *command]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    peak = int(done.stdout.splitlines()[-1]) / 1000
    return f"{seconds:.1f} s, {peak:,.0f} MB"


def measure(rows: int, folder: Path, encoders: list[str]) -> dict[str, Any]:
    """Each command on tables of ``rows`` rows."""
    shared = fabricate_table(folder / f"shared-{rows}.parquet", rows, _IMAGES)
    table = fabricate_table(folder / f"own-{rows}.parquet", rows, rows)
    options = ["--config", "table.yaml", *encoders, "--data.split_column=split"]
    once = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    once += ["--trainer.limit_val_batches=1", "--trainer.accelerator=cpu"]
    own = [*options, f"--data.table={table}"]
    fit = ["fit", *own, *once, "--cache.level=off", f"--trainer.default_root_dir={folder / 'off'}"]
    stored = ["fit", *options, f"--data.table={shared}", *once, "--cache.level=layers"]
    stored += [f"--cache.folder={folder / 'store'}", f"--trainer.default_root_dir={folder / 'on'}"]
    check = run("data", "check", *own, f"--output={folder / 'check'}")
    first = run(*fit)
    run(*stored)  # fills the store
    return {"rows": rows, "table_mb": round(table.stat().st_size / 1e6, 1)} | {
        "data check": check,
        "fit, images": first,
        "fit, stored features": run(*stored),
    }


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--bytes", action="store_true", help="print stored bytes of a row")
    given = parser.parse_args()
    if given.bytes:
        show(row_bytes(), given.json)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fabricate_images(folder / "images")
        vit = tiny_encoders.write_vit(folder / "vit")
        bert = tiny_encoders.write_bert(folder / "bert")
        encoders = [f"--model.encoders.image.name={vit}", f"--model.encoders.text.name={bert}"]
        encoders.append("--model.encoders.image_size=32")
        os.environ["EPIC_PL_CACHE"] = str(folder / "cache")
        show([measure(rows, folder, encoders) for rows in given.rows], given.json)


if __name__ == "__main__":
    main()
