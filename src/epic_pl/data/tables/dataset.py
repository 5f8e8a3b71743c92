"""A dataset as one Arrow table: what is in it, checked once, before anything trains.

Arrow keeps rows in flat buffers with no Python object a row, so forked loader workers share the
memory of the table instead of multiplying it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.errors import DataError

_SHOWN = 3  # culprits named in a message


def table_schema(multilabel: bool = False) -> pa.Schema:
    """The columns of a sample table.

    * ``sample_id``: string, unique within a split.
    * ``image``: path relative to the image root; null where the modality is absent.
    * ``text``: string; null where absent (an empty string is a text that is there).
    * ``label``: class index, or list of class indices if ``multilabel``; null where unknown.
    """
    label = pa.list_(pa.int64()) if multilabel else pa.int64()
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("image", pa.string()),
            pa.field("text", pa.string()),
            pa.field("label", label),
        ]
    )


def sample_table(
    sample_ids: Sequence[str],
    images: Sequence[str | None],
    texts: Sequence[str | None],
    labels: Sequence[Any],
    multilabel: bool = False,
    *,
    num_classes: int | None = None,
) -> pa.Table:
    """Build and check a table of samples.

    Args:
        sample_ids: one name a row, unique.
        images: path of each picture relative to the image root, or None.
        texts: text of each row, or None.
        labels: class index (or list of them) of each row, or None where unknown.
        multilabel: whether a label is a list.
        num_classes: if given, labels must be below it.

    Raises:
        DataError: columns of different lengths or wrong types, duplicate ids, labels out of range,
            or a row with neither picture nor text.
    """
    columns = {"sample_id": sample_ids, "image": images, "text": texts, "label": labels}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"The columns of a table must be of one length, got {lengths}.")
    schema = table_schema(multilabel)
    arrays = [_column(field, columns[field.name]) for field in schema]
    table = pa.table(arrays, schema=schema)
    _check_ids(table["sample_id"].combine_chunks())
    _check_modalities(table)
    _check_labels(table, num_classes)
    return table


def _column(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    try:
        if field.name != "label":
            return pa.array(values, type=field.type)
        # told the type, Arrow would cut 1.5 to 1; a checked cast of what it finds does not
        found = pa.array(values)
        if "string" in str(found.type):
            raise pa.ArrowInvalid(f"labels are class indices, not {found.type}")
        return found.cast(field.type)
    except UnicodeEncodeError as error:
        row = next(n for n, value in enumerate(values) if value == error.object)
        raise DataError(
            f"Column {field.name!r} holds half of a character "
            f"({error.object[error.start]!r}, an emoji cut in two) in row {row} (counting from 0). "
            "Mend that text."
        ) from error
    except (
        pa.ArrowInvalid,
        pa.ArrowTypeError,
        pa.ArrowNotImplementedError,
        OverflowError,
    ) as error:
        raise DataError(
            f"Column {field.name!r} must hold {field.type}, but a value does not fit: {error}. "
            "Mend that value, or use None for one that is absent."
        ) from error


def _check_ids(ids: pa.Array) -> None:
    if ids.null_count:
        rows = _rows(pc.is_null(ids))
        raise DataError(f"Every row needs a sample_id; rows {_listed(rows)} have none.")
    codes = ids.dictionary_encode()
    index = codes.indices.to_numpy()
    doubled = np.flatnonzero(np.bincount(index, minlength=len(codes.dictionary)) > 1)
    if doubled.size:
        named = [
            f"{codes.dictionary[code].as_py()!r} in rows {_listed(np.flatnonzero(index == code))}"
            for code in doubled[:_SHOWN]
        ]
        raise DataError(
            f"{doubled.size} sample ids are not unique: {'; '.join(named)} (rows count from 0). "
            "Give each row its own id, or drop the repeated rows."
        )


def _check_modalities(table: pa.Table) -> None:
    rows = _rows(pc.and_(pc.is_null(table["image"]), pc.is_null(table["text"])))
    if rows.size:
        first = table["sample_id"][int(rows[0])].as_py()
        raise DataError(
            f"{rows.size} rows have neither picture nor text: rows {_listed(rows)} "
            f"(counting from 0; the first is sample {first!r}). Drop them, or fill one in."
        )


def _check_labels(table: pa.Table, num_classes: int | None) -> None:
    label = table["label"].combine_chunks()
    if pa.types.is_list(label.type):
        values, rows_of = pc.list_flatten(label), pc.list_parent_indices(label).to_numpy()
        if values.null_count:
            row = rows_of[_rows(pc.is_null(values))[0]]
            raise DataError(f"The label list of row {row} (counting from 0) holds a null.")
    else:
        values, rows_of = label, np.arange(len(label))
    wrong = pc.less(values, 0)
    if num_classes is not None:
        wrong = pc.or_(wrong, pc.greater_equal(values, num_classes))
    at = _rows(wrong)
    if at.size:
        allowed = "at least 0" if num_classes is None else f"in 0..{num_classes - 1}"
        row, value = int(rows_of[at[0]]), values[int(at[0])].as_py()
        raise DataError(
            f"Labels must be {allowed}, but sample {table['sample_id'][row].as_py()!r} "
            f"(row {row}, counting from 0) has {value}; {at.size} labels are out of range. "
            "Use None for an unknown label."
        )


def _rows(mask: Any) -> npt.NDArray[np.int64]:
    """Indices where an Arrow mask is true; null counts as false."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _listed(rows: npt.NDArray[np.int64]) -> str:
    text = ", ".join(str(row) for row in rows[:_SHOWN])
    return text + (f" and {rows.size - _SHOWN} more" if rows.size > _SHOWN else "")


