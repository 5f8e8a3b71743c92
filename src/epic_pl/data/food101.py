"""UPMC-Food101: pictures of 101 dishes from the web, with text of the page each was found on.

X. Wang, D. Kumar, N. Thome, M. Cord, F. Precioso, *Recipe recognition with large multimodal food
dataset*, ICME Workshops 2015.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from epic_pl.data.datamodule import Split
from epic_pl.data.folder import FolderDataModule, SplitRows
from epic_pl.data.layout import PICTURE_SUFFIXES, Layout, Located, locate
from epic_pl.data.records import read_csv, read_json, read_jsonl, require
from epic_pl.data.table import stratified_split
from epic_pl.errors import ConfigError, DataError

TextSource = Literal["titles", "split_json", "page_text", "jsonl"]

_TRAIN, _TEST = "images/train/|images/images/train/", "images/test/|images/images/test/"
_VAL_FILES = ("val.jsonl", "dev.jsonl")
_LAYOUTS = {
    "titles": Layout("titles", (_TRAIN, _TEST, "texts/train_titles.csv", "texts/test_titles.csv")),
    "split_json": Layout(
        "split_json", (_TRAIN, _TEST, "split.json", "text.json", "class_idx.json")
    ),
    "page_text": Layout("page_text", (_TRAIN, _TEST, "texts_txt/")),
    "jsonl": Layout("jsonl", ("train.jsonl", "test.jsonl")),
}
_HOW_TO_GET = (
    "download UPMC-Food101 (the data set gianmarco96/upmcfood101 on Kaggle has pictures and "
    "titles, about 6 GB) and unpack it so that the folder holds images/train/<class>/*.jpg, "
    "images/test/<class>/*.jpg, texts/train_titles.csv and texts/test_titles.csv."
)
_CHARACTERS_PER_TOKEN = 12  # of a page's text; English words have about five a token


class Record(NamedTuple):
    """A row: ``image`` relative to the image root, ``text`` None where there is none."""

    sample_id: str
    image: str
    text: str | None
    label: str


class Release(NamedTuple):
    """What a text source holds: its classes, rows of each split (``val`` may be missing)."""

    classes: list[str]
    splits: dict[str, list[Record]]
    sources: dict[str, Path]
    image_root: Path


class Food101DataModule(FolderDataModule):
    """UPMC-Food101 with any of the four texts in circulation; about 68,000 + 22,700 rows.

    The texts differ much in what they give away (titles often hold the class's name), so results
    on different ones cannot be compared; ``preprocessing["text"]["source"]`` tells them apart.

    * ``titles``: ``texts/{train,test}_titles.csv``, no header, columns image, title, class.
    * ``split_json``: ``split.json`` (file names), ``text.json`` and ``class_idx.json``.
    * ``page_text``: ``texts_txt/<class>/<class>_<n>.txt``, cut to what ``max_text_tokens`` can use.
    * ``jsonl``: ``train.jsonl``, ``test.jsonl`` and perhaps ``val.jsonl`` or ``dev.jsonl``, rows of
      ``id``, ``label``, ``text`` and ``img``.

    Pictures lie in ``images/{train,test}/<class>/``. Classes are in alphabetical order, whatever a
    release says. An empty title is a text that is there; a missing one is an absent modality. A
    release's own validation list is used; without one, rows are held out of training, stratified,
    over the sorted list of pictures.

    Args:
        data_dir: folder of the dataset.
        text_source: ``titles``, ``split_json``, ``page_text`` or ``jsonl``.
        val_size: training rows held out where the release has no validation list.
        split_seed: which rows those are; apart from ``seed``, so that runs of several seeds share
            their validation set.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
        DataError: on :attr:`class_names`, if files are missing or broken.
    """

    def __init__(
        self,
        *,
        data_dir: str = "data/food101",
        text_source: TextSource = "titles",
        val_size: int = 5000,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_dir=data_dir, **kwargs)
        if text_source not in get_args(TextSource):
            known = ", ".join(get_args(TextSource))
            raise ConfigError(f"text_source must be one of {known}; got {text_source!r}.")
        if val_size < 1 or split_seed < 0:
            raise ConfigError(
                "val_size must be at least 1 and split_seed at least 0; got "
                f"{val_size} and {split_seed}."
            )
        self.text_source = text_source
        self.val_size = val_size
        self.split_seed = split_seed

    @property
    def text_origin(self) -> str:
        """The text source."""
        return self.text_source

    @property
    def class_names(self) -> list[str]:
        """Classes in alphabetical order; read from the annotation files.

        Raises:
            DataError: files are missing or broken.
        """
        return self._release.classes

    @cached_property
    def _release(self) -> Release:
        """All rows, validation held out."""
        found = locate(
            "UPMC-Food101",
            self.data_dir,
            [_LAYOUTS[self.text_source]],
            how_to_get=_HOW_TO_GET + self._other_sources(),
            nested=("food101", "UPMC_Food101", "data"),
        )
        if self.text_source == "page_text":
            release = _page_text(found, _CHARACTERS_PER_TOKEN * self.max_text_tokens)
        else:
            release = _READERS[self.text_source](found)
        _check_classes(release)
        if "val" not in release.splits:
            _hold_out(release, self.val_size, self.split_seed)
        return release

    def _other_sources(self) -> str:
        """The text sources whose files are all there, as a hint."""
        others = []
        for name, layout in _LAYOUTS.items():
            try:
                locate("", self.data_dir, [layout], how_to_get="")
                others.append(name)
            except DataError:
                continue
        hint = " or ".join(f"text_source: {name}" for name in others)
        return f" The files of {hint} are all there." if others else ""

    def read_split(self, split: Split) -> SplitRows:
        """The rows of a split.

        Raises:
            DataError: files are missing or broken.
        """
        release = self._release
        records = release.splits[split]
        index = {name: code for code, name in enumerate(release.classes)}
        return SplitRows(
            source=release.sources[split],
            sample_ids=[record.sample_id for record in records],
            images=[record.image for record in records],
            texts=[record.text for record in records],
            labels=[index[record.label] for record in records],
            image_root=release.image_root,
            notes={
                "with an empty text": sum(record.text == "" for record in records),
                "without a text": sum(record.text is None for record in records),
            },
        )


def _titles(found: Located) -> Release:
    splits, sources = {}, {}
    for split in ("train", "test"):
        sources[split] = found[f"texts/{split}_titles.csv"]
        splits[split] = [
            Record(Path(image).stem, f"{split}/{label}/{image}", title, label)
            for image, title, label in read_csv(sources[split], width=3)
        ]
    return Release(_classes_of(splits["train"]), splits, sources, found[_TRAIN].parent)


def _split_json(found: Located) -> Release:
    path = found["split.json"]
    lists, texts = read_json(path), read_json(found["text.json"])
    classes = sorted(read_json(found["class_idx.json"]))
    names = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}
    splits = {}
    for split, keys in names.items():
        key = next((key for key in keys if key in lists), None)
        if key is None and split != "val":
            raise DataError(f"{path} has no list {split!r}, only {', '.join(lists)}.")
        if key is not None:
            folder = "test" if split == "test" else "train"  # val pictures are training ones
            splits[split] = [
                Record(Path(name).stem, f"{folder}/{label}/{name}", texts.get(name), label)
                for name in lists[key]
                for label in [name.rpartition("_")[0]]
            ]
    return Release(classes, splits, dict.fromkeys(splits, path), found[_TRAIN].parent)


def _page_text(found: Located, limit: int) -> Release:
    classes = sorted(entry.name for entry in os.scandir(found[_TRAIN]) if entry.is_dir())
    splits = {}
    for split, folder in (("train", found[_TRAIN]), ("test", found[_TEST])):
        pictures = [
            (label, name)
            for label in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
            for name in sorted(os.listdir(folder / label))
            if name.lower().endswith(PICTURE_SUFFIXES)
        ]
        pages = [found["texts_txt/"] / label / f"{Path(name).stem}.txt" for label, name in pictures]
        with ThreadPoolExecutor(16) as pool:  # disks answer several requests at once
            texts = pool.map(lambda page: _page(page, limit), pages, chunksize=256)
            splits[split] = [
                Record(Path(name).stem, f"{split}/{label}/{name}", text, label)
                for (label, name), text in zip(pictures, texts, strict=True)
            ]
    sources = dict.fromkeys(splits, found["texts_txt/"])
    return Release(classes, splits, sources, found[_TRAIN].parent)


def _page(path: Path, limit: int) -> str | None:
    """The beginning of a page; no tokenizer here minds how much white space is in it."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return " ".join(file.read(8 * limit).split())[:limit]
    except FileNotFoundError:
        return None


def _jsonl(found: Located) -> Release:
    root = found["train.jsonl"].parent
    val = next((root / name for name in _VAL_FILES if (root / name).is_file()), None)
    sources = {"train": found["train.jsonl"], "test": found["test.jsonl"]}
    if val is not None:
        sources["val"] = val
    splits = {}
    for split, path in sources.items():
        table = read_jsonl(path, ("id", "img", "text", "label"))
        require(table, "img", path)
        require(table, "label", path)
        splits[split] = [
            Record(sample_id or Path(image).stem, image, text, label)
            for sample_id, image, text, label in zip(
                *(table[name].to_pylist() for name in ("id", "img", "text", "label")), strict=True
            )
        ]
    return Release(_classes_of(splits["train"]), splits, sources, root)


_READERS: dict[str, Callable[[Located], Release]] = {
    "titles": _titles,
    "split_json": _split_json,
    "jsonl": _jsonl,
}


def _classes_of(records: Iterable[Record]) -> list[str]:
    return sorted({record.label for record in records})


def _check_classes(release: Release) -> None:
    known = set(release.classes)
    for split, records in release.splits.items():
        unknown = Counter(record.label for record in records if record.label not in known)
        if unknown:
            label, count = unknown.most_common(1)[0]
            first = next(record for record in records if record.label == label)
            raise DataError(
                f"{release.sources[split]}: {sum(unknown.values())} rows are of no class of the "
                f"training set, for example {first.sample_id!r} of class {label!r} ({count} rows)."
                " Fetch the release again: its files do not belong together."
            )


def _hold_out(release: Release, size: int, seed: int) -> None:
    """Move ``size`` training rows to ``val``."""
    train = sorted(release.splits["train"], key=lambda record: record.image)
    if size >= len(train):
        raise DataError(
            f"val_size is {size}, but {release.sources['train']} has only {len(train)} rows to "
            "hold out from. Choose fewer."
        )
    codes = np.unique([record.label for record in train], return_inverse=True)[1]
    rows = stratified_split(codes, {"val": size, "train": len(train) - size}, seed)
    for split, part in rows.items():
        release.splits[split] = [train[row] for row in part]
    release.sources["val"] = release.sources["train"]
