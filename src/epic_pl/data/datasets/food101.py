"""UPMC-Food101: images of 101 dishes from the web, with text of the page each was found on.

X. Wang, D. Kumar, N. Thome, M. Cord, F. Precioso, *Recipe recognition with large multimodal food
dataset*, ICME Workshops 2015.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np

from epic_pl.data.datamodule import Split, check_at_least, check_choice
from epic_pl.data.layout import Layout, Located, locate
from epic_pl.data.readers import read_csv, read_jsonl, require
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.data.splits import stratified_split
from epic_pl.errors import DataError

TextSource = Literal["titles", "jsonl"]

_TRAIN, _TEST = "images/train/|images/images/train/", "images/test/|images/images/test/"
_LAYOUTS = {
    "titles": Layout("titles", (_TRAIN, _TEST, "texts/train_titles.csv", "texts/test_titles.csv")),
    "jsonl": Layout("jsonl", ("train.jsonl", "test.jsonl")),
}
_RELEASED: tuple[Split, ...] = ("train", "test")
_HOW_TO_GET = (
    "download UPMC-Food101 (the data set gianmarco96/upmcfood101 on Kaggle has images and "
    "titles, about 6 GB) and unpack it so that the folder holds images/train/<class>/*.jpg, "
    "images/test/<class>/*.jpg, texts/train_titles.csv and texts/test_titles.csv."
)


class _Record(NamedTuple):
    """A row: ``image`` relative to the image root, ``text`` None where there is none."""

    sample_id: str
    image: str
    text: str | None
    label: str


class _Part(NamedTuple):
    """The rows of a split, the file they are from, and the folder of the images."""

    source: Path
    image_root: Path
    records: list[_Record]


class Food101DataModule(RowsDataModule):
    """UPMC-Food101 with titles or a text of your own choice; about 68,000 + 22,700 rows.

    The texts differ much in what they give away (titles often hold the class's name), so results
    on different ones cannot be compared; ``preprocessing["text"]["source"]`` names the one in use.

    * ``titles``: ``texts/{train,test}_titles.csv``, no header, columns image, title, class.
    * ``jsonl``: ``train.jsonl``, ``test.jsonl`` and perhaps ``val.jsonl`` or ``dev.jsonl``, rows of
      ``id``, ``label``, ``text`` and ``img``.

    Images lie in ``images/{train,test}/<class>/``. Classes are in alphabetical order, whatever a
    release says. An empty title is a text that is present; a missing one is an absent modality. A
    release's own validation list is used; without one, rows are held out of training, stratified,
    over the sorted list of images.

    Args:
        data_dir: folder of the dataset.
        text_source: ``titles`` or ``jsonl``.
        val_size: training rows held out where the release has no validation list.
        split_seed: which rows those are; apart from ``seed``, so that runs of several seeds share
            their validation set.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.
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
        super().__init__(**kwargs)
        check_choice(get_args(TextSource), text_source=text_source)
        check_at_least(1, val_size=val_size)
        check_at_least(0, split_seed=split_seed)
        self.data_dir = data_dir
        self.text_source = text_source
        self.val_size = val_size
        self.split_seed = split_seed

    @property
    def text_origin(self) -> str:
        """The text source."""
        return self.text_source

    @cached_property
    def class_names(self) -> list[str]:
        """Classes in alphabetical order; read from the annotation files."""
        return list(self.read_split("train").classes)

    @cached_property
    def _found(self) -> Located:
        return locate(
            "UPMC-Food101",
            self.data_dir,
            [_LAYOUTS[self.text_source]],
            how_to_get=_HOW_TO_GET,
            nested=("food101", "UPMC_Food101", "data"),
        )

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        held_out = [self.val_size, self.split_seed]
        options = {"split": split, "held_out": held_out}
        # with titles, the folder of the images is that of the CSV files
        files = [self._found.paths[_TRAIN].parent.parent] if self.text_source == "titles" else []
        files += _files(self._found).values()
        read = partial(self._read, split)
        return cached_rows(f"Food101-{self.text_source}", files, options, read)

    def _read(self, split: Split) -> Rows:
        parts = self._parts
        classes = sorted({record.label for record in parts["train"].records})
        index = {name: code for code, name in enumerate(classes)}
        source, root, records = parts[split]
        if unknown := [record for record in records if record.label not in index]:
            raise DataError(
                f"{source}: {len(unknown)} rows are of no class of the training set, for example "
                f"{unknown[0].sample_id!r} of class {unknown[0].label!r}. Fetch the release again: "
                "its files do not belong together."
            )
        ids, images, texts, labels = list(zip(*records, strict=True)) or [()] * 4
        table = sample_table(ids, images, texts, [index[label] for label in labels])
        notes = {"with an empty text": texts.count(""), "without a text": texts.count(None)}
        return Rows(table, root, source, classes, notes)

    @cached_property
    def _parts(self) -> dict[Split, _Part]:
        """All rows, validation held out."""
        parts = (_titles if self.text_source == "titles" else _jsonl)(self._found)
        if "val" not in parts:
            source, root, records = parts["train"]
            train = sorted(records, key=lambda record: record.image)
            codes = np.unique([record.label for record in train], return_inverse=True)[1]
            sizes = {"val": self.val_size, "train": max(len(train) - self.val_size, 1)}
            for split, rows in stratified_split(codes, sizes, self.split_seed).items():
                parts[cast(Split, split)] = _Part(source, root, [train[row] for row in rows])
        return parts


def _files(found: Located) -> dict[Split, Path]:
    """The annotation files of the splits."""
    if found.layout.name == "titles":
        return {split: found.paths[f"texts/{split}_titles.csv"] for split in _RELEASED}
    train, test = found.paths["train.jsonl"], found.paths["test.jsonl"]
    files: dict[Split, Path] = {"train": train, "test": test}
    for val in (train.with_name("val.jsonl"), train.with_name("dev.jsonl")):
        if val.is_file():
            return files | {"val": val}
    return files


def _titles(found: Located) -> dict[Split, _Part]:
    parts: dict[Split, _Part] = {}
    for split, source in _files(found).items():
        columns = read_csv(source, ("image", "title", "class"))
        rows = zip(columns["image"], columns["title"], columns["class"], strict=True)
        records = [
            _Record(Path(image).stem, f"{split}/{label}/{image}", title, label)
            for image, title, label in rows
        ]
        parts[split] = _Part(source, found.paths[_TRAIN].parent, records)
    return parts


def _jsonl(found: Located) -> dict[Split, _Part]:
    parts: dict[Split, _Part] = {}
    for split, path in _files(found).items():
        table = read_jsonl(path, ("id", "img", "text", "label"))
        require(table, ("img", "label"), path)
        columns = (column.to_pylist() for column in table.columns)
        records = [
            _Record(sample_id or Path(image).stem, image, text, label)
            for sample_id, image, text, label in zip(*columns, strict=True)
        ]
        parts[split] = _Part(path, path.parent, records)
    return parts
