"""UPMC-Food101: images of 101 dishes from the web, with texts of their web pages.

X. Wang, D. Kumar, N. Thome, M. Cord, F. Precioso, *Recipe recognition with large multimodal food
dataset*, ICME Workshops 2015.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.datasets.annotations import find_path, label_codes, read_jsonl
from epic_pl.data.rows import Rows, sample_table, stratified_split
from epic_pl.data.tables.formats import read_csv
from epic_pl.utils.validate import check_at_least, check_word

TextSource = Literal["titles", "jsonl"]
_RELEASED: tuple[Split, ...] = ("train", "test")

_HOW_TO_GET = (
    "download UPMC-Food101 (gianmarco96/upmcfood101 on Kaggle, about 6 GB) and unpack it so that "
    "the folder holds images/{train,test}/<class>/*.jpg and texts/{train,test}_titles.csv."
)


class Food101DataModule(ImageTextDataModule):
    """UPMC-Food101 with titles or your own texts; about 68,000 training and 22,700 test rows.

    Results with different texts are not comparable, since titles often contain the class's name.
    Classes are in alphabetical order. An empty title counts as a text that is present.

    Args:
        data_dir: folder of the dataset.
        text_source: ``titles``: ``texts/{train,test}_titles.csv``, no header, columns image, title,
            class, with ``images/{train,test}/<class>/``; or ``jsonl``: ``train.jsonl``,
            ``test.jsonl`` and perhaps ``val.jsonl`` or ``dev.jsonl``, rows of ``id``, ``label``,
            ``text`` and ``img``.
        val_size: number of training rows for validation, stratified, if there is no file for it.
        split_seed: seed of this choice, apart from ``seed``, so that runs share validation rows.
        **kwargs: arguments of :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Example:
        >>> data = Food101DataModule(image_encoder="tiny-vit", text_encoder="tiny-bert")
        >>> data.task, data.text_origin
        ('multiclass', 'titles')
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
        check_word(get_args(TextSource), text_source=text_source)
        check_at_least(1, val_size=val_size)
        check_at_least(0, split_seed=split_seed)
        self.data_dir = data_dir
        self.text_source = self.text_origin = text_source
        self.val_size = val_size
        self.split_seed = split_seed

    @cached_property
    def class_names(self) -> list[str]:
        """The classes of the annotation files, in alphabetical order."""
        return sorted(self._layout["train"][0]["label"].unique().to_pylist())

    @cached_property
    def _layout(self) -> "_Layout":
        return (_titles if self.text_source == "titles" else _jsonl)(self.data_dir)

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        held_out = split in ("train", "val") and "val" not in self._layout
        table, root, path = self._layout["train" if held_out else split]
        labels = label_codes(table, "label", self.class_names, "id", path)
        rows = sample_table(table["id"], table["img"], table["text"], labels)
        if held_out:
            rows = rows.sort_by("image")
            sizes = {"val": self.val_size, "train": max(len(rows) - self.val_size, 1)}
            parts = stratified_split(rows["label"].to_numpy(), sizes, self.split_seed)
            rows = rows.take(pa.array(parts[split]))
        texts = rows["text"].to_pylist()
        notes = {"rows with an empty text": texts.count("")}
        notes["rows without a text"] = texts.count(None)
        return Rows(rows, root, path, notes=notes)


_Layout = dict[Split, tuple[pa.Table, Path, Path]]
"""Columns ``id``, ``img``, ``text`` and ``label`` as strings, image root and file of splits."""


def _titles(data_dir: str) -> _Layout:
    layout: _Layout = {}
    for split in _RELEASED:
        path = find_path(data_dir, [f"texts/{split}_titles.csv"], _HOW_TO_GET)
        images = find_path(path.parents[1], ("images/images/train", "images/train"), _HOW_TO_GET)
        table = read_csv(path, ("img", "text", "label"))
        ids = [Path(image).stem for image in table["img"].to_pylist()]
        paths = pc.binary_join_element_wise(split, table["label"], table["img"], "/")
        table = table.set_column(0, "img", paths).append_column("id", [ids])
        layout[split] = table, images.parent, path
    return layout


def _jsonl(data_dir: str) -> _Layout:
    files = {split: find_path(data_dir, [f"{split}.jsonl"], _HOW_TO_GET) for split in _RELEASED}
    for path in (files["train"].with_name(f"{name}.jsonl") for name in ("dev", "val")):
        if path.is_file():
            files["val"] = path
    layout: _Layout = {}
    for split, path in files.items():
        table = read_jsonl(path, ("id", "img", "text", "label"), required=("img", "label"))
        stems = pa.array([Path(image).stem for image in table["img"].to_pylist()])
        table = table.set_column(0, "id", pc.coalesce(table["id"], stems))
        layout[split] = table, path.parent, path
    return layout
