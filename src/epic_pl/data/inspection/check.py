"""The data check: it reads all rows, labels, images and texts of a dataset once."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.decoding import FORMATS
from epic_pl.data.images import read_image
from epic_pl.data.inspection.problems import (
    SEVERITIES,
    Problem,
    Severity,
    duplicate_problems,
    image_problems,
    kept_rows,
    label_problems,
    language_problems,
    refusals,
    text_problems,
)
from epic_pl.data.row_cache import ImageRecord
from epic_pl.data.rows import class_counts
from epic_pl.utils.errors import DataError, counted
from epic_pl.utils.untrusted import OutsideError, open_below

FACTS = pa.schema(
    [
        ("width", pa.int32()),  # of the stored image, in pixels
        ("height", pa.int32()),
        ("kind", pa.string()),  # missing, outside or corrupt; null for a valid image
        ("problem", pa.string()),  # message that says what is wrong
        ("content", pa.string()),  # hash of the file's bytes
    ]
)
"""What is found out about an image."""
_TEXTS_AT_ONCE, _TEXTS_OF_LANGUAGE = 64, 500
_STRINGS = ("split", "sample_id", "image", "text", "label")
_ROWS = pa.schema([*((name, pa.string()) for name in _STRINGS), *FACTS])


@dataclass
class Findings:
    """Findings of a data check.

    Attributes:
        data: the DataModule.
        rows: one row per sample: ``split, sample_id, image, text, label``, the columns of
            :data:`FACTS` about its image, and ``tokens``; labels are class names.
        class_counts: number of rows of each class, ``(C,)``, by split, without skipped rows.
        problems: problems that the report lists.
        image_roots: folder that the image paths of each split are relative to.
    """

    data: ImageTextDataModule
    rows: pa.Table
    class_counts: dict[Split, npt.NDArray[np.int64]]
    problems: list[Problem]
    image_roots: dict[Split, Path]

    @property
    def can_train(self) -> bool:
        """Whether no problem prevents training."""
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def verdict(self) -> str:
        """Whether training can start, in one sentence."""
        errors = sum(problem.severity == "error" for problem in self.problems)
        start = f"cannot start: {counted(errors, 'errors')}" if errors else "can start"
        return f"Training {start}."


def check_data(
    data: ImageTextDataModule,
    workers: int | None = None,
    console: Console | None = None,
    refused: Iterable[DataError] = (),
) -> Findings:
    """Read a whole dataset and find its problems.

    Each distinct image is decoded once, as in training, regardless of earlier checks, and each
    distinct text is tokenized. The results for images are stored for later runs. As many threads as
    ``workers`` decode images, by default one per core. A ``console`` gets a progress bar.
    ``refused`` are errors that :func:`~epic_pl.data.rows.collect_refused` has collected.
    """
    problems = [*refusals(refused)]
    datasets: dict[Split, ImageTextDataset] = {}
    data.prepare_data()
    for split in data.own_splits:
        try:
            datasets[split] = _read_split(data, split)
        except DataError as error:
            severity: Severity = "error" if split in ("train", "val") else "warning"
            problems.append(Problem(severity, f"The {split} split cannot be built: {error}"))
    names, policy = data.class_names, data.on_bad_sample
    parts, counts = [_ROWS.empty_table()], {}
    with Progress(console=console or Console(quiet=True)) as progress:
        for split, dataset in datasets.items():
            rows = _inspect_rows(split, dataset, names, workers or os.cpu_count() or 1, progress)
            labels = dataset.table["label"].filter(kept_rows(rows, policy))
            counts[split] = class_counts(labels, len(names))
            parts.append(rows)
        rows = pa.concat_tables(parts)
        rows = rows.append_column("tokens", _token_lengths(rows["text"], data, progress))
    problems += image_problems(rows, policy)
    problems += text_problems(rows, data.processor.max_text_tokens)
    texts = pc.unique(rows["text"]).drop_null().to_pylist()
    texts = data.processor.shortened(texts[:: len(texts) // _TEXTS_OF_LANGUAGE + 1])  # spread
    problems += language_problems(texts, data.processor.tokenizer)
    problems += label_problems(rows.filter(kept_rows(rows, policy)), counts, names)
    problems += duplicate_problems(rows)
    problems.sort(key=lambda problem: SEVERITIES.index(problem.severity))
    roots = {split: dataset.image_root for split, dataset in datasets.items()}
    return Findings(data, rows, counts, problems, roots)


def _read_split(data: ImageTextDataModule, split: Split) -> ImageTextDataset:
    """Dataset of a split; if it draws samples anew in each epoch, it is at the first epoch."""
    dataset = data.dataset_of_rows(split, data.read_split(split))
    if not dataset.draws_labels:
        return dataset
    table = pa.Table.from_pylist([dataset.row(row) for row in range(len(dataset))])
    return ImageTextDataset(table, dataset.image_root, dataset.transform)


def _inspect_rows(
    split: Split, dataset: ImageTextDataset, names: Sequence[str], workers: int, progress: Progress
) -> pa.Table:
    """Rows of a split with facts about their images, which are stored for later runs."""
    table, root = dataset.table, dataset.image_root
    paths = pc.unique(table["image"]).drop_null()
    min_size = getattr(dataset.transform, "min_size", None)
    inspect = partial(_inspect_image, root=root, min_size=min_size)
    with ThreadPoolExecutor(workers) as pool:  # decoding releases Python's lock
        inspected = pool.map(inspect, paths.to_pylist())
        found = list(progress.track(inspected, len(paths), description=f"{split} images"))
        facts = pa.Table.from_pylist(found, FACTS)
    checks = ImageRecord(root)
    keys = map(checks.key, paths.to_pylist())
    checks.add(dict(zip(keys, facts["problem"].to_pylist(), strict=True)))
    facts = facts.take(pc.index_in(table["image"], value_set=paths))
    columns = {name: table[name] for name in ("sample_id", "image", "text")}
    columns |= {"split": pa.repeat(split, len(table)), "label": _name_labels(table["label"], names)}
    return pa.table(columns | dict(zip(FACTS.names, facts.columns, strict=True)), schema=_ROWS)


def _inspect_image(path: str, root: Path, min_size: int | None) -> dict[str, Any]:
    """Decode an image file as in training, and return its facts."""
    try:
        read_image(Path(path), min_size, root=root)
    except DataError as error:
        kind = "corrupt" if os.path.isfile(root / path) else "missing"
        kind = "outside" if isinstance(error.__cause__, OutsideError) else kind
        return {"kind": kind, "problem": str(error)}
    with open_below(root, path) as file, Image.open(file, formats=FORMATS) as image:
        file.seek(0)
        content = blake2b(file.read(), digest_size=16).hexdigest()
        return {"width": image.width, "height": image.height, "content": content}


def _name_labels(labels: pa.ChunkedArray, names: Sequence[str]) -> pa.Array:
    """Class names of each row; several names of a row are joined with ``|``."""
    if not pa.types.is_list(labels.type):
        return pa.array(names, pa.string()).take(labels.combine_chunks())
    rows = labels.to_pylist()
    joined = [None if row is None else "|".join(names[code] for code in row) for row in rows]
    return pa.array(joined, pa.string())


def _token_lengths(
    column: pa.ChunkedArray, data: ImageTextDataModule, progress: Progress
) -> pa.Array:
    """Number of tokens of each text before truncation, with special tokens; null if absent."""
    texts = pc.unique(column).drop_null()
    lengths: list[int] = []
    for start in progress.track(range(0, len(texts), _TEXTS_AT_ONCE), description="texts"):
        part = data.processor.shortened(texts[start : start + _TEXTS_AT_ONCE].to_pylist())
        part = [data.processor.text.prompt + text for text in part]
        ids = data.processor.encode(part, truncation=False, verbose=False)["input_ids"]
        lengths += map(len, ids)
    return pa.array(lengths, pa.int32()).take(pc.index_in(column, value_set=texts))
