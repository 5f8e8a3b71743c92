"""Classify images with texts by the ONNX model beside this file.

    python predict.py image.jpg "its text"    # without the text, or with - for the image

Needs numpy, Pillow, tokenizers and onnxruntime. In Python: ``Model()(image="image.jpg")``.
"""

import html
import io
import json
import re
import struct
import sys
from collections.abc import Sequence
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
        scores = self.probabilities([(image, text)])[0]
        order = np.argsort(-scores, kind="stable")
        least = self.about["thresholds"]
        chosen = order[:top_k] if least is None else [i for i in order if scores[i] >= least[i]]
        return [{"label": self.names[i], "score": float(scores[i])} for i in chosen]

    def probabilities(self, samples: Sequence[tuple[Any, str | None]]) -> npt.NDArray[np.float32]:
        """Probabilities (samples, classes) of pairs of image and text; None is missing."""
        if any(image is None and text is None for image, text in samples):
            raise ValueError("A sample has neither image nor text.")
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


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(len(sys.argv) < 2)
    image, text = (None if given == "-" else given for given in [*sys.argv[1:], "-"][:2])
    try:
        print(json.dumps(Model()(image, text), ensure_ascii=False))
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