def stratified_split(
    labels: Sequence[int] | npt.NDArray[np.int64], sizes: Mapping[str, int | float], seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Share rows out so that every part has the class mix of the whole.

    Rows are shuffled within their class and laid out class by class; the parts then take turns
    along that line, each at its own rate. So sizes come out exact, and a class's count in a part
    is within about one row of its share. The result depends on ``labels``' order and ``seed`` only.

    Args:
        labels: ``(N,)`` class indices.
        sizes: rows of each part (int), or its share of N (float); what is left belongs to no part.
        seed: of the shuffle.

    Returns:
        Row indices of each part, ascending, disjoint.

    Raises:
        DataError: sizes that are negative or ask for more than N rows.
    """
    classes = np.asarray(labels, dtype=np.int64)
    total = classes.size
    counts = _part_sizes(sizes, total)
    names = list(counts)
    taken = np.array([*counts.values(), total - sum(counts.values())], dtype=np.int64)

    shuffled = np.random.default_rng(seed).permutation(total)
    line = shuffled[np.argsort(classes[shuffled], kind="stable")]
    # the j-th of a part's n rows has its ideal place at (j + 1/2) N / n
    place = np.concatenate([(np.arange(n) + 0.5) * (total / max(n, 1)) for n in taken])
    owner = np.repeat(np.arange(taken.size), taken)[np.argsort(place, kind="stable")]
    return {name: np.sort(line[owner == part]) for part, name in enumerate(names)}


def _part_sizes(sizes: Mapping[str, int | float], total: int) -> dict[str, int]:
    """Rows of each part; shares are rounded on their running sum, so shares of 1 use every row."""
    counts: dict[str, int] = {}
    share, used = 0.0, 0
    for name, size in sizes.items():
        if size < 0:
            raise DataError(f"Split {name!r} has a negative size: {size}.")
        if isinstance(size, float):
            share += size
            upto = round(share * total)
            counts[name], used = upto - used, upto
        else:
            counts[name] = int(size)
    if sum(counts.values()) > total:
        raise DataError(
            f"The splits {dict(sizes)} ask for {sum(counts.values())} rows, but there are only "
            f"{total}. Whole numbers are rows, fractions are shares of them."
        )
    return counts
