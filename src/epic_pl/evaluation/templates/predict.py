"""Classify images with texts by the ONNX model beside this file.

    python predict.py dish.jpg "its text" - "a text alone"    # pairs; - is missing
    python predict.py --table rows.csv --image photo --text title --output predicted.csv

Needs numpy, Pillow, tokenizers and onnxruntime. In Python: ``Model()(image="dish.jpg")``.
"""

import argparse
import csv
import html
import io
import json
import re
import struct
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
CHARACTERS_PER_TOKEN = 1000  # of a text; what is longer is cut before it is tokenized
BATCH = 32  # rows at a time
Row = tuple[str, dict[Any, Any]]  # place, cells
ADDED = ("predicted", "score", "error")  # columns
MAX_ASPECT = 4  # of an image; what is longer is trimmed


class Model:
    """The model of a folder.

    Args:
        folder: where model.json is; by default that of this file.
        file: ``model.onnx``, or ``model.int8.onnx`` if it was exported.
    """

    def __init__(
        self, folder: str | Path = Path(__file__).parent, file: str = "model.onnx"
    ) -> None:
        folder = Path(folder)
        self.about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.names: list[str] = self.about["class_names"]
        self.image = self.about["preprocessing"]["image"]
        self.text = self.about["preprocessing"]["text"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.text["max_tokens"])
        self.session = onnxruntime.InferenceSession(str(folder / file))

    def __call__(
        self, image: Any = None, text: str | None = None, top_k: int = 5
    ) -> list[dict[str, Any]]:
        """Labels and scores of one sample, the highest first; of a multilabel task those chosen."""
        return self.labels(self.probabilities([(image, text)])[0], top_k)

    def labels(self, scores: npt.NDArray[np.float32], top_k: int) -> list[dict[str, Any]]:
        """Labels and scores of a sample with these probabilities (classes,)."""
        order = np.argsort(-scores, kind="stable")
        least = self.about["thresholds"]
        chosen = order[:top_k] if least is None else [i for i in order if scores[i] >= least[i]]
        return [{"label": self.names[i], "score": float(scores[i])} for i in chosen]

    def probabilities(self, samples: Sequence[tuple[Any, str | None]]) -> npt.NDArray[np.float32]:
        """Probabilities (samples, classes) of pairs of image and text; None is missing.

        An image is what :meth:`pixels` takes or returns.
        """
        if any(image is None and text is None for image, text in samples):
            raise ValueError("A sample has neither image nor text.")
        for place, name in enumerate(("image", "text")):
            if name in self.about["never_missing"] and any(pair[place] is None for pair in samples):
                warnings.warn(
                    f"Samples lack the {name}, which no training sample did.", stacklevel=2
                )
        texts = ["" if text is None else text for _, text in samples]
        if self.text["clean"]:
            texts = [clean(text) for text in texts]
        most = CHARACTERS_PER_TOKEN * self.text["max_tokens"]
        encoded = self.tokenizer.encode_batch([text[:most] for text in texts])
        ids = [tokens.ids for tokens in encoded]
        longest = max(map(len, ids))
        pad = self.text["pad_id"]
        size = self.image["size"]
        blank = np.zeros((3, size, size), np.float32)
        inputs = {
            "pixel_values": [blank if i is None else self.pixels(i) for i, _ in samples],
            "input_ids": [row + [pad] * (longest - len(row)) for row in ids],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in ids],
            "image_present": [image is not None for image, _ in samples],
            "text_present": [text is not None for _, text in samples],
        }
        scores: npt.NDArray[np.float32]
        (scores,) = self.session.run(None, {key: np.array(rows) for key, rows in inputs.items()})
        return scores

    def pixels(self, image: Any) -> npt.NDArray[np.float32]:
        """The model's input (3, size, size) of a path, a file's bytes, or a PIL image."""
        if isinstance(image, np.ndarray):
            return image
        size, mean = self.image["size"], self.image["mean"]
        resized = self.image["resized"]
        filters = Image.Resampling[self.image["interpolation"].upper()]
        drawn = image if isinstance(image, Image.Image) else read(image, 2 * resized)
        drawn = to_rgb(upright(drawn))
        if self.image["resize"] == "squash":
            drawn = drawn.resize((size, size), filters)
        elif self.image["resize"] == "pad":
            colour = tuple(round(255 * channel) for channel in mean)
            drawn = ImageOps.pad(drawn, (size, size), filters, colour)
        else:
            short = min(drawn.size)
            drawn = cropped(drawn, *(min(side, MAX_ASPECT * short) for side in drawn.size))
            width, height = (
                resized if side == short else int(resized * side / short) for side in drawn.size
            )
            drawn = cropped(drawn.resize((width, height), filters), size, size)
        std = np.array(self.image["std"], np.float32)
        shift = -np.array(mean, np.float32) / std
        scaled = np.asarray(drawn).astype(np.float32) * (1 / (255 * std)) + shift
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def read(source: Any, least: int) -> Image.Image:
    """An image's first frame; a JPEG may be read at a part of its size, not below ``least``."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"The image has more than {MAX_PIXELS:,} pixels.")
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (least, least))
        image.load()
        return image.copy()


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF block says, unless that is broken."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error):
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """8 bits, transparency on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("The image's pixels are floats of an unknown range.")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of an image."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def clean(text: str) -> str:
    """A text without markup, addresses and control characters, with single blanks."""
    text = html.unescape(re.sub(r"<[a-zA-Z/!][^<>]*>", " ", text))
    address = (
        r"(?:https?://|(?<![a-z0-9_])www\.)"
        r"[^\s<>\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]+"
    )
    text = re.sub(address, " ", text, flags=re.IGNORECASE)
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def delimiter(table: Path) -> str:
    """The mark that is most frequent in a table's header outside of quotes."""
    with table.open(encoding="utf-8-sig") as file:
        plain = re.sub('"[^"]*"', "", file.readline())
    return max("\t,;|" if table.suffix.lower() == ".tsv" else ",;\t|", key=plain.count)


