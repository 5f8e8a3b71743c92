"""Classify an image with its text, or the rows of a CSV file, by the ONNX model beside this file.

    python predict.py dish.jpg "its text"  # - is a missing one
    python predict.py --table rows.csv --image photo --text title --output predicted.csv

Needs numpy, Pillow, tokenizers and onnxruntime. In Python: ``Model()("dish.jpg", "its text")``.
"""

import argparse
import contextlib
import csv
import html
import io
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS, MAX_ASPECT = 64_000_000, 4  # of an image; a longer one is trimmed
CHARACTERS_PER_TOKEN = 1000  # of a text; what is longer is cut before it is tokenized
ADDED = ("predicted", "score", "error")  # columns


class Model:
    """The model of a folder: ``model.onnx``, or ``model.int8.onnx`` if it was exported."""

    def __init__(
        self, folder: str | Path = Path(__file__).parent, file: str = "model.onnx"
    ) -> None:
        self.about = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        self.image = self.about["preprocessing"]["image"]
        self.text = self.about["preprocessing"]["text"]
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.text["max_tokens"])
        self.session = onnxruntime.InferenceSession(str(Path(folder) / file))

    def __call__(
        self, image: Any = None, text: str | None = None, top_k: int = 5
    ) -> list[dict[str, Any]]:
        """Labels and scores, the highest first; of a multilabel task those that are assigned."""
        scores, least = self.probabilities(image, text), self.about["thresholds"]
        order = np.argsort(-scores, kind="stable")
        chosen = order[:top_k] if least is None else [i for i in order if scores[i] >= least[i]]
        return [{"label": self.about["class_names"][i], "score": float(scores[i])} for i in chosen]

    def probabilities(self, image: Any = None, text: str | None = None) -> npt.NDArray[np.float32]:
        """Probabilities (classes,) of an image (a path or an open file) and a text, or of one."""
        given = {"image": image is not None, "text": text is not None}
        if not any(given.values()):
            raise ValueError("There is neither image nor text.")
        for name in self.about["never_missing"]:
            if not given[name]:
                message = f"Samples lack the {name}, which no training sample did."
                warnings.warn(message, stacklevel=2)
        words = clean(text or "") if self.text["clean"] else text or ""
        most = CHARACTERS_PER_TOKEN * self.text["max_tokens"]
        ids = np.array([self.tokenizer.encode(words[:most]).ids], np.int64)
        blank = np.zeros((3, self.image["size"], self.image["size"]), np.float32)
        inputs = {
            "pixel_values": np.stack([blank if image is None else self.pixels(image)]),
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            **{f"{name}_present": np.array([there]) for name, there in given.items()},
        }
        scores: npt.NDArray[np.float32] = self.session.run(None, inputs)[0][0]
        return scores

    def pixels(self, file: Any) -> npt.NDArray[np.float32]:
        """The model's input (3, size, size)."""
        size, mean = self.image["size"], self.image["mean"]
        resized = int(round(size / self.image["crop_pct"], 6))
        filters = Image.Resampling[self.image["interpolation"].upper()]
        image = read(file, 2 * resized)
        if self.image["resize"] == "squash":
            image = image.resize((size, size), filters)
        elif self.image["resize"] == "pad":
            colour = tuple(round(255 * channel) for channel in mean)
            image = ImageOps.pad(image, (size, size), filters, colour)
        else:
            short = min(image.size)
            image = centre(image, *(min(side, MAX_ASPECT * short) for side in image.size))
            sides = [resized if s == short else int(resized * s / short) for s in image.size]
            image = centre(image.resize((sides[0], sides[1]), filters), size, size)
        scaled = (np.asarray(image) / 255 - np.array(mean)) / np.array(self.image["std"])
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)


