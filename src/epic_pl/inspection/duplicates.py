"""The same content twice: within a split, across splits, or with different labels."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.inspection.findings import Level, Problem
from epic_pl.inspection.problems import SHOWN, Mask, mask_of

Codes = npt.NDArray[np.int64]
"""A number for each distinct value of a column; -1 for null."""


def duplicate_problems(rows: pa.Table) -> Iterator[Problem]:
    """Pictures, texts and samples that occur more than once."""
    split = _codes(rows["split"])
    # rows to predict may be those of the test split: neither is trained on
    used = _codes(pc.replace_substring_regex(rows["split"], "^predict$", "test"))
    picture, text = _codes(rows["content"]), _codes(rows["text"])
    sample = _pairs(picture, text)
    known = (picture >= 0) | (text >= 0)

    in_split, file = _pairs(picture, split), _codes(rows["image"])
    copies = _vary(in_split, file, picture >= 0)
    files = len(np.unique(_pairs(file, split)[copies]))
    message = (
        f"{files:,} files of {{groups:,}} pictures: one content under several names in a split"
    )
    yield from _problem("note", rows, copies, in_split, "image", message)
    leaked = _vary(picture, used, picture >= 0)
    message = "{groups:,} pictures, by content, are in more than one split ({rows:,} rows)"
    yield from _problem("warning", rows, leaked, picture, "image", message)
    leaked = _vary(sample, used, known)
    message = "{groups:,} samples, by picture and text, are in more than one split"
    yield from _problem("warning", rows, leaked, sample, "sample_id", message)
    message = (
        "{groups:,} texts are in more than one split, with other pictures ({rows:,} rows). Where a "
        "text tells one thing from all others, as a product's title does, name the splits in a "
        "column"
    )
    texts = _vary(text, used, text >= 0) & ~leaked
    yield from _problem("note", rows, texts, text, "sample_id", message)
    _, group, count = np.unique(_pairs(sample, split), return_inverse=True, return_counts=True)
    message = "{rows:,} rows have the picture and text of another row of their split"
    yield from _problem("warning", rows, known & (count[group] > 1), sample, "sample_id", message)
    labels = _vary(sample, _codes(rows["label"]), known & ~mask_of(pc.is_null(rows["label"])))
    message = "{rows:,} rows have the same picture and text under different labels"
    yield from _problem("warning", rows, labels, sample, "label", message)


def _problem(
    level: Level, rows: pa.Table, mask: Mask, group: Codes, name: str, message: str
) -> Iterator[Problem]:
    """A problem of the rows in a mask, if there are any, with a column's values as examples."""
    if mask.any():
        groups, number = len(np.unique(group[mask])), int(mask.sum())
        examples = _examples(rows, mask, group, name)
        yield Problem(level, message.format(groups=groups, rows=number), examples)


def _codes(column: pa.ChunkedArray) -> Codes:
    coded = column.cast(pa.string()).combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = pa.concat_arrays(coded.chunks) if coded.chunks else pa.array([], pa.string())
    indices = pc.fill_null(coded.dictionary_encode().indices, -1)
    return np.asarray(indices).astype(np.int64)


def _pairs(first: Codes, second: Codes) -> Codes:
    """Codes of the pairs of two columns' values."""
    return first * (int(second.max(initial=0)) + 2) + second


def _vary(group: Codes, of: Codes, known: Mask) -> Mask:
    """Rows whose group, among known rows, occurs with more than one value of ``of``."""
    found = np.zeros(len(group), dtype=bool)
    pairs = np.unique(np.stack([group[known], of[known]], axis=1), axis=0)
    groups, count = np.unique(pairs[:, 0], return_counts=True)
    found[known] = np.isin(group[known], groups[count > 1])
    return found


def _examples(rows: pa.Table, mask: Mask, group: Codes, name: str) -> list[str]:
    """``train a.png = test b.png`` for the first groups."""
    shown = []
    for code in np.unique(group[mask])[:SHOWN]:
        members = rows.take(pa.array(np.flatnonzero(mask & (group == code))[:4])).to_pylist()
        shown.append(" = ".join(dict.fromkeys(f"{row['split']} {row[name]}" for row in members)))
    return shown
