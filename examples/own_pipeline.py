"""EPIC in your own Trainer on your own data: a CSV with the columns image, text and label.

Paths of images start in the current folder; classes are in alphabetical order.

python examples/own_pipeline.py pairs.csv
"""

import argparse
import csv

import lightning as L
from torch.utils.data import DataLoader

from epic_pl import EncoderConfig, EncodersConfig, EPICModule, Processor
from epic_pl.nn import EPIC

parser = argparse.ArgumentParser()
parser.add_argument("pairs")
parser.add_argument("--image_encoder", default="pypi:dinov2-small")
parser.add_argument("--text_encoder", default="pypi:all-minilm-l6-v2")
parser.add_argument("--interaction_layers", type=int, default=4)
args = parser.parse_args()

with open(args.pairs, newline="") as file:
    rows = list(csv.DictReader(file))
classes = sorted({row["label"] for row in rows})
items = [
    {"image": row["image"], "text": row["text"], "label": classes.index(row["label"])}
    for row in rows
]
processor = Processor.from_encoders(args.image_encoder, args.text_encoder, image_size=112)
text = EncoderConfig(args.text_encoder, pooling="mean")  # as all-MiniLM was trained
model = EPICModule(
    len(classes),
    EncodersConfig(EncoderConfig(args.image_encoder), text, image_size=112),
    method=EPIC(interaction_layers=args.interaction_layers),
    class_names=classes,
    preprocessing=processor.preprocessing,  # so that Classifier can load the checkpoint
)
trainer = L.Trainer(max_epochs=3, accelerator="auto", devices=1)
trainer.fit(model, DataLoader(items, batch_size=16, shuffle=True, collate_fn=processor))
trainer.save_checkpoint("own_pipeline.ckpt")
