"""Content of ``model.json``: what the user of an exported program needs to know.

Shape legend: H, W picture height and width in pixels.
"""

from typing import Any

import torch

from epic_pl import __version__
from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.evaluation.export.program import INPUTS
from epic_pl.module import EPICModule
from epic_pl.nn.encoders.blank import blank_input

FORMAT_VERSION = 1


def picture_size(module: EPICModule) -> tuple[int, int]:
    """H and W of the pictures that a module's encoder takes."""
    height, width = blank_input(module.model.image_encoder.model).shape[-2:]
    return height, width


def image_preprocessing_of(module: EPICModule) -> ImagePreprocessing | None:
    """Preprocessing in the checkpoint; None without any, or if it is not of this package."""
    saved = module.hparams.get("preprocessing")
    try:
        return ImagePreprocessing.from_dict(saved["image"]) if saved else None
    except (KeyError, TypeError):
        return None


def describe(module: EPICModule, tokenizer: Any | None) -> dict[str, Any]:
    """The content of ``model.json``, plain types only."""
    info, postprocessor = module.checkpoint_info(), module.postprocessor
    shapes = (["B", 3, *picture_size(module)], ["B", "S"], ["B", "S"], ["B"], ["B"])
    types = ("float32", "int64", "int64", "bool", "bool")
    thresholds = postprocessor.thresholds
    return {
        "format_version": FORMAT_VERSION,
        "task": module.task,
        "class_names": list(module.class_names),
        "thresholds": None if thresholds is None else thresholds.tolist(),
        "temperature": float(postprocessor.temperature),
        "method": module.hparams["method"],
        "inputs": {
            name: {"shape": shape, "dtype": dtype}
            for name, shape, dtype in zip(INPUTS, shapes, types, strict=True)
        },
        "preprocessing": _preprocessing(module, tokenizer),
        "tokenizer": None if tokenizer is None else "tokenizer",
        "image_encoder": dict(info["image_encoder"]),
        "text_encoder": dict(info["text_encoder"]),
        "versions": {"epic_pl": __version__, "torch": str(torch.__version__)},
    }


def _preprocessing(module: EPICModule, tokenizer: Any | None) -> dict[str, Any] | None:
    saved: dict[str, Any] | None = module.hparams.get("preprocessing")
    image = image_preprocessing_of(module)
    if saved is None or image is None or "text" not in saved:
        return saved
    text = dict(saved["text"])
    if tokenizer is not None:
        text["max_tokens"] = min(text["max_tokens"], tokenizer.model_max_length)
    described = {
        "resize": image.resized,
        "size": image.size,
        "interpolation": image.interpolation,
        "mean": list(image.mean),
        "std": list(image.std),
    }
    return {"image": described, "text": text}
