"""The base class of all DataModules: it makes loaders of rows, and supports resume."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from epic_pl.data.bulk_pass import BulkPass, whole_batch
from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.data.clean_text import clean_text
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.images import BadSamplePolicy, usable_rows
from epic_pl.data.loading import (
    EvalSampler,
    ResumableDataLoader,
    TrainSampler,
    init_worker,
    processed_batches,
)
from epic_pl.data.preprocessing import AnyResize, ImagePreprocessing, Resize, TextPreprocessing
from epic_pl.data.pretrained import image_preprocessing, load_tokenizer, text_preprocessing
from epic_pl.data.processor import Processor
from epic_pl.data.rows import Rows, check_labels, class_counts
from epic_pl.data.transforms import AUGMENTATIONS, ImageTransform, build_image_transform
from epic_pl.utils.errors import CheckpointError, DataError, counted
from epic_pl.utils.types import Batch, SourceName, Task
from epic_pl.utils.validate import check_at_least, check_word

Split = Literal["train", "val", "test", "predict"]
STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: get_args(Split),
}
"""The splits that each stage of a trainer reads."""


FeatureProvider = Callable[[ImageTextDataset, Processor], Dataset[Batch]]
"""Gives a dataset of stored features, from which a loader gets the rows of a batch at once."""


class ImageTextDataModule(LightningDataModule, ABC):
    """Base of all DataModules; a subclass names its classes and reads the rows of a split.

    :attr:`class_names`, :attr:`num_classes`, :attr:`task` and :attr:`preprocessing` are known right
    after construction, so that a command line can pass them on to the model.

    Args:
        image_encoder: the encoder that images are prepared for; see
            :func:`~epic_pl.data.pretrained.image_preprocessing`.
        text_encoder: the encoder whose tokenizer is used; see
            :func:`~epic_pl.data.pretrained.load_tokenizer`.
        image_encoder_revision: commit or tag of a hub name; ``name@revision`` is the same.
        text_encoder_revision: commit or tag of the text encoder's hub name.
        image_size: side of the images in pixels; None is the image encoder's own.
        resize: how images become square, see
            :class:`~epic_pl.data.preprocessing.ImagePreprocessing`; "auto" is as the image encoder
            was trained.
        max_text_tokens: maximum number of tokens of a text; longer texts are cut.
        clean_text: whether to apply :func:`~epic_pl.data.clean_text.clean_text` to texts.
        text_prompt: text put before each text: "auto" is the text encoder's default prompt, if its
            files name one; "none"; the name of another of its prompts; or a text that ends in a
            blank or a colon.
        batch_size_per_device: number of training samples per step on each device.
        eval_batch_size_per_device: samples of a batch in validation, test and prediction; None is
            ``batch_size_per_device``.
        num_workers: loader processes of each rank.
        seed: seed of shuffling, augmentation and drawn pairs; None is the run's seed
            (``seed_everything``), or 0. A resumed run keeps the seed that it started with.
        augment: augmentation, see :func:`~epic_pl.data.transforms.build_image_transform`.
        alone: all that the model gets, ``image``, ``text`` or ``columns``, to measure what the
            others add; rows and splits stay the same. None gives it all. A model trained with one
            has not learned the others.
        on_bad_sample: what to do about a missing or corrupt image: ``error``, ``skip`` (leave the
            row out and count it) or ``absent`` (use the row without the image). Missing files are
            found at the start. With ``skip`` and ``absent`` corrupt files are, too: every image is
            decoded once, and the cache records the result. A row with neither image nor text is an
            error under ``error``, else left out and counted. Paths that lead out of the image root
            are always an error.

    Raises:
        ConfigError: options out of range.

    Example:
        >>> from pathlib import Path
        >>> from epic_pl.data.rows import Rows, sample_table
        >>> class Dishes(ImageTextDataModule):
        ...     class_names = ["pizza", "ramen"]
        ...     def read_split(self, split):
        ...         table = sample_table(["a"], ["a.jpg"], ["Margherita"], labels=[0])
        ...         return Rows(table, Path("photos"), Path("photos"))
        >>> Dishes(image_encoder="tiny-vit", text_encoder="tiny-bert").num_classes
        2
    """

    predict_split: Split = "test"
    """The split that ``predict`` reads; ``"predict"`` in subclasses that have such a split."""

    text_origin: str | None = None
    """Which of the dataset's texts is used: results on different ones cannot be compared."""

    def __init__(
        self,
        *,
        image_encoder: str,
        text_encoder: str,
        image_encoder_revision: str | None = None,
        text_encoder_revision: str | None = None,
        image_size: int | None = None,
        resize: AnyResize = "auto",
        max_text_tokens: int = 64,
        clean_text: bool = False,
        text_prompt: str = "auto",
        batch_size_per_device: int = 32,
        eval_batch_size_per_device: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
        augment: str = "none",
        alone: SourceName | None = None,
        on_bad_sample: BadSamplePolicy = "error",
    ) -> None:
        super().__init__()
        self.name = type(self).__name__.removesuffix("DataModule")  # on pages and model cards
        check_at_least(1, image_size=image_size, batch_size_per_device=batch_size_per_device)
        check_at_least(1, eval_batch_size_per_device=eval_batch_size_per_device)
        check_at_least(3, max_text_tokens=max_text_tokens)
        check_at_least(0, num_workers=num_workers, seed=seed)
        check_word(AUGMENTATIONS, augment=augment)
        check_word(("auto", *get_args(Resize)), resize=resize)
        if alone is not None:
            check_word(get_args(SourceName), alone=alone)
        check_word(get_args(BadSamplePolicy), on_bad_sample=on_bad_sample)
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.image_encoder_revision = image_encoder_revision
        self.text_encoder_revision = text_encoder_revision
        self.image_size = image_size
        self.resize = resize
        self.max_text_tokens = max_text_tokens
        self.clean_text = clean_text
        self.text_prompt = text_prompt
        self.batch_size_per_device = batch_size_per_device
        self.eval_batch_size_per_device = eval_batch_size_per_device or batch_size_per_device
        self.num_workers = num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.augment = augment
        self.alone = alone
        self.on_bad_sample = on_bad_sample
        self._datasets: dict[Split, ImageTextDataset] = {}
        self._features: FeatureProvider | None = None
        self._open_pass: Callable[[Rows], tuple[BulkPass, pa.Table]] | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> Self | None:
        """The trainer's DataModule; None if it is of another class."""
        data = getattr(trainer, "datamodule", None)
        return data if isinstance(data, cls) else None

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the C classes in the order of their indices."""

    @abstractmethod
    def read_split(self, split: Split) -> Rows:
        """The rows of a split; called after :meth:`prepare_data`.

        If reading takes long, use :func:`~epic_pl.data.row_cache.cached_rows`.

        Args:
            split: the split; ``"predict"`` only if :attr:`predict_split` is ``"predict"``.

        Raises:
            DataError: if files are missing or damaged.
        """

    def build_dataset(
        self, split: Split, rows: Rows, transform: ImageTransform
    ) -> ImageTextDataset:
        """A dataset of some rows; a subclass may return one that draws texts and labels."""
        return ImageTextDataset(rows.table, rows.image_root, transform, seed=self.seed)

    @property
    def task(self) -> Task:
        """The task: one class per sample, or any number of labels."""
        return "multiclass"

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def class_frequencies(self) -> list[float] | None:
        """Share of the training rows that have each class, ``(C,)``; None if labels are drawn.

        The first call builds the training split.
        """
        # without files to fetch, missing data is reported before the tokenizer is fetched
        fetches = type(self).prepare_data is not ImageTextDataModule.prepare_data
        if "train" not in self._datasets and fetches:
            self.prepare_data()
        dataset = self.dataset("train")
        if dataset.draws_labels:
            return None
        shares = class_counts(dataset.table["label"], self.num_classes) / len(dataset)
        return [float(share) for share in shares]

    @cached_property
    def image_preprocessing(self) -> ImagePreprocessing:
        """Size, normalisation and resizing of images for the image encoder."""
        own = image_preprocessing(self.image_encoder, self.image_size, self.image_encoder_revision)
        return own.with_resize(self.resize)

    @cached_property
    def text_preprocessing(self) -> TextPreprocessing:
        """Maximum length, cleaning, prompt and padding of texts for the text encoder."""
        chosen = TextPreprocessing(self.max_text_tokens, self.clean_text, self.text_prompt)
        return text_preprocessing(self.text_encoder, chosen, self.text_encoder_revision)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing options that a checkpoint stores, as plain types."""
        made = self.processor.preprocessing
        if self.text_origin is not None:
            made["text"]["source"] = self.text_origin
        encoders = {"image_encoder": self.image_encoder, "text_encoder": self.text_encoder}
        return made | encoders

    @cached_property
    def column_preprocessing(self) -> ColumnPreprocessing:
        """What training rows tell of the numbers, dates and categories that the model reads.

        A subclass whose rows have ``cells`` gives :func:`~epic_pl.data.rows.learn_columns` of them.
        """
        return ColumnPreprocessing()

    def training_pass(self, most: int, whole: bool = True) -> DataLoader[Any]:
        """Batches of at most ``most`` training rows in their order, without augmentation.

        With ``whole`` False they have columns and labels alone, and no image is read.
        """
        dataset = copy(self.dataset("train"))
        dataset.transform = self._transform("val")
        if not whole and self.alone is None:
            dataset.alone = "columns"
        drawn = np.random.default_rng(0).permutation(len(dataset))[:most]
        return DataLoader(
            **self._served(dataset),
            batch_size=self.eval_batch_size_per_device,
            sampler=sorted(drawn.tolist()),
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # leaves the global random state as it is
        )

    def read_columns_as(self, columns: ColumnPreprocessing) -> None:
        """Read columns as a model does that was trained, perhaps on other rows."""
        self.column_preprocessing = columns
        if "processor" in self.__dict__:
            self.processor.columns = columns

    @cached_property
    def processor(self) -> Processor:
        """The processor that turns samples into batches."""
        return Processor(
            self.image_preprocessing,
            self.text_preprocessing,
            load_tokenizer(self.text_encoder, self.text_encoder_revision),
            self.task,
            self.num_classes,
            self.column_preprocessing,
        )

    def prepare_data(self) -> None:
        """Fetch the tokenizer, once per machine; subclasses also fetch their files here."""
        load_tokenizer(self.text_encoder, self.text_encoder_revision)

    def setup(self, stage: str | None = None) -> None:
        """Build the splits of a stage, and log their sizes.

        Rows to predict are read by the first call of :meth:`dataset`, or by a process that predicts
        a part of them and does not check the others.
        """
        # set before workers fork, else the tokenizer library warns and uses one thread
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        for split in STAGES[stage] if stage != "predict" else ():
            self.dataset(split)

    def _built(self, split: Split) -> ImageTextDataset:
        rows = self.read_split(split)
        if (unknown := rows.table["label"].null_count) and split != "predict":
            raise DataError(
                f"{rows.source} is the {split} split, but {unknown} of its {len(rows.table)} rows "
                "have no label. Choose a labelled file; unlabelled ones are for predict."
            )
        check_labels(rows, self.num_classes, self.task)
        table, note = usable_rows(rows, self.on_bad_sample, self._transform(split).min_size)
        if not table.num_rows:
            raise DataError(f"The {split} split of {self.name} is empty: check its options.")
        self._tell(split, rows, note)
        return self.dataset_of_rows(split, replace(rows, table=table))

    def _tell(self, split: Split, rows: Rows, note: str) -> None:
        """Log the number of rows of a split, and notes on them."""
        total = counted(rows.table.num_rows, "rows")
        notes = [f"{split}: {total} of {rows.source}, {self.num_classes} classes"]
        notes += [f"{what}: {count:,}" for what, count in rows.notes.items() if count]
        rank_zero_info("; ".join([*notes, note] if note else notes))

    def _transform(self, split: Split) -> ImageTransform:
        return build_image_transform(self.image_preprocessing, split == "train", self.augment)

    def dataset_of_rows(self, split: Split, rows: Rows) -> ImageTextDataset:
        """A dataset of some rows, with the split's transform and, if requested, clean texts."""
        dataset = self.build_dataset(split, rows, self._transform(split))
        dataset.alone = self.alone
        if self.clean_text:
            dataset.map_texts(clean_text)
        return dataset

    @property
    def own_splits(self) -> list[Split]:
        """The splits that have rows of their own; ``predict`` often reads another split's."""
        return list(dict.fromkeys(["train", "val", "test", self.predict_split]))

    def dataset(self, split: Split) -> ImageTextDataset:
        """The dataset of a split, which is read and checked once; see :meth:`setup`.

        Raises:
            DataError: if the split is empty, or a row cannot be used.
        """
        split = self.predict_split if split == "predict" else split
        if split not in self._datasets:
            self._datasets[split] = self._built(split)
        return self._datasets[split]

    def digests(self) -> dict[Split, str]:
        """SHA-256 of the rows of each split that is built: ids, paths, texts and labels."""
        return {split: dataset.digest for split, dataset in self._datasets.items()}

    def state_dict(self) -> dict[str, Any]:
        """The seed, which a resumed run keeps, and hashes of the rows."""
        return {"seed": self.seed, "rows": self.digests()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed of the run that is resumed.

        Raises:
            CheckpointError: if the training rows differ from those of that run.
        """
        if self.trainer is not None and self.trainer.training:  # a test may use any rows
            here: dict[Any, str] = self.digests()
            saved = state_dict.get("rows", here)
            if changed := [part for part in ("train", "val") if saved.get(part) != here.get(part)]:
                other = f"The {' and '.join(changed)} rows or their order are not the checkpoint's"
                raise CheckpointError(f"{other}: resume on those, or use --model.warm_start.")
        self.seed = state_dict.get("seed", self.seed)
        for dataset in self._datasets.values():
            dataset.seed = self.seed

    def use_features(self, provider: FeatureProvider | None) -> None:
        """Let the loaders yield stored features instead of images and token ids; None undoes it."""
        self._features = provider

    def predict_in_parts(
        self, open_pass: Callable[[Rows], tuple[BulkPass, pa.Table]] | None
    ) -> None:
        """Restrict ``predict`` to the rows that this process has to write.

        Args:
            open_pass: function that opens the pass over the rows, and returns it with a table
                without rows of what it writes; None reads all rows.
        """
        self._open_pass = open_pass
        self.allow_zero_length_dataloader_with_multiple_devices = open_pass is not None

    def train_dataloader(self) -> ResumableDataLoader:
        """Batches in an order that is new every epoch; a resumed run continues within an epoch."""
        served = self._served(self.dataset("train"))
        return ResumableDataLoader(
            **served,
            batch_size=self.batch_size_per_device,
            sampler=TrainSampler(served["dataset"], seed=self.seed),
            processed=None if self.trainer is None else partial(processed_batches, self.trainer),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split, in order."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split, in order."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of :attr:`predict_split`, in order."""
        if self._open_pass is None:
            return self._eval_loader("predict")
        split = self.predict_split
        bulk, empty = self._open_pass(self.read_split(split))
        usable, note = bulk.check(self._transform(split).min_size, empty)
        self._tell(split, usable, note)
        return bulk.loader(**self._served(self.dataset_of_rows(split, usable)))

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        sampler = EvalSampler(rows := self.dataset(split))
        if len(rows) < sampler.num_replicas:
            few = f"The {split} split has {len(rows)} rows for {sampler.num_replicas} ranks"
            raise DataError(f"{few}: use fewer devices, or a larger split.")
        return DataLoader(
            **self._served(rows),
            batch_size=self.eval_batch_size_per_device,
            sampler=sampler,
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # leaves the global random state as it is
        )

    def _served(self, dataset: ImageTextDataset) -> dict[str, Any]:
        """Arguments of a loader of a dataset, or of its stored features."""
        stored = None if self._features is None else self._features(dataset, self.processor)
        return {
            "dataset": dataset if stored is None else stored,
            "collate_fn": self.processor.collate if stored is None else whole_batch,
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available(),
        }
