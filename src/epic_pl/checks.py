"""Checks that cost nothing beside training and are made before it.

Shape legend: B batch, C classes.
"""

from epic_pl.errors import ConfigError, DataError
from epic_pl.objectives import Task
from epic_pl.types import Batch


def check_classes(
    num_classes: int, class_names: list[str] | None, pos_weight: list[float] | None, task: Task
) -> None:
    """Look whether the number of classes agrees with what is named and weighted.

    Raises:
        ConfigError: if not.
    """
    if num_classes < 1 or (task == "multiclass" and num_classes < 2):
        raise ConfigError(f"num_classes is {num_classes}: {task} needs at least two to tell apart.")
    for name, values in (("class_names", class_names), ("pos_weight", pos_weight)):
        if values is not None and len(values) != num_classes:
            raise ConfigError(
                f"num_classes is {num_classes}, but {name} has {len(values)} entries. Let the "
                "DataModule give both, or make them agree."
            )


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
    if "labels" not in batch:
        raise DataError("The batch has no labels, so there is no loss: use predict for such data.")
    labels = batch["labels"]
    size = len(batch["attention_mask"])
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
