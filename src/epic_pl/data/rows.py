"""The rows of a dataset as an Arrow table, which is checked once, and their division into splits.

Arrow stores rows in flat buffers without a Python object per row, so forked loader workers share
the table's memory. Messages count rows from 0.

Splits are seeded and stratified, and keep rows of one image together, since one image in both
training and validation would make validation scores too high.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.utils.errors import DataError, raised_as
from epic_pl.utils.types import Task

_SHOWN = 5  # number of rows that a message names

_refused: ContextVar[list[DataError] | None] = ContextVar("refused", default=None)

Indices = npt.NDArray[np.int64]
Sizes = Mapping[str, int | float]
"""Rows (int) of each part, or its share of all rows (float)."""


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
    cells: pa.StructArray | None = None,
) -> pa.Table:
    """Build and check a table of samples.

    Args:
        sample_ids: ids of the rows, unique within a split.
        images: paths relative to the image root; None for a missing image.
        texts: texts; None for a missing text. An empty string counts as present.
        labels: class indices, or lists of them if ``multilabel``; None for an unknown label.
        multilabel: whether labels are lists.
        columns: structs of floats and strings, whose fields become keys of the batch.
        cells: structs of numbers (float64), dates (date32, with their format as metadata) and
            categories (strings) that the model reads.

    Raises:
        DataError: if columns differ in length, have a wrong type, or ids are repeated.
    """
    schema = table_schema(multilabel)
    arrays = list(map(_column, schema, (sample_ids, images, texts, labels)))
    with raised_as(DataError, "The columns of a table must be of one length"):
        table = pa.table(arrays, schema=schema)
    ids = table["sample_id"].combine_chunks()
    refuse_rows(pc.is_null(ids), "There is no sample id in", "Fill it in.")
    codes = ids.dictionary_encode("encode").indices.to_numpy()
    refuse_rows(np.bincount(codes)[codes] > 1, "Sample ids are not unique:", "Change them.", ids)
    for name, structs in (("columns", columns), ("cells", cells)):
        if structs is not None:
            table = table.append_column(name, structs)
    return table


def learn_columns(cells: pa.ChunkedArray) -> ColumnPreprocessing:
    """What the ``cells`` of training rows, see :func:`sample_table`, tell of their columns."""
    known: dict[str, dict[str, Any]] = {"numbers": {}, "dates": {}, "categories": {}}
    for at, column in enumerate(cells.type):
        values = pc.struct_field(cells, at).to_pylist()
        if pa.types.is_floating(column.type):
            known["numbers"][column.name] = values
        elif pa.types.is_date(column.type):
            known["dates"][column.name] = column.metadata[b"format"].decode(), values
        else:
            known["categories"][column.name] = values
    return ColumnPreprocessing.fit(**known)


def rows_digest(table: pa.Table) -> str:
    """SHA-256 of ids, paths, texts and labels of the rows."""
    digest = hashlib.sha256(str(len(table)).encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=10_000):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()


def empty_rows(table: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows with neither image nor text."""
    return pc.and_(pc.is_null(table["image"]), pc.is_null(table["text"]))


class RowsError(DataError):
    """Some rows of a table cannot be used.

    Attributes:
        problem: what is wrong, without the rows.
        rows: indices of the rows.
        examples: the first rows, with their cells, and the way out.
    """

    problem: str
    rows: Sequence[int]
    examples: Sequence[str]


@contextmanager
def collect_refused() -> Iterator[list[DataError]]:
    """Collect the errors of :func:`refuse` in a list, instead of raising the first."""
    errors: list[DataError] = []
    token = _refused.set(errors)
    try:
        yield errors
    finally:
        _refused.reset(token)


def refuse(error: DataError) -> None:
    """Raise an error, or add it to those of :func:`collect_refused`."""
    if (errors := _refused.get()) is None:
        raise error
    errors.append(error)


def any_refused() -> bool:
    """Whether errors were collected, so that rows are incomplete."""
    return bool(_refused.get())


def refuse_rows(mask: Any, problem: str, way_out: str, values: Any = None) -> None:
    """Refuse the rows of a mask, if any: "PROBLEM rows 3 ('cat'), 8 ('dog') and 4 more. WAY OUT".

    Raises:
        RowsError: if a row is in the mask; with its cell of ``values``, unless None.
    """
    rows = true_rows(mask).tolist()
    if rows:
        named = list(map(str, rows[:_SHOWN]))
        if values is not None:
            named = [f"{row} ({values[int(row)].as_py()!r})" for row in named]
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        noun = "rows" if len(rows) > 1 else "row"
        error = RowsError(f"{problem} {noun} {', '.join(named)}{more}. {way_out}")
        error.problem, error.rows = problem, rows
        error.examples = [*(f"row {name}" for name in named), way_out]
        refuse(error)


