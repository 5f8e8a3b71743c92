"""Tiny copies of the datasets, file by file in the layouts of the real ones."""

import csv
import io
import json
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from epic_pl.data.images import read_image

# no network: timm knows this name's preprocessing, and a folder without files has its defaults
NO_FILES = str(Path(__file__).parent)
ENCODERS = {"image_encoder": "vit_tiny_patch16_224", "text_encoder": NO_FILES, "image_size": 32}
# of a Trainer
QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
DISHES = ("apple_pie", "baby_back_ribs", "waffles")
GENRES = "Drama Comedy Romance Thriller Crime Action Adventure Horror Documentary Mystery Sci-Fi Fantasy Family Biography War History Music Animation Musical Western Sport Short Film-Noir".split()  # noqa: E501, SIM905
ENTAILMENT = ("entailment", "neutral", "contradiction")


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode())  # each image is its own
    colour = tuple(int(c) for c in np.random.default_rng(seed).integers(0, 255, 3))
    Image.new("RGB", (40, 36), colour).save(path)


def encoded(image, kind="PNG"):
    """The content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save_to_disk(folder, table, features):
    """An Arrow table in the layout of Hugging Face's ``Dataset.save_to_disk``."""
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as f, pa.ipc.new_stream(f, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)  # batches, as datasets writes them
    write_json(folder / "state.json", {"_data_files": [{"filename": name}]})
    write_json(folder / "dataset_info.json", {"features": features})


def food101(root, source, *, images="images", train=6, test=2):
    """UPMC-Food101 with the text of ``source``: 3 classes of 6 + 2 images.

    With 4 + 1 of them no title is empty.
    """
    rows = {  # numbers run on from training to test
        split: [(f"{dish}_{n}.jpg", dish) for dish in DISHES for n in numbers]
        for split, numbers in (("train", range(train)), ("test", range(train, train + test)))
    }
    for split, part in rows.items():
        for name, dish in part:
            image(root / images / split / dish / name)
    {"titles": _titles, "jsonl": _food_jsonl}[source](root, rows)


def _title(name):
    # the last one of training is empty; commas, quotes and a line break are as in the real file
    if name == "waffles_5.jpg":
        return ""
    return f'Grandma\'s "{name[:-4]}",\nwith love, | allrecipes.com'


def _titles(root, rows):
    (root / "texts").mkdir(parents=True)
    for split, part in rows.items():
        with (root / "texts" / f"{split}_titles.csv").open("w", newline="") as file:
            # not in alphabetical order, as the real one
            csv.writer(file).writerows((n, _title(n), dish) for n, dish in reversed(part))


def _food_jsonl(root, rows):
    for split, part in rows.items():
        lines = [
            {
                "id": f"{split}/{name}",
                "label": dish,
                "text": f"text of {name}",
                "img": f"images/{split}/{dish}/{name}",
            }
            for name, dish in part
        ]
        if split == "train":
            write_jsonl(root / "dev.jsonl", lines[::6])
            lines = [line for n, line in enumerate(lines) if n % 6]
        write_jsonl(root / f"{split}.jsonl", lines)


def snli_ve(root, *, key="Flickr30K_ID", suffix="", folder="flickr30k_images"):
    """SNLI-VE: three hypotheses an image, and one row a split without consensus.

    Pair ids are as the real ones, ``3416050480.jpg#4r1n``. They tell the image only where there
    is no ``key``, so that a lost key shows.
    """
    for split, first in (("train", 1000), ("dev", 1004), ("test", 1008)):
        ids = [str(first + n) for n in range(4)]
        for name in ids:
            image(root / folder / f"{name}.jpg")
        rows = [
            {
                "gold_label": label,
                "sentence1": f"a caption of {name}",
                "sentence2": f"a dog is {label}",
                "annotator_labels": [label] * 5,
                "captionID": f"{name}.jpg#2",
                "pairID": f"{'9' if key else ''}{name}.jpg#2r1{label[0]}",
            }
            | ({key: name + suffix} if key else {})
            for name in ids
            for label in ENTAILMENT
        ]
        rows.insert(1, rows[0] | {"gold_label": "-", "pairID": "no consensus"})
        write_jsonl(root / f"snli_ve_{split}.jsonl", rows)


