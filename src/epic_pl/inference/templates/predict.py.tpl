"""Classify an image with its text, or the rows of a CSV file, by the ONNX model beside this file.

    python predict.py dish.jpg "its text"  # - stands for a missing image or text
    python predict.py dish.jpg "its text" --columns '{"price": 9.9}'  # if the model reads any
    python predict.py --table rows.csv --image photo --text title --output predicted.csv

Needs numpy, Pillow, tokenizers and onnxruntime. In Python: ``Model()("dish.jpg", "its text")``.
"""

import argparse
import csv
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from cells import ColumnPreprocessing  # type: ignore[import-not-found]  # beside this file
from clean_text import clean_text  # type: ignore[import-not-found]  # beside this file
from decoding import decode  # type: ignore[import-not-found]  # beside this file
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from untrusted import (  # type: ignore[import-not-found]  # beside this file
    open_below,
    open_regular,
    quoted,
    unquoted,
)

MAX_ASPECT = 4  # images with a higher ratio of sides are trimmed
CHARACTERS_PER_TOKEN = 1000  # longer texts are cut before they are tokenized


class Model:
    """The model of a folder: ``model.onnx``, or ``model.int8.onnx`` if it was exported."""

    def __init__(self, folder: Path = Path(__file__).parent, file: str = "model.onnx") -> None:
        self.about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.image, self.text = (self.about["preprocessing"][side] for side in ("image", "text"))
        self.columns = ColumnPreprocessing(**self.about["preprocessing"].get("columns", {}))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_padding()
        direction = self.text["truncation_side"]
        self.tokenizer.enable_truncation(self.text["max_tokens"], direction=direction)
        # a tokenizer without special tokens makes none of an empty text
        self.blank = "" if self.tokenizer.encode("").ids else self.text["pad_token"]
        if self.text["padded"]:
            pad = self.text["pad_token"]
            options = {"pad_id": self.tokenizer.token_to_id(pad), "pad_token": pad}
            self.tokenizer.enable_padding(length=self.text["max_tokens"], **options)
        self.session = onnxruntime.InferenceSession(str(folder / file))

    def __call__(
        self, image: Any = None, text: str | None = None, top_k: int = 5, **columns: Any
    ) -> list[Any]:
        """Labels and scores, the highest first; multilabel: those that are assigned."""
        scores, least = self.probabilities(image, text, **columns), self.about["thresholds"]
        order = np.argsort(-scores, kind="stable")
        chosen = order[:top_k] if least is None else [i for i in order if scores[i] >= least[i]]
        return [{"label": self.about["class_names"][i], "score": float(scores[i])} for i in chosen]

    def probabilities(
        self, image: Any = None, text: str | None = None, **columns: Any
    ) -> npt.NDArray[np.float32]:
        """Probabilities (classes,) of an image (a path or an open file), a text, or both.

        The columns that the model reads are given by name, None for an unknown value.
        """
        if columns.keys() != {*self.columns.names}:
            raise ValueError(f"columns are {', '.join(self.columns.names) or 'none'}: give these")
        if image is None and text is None:
            raise ValueError("there is neither image nor text")
        words = clean_text(text or "") if self.text["clean"] else text or ""
        words = words[: CHARACTERS_PER_TOKEN * self.text["max_tokens"]]
        words = self.text["prompt"] + words
        ids = np.array(
            [self.tokenizer.encode(words if words.strip() else self.blank).ids], np.int64
        )
        blank = np.zeros((3, self.image["size"], self.image["size"]), np.float32)
        inputs = {
            "pixel_values": (blank if image is None else self.pixels(image))[None],
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "image_present": np.array([image is not None]),
            "text_present": np.array([text is not None]),
        }
        if self.columns.names:
            inputs["columns"] = self.columns.encode([columns])
        for name in self.about["never_missing"]:
            if not inputs[f"{name}_present"]:
                warnings.warn(
                    f"Samples lack the {name}, but every training sample had it.", stacklevel=2
                )
        scores: npt.NDArray[np.float32] = self.session.run(None, inputs)[0][0]
        return scores

    def pixels(self, file: Any) -> npt.NDArray[np.float32]:
        """The model's input (3, size, size)."""
        mean, std = np.array(self.image["mean"]), np.array(self.image["std"])
        side = self.image["size"]
        resized = int(round(side / self.image["crop_pct"], 6))
        filters = Image.Resampling[self.image["interpolation"].upper()]
        with file if hasattr(file, "read") else open_regular(file) as opened:
            image = decode(opened, 2 * resized)
        if self.image["resize"] == "squash":
            image = image.resize((resized, resized), filters)
        elif self.image["resize"] == "pad":
            colour = tuple(round(255 * channel) for channel in mean)
            image = ImageOps.pad(image, (resized, resized), filters, colour)
        else:
            short = min(image.size)
            image = centre(image, *(min(length, MAX_ASPECT * short) for length in image.size))
            scaled = [resized if s == short else int(resized * s / short) for s in image.size]
            image = image.resize((scaled[0], scaled[1]), filters)
        image = centre(image, side, side)
        scaled = (np.asarray(image) / 255 - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)


def centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of an image, of the given size."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def classify(model: Model, table: Path, output: Path, image: str, text: str) -> bool:
    """Write the rows of a CSV file with predictions; returns whether a row is bad."""
    with table.open(encoding="utf-8-sig", newline="") as source:
        mark, bad = max(",;\t|", key=source.readline().count), False
        source.seek(0)
        rows = csv.DictReader(source, delimiter=mark)
        names = [unquoted(name) for name in rows.fieldnames or ()]
        rows.fieldnames, names = names, [*names, "predicted", "score", "error"]
        needed = {image, text, *model.columns.names}
        if needed - {*names[:-3], "-"} or len({*names}) < len(names):
            raise ValueError(
                f"{table} has the columns {', '.join(names[:-3])}: name yours by --image and "
                "--text (- is none), and rename what is there twice or called like a result; the "
                f"model reads {', '.join(model.columns.names) or 'no further columns'}"
            )
        if output.exists():
            raise FileExistsError(f"{output} exists: give another --output, or remove it")
        with output.open("x", encoding="utf-8", newline="") as file:
            written = csv.writer(file, delimiter=mark)
            written.writerow(map(quoted, names))
            for cells in rows:
                surplus = cells.pop(None, None)
                cells = {name: unquoted(cell or "") for name, cell in cells.items()}
                try:
                    if surplus:
                        raise ValueError("there are more cells than columns")
                    photo, words = (cells.get(name, "").strip() for name in (image, text))
                    opened = open_below(table.parent.resolve(), photo) if photo else None
                    columns: Any = {name: cells[name] for name in model.columns.names}
                    labels = model(opened, words or None, **columns)
                    labels = labels[:1] if model.about["thresholds"] is None else labels
                    cells["predicted"] = "|".join(label["label"] for label in labels)
                    cells["score"] = "|".join(f"{label['score']:.4f}" for label in labels)
                except Exception as error:  # a damaged image may cause any error
                    print(f"predict.py: {table}, line {rows.line_num}: {error}", file=sys.stderr)
                    cells["error"], bad = str(error), True
                written.writerow(quoted(cells.get(name, "")) for name in names)
    return bad


def main() -> int:
    """Classify the image, text or table of the command line; returns 1 if a row is bad."""
    parser = argparse.ArgumentParser("predict.py", usage=__doc__)
    parser.add_argument("pair", nargs="*")
    parser.add_argument("--columns", type=json.loads, default={})
    for name in ("table", "image", "text", "output"):
        parser.add_argument(f"--{name}", default={"image": "image", "text": "text"}.get(name))
    given = parser.parse_args()
    if given.table and given.output and not given.pair:
        return classify(Model(), Path(given.table), Path(given.output), given.image, given.text)
    if given.table or given.output or not 1 <= len(given.pair) <= 2:
        parser.error("give an image and a text, or a table and an output")
    image, text = [None if word == "-" else word for word in [*given.pair, "-"]][:2]
    print(json.dumps(Model()(image, text, **given.columns), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, csv.Error) as error:
        sys.exit(f"predict.py: {error}")