def true_rows(mask: Any) -> Indices:
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
        row, lists = int(at[0]), "lists of " if task == "multilabel" else ""
        raise DataError(
            f"{rows.source}: sample {ids[row].as_py()!r} has label {values[row].as_py()} "
            f"({at.size:,} such); {task} takes {lists}class indices in 0..{num_classes - 1}."
        )


def class_counts(labels: pa.ChunkedArray, num_classes: int) -> Indices:
    """Number of rows of each class ``(C,)``; a multilabel row counts for each of its classes."""
    flat = pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels.drop_null()
    return np.bincount(flat.to_numpy().astype(np.int64), minlength=num_classes)


def stratified_split(
    labels: Sequence[int] | Indices, sizes: Sizes, seed: int
) -> dict[str, Indices]:
    """Divide rows so that every part has the class frequencies of the whole.

    Rows are shuffled within their class and concatenated, class after class. The parts take rows
    of this sequence in turns, in proportion to their sizes. Sizes are exact, class counts nearly.

    Args:
        labels: ``(N,)`` class indices.
        sizes: sizes of the parts; the remaining rows belong to no part.
        seed: seed of the shuffle.

    Returns:
        Row indices of each part, in ascending order; parts are disjoint.
    """
    classes = np.asarray(labels, dtype=np.int64)
    total = classes.size
    counts = _part_sizes(sizes, total)
    taken = np.array([*counts.values(), total - sum(counts.values())], dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(total)
    line = shuffled[np.argsort(classes[shuffled], kind="stable")]
    # the ideal position of row j of n in a part is (j + 1/2) N / n
    place = np.concatenate([(np.arange(n) + 0.5) * (total / max(n, 1)) for n in taken])
    owner = np.repeat(np.arange(taken.size), taken)[np.argsort(place, kind="stable")]
    return {name: np.sort(line[owner == part]) for part, name in enumerate(counts)}


def _part_sizes(sizes: Sizes, total: int) -> dict[str, int]:
    """Number of rows of each part; sums are rounded, so that shares with sum 1 use all rows."""
    counts: dict[str, int] = {}
    share, used = 0.0, 0
    for name, size in sizes.items():
        if isinstance(size, float):
            share += size
            counts[name], used = round(share * total) - used, round(share * total)
        else:
            counts[name] = int(size)
    if min(sizes.values(), default=0) < 0 or sum(counts.values()) > total:
        raise DataError(f"The splits {dict(sizes)} are negative or more than the {total} rows.")
    return counts


def grouped_split(
    labels: Sequence[Sequence[int]], groups: Indices, sizes: Sizes, seed: int
) -> Indices:
    """Part number of each row: 0 is training, 1, 2, ... are the parts of ``sizes`` in order.

    Rows of a group stay together, so sizes count groups. Rows with several labels are stratified by
    their rarest label, then by the next one. If training has no row of a class, one group with that
    class is moved to it.
    """
    total = len(labels)
    shares = {k: float(v) if isinstance(v, float) else v / total for k, v in sizes.items()}
    if min(shares.values(), default=0) < 0 or sum(shares.values()) >= 1:
        raise DataError(f"Sizes {dict(sizes)} leave none of {total} rows, or are negative.")
    codes, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    asked = sizes
    if len(codes) < total:
        asked = {name: max(round(share * len(codes)), 1) for name, share in shares.items() if share}
        if sum(asked.values()) >= len(codes):
            raise DataError(
                f"{total:,} rows show only {len(codes):,} different images (or texts without one), "
                f"too few to cut {dict(sizes)} off. Name the splits in a column (split_column)."
            )
    of_group = np.zeros(len(codes), dtype=np.int64)
    parts = stratified_split(_strata([labels[row] for row in first]), asked, seed)
    for name, rows in parts.items():
        of_group[rows] = 1 + list(sizes).index(name)
    part = of_group[inverse]
    flat = np.array([c for row in labels for c in row], dtype=np.int64)
    rows = np.repeat(np.arange(total), [len(row) for row in labels])
    for label in np.setdiff1d(flat, flat[part[rows] == 0]):  # classes without a training row
        part[inverse == inverse[rows[flat == label][0]]] = 0
    return part


def _strata(labels: Sequence[Sequence[int]]) -> list[int]:
    """A number for each row's set of labels; sets with the same rarest labels are neighbours."""
    count = Counter(label for row in labels for label in row)
    keys = [tuple(sorted(row, key=lambda label: (count[label], label))) for row in labels]
    number = {key: index for index, key in enumerate(sorted(set(keys)))}
    return [number[key] for key in keys]
