"""The base class of classifiers, with the calls that they share.

Shape legend: N items, B batch, C classes.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypedDict, TypeVar, Unpack, overload

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from epic_pl.data.decoding import MAX_PIXELS
from epic_pl.data.processor import ImageInput, Item, Processor, check_item
from epic_pl.utils.errors import ConfigError, DataError
from epic_pl.utils.types import Batch, Sample
from epic_pl.utils.validate import check_at_least

Label = dict[str, Any]
"""``{"label": name, "score": probability}``."""
Floats = npt.NDArray[np.float32]
Scores = TypeVar("Scores")
Answer = TypeVar("Answer")


class Loading(TypedDict, total=False):
    """How batches are loaded; see :meth:`ItemClassifier.__call__`."""

    batch_size: int
    num_workers: int
    progress: bool | None


class ItemClassifier(ABC, Generic[Scores, Answer]):
    """Classifies items, each with an image, a text or both.

    ``Scores`` are the probabilities of N items, and ``Answer`` the labels of one item.
    """

    processor: Processor

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the model reads beside image and text."""
        return self.processor.columns.names

    @overload
    def __call__(
        self,
        items: None = None,
        *,
        image: ImageInput | None = None,
        text: str | None = None,
        top_k: int | None = None,
        **columns: Any,
    ) -> Answer: ...

    @overload
    def __call__(
        self, items: Sequence[Item], *, top_k: int | None = None, **loading: Unpack[Loading]
    ) -> list[Answer]: ...

    def __call__(
        self,
        items: Sequence[Item] | None = None,
        *unnamed: object,
        image: ImageInput | None = None,
        text: str | None = None,
        top_k: int | None = None,
        **more: Any,
    ) -> Answer | list[Answer]:
        """Classify one item or a list of items; labels have the highest score first.

        Args:
            items: dictionaries with ``image``, ``text`` or both, and the columns that the model
                reads; None for one item.
            *unnamed: not allowed, since image and text must be named.
            image: image of a single item; see :data:`~epic_pl.data.processor.ImageInput`.
            text: text of a single item.
            top_k: number of labels; None is five, or in multilabel tasks all labels that reach
                their thresholds, which were tuned on validation.
            **more: ``batch_size``, the number of items in a batch (32); ``num_workers``, the
                number of processes that read images (0: this process does); and ``progress``,
                whether to show a progress bar (None: for several batches). Of a single item also
                the columns that the model reads, such as ``price=9.9``.

        Raises:
            DataError: if an item has neither modality, an image cannot be read, or a type is wrong.
            ConfigError: if ``top_k`` or ``batch_size`` is below 1, or ``items`` and a single item
                are given.
        """
        check_at_least(1, top_k=top_k)
        if unnamed:
            raise ConfigError("For one item write clf(image=..., text=...), with these names.")
        loading: Any = {name: more.pop(name) for name in Loading.__annotations__ if name in more}
        names = () if items is not None else self.columns
        if unknown := ", ".join(sorted(more.keys() - {*names})):
            known = ", ".join(["image, text, top_k", *Loading.__annotations__, *names])
            raise TypeError(f"clf(...) has no {unknown}; it has {known}.")
        if items is None:
            one: Any = {"image": image, "text": text, **more}
            return self.labels(self.probabilities([one], **loading), top_k)[0]
        if image is not None or text is not None:
            raise ConfigError("Give a list of items, or image and text of one, not both.")
        return self.labels(self.probabilities(items, **loading), top_k)

    def probabilities(self, items: Sequence[Item], **loading: Unpack[Loading]) -> Scores:
        """Probabilities ``(N, C)`` float32 of items; arguments as in :meth:`__call__`.

        Raises:
            DataError: as in :meth:`__call__`.
        """
        return self._score(self._batches(items, **loading))

    def prepare(self, item: Item, max_pixels: int = MAX_PIXELS) -> Sample:
        """Make a sample of an item, for :meth:`sample_probabilities`: read its image.

        Args:
            item: a dictionary with ``image``, ``text`` or both.
            max_pixels: maximum number of pixels; larger images are refused before decoding.

        Raises:
            DataError: as in :meth:`__call__`.
        """
        check_item(item, "The item", self.columns)
        return self.processor.prepare(item, max_pixels)

    def sample_probabilities(self, samples: Sequence[Sample]) -> Scores:
        """Probabilities ``(B, C)`` of prepared samples, at least one, as one batch."""
        return self._score([self.processor.collate(samples)])

    @abstractmethod
    def labels(self, scores: Scores, top_k: int | None = None) -> list[Answer]:
        """Labels of N items from their probabilities; ``top_k`` as in :meth:`__call__`."""

    @abstractmethod
    def _score(self, batches: Iterable[Batch]) -> Scores:
        """Probabilities of the items of all batches."""

    def _batches(
        self, items: Sequence[Item], title: str = "Classifying", **loading: Unpack[Loading]
    ) -> Iterator[Batch]:
        """Batches of items; all items are checked before the first image is read."""
        if isinstance(items, Mapping | str | os.PathLike):
            raise DataError("For one item write clf(image=..., text=...), or put it into a list.")
        for number, item in enumerate(items):
            check_item(item, f"Item {number}", self.columns)
        numbered = [{**item, "sample_id": str(row)} for row, item in enumerate(items)]
        return load_batches(numbered, self.processor, title, **loading)


def load_batches(
    rows: Any,
    collate: Callable[[Any], Batch],
    title: str,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool | None = None,
) -> Iterator[Batch]:
    """Batches of rows; the other arguments are those of :meth:`ItemClassifier.__call__`."""
    check_at_least(1, batch_size=batch_size)
    loader = DataLoader(rows, batch_size, collate_fn=collate, num_workers=num_workers)
    shown = len(loader) > 1 if progress is None else progress
    yield from track(loader, title, console=Console(stderr=True), disable=not shown)
