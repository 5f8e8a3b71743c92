"""The folder of an exported model: written beside its place, verified, then moved.

Shape legend: B batch, S text tokens.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from epic_pl.errors import ConfigError
from epic_pl.evaluation.export.description import describe, picture_size
from epic_pl.evaluation.export.program import INPUTS, Classifier, export_program, random_inputs
from epic_pl.module import EPICModule

PROGRAM = "model.pt2"
DESCRIPTION = "model.json"
TOKENIZER = "tokenizer"
TOLERANCE = 1e-4
"""Largest accepted difference between a probability of the program and the module's."""
# B and S of the batches that are compared; the traced inputs have other sizes
_COMPARED = ((3, 8), (1, 2), (4, 3))


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
    """Write program, description and tokenizer of a module; other files in the folder stay.

    The module is on the CPU, in evaluation mode. Returns the largest difference between a
    probability of the written program and the module's.

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
    """Between the probabilities of a program on disk and of ``predict_step``.

    The batches have several sizes, and absent pictures and texts among them.
    """
    program = torch.export.load(path).module()
    differences = []
    for seed, (rows, tokens) in enumerate(_COMPARED, start=1):
        inputs = random_inputs(module.model, picture_size(module), rows, tokens, seed)
        batch: Any = dict(zip(INPUTS, inputs, strict=True))
        batch["sample_id"] = [str(row) for row in range(rows)]
        expected = module.predict_step(batch, 0)["probabilities"]
        differences.append((program(*inputs) - expected).abs().max())
    return float(torch.stack(differences).max())
