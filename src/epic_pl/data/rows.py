"""Rows of a dataset as an Arrow table, checked once.

Arrow stores rows in flat buffers without a Python object per row, so forked loader workers share
the table's memory. Messages count rows from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.utils.errors import DataError

_SHOWN = 5  # rows named in a message


@dataclass(frozen=True)
class Rows:
    """Rows of one split, or of all splits of a table.

    Attributes:
        table: as :func:`sample_table` makes it.
        image_root: folder of the images.
        source: file or folder that the rows were read from; named in messages.
        classes: class names.
        notes: counts to log, such as ``{"rows without a text": 3}``.
    """

    table: pa.Table
    image_root: Path
    source: Path
    classes: Sequence[str] = ()
    notes: Mapping[str, int] = field(default_factory=dict)


def table_schema(multilabel: bool = False) -> pa.Schema:
    """The columns of a sample table, as :func:`sample_table` describes them."""
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("image", pa.string()),
            pa.field("text", pa.string()),
            pa.field("label", pa.list_(pa.int64()) if multilabel else pa.int64()),
        ]
    )


def sample_table(
    sample_ids: Sequence[str],
    images: Sequence[str | None],
    texts: Sequence[str | None],
    labels: Sequence[Any],
    multilabel: bool = False,
) -> pa.Table:
    """Build and check a table of samples.

    Args:
        sample_ids: ids of the rows, unique within a split.
        images: paths relative to the image root, None if the image is absent.
        texts: texts, None if absent; an empty string is a text that is present.
        labels: class indices, or lists of them if ``multilabel``; None if unknown.
        multilabel: whether a label is a list.

    Raises:
        DataError: columns of different lengths or wrong types, duplicate ids, or negative labels.
    """
    columns = {"sample_id": sample_ids, "image": images, "text": texts, "label": labels}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"The columns of a table must be of one length, got {lengths}.")
    schema = table_schema(multilabel)
    arrays = [_column(field, columns[field.name]) for field in schema]
    table = pa.table(arrays, schema=schema)
    _check_ids(table["sample_id"].combine_chunks())
    _check_labels(table)
    return table


def empty_rows(table: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows with neither image nor text."""
    return pc.and_(pc.is_null(table["image"]), pc.is_null(table["text"]))


def describe_rows(mask: Any, values: Any = None) -> str:
    """Where a mask is true, such as ``row 3`` or ``rows 3 ('cat'), 8 ('dog') and 4 more``."""
    rows = true_rows(mask)
    named = [
        f"{row}" if values is None else f"{row} ({values[int(row)].as_py()!r})"
        for row in rows[:_SHOWN]
    ]
    more = f" and {rows.size - _SHOWN:,} more" if rows.size > _SHOWN else ""
    return f"row{'s' if rows.size > 1 else ''} {', '.join(named)}{more}"


def true_rows(mask: Any) -> npt.NDArray[np.int64]:
    """Indices where an Arrow or numpy mask is true; null counts as false."""
    mask = mask if isinstance(mask, pa.Array | pa.ChunkedArray) else pa.array(mask)
    return np.flatnonzero(np.asarray(pc.fill_null(mask, False)))


def _column(field: pa.Field, values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    try:
        if field.name != "label" and not isinstance(values, pa.Array):
            return pa.array(values, type=field.type)
        # given the type, Arrow would cut 1.5 to 1; a checked cast does not
        array = values if isinstance(values, pa.Array) else pa.array(values)
        if field.name == "label" and "string" in str(array.type):
            raise pa.ArrowInvalid(f"labels are class indices, not {array.type}")
        return array.cast(field.type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"Column {field.name!r} must hold {field.type}, but a value does not fit: {error}. "
            "Correct that value, or use None for one that is absent."
        ) from error


def _check_ids(ids: pa.Array) -> None:
    if ids.null_count:
        raise DataError(
            f"Every row needs a sample id, but there is none in {describe_rows(pc.is_null(ids))}."
        )
    codes = ids.dictionary_encode().indices.to_numpy()
    doubled = np.bincount(codes)[codes] > 1
    if doubled.any():
        raise DataError(
            f"Sample ids are not unique: {describe_rows(doubled, ids)}. Give each row its own id, "
            "or drop the repeated rows."
        )


def _check_labels(table: pa.Table) -> None:
    label = table["label"].combine_chunks()
    if pa.types.is_list(label.type):
        values, rows_of = pc.list_flatten(label), pc.list_parent_indices(label).to_numpy()
        if values.null_count:
            raise DataError(
                f"A label list holds a null: row {rows_of[true_rows(values.is_null())[0]]}."
            )
    else:
        values, rows_of = label, np.arange(len(label))
    at = true_rows(pc.less(values, 0))
    if at.size:
        raise DataError(
            f"Labels must be at least 0, but that of row {rows_of[at[0]]} is "
            f"{values[int(at[0])].as_py()} ({at.size} such). Use None for an unknown label."
        )


def class_counts(labels: pa.ChunkedArray, num_classes: int) -> npt.NDArray[np.int64]:
    """Rows of each class ``(C,)``; a multilabel row counts for each of its classes."""
    flat = pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels.drop_null()
    return np.bincount(flat.to_numpy().astype(np.int64), minlength=num_classes)
