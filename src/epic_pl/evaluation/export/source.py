"""The trained module to export, and its tokenizer."""

from typing import Any

from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.errors import AssetError, EncoderError
from epic_pl.evaluation.export.description import image_preprocessing_of
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint, require_info


def load_module(
    path: str, image_encoder: str | None = None, text_encoder: str | None = None
) -> EPICModule:
    """Load a checkpoint on the CPU, in evaluation mode; encoders that moved are named.

    Raises:
        CheckpointError: if the file is no checkpoint of ours, or an encoder is another one.
    """
    checkpoint = read_checkpoint(path)
    require_info(checkpoint)
    encoders = checkpoint["hyper_parameters"]["encoders"]
    for side, name in (("image", image_encoder), ("text", text_encoder)):
        encoders[side]["name"] = name or encoders[side]["name"]
    return EPICModule.load_from_checkpoint(path, map_location="cpu", encoders=encoders).eval()


def find_tokenizer(module: EPICModule) -> Any | None:
    """Tokenizer of the text encoder; None if it has none and the texts were not ours to tokenize.

    Raises:
        EpicError: if a DataModule of this package needs a tokenizer that is not there.
    """
    encoder = module.checkpoint_info()["text_encoder"]
    try:
        return load_tokenizer(encoder["name"], encoder["revision"])
    except (AssetError, EncoderError) as error:
        if image_preprocessing_of(module) is not None:
            raise
        print(f"exported without a tokenizer: {error}")
        return None
