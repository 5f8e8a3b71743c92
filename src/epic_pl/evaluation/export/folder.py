"""The folder of an exported model: written beside its place, verified, then moved.

Shape legend: B batch, S text tokens, H, W picture height and width in pixels.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from epic_pl import __version__
from epic_pl.data.preprocessing import ImagePreprocessing, load_tokenizer
from epic_pl.errors import AssetError, ConfigError, EncoderError
from epic_pl.evaluation.export.program import INPUTS, Classifier, export_program, random_inputs
from epic_pl.module import EPICModule
from epic_pl.nn.encoders.blank import blank_input

PROGRAM, DESCRIPTION, TOKENIZER = "model.pt2", "model.json", "tokenizer"
TOLERANCE = 1e-4
"""Largest accepted difference between a probability of the program and the module's."""
# B and S of the batches that are compared; the traced inputs have other sizes
_COMPARED = ((3, 8), (1, 2), (4, 3))


def find_tokenizer(module: EPICModule) -> Any | None:
    """Tokenizer of the text encoder; None if it has none and the texts were not ours to tokenize.

    Raises:
        EpicError: if a DataModule of this package needs a tokenizer that is not there.
    """
    encoder = module.checkpoint_info()["text_encoder"]
    try:
        return load_tokenizer(encoder["name"], encoder["revision"])
    except (AssetError, EncoderError) as error:
        if _image_preprocessing(module) is not None:
            raise
        print(f"exported without a tokenizer: {error}")
        return None


def picture_size(module: EPICModule) -> tuple[int, int]:
    """H and W of the pictures that a module's encoder takes."""
    height, width = blank_input(module.model.image_encoder.model).shape[-2:]
    return height, width


def describe(module: EPICModule, tokenizer: Any | None) -> dict[str, Any]:
    """Content of ``model.json``, plain types only: what the user of a program needs to know."""
    info, thresholds = module.checkpoint_info(), module.postprocessor.thresholds
    shapes = (["B", 3, *picture_size(module)], ["B", "S"], ["B", "S"], ["B"], ["B"])
    types = ("float32", "int64", "int64", "bool", "bool")
    preprocessing: dict[str, Any] | None = module.hparams.get("preprocessing")
    image = _image_preprocessing(module)
    if preprocessing is not None and image is not None and "text" in preprocessing:
        described = image.to_dict() | {"resize": image.resized}
        text = dict(preprocessing["text"])
        if tokenizer is not None:
            text["max_tokens"] = min(text["max_tokens"], tokenizer.model_max_length)
        preprocessing = {"image": described, "text": text}
    return {
        "format_version": 1,
        "task": module.task,
        "class_names": list(module.class_names),
        "thresholds": None if thresholds is None else thresholds.tolist(),
        "temperature": float(module.postprocessor.temperature),
        "method": module.hparams["method"],
        "inputs": {
            name: {"shape": shape, "dtype": dtype}
            for name, shape, dtype in zip(INPUTS, shapes, types, strict=True)
        },
        "preprocessing": preprocessing,
        "tokenizer": None if tokenizer is None else TOKENIZER,
        "image_encoder": dict(info["image_encoder"]),
        "text_encoder": dict(info["text_encoder"]),
        "versions": {"epic_pl": __version__, "torch": str(torch.__version__)},
    }


def _image_preprocessing(module: EPICModule) -> ImagePreprocessing | None:
    """Preprocessing in the checkpoint; None without any, or if it is not of this package."""
    saved = module.hparams.get("preprocessing")
    try:
        return ImagePreprocessing.from_dict(saved["image"]) if saved else None
    except (KeyError, TypeError):
        return None


def check_output(folder: Path, overwrite: bool) -> None:
    """Check that a model may be written into ``folder``, before anything is loaded.

    Raises:
        ConfigError: if it is a file, or not empty and ``overwrite`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: give a folder, or one yet to be made.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"--output {folder} is not empty: give another folder, or --overwrite to replace the "
            "model in it."
        )


def write_folder(module: EPICModule, tokenizer: Any | None, folder: Path) -> float:
    """Write program, description and tokenizer of a module on the CPU, in evaluation mode.

    Other files in the folder stay. Returns the result of :func:`largest_difference`.

    Raises:
        ConfigError: if the model cannot be exported, or the program gives other probabilities;
            the folder is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        made = Path(temporary)
        classifier = Classifier(module.model, module.postprocessor)
        torch.export.save(export_program(classifier, picture_size(module)), made / PROGRAM)
        described = json.dumps(describe(module, tokenizer), indent=2, ensure_ascii=False)
        (made / DESCRIPTION).write_text(described + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(made / TOKENIZER)
        difference = largest_difference(made / PROGRAM, module)
        if not difference <= TOLERANCE:  # true for NaN, too
            raise ConfigError(
                f"The exported model's probabilities differ from the checkpoint's by "
                f"{difference:.1e}, more than {TOLERANCE:.0e}: nothing was written to {folder}. "
                "Use the checkpoint in Python instead, with EPICModule.load_from_checkpoint."
            )
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
        for path in sorted(made.iterdir()):
            path.replace(folder / path.name)
    return difference


@torch.no_grad()
def largest_difference(path: Path, module: EPICModule) -> float:
    """Between the probabilities of a program on disk and of ``predict_step``, in any batch size."""
    program = torch.export.load(path).module()
    differences = []
    for seed, (rows, tokens) in enumerate(_COMPARED, start=1):
        inputs = random_inputs(module.model, picture_size(module), rows, tokens, seed)
        batch: Any = dict(zip(INPUTS, inputs, strict=True))
        batch["sample_id"] = [str(row) for row in range(rows)]
        expected = module.predict_step(batch, 0)["probabilities"]
        differences.append((program(*inputs) - expected).abs().max())
    return float(torch.stack(differences).max())
