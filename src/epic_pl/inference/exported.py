"""Models in folders that ``epic-pl export`` wrote.

Shape legend: B batch, C classes.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.data.readers import read_json
from epic_pl.errors import CheckpointError, ConfigError, DataError
from epic_pl.module.outputs import warn_of_absence
from epic_pl.part_files import digest_of
from epic_pl.types import Batch, Task

DESCRIPTION, TOKENIZER = "model.json", "tokenizer"
PROGRAM, ONNX, ONNX_INT8 = "model.pt2", "model.onnx", "model.int8.onnx"
INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_present", "text_present")
"""Inputs of an exported model, in this order."""
Program = Callable[..., Tensor]
"""A function of tensors in the order of :data:`INPUTS` to probabilities ``(B, C)``."""


def load_program(path: Path) -> Program:
    """An exported file as a function; a ``.pt2`` file can run code.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: the file cannot be read.
    """
    try:
        if path.name == PROGRAM:
            return torch.export.load(path).module()
        return _load_onnx(path)
    except ImportError as error:
        raise ConfigError(
            f"{path} is run by onnxruntime: pip install onnxruntime, or 'epic_pl[onnx]'."
        ) from error
    except Exception as error:  # damaged files cause errors of any class
        raise CheckpointError(f"{path} cannot be read as an exported model: {error}.") from error


def _load_onnx(path: Path) -> Program:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def run_batch(program: Program, batch: Batch) -> Tensor:
    """Probabilities ``(B, C)`` of a batch on the CPU."""
    complete = torch.ones(len(batch["attention_mask"]), dtype=torch.bool)
    return program(*(batch.get(name, complete) for name in INPUTS))


class ExportedModel:
    """A folder that ``epic-pl export`` wrote, run on the CPU.

    Args:
        folder: the folder. Of several models the ONNX one is loaded, else the quantised one.
        programs: prefer the program for ``torch.export.load``, which can run code.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: onnxruntime is needed and not installed, or ``programs`` is needed.
    """

    def __init__(self, folder: Path, programs: bool = False) -> None:
        self.folder = folder
        try:
            about = read_json(folder / DESCRIPTION)
            self.class_names: list[str] = list(about["class_names"])
            self.task: Task = about["task"]
            thresholds = about["thresholds"]
            self.preprocessing: Mapping[str, Any] | None = about["preprocessing"]
            self.method: str = about["method"]
            self.encoders = {side: about[f"{side}_encoder"]["name"] for side in ("image", "text")}
            self.never_missing: list[str] = list(about["never_missing"])
        except (DataError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{folder} does not hold an exported model: {error}. Export it again."
            ) from error
        self.thresholds = None if thresholds is None else np.asarray(thresholds, np.float32)
        names = (*[PROGRAM] * programs, ONNX, ONNX_INT8, PROGRAM)
        file = next((folder / name for name in names if (folder / name).is_file()), folder / ONNX)
        if file.name == PROGRAM and not programs:
            raise ConfigError(f"{file} can run code: load it with programs=True if you trust it.")
        self._program = load_program(file)
        self._warned_of: set[str] = set()
        self._files = (folder / DESCRIPTION, file)

    @property
    def digest(self) -> str:
        """A hash of the model's files."""
        return digest_of(*(hashlib.sha256(file.read_bytes()).digest() for file in self._files))

    def tokenizer(self) -> Any:
        """The text encoder's tokenizer."""
        return load_tokenizer(str(self.folder / TOKENIZER))

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities ``(B, C)`` of a batch; warns as :func:`warn_of_absence` says."""
        warn_of_absence(batch, self.class_names, lambda: self.never_missing, self._warned_of)
        probabilities: npt.NDArray[np.float32] = run_batch(self._program, batch).numpy()
        return probabilities
