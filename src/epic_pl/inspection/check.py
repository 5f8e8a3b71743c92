"""Check a dataset: read rows, labels, pictures and texts of all its splits once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import Progress

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.loading.orders import class_counts
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.data.transforms import build_image_transform
from epic_pl.errors import DataError
from epic_pl.inspection.duplicates import duplicate_problems
from epic_pl.inspection.findings import Findings, Level, Problem
from epic_pl.inspection.pictures import (
    PictureFacts,
    inspect_picture,
    inspect_pictures,
    inspect_with,
)
from epic_pl.inspection.problems import (
    label_problems,
    picture_problems,
    size_problems,
    text_problems,
)
from epic_pl.inspection.rows import SplitSource, record_result, split_source

T = TypeVar("T")
Facts = dict[str, PictureFacts]
"""Facts about pictures by their path in the rows."""

_TEXTS_AT_ONCE = 1024
_FACTS = {
    "kind": pa.string(),
    "problem": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "content": pa.string(),
}
_ROWS = pa.schema(
    [(name, pa.string()) for name in ("split", "sample_id", "image", "text", "label")]
    + list(_FACTS.items())
)


def check_data(
    data: ImageTextDataModule, workers: int | None = None, console: Console | None = None
) -> Findings:
    """Read all of a dataset and find its problems.

    Each distinct picture is decoded once, as training decodes it, and each distinct text is
    tokenized once, whatever an earlier check has found. Which pictures are sound is recorded for
    later starts.

    Args:
        data: any DataModule of this package.
        workers: processes that decode pictures; None is one a core.
        console: shows a progress bar, if given.
    """
    problems: list[Problem] = []
    sources: dict[Split, SplitSource] = {}
    data.prepare_data()
    for split in data.own_splits:
        try:
            sources[split] = split_source(data, split)
        except DataError as error:
            level: Level = "error" if split in ("train", "val") else "warning"
            problems.append(Problem(level, f"The {split} split cannot be built: {error}"))
    # without the thread of auto_refresh, since processes are forked while the bar is shown
    quiet = console or Console(quiet=True)
    with Progress(console=quiet, auto_refresh=False, disable=console is None) as progress:
        facts = [_picture_facts(each, data, workers, progress) for each in sources.values()]
        chunks = [chunk for each in sources.values() for chunk in each.table["text"].chunks]
        tokens = _token_lengths(pa.chunked_array(chunks, pa.string()), data, progress)
    names = data.class_names
    rows = _rows(sources, facts, tokens, names)
    counts = {split: class_counts(s.table["label"], len(names)) for split, s in sources.items()}
    policy = data.on_bad_sample if isinstance(data, RowsDataModule) else "error"
    problems += picture_problems(rows, policy)
    problems += size_problems(rows)
    problems += text_problems(rows, data.collator.max_text_tokens)
    problems += label_problems(rows, counts, names, data.predict_split)
    problems += duplicate_problems(rows)
    findings = Findings(
        name=type(data).__name__,
        class_names=names,
        rows=rows,
        class_counts=counts,
        problems=sorted(problems, key=lambda p: ("error", "warning", "note").index(p.level)),
        max_text_tokens=data.collator.max_text_tokens,
        sources=[
            source.full_path(path)
            for source in sources.values()
            for path in source.table["image"].to_pylist()
        ],
    )
    problems_of = [{path: fact.problem for path, fact in found.items()} for found in facts]
    decoded = list(zip(sources.values(), problems_of, strict=True))
    note = record_result(data, decoded)
    if note is not None:
        findings.problems.append(Problem("note", note))
    return findings


def _follow(
    progress: Progress, items: Iterable[T], total: int, description: str, every: int = 1
) -> Iterator[T]:
    """Pass items on and show how many have passed."""
    task = progress.add_task(description, total=total)
    for number, item in enumerate(items, start=1):
        yield item
        progress.update(task, advance=1, refresh=number % every == 0 or number == total)


def _picture_facts(
    source: SplitSource, data: ImageTextDataModule, workers: int | None, progress: Progress
) -> Facts:
    """Facts about each distinct picture of a split."""
    paths = pc.unique(source.table["image"]).drop_null().to_pylist()
    inspect: Callable[[str], PictureFacts]
    if source.read is not None:
        inspect, workers = partial(inspect_with, read=source.read), 1
    else:
        transform = build_image_transform(data.image_preprocessing, train=False)
        inspect = partial(inspect_picture, root=source.image_root, min_size=transform.min_size)
    found = inspect_pictures(paths, inspect, workers)
    shown = _follow(progress, found, len(paths), "pictures", every=100)
    return dict(zip(paths, shown, strict=True))


def _token_lengths(
    text: pa.ChunkedArray, data: ImageTextDataModule, progress: Progress
) -> pa.Array:
    """Tokens of each text before truncation, with special tokens; null where absent."""
    coded = text.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    texts: Sequence[str] = coded.dictionary.to_pylist()
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    lengths: list[int] = []
    for start in _follow(progress, starts, len(starts), "texts"):
        part = list(texts[start : start + _TEXTS_AT_ONCE])
        ids = data.collator.tokenizer(part, truncation=False, verbose=False)["input_ids"]
        lengths += map(len, ids)
    return pa.array(lengths, pa.int32()).take(coded.indices)


def _rows(
    sources: dict[Split, SplitSource], facts: list[Facts], tokens: pa.Array, names: Sequence[str]
) -> pa.Table:
    """All rows with what was found, as ``Findings.rows``."""
    parts = [_ROWS.empty_table()]
    for (split, source), found in zip(sources.items(), facts, strict=True):
        table = source.table
        at = pc.index_in(table["image"], value_set=pa.array(list(found), pa.string()))
        columns: dict[str, Any] = {"split": pa.repeat(split, table.num_rows)}
        columns |= {name: table[name] for name in ("sample_id", "image", "text")}
        columns["label"] = _label_names(table["label"], names)
        for name, kind in _FACTS.items():
            values = [getattr(each, name) or None for each in found.values()]
            columns[name] = pa.chunked_array([pa.array(values, kind)]).take(at)
        parts.append(pa.table(columns, schema=_ROWS))
    return pa.concat_tables(parts).append_column("tokens", pa.chunked_array([tokens]))


def _label_names(labels: pa.ChunkedArray, names: Sequence[str]) -> pa.Array:
    """Names of classes; several in one cell are separated by ``|``."""
    if not pa.types.is_list(labels.type):
        return pa.array(list(names), pa.string()).take(labels.combine_chunks())
    rows = labels.to_pylist()
    return pa.array(
        [None if row is None else "|".join(names[code] for code in row) for row in rows],
        pa.string(),
    )
