"""UPMC-Food101: pictures of 101 dishes from the web, with text of the page each was found on.

X. Wang, D. Kumar, N. Thome, M. Cord, F. Precioso, *Recipe recognition with large multimodal food
dataset*, ICME Workshops 2015.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, get_args

import numpy as np

from epic_pl.data.datamodule import Split
from epic_pl.data.datasets.food101_texts import (
    LAYOUTS,
    Release,
    TextSource,
    read_from,
    read_release,
)
from epic_pl.data.folder import FolderDataModule, SplitRows
from epic_pl.data.layout import Located, locate
from epic_pl.data.row_cache import Origin
from epic_pl.data.tables.dataset import stratified_split
from epic_pl.errors import ConfigError, DataError

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_HOW_TO_GET = (
    "download UPMC-Food101 (the data set gianmarco96/upmcfood101 on Kaggle has pictures and "
    "titles, about 6 GB) and unpack it so that the folder holds images/train/<class>/*.jpg, "
    "images/test/<class>/*.jpg, texts/train_titles.csv and texts/test_titles.csv."
)


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
        return list(self._classes)

    @cached_property
    def _classes(self) -> Sequence[str]:
        for split in _SPLITS:  # any that is kept knows them, so that nothing else is read
            kept = self.kept(split)
            found = None if kept is None else kept.read()
            if found is not None:
                return found[1].classes
        return self._release.classes

    def row_origin(self, split: Split) -> Origin:
        """The files of the text source, and how validation is held out.

        Raises:
            DataError: files are missing.
        """
        held_out = [self.val_size, self.split_seed]
        cut = self.max_text_tokens if self.text_source == "page_text" else None
        options = {**self._origin.options, "held_out": held_out, "cut": cut, "split": split}
        return Origin(self._origin.files, options)

    @cached_property
    def _origin(self) -> Origin:
        return read_from(self.text_source, self._found)

    @cached_property
    def _found(self) -> Located:
        return locate(
            "UPMC-Food101",
            self.data_dir,
            [LAYOUTS[self.text_source]],
            how_to_get=_HOW_TO_GET + self._other_sources(),
            nested=("food101", "UPMC_Food101", "data"),
        )

    @cached_property
    def _release(self) -> Release:
        """All rows, validation held out."""
        release = read_release(self.text_source, self._found, self.max_text_tokens)
        _check_classes(release)
        if "val" not in release.splits:
            _hold_out(release, self.val_size, self.split_seed)
        return release

    def _other_sources(self) -> str:
        """The text sources whose files are all there, as a hint."""
        others = []
        for name, layout in LAYOUTS.items():
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