FILMS = {
    "train": [
        {"genres": ["Romance", "Drama"], "plot": ["short", "a much longer plot", "mid plot"]},
        {"genres": ["Comedy", "News"], "plot": ["a comedy"]},
        {"genres": ["News", "Adult"], "plot": ["no genre is left"]},
        {"genres": ["Film-Noir"], "plot": []},
        {"genres": ["Sci-Fi"], "plot": ["robots", "robots and more"]},
    ],
    "dev": [{"genres": ["Horror"], "plot": ["a", "a b"]}, {"genres": ["War"], "plot": ["tanks"]}],
    "test": [
        {"genres": ["Action"], "plot": ["fast", "fast cars"]},
        {"genres": ["Talk-Show"], "plot": ["no genre is left"]},
        {"genres": ["Western", "Short"], "plot": ["dust"]},
    ],
}


# every genre twice in every split
SOUND_FILMS = {
    split: [
        {"genres": [GENRES[n], GENRES[n - 1]], "plot": [f"{split} {n}", f"the plot of {split} {n}"]}
        for n in range(len(GENRES))
    ]
    for split in FILMS
}


def _numbered(films):
    numbers = iter(range(5, 1000))
    return {
        split: [(f"{next(numbers):07d}", film) for film in part] for split, part in films.items()
    }


def mm_imdb(root, films=FILMS, *, images="dataset", labels="dataset"):
    """MM-IMDB: 5 / 2 / 3 films, of which 4 / 2 / 2 have a genre left."""
    split = {}
    for name, part in _numbered(films).items():
        split[name] = [film for film, _ in part]
        for film, about in part:
            image(root / images / f"{film}.jpeg")
            write_json(root / labels / f"{film}.json", about | {"title": "a title", "year": 1994})
    write_json(root / "split.json", split)


MEME_FILES = dict(train=8, dev_seen=4, dev_unseen=3, test_seen=4, test_unseen=5, test=4)


def hateful_memes(root, *, names=MEME_FILES):
    """Hateful Memes: ``names`` files with so many rows; ``test`` is the one without labels."""
    number = 1235
    for name, rows in names.items():
        lines = []
        for row in range(rows):
            number += 1
            image(root / "img" / f"{number:05d}.png")
            line = {"id": number, "img": f"img/{number:05d}.png", "text": f"meme {number}"}
            lines.append(line if name == "test" else line | {"label": row % 2})
        write_jsonl(root / f"{name}.jsonl", lines)


def raw(dataset, index):
    """A row with its image as read from disk."""
    row = dataset.row(index)
    path = row["image"] and dataset.image_root / row["image"]
    return row | {"image": path and read_image(path, dataset.transform.min_size)}


def rows_of(data, split):
    """All rows of a split of a DataModule, images as decoded."""
    data.setup()
    dataset = data.dataset(split)
    return [raw(dataset, n) for n in range(len(dataset))]


def _few_dishes(source, file):
    return partial(food101, source=source, train=4, test=1), file


# dataset and layout to what makes its files, of which none deserves a warning, and to one of them
LAYOUTS = {
    ("food101", "titles"): _few_dishes("titles", "texts/train_titles.csv"),
    ("food101", "jsonl"): _few_dishes("jsonl", "dev.jsonl"),
    ("snli_ve", "new key"): (snli_ve, "snli_ve_train.jsonl"),
    ("snli_ve", "old key"): (
        partial(snli_ve, key="Flikr30kID", suffix=".jpg"),
        "snli_ve_dev.jsonl",
    ),
    ("mm_imdb", "one folder"): (partial(mm_imdb, films=SOUND_FILMS), "dataset/0000006.json"),
    ("mm_imdb", "two folders"): (
        partial(mm_imdb, films=SOUND_FILMS, images="images", labels="labels"),
        "labels/0000006.json",
    ),
    ("hateful_memes", "with test file"): (hateful_memes, "train.jsonl"),
}
