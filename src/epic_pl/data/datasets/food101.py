"""UPMC-Food101: images of 101 dishes from the web, with text of the page each was found on.

X. Wang, D. Kumar, N. Thome, M. Cord, F. Precioso, *Recipe recognition with large multimodal food
dataset*, ICME Workshops 2015.
"""

from functools import cached_property, partial
from typing import Any, cast, get_args

import numpy as np

from epic_pl.data.datamodule import Split, check_at_least, check_choice
from epic_pl.data.datasets.food101_texts import LAYOUTS, Part, TextSource, read_release, sources
from epic_pl.data.layout import Located, locate
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, sample_table
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.data.splits import stratified_split
from epic_pl.errors import DataError

_HOW_TO_GET = (
    "download UPMC-Food101 (the data set gianmarco96/upmcfood101 on Kaggle has images and "
    "titles, about 6 GB) and unpack it so that the folder holds images/train/<class>/*.jpg, "
    "images/test/<class>/*.jpg, texts/train_titles.csv and texts/test_titles.csv."
)


class Food101DataModule(RowsDataModule):
    """UPMC-Food101 with any of the four texts in circulation; about 68,000 + 22,700 rows.

    The texts differ much in what they give away (titles often hold the class's name), so results
    on different ones cannot be compared; ``preprocessing["text"]["source"]`` names the one in use.

    * ``titles``: ``texts/{train,test}_titles.csv``, no header, columns image, title, class.
    * ``split_json``: ``split.json`` (file names) and ``text.json``.
    * ``page_text``: ``texts_txt/<class>/<class>_<n>.txt``, cut to what ``max_text_tokens`` can use.
    * ``jsonl``: ``train.jsonl``, ``test.jsonl`` and perhaps ``val.jsonl`` or ``dev.jsonl``, rows of
      ``id``, ``label``, ``text`` and ``img``.

    Images lie in ``images/{train,test}/<class>/``. Classes are in alphabetical order, whatever a
    release says. An empty title is a text that is present; a missing one is an absent modality. A
    release's own validation list is used; without one, rows are held out of training, stratified,
    over the sorted list of images.

    Args:
        data_dir: folder of the dataset.
        text_source: ``titles``, ``split_json``, ``page_text`` or ``jsonl``.
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
            [LAYOUTS[self.text_source]],
            how_to_get=_HOW_TO_GET,
            nested=("food101", "UPMC_Food101", "data"),
        )

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        held_out = [self.val_size, self.split_seed]
        options = {"split": split, "held_out": held_out, "cut": self.max_text_tokens}
        files = sources(self.text_source, self._found)
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
    def _parts(self) -> dict[Split, Part]:
        """All rows, validation held out."""
        parts = read_release(self.text_source, self._found, self.max_text_tokens)
        if "val" not in parts:
            source, root, records = parts["train"]
            train = sorted(records, key=lambda record: record.image)
            codes = np.unique([record.label for record in train], return_inverse=True)[1]
            sizes = {"val": self.val_size, "train": max(len(train) - self.val_size, 1)}
            for split, rows in stratified_split(codes, sizes, self.split_seed).items():
                parts[cast(Split, split)] = Part(source, root, [train[row] for row in rows])
        return parts
