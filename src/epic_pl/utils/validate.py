"""Checks of options and batches before training.

Shape legend: B batch, C classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from errno import EISDIR
from math import inf
from pathlib import Path
from sys import float_info
from tempfile import NamedTemporaryFile
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch
from torch import Tensor

from epic_pl.utils.errors import ConfigError, DataError, did_you_mean, raised_as
from epic_pl.utils.types import Batch, Task

_OF_EACH_SAMPLE = ("pixel_values", "input_ids", "image_present", "text_present")


def check_choices(config: Any) -> None:
    """Raise ConfigError for the first option of a config that is none of its Literal's words."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal:
            check_type(kind, name, getattr(config, name))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has an annotated type.

    Booleans do not count as numbers, numbers must be finite, and a dictionary of a TypedDict must
    have exactly its keys.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        same = isinstance(value, dict) and value.keys() == hints.keys()
        return same and all(fits(value[key], hint) for key, hint in hints.items())
    if origin in (list, tuple):
        return type(value) is origin and all(fits(entry, inner[0]) for entry in value)
    if origin is dict:
        entries = value.items() if type(value) is dict else [(None, None)]
        return all(fits(key, inner[0]) and fits(entry, inner[1]) for key, entry in entries)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(type(value) is type(word) and value == word for word in inner)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= float_info.max  # also of an int
    return kind is Any or type(value) is kind


def check_type(kind: Any, name: str, value: Any) -> None:
    """Raise ConfigError if the value of an option does not have its annotated type."""
    words = get_args(kind)
    if get_origin(kind) is Literal and isinstance(words[0], str):
        check_word(words, **{name: value})
    elif not fits(value, kind):
        kind = kind if get_args(kind) else getattr(kind, "__name__", kind)
        finite = ", and finite" if kind == "float" else ""
        raise ConfigError(f"{name} is {value!r:.60}, but must be of type {kind}{finite}.")


def check_types(config: Any) -> None:
    """Raise ConfigError for the first value of a config that does not have its annotated type."""
    for name, kind in get_type_hints(type(config)).items():
        check_type(kind, name, getattr(config, name))


def check_at_least(least: int, **options: float | None) -> None:
    """Raise ConfigError if an option is smaller than ``least``; None is allowed."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")


def check_word(known: Sequence[str], **options: str) -> None:
    """Raise ConfigError if an option is none of the known words."""
    for name, word in options.items():
        if word not in known:
            meant = did_you_mean(str(word), known)
            raise ConfigError(f"{name} must be one of {', '.join(known)}; got {word!r}.{meant}")


def check_probabilities(config: Any, *names: str) -> None:
    """Raise ConfigError for the first of these options that is no probability."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name} is a probability, not {getattr(config, name)}.")


def check_positive(config: Any, *names: str) -> None:
    """Raise ConfigError for the first of these options that is not above zero and finite."""
    for name in names:
        if not 0 < getattr(config, name) < inf:
            raise ConfigError(f"{name} must be positive and finite, not {getattr(config, name)}.")


def check_classes(num_classes: int, task: Task, class_names: Sequence[str] | None) -> None:
    """Raise ConfigError unless the number of classes agrees with their names."""
    if num_classes < 2:
        way_out = ""
        if task == "multilabel":
            way_out = " Whether one label holds is a question of two classes: give both as labels."
        raise ConfigError(f"num_classes is {num_classes}: {task} needs at least 2.{way_out}")
    check_length("class_names", class_names, num_classes)
    names = list(class_names or ())
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"class_names is {class_names!r:.60}, but must be a list of texts.")
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise ConfigError(f"class_names has {name!r} twice: give each class its own name.")
    if task == "multilabel" and (barred := [name for name in names if "|" in name]):
        raise ConfigError(f"Predictions join labels by |: rename the class {barred[0]!r}.")


def check_length(name: str, values: Sequence[object] | None, num_classes: int) -> None:
    """Raise ConfigError if ``values``, unless None, are not as many as the classes."""
    if values is not None and len(values) != num_classes:
        raise ConfigError(f"num_classes is {num_classes}, but {name} has {len(values)} entries.")


def check_writable(option: str, folder: Path, name: str) -> None:
    """Make a folder; raise ConfigError unless a file with such a name can be written there."""
    problem = f"{option}: {name} cannot be written to {folder}"
    with raised_as(ConfigError, problem, "Choose another folder.", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=f".{name}."):
            if (folder / name).is_dir():
                raise OSError(EISDIR, "there is a folder of this name")


def check_batch(
    batch: Batch, task: Task, num_classes: int, size: tuple[int, int] | None = None
) -> None:
    """Raise DataError if a batch does not fit :class:`Batch` or the model, or lacks labels."""
    if not isinstance(batch, Mapping):
        raise DataError(f"A batch is a {type(batch).__name__}, not a dictionary.")
    stored = {"pixel_values": "image_features", "input_ids": "text_features"}
    for key in (*stored, "attention_mask"):
        if key not in batch and stored.get(key) not in batch:
            raise DataError(f"The batch has no {key!r}: see epic_pl.utils.types.Batch.")
    count = len(batch["attention_mask"])
    for key, value in batch.items():
        if key in _OF_EACH_SAMPLE and isinstance(value, Tensor) and value.shape[:1] != (count,):
            raise DataError(f"{key} has shape {tuple(value.shape)}, but there are {count} samples.")
    shape = tuple(batch["pixel_values"].shape) if "pixel_values" in batch else None
    if shape is not None and shape != (takes := (count, 3, *(size or shape[2:]))):
        raise DataError(f"pixel_values have shape {shape}, not {takes}: set encoders.image_size.")
    if "labels" not in batch:
        raise DataError("The batch has no labels, so there is no loss: use predict for such data.")
    labels = batch["labels"]
    expected = (count, num_classes) if task == "multilabel" else (count,)
    if tuple(labels.shape) != expected:
        raise DataError(f"labels have shape {tuple(labels.shape)}, but {task} needs {expected}.")
    if task == "multiclass" and labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}, but multiclass needs indices, torch.int64.")
    highest = 1 if task == "multilabel" else num_classes - 1
    right = (labels == 0) | (labels == 1) if highest == 1 else (labels >= 0) & (labels <= highest)
    if not right.all():
        row = int((~right).nonzero()[0, 0])
        sample, label = batch.get("sample_id", range(count))[row], labels[~right][0].item()
        problem = f"Sample {sample!r} has label {label}, but {task} labels go from 0 to {highest}"
        raise DataError(f"{problem}: correct it, or num_classes ({num_classes}).")
