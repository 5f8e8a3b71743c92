"""The rows of a dataset as an Arrow table, which is checked once.

Arrow stores rows in flat buffers without a Python object per row, so forked loader workers share
the table's memory. Messages count rows from 0.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.utils.errors import DataError, raised_as
from epic_pl.utils.types import Task

_SHOWN = 5  # number of rows that a message names


@dataclass(frozen=True)
class Rows:
    """Rows of one split, or of all splits of a table.

    Attributes:
        table: table of the rows, made by :func:`sample_table`.
        image_root: folder that image paths are relative to.
        source: file or folder that the rows were read from; messages name it.
        classes: class names.
        notes: counts to log, such as ``{"rows without a text": 3}``.
    """

    table: pa.Table
    image_root: Path
    source: Path
    classes: Sequence[str] = ()
    notes: Mapping[str, int] = field(default_factory=dict)


def table_schema(multilabel: bool = False) -> pa.Schema:
    """The schema of the tables that :func:`sample_table` makes."""
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
    columns: pa.StructArray | None = None,
) -> pa.Table:
    """Build and check a table of samples.

    Args:
        sample_ids: ids of the rows, unique within a split.
        images: paths relative to the image root; None for a missing image.
        texts: texts; None for a missing text. An empty string counts as present.
        labels: class indices, or lists of them if ``multilabel``; None for an unknown label.
        multilabel: whether labels are lists.
        columns: structs of floats and strings, whose fields become keys of the batch.

    Raises:
        DataError: if columns differ in length, have a wrong type, or ids are repeated.
    """
    own = {"sample_id": sample_ids, "image": images, "text": texts, "label": labels}
    lengths = {name: len(column) for name, column in own.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"The columns of a table must be of one length, got {lengths}.")
    schema = table_schema(multilabel)
    arrays = [_column(field, own[field.name]) for field in schema]
    table = pa.table(arrays, schema=schema)
    _check_ids(table["sample_id"].combine_chunks())
    return table if columns is None else table.append_column("columns", columns)


def rows_digest(table: pa.Table) -> str:
    """SHA-256 of ids, paths, texts and labels of the rows."""
    digest = hashlib.sha256(str(len(table)).encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=10_000):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()


def empty_rows(table: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows with neither image nor text."""
    return pc.and_(pc.is_null(table["image"]), pc.is_null(table["text"]))


def refuse_rows(mask: Any, problem: str, way_out: str, values: Any = None) -> None:
    """Refuse the rows of a mask, if any: "PROBLEM rows 3 ('cat'), 8 ('dog') and 4 more. WAY OUT".

    Raises:
        DataError: if a row is in the mask; with its cell of ``values``, unless None.
    """
    rows = true_rows(mask).tolist()
    if rows:
        named = list(map(str, rows[:_SHOWN]))
        if values is not None:
            named = [f"{row} ({values[int(row)].as_py()!r})" for row in named]
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        noun = "rows" if len(rows) > 1 else "row"
        raise DataError(f"{problem} {noun} {', '.join(named)}{more}. {way_out}")


def true_rows(mask: Any) -> npt.NDArray[np.int64]:
    """Indices of the true entries of an Arrow or numpy mask; null counts as false."""
    mask = mask if isinstance(mask, pa.Array | pa.ChunkedArray) else pa.array(mask)
    return np.flatnonzero(np.asarray(pc.fill_null(mask, False)))


def _column(field: pa.Field, values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    with raised_as(DataError, f"Column {field.name!r} must hold {field.type} or None"):
        if field.name != "label" and not isinstance(values, pa.Array):
            return pa.array(values, type=field.type)
        # construction with a type would cut 1.5 to 1; a checked cast refuses it
        array = values if isinstance(values, pa.Array) else pa.array(values)
        if field.name == "label" and "string" in str(array.type):
            raise pa.ArrowInvalid(f"labels are class indices, not {array.type}")
        return array.cast(field.type)


def _check_ids(ids: pa.Array) -> None:
    refuse_rows(pc.is_null(ids), "There is no sample id in", "Fill it in.")
    codes = ids.dictionary_encode().indices.to_numpy()
    refuse_rows(np.bincount(codes)[codes] > 1, "Sample ids are not unique:", "Change them.", ids)


def check_labels(rows: Rows, num_classes: int, task: Task) -> None:
    """Check the labels of a split, once for all batches.

    Raises:
        DataError: if labels are lists in a multiclass task or no lists in a multilabel one, a list
            has a null, or a label is no class index.
    """
    label = rows.table["label"].combine_chunks()
    values, ids = label, rows.table["sample_id"]
    if several := pa.types.is_list(label.type):
        values, ids = pc.list_flatten(label), ids.take(pc.list_parent_indices(label))
    out = pc.or_(pc.less(values, 0), pc.greater_equal(values, num_classes))
    at = true_rows(pc.fill_null(out, several))  # null is an error within lists only
    if several != (task == "multilabel") and len(label) > label.null_count:
        at = np.arange(len(values))
    if at.size:
        row, takes = int(at[0]), "lists of class indices" if task == "multilabel" else "an index"
        raise DataError(
            f"{rows.source}: sample {ids[row].as_py()!r} has label {values[row].as_py()} "
            f"({at.size:,} such); {task} takes {takes} in 0..{num_classes - 1}."
        )


def class_counts(labels: pa.ChunkedArray, num_classes: int) -> npt.NDArray[np.int64]:
    """Number of rows of each class ``(C,)``; a multilabel row counts for each of its classes."""
    flat = pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels.drop_null()
    return np.bincount(flat.to_numpy().astype(np.int64), minlength=num_classes)
