"""Duplicates within a split, across splits, or with different labels."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from epic_pl.inspection.findings import SHOWN, Level, Problem

Groups = list[list[int]]  # rows that share a value, for each value of several rows


def duplicate_problems(rows: pa.Table) -> Iterator[Problem]:
    """Images, texts and samples that occur more than once."""
    split, image, text, label = (
        rows[name].to_pylist() for name in ("split", "content", "text", "label")
    )
    # rows of predict may also be in the test split, since neither is used in training
    used = ["test" if name == "predict" else name for name in split]
    sample = [None if pair == (None, None) else pair for pair in zip(image, text, strict=True)]
    of_split = [pair and (name, *pair) for name, pair in zip(split, sample, strict=True)]
    labelled = [
        pair if name is not None else None for name, pair in zip(label, sample, strict=True)
    ]

    leaked = _varying(_groups(image), used)
    message = "{groups:,} images, by content, are in more than one split ({rows:,} rows)"
    yield from _problem("warning", rows, leaked, "image", message)
    leaked = _varying(_groups(sample), used)
    message = "{groups:,} samples, by image and text, are in more than one split"
    yield from _problem("warning", rows, leaked, "sample_id", message)
    known = {row for group in leaked for row in group}
    texts = [group for group in _varying(_groups(text), used) if known.isdisjoint(group)]
    message = "{groups:,} texts are in more than one split, with other images ({rows:,} rows)"
    yield from _problem("note", rows, texts, "sample_id", message)
    message = "{rows:,} rows have the image and text of another row of their split"
    yield from _problem("warning", rows, _groups(of_split), "sample_id", message)
    message = "{rows:,} rows have the same image and text under different labels"
    yield from _problem("warning", rows, _varying(_groups(labelled), label), "label", message)


def _groups(values: Iterable[Any]) -> Groups:
    members: dict[Any, list[int]] = defaultdict(list)
    for row, value in enumerate(values):
        if value is not None:
            members[value].append(row)
    return [group for group in members.values() if len(group) > 1]


def _varying(groups: Groups, of: Sequence[Any]) -> Groups:
    """Groups whose rows have several values of a column."""
    return [group for group in groups if len({of[row] for row in group}) > 1]


def _problem(
    level: Level, rows: pa.Table, groups: Groups, name: str, message: str
) -> Iterator[Problem]:
    """A problem of some groups, if there are any, such as ``train a.png = test b.png``."""
    if groups:
        examples = []
        for group in groups[:SHOWN]:
            members = rows.take(group[:4]).to_pylist()
            shown = dict.fromkeys(f"{row['split']} {row[name]}" for row in members)
            examples.append(" = ".join(shown))
        number = sum(map(len, groups))
        yield Problem(level, message.format(groups=len(groups), rows=number), examples)
