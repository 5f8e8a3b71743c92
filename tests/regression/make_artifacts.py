"""Keeps what this version makes of a tiny model, for `test_artifacts.py` of all later versions.

    python tests/regression/make_artifacts.py

trains on squares of three colours and writes VERSION.tar.xz beside this script, once per release.
The encoders are in it too, since other versions of torch draw other random weights.
"""

import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path

import onnx
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_encoders
from epic_pl import Classifier, __version__
from epic_pl.cli.main import call
from epic_pl.run.epic_cli import run

COLOURS = {"blue": (30, 60, 220), "green": (40, 190, 60), "red": (220, 40, 30)}
SPLITS = {"train": 24, "val": 6, "test": 9}
# small weights in a small file: no network of the head, and a checkpoint without the optimiser
OPTIONS = {
    "seed_everything": 0,
    "trainer": {"default_root_dir": "runs", "accelerator": "cpu", "devices": 1, "max_epochs": 3},
    "model": {
        "encoders": {"image": {"name": "encoders/image"}, "text": {"name": "encoders/text"}},
        "method": {"interaction_layers": 2, "hub_width": 4},
        "head": {"network": "none", "similarity": False},
        "modality_dropout": 0.2,
    },
    "data": {
        "class_path": "TableDataModule",
        "init_args": {
            "table": "rows.csv",
            "id_column": "id",
            "split_column": "split",
            "number_columns": ["price"],
            "category_columns": ["maker"],
            "date_columns": ["sold"],
            "batch_size_per_device": 8,
        },
    },
    "checkpoint": {"monitor": "val/accuracy", "save_weights_only": True},
}


def main() -> None:
    archive = Path(__file__).parent.absolute() / __version__
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_inputs()
        run(["fit", "--config", "config.yaml"])
        (best,) = Path("runs").rglob("best.ckpt")
        best.rename("adapter.ckpt")
        options = ["--ckpt_path=adapter.ckpt", f"--predictions.output={folder}/predictions.parquet"]
        run(["predict", "--config", "config.yaml", *options])
        Classifier.load("adapter.ckpt").save_pretrained("saved")
        call("export", ["adapter.ckpt", "--output=exported"])
        strip(Path("exported/model.onnx"))
        shutil.rmtree("runs")
        shutil.make_archive(str(archive), "xztar")
        os.chdir(archive.parent)


def write_inputs() -> None:
    """The encoders, the table, and the config; some test rows have an image or a text alone."""
    tiny_encoders.write_vit(Path("encoders/image"), width=8)
    tiny_encoders.write_bert(Path("encoders/text"), width=8)
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(f"{name}.png")
    with open("rows.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "text", "price", "maker", "sold", "label", "split"])
        for split, count in SPLITS.items():
            for number in range(count):
                label = list(COLOURS)[number % 3]
                image = "" if split == "test" and number in (3, 4) else f"{label}.png"
                text = "" if split == "test" and number in (7, 8) else f"a {label} square"
                price = "" if number == 5 else number * 1.5
                cells = price, f"maker {number % 2}", f"2026-0{1 + number % 9}-01"
                rows.writerow([f"{split}{number}", image, text, *cells, label, split])
    Path("config.yaml").write_text(yaml.safe_dump(OPTIONS, sort_keys=False))


def strip(path: Path) -> None:
    """Remove names of layers and shapes, which no runtime reads and are most of a tiny model."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, path)


if __name__ == "__main__":
    main()
