"""Data check: read all rows, labels, images and texts of a dataset once."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import Progress

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.row_cache import ImageRecord
from epic_pl.data.rows import class_counts
from epic_pl.data.transforms import build_image_transform
from epic_pl.errors import DataError
from epic_pl.inspection.duplicates import duplicate_problems
from epic_pl.inspection.findings import (
    Findings,
    Level,
    Problem,
    image_problems,
    kept_rows,
    label_problems,
    text_problems,
)
from epic_pl.inspection.images import ImageFacts, inspect_images

Facts = dict[str, ImageFacts]  # by path
Sources = dict[Split, ImageTextDataset]

_TEXTS_AT_ONCE = 64
_STRINGS = ("split", "sample_id", "image", "text", "label")
_FACTS = pa.schema(
    [(name, pa.int32()) for name in ("width", "height")]
    + [(name, pa.string()) for name in ("kind", "problem", "content")]
)
_ROWS = pa.schema([*((name, pa.string()) for name in _STRINGS), *_FACTS])


def check_data(
    data: ImageTextDataModule, workers: int | None = None, console: Console | None = None
) -> Findings:
    """Read all of a dataset and find its problems.

    Each distinct image is decoded once, as in training, regardless of earlier checks, and each
    distinct text is tokenized. The results for images are stored for later runs.

    Args:
        data: any DataModule of this package.
        workers: number of processes that decode images; None is one per core.
        console: console for a progress bar; None for no bar.
    """
    problems: list[Problem] = []
    sources: Sources = {}
    data.prepare_data()
    for split in data.own_splits:
        try:
            sources[split] = _split_rows(data, split)
        except DataError as error:
            level: Level = "error" if split in ("train", "val") else "warning"
            problems.append(Problem(level, f"The {split} split cannot be built: {error}"))
    # no auto_refresh, since processes are forked while its thread would run
    quiet = console or Console(quiet=True)
    with Progress(console=quiet, auto_refresh=False, disable=console is None) as progress:
        facts = [_image_facts(source, data, workers, progress) for source in sources.values()]
        chunks = [chunk for source in sources.values() for chunk in source.table["text"].chunks]
        tokens = _token_lengths(pa.chunked_array(chunks, pa.string()), data, progress)
    names = data.class_names
    rows = _rows(sources, facts, tokens, names)
    kept = kept_rows(rows, data.on_bad_sample)
    counts = {}
    for split, source in sources.items():
        labels = source.table["label"].filter(kept.filter(pc.equal(rows["split"], split)))
        counts[split] = class_counts(labels, len(names))
    problems += image_problems(rows, data.on_bad_sample)
    problems += text_problems(rows, data.collator.max_text_tokens)
    problems += label_problems(rows.filter(kept), counts, names, data.predict_split)
    problems += duplicate_problems(rows)
    for source, of_images in zip(sources.values(), facts, strict=True):
        record = ImageRecord(source.image_root)
        record.add({record.key(path): fact.problem or None for path, fact in of_images.items()})
    return Findings(
        name=type(data).__name__,
        class_names=names,
        rows=rows,
        class_counts=counts,
        problems=sorted(problems, key=lambda p: ("error", "warning", "note").index(p.level)),
        max_text_tokens=data.collator.max_text_tokens,
        image_roots={split: source.image_root for split, source in sources.items()},
    )


def _image_facts(
    source: ImageTextDataset, data: ImageTextDataModule, workers: int | None, progress: Progress
) -> Facts:
    """Facts about each distinct image of a split."""
    paths = pc.unique(source.table["image"]).drop_null().to_pylist()
    min_size = build_image_transform(data.image_preprocessing, train=False).min_size
    task = progress.add_task("images", total=len(paths))
    facts = {}
    inspected = inspect_images(source.image_root, paths, min_size, workers)
    for path, facts_of_path in zip(paths, inspected, strict=True):
        facts[path] = facts_of_path
        progress.update(task, advance=1, refresh=len(facts) % 100 in (0, len(paths) % 100))
    return facts


def _token_lengths(
    text: pa.ChunkedArray, data: ImageTextDataModule, progress: Progress
) -> pa.Array:
    """Tokens of each text before truncation, with special tokens; null where absent."""
    texts = pc.unique(text).drop_null()
    task = progress.add_task("texts", total=len(texts))
    lengths: list[int] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = data.collator.shortened(texts[start : start + _TEXTS_AT_ONCE].to_pylist())
        ids = data.collator.tokenizer(part, truncation=False, verbose=False)["input_ids"]
        lengths += map(len, ids)
        progress.update(task, advance=len(part), refresh=True)
    return pa.array(lengths, pa.int32()).take(pc.index_in(text, value_set=texts))


def _rows(sources: Sources, facts: list[Facts], tokens: pa.Array, names: Sequence[str]) -> pa.Table:
    """All rows with the facts about their images, as ``Findings.rows``."""
    parts = [_ROWS.empty_table()]
    for (split, source), images in zip(sources.items(), facts, strict=True):
        at = pc.index_in(source.table["image"], value_set=pa.array(list(images), pa.string()))
        of_images = pa.Table.from_pylist(list(map(vars, images.values())), _FACTS).take(at)
        columns = {name: source.table[name] for name in ("sample_id", "image", "text")}
        columns |= {
            "split": pa.repeat(split, len(at)),
            **dict(zip(_FACTS.names, of_images.columns, strict=True)),
        }
        columns["label"] = _label_names(source.table["label"], names)
        parts.append(pa.table(columns, schema=_ROWS))
    return pa.concat_tables(parts).append_column("tokens", tokens)


def _label_names(labels: pa.ChunkedArray, names: Sequence[str]) -> pa.Array:
    """Names of classes; several in one cell are separated by ``|``."""
    if not pa.types.is_list(labels.type):
        return pa.array(names, pa.string()).take(labels.combine_chunks())
    rows = labels.to_pylist()
    joined = [None if row is None else "|".join(names[code] for code in row) for row in rows]
    return pa.array(joined, pa.string())


def _split_rows(data: ImageTextDataModule, split: Split) -> ImageTextDataset:
    """Rows of a split; if samples are drawn anew in each epoch, those of the first epoch.

    Raises:
        DataError: the split cannot be built.
    """
    dataset = data.unchecked_dataset(split)
    if not dataset.draws_labels:
        return dataset
    table = pa.Table.from_pylist([dataset.reference(row) for row in range(len(dataset))])
    return ImageTextDataset(table, dataset.image_root, dataset.transform)
