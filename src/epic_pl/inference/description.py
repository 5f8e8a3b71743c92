"""``model.json``, the description of an exported model, which writer and reader both check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from epic_pl.data.preprocessing import Preprocessing
from epic_pl.module.checkpoint import EncoderIdentity
from epic_pl.module.postprocess import check_calibration
from epic_pl.utils.errors import CheckpointError, ConfigError, DataError
from epic_pl.utils.files import read_json
from epic_pl.utils.types import Modality, Task
from epic_pl.utils.validate import check_classes, check_types, check_word

DESCRIPTION, TOKENIZER = "model.json", "tokenizer"
INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_present", "text_present")
"""Inputs of an exported model, in this order; ``columns`` follow if it reads any."""


@dataclass(frozen=True)
class Description:
    """The description of an exported model for its users, in plain types.

    Attributes:
        format_version: version of the file's format.
        task: "multiclass" or "multilabel".
        class_names: names of the C classes.
        thresholds: C minimum probabilities of a multilabel task, else None.
        temperature: number that divides the logits.
        method: name of the method.
        never_missing: modalities that every training sample had.
        inputs: shape and type of each of :data:`INPUTS`, from :func:`model_inputs`.
        preprocessing: input of :class:`~epic_pl.data.preprocessing.Preprocessing`; None if another
            pipeline made the training batches.
        tokenizer: folder of the tokenizer; None without one.
        image_encoder: identity of the image encoder.
        text_encoder: identity of the text encoder.
        versions: versions of the packages that wrote the model.
        own_preprocessing: preprocessing that another pipeline passed to EPICModule.

    Raises:
        ConfigError: if a value is invalid; the message names it.
    """

    format_version: Literal[1]
    task: Task
    class_names: list[str]
    thresholds: list[float] | None
    temperature: float
    method: str
    never_missing: list[str]
    inputs: dict[str, Any]
    preprocessing: dict[str, Any] | None
    tokenizer: str | None
    image_encoder: EncoderIdentity
    text_encoder: EncoderIdentity
    versions: dict[str, str]
    own_preprocessing: Any = None

    def __post_init__(self) -> None:
        check_types(self)
        check_word([TOKENIZER], tokenizer=self.tokenizer or TOKENIZER)
        for side in self.never_missing:
            check_word(get_args(Modality), never_missing=side)
        check_calibration(self.temperature, self.thresholds)
        least, count = self.thresholds, len(self.class_names)
        sound = (least is not None) == (self.task == "multilabel")
        sound = sound and len(least or self.class_names) == count > 1
        if not sound:
            problem = f"thresholds is {least!r:.60}, but class_names has {count} entries"
            raise ConfigError(f"{problem}; probabilities are for a multilabel task alone.")
        check_classes(count, self.task, self.class_names)
        try:
            height, width = self.inputs["pixel_values"]["shape"][2:]
            columns = self.inputs.get("columns", {"shape": (0,)})["shape"][-1]
            sound = self.inputs == model_inputs(height, width, columns) and min(height, width) > 0
        except (LookupError, TypeError, ValueError):
            sound = False
        if not sound:
            raise ConfigError(f"inputs is {self.inputs!r:.60}, but describes {', '.join(INPUTS)}.")
        if self.preprocessing is not None:
            image, _, known = Preprocessing.from_dict(self.preprocessing)
            if len(known.features) != columns:
                raise ConfigError(
                    f"preprocessing.columns has {len(known.features)} features, not {columns}."
                )
            for name in image.to_dict():
                if name not in self.preprocessing["image"]:
                    raise ConfigError(f"preprocessing.image has no {name}.")
            if (size := image.size, image.size) != (height, width):
                raise ConfigError(f"preprocessing.image.size is {size}, inputs {height} x {width}.")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of an exported model.

        Raises:
            CheckpointError: if it is missing or damaged; the message names file and entry.
        """
        path = folder / DESCRIPTION
        try:
            return cls(**read_json(path))
        except (DataError, ConfigError, TypeError) as error:
            said = str(error).rstrip(".")
            raise CheckpointError(f"{path}: {said}. Export the model again.") from error


def model_inputs(height: int, width: int, columns: int = 0) -> dict[str, Any]:
    """Shape and type of each input of a model.

    It is for images of this size in pixels, and ``columns`` features of a table's columns.
    """
    shapes = (["B", 3, height, width], ["B", "S"], ["B", "S"], ["B"], ["B"])
    types = ("float32", "int64", "int64", "bool", "bool")
    inputs: dict[str, Any] = {
        name: {"shape": shape, "dtype": dtype}
        for name, shape, dtype in zip(INPUTS, shapes, types, strict=True)
    }
    return inputs | ({"columns": {"shape": ["B", columns], "dtype": "float32"}} if columns else {})