def read_rows(given: argparse.Namespace, mark: str) -> Iterator[Row]:
    """The pairs of a command line, or the rows of its table."""
    if given.table is None:
        words = [None if word == "-" else word for word in [*given.pairs, "-"]]
        for number, (image, text) in enumerate(zip(words[::2], words[1::2], strict=False), start=1):
            yield f"pair {number}", {given.image: image, given.text: text}
        return
    csv.field_size_limit(2**31 - 1)
    with given.table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=mark)
        names = list(reader.fieldnames or ())
        if unknown := {given.image, given.text} - {*names, "-"}:
            raise ValueError(
                f"{given.table} has no column {min(unknown)!r}, but {', '.join(names)}: name them "
                "by --image and --text, where - is none"
            )
        for cells in reader:
            yield f"{given.table}, line {reader.line_num}", cells


def prepare(model: Model, given: argparse.Namespace, row: Row) -> tuple[Any, str | None] | str:
    """What the model takes of a row, or why there is nothing; an empty cell is missing."""
    place, cells = row
    try:
        if cells.pop(None, None):
            raise ValueError("There are more cells than columns.")
        image = (cells.get(given.image) or "").strip()
        text = (cells.get(given.text) or "").strip() or None
        if not image and text is None:
            raise ValueError("There is neither image nor text.")
        folder = given.table.parent if given.table else Path()
        return model.pixels(folder / image) if image else None, text
    except Exception as error:  # a damaged image may cause any
        print(f"predict.py: {place}: {error}", file=sys.stderr)
        return str(error)


def main() -> int:
    """Classify what the command line names; returns 1 if a row is bad."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("predict.py", description=__doc__, formatter_class=raw)
    parser.add_argument("pairs", nargs="*", help="by turns an image and its text")
    parser.add_argument("--table", type=Path, help="a CSV or TSV file")
    parser.add_argument("--image", default="image", help="its column of image paths (image)")
    parser.add_argument("--text", default="text", help="its column of texts (text)")
    parser.add_argument("--output", type=Path, help="a .csv file, or one for JSON lines")
    parser.add_argument("--top_k", type=int, help="number of labels (5, in CSV files 1)")
    given = parser.parse_args()
    if (given.table is None) == (not given.pairs) or (given.table and given.output == given.table):
        parser.error("give pairs or a table, and another file as output")
    in_csv = given.output is not None and given.output.suffix == ".csv"
    top_k, bad = (1 if in_csv else 5) if given.top_k is None else given.top_k, False
    if top_k < 1:
        parser.error("--top_k must be at least 1")
    mark = delimiter(given.table) if given.table else ","
    rows, model = list(read_rows(given, mark)), Model()
    names = [name for _, cells in rows[:1] for name in cells if name]
    if taken := {*names} & {*ADDED}:
        raise ValueError(f"{given.table} has the column {min(taken)!r}, which is added: rename it")
    out = given.output or sys.stdout.fileno()
    with open(out, "w", encoding="utf-8", newline="", closefd=given.output is not None) as file:
        table = csv.DictWriter(file, [*names, *ADDED], delimiter=mark)
        if in_csv:
            table.writeheader()
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            samples = [prepare(model, given, row) for row in batch]
            usable = [sample for sample in samples if not isinstance(sample, str)]
            scores = iter(model.probabilities(usable) if usable else ())
            for (_, cells), sample in zip(batch, samples, strict=True):
                error = sample if isinstance(sample, str) else None
                labels = model.labels(next(scores), top_k) if error is None else []
                bad |= error is not None
                if in_csv:
                    cells["predicted"] = "|".join(label["label"] for label in labels)
                    cells["score"] = "|".join(f"{label['score']:.4f}" for label in labels)
                    table.writerow(cells | {"error": error})
                else:
                    outcome = {"predicted": labels} if error is None else {"error": error}
                    print(json.dumps(cells | outcome, ensure_ascii=False), file=file)
    return bad


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, csv.Error) as error:
        sys.exit(f"predict.py: {error}")
