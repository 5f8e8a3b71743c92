"""Models in folders that ``epic-pl export`` wrote, for inference.

Shape legend: B batch, C classes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from packaging.version import Version
from torch import Tensor

from epic_pl.data.preprocessing import Preprocessing
from epic_pl.data.pretrained import load_tokenizer
from epic_pl.data.processor import Processor
from epic_pl.inference.description import DESCRIPTION, INPUTS, TOKENIZER, Description
from epic_pl.utils.errors import CheckpointError, ConfigError, needs_extra, raised_as
from epic_pl.utils.types import Batch

ONNX, ONNX_INT8 = "model.onnx", "model.int8.onnx"
_SAFE = "1.24.1"  # earlier versions of onnxruntime follow paths and links out of a model's folder
Program = Callable[..., Tensor]
"""A function of the inputs of an exported model to probabilities ``(B, C)``."""


def load_program(path: Path) -> Program:
    """Load an exported file as a function.

    Raises:
        ConfigError: if onnxruntime is not installed, or too old to be safe.
        CheckpointError: if the file cannot be read.
    """
    with needs_extra("onnx", str(path)):
        import onnxruntime
    if Version(onnxruntime.__version__) < Version(_SAFE):
        unsafe = f"onnxruntime {onnxruntime.__version__} reads any file that a model names"
        raise ConfigError(f"{unsafe}: pip install 'onnxruntime>={_SAFE}'.")
    with raised_as(CheckpointError, f"{path} is damaged", "Export the model again."):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        names = (*INPUTS, "columns")[: len(inputs)]
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def run_batch(program: Program, batch: Batch) -> Tensor:
    """Probabilities ``(B, C)`` of a batch on the CPU."""
    complete = torch.ones(len(batch["attention_mask"]), dtype=torch.bool)
    columns = [batch["columns"]] if "columns" in batch else []
    return program(*(batch.get(name, complete) for name in INPUTS), *columns)


class ExportedModel:
    """A model in a folder that ``epic-pl export`` wrote; it runs on the CPU.

    Args:
        folder: the folder; its quantised model is used only if there is no other.

    Raises:
        CheckpointError: if a file is missing or damaged.
        ConfigError: if onnxruntime is not installed, or too old to be safe.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = Description.read(folder)
        self.class_names, self.task, self.method = about.class_names, about.task, about.method
        self._preprocessing, self.never_missing = about.preprocessing, about.never_missing
        self.encoders = {"image": about.image_encoder["name"], "text": about.text_encoder["name"]}
        least = about.thresholds
        self.thresholds = None if least is None else np.asarray(least, np.float32)
        file = folder / ONNX if (folder / ONNX).is_file() else folder / ONNX_INT8
        self._file, self._program = file, load_program(file)
        token = torch.ones(1, 2, dtype=torch.long)
        pixels = torch.zeros(1, *about.inputs["pixel_values"]["shape"][1:])
        batch = Batch(pixel_values=pixels, input_ids=token, attention_mask=token)
        if "columns" in about.inputs:
            batch["columns"] = torch.zeros(1, about.inputs["columns"]["shape"][1])
        shape = self.probabilities(batch).shape
        if shape != (1, len(self.class_names)):
            raise CheckpointError(
                f"{folder / DESCRIPTION}: class_names has {len(self.class_names)} entries, but "
                f"{file} gives probabilities of shape {shape}. Export the model again."
            )

    @property
    def digest(self) -> str:
        """A hash of all files of the folder, with their names."""
        whole = hashlib.sha256()
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                whole.update(str(path.relative_to(self.folder)).encode())
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def processor(self) -> Processor:
        """The processor that makes batches as in training."""
        image, text, columns = Preprocessing.from_dict(self._preprocessing)
        tokenizer = load_tokenizer(str(self.folder / TOKENIZER))
        return Processor(image, text, tokenizer, self.task, len(self.class_names), columns)

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities ``(B, C)`` of a batch."""
        with raised_as(CheckpointError, f"{self._file} cannot be run", "Export the model again."):
            probabilities: npt.NDArray[np.float32] = run_batch(self._program, batch).numpy()
        return probabilities