def read(file: Any, least: int) -> Image.Image:
    """An image upright in 8-bit RGB on white; a JPEG may be shrunk, not below ``least``."""
    with Image.open(file, formats=FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"The image has more than {MAX_PIXELS:,} pixels.")
        opened.draft(None, (least, least))
        opened.load()
        image: Image.Image = opened
        with contextlib.suppress(Exception):  # a broken EXIF block
            image = ImageOps.exif_transpose(opened)
        if image.mode == "I" or image.mode.startswith("I;16"):
            deep = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
            image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("The image's pixels are floats of an unknown range.")
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of an image."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def clean(text: str) -> str:
    """A text without markup, addresses and control characters, with single blanks."""
    text = html.unescape(re.sub(r"<[a-zA-Z/!][^<>]*>", " ", text))
    end = r"[^\s<>\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]+"
    text = re.sub(rf"(?:https?://|(?<![a-z0-9_])www\.){end}", " ", text, flags=re.IGNORECASE)
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def classify(model: Model, table: Path, output: Path, image: str, text: str) -> bool:
    """Write a table with its predictions, in the same dialect; returns whether a row is bad."""
    content, bad = table.read_bytes().decode(), False
    header = content.partition("\n")[0]
    marks = "\t,;|" if table.suffix.lower() == ".tsv" else ",;\t|"
    mark = max(marks, key=re.sub('"[^"]*"', "", header).count)
    order, end = header[: header.startswith("\ufeff")], "\r\n" if header.endswith("\r") else "\n"
    csv.field_size_limit(2**31 - 1)
    rows = csv.DictReader(io.StringIO(content.removeprefix("\ufeff"), newline=""), delimiter=mark)
    names = list(rows.fieldnames or ())
    twice = {name for name in names if names.count(name) > 1}
    if wrong := {image, text} - {*names, "-"} or {*names} & {*ADDED} or twice:
        raise ValueError(
            f"{table} has the columns {', '.join(names)}, and {min(wrong)!r} is not among them, or "
            "twice, or would be added: name yours by --image and --text (- is none), or rename it"
        )
    with output.open("w", encoding="utf-8", newline="") as file:
        file.write(order)
        written = csv.DictWriter(file, [*names, *ADDED], delimiter=mark, lineterminator=end)
        written.writeheader()
        for cells in rows:
            try:
                if cells.pop(None, None):
                    raise ValueError("There are more cells than columns.")
                photo = (cells.get(image) or "").strip()
                words = (cells.get(text) or "").strip() or None
                labels = model(table.parent / photo if photo else None, words)
                labels = labels[:1] if model.about["thresholds"] is None else labels
                cells["predicted"] = "|".join(label["label"] for label in labels)
                cells["score"] = "|".join(f"{label['score']:.4f}" for label in labels)
            except Exception as error:  # a damaged image may cause any
                print(f"predict.py: {table}, line {rows.line_num}: {error}", file=sys.stderr)
                cells["error"], bad = str(error), True
            written.writerow(cells)
    return bad


def main() -> int:
    """Classify what the command line names; returns 1 if a row is bad."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("predict.py", description=__doc__, formatter_class=raw)
    parser.add_argument("pair", nargs="*", help="an image and its text")
    parser.add_argument("--table", type=Path, help="a CSV or TSV file")
    parser.add_argument("--image", default="image", help="its column of image paths (image)")
    parser.add_argument("--text", default="text", help="its column of texts (text)")
    parser.add_argument("--output", type=Path, help="the table to write")
    given = parser.parse_args()
    if given.table and given.output and not given.pair and given.table != given.output:
        return classify(Model(), given.table, given.output, given.image, given.text)
    if given.table or given.output or not 1 <= len(given.pair) <= 2:
        parser.error("give an image and a text, or a table and another file as output")
    image, text = [None if word == "-" else word for word in [*given.pair, "-"]][:2]
    predicted = Model()(image, text)
    print(json.dumps({"image": image, "text": text, "predicted": predicted}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, csv.Error) as error:
        sys.exit(f"predict.py: {error}")
