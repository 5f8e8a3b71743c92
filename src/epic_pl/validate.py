"""Checks that cost nothing beside training and are made before it.

Shape legend: B batch, C classes.
"""

from collections.abc import Sequence
from math import inf

from torch import Tensor

from epic_pl.errors import ConfigError, DataError
from epic_pl.types import Batch, Task

_OF_EACH_SAMPLE = ("pixel_values", "input_ids", "image_present", "text_present")


def check_classes(
    num_classes: int,
    task: Task,
    *,
    class_names: Sequence[str] | None = None,
    frequencies: Sequence[float] | None = None,
) -> None:
    """Look whether the number of classes agrees with what is named and counted.

    Raises:
        ConfigError: if not.
    """
    if num_classes < 2:
        way_out = ""
        if task == "multilabel":
            way_out = " Whether one label holds is a question of two classes: give both as labels."
        raise ConfigError(f"num_classes is {num_classes}: {task} needs at least 2.{way_out}")
    _check_length("class_names", class_names, num_classes)
    _check_length("class_frequencies", frequencies, num_classes)


def _check_length(name: str, values: Sequence[object] | None, num_classes: int) -> None:
    if values is not None and len(values) != num_classes:
        raise ConfigError(
            f"num_classes is {num_classes}, but {name} has {len(values)} entries. Let the "
            "DataModule give both, or make them agree."
        )


def check_loss(
    num_classes: int,
    task: Task,
    class_weights: Sequence[float] | None,
    pos_weight: Sequence[float] | None,
    focal_gamma: float,
) -> None:
    """Look whether the options of the loss fit the task.

    Raises:
        ConfigError: if not.
    """
    for name, weights, of in (
        ("class_weights", class_weights, "multiclass"),
        ("pos_weight", pos_weight, "multilabel"),
    ):
        _check_length(name, weights, num_classes)
        if weights is not None and task != of:
            other = "pos_weight" if of == "multiclass" else "class_weights"
            raise ConfigError(
                f"{name} is for {of} tasks, but this one is {task}: use {other} instead."
            )
        if weights is not None and not all(0 <= weight < inf for weight in weights):
            raise ConfigError(f"{name} must hold finite numbers of at least 0, got {weights}.")
    if not 0 <= focal_gamma < inf:
        raise ConfigError(f"focal_gamma must be finite and at least 0, got {focal_gamma}.")


def check_training(class_name_scale: float, warmup: float, pooled_loss: float) -> None:
    """Look whether the options of :class:`epic_pl.module.EPICModule` are what they can be.

    Raises:
        ConfigError: if not.
    """
    for name, value in (("class_name_scale", class_name_scale), ("pooled_loss", pooled_loss)):
        if value < 0:
            raise ConfigError(f"{name} is at least 0, not {value}.")
    if not 0 <= warmup <= 1:
        raise ConfigError(f"warmup is a share of all steps, from 0 to 1, not {warmup}.")


def check_batch(batch: Batch, task: Task, num_classes: int) -> None:
    """Look whether a batch is what :class:`epic_pl.types.Batch` says, labels included.

    Raises:
        DataError: naming the key, shape or label that is wrong.
    """
    for key, stored in (
        ("pixel_values", "image_features"),
        ("input_ids", "text_features"),
        ("attention_mask", None),
    ):
        if key not in batch and stored not in batch:
            raise DataError(
                f"The batch has no {key!r}: epic_pl.types.Batch says what it must hold."
            )
    size = len(batch["attention_mask"])
    for key, value in batch.items():
        if key in _OF_EACH_SAMPLE and isinstance(value, Tensor) and value.shape[:1] != (size,):
            raise DataError(
                f"{key} has shape {tuple(value.shape)}, but attention_mask is of {size} samples."
            )
    if "labels" not in batch:
        raise DataError("The batch has no labels, so there is no loss: use predict for such data.")
    labels = batch["labels"]
    expected = (size, num_classes) if task == "multilabel" else (size,)
    if tuple(labels.shape) != expected:
        raise DataError(
            f"labels have shape {tuple(labels.shape)}, but {task} with {num_classes} classes needs "
            f"{expected}."
        )
    highest = 1 if task == "multilabel" else num_classes - 1
    if labels.min() < 0 or labels.max() > highest:
        raise DataError(
            f"A label of this batch is {int(labels.min())} or {int(labels.max())}, outside 0 to "
            f"{highest}: num_classes ({num_classes}) does not match the data."
        )
