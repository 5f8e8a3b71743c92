"""Batches from stored features: a dataset's rows by name, their pictures never decoded.

Shape legend: B batch, N tokens.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from epic_pl.data.collate import Collator
from epic_pl.data.datamodule import FeatureProvider
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import EntailmentPairs
from epic_pl.errors import ConfigError
from epic_pl.types import Batch, Features, Reference

FeatureDataset = ImageTextDataset | EntailmentPairs

FEATURES_VERSION = 4
"""Part of every feature store's name: raised whenever a picture's transform, a text's tokens or
what a tower stores comes to mean something else, so that no store of before is met."""


class PictureKey(NamedTuple):
    """A picture by the folder of its split, its path there, and its view.

    View -1 is the picture as evaluation sees it.
    """

    root: str
    path: str
    view: int


class FeatureSource(Protocol):
    """Where stored features are read; a missing item is row -1 and comes as zeros."""

    views: int

    def image_rows(self, keys: Sequence[PictureKey | None]) -> Any:
        """(B,) rows of pictures."""

    def text_rows(self, texts: Sequence[str | None]) -> Any:
        """(B,) rows of texts."""

    def gather_images(self, rows: Any) -> Features:
        """What is stored of pictures, batch first."""

    def gather_texts(self, rows: Any) -> tuple[Features, Tensor]:
        """What is stored of texts, batch first, and its mask ``(B, N)``."""


class CachedDataset(Dataset[Batch]):
    """Whole batches of stored features for a dataset's rows.

    A loader asks it for the rows of a batch at once, so collation has nothing left to do.

    Args:
        dataset: tells its rows by name.
        source: the stores.
        collator: makes the labels.
        train: whether stored views are drawn, by (seed, epoch, row); else evaluation's is taken.
    """

    def __init__(
        self, dataset: FeatureDataset, source: FeatureSource, collator: Collator, train: bool
    ) -> None:
        self.dataset = dataset
        self.source = source
        self.collator = collator
        self.train = train
        self._epoch = 0
        self._root = str(pictures(dataset).image_root)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose pairs and views are drawn."""
        self._epoch = epoch
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of these rows."""
        rows = [self.dataset.reference(index) for index in indices]
        keys = [self._key(index, row["image"]) for index, row in zip(indices, rows, strict=True)]
        image_rows = self.source.image_rows(keys)
        text_rows = self.source.text_rows([row["text"] for row in rows])
        text_features, mask = self.source.gather_texts(text_rows)
        batch: Batch = {
            "image_features": self.source.gather_images(image_rows),
            "text_features": text_features,
            "attention_mask": mask,
            "sample_id": [row["sample_id"] for row in rows],
            "picture": [row["image"] or "" for row in rows],
        }
        present = [_present(rows, "image"), _present(rows, "text")]
        if not all(bool(mask.all()) for mask in present):
            batch["image_present"], batch["text_present"] = present
        if all(row["label"] is not None for row in rows):
            batch["labels"] = self.collator.labels(rows)
        return batch

    def _key(self, index: int, path: str | None) -> PictureKey | None:
        return None if path is None else PictureKey(self._root, path, self._view(index))

    def _view(self, index: int) -> int:
        if not self.train or self.source.views == 0:
            return -1
        seed = (pictures(self.dataset).seed, self._epoch, index)
        return int(np.random.default_rng(seed).integers(self.source.views))


def by_name(dataset: Dataset[Any]) -> FeatureDataset:
    """The dataset itself, if it tells its rows by name.

    Raises:
        ConfigError: if not.
    """
    if isinstance(dataset, FeatureDataset):
        return dataset
    raise ConfigError(
        f"{type(dataset).__name__} cannot tell its rows by name, as stored features need: set "
        "cache.level to off."
    )


def pictures(dataset: FeatureDataset) -> ImageTextDataset:
    """The dataset that reads the pictures."""
    return dataset.pictures if isinstance(dataset, EntailmentPairs) else dataset


class PictureDigests:
    """SHA-256 of pictures' bytes, remembered by path, size and time of change.

    Args:
        memory: JSON file that remembers; made anew if it is damaged.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nothing remembered yet
            entries = json.loads(memory.read_text(encoding="utf-8")).items()
            self._known = {k: v for k, v in entries if isinstance(v, list) and len(v) == 3}

    def __call__(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(Root, path) to digest. A picture inside one big file goes by that file and its name."""
        digests = {name: self.one(*name) for name in names}
        self.save()
        return digests

    def one(self, root: str, path: str) -> str:
        """The digest of one picture, not yet remembered for later runs."""
        inside, file, key, state = _file_of(root, path)
        entry = self._known.get(key)
        if entry is None or entry[:2] != state:
            content = f"{state}{path}".encode() if inside else file.read_bytes()
            self._known[key] = entry = [*state, hashlib.sha256(content).hexdigest()]
            self._changed = True
        digest: str = entry[2]
        return digest

    def remembered(self, root: str, path: str) -> str | None:
        """The digest of one picture if it is known without reading it, else None."""
        try:
            _, _, key, state = _file_of(root, path)
        except OSError:  # whoever reads it says so
            return None
        entry = self._known.get(key)
        return entry[2] if entry is not None and entry[:2] == state else None

    def save(self) -> None:
        """Remember for later runs, which without it read the pictures again, no more."""
        if not self._changed:
            return
        with contextlib.suppress(OSError):  # of others, who may not write there
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._memory.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            temporary.replace(self._memory)
        self._changed = False


def _file_of(root: str, path: str) -> tuple[bool, Path, str, list[int]]:
    """Whether a picture lies inside one big file, its file, its key, and the file's state."""
    inside = os.path.isfile(root)
    file = Path(root) if inside else Path(root) / path
    stat = file.stat()
    return inside, file, f"{file}\0{path}", [stat.st_size, stat.st_mtime_ns]


def feature_provider(source: FeatureSource) -> FeatureProvider:
    """What :meth:`~epic_pl.data.ImageTextDataModule.use_features` takes, of some stores."""

    def provide(dataset: Dataset[Any], collator: Collator, train: bool) -> CachedDataset:
        return CachedDataset(by_name(dataset), source, collator, train)

    return provide


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of all that a tokenizer makes of a text, whatever its name or folder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = {"class": type(tokenizer).__name__, "words": tokenizer.get_vocab()}
    if backend is not None:
        # cutting and padding are as the last call left them, and known from elsewhere
        state |= json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _present(rows: Sequence[Reference], modality: str) -> Tensor:
    values: list[Mapping[str, Any]] = list(rows)
    return torch.tensor([row[modality] is not None for row in values])
