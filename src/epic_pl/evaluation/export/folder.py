"""An exported model's folder: written beside its place, compared with the module, then moved.

Shape legend: B batch, S text tokens, H, W picture height and width in pixels.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from epic_pl.errors import ConfigError
from epic_pl.evaluation.export.description import describe, picture_size
from epic_pl.evaluation.export.program import INPUTS, Classifier, export_program, random_inputs
from epic_pl.module import EPICModule
from epic_pl.types import Batch

PROGRAM = "model.pt2"
DESCRIPTION = "model.json"
TOKENIZER = "tokenizer"
TOLERANCE = 1e-4
"""By how much an exported probability may differ from the module's."""
# B and S of what is compared: neither is that of the traced inputs
_COMPARED = ((3, 8), (1, 2), (4, 3))


def check_output(folder: Path, overwrite: bool) -> None:
    """Look whether a model may be written into ``folder``, before anything is loaded.

    Raises:
        ConfigError: if it is a file, or holds something and ``overwrite`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: give a folder, or one yet to be made.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"--output {folder} is not empty: give another folder, or --overwrite to replace the "
            "model in it."
        )


def write_folder(module: EPICModule, tokenizer: Any | None, folder: Path) -> float:
    """Write program, description and tokenizer of a module; what else is in the folder stays.

    Args:
        module: on the CPU, in evaluation mode.
        tokenizer: of its text encoder, if it has one.
        folder: made if need be.

    Returns:
        The largest difference between a probability of the written program and the module's.

    Raises:
        ConfigError: if the model cannot be exported, or the program gives other probabilities;
            the folder is then as it was.
    """
    with _beside(folder) as made:
        classifier = Classifier(module.model, module.postprocessor)
        program = export_program(classifier, picture_size(module))
        torch.export.save(program, made / PROGRAM)
        described = json.dumps(describe(module, tokenizer), indent=2, ensure_ascii=False)
        (made / DESCRIPTION).write_text(described + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(made / TOKENIZER)
        difference = largest_difference(made / PROGRAM, module)
        if not difference <= TOLERANCE:  # NaN is none
            raise ConfigError(
                f"The exported model's probabilities differ from the checkpoint's by "
                f"{difference:.1e}, more than {TOLERANCE:.0e}: nothing was written to {folder}. "
                "Use the checkpoint in Python instead, with EPICModule.load_from_checkpoint."
            )
        _move(made, folder)
    return difference


@torch.no_grad()
def largest_difference(path: Path, module: EPICModule) -> float:
    """Between probabilities of a program on the disk and of a module, over batches of many shapes.

    Absent pictures and texts are among them.
    """
    program = torch.export.load(path).module()
    classifier = Classifier(module.model, module.postprocessor)
    differences = []
    for seed, (rows, tokens) in enumerate(_COMPARED, start=1):
        inputs = random_inputs(classifier, picture_size(module), rows, tokens, seed)
        batch = Batch(**dict(zip(INPUTS, inputs, strict=True)))  # type: ignore[typeddict-item]  # keys of it
        expected = module.postprocessor(module.model(batch))
        differences.append((program(*inputs) - expected).abs().max())
    return float(torch.stack(differences).max())


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder on the same disk for what is not finished."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        yield Path(made)


def _move(made: Path, folder: Path) -> None:
    """Put what was made in place of what is there by the same name."""
    folder.mkdir(exist_ok=True)
    stale = folder / TOKENIZER
    if stale.is_dir():
        shutil.rmtree(stale)
    for path in sorted(made.iterdir()):
        path.replace(folder / path.name)
