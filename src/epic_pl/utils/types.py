"""The types of dictionaries that modules of the package exchange.

Shape legend: B batch, S text tokens, H, W image height and width, C classes.
"""

from __future__ import annotations  # so that the command line's help need not import torch

from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["multiclass", "multilabel"]
"""One class a sample, or any number of labels."""

Modality = Literal["image", "text"]
"""One of the two modalities of a sample."""

SourceName = Literal["image", "text", "columns"]
"""The name of what a model may read of a sample: a modality, or the columns of its table."""

Features = dict[str, Any]
"""What a feature cache stored of a modality: a tensor for each field, batch first
(:data:`epic_pl.nn.towers.TOKEN_AXES`). On the CPU, large fields with tokens may be lists of B
tensors, each mapped from the disk and as long as its sample."""


class _Cells(TypedDict):
    sample_id: str
    text: str | None
    label: int | list[int] | None
    columns: NotRequired[dict[str, Any]]
    cells: NotRequired[dict[str, Any] | None]


class Sample(_Cells):
    """One sample of a dataset, before collation.

    ``image`` is a transformed image ``(3, H, W)`` float32, or None if it is missing; ``text`` is a
    string, or None if it is missing; ``label`` is a class index, a list of class indices
    (multilabel), or None if unknown. ``image_path`` names the image, see :class:`Batch`.
    ``columns`` are further keys of the batch: numbers, or strings that may be None. ``cells`` are
    numbers, dates and categories by column, of which a batch has the features; None if empty.
    """

    image: Tensor | None
    image_path: NotRequired[str | None]


class Row(_Cells):
    """One row of a table, of which a dataset makes a sample: ``image`` is a path.

    ``image_path`` is the same, and stays where the image is not used.
    """

    image: str | None
    image_path: str | None


class Batch(TypedDict):
    """The input of every model of this package; models read no other keys.

    * ``pixel_values (B, 3, H, W)`` float: normalised images, zeros if missing.
    * ``input_ids (B, S)`` int64: text padded to the longest of the batch.
    * ``image_features`` and ``text_features``: instead of the two above, stored features of the
      frozen encoders (:meth:`epic_pl.nn.towers.Tower.features`).
    * ``attention_mask (B, S)`` int64 or bool: 1 on real tokens, 0 on padding.
    * ``columns (B, F)`` float: features of a table's numbers, dates and categories, zeros where a
      sample has none; only for a model that reads them.
    * ``image_present (B,)`` and ``text_present (B,)`` bool: optional; without, all are present.
    * ``labels``: ``(B,)`` int64 class indices, or ``(B, C)`` float 0/1 for multilabel; absent when
      predicting.
    * ``sample_id``: list of B strings; optional outside of prediction.
    * ``image_path``: list of B strings, optional: the image's path below the image root or its id,
      empty for a row without one. Rows of one image are no independent samples.
    * ``states``: instead of images, texts and features, the towers' states before step 1, which an
      ensemble computes once for all members.
    * further keys: columns of a table, see
      :class:`~epic_pl.data.tables.datamodule.TableDataModule`.
    """

    attention_mask: Tensor
    pixel_values: NotRequired[Tensor]
    input_ids: NotRequired[Tensor]
    image_features: NotRequired[Features]
    text_features: NotRequired[Features]
    columns: NotRequired[Tensor]
    image_present: NotRequired[Tensor]
    text_present: NotRequired[Tensor]
    labels: NotRequired[Tensor]
    sample_id: NotRequired[list[str]]
    image_path: NotRequired[list[str]]
    states: NotRequired[Any]


class Prediction(TypedDict):
    """The output of a prediction step, on the CPU.

    ``probabilities (B, C)`` float32 are a softmax over classes, or for multilabel sigmoids.
    """

    sample_id: list[str]
    probabilities: Tensor
